//! Starts cyclictest and opens the window over its measurements: `window run`.
//!
//! From the first measurement to the last this only sleeps, but for the write that closes the
//! window: each program start would cost about 60 CPUID exits, and whatever runs on a measured CPU
//! while a timer expires there makes that latency another one, shorter or longer.

use crate::schedule::{self, Schedule};
use crate::{USAGE, clock, interrupts, port, threads};
use std::error::Error;
use std::fs::File;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

/// From the end of all preparation to the first measurement, at least.
const QUIET: Duration = Duration::from_millis(10);
/// Starts of cyclictest that may take too long; one is enough where the clock is not the host's.
const TRIES: u32 = 10;

struct Options {
    port: u16,
    threads: usize,
    loops: u32,
    interval: Duration,
    offset: Duration,
    output: String,
    program: Vec<String>,
}

fn options(words: &[String]) -> Result<Options, Box<dyn Error>> {
    let mut o = Options {
        port: 0xBE0,
        threads: 1,
        loops: 1000,
        interval: Duration::from_millis(1),
        offset: Duration::ZERO,
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
            "--loops" => o.loops = value.parse()?,
            "--interval-us" => o.interval = Duration::from_micros(value.parse()?),
            "--offset-us" => o.offset = Duration::from_micros(value.parse()?),
            "--output" => o.output.clone_from(value),
            _ => return Err(USAGE.into()),
        }
    }
    Err(USAGE.into())
}

/// Measures once, as the words of the command line say.
pub fn run(words: &[String]) -> Result<(), Box<dyn Error>> {
    let o = options(words)?;
    let window = port::Window::open_device(o.port)?;
    // Take the path once that the window takes, so that nothing in it happens for the first time.
    interrupts::local_timer()?;
    window.set(false)?;
    let (mut child, schedule) = start(&o)?;
    // Only now: cyclictest would inherit it.
    threads::keep_on_first_cpu(None)?;

    clock::sleep_until(schedule.start - QUIET)?;
    let before = interrupts::local_timer()?;
    window.set(true)?;
    clock::sleep_until(schedule.before_last())?;
    window.set(false)?;
    // To read the counts is work: not before the last measurement. It counts itself, and a tick.
    clock::sleep_until(schedule.last() + o.interval)?;
    let after = interrupts::local_timer()?;

    let status = child.wait()?;
    let counts: Vec<u64> =
        before.iter().zip(&after).map(|(before, after)| after.saturating_sub(*before)).collect();
    let words = counts.iter().enumerate().map(|(cpu, count)| format!("cpu{cpu}={count}"));
    println!("GUEST window timer_interrupts {}", words.collect::<Vec<_>>().join(" "));
    if !status.success() {
        return Err(format!("cyclictest failed: {status}").into());
    }
    // On a clock that stands still at times, measurements are left out: half of them will do.
    if counts.iter().filter(|count| **count >= u64::from(o.loops / 2)).count() < o.threads {
        return Err("cyclictest did not measure in the window".into());
    }
    Ok(())
}

/// Starts the program until all its threads sleep early enough towards a second that is certain.
fn start(o: &Options) -> Result<(Child, Schedule), Box<dyn Error>> {
    let (name, arguments) = o.program.split_first().ok_or(USAGE)?;
    for _ in 0..TRIES {
        // Not on the console: a serial port at work disturbs the CPU that serves it.
        let output = File::create(&o.output)?;
        clock::sleep_until(schedule::start(clock::now()?))?;
        let second = clock::now()?.as_secs();
        let mut child = Command::new(name)
            .args(arguments)
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()?;
        if !threads::wait_until_asleep(child.id(), o.threads)? {
            child.wait()?;
            return Err(format!("{name} ended before its {} threads ran", o.threads).into());
        }
        threads::keep_on_first_cpu(Some(child.id()))?;
        sleep(QUIET);
        let now = clock::now()?;
        match Schedule::of(now, o.offset, o.interval, o.loops) {
            Some(schedule) if now.as_secs() == second => return Ok((child, schedule)),
            _ => {
                child.kill()?;
                child.wait()?;
            }
        }
    }
    Err(format!("{name} took too long to start").into())
}
