//! The nested-KVM bed: Beeline runs in a QEMU machine whose CPU offers the host's own
//! virtualisation, VMX or SVM.
//!
//! Latencies mean nothing there (a nested entry costs about 100 us); exit counts do.

use super::{Machine, Prepared, pc, qemu};
use crate::readiness::cpuinfo::CpuInfo;
use anyhow::Result;
use std::fs::{self, OpenOptions};
use std::process::Command;

/// A vendor's flag in /proc/cpuinfo, which is also the backend's name, and its KVM module.
const VENDORS: [(&str, &str); 2] = [("vmx", "kvm_intel"), ("svm", "kvm_amd")];

/// Why nested virtualisation does not work on this host, if so.
pub(super) fn unusable() -> Option<String> {
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm").map_err(|e| e.to_string());
    reason(&cpuinfo(), kvm.map(drop), nested)
}

/// The backend that Beeline finds on this host.
pub(super) fn backend() -> &'static str {
    vendor(&cpuinfo()).map_or("vmx", |(flag, _)| flag)
}

fn nested(module: &str) -> Option<String> {
    fs::read_to_string(format!("/sys/module/{module}/parameters/nested")).ok()
}

fn cpuinfo() -> String {
    fs::read_to_string("/proc/cpuinfo").unwrap_or_default()
}

fn vendor(cpuinfo: &str) -> Option<(&'static str, &'static str)> {
    let cpu = CpuInfo::parse(cpuinfo);
    VENDORS.into_iter().find(|(flag, _)| cpu.has(flag))
}

fn reason(
    cpuinfo: &str,
    kvm: Result<(), String>,
    nested: impl Fn(&str) -> Option<String>,
) -> Option<String> {
    let Some((_, module)) = vendor(cpuinfo) else {
        return Some("/proc/cpuinfo has neither the flag vmx nor the flag svm".into());
    };
    if let Err(why) = kvm {
        return Some(format!("/dev/kvm cannot be used ({why}): load {module}, join group kvm"));
    }
    // Unreadable means that KVM is built in and its parameter hidden: then let it show.
    if nested(module).is_some_and(|nested| matches!(nested.trim(), "N" | "0")) {
        return Some(format!("nesting is off: reload {module} with nested=1"));
    }
    None
}

/// The command line. COM1 is a file, or a socket for an interactive run.
pub(super) fn prepare(machine: &Machine, interactive: bool) -> Result<Prepared> {
    let serial = super::serial(machine, interactive)?;
    let mut command = Command::new(qemu::program());
    // Remapping of interrupts above 255 needs a split interrupt controller.
    command.args(["-accel", "kvm", "-machine", "q35,kernel-irqchip=split"]);
    // `host` passes VMX or SVM on; an invariant TSC only comes with `migratable=no`.
    command.args(["-cpu", "host,migratable=no,+x2apic,+tsc-deadline,+invtsc"]);
    command.args(pc::arguments(machine, &serial)?);
    Ok(Prepared { command, serial })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bed::{Pc, pc::tests::machine};
    use crate::command;

    const FLAGS: &str = "processor: 0\nflags\t\t: fpu vme vmx smx est\n";

    #[test]
    fn each_obstacle_is_named() {
        let why = |cpu, kvm, nested: &str| {
            let nested = Some(nested.to_string()).filter(|text| !text.is_empty());
            reason(cpu, kvm, |_| nested.clone()).unwrap_or_default()
        };
        assert_eq!(why(FLAGS, Ok(()), "Y\n"), "");
        assert_eq!(why(FLAGS, Ok(()), ""), "");
        assert!(why("flags : vmx_not\n", Ok(()), "").contains("neither"));
        assert!(why(FLAGS, Err("permission denied".into()), "").contains("/dev/kvm"));
        assert!(why(FLAGS, Ok(()), "N\n").contains("kvm_intel with nested=1"));
        let amd = FLAGS.replace("vmx", "svm");
        assert!(why(&amd, Ok(()), "0\n").contains("kvm_amd with nested=1"));
        assert_eq!(why(&amd, Ok(()), "1\n"), "");
    }

    #[test]
    fn the_command_line_offers_what_a_nested_hypervisor_needs() {
        let dir = tempfile::tempdir().unwrap();
        let prepared = prepare(&machine(dir.path(), Pc::PLAIN), false).unwrap();
        let line = command::text(&prepared.command);
        for part in [
            "-accel kvm",
            "-cpu host,migratable=no,+x2apic,+tsc-deadline,+invtsc",
            "split",
            "-smp 3",
        ] {
            assert!(line.contains(part), "{part} is missing from {line}");
        }
    }
}
