//! Test beds: the machines, emulated or nested, that boot our images.
//!
//! A bed turns a [`Machine`] into a command line ([`Bed::prepare`]) and judges how its program
//! ended ([`Bed::verdict`]); [`session::run`] does what all beds share: it streams the console,
//! watches the time limit and ends the program.

mod bochs;
mod kvm;
pub mod lines;
pub mod pc;
pub mod qemu;
pub mod session;
mod terminal;

pub use pc::{Device, Firmware, Medium, Pc};
pub use session::{Console, End, Outcome};

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::Duration;

/// The machine to boot.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Boot CD.
    pub iso: PathBuf,
    /// Folder of this run, for logs and settings; it exists.
    pub dir: PathBuf,
    /// CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Bochs' CPU model; other beds have one model.
    pub model: String,
    /// Features of Bochs' model `bx_generic`: the words after `cpuid:`. Empty for other models.
    pub cpuid: String,
    /// Bochs' instructions (and TSC ticks) per emulated second.
    pub ips: u64,
    /// Bochs' wall clock at power-on, in seconds since 1970: the seed of what a guest draws from it.
    pub time0: u64,
    /// What the QEMU beds have and Bochs has not.
    pub pc: Pc,
    /// Wall time after which the machine is switched off.
    pub time_limit: Duration,
}

/// CPU model that Linux trusts with the TSC-deadline timer.
pub const LINUX_MODEL: &str = "corei3_cnl";
/// Instructions per emulated second for figures: 1 us is 200 instructions.
pub const FIGURES_IPS: u64 = 200_000_000;
/// Instructions per emulated second for tests: firmware waits in emulated time.
pub const TESTS_IPS: u64 = 10_000_000;
/// Bochs' power-on time of the first boot.
pub const TIME0: u64 = 1_700_000_000;

/// A kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bed {
    /// The Bochs emulator: Intel VMX on any host.
    Bochs,
    /// QEMU's own emulation: AMD SVM, VT-d and SR-IOV on any host.
    Qemu,
    /// QEMU with nested KVM: what the host's CPU has.
    Kvm,
}

/// What the user asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// Nested KVM where it works, else QEMU; for tests Bochs and QEMU
    Auto,
    /// Bochs: emulated Intel CPU with VMX
    Bochs,
    /// QEMU TCG: emulated AMD CPU with SVM
    Qemu,
    /// Nested KVM
    Kvm,
}

/// How the console of a started machine is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Serial {
    /// It grows in this file.
    File(PathBuf),
    /// The machine waits for a connection to this local TCP port.
    Socket(u16),
}

/// A machine that is ready to be started.
pub struct Prepared {
    /// The emulator with its arguments.
    pub command: Command,
    /// Its COM1.
    pub serial: Serial,
}

impl Bed {
    /// The bed for `choice` on this host: by itself the fastest one.
    ///
    /// # Errors
    /// When nested KVM is asked for and cannot work.
    pub fn choose(choice: Choice) -> Result<Self> {
        match (choice, kvm::unusable()) {
            (Choice::Bochs, _) => Ok(Self::Bochs),
            (Choice::Qemu, _) => Ok(Self::Qemu),
            (Choice::Kvm | Choice::Auto, None) => Ok(Self::Kvm),
            (Choice::Auto, Some(_)) if qemu::can_be_had() => Ok(Self::Qemu),
            (Choice::Auto, Some(_)) => Ok(Self::Bochs),
            (Choice::Kvm, Some(why)) => bail!("the kvm bed does not work here: {why}"),
        }
    }

    /// Its name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bochs => "bochs",
            Self::Qemu => "qemu",
            Self::Kvm => "kvm",
        }
    }

    /// The CPU backend the hypervisor finds there.
    #[must_use]
    pub fn backend(self) -> &'static str {
        match self {
            Self::Bochs => "vmx",
            Self::Qemu => "svm",
            Self::Kvm => kvm::backend(),
        }
    }

    /// The word of the hypervisor's command line that ends this machine when all is done.
    #[must_use]
    pub fn exit_word(self) -> &'static str {
        match self {
            Self::Bochs => "exit=bochs",
            Self::Qemu | Self::Kvm => "exit=debug-exit",
        }
    }

    /// The needs of in-guest tests that no machine of this bed can meet, as the test guest names
    /// them.
    #[must_use]
    pub fn lacks(self) -> &'static [&'static str] {
        match self {
            Self::Bochs | Self::Kvm => &[],
            Self::Qemu => &["Deadline", "IllegalVectors", "Alignment", "FrameBreakpoint", "Steady"],
        }
    }

    /// Exits per timer interrupt must stay below this on every vCPU of the Linux guest.
    #[must_use]
    pub fn exits_per_timer(self) -> f64 {
        match self {
            Self::Bochs | Self::Kvm => 0.01,
            // Threads that are late because the host was busy wake each other by IPI, one exit each. A
            // timer that exits would make it 1 and more.
            Self::Qemu => 0.1,
        }
    }

    /// How long a boot of Linux takes, in words.
    #[must_use]
    pub fn patience(self) -> &'static str {
        match self {
            Self::Bochs => "a boot of Linux takes 2 to 4 minutes",
            Self::Qemu | Self::Kvm => "a boot of Linux takes less than half a minute",
        }
    }

    /// Does a latency measured there mean anything?
    #[must_use]
    pub fn is_deterministic(self) -> bool {
        self == Self::Bochs
    }

    /// Writes the settings of `machine` and names the command that starts it.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn prepare(self, machine: &Machine, interactive: bool) -> Result<Prepared> {
        match self {
            Self::Bochs => bochs::prepare(machine, interactive),
            Self::Qemu => qemu::prepare(machine, interactive),
            Self::Kvm => kvm::prepare(machine, interactive),
        }
    }

    /// Did the machine say that all went well?
    #[must_use]
    pub fn verdict(self, status: ExitStatus) -> bool {
        match self {
            Self::Bochs => status.success(),
            Self::Qemu | Self::Kvm => pc::verdict(status.code()),
        }
    }
}

/// COM1 of `machine`: a file, or a socket for an interactive run.
fn serial(machine: &Machine, interactive: bool) -> Result<Serial> {
    if interactive {
        return Ok(Serial::Socket(free_port()?));
    }
    let file = machine.dir.join("serial.log");
    // The reader must not see the bytes of an earlier run.
    fs::write(&file, "").with_context(|| format!("cannot write {}", file.display()))?;
    Ok(Serial::File(file))
}

/// A local TCP port that is free now.
fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    Ok(listener.local_addr()?.port())
}
