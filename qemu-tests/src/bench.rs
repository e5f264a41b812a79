//! `cargo xtask bench`: the micro-benchmarks of the test guest, under Beeline and on the bare
//! machine, in one table. Figures are ticks of the TSC: instructions under Bochs.

use crate::boot::{self, Lab};
use crate::catalogue::{Beds, Boot, Expect, Extras, Guest};
use crate::in_guest::Names;
use crate::runner;
use anyhow::Result;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use tools::bed::{self, Bed, Pc};
use tools::workspace::{Profile, Workspace};
use tools::{image, setup};

const fn on(name: &'static str, kind: &'static str, guest: Guest, cpus: u32) -> Boot {
    Boot {
        name,
        kind,
        guest,
        expect: match guest {
            Guest::Bare => Expect::SomeTests,
            _ => Expect::Tests,
        },
        beds: Beds::Any,
        pc: Pc::PLAIN,
        model: "corei7_skylake_x",
        cpuid: "",
        cpus,
        shows: "",
        limit: 600,
        ips: bed::TESTS_IPS,
    }
}

const fn vm(vcpus: u32) -> Guest {
    Guest::Vm { vcpus, extras: Extras::NONE }
}

/// Direct and bare boots of each kind. The machines have the same number of CPUs; on the bare one
/// those that the guest does not use stay halted.
pub const BOOTS: &[Boot] = &[
    on("bench", "bench", vm(1), 2),
    on("bare-bench", "bench", Guest::Bare, 2),
    on("bench-smp", "bench-smp", vm(2), 3),
    on("bare-bench-smp", "bench-smp", Guest::Bare, 3),
    on("xapic-bench", "xapic-bench", vm(1), 2),
    on("bare-xapic-bench", "xapic-bench", Guest::Bare, 2),
];

/// Runs the boots that `filter` selects and prints the table; true when all tests passed.
///
/// # Errors
/// When something does not build.
pub fn run(workspace: &Workspace, bed: Bed, filter: &str, jobs: usize) -> Result<bool> {
    let _ours = workspace.lock("test")?;
    setup::host(workspace, &[bed])?;
    let names = Names::read(&image::test_guest(workspace)?)?;
    let boots = runner::selected(BOOTS, &[bed], &names, filter);
    // The figures of a release image.
    let files = runner::files(workspace, &boots, Profile::Release)?;
    let lab = Lab { workspace, files: &files, names: &names };
    let next = AtomicUsize::new(0);
    let seen = Mutex::new((Vec::new(), BTreeMap::new()));
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some((bed, boot)) = boots.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let done = boot::carry_out(&lab, *bed, boot, filter);
                    let Ok(mut seen) = seen.lock() else { return };
                    let (failures, rows) = &mut *seen;
                    match done {
                        Ok(done) => {
                            for verdict in &done.verdicts {
                                if let Some(why) = &verdict.failure {
                                    failures.push(format!(
                                        "{}: {why}\n{}",
                                        verdict.name, done.evidence
                                    ));
                                }
                            }
                            collect(rows, boot.guest == Guest::Bare, &done.figures);
                        }
                        Err(why) => failures.push(format!("{}: {why:#}", boot.name)),
                    }
                }
            });
        }
    });
    let (failures, rows) = seen.into_inner().unwrap_or_default();
    println!("{}", table(&rows));
    for failure in &failures {
        println!("FAILED {failure}");
    }
    Ok(failures.is_empty())
}

/// Bare and direct figure of a row, with its unit.
type Rows = BTreeMap<String, (Option<String>, Option<String>, String)>;

fn collect(rows: &mut Rows, bare: bool, figures: &[String]) {
    for figure in figures {
        let words: Vec<&str> = figure.split_whitespace().collect();
        let [_, name, value, unit, rest @ ..] = words.as_slice() else { continue };
        let row = rows.entry((*name).to_string()).or_default();
        let place = if bare { &mut row.0 } else { &mut row.1 };
        *place = Some((*value).to_string());
        row.2 = format!("{unit} {}", rest.join(" "));
    }
}

fn table(rows: &Rows) -> String {
    let width = rows.keys().map(String::len).max().unwrap_or(0).max(6);
    let mut text = format!("{:<width$}  {:>10}  {:>10}  unit\n", "figure", "bare", "direct");
    for (name, (bare, direct, unit)) in rows {
        let cell = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        text += &format!("{name:<width$}  {:>10}  {:>10}  {unit}\n", cell(bare), cell(direct));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_and_direct_meet_in_one_row() {
        let mut rows = Rows::new();
        collect(&mut rows, true, &["FIGURE cpuid 9.0 ticks n=10000".into()]);
        collect(
            &mut rows,
            false,
            &["FIGURE cpuid 112.3 ticks n=10000".into(), "FIGURE x 1 t".into()],
        );
        let text = table(&rows);
        assert!(text.contains("cpuid          9.0       112.3  ticks n=10000"), "{text}");
        assert!(text.contains("x                -           1  t"), "{text}");
    }
}
