//! `cargo xtask`: everything a developer or a visitor does with this repository.

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use tools::bed::Bed;
use tools::workspace::{BARE_METAL, Profile, Workspace};
use tools::{check, image, iso, loc, run, setup, symbolise, test};

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
    /// Run the tests of the host and those in an emulator
    Test(test::Options),
    /// Measure single paths in instructions, under Beeline and on the bare machine
    Bench(test::Options),
    /// Build the image and the test guest
    Image {
        /// As it is measured, without audits and debug hooks
        #[arg(long)]
        release: bool,
    },
    /// Make a boot image from a configuration; the files it names lie beside it
    Iso {
        /// The configuration
        #[arg(long, value_name = "FILE", default_value = "beeline.toml")]
        config: PathBuf,
        /// The hypervisor's command line
        #[arg(long, value_name = "TEXT", default_value = "")]
        cmdline: String,
        /// Where to write it
        #[arg(long, value_name = "FILE", default_value = "beeline.iso")]
        output: PathBuf,
        /// With audits and debug hooks
        #[arg(long)]
        debug: bool,
    },
    /// Check formatting and lints
    Check,
    /// Count lines of Rust
    Loc,
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
        Command::Test(options) => return test::run(&workspace, &options),
        Command::Bench(options) => return test::emulator(&workspace, &options, &["--bench"]),
        Command::Image { release } => {
            setup::rust(&workspace)?;
            let profile = if release { Profile::Release } else { Profile::Debug };
            println!("{}", image::hypervisor(&workspace, profile)?.display());
            println!("{}", image::test_guest(&workspace)?.display());
        }
        Command::Iso { config, cmdline, output, debug } => {
            setup::host(&workspace, &[])?;
            let profile = if debug { Profile::Debug } else { Profile::Release };
            iso::of_config(&workspace, &config, cmdline, profile, &output)?;
            println!("{}", output.display());
        }
        Command::Check => check::run(&workspace)?,
        Command::Loc => loc::print(&workspace)?,
        Command::Setup { refresh } => {
            setup::host(&workspace, &[Bed::Bochs, Bed::Qemu])?;
            setup::guest(&workspace, refresh)?;
        }
        Command::Symbolise { image, file } => {
            let default = || workspace.program(BARE_METAL, Profile::Debug, "hypervisor");
            symbolise::print(&image.unwrap_or_else(default), file.as_deref())?;
        }
    }
    Ok(true)
}
