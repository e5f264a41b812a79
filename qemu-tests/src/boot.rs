//! Carries out one boot and judges it: one result per in-guest test, or one for the boot.

use crate::catalogue::{Boot, Expect};
use crate::in_guest::{self, Names};
use crate::payload::{self, Files};
use anyhow::Result;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tools::bed::session::{self, Console, End, Then};
use tools::bed::{Bed, Firmware, Machine, Medium, TIME0};
use tools::iso::{self, Platforms};
use tools::symbolise;
use tools::workspace::Workspace;

/// Lines of the console that a failure shows.
const TAIL: usize = 40;

/// One test's outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `boot` or `boot::test`.
    pub name: String,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// What a passed test said.
    pub detail: String,
}

/// What came of a boot.
#[derive(Clone, Debug)]
pub struct Done {
    /// One per test.
    pub verdicts: Vec<Verdict>,
    /// Wall time.
    pub wall: Duration,
    /// The end of the console and a backtrace, for a failure.
    pub evidence: String,
    /// `FIGURE` lines.
    pub figures: Vec<String>,
}

/// Where and with what boots are carried out.
pub struct Lab<'a> {
    /// The repository.
    pub workspace: &'a Workspace,
    /// What to boot.
    pub files: &'a Files,
    /// The tests inside the test guest.
    pub names: &'a Names,
}

/// The tests `boot` will report, by the names of their results.
#[must_use]
pub fn results(bed: Bed, boot: &Boot, names: &Names) -> Vec<String> {
    let own = boot.name_on(bed);
    match boot.expect {
        Expect::Tests | Expect::SomeTests | Expect::TestsAnd(_) => {
            let inside = names.of(boot.kind, bed).map(|name| format!("{own}::{name}"));
            let check = matches!(boot.expect, Expect::TestsAnd(_)).then(|| own.clone());
            inside.chain(check).collect()
        }
        _ => vec![own],
    }
}

/// Boots and judges. Only results that contain `filter` are reported.
///
/// # Errors
/// When the machine could not be prepared or started.
pub fn carry_out(lab: &Lab<'_>, bed: Bed, boot: &Boot, filter: &str) -> Result<Done> {
    let own = boot.name_on(bed);
    let dir = lab.workspace.beeline(&format!("test/{own}"))?;
    // The guest knows its tests without the boot's name.
    let inside = if own.contains(filter) || filter.contains("::") { "" } else { filter };
    let inside = filter.strip_prefix(&format!("{own}::")).unwrap_or(inside);
    let entry = payload::entry(boot, bed, lab.files, inside)?;
    let platforms = match (boot.pc.firmware, boot.pc.medium) {
        (Firmware::Bios, Medium::Cd) => Platforms::Bios,
        // One image for both firmwares and both media.
        _ => Platforms::All,
    };
    let machine = Machine {
        iso: iso::make(&dir, &entry, platforms)?,
        dir: dir.clone(),
        cpus: boot.cpus,
        memory_mib: payload::memory_mib(boot),
        model: boot.model.into(),
        cpuid: boot.cpuid.into(),
        ips: boot.ips,
        time0: TIME0,
        pc: boot.pc,
        time_limit: Duration::from_secs(boot.limit),
    };
    let mut seen = 0;
    let mut watch = |line: &str| {
        if let Expect::RunsOn { last, count } = boot.expect {
            seen += usize::from(line.starts_with(last));
            return if seen >= count { Then::Stop } else { Then::GoOn };
        }
        if let Expect::Passes { last: Some(last), .. } = boot.expect
            && line.starts_with(last)
        {
            return Then::Stop;
        }
        match line.starts_with("BEELINE done") || line.starts_with("BEELINE fatal") {
            true => Then::ShouldEnd,
            false => Then::GoOn,
        }
    };
    let outcome = session::run(bed, &machine, Console::Lines(&mut watch))?;
    fs::write(dir.join("console.log"), outcome.lines.join("\n") + "\n")?;
    let mut said = outcome.lines.clone();
    if let Expect::Panics(_) = boot.expect {
        let names = symbolise::backtrace(&lab.files.image, &outcome.lines);
        said.extend(names.iter().flat_map(|text| text.lines()).map(String::from));
    }
    let mut verdicts = judge(bed, boot, lab.names, &said, outcome.end);
    verdicts.retain(|verdict| verdict.name.contains(filter) || verdict.name == own);
    let failed = verdicts.iter().any(|verdict| verdict.failure.is_some());
    let evidence =
        if failed { evidence(&lab.files.image, &outcome.lines, &dir) } else { String::new() };
    let figures =
        outcome.lines.iter().filter(|line| line.starts_with("FIGURE ")).cloned().collect();
    Ok(Done { verdicts, wall: outcome.wall, evidence, figures })
}

