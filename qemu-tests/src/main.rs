//! `emulator-tests`: started by `cargo xtask test` and `cargo xtask bench`.

use anyhow::Result;
use clap::Parser;
use qemu_tests::{bench, runner};
use std::process::ExitCode;
use tools::bed::{Bed, Choice};
use tools::workspace::Workspace;

/// Boots the image in an emulator and tests it.
#[derive(Parser)]
struct Arguments {
    /// Only results whose name (`boot::test`) contains this
    #[arg(long, default_value = "")]
    filter: String,
    /// Where to run
    #[arg(long, value_enum, default_value = "auto")]
    bed: Choice,
    /// Print one line per test (bed, name, requirements) and run none
    #[arg(long)]
    list: bool,
    /// Measure instead of testing
    #[arg(long)]
    bench: bool,
    /// Machines at the same time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

fn main() -> ExitCode {
    match execute(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("error: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(arguments: &Arguments) -> Result<bool> {
    let workspace = Workspace::find()?;
    // Both vendors' backends; a nested machine would be one CPU of the host's.
    let beds = match arguments.bed {
        Choice::Auto => vec![Bed::Bochs, Bed::Qemu],
        choice => vec![Bed::choose(choice)?],
    };
    if arguments.list {
        runner::list(&workspace, &beds, &arguments.filter)?;
        return Ok(true);
    }
    if arguments.bench {
        // Bochs first: its figures are instructions.
        let bed = beds.first().copied().unwrap_or(Bed::Bochs);
        return bench::run(&workspace, bed, &arguments.filter, arguments.jobs);
    }
    runner::run(&workspace, &beds, &arguments.filter, arguments.jobs)
}
