//! Runs inside a Linux guest, started by its `/init`: opens the measured window once every thread
//! of a program runs, closes it before they end, and prints what programs read (`GUEST …`). Or opens
//! it while it reads a disk and a neighbour is pinged.
//!
//! A static program without dependencies. Ports are written through `/dev/port`, so there is no
//! unsafe code. Inside the window it does nothing but sleep: each program start would cost about
//! 60 CPUID exits, and each file it reads would be work on a measured CPU.

mod devices;
mod functions;
mod histogram;
mod interrupts;
mod ping;
mod port;
mod threads;

use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

const USAGE: &str =
    "usage: window run [--port 0xbe0] [--threads N] [--span-ms MS] [--output FILE] -- PROGRAM ARGS…
       window histogram FILE CPU,CPU…
       window devices BLOCK-DEVICE INTERFACE ADDRESS READS MIN-MS
       window exit bochs|debug-exit";

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let done = match words.first().map(String::as_str) {
        Some("run") => run(&words[1..]),
        Some("histogram") => histogram(&words[1..]),
        Some("devices") => devices::run(&words[1..]),
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

struct Options {
    port: u16,
    threads: usize,
    span: Duration,
    output: String,
    program: Vec<String>,
}

fn options(words: &[String]) -> Result<Options, Box<dyn Error>> {
    let mut o = Options {
        port: 0xBE0,
        threads: 1,
        span: Duration::from_millis(500),
        output: "/dev/null".into(),
        program: Vec::new(),
    };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            o.program = words.cloned().collect();
            return if o.program.is_empty() { Err(USAGE.into()) } else { Ok(o) };
        }
        let value = words.next().ok_or(USAGE)?;
        match word.as_str() {
            "--port" => o.port = port::parse(value)?,
            "--threads" => o.threads = value.parse()?,
            "--output" => o.output.clone_from(value),
            "--span-ms" => o.span = Duration::from_millis(value.parse()?),
            _ => return Err(USAGE.into()),
        }
    }
    Err(USAGE.into())
}

fn run(words: &[String]) -> Result<(), Box<dyn Error>> {
    let o = options(words)?;
    let window = port::Window::open_device(o.port)?;
    let (name, arguments) = o.program.split_first().ok_or(USAGE)?;
    // Not on the console: a serial port at work disturbs the CPU that serves it.
    let output = File::create(&o.output)?;
    let mut child =
        Command::new(name).args(arguments).stdout(output.try_clone()?).stderr(output).spawn()?;
    if !threads::wait_until_running(child.id(), o.threads)? {
        child.wait()?;
        return Err(format!("{name} ended before its {} threads ran", o.threads).into());
    }
    keep_on_one_cpu(child.id())?;
    // Take the path once that the window takes, so that nothing in it happens for the first time.
    interrupts::local_timer()?;
    window.set(false)?;
    sleep(Duration::from_millis(20));

    let before = interrupts::local_timer()?;
    window.set(true)?;
    sleep(o.span);
    window.set(false)?;
    let after = interrupts::local_timer()?;

    let inside = child.try_wait()?.is_none();
    let status = child.wait()?;
    let counts: Vec<String> = before
        .iter()
        .zip(&after)
        .enumerate()
        .map(|(cpu, (before, after))| format!("cpu{cpu}={}", after.saturating_sub(*before)))
        .collect();
    println!("GUEST window timer_interrupts {}", counts.join(" "));
    if !inside {
        return Err("the program ended inside the window: give it more loops".into());
    }
    if !status.success() {
        return Err(format!("{name} failed: {status}").into());
    }
    Ok(())
}

/// Binds a process's first thread, which only waits for the others, to the first CPU. Else the
/// scheduler moves it to whichever CPU is idle at each of its wake-ups, and each move is an IPI in the
/// window that no measuring thread asked for. Its other threads stay where they are.
fn keep_on_one_cpu(pid: u32) -> Result<(), Box<dyn Error>> {
    let bound = Command::new("taskset").args(["-p", "1", &pid.to_string()]).output()?;
    if bound.status.success() { Ok(()) } else { Err("taskset failed".into()) }
}

fn histogram(words: &[String]) -> Result<(), Box<dyn Error>> {
    let [file, cpus] = words else { return Err(USAGE.into()) };
    let cpus: Vec<&str> = cpus.split(',').collect();
    for line in histogram::lines(&fs::read_to_string(file)?, &cpus)? {
        println!("{line}");
    }
    Ok(())
}
