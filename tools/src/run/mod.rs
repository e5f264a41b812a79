//! `cargo xtask run`: boots a Linux guest under Beeline, and beside it the same kernel on the bare
//! machine, measures both with cyclictest and prints one table. With `--demo` the guest owns PCI functions
//! instead, and their interrupts are counted.

mod boots;
pub mod demo;
mod plan;

use crate::bed::{self, Bed, Choice, session};
use crate::progress;
use crate::report::{Mode, Report, Run, json, table, verdict};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use demo::Demo;
use plan::Plan;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What to run.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Where to run
    #[arg(long, value_enum, default_value = "auto")]
    pub bed: Choice,
    /// Let the guest own PCI functions, and count their interrupts and the exits instead of running cyclictest
    #[arg(long, value_enum, conflicts_with_all = ["kernel", "initrd", "config", "bare", "only_bare"])]
    pub demo: Option<Demo>,
    /// Kernel of the guest: bzImage, Multiboot 1 or PVH ELF (default: Debian's RT kernel)
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Its first file system (default: busybox and cyclictest)
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Its command line, instead of the default one
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
    /// Words added to its command line
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// Virtual CPUs, on the cores from 1
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub vcpus: u32,
    /// Memory of the guest
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    pub memory: String,
    /// Run the VMs of this configuration; its files lie beside it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kernel", "initrd", "cmdline", "append", "vcpus", "memory"])]
    pub config: Option<PathBuf>,
    /// Join the guest's console with this terminal; the default guest starts a shell
    #[arg(long)]
    pub interactive: bool,
    /// Write the report to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Measurements of cyclictest on each CPU
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(100..))]
    pub loops: u32,
    /// Blocks that the guest of a demo reads from its disk
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(100..))]
    pub reads: u32,
    /// Boots of each kind with different start offsets, pooled in the report
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub boots: u32,
    /// Boot the same kernel on the bare machine too (the default with the default guest, but on KVM)
    #[arg(long, overrides_with = "no_bare")]
    pub bare: bool,
    /// Do not
    #[arg(long)]
    pub no_bare: bool,
    /// Boot only the bare machine, without Beeline
    #[arg(long, conflicts_with_all = ["no_bare", "interactive", "config"])]
    pub only_bare: bool,
    /// Machines at the same time (default: one per core of this host, at most 4)
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Wall time for one boot, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1200)]
    pub time_limit: u64,
    /// CPU model of Bochs
    #[arg(long, value_name = "MODEL", default_value = bed::LINUX_MODEL)]
    pub model: String,
}

/// Runs, prints the report; true when the guest finished and the figures hold.
///
/// # Errors
/// When something could not be built or started.
pub fn run(workspace: &Workspace, options: &Options) -> Result<bool> {
    let start = Instant::now();
    let bed = match options.demo {
        Some(demo) => demo.bed(options.bed)?,
        None => Bed::choose(options.bed)?,
    };
    if options.bed == Choice::Auto {
        progress::title(&format!(
            "Bed {}, CPU backend {} (--bed names another)",
            bed.name(),
            bed.backend()
        ));
    }
    let _ours = workspace.lock("run")?;
    let plan = Plan::make(workspace, options, bed)?;
    if options.interactive {
        return interactive(workspace, &plan);
    }
    let mut report = Report {
        bed: bed.name(),
        backend: bed.backend(),
        exits_per_timer: bed.exits_per_timer(),
        ips: bed.is_deterministic().then_some(bed::FIGURES_IPS),
        runs: Vec::new(),
    };
    progress::title(&format!(
        "{} boot(s) on {}, {} at a time ({})",
        plan.jobs.len(),
        bed.name(),
        plan.parallel,
        bed.patience()
    ));
    for (mode, boot) in boots::all(workspace, &plan)? {
        match report.runs.iter_mut().find(|run| run.mode == mode) {
            Some(run) => run.boots.push(boot),
            None => report.runs.push(Run { mode, vcpus: plan.vcpus, boots: vec![boot] }),
        }
    }
    report.runs.sort_by_key(|run| run.mode);
    let checks = verdict::checks(&report, plan.measures);
    println!("{}", table::text(&report, &checks));
    progress::note(format!("{:.0} s in all", start.elapsed().as_secs_f64()));
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&json::value(&report, &checks))?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
        progress::note(format!("report written to {}", file.display()));
    }
    Ok(checks.iter().all(|check| check.holds))
}

fn interactive(workspace: &Workspace, plan: &Plan) -> Result<bool> {
    let Some(job) = plan.jobs.iter().find(|job| job.mode == Mode::Direct) else {
        bail!("an interactive run needs the hypervisor: leave out --only-bare");
    };
    let mut machine = boots::machine(workspace, plan, job)?;
    machine.time_limit = Duration::MAX / 4;
    progress::title(&format!("Interactive run on {}", plan.bed.name()));
    let outcome = session::run(plan.bed, &machine, session::Console::Interactive)?;
    Ok(matches!(outcome.end, session::End::Exited(true) | session::End::Left))
}
