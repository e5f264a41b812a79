//! Runs boots side by side, prints one line per result and, at the end, the line cargo prints.

use crate::boot::{self, Done, Lab, Verdict};
use crate::catalogue::{BOOTS, Boot, Expect, Guest};
use crate::in_guest::{Names, requirements};
use crate::payload::Files;
use anyhow::Result;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;
use tools::bed::Bed;
use tools::progress::Step;
use tools::workspace::{Profile, Workspace};
use tools::{image, initramfs, setup};

/// The boots with a result that contains `filter`, on each bed of `beds` that they run on.
#[must_use]
pub fn selected<'a>(
    boots: &'a [Boot],
    beds: &[Bed],
    names: &Names,
    filter: &str,
) -> Vec<(Bed, &'a Boot)> {
    let wanted = |(bed, boot): &(Bed, &Boot)| {
        boot.name_on(*bed).contains(filter)
            || boot::results(*bed, boot, names).iter().any(|name| name.contains(filter))
    };
    let all = boots.iter().flat_map(|boot| beds.iter().map(move |bed| (*bed, boot)));
    all.filter(|(bed, boot)| boot.runs_on(*bed)).filter(wanted).collect()
}

/// Prints one line per test: bed, name, requirement ids.
///
/// # Errors
/// When the test guest does not build.
pub fn list(workspace: &Workspace, beds: &[Bed], filter: &str) -> Result<()> {
    let names = Names::read(&image::test_guest(workspace)?)?;
    for (bed, boot) in selected(BOOTS, beds, &names, filter) {
        for name in boot::results(bed, boot, &names).iter().filter(|name| name.contains(filter)) {
            let test = name.split_once("::").map(|(_, test)| test);
            let ids = test.map_or(boot.shows.to_string(), |test| requirements(test).join(" "));
            let ids = if ids.is_empty() { "-" } else { ids.as_str() };
            println!("{} {name} {ids}", bed.name());
        }
    }
    Ok(())
}

/// Builds what `boots` need.
///
/// # Errors
/// When something does not build.
pub fn files(workspace: &Workspace, boots: &[(Bed, &Boot)], profile: Profile) -> Result<Files> {
    let step =
        Step::noisy(format!("Build the hypervisor ({}) and the test guest", profile.folder()));
    let (image, guest) = (image::hypervisor(workspace, profile)?, image::test_guest(workspace)?);
    // A build while boots are under way must not change what the later ones run.
    let dir = workspace.beeline("test")?;
    let keep = |built: &Path| {
        let kept = dir.join(built.file_name().unwrap_or_default());
        fs::copy(built, &kept).map(|_| kept)
    };
    let (image, guest) = (keep(&image)?, keep(&guest)?);
    step.done();
    let any = |kind: fn(&Guest) -> bool| boots.iter().any(|(_, boot)| kind(&boot.guest));
    let (mut linux, mut drivers, mut next) = (None, None, None);
    if any(|guest| matches!(guest, Guest::Linux { .. } | Guest::Devices { .. })) {
        let packages = setup::guest(workspace, false)?;
        let initramfs = initramfs::build(workspace, &packages)?;
        if any(|guest| matches!(guest, Guest::Devices { .. })) {
            drivers = Some(initramfs::build_with_drivers(workspace, &packages)?);
        }
        if any(|guest| matches!(guest, Guest::Linux { kexec: true, .. })) {
            next = Some(initramfs::build_with_next(workspace, &packages)?);
        }
        linux = Some((packages.kernel, initramfs));
    }
    Ok(Files { image, guest, linux, drivers, next })
}

/// Tests of boots that ran and may skip some: on the bare machine those that need more than it has.
fn skipped(names: &Names, boots: &[(Bed, &Boot)], filter: &str, verdicts: &[Verdict]) -> usize {
    let may_skip = boots.iter().filter(|(_, boot)| matches!(boot.expect, Expect::SomeTests));
    let tests = may_skip.flat_map(|(bed, boot)| boot::results(*bed, boot, names));
    let reported = |test: &String| verdicts.iter().any(|verdict| verdict.name == *test);
    tests.filter(|test| test.contains(filter) && !reported(test)).count()
}