fn judge(bed: Bed, boot: &Boot, names: &Names, lines: &[String], end: End) -> Vec<Verdict> {
    let fatal = lines.iter().find(|line| line.starts_with("BEELINE fatal"));
    let missing = |texts: &[&str]| {
        let all = lines.join("\n").to_lowercase();
        texts
            .iter()
            .find(|text| !all.contains(&text.to_lowercase()))
            .map(|t| format!("no {t:?} on the console"))
    };
    let ended_well = || match (end, fatal) {
        (_, Some(line)) => Some(format!("the hypervisor said: {line}")),
        (End::Exited(true), None) => None,
        (End::Stopped, None) if matches!(boot.expect, Expect::Passes { .. }) => None,
        (end, None) => Some(how(end, boot.limit)),
    };
    let one = |failure: Option<String>| {
        vec![Verdict { name: boot.name_on(bed), failure, detail: String::new() }]
    };
    match boot.expect {
        Expect::Tests | Expect::SomeTests | Expect::TestsAnd(_) => {
            let mut verdicts = of_tests(bed, boot, names, lines);
            // A machine that ends badly after its last test has failed, too.
            let all_passed = verdicts.iter().all(|verdict| verdict.failure.is_none());
            let end = ended_well().filter(|_| all_passed);
            match boot.expect {
                Expect::TestsAnd(check) => verdicts.extend(one(end.or_else(|| check(lines).err()))),
                _ => verdicts.extend(end.into_iter().flat_map(|why| one(Some(why)))),
            }
            verdicts
        }
        Expect::Linux { clocks } => {
            let texts = [
                "GUEST up",
                clocks,
                "online=0-1",
                "GUEST done",
                "reason=power-off",
                "BEELINE done",
            ];
            one(ended_well().or_else(|| missing(&texts)))
        }
        Expect::Passes { check, .. } => one(ended_well().or_else(|| check(lines).err())),
        Expect::NoReturn(texts) => one(match fatal {
            Some(line) => Some(format!("the hypervisor said: {line}")),
            None if !matches!(end, End::Exited(_)) => Some(how(end, boot.limit)),
            None => missing(texts).or_else(|| failed_inside(lines)),
        }),
        Expect::Panics(texts) => one(match (fatal, end) {
            (None, _) => Some("the hypervisor did not panic".into()),
            (Some(_), End::Exited(false)) => missing(texts).or_else(|| failed_inside(lines)),
            (Some(_), End::Exited(true)) => Some("it panicked, but reported success".into()),
            (Some(_), end) => Some(how(end, boot.limit)),
        }),
        Expect::RunsOn { last, count } => one(match end {
            End::Stopped => failed_inside(lines),
            end => Some(format!("{last:?} was not seen {count} times; {}", how(end, boot.limit))),
        }),
        Expect::Refused(texts) => one(match (fatal, end) {
            (None, _) => Some("the hypervisor did not refuse".into()),
            (Some(_), End::Exited(false)) => missing(texts),
            (Some(_), End::Exited(true)) => Some("it refused, but reported success".into()),
            (Some(_), end) => Some(how(end, boot.limit)),
        }),
    }
}

/// One verdict per in-guest test of the boot's kind.
fn of_tests(bed: Bed, boot: &Boot, names: &Names, lines: &[String]) -> Vec<Verdict> {
    let reports = in_guest::reports(lines);
    let skipped = |name: &str| lines.iter().any(|l| l.starts_with(&format!("# {name} skipped")));
    let mut verdicts = Vec::new();
    for name in names.of(boot.kind, bed) {
        let report = reports.iter().find(|report| report.name == name);
        let (failure, detail) = match report {
            Some(report) if report.passed => (None, report.text.clone()),
            Some(report) => (Some(report.text.clone()), String::new()),
            None if skipped(name) && matches!(boot.expect, Expect::SomeTests) => continue,
            None if skipped(name) => (Some("the guest skipped it".into()), String::new()),
            None => (Some("it never reported".into()), String::new()),
        };
        verdicts.push(Verdict { name: format!("{}::{name}", boot.name_on(bed)), failure, detail });
    }
    verdicts
}

/// A test that was not to come back and did, to say why.
fn failed_inside(lines: &[String]) -> Option<String> {
    let failed = in_guest::reports(lines).into_iter().find(|report| !report.passed)?;
    Some(format!("{} failed: {}", failed.name, failed.text))
}

