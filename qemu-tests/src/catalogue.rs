//! The boots: which machine, which guest, what must be seen on the console.

mod boots;

pub use boots::BOOTS;

use crate::check::Check;
use tools::bed::{Bed, Pc};
use tools::run::demo::Demo;

/// What runs in the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// The test guest in a VM with this many vCPUs.
    Vm {
        /// How many.
        vcpus: u32,
        /// What its configuration says beyond that.
        extras: Extras,
    },
    /// Two VMs with one vCPU each: this boot's kind, and beside it one that runs `up` tests.
    TwoVms {
        /// A PCI function for each.
        pci: [Option<&'static str>; 2],
    },
    /// The test guest on the bare machine: shows that the tests are right about the hardware.
    Bare,
    /// Debian's real-time kernel in a VM with this many vCPUs.
    Linux {
        /// How many.
        vcpus: u32,
        /// It starts itself once more by kexec.
        kexec: bool,
    },
    /// The VMs of `cargo xtask run --demo`: Debian's kernel with two vCPUs uses PCI functions.
    Devices {
        /// Which.
        demo: Demo,
        /// A word more for Debian's kernel.
        word: &'static str,
    },
    /// A boot that must be refused, for this reason.
    Broken(Fault),
}

/// Words of a VM's configuration that most boots leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extras {
    /// Debug hypercalls are allowed.
    pub hooks: bool,
    /// It owns the machine's interval timer.
    pub pit: bool,
    /// PCI functions of the machine that it owns, as people write them.
    pub pci: &'static [&'static str],
    /// It gets boot modules and a last word, which its test knows.
    pub modules: bool,
    /// Its kernel has no Multiboot header: only its PVH note says how it starts.
    pub pvh: bool,
}

impl Extras {
    /// None of them.
    pub const NONE: Self = Self { hooks: false, pit: false, pci: &[], modules: false, pvh: false };
}

/// What is wrong with a boot that must be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the machine is not good enough.
    Machine,
    /// There is no configuration.
    NoConfig,
    /// A byte of the configuration is not as it was packed.
    DamagedConfig,
    /// The kernel is not among the modules.
    NoKernel,
    /// The kernel is a text.
    KernelIsText,
    /// The VM has more memory than the machine.
    TooMuchMemory,
    /// The VM names a core that is not there.
    NoSuchCore,
    /// The VM owns this function, and nothing confines it.
    Unconfined(&'static str),
    /// Two VMs own one of these functions each.
    TwoOwners([&'static str; 2]),
}

/// What makes a boot pass.
#[derive(Clone, Copy, Debug)]
pub enum Expect {
    /// Each test of this kind passes, and the machine ends well.
    Tests,
    /// The same, and the whole console passes this check, which counts as one more test.
    TestsAnd(Check),
    /// The machine ends well, or is switched off after the line that starts with `last`, and the whole console passes
    /// the check.
    Passes {
        /// The last line of a boot whose other VMs run on for ever.
        last: Option<&'static str>,
        /// The check.
        check: Check,
    },
    /// Each test of this kind that the guest runs passes; some are skipped.
    SomeTests,
    /// Linux comes up with these clocks, on all its CPUs, and powers its machine off.
    Linux {
        /// As its line of facts names them.
        clocks: &'static str,
    },
    /// Each of these texts is somewhere on the console (case does not matter), and the hypervisor has refused: the last line is `BEELINE fatal`.
    Refused(&'static [&'static str]),
    /// The tests of this kind do not come back. These texts must be seen, and the machine ends.
    NoReturn(&'static [&'static str]),
    /// The hypervisor panics, says so and ends the machine. These texts must be seen, in its report or among the
    /// names of its backtrace.
    Panics(&'static [&'static str]),
    /// As `NoReturn`, but the machine runs on: it is switched off after the last text, seen `count` times.
    RunsOn {
        /// Start of the line that is waited for.
        last: &'static str,
        /// How often.
        count: usize,
    },
}

/// One boot.
#[derive(Clone, Copy, Debug)]
pub struct Boot {
    /// Its name in results; in-guest tests are `name::test`.
    pub name: &'static str,
    /// The kind of in-guest tests it runs.
    pub kind: &'static str,
    /// What runs.
    pub guest: Guest,
    /// What must be seen.
    pub expect: Expect,
    /// Where it runs.
    pub beds: Beds,
    /// What the QEMU beds' machine has beyond CPUs and memory.
    pub pc: Pc,
    /// Bochs' CPU model.
    pub model: &'static str,
    /// Features of the model `bx_generic`; empty for others.
    pub cpuid: &'static str,
    /// CPUs of the machine.
    pub cpus: u32,
    /// Requirements a boot without in-guest tests shows.
    pub shows: &'static str,
    /// Wall time in seconds.
    pub limit: u64,
    /// Instructions per emulated second.
    pub ips: u64,
}

/// The beds of a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beds {
    /// All.
    Any,
    /// Only this one: its machine is made for it.
    Only(Bed),
    /// All but this one, which has a boot of its own.
    AllBut(Bed),
}

impl Boot {
    /// Does it run on `bed`?
    #[must_use]
    pub fn runs_on(&self, bed: Bed) -> bool {
        match self.beds {
            Beds::Any => true,
            Beds::Only(this) => bed == this,
            Beds::AllBut(this) => bed != this,
        }
    }

    /// Its name in results: that of a bed other than Bochs leads.
    #[must_use]
    pub fn name_on(&self, bed: Bed) -> String {
        match bed {
            Bed::Bochs => self.name.into(),
            _ => format!("{}-{}", bed.name(), self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_machines_big_enough() {
        for bed in [Bed::Bochs, Bed::Qemu, Bed::Kvm] {
            let here: Vec<&Boot> = BOOTS.iter().filter(|boot| boot.runs_on(bed)).collect();
            let names: BTreeSet<&str> = here.iter().map(|boot| boot.name).collect();
            assert_eq!(names.len(), here.len());
        }
        for boot in BOOTS {
            match boot.guest {
                // Core 0 runs no guest.
                Guest::Vm { vcpus, .. } | Guest::Linux { vcpus, .. } => assert!(boot.cpus > vcpus),
                Guest::TwoVms { .. } => assert!(boot.cpus > 2),
                Guest::Devices { demo, .. } => {
                    assert_eq!(boot.cpus, demo.cores(2));
                    let Expect::Passes { last, .. } = boot.expect else { panic!() };
                    assert_eq!(last.map(String::from), demo.last_line("rt"));
                }
                Guest::Bare | Guest::Broken(_) => assert!(boot.cpus >= 1),
            }
        }
    }
}
