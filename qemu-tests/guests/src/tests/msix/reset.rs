//! A function-level reset of the guest's own function, as Linux does it (D1, S7, S8). PCIe 5.0, 6.6.2.

use super::{ENTRIES, Igb};
use crate::runtime::arrivals::each_arrives;
use crate::runtime::pci::{self, Function, Message};
use crate::runtime::registry::{figure, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{boot, cpu, irq, lapic, smp, time};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

tests! { "msix", Machine:
    d1_function_reset_is_a_short_exit_and_kicks_are_served,
    s8_function_reset_under_hostile_accesses,
}

/// What a whole reset takes at least: nobody may speak to the function for 100 ms.
const RESET: u64 = time::UNITS / 10;
/// What no exit may come near, however busy the host of an emulator.
const SHORT: u64 = RESET / 4;
/// Resets at least, and at most until the best figures are good: a busy host takes a CPU away when it likes, for as long as
/// a tenth of a reset and more. An exit that lasts as long as a reset is never good.
const TRIES: core::ops::Range<u64> = 4..60;
const VECTOR: u8 = 0x61;

static STOP: AtomicBool = AtomicBool::new(false);
static SENT: AtomicU64 = AtomicU64::new(0);
/// Ticks that an NMI took at most.
static LONGEST: AtomicU64 = AtomicU64::new(0);

/// Sends CPU 0 one NMI after the other. Each is a request and a kick.
fn send_nmis() -> Outcome {
    while !STOP.load(Ordering::SeqCst) {
        let (before, start) = (irq::nmis(0), cpu::rdtsc());
        lapic::send(0, lapic::NMI | lapic::ASSERT);
        let taken = time::wait(time::LONG, || irq::nmis(0) > before);
        ensure!(taken, "an NMI was lost");
        LONGEST.fetch_max(cpu::rdtsc() - start, Ordering::SeqCst);
        SENT.fetch_add(1, Ordering::SeqCst);
        time::delay(2_000);
    }
    Ok(())
}

/// One reset, in units: its write, the longest read while the function was away, how long that was.
#[derive(Clone, Copy)]
struct Took {
    write: u64,
    read: u64,
    away: u64,
    nmi: u64,
}

impl Took {
    /// The best of each.
    fn best(self, other: Self) -> Self {
        Self {
            write: self.write.min(other.write),
            read: self.read.min(other.read),
            away: self.away.min(other.away),
            nmi: self.nmi.min(other.nmi),
        }
    }

    fn is_good(self) -> bool {
        self.write.max(self.read).max(self.nmi) < SHORT
    }
}

fn timed<T>(act: impl FnOnce() -> T) -> (T, u64) {
    let start = cpu::rdtsc();
    let result = act();
    (result, (cpu::rdtsc() - start) / time::ticks(1))
}

/// Initiates a reset and waits until the function answers; `meanwhile` is done to it again and again.
fn reset(function: Function, meanwhile: impl Fn()) -> Outcome<Took> {
    let control = function.express()? + 8;
    let settings = function.read(control) as u16;
    let bars: [u32; 6] = core::array::from_fn(|bar| function.read(pci::BAR0 + 4 * bar as u16));
    let start = cpu::rdtsc();
    let ((), write) = timed(|| function.write16(control, settings | 1 << 15));
    let mut longest = 0;
    let back = time::wait(time::LONG, || {
        let (command, took) = timed(|| function.read(pci::COMMAND));
        longest = longest.max(took);
        if command == u32::MAX {
            meanwhile();
            time::delay(1_000);
        }
        command != u32::MAX
    });
    ensure!(back, "the function did not come back");
    let away = (cpu::rdtsc() - start) / time::ticks(1);
    for (bar, value) in (0..).zip(bars) {
        function.write(pci::BAR0 + 4 * bar, value);
    }
    Ok(Took { write, read: longest, away, nmi: 0 })
}

/// One reset, with nothing meanwhile.
pub fn plain(function: Function) -> Outcome {
    reset(function, || ()).map(drop)
}

/// The function works: each entry arrives.
fn works() -> Outcome {
    let igb = Igb::find()?;
    for entry in 0..ENTRIES {
        igb.route(entry, Message::to(entry % 2, VECTOR));
        each_arrives(entry % 2, VECTOR, 1, || igb.fire(1 << entry))?;
    }
    Ok(())
}

/// A reset with NMIs all the time.
fn reset_under_kicks(function: Function) -> Outcome<Took> {
    STOP.store(false, Ordering::SeqCst);
    LONGEST.store(0, Ordering::SeqCst);
    let running = smp::spawn(1, &send_nmis)?;
    let before = SENT.load(Ordering::SeqCst);
    let took = reset(function, || ());
    // On the bare emulator it is over at once.
    let some = time::wait(time::LONG, || SENT.load(Ordering::SeqCst) > before + 20);
    STOP.store(true, Ordering::SeqCst);
    running.wait(time::ticks(2 * time::LONG))?;
    ensure!(some, "NMIs stood still");
    Ok(Took { nmi: LONGEST.load(Ordering::SeqCst) / time::ticks(1), ..took? })
}

fn d1_function_reset_is_a_short_exit_and_kicks_are_served() -> Outcome {
    smp::others()?;
    works()?;
    let igb = Igb::find()?;
    let function = igb.function;
    let mut best = Took { write: u64::MAX, read: u64::MAX, away: u64::MAX, nmi: u64::MAX };
    let mut tries = 0;
    while tries < TRIES.start || tries < TRIES.end && !best.is_good() {
        tries += 1;
        let took = reset_under_kicks(function)?;
        ensure_eq!(function.read(pci::COMMAND) & 0x7FF, 0, "command register after the reset");
        ensure_eq!(igb.msix.control_word() & 0xC000, 0, "MSI-X after the reset");
        ensure!(
            boot::options().bare || took.away >= RESET,
            "it was back after {} units",
            took.away
        );
        best = best.best(took);
        works()?;
    }
    for (name, units) in [
        ("function_reset_write", best.write),
        ("function_reset_longest_read", best.read),
        ("function_reset_longest_nmi", best.nmi),
        ("function_reset_whole", best.away),
    ] {
        // A unit is a tenth of a microsecond.
        figure(name, units as i64, "us", tries);
    }
    ensure!(best.write < SHORT, "the write of a reset took {} units", best.write);
    ensure!(best.read < SHORT, "a read during a reset took {} units", best.read);
    ensure!(best.nmi < SHORT, "an NMI during a reset took {} units", best.nmi);
    Ok(())
}

fn s8_function_reset_under_hostile_accesses() -> Outcome {
    smp::others()?;
    let igb = Igb::find()?;
    let (function, registers) = (igb.function, igb.registers);
    igb.route(0, Message::to(1, VECTOR));
    let control = function.express()? + 8;
    let write = |at, value| function.write16(at, value);
    reset(function, || {
        // A reset inside a reset, all that the command register has, the MSI-X table, the memory itself.
        write(control, 1 << 15);
        write(pci::COMMAND, 0xFFFF);
        igb.msix.control(true, false);
        igb.msix.mask(0, false);
        igb.msix.program(0, Message::to(0, VECTOR));
        cpu::mmio_write(registers + super::EICS, !0);
        let _ = cpu::mmio_read(registers);
    })?;
    // The last of these may have met the function when it was back: it is reset once more.
    reset(function, || ())?;
    ensure_eq!(igb.msix.control_word() & 0xC000, 0, "MSI-X after the reset");
    works()
}