fn how(end: End, limit: u64) -> String {
    match end {
        End::Exited(true) => "the machine ended".into(),
        End::Exited(false) => "the machine ended with a failure".into(),
        End::Stayed => "the machine did not switch itself off".into(),
        End::TimeLimit => format!("the time limit of {limit} s passed"),
        End::Stopped | End::Left => "the machine was stopped".into(),
    }
}

fn evidence(image: &Path, lines: &[String], dir: &Path) -> String {
    let tail = lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or(lines).join("\n");
    let file = dir.join("console.log");
    let mut text = format!("---- end of the console ({})\n{tail}", file.display());
    if let Some(backtrace) = symbolise::backtrace(image, lines) {
        text = format!("{text}\n---- {backtrace}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::BOOTS;

    fn boot(name: &str) -> Boot {
        *BOOTS.iter().find(|boot| boot.name == name).unwrap()
    }

    fn failures(name: &str, console: &str, end: End) -> Vec<(String, String)> {
        let names = Names::parse(
            "modules:m1_a Beeline\nmodules:m1_b Beeline\nup:a1_x Beeline\nwindow:m1_c Machine\n",
        )
        .unwrap();
        let lines: Vec<String> = console.lines().map(String::from).collect();
        let verdicts = judge(Bed::Bochs, &boot(name), &names, &lines, end);
        verdicts.into_iter().filter_map(|v| Some((v.name, v.failure?))).collect()
    }

    const OK: End = End::Exited(true);

    #[test]
    fn a_test_that_never_reports_has_failed() {
        let good = "TEST m1_a ok\nTEST m1_b ok fine\nBEELINE done";
        assert_eq!(failures("modules", good, OK), []);
        let f = failures("modules", "TEST m1_a ok\nBEELINE done", OK);
        assert_eq!(f, [("modules::m1_b".into(), "it never reported".into())]);
        let f = failures("modules", good, End::Exited(false));
        assert_eq!(f.len(), 1, "{f:?}");
        let f = failures("modules", &format!("{good}\nBEELINE fatal x"), OK);
        assert!(f[0].1.contains("fatal x"));
        let f = failures("modules", "TEST m1_a ok\n# m1_b skipped: no", OK);
        assert!(f[0].1.contains("skipped"));
    }

    #[test]
    fn a_check_of_the_console_is_one_more_test() {
        let window = "BEELINE window vm=vm vcpu=0 ticks=61505 root_ticks=1670 exits=cpuid:7";
        assert_eq!(failures("window", &format!("TEST m1_c ok\n{window}"), OK), []);
        let f = failures("window", "TEST m1_c ok", OK);
        assert_eq!(f.len(), 1);
        assert!(f[0].0 == "window" && f[0].1.contains("0 window lines"), "{f:?}");
    }

    #[test]
    fn a_panic_must_be_reported_with_names() {
        let report = "BEELINE panic core=1 x.rs: a debug hook asked for this panic\nbacktrace:\n#0 0x1\n\
                      BEELINE fatal panic";
        let names = "simulated_bug at hypervisor/src/exit/hypercall.rs:1\nhypercall::handle";
        let good = format!("{report}\n{names}");
        assert_eq!(failures("panic", &good, End::Exited(false)), []);
        assert!(failures("panic", report, End::Exited(false))[0].1.contains("simulated_bug"));
        assert!(failures("panic", &good, OK)[0].1.contains("success"));
        assert!(failures("panic", names, End::Exited(false))[0].1.contains("did not panic"));
    }

    #[test]
    fn a_bare_boot_may_skip() {
        assert_eq!(failures("bare-up", "# a1_x skipped: it needs the hypervisor", OK), []);
        assert_eq!(failures("bare-up", "", OK).len(), 1);
    }

    #[test]
    fn refusals_must_name_their_reason() {
        let said = "[beeline] this CPU has no vmx\nBEELINE fatal x";
        assert_eq!(failures("no-vmx", said, End::Exited(false)), []);
        assert!(failures("no-vmx", "BEELINE fatal x", End::Exited(false))[0].1.contains("VMX"));
        assert!(failures("no-vmx", "no vmx", OK)[0].1.contains("did not refuse"));
        assert!(failures("no-vmx", said, End::TimeLimit)[0].1.contains("time limit"));
    }

    #[test]
    fn guests_that_break_themselves() {
        let said = "triple fault\nBEELINE vm-stop vm=vm reason=refused\nBEELINE done";
        assert_eq!(failures("hostile-triple", said, OK), []);
        let survived = format!("TEST s6_x FAILED survived\n{said}");
        assert!(failures("hostile-triple", &survived, OK)[0].1.contains("survived"));
        assert_eq!(failures("reset", "", End::Stopped), []);
        assert_eq!(failures("reset", "", End::TimeLimit).len(), 1);
    }
}
