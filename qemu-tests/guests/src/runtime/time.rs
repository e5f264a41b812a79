//! Time is counted in ticks of the TSC: under an emulator that is the number of instructions.

use super::{boot, cpu};
use core::sync::atomic::{AtomicU64, Ordering};

/// Ticks that any single step of a test may take before it counts as lost: long in an emulator, 10 ms on a machine.
pub const LONG: u64 = 30_000_000;

static TSC_HZ: AtomicU64 = AtomicU64::new(10_000_000);

/// Fixes the frequency: the command line's, else CPUID 0x15's under a hypervisor (bare emulators lie there), else 10 MHz.
pub fn init() {
    let leaf = cpu::cpuid(0, 0).eax;
    let hz = boot::options().tsc_hz.or_else(|| {
        if boot::options().bare || leaf < 0x15 {
            return None;
        }
        let ratio = cpu::cpuid(0x15, 0);
        let (numerator, denominator) = (u64::from(ratio.ebx), u64::from(ratio.eax));
        (u64::from(ratio.ecx) * numerator).checked_div(denominator).filter(|hz| *hz != 0)
    });
    if let Some(hz) = hz {
        TSC_HZ.store(hz, Ordering::Relaxed);
    }
}

/// Ticks per second.
pub fn tsc_hz() -> u64 {
    TSC_HZ.load(Ordering::Relaxed)
}

/// Spins for `ticks`.
pub fn delay(ticks: u64) {
    let start = cpu::rdtsc();
    while cpu::rdtsc().wrapping_sub(start) < ticks {
        cpu::pause();
    }
}

/// Spins until `done()` or for `ticks`; true when done.
pub fn wait(ticks: u64, mut done: impl FnMut() -> bool) -> bool {
    let start = cpu::rdtsc();
    loop {
        if done() {
            return true;
        }
        if cpu::rdtsc().wrapping_sub(start) >= ticks {
            return done();
        }
        cpu::pause();
    }
}
