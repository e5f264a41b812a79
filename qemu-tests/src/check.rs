//! Checks of a whole console, for what no guest can see of itself.

use tools::report::{Boot, Measures, Mode, Report, Run, verdict};

/// Says what is wrong.
pub type Check = fn(&[String]) -> Result<(), String>;

/// Seven CPUIDs and a hundred timer interrupts lay between the two writes to port 0x0BE0: the one window line must
/// list these exits and no others.
///
/// # Errors
/// What the lines say instead.
pub fn window(lines: &[String]) -> Result<(), String> {
    let windows: Vec<&String> = lines.iter().filter(|l| l.starts_with("BEELINE window ")).collect();
    let [line] = windows.as_slice() else {
        return Err(format!("{} window lines instead of one", windows.len()));
    };
    let value = |key: &str| {
        line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    };
    if value("vm") != Some("vm") || value("vcpu") != Some("0") {
        return Err(format!("another vCPU's window: {line}"));
    }
    if value("exits") != Some("cpuid:7") {
        return Err(format!("not exactly 7 CPUID exits: {line}"));
    }
    let number = |key| value(key).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let (ticks, root) = (number("ticks"), number("root_ticks"));
    // A hundred timer periods of 500 ticks lie inside.
    if root == 0 || root >= ticks || ticks < 100 * 500 {
        return Err(format!("impossible times: {line}"));
    }
    Ok(())
}

/// Lines that a guest may cause in one span of the rate limit, and spans that a boot may touch.
const FLOOD_LIMIT: usize = 8 * 2;

/// Thousands of reads of unknown MSRs: the log names the first ones and stays readable.
///
/// # Errors
/// How many lines there are.
pub fn flood(lines: &[String]) -> Result<(), String> {
    match lines.iter().filter(|line| line.contains("of unknown MSR")).count() {
        0 => Err("the log does not name any unknown MSR".into()),
        count if count > FLOOD_LIMIT => Err(format!("{count} lines about unknown MSRs")),
        _ => Ok(()),
    }
}

/// The figures of PCI functions hold, by the same rules as in `cargo xtask run --demo`.
///
/// # Errors
/// The first that does not.
pub fn devices(lines: &[String]) -> Result<(), String> {
    let boots = vec![Boot::read(lines.iter().map(String::as_str), "rt")];
    let runs = vec![Run { mode: Mode::Direct, vcpus: 2, boots }];
    let report = Report { bed: "qemu", backend: "svm", exits_per_timer: 0.01, ips: None, runs };
    let checks = verdict::checks(&report, Measures::Devices);
    checks.into_iter().find(|check| !check.holds).map_or(Ok(()), |check| Err(check.what))
}

/// Linux starts itself once more by kexec: it comes up twice, with all CPUs and the same clocks, and powers its machine off.
///
/// # Errors
/// What is missing.
pub fn kexec(lines: &[String]) -> Result<(), String> {
    let starting = |text: &str| lines.iter().filter(|l| l.starts_with(text)).collect::<Vec<_>>();
    let ups = starting("GUEST up").len();
    if ups != 2 {
        return Err(format!("Linux came up {ups} times instead of twice"));
    }
    let facts = starting("GUEST facts ");
    if facts.len() != 2 || facts.first() != facts.last() {
        return Err(format!("not the same machine after kexec: {facts:#?}"));
    }
    let online = |line: &&String| line.contains("online=0-1");
    if !facts.iter().all(online) {
        return Err(format!("a CPU is missing: {facts:#?}"));
    }
    for text in ["GUEST done", "BEELINE vm-stop vm=linux reason=power-off", "BEELINE done"] {
        if starting(text).is_empty() {
            return Err(format!("no {text:?} on the console"));
        }
    }
    Ok(())
}

