//! `cargo xtask test`: the host's unit and property tests, then the emulator tests.

use crate::command;
use crate::progress;
use crate::workspace::Workspace;
use anyhow::Result;
use std::process::Command;

/// Crates whose tests run on the host.
const HOST: [&str; 8] = [
    "arch-defs",
    "guest-loader",
    "arch",
    "hypervisor",
    "test-guest",
    "tools",
    "window",
    "qemu-tests",
];

/// What to test.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Only tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub filter: Option<String>,
    /// Where emulator tests run
    #[arg(long, value_enum, default_value = "auto")]
    pub bed: crate::bed::Choice,
    /// One line per emulator test: bed, name, requirements; runs none
    #[arg(long)]
    pub list: bool,
    /// Only the tests on the host
    #[arg(long, conflicts_with = "emulator_only")]
    pub host_only: bool,
    /// Only the tests in an emulator
    #[arg(long)]
    pub emulator_only: bool,
    /// Machines at the same time
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub jobs: usize,
}

/// Runs the tests; true when all passed. The emulator tests run even when a host test failed.
///
/// # Errors
/// When cargo cannot be started.
pub fn run(workspace: &Workspace, options: &Options) -> Result<bool> {
    let mut passed = true;
    if !options.emulator_only && !options.list {
        passed &= host(workspace, options.filter.as_deref())?;
    }
    if !options.host_only {
        passed &= emulator(workspace, options, &[])?;
    }
    Ok(passed)
}

fn host(workspace: &Workspace, filter: Option<&str>) -> Result<bool> {
    progress::title("Host tests");
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--no-fail-fast"]);
    for package in HOST {
        cargo.args(["--package", package]);
    }
    let mut passed = succeeds(cargo.args(filter))?;

    progress::title("Interleavings (loom)");
    let mut cargo = workspace.cargo();
    // Another flag for every crate: its own build directory, or the two would evict each other.
    cargo
        .env("CARGO_TARGET_DIR", workspace.target().join("loom"))
        .env("RUSTFLAGS", "--cfg loom")
        .args(["test", "--release", "--package", "hypervisor", "--test", "loom_kick"]);
    passed &= succeeds(cargo.args(filter))?;
    Ok(passed)
}

/// Runs the program of the crate `qemu-tests`, with `more` words.
///
/// # Errors
/// When it cannot be started.
pub fn emulator(workspace: &Workspace, options: &Options, more: &[&str]) -> Result<bool> {
    if !options.list {
        progress::title("Emulator tests");
    }
    let bed = match options.bed {
        crate::bed::Choice::Auto => "auto",
        crate::bed::Choice::Bochs => "bochs",
        crate::bed::Choice::Qemu => "qemu",
        crate::bed::Choice::Kvm => "kvm",
    };
    let mut cargo = workspace.cargo();
    cargo.args(["run", "--package", "qemu-tests", "--bin", "emulator-tests", "--"]);
    cargo.args(["--bed", bed, "--jobs", &options.jobs.to_string()]).args(more);
    if let Some(filter) = &options.filter {
        cargo.args(["--filter", filter]);
    }
    if options.list {
        cargo.arg("--list");
    }
    succeeds(&mut cargo)
}

fn succeeds(command: &mut Command) -> Result<bool> {
    let status = command.status();
    Ok(status
        .map_err(|why| anyhow::anyhow!("cannot start `{}`: {why}", command::text(command)))?
        .success())
}
