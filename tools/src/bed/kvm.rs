//! The nested-KVM bed: Beeline runs in a QEMU machine whose CPU offers VMX.
//!
//! Latencies mean nothing there (a nested entry costs about 100 us); exit counts do.

use super::{Machine, Prepared, Serial};
use crate::command;
use anyhow::{Context, Result};
use std::fs::{self, OpenOptions};
use std::process::Command;

const QEMU: &str = "qemu-system-x86_64";
/// What the image writes to `isa-debug-exit` after success; QEMU ends with `(value << 1) | 1`.
const SUCCESS: i32 = (0x10 << 1) | 1;

/// Why nested VMX does not work on this host, if so.
pub(super) fn unusable() -> Option<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm").map_err(|e| e.to_string());
    let nested = fs::read_to_string("/sys/module/kvm_intel/parameters/nested").ok();
    reason(&cpuinfo, kvm.map(drop), nested.as_deref(), command::exists(QEMU))
}

fn reason(
    cpuinfo: &str,
    kvm: Result<(), String>,
    nested: Option<&str>,
    qemu: bool,
) -> Option<String> {
    let vmx = cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split_whitespace().any(|flag| flag == "vmx"));
    if !vmx {
        return Some("/proc/cpuinfo has no vmx flag".into());
    }
    if let Err(why) = kvm {
        return Some(format!("/dev/kvm cannot be used ({why}): load kvm_intel, join group kvm"));
    }
    // Unreadable means that KVM is built in and its parameter hidden: then let it show.
    if nested.is_some_and(|nested| matches!(nested.trim(), "N" | "0")) {
        return Some("nesting is off: reload kvm_intel with nested=1".into());
    }
    if !qemu {
        return Some(format!("{QEMU} is not installed: apt-get install qemu-system-x86"));
    }
    None
}

/// The command line. COM1 is a file, or a socket for an interactive run.
pub(super) fn prepare(machine: &Machine, interactive: bool) -> Result<Prepared> {
    let serial = if interactive {
        Serial::Socket(super::free_port()?)
    } else {
        let file = machine.dir.join("serial.log");
        fs::write(&file, "").with_context(|| format!("cannot write {}", file.display()))?;
        Serial::File(file)
    };
    let mut command = Command::new(QEMU);
    command.args(arguments(machine, &serial));
    Ok(Prepared { command, serial })
}

fn arguments(machine: &Machine, serial: &Serial) -> Vec<String> {
    let words = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
    let mut a = words("-nodefaults -no-user-config -no-reboot -display none");
    // Remapping of interrupts above 255 needs a split interrupt controller.
    a.extend(words("-accel kvm -machine q35,kernel-irqchip=split"));
    // `host` passes VMX on; an invariant TSC only comes with `migratable=no`.
    a.extend(words("-cpu host,migratable=no,+vmx,+x2apic,+tsc-deadline,+invtsc"));
    a.extend(["-smp".into(), machine.cpus.to_string()]);
    a.extend(["-m".into(), format!("{}M", machine.memory_mib)]);
    a.extend(words("-device isa-debug-exit,iobase=0xf4,iosize=4"));
    let chardev = match serial {
        Serial::File(file) => format!("file,id=com1,path={}", file.display()),
        Serial::Socket(port) => {
            format!("socket,id=com1,host=127.0.0.1,port={port},server=on,wait=on")
        }
    };
    a.extend(["-chardev".into(), chardev, "-serial".into(), "chardev:com1".into()]);
    a.extend(["-cdrom".into(), machine.iso.display().to_string(), "-boot".into(), "d".into()]);
    a
}

/// Judges QEMU's exit status.
pub(super) fn verdict(code: Option<i32>) -> bool {
    code == Some(SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const FLAGS: &str = "processor: 0\nflags\t\t: fpu vme vmx smx est\n";

    #[test]
    fn each_obstacle_is_named() {
        let why = |cpu, kvm, nested, qemu| reason(cpu, kvm, nested, qemu).unwrap_or_default();
        assert_eq!(why(FLAGS, Ok(()), Some("Y\n"), true), "");
        assert_eq!(why(FLAGS, Ok(()), None, true), "");
        assert!(why("flags : vmx_not\n", Ok(()), None, true).contains("no vmx"));
        assert!(why(FLAGS, Err("permission denied".into()), None, true).contains("/dev/kvm"));
        assert!(why(FLAGS, Ok(()), Some("N\n"), true).contains("nested=1"));
        assert!(why(FLAGS, Ok(()), Some("1\n"), false).contains("qemu-system-x86"));
    }

    #[test]
    fn the_command_line_offers_what_a_nested_hypervisor_needs() {
        let machine = Machine {
            iso: "/x/boot.iso".into(),
            dir: "/x".into(),
            cpus: 3,
            memory_mib: 512,
            model: String::new(),
            cpuid: String::new(),
            ips: 0,
            time0: 0,
            time_limit: Duration::from_secs(1),
        };
        let line = arguments(&machine, &Serial::File("/x/serial.log".into())).join(" ");
        for part in [
            "-accel kvm",
            "+vmx",
            "+x2apic",
            "migratable=no",
            "+invtsc",
            "-smp 3",
            "-m 512M",
            "-device isa-debug-exit,iobase=0xf4,iosize=4",
            "-chardev file,id=com1,path=/x/serial.log -serial chardev:com1",
            "-cdrom /x/boot.iso",
            "-no-reboot",
        ] {
            assert!(line.contains(part), "{part} is missing from {line}");
        }
        let line = arguments(&machine, &Serial::Socket(4001)).join(" ");
        assert!(line.contains("host=127.0.0.1,port=4001,server=on,wait=on"));
    }

    #[test]
    fn only_the_images_own_success_counts() {
        assert!(verdict(Some(33)));
        assert!(!verdict(Some(0)) && !verdict(Some(1)) && !verdict(None));
    }
}
