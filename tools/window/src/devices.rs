//! `window devices`: opens the measured window while a disk is read and a neighbour is pinged, and
//! says which PCI function raised how many interrupts in it.
//!
//! The reader is this program, since a program that starts in the window would cost exits of its own.
//! Each load runs on the CPU that takes its device's interrupts: else every completion would wake
//! another CPU by an IPI, which is an exit that the device did not ask for.

use crate::functions::{self, Function};
use crate::ping::Ping;
use crate::port::Window;
use crate::{USAGE, interrupts};
use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{self, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Past the page cache, from `asm-generic/fcntl.h`: each read is one command and one interrupt.
const O_DIRECT: i32 = 0o40_000;
/// Bytes of a read, and its alignment.
const BLOCK: usize = 4096;
/// Reads that show which CPU takes the disk's interrupts.
const PROBES: u64 = 64;
/// The window's port.
const PORT: u16 = 0xBE0;

struct Options {
    block: String,
    network: String,
    address: String,
    reads: u64,
    span: Duration,
}

fn options(words: &[String]) -> Result<Options, Box<dyn Error>> {
    let [block, network, address, reads, span] = words else { return Err(USAGE.into()) };
    Ok(Options {
        block: block.clone(),
        network: network.clone(),
        address: address.clone(),
        reads: reads.parse()?,
        span: Duration::from_millis(span.parse()?),
    })
}

/// `devices BLOCK-DEVICE INTERFACE ADDRESS READS MIN-MS`.
pub fn run(words: &[String]) -> Result<(), Box<dyn Error>> {
    let o = options(words)?;
    let window = Window::open_device(PORT)?;
    let functions = functions::all()?;
    let mut disk = Disk::open(&o.block)?;
    let cpu = follow_interrupts(&mut disk, &functions)?;
    let cpus = functions::cpus(&fs::read_to_string("/proc/interrupts")?);
    let other = (0..cpus).find(|other| *other != cpu).unwrap_or(cpu);
    let network = Path::new("/sys/class/net").join(&o.network);
    let network = functions::of(&functions, &network)
        .ok_or_else(|| format!("{} is no PCI function with MSI", o.network))?;
    network.move_to(other)?;
    let ping = Ping::start(&o.address, other)?;
    // Time for its start, and for one walk along the path that the window takes.
    for _ in 0..2 {
        snapshot(&functions)?;
        window.set(false)?;
        disk.read(o.reads / 10 + 1)?;
        sleep(Duration::from_millis(500));
    }

    let before = snapshot(&functions)?;
    window.set(true)?;
    let start = Instant::now();
    let mut reads = 0;
    while reads < o.reads || start.elapsed() < o.span {
        disk.read(1)?;
        reads += 1;
    }
    let span = start.elapsed();
    window.set(false)?;
    let after = snapshot(&functions)?;

    ping.end()?;
    let list = |before: &[u64], after: &[u64]| {
        let differences = before.iter().zip(after).map(|(b, a)| a.saturating_sub(*b));
        let items = differences.enumerate().map(|(cpu, count)| format!("cpu{cpu}={count}"));
        items.collect::<Vec<_>>().join(" ")
    };
    println!("GUEST window timer_interrupts {}", list(&before.timer, &after.timer));
    for ((function, before), after) in functions.iter().zip(&before.devices).zip(&after.devices) {
        let (address, driver) = (&function.address, &function.driver);
        println!("GUEST device pci={address} driver={driver} {}", list(before, after));
    }
    println!("GUEST reads block={BLOCK} count={reads} us={}", span.as_micros());
    Ok(())
}

/// `/proc/interrupts` at one moment.
struct Snapshot {
    timer: Vec<u64>,
    devices: Vec<Vec<u64>>,
}

fn snapshot(functions: &[Function]) -> Result<Snapshot, Box<dyn Error>> {
    let text = fs::read_to_string("/proc/interrupts")?;
    let devices = functions.iter().map(|function| function.counts(&text)).collect();
    Ok(Snapshot { timer: interrupts::local_timer_in(&text)?, devices })
}

/// Moves this program to the CPU that takes the interrupts of the disk. Where each CPU has a queue,
/// that is the CPU that reads.
fn follow_interrupts(disk: &mut Disk, functions: &[Function]) -> Result<usize, Box<dyn Error>> {
    let all = |text: &str| -> Vec<u64> {
        let nvme = functions.iter().filter(|function| function.driver == "nvme");
        let mut sums = vec![0; functions::cpus(text)];
        for counts in nvme.map(|function| function.counts(text)) {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        sums
    };
    let mut cpu = 0;
    for _ in 0..3 {
        bind(cpu)?;
        let before = all(&fs::read_to_string("/proc/interrupts")?);
        disk.read(PROBES)?;
        let after = all(&fs::read_to_string("/proc/interrupts")?);
        let growth = |(cpu, (before, after)): (usize, (&u64, &u64))| (after - before, cpu);
        let most = before.iter().zip(&after).enumerate().map(growth).max();
        match most {
            None | Some((0, _)) => return Err("the disk raises no interrupts".into()),
            Some((_, taker)) if taker == cpu => return Ok(cpu),
            Some((_, taker)) => cpu = taker,
        }
    }
    Err("the disk's interrupts go to another CPU each time".into())
}

/// Binds this program to `cpu`.
fn bind(cpu: usize) -> Result<(), Box<dyn Error>> {
    let mask = format!("{:x}", 1_u64 << cpu);
    let bound = Command::new("taskset").args(["-p", &mask, &process::id().to_string()]).output()?;
    if bound.status.success() { Ok(()) } else { Err("taskset failed".into()) }
}

/// A block device, read in an order that no read-ahead guesses.
struct Disk {
    file: File,
    blocks: u64,
    next: u64,
    buffer: Vec<u8>,
}

impl Disk {
    fn open(name: &str) -> Result<Self, Box<dyn Error>> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(O_DIRECT)
            .open(name)
            .map_err(|why| format!("cannot open {name}: {why}"))?;
        let blocks = file.seek(SeekFrom::End(0))? / BLOCK as u64;
        if blocks == 0 {
            return Err(format!("{name} is empty").into());
        }
        Ok(Self { file, blocks, next: 0, buffer: vec![0; 2 * BLOCK] })
    }

    fn read(&mut self, count: u64) -> Result<(), Box<dyn Error>> {
        let start = self.buffer.as_ptr().align_offset(BLOCK);
        let buffer = self.buffer.get_mut(start..start + BLOCK).ok_or("no aligned buffer")?;
        for _ in 0..count {
            self.file.read_exact_at(buffer, self.next * BLOCK as u64)?;
            // 1021 is prime: all blocks come before one comes again, unless it divides their number.
            self.next = (self.next + 1021) % self.blocks;
        }
        Ok(())
    }
}
