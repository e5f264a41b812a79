//! The QEMU bed: a q35 with an AMD CPU, emulated by TCG. It runs on any host and shows the SVM
//! backend, VT-d, MSI and SR-IOV. TCG has no TSC-deadline timer and no invariant TSC.
//!
//! Its clocks follow the host's, so no two runs are the same and latencies mean nothing.

use super::{Machine, Prepared, pc};
use crate::command;
use anyhow::Result;
use std::env;
use std::ffi::OsString;
use std::process::Command;

/// The oldest major version that this bed was built for: 7.2 has neither x2APIC under TCG nor igb.
pub const OLDEST: u32 = 10;
/// The CPU model: SVM with nested paging. x2APIC is in no AMD model by itself.
const CPU: &str = "EPYC-Rome,+x2apic";

/// The log of exits and device interrupts, in the machine's folder.
pub const WITNESS: &str = "witness.log";

/// The binary: the one that `QEMU` names, else the one on PATH.
#[must_use]
pub fn program() -> OsString {
    env::var_os("QEMU").unwrap_or_else(|| "qemu-system-x86_64".into())
}

/// The major version of [`program`]; `None` when it is not there.
#[must_use]
pub fn version() -> Option<u32> {
    version_in(&command::output(Command::new(program()).arg("--version")).ok()?)
}

/// Is a QEMU here that is new enough, or something to install it with?
pub(super) fn can_be_had() -> bool {
    version().is_some_and(|version| version >= OLDEST) || command::exists("apt-get")
}

fn version_in(text: &str) -> Option<u32> {
    let (_, version) = text.split_once(" version ")?;
    version.split('.').next()?.parse().ok()
}

/// The command line. COM1 is a file, or a socket for an interactive run.
pub(super) fn prepare(machine: &Machine, interactive: bool) -> Result<Prepared> {
    let serial = super::serial(machine, interactive)?;
    let mut command = Command::new(program());
    command.args(["-accel", "tcg", "-machine", "q35", "-cpu", &cpu(machine)]);
    command.args(pc::arguments(machine, &serial)?);
    if machine.pc.witness {
        // Exits are logged with the code that is translated; of that no address has any.
        command.args(["-d", "in_asm", "-dfilter", "0xfee00000+1", "-trace", "vtd_ir_remap_msi"]);
        command.arg("-D").arg(machine.dir.join(WITNESS));
    }
    Ok(Prepared { command, serial })
}

fn cpu(machine: &Machine) -> String {
    match machine.pc.cpu {
        "" => CPU.into(),
        more => format!("{CPU},{more}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bed::{Pc, pc::tests::machine};

    #[test]
    fn versions() {
        let debian = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright (c) 2003\n";
        assert_eq!(version_in(debian), Some(10));
        assert_eq!(version_in("QEMU emulator version 7.2.17\n"), Some(7));
        assert_eq!(version_in("something else"), None);
    }

    #[test]
    fn the_cpu_is_amds_with_x2apic() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(cpu(&machine(dir.path(), Pc::PLAIN)), "EPYC-Rome,+x2apic");
        let less = Pc { cpu: "-svm", ..Pc::PLAIN };
        assert_eq!(cpu(&machine(dir.path(), less)), "EPYC-Rome,+x2apic,-svm");
    }
}