/// Runs every boot that `filter` selects, `jobs` at a time; true when all passed.
///
/// # Errors
/// When something does not build.
pub fn run(workspace: &Workspace, beds: &[Bed], filter: &str, jobs: usize) -> Result<bool> {
    let start = Instant::now();
    let _ours = workspace.lock("test")?;
    setup::host(workspace, beds)?;
    let names = Names::read(&image::test_guest(workspace)?)?;
    unclaimed(&names)?;
    let boots = selected(BOOTS, beds, &names, filter);
    let files = files(workspace, &boots, Profile::Debug)?;
    let lab = Lab { workspace, files: &files, names: &names };
    let on: Vec<&str> = beds.iter().map(|bed| bed.name()).collect();
    println!("\nrunning {} boots on {}, {jobs} at a time", boots.len(), on.join(" and "));
    let verdicts = side_by_side(&lab, &boots, filter, jobs);
    let failed: Vec<&Verdict> = verdicts.iter().filter(|v| v.failure.is_some()).collect();
    if !failed.is_empty() {
        println!("\nfailures:");
        for verdict in &failed {
            println!("    {}: {}", verdict.name, verdict.failure.as_deref().unwrap_or(""));
        }
    }
    let ignored = skipped(&names, &boots, filter, &verdicts);
    println!(
        "\ntest result: {}. {} passed; {} failed; {ignored} ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        if failed.is_empty() { "ok" } else { "FAILED" },
        verdicts.len() - failed.len(),
        failed.len(),
        selected(BOOTS, beds, &names, "")
            .iter()
            .map(|(bed, boot)| boot::results(*bed, boot, &names).len())
            .sum::<usize>()
            .saturating_sub(verdicts.len() + ignored),
        start.elapsed().as_secs_f64()
    );
    Ok(failed.is_empty())
}

/// A kind of in-guest test that no boot runs is a mistake in the catalogue.
fn unclaimed(names: &Names) -> Result<()> {
    let claimed =
        |kind: &&str| BOOTS.iter().chain(crate::bench::BOOTS).any(|boot| boot.kind == *kind);
    match names.kinds().find(|kind| !claimed(kind)) {
        None => Ok(()),
        Some(kind) => anyhow::bail!(
            "the test guest has tests of kind {kind:?}, and no boot in qemu-tests/src/catalogue.rs runs them"
        ),
    }
}

/// Carries out `boots` and prints their results as they come.
pub fn side_by_side(
    lab: &Lab<'_>,
    boots: &[(Bed, &Boot)],
    filter: &str,
    jobs: usize,
) -> Vec<Verdict> {
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some((bed, boot)) = boots.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let done = boot::carry_out(lab, *bed, boot, filter);
                    // The lock also keeps the lines of one boot together.
                    if let Ok(mut verdicts) = verdicts.lock() {
                        verdicts.extend(print(&boot.name_on(*bed), done));
                    }
                }
            });
        }
    });
    verdicts.into_inner().unwrap_or_default()
}

fn print(name: &str, done: Result<Done>) -> Vec<Verdict> {
    let done = done.unwrap_or_else(|why| Done {
        verdicts: vec![Verdict {
            name: name.into(),
            failure: Some(format!("could not be run: {why:#}")),
            detail: String::new(),
        }],
        wall: std::time::Duration::ZERO,
        evidence: String::new(),
        figures: Vec::new(),
    });
    println!("boot {name} ({:.1} s)", done.wall.as_secs_f64());
    for verdict in &done.verdicts {
        match &verdict.failure {
            None if verdict.detail.is_empty() => println!("test {} ... ok", verdict.name),
            None => println!("test {} ... ok ({})", verdict.name, verdict.detail),
            Some(why) => println!("test {} ... FAILED: {why}", verdict.name),
        }
    }
    for figure in &done.figures {
        println!("{figure}");
    }
    if !done.evidence.is_empty() {
        println!("{}\n----", done.evidence);
    }
    done.verdicts
}