/// Linux has found the lines of both functions by itself, and taken each read's interrupt of the disk and as many of the
/// network card as there were answers, or fewer as these come together.
///
/// # Errors
/// What is missing.
pub fn linux_by_lines(lines: &[String]) -> Result<(), String> {
    let has = |what: &str| lines.iter().any(|line| line.contains(what));
    for driver in ["eth0", "nvme0q0, nvme0q1"] {
        let wired = |line: &&String| line.contains("IO-APIC") && line.contains("-fasteoi");
        if !lines.iter().filter(wired).any(|line| line.ends_with(driver)) {
            return Err(format!("{driver} has no level-triggered line"));
        }
    }
    let taken = |driver: &str| -> u64 {
        let line = lines.iter().find(|line| {
            line.starts_with("GUEST device ") && line.contains(&format!("driver={driver} "))
        });
        let words = line.map(|line| line.split_whitespace()).into_iter().flatten();
        words
            .filter_map(|word| word.strip_prefix("cpu")?.split_once('=')?.1.parse::<u64>().ok())
            .sum()
    };
    let (disk, network) = (taken("nvme"), taken("igb"));
    if disk < 2000 || network < 100 {
        return Err(format!("{disk} interrupts of 2000 reads, {network} of the network card"));
    }
    if !has("GUEST done") { Err("the guest did not end well".into()) } else { Ok(()) }
}

/// The `edu` device of the machines that have one.
pub const EDU: &str = "pci:0000:00:01.0";

/// On machines with five of them, the one whose pin is wired to the same interrupt.
pub const OTHER_EDU: &str = "pci:0000:00:05.0";

/// The log says of either function that it has no line, and names the other one and its VM.
///
/// # Errors
/// The function of which it does not.
pub fn contested_line(lines: &[String]) -> Result<(), String> {
    for (own, other, vm) in [(EDU, OTHER_EDU, "second"), (OTHER_EDU, EDU, "first")] {
        let own = own.strip_prefix("pci:").unwrap_or(own);
        let begins = format!("PCI {own}: no interrupt pin for its guest: its line (GSI 21)");
        let names = format!("{other} of vm {vm}, too");
        if !lines.iter().any(|line| line.contains(&begins) && line.contains(&names)) {
            return Err(format!("no line says that {own} shares its line with {other}"));
        }
    }
    Ok(())
}

/// The VM has started three times, and no vCPU stopped with something left in its LAPIC.
///
/// # Errors
/// The line that says so.
pub fn empty_lapics(lines: &[String]) -> Result<(), String> {
    let starts = lines.iter().filter(|line| line.starts_with("BEELINE vm-start")).count();
    match lines.iter().find(|line| line.contains("its LAPIC does not become empty")) {
        Some(line) => Err(line.clone()),
        None if starts == 3 => Ok(()),
        None => Err(format!("{starts} starts instead of 3")),
    }
}

/// Device and reason of each fault that the IOMMU recorded.
fn iommu_faults(lines: &[String]) -> Vec<(&str, u32)> {
    let fault = |line: &'_ String| -> Option<(usize, usize, u32)> {
        let words = line.strip_prefix("BEELINE iommu-fault ")?;
        let value = |key: &str| {
            words.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        };
        let device = value("device")?;
        let reason = u32::from_str_radix(value("reason")?.strip_prefix("0x")?, 16).ok()?;
        let start = line.find(device)?;
        Some((start, start + device.len(), reason))
    };
    lines
        .iter()
        .filter_map(|line| fault(line).map(|(start, end, reason)| (&line[start..end], reason)))
        .collect()
}

/// What a guest does with its own device and its own memory, no IOMMU has to block.
///
/// # Errors
/// The first fault.
pub fn no_iommu_fault(lines: &[String]) -> Result<(), String> {
    match iommu_faults(lines).first() {
        None => Ok(()),
        Some((device, reason)) => Err(format!("IOMMU fault {reason:#x} of {device}")),
    }
}

/// Reasons of faults (VT-d specification 4.1, section 7.2.3): write and read not permitted; index beyond the table, entry
/// not present.
const DMA: [u32; 2] = [0x05, 0x06];
const INTERRUPT: [u32; 2] = [0x21, 0x22];

