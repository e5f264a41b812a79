//! Boots the machines of a plan, several at a time, and shows their consoles.

use super::plan::{Job, Plan, offset};
use crate::bed::{self, Machine, session};
use crate::iso::{self, Entry, Platforms};
use crate::progress;
use crate::report::witness::Witness;
use crate::report::{Boot, Mode};
use crate::symbolise;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// The last lines of a console.
const LAST: [&str; 2] = ["BEELINE done", "BEELINE fatal"];
/// A sign of life when a console is silent for this long.
const SILENCE: Duration = Duration::from_secs(30);

/// Boots all jobs of `plan`; the results are in their order.
///
/// # Errors
/// When a machine cannot be prepared or started. A guest that fails is a result.
pub fn all(workspace: &Workspace, plan: &Plan) -> Result<Vec<(Mode, Boot)>> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..plan.parallel {
            scope.spawn(|| {
                while let Some(job) = plan.jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let boot = one(workspace, plan, job);
                    let failed = boot.is_err();
                    if let Ok(mut results) = results.lock() {
                        results.push((job.mode, job.seed, boot));
                    }
                    if failed {
                        // What could not be started once will not start later.
                        next.store(usize::MAX / 2, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by_key(|(mode, seed, _)| (*seed, *mode));
    results.into_iter().map(|(mode, _, boot)| Ok((mode, boot?))).collect()
}

/// The machine of `job`, with its ISO made.
///
/// # Errors
/// When a file is missing or the ISO cannot be made.
pub fn machine(workspace: &Workspace, plan: &Plan, job: &Job) -> Result<Machine> {
    let dir = workspace.beeline(&format!("run/{}-{}", job.mode.name(), job.seed))?;
    let entry = match (job.mode, &plan.image) {
        (Mode::Direct, Some(image)) => {
            let mut cmdline = plan.bed.exit_word().to_string();
            if plan.bed.is_deterministic() {
                // The bare kernel is told the exact frequency too.
                cmdline += &format!(" tsc-hz={}", bed::FIGURES_IPS);
            }
            Entry::Beeline { image: image.clone(), cmdline, modules: plan.modules(job)? }
        }
        _ => {
            let (kernel, initrd, cmdline) = plan.bare(job)?;
            Entry::Linux { kernel, initrd, cmdline }
        }
    };
    Ok(Machine {
        iso: iso::make(&dir, &entry, Platforms::Bios)?,
        dir,
        cpus: plan.cpus,
        memory_mib: plan.memory_mib,
        model: plan.model.clone(),
        cpuid: String::new(),
        ips: bed::FIGURES_IPS,
        time0: bed::TIME0 + job.seed - 1,
        pc: plan.pc,
        time_limit: Duration::from_secs(plan.time_limit),
    })
}

/// The last line of a Linux that panics.
const PANIC_END: &str = "---[ end Kernel panic";

fn one(workspace: &Workspace, plan: &Plan, job: &Job) -> Result<Boot> {
    let machine = machine(workspace, plan, job)?;
    let name = match plan.jobs.len() {
        1 => String::new(),
        _ => format!("{:>6} {} | ", job.mode.name(), job.seed),
    };
    let show = |line: &str| println!("{name}{line}");
    let silent = Silence::start(format!("{} {}", job.mode.name(), job.seed));
    let mut watched = |line: &str| {
        silent.heard();
        // The histogram is for programs.
        if !line.starts_with("GUEST hist ") {
            show(line);
        }
        match LAST.iter().any(|last| line.starts_with(last)) {
            true => session::Then::ShouldEnd,
            // A Linux that panicked stands still for ever.
            false if line.contains(PANIC_END) => session::Then::Stop,
            false if plan.last_line.as_ref().is_some_and(|last| line.starts_with(last)) => {
                session::Then::Stop
            }
            false => session::Then::GoOn,
        }
    };
    let outcome = session::run(plan.bed, &machine, session::Console::Lines(&mut watched))?;
    drop(silent);
    let lines = outcome.lines.iter().map(String::as_str);
    let vm = plan.config.vms.first().map_or("", |vm| &vm.name);
    let mut boot = Boot::read(lines, vm);
    boot.witness = witness(&machine)?;
    if boot.done && machine.pc.witness && boot.witness.is_none() {
        boot.problems.push("the emulator's log does not show the measured window".into());
    }
    boot.seed = job.seed;
    boot.offset_us = offset(job.seed);
    boot.wall = outcome.wall;
    let ended = match outcome.end {
        session::End::Exited(true) => None,
        session::End::Exited(false) => Some("the machine ended with a failure".to_string()),
        session::End::Stayed => Some("the machine did not switch itself off".to_string()),
        session::End::TimeLimit => {
            Some(format!("the time limit of {} s passed (--time-limit)", plan.time_limit))
        }
        session::End::Stopped => None,
        session::End::Left => Some("stopped by the user".to_string()),
    };
    boot.problems.extend(ended);
    let file = machine.dir.join("console.log");
    fs::write(&file, outcome.lines.join("\n") + "\n")
        .with_context(|| format!("cannot write {}", file.display()))?;
    if !boot.problems.is_empty() {
        progress::note(format!("{name}console: {}", file.display()));
        progress::note(format!("{name}emulator: {}", outcome.log.display()));
        if let Some(image) = &plan.image
            && let Some(text) = symbolise::backtrace(image, &outcome.lines)
        {
            eprintln!("{text}");
        }
    }
    Ok(boot)
}

/// What the emulator logged of the window, if it kept a log.
fn witness(machine: &Machine) -> Result<Option<Witness>> {
    if !machine.pc.witness {
        return Ok(None);
    }
    let file = machine.dir.join(bed::qemu::WITNESS);
    let log = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(Witness::read(String::from_utf8_lossy(&log).lines()))
}

/// Says now and then that a silent machine is still at work.
struct Silence {
    heard: std::sync::mpsc::Sender<()>,
}

impl Silence {
    fn start(name: String) -> Self {
        let (heard, ears) = std::sync::mpsc::channel::<()>();
        thread::spawn(move || {
            let start = std::time::Instant::now();
            loop {
                match ears.recv_timeout(SILENCE) {
                    Ok(()) => {}
                    Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                        let seconds = start.elapsed().as_secs();
                        progress::note(format!("{name}: still running, {seconds} s so far"));
                    }
                    Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return,
                }
            }
        });
        Self { heard }
    }

    fn heard(&self) {
        // The listener outlives every sender.
        let _ = self.heard.send(());
    }
}
