//! Runs inside a Linux guest, started by its `/init`: opens the measured window before the first
//! measurement of cyclictest, closes it before the last, and prints what programs read (`GUEST …`).
//! Or opens it while it reads a disk and a neighbour is pinged. Or starts another kernel.
//!
//! A static program. Ports are written through `/dev/port`, without unsafe code.

mod clock;
mod cyclictest;
mod devices;
mod functions;
mod histogram;
mod interrupts;
mod kexec;
mod ping;
mod port;
mod schedule;
mod threads;

use std::env;
use std::error::Error;
use std::fs;
use std::process::ExitCode;

const USAGE: &str = "usage: window run [--port 0xbe0] [--output FILE] --threads N --loops N
                  --interval-us US --offset-us US -- cyclictest --secaligned=US ARGS…
       window histogram FILE CPU,CPU…
       window devices BLOCK-DEVICE INTERFACE ADDRESS READS MIN-MS
       window kexec KERNEL INITRAMFS COMMAND-LINE…
       window exit bochs|debug-exit";

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let done = match words.first().map(String::as_str) {
        Some("run") => cyclictest::run(&words[1..]),
        Some("histogram") => histogram(&words[1..]),
        Some("devices") => devices::run(&words[1..]),
        Some("kexec") => kexec::run(&words[1..]),
        Some("exit") => port::exit(words.get(1).map_or("", String::as_str)),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("GUEST error {why}");
            ExitCode::FAILURE
        }
    }
}

fn histogram(words: &[String]) -> Result<(), Box<dyn Error>> {
    let [file, cpus] = words else { return Err(USAGE.into()) };
    let cpus: Vec<&str> = cpus.split(',').collect();
    for line in histogram::lines(&fs::read_to_string(file)?, &cpus)? {
        println!("{line}");
    }
    Ok(())
}