/// The hypervisor shows that compatibility-format messages are off, and has recorded that the device's writes, reads and
/// forged messages were blocked, and nothing of any other device.
///
/// # Errors
/// What is missing, or the fault that is not the device's.
pub fn blocked_dma(lines: &[String]) -> Result<(), String> {
    if !lines.iter().any(|line| line.contains("(compatibility-format interrupts blocked)")) {
        return Err("no line says that compatibility-format interrupts are blocked".into());
    }
    let faults = iommu_faults(lines);
    // QEMU gives a message that came as plain DMA no requester.
    let is_dma = |reason: &u32| !INTERRUPT.contains(reason);
    let edu = EDU.strip_prefix("pci:").unwrap_or(EDU);
    if let Some((device, reason)) = faults.iter().find(|(d, r)| is_dma(r) && *d != edu) {
        return Err(format!("IOMMU fault {reason:#x} of {device}, which nobody uses"));
    }
    for reason in DMA {
        if !faults.iter().any(|(_, seen)| *seen == reason) {
            return Err(format!("no IOMMU fault of reason {reason:#x}"));
        }
    }
    match faults.iter().any(|(_, seen)| INTERRUPT.contains(seen)) {
        true => Ok(()),
        false => Err("no IOMMU fault of a forged message".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(String::from).collect()
    }

    #[test]
    fn a_window_lists_what_was_done_inside() {
        let good = "BEELINE window vm=vm vcpu=0 ticks=61505 root_ticks=1670 exits=cpuid:7";
        assert_eq!(window(&lines(good)), Ok(()));
        for (from, to) in [
            ("cpuid:7", "cpuid:7,io:1"),
            ("cpuid:7", "cpuid:8"),
            ("vcpu=0", "vcpu=1"),
            ("root_ticks=1670", "root_ticks=0"),
            ("ticks=61505", "ticks=100"),
            ("window", "windows"),
        ] {
            assert!(window(&lines(&good.replace(from, to))).is_err(), "{to}");
        }
        assert!(window(&lines(&format!("{good}\n{good}"))).is_err());
    }

    #[test]
    fn devices_are_judged_as_in_a_demo() {
        assert!(devices(&lines("GUEST done")).unwrap_err().contains("window"));
        assert!(devices(&lines("GUEST failed no disk")).unwrap_err().contains("no disk"));
    }

    #[test]
    fn interrupts_by_lines_are_counted() {
        let good = " 25: 4198 0 IO-APIC  16-fasteoi   eth0\n 26: 0 2549 IO-APIC  17-fasteoi   nvme0q0, nvme0q1\n\
                    GUEST device pci=0000:00:01.0 driver=igb cpu0=2516 cpu1=0\n\
                    GUEST device pci=0000:00:02.0 driver=nvme cpu0=0 cpu1=2000\nGUEST done";
        assert_eq!(linux_by_lines(&lines(good)), Ok(()));
        for (from, to) in [
            ("16-fasteoi", "16-edge"),
            ("nvme0q0, nvme0q1", "other"),
            ("cpu1=2000", "cpu1=1999"),
            ("cpu0=2516", "cpu0=2"),
            ("GUEST done", ""),
        ] {
            assert!(linux_by_lines(&lines(&good.replace(from, to))).is_err(), "{to}");
        }
    }

    #[test]
    fn a_contested_line_is_told_of_twice() {
        let own = "PCI 0000:00:01.0: no interrupt pin for its guest: its line (GSI 21) is that of \
                   pci:0000:00:05.0 of vm second, too: x\n";
        let other = "PCI 0000:00:05.0: no interrupt pin for its guest: its line (GSI 21) is that of \
                     pci:0000:00:01.0 of vm first, too: x\n";
        assert_eq!(contested_line(&lines(&format!("{own}{other}"))), Ok(()));
        assert!(contested_line(&lines(own)).is_err());
        assert!(
            contested_line(&lines(&format!("{own}{}", other.replace("first", "second")))).is_err()
        );
    }

    #[test]
    fn a_flood_is_more_than_a_few_lines() {
        let line = "[beeline] vm vm vCPU 0: RDMSR of unknown MSR 0x1 gets #GP\n";
        assert_eq!(flood(&lines(&line.repeat(8))), Ok(()));
        assert!(flood(&lines(&line.repeat(17))).is_err());
        assert!(flood(&lines("")).is_err());
    }
}
