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
    let report = Report { bed: "qemu", backend: "svm", ips: None, runs };
    let checks = verdict::checks(&report, Measures::Devices);
    checks.into_iter().find(|check| !check.holds).map_or(Ok(()), |check| Err(check.what))
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
    fn a_flood_is_more_than_a_few_lines() {
        let line = "[beeline] vm vm vCPU 0: RDMSR of unknown MSR 0x1 gets #GP\n";
        assert_eq!(flood(&lines(&line.repeat(8))), Ok(()));
        assert!(flood(&lines(&line.repeat(17))).is_err());
        assert!(flood(&lines("")).is_err());
    }
}
