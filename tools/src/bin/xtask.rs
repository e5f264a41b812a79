//! `cargo xtask`: everything a developer or a visitor does with this repository.

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use tools::workspace::{BARE_METAL, Profile, Workspace};
use tools::{run, setup, symbolise};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, run and test Beeline", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a Linux guest with direct interrupts and print its figures
    Run(Box<run::Options>),
    /// Install and download what the other commands need
    Setup {
        /// Ask for newer guest packages
        #[arg(long)]
        refresh: bool,
    },
    /// Name the functions in a panic's backtrace
    Symbolise {
        /// The ELF file it came from (default: the debug image)
        #[arg(long, value_name = "ELF")]
        image: Option<PathBuf>,
        /// Text with the backtrace (default: standard input)
        file: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    match execute(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("error: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> Result<bool> {
    let workspace = Workspace::find()?;
    match command {
        Command::Run(options) => return run::run(&workspace, &options),
        Command::Setup { refresh } => {
            setup::host(&workspace, true)?;
            setup::guest(&workspace, refresh)?;
        }
        Command::Symbolise { image, file } => {
            let default = || workspace.program(BARE_METAL, Profile::Debug, "hypervisor");
            symbolise::print(&image.unwrap_or_else(default), file.as_deref())?;
        }
    }
    Ok(true)
}
