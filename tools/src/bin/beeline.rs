//! `beeline`: for the owner of a machine. Judges the machine, checks its configuration and packs it; needs no
//! source tree at run time.

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tools::readiness::machine::Machine;
use tools::{config, readiness};

#[derive(Parser)]
#[command(name = "beeline", about = "Prepare a machine for Beeline", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check a configuration and the images it names; they lie beside it
    ///
    /// An error names file, line and field. The exit status is 0 if all is well, else 1.
    Check {
        /// The configuration
        #[arg(value_name = "FILE", default_value = "beeline.toml")]
        file: PathBuf,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
    /// Pack a configuration into the boot module that the image reads
    ///
    /// Prints the lines of grub.cfg that load it and the files it names. These are not looked at: `check` does.
    Pack {
        /// The configuration
        #[arg(value_name = "FILE", default_value = "beeline.toml")]
        file: PathBuf,
        /// Where to write the module
        #[arg(short, long, value_name = "OUT")]
        output: PathBuf,
    },
    /// Has this Linux machine what Beeline needs?
    ///
    /// One line per feature: yes, no with what to do about it, or ? for what is not visible from here. The exit
    /// status is 1 if a feature is missing that is not optional.
    Host {
        /// Print the answers as JSON
        #[arg(long)]
        json: bool,
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
    match command {
        Command::Check { file, json } => return check(&file, json),
        Command::Pack { file, output } => {
            print!("{}", config::pack(&config::read(&file)?, &output)?);
        }
        Command::Host { json } => {
            let features = readiness::judge(&Machine::look(Path::new("/")));
            if json {
                println!("{:#}", readiness::value(&features));
            } else {
                print!("{}", readiness::text(&features));
            }
            return Ok(readiness::ready(&features) != Some(false));
        }
    }
    Ok(true)
}

fn check(file: &Path, json: bool) -> Result<bool> {
    let checked = config::check(file);
    if json {
        let value = match &checked {
            Ok(config) => json!({
                "ok": true,
                "vms": config.vms.iter().map(|vm| json!({
                    "name": vm.name, "cpus": vm.cpus, "memory": vm.memory, "kernel": vm.kernel,
                })).collect::<Vec<_>>(),
            }),
            Err(problem) => json!({
                "ok": false, "file": problem.file, "line": problem.line, "field": problem.field,
                "message": problem.message,
            }),
        };
        println!("{value:#}");
        return Ok(checked.is_ok());
    }
    for vm in checked?.vms {
        println!("ok  vm {}: cpus {:?}, {} MiB, {}", vm.name, vm.cpus, vm.memory >> 20, vm.kernel);
    }
    Ok(true)
}
