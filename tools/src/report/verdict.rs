//! Do the figures hold? The exit status of `cargo xtask run` is the answer.

use super::compare::{Comparison, compare};
use super::{Boot, Measures, Mode, Report, devices};

/// With fewer boots the comparison with bare metal is shown but judges nothing (requirement M2).
pub const BOOTS_FOR_COMPARISON: usize = 5;

/// One thing that must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at, with its figure.
    pub what: String,
    /// Does it hold?
    pub holds: bool,
}

/// All checks of `report`.
#[must_use]
pub fn checks(report: &Report, measures: Measures) -> Vec<Check> {
    let mut checks = Vec::new();
    let figures = measures != Measures::Nothing;
    for run in &report.runs {
        for boot in &run.boots {
            let name = format!("{} boot {}", run.mode.name(), boot.seed);
            finished(&mut checks, &name, boot, figures);
            if run.mode == Mode::Direct && figures {
                window(&mut checks, &name, boot, run.vcpus, measures, report.exits_per_timer);
            }
        }
    }
    let boots = report.runs.iter().map(|run| run.boots.len()).min().unwrap_or(0);
    if measures == Measures::Timer && boots >= BOOTS_FOR_COMPARISON {
        comparison(&mut checks, report);
    }
    checks
}

fn finished(checks: &mut Vec<Check>, name: &str, boot: &Boot, figures: bool) {
    let said = match boot.problems.first() {
        Some(problem) => format!("{name}: {problem}"),
        None if figures && !boot.done => format!("{name}: the guest did not say that it finished"),
        None => format!("{name}: the guest finished"),
    };
    let holds = boot.problems.is_empty() && (boot.done || !figures);
    checks.push(Check { what: said, holds });
}

fn window(
    checks: &mut Vec<Check>,
    name: &str,
    boot: &Boot,
    vcpus: u32,
    measures: Measures,
    limit: f64,
) {
    if boot.window.len() != vcpus as usize || boot.timer_interrupts.len() != vcpus as usize {
        let what = format!("{name}: the measured window covers every vCPU");
        return checks.push(Check { what, holds: false });
    }
    let external = boot.exits().get("external_interrupt").copied().unwrap_or(0);
    checks.push(Check {
        what: format!("{name}: external-interrupt exits in the window: {external} (must be 0)"),
        holds: external == 0,
    });
    if measures == Measures::Devices {
        return devices::checks(checks, name, boot);
    }
    for (span, timer) in boot.window.iter().zip(&boot.timer_interrupts) {
        let ratio = per_interrupt(span.exits(), *timer);
        checks.push(Check {
            what: format!(
                "{name}: vCPU {}: {} exits in {timer} timer interrupts: {ratio:.4} (below {limit})",
                span.vcpu,
                span.exits()
            ),
            holds: ratio < limit,
        });
    }
}

fn comparison(checks: &mut Vec<Check>, report: &Report) {
    match compare(report) {
        Some(Comparison::Limits(limits)) => {
            checks.extend(limits.iter().map(|l| Check {
                what: format!(
                    "M2 {}: {:.0} ns, bare {:.0} ns ({})",
                    l.what, l.direct, l.bare, l.limit
                ),
                holds: l.holds,
            }));
        }
        Some(Comparison::Refused(why)) if report.ips.is_some() => {
            checks.push(Check { what: format!("M2 comparison refused: {why}"), holds: false });
        }
        _ => {}
    }
}

/// Exits per interrupt; without one, every exit counts as too many.
#[must_use]
pub fn per_interrupt(exits: u64, interrupts: u64) -> f64 {
    match (exits, interrupts) {
        (0, _) => 0.0,
        (exits, 0) => exits as f64,
        (exits, interrupts) => exits as f64 / interrupts as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::super::boot::tests::CONSOLE;
    use super::super::{Report, Run};
    use super::*;

    fn failed_of(text: &str, measures: Measures) -> Vec<String> {
        let boots = vec![Boot::read(text.lines(), "rt")];
        let run = Run { mode: Mode::Direct, vcpus: 2, boots };
        let report = Report {
            bed: "bochs",
            backend: "vmx",
            exits_per_timer: 0.01,
            ips: Some(1),
            runs: vec![run],
        };
        checks(&report, measures).into_iter().filter(|c| !c.holds).map(|c| c.what).collect()
    }

    fn failed(text: &str) -> Vec<String> {
        failed_of(text, Measures::Timer)
    }

    #[test]
    fn figures_that_hold() {
        assert_eq!(failed(CONSOLE), Vec::<String>::new());
        let none = Vec::<String>::new();
        assert_eq!(failed_of(devices::tests::CONSOLE, Measures::Devices), none);
    }

    #[test]
    fn each_figure_of_devices_can_fail() {
        let one = |from: &str, to: &str| {
            let console = devices::tests::CONSOLE.replace(from, to);
            let failed = failed_of(&console, Measures::Devices);
            assert_eq!(failed.len(), 1, "{failed:?}");
            failed[0].clone()
        };
        assert!(one("msr_write:30", "external_interrupt:1").contains("external"));
        assert!(one("msr_write:30", "msr_write:61").contains("61 exits in 6001"));
        assert!(one("cpu0=0 cpu1=1000", "cpu0=0 cpu1=99").contains("igb 0000:00:01.0: 99"));
        assert!(one("answered=811", "answered=810").contains("810 of 812"));
        assert!(one("GUEST device pci=0000:00:01.0", "noise").contains("1 PCI functions"));
        assert!(one("vm=rt vcpu=1", "vm=pf vcpu=1").contains("covers"));
        assert!(one("GUEST done\n", "").contains("did not say"));
    }

    #[test]
    fn each_figure_can_fail() {
        let one = |from: &str, to: &str| {
            let failed = failed(&CONSOLE.replace(from, to));
            assert_eq!(failed.len(), 1, "{failed:?}");
            failed[0].clone()
        };
        assert!(one("cpuid:3,io:1\n", "external_interrupt:1\n").contains("external"));
        assert!(one("exits=\n", "exits=cpuid:6\n").contains("vCPU 1: 6 exits in 600"));
        assert!(one("GUEST done\n", "").contains("did not say"));
        assert!(one("BEELINE window vm=rt vcpu=1", "noise").contains("covers"));
        assert!(one("BEELINE done", "BEELINE fatal out of luck").contains("out of luck"));
    }
}
