//! The Bochs bed: settings file, command line.
//!
//! Success is a break into Bochs' debugger (`D` to port 0x8900), where the script says `q`: exit
//! status 0. Other endings, a triple fault among them, have another status. One tick is one
//! instruction and one count of the TSC, so with a fixed `time0` two runs are identical.

use super::{Machine, Prepared, Serial};
use anyhow::{Context, Result};
use std::env;
use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::process::Command;

/// Writes `bochsrc` and the debugger's script into the machine's folder.
pub(super) fn prepare(machine: &Machine, interactive: bool) -> Result<Prepared> {
    let serial = super::serial(machine, interactive)?;
    let rc = machine.dir.join("bochsrc");
    fs::write(&rc, settings(machine, &serial)?)
        .with_context(|| format!("cannot write {}", rc.display()))?;
    let program = program();
    let mut command = Command::new(&program);
    command.arg("-q").arg("-f").arg(&rc);
    if has_debugger(&program) {
        let script = machine.dir.join("debugger.rc");
        fs::write(&script, "c\nq\n")?;
        command.arg("-rc").arg(script);
    }
    Ok(Prepared { command, serial })
}

/// The binary: the one that `BOCHS` names, else the one on PATH.
fn program() -> OsString {
    env::var_os("BOCHS").unwrap_or_else(|| "bochs".into())
}

/// Debian's build has the debugger; a build without it refuses `-rc`.
fn has_debugger(program: &OsString) -> bool {
    // The help may end with any status.
    Command::new(program).arg("--help").output().is_ok_and(|done| {
        let text = [done.stdout, done.stderr].concat();
        String::from_utf8_lossy(&text).contains("-rc ")
    })
}

fn settings(machine: &Machine, serial: &Serial) -> Result<String> {
    let com1 = match serial {
        Serial::File(file) => format!("mode=file, dev={}", file.display()),
        Serial::Socket(port) => format!("mode=socket-server, dev=127.0.0.1:{port}"),
    };
    let Machine { iso, dir, cpus, memory_mib, model, cpuid, ips, time0, pc: _, time_limit: _ } =
        machine;
    let mut s = String::new();
    // `unmapped` is the device behind port 0x8900.
    writeln!(
        s,
        "plugin_ctrl: unmapped=1, biosdev=1, speaker=0, e1000=0, parallel=0, extfpuirq=1, gameport=0"
    )?;
    writeln!(s, "config_interface: textconfig")?;
    // The one display that needs none: a VNC server nobody has to look at.
    writeln!(s, "display_library: rfb, options=\"timeout=0\"")?;
    writeln!(s, "megs: {memory_mib}")?;
    // Without `fastboot` the BIOS waits three emulated seconds for F12: 18 s at 200 MIPS.
    writeln!(s, "romimage: file=/usr/share/bochs/BIOS-bochs-latest, options=fastboot")?;
    writeln!(s, "vgaromimage: file=/usr/share/vgabios/vgabios.bin")?;
    writeln!(s, "boot: cdrom")?;
    writeln!(s, "ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14")?;
    writeln!(s, "ata0-master: type=cdrom, path={}, status=inserted", iso.display())?;
    writeln!(s, "com1: enabled=1, {com1}")?;
    writeln!(s, "port_e9_hack: enabled=1")?;
    writeln!(
        s,
        "cpu: model={model}, count={cpus}, ips={ips}, reset_on_triple_fault=0, ignore_bad_msrs=1"
    )?;
    if !cpuid.is_empty() {
        writeln!(s, "cpuid: {cpuid}")?;
    }
    writeln!(s, "clock: sync=none, time0={time0}")?;
    writeln!(s, "log: {}", dir.join("bochs.log").display())?;
    writeln!(s, "panic: action=fatal\nerror: action=report")?;
    writeln!(s, "info: action=ignore\ndebug: action=ignore")?;
    writeln!(s, "pci: enabled=1, chipset=i440fx")?;
    Ok(s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_settings_follow_the_machine() {
        let machine = Machine {
            iso: "/x/boot.iso".into(),
            dir: "/x".into(),
            cpus: 3,
            memory_mib: 512,
            model: "corei3_cnl".into(),
            cpuid: String::new(),
            ips: 200_000_000,
            time0: 1_700_000_007,
            pc: crate::bed::Pc::PLAIN,
            time_limit: Duration::from_secs(1),
        };
        let s = settings(&machine, &Serial::File("/x/serial.log".into())).unwrap();
        for line in [
            "cpu: model=corei3_cnl, count=3, ips=200000000, reset_on_triple_fault=0, ignore_bad_msrs=1",
            "com1: enabled=1, mode=file, dev=/x/serial.log",
            "ata0-master: type=cdrom, path=/x/boot.iso, status=inserted",
            "clock: sync=none, time0=1700000007",
            "megs: 512",
        ] {
            assert!(s.lines().any(|l| l == line), "{line} is missing from\n{s}");
        }
        assert!(s.starts_with("plugin_ctrl: unmapped=1"));
        let s = settings(&machine, &Serial::Socket(4001)).unwrap();
        assert!(s.contains("com1: enabled=1, mode=socket-server, dev=127.0.0.1:4001\n"));
    }
}
