//! How fast this machine's clocks run: TSC and LAPIC timer measured against the ACPI PM timer or
//! the PIT. CPUID leaves 0x15 and 0x16 are not trusted (an emulator copies them from a real CPU
//! and runs at another rate).

#![expect(unsafe_code, reason = "port I/O")]

use crate::{apic, cpu};
use x86::io::{inb, inl, outb};

/// PM timer frequency in Hz, ACPI specification section 4.8.3.3.
const PM_TIMER_HZ: u64 = 3_579_545;
/// PIT input frequency in Hz.
const PIT_HZ: u64 = 1_193_182;
/// How long to measure, in PM timer ticks: 20 ms.
const MEASURE: u64 = PM_TIMER_HZ / 50;

/// Clock rates in Hz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// TSC.
    pub tsc_hz: u64,
    /// LAPIC timer before its divider.
    pub lapic_hz: u64,
}

/// Measures on this core; its LAPIC timer is used and left stopped. `None` if no reference clock
/// moves.
pub fn measure(pm_timer: Option<u16>) -> Option<Rates> {
    let by_pm = pm_timer.and_then(measure_by_pm_timer);
    let (tsc, lapic, reference, hz) = by_pm.or_else(measure_by_pit)?;
    let per_second = |ticks: u64| {
        u64::try_from(u128::from(ticks) * u128::from(hz) / u128::from(reference.max(1))).ok()
    };
    Some(Rates { tsc_hz: per_second(tsc)?, lapic_hz: per_second(lapic)? })
}

type Sample = (u64, u64, u64, u64);

fn measure_by_pm_timer(port: u16) -> Option<Sample> {
    // SAFETY: the FADT names this port as the PM timer; reading it changes nothing. 24 bits are
    // always there.
    let read = || u64::from(unsafe { inl(port) }) & 0xFF_FFFF;
    let edge = |from: u64| (0..100_000).find_map(|_| Some(read()).filter(|&now| now != from));
    apic::start_measuring_timer();
    let start = edge(read())?;
    let (tsc0, lapic0) = (cpu::rdtsc(), apic::timer_count());
    let mut now = start;
    while now.wrapping_sub(start) & 0xFF_FFFF < MEASURE {
        now = read();
    }
    let (tsc1, lapic1) = (cpu::rdtsc(), apic::timer_count());
    apic::stop_timer();
    let reference = now.wrapping_sub(start) & 0xFF_FFFF;
    Some((tsc1 - tsc0, u64::from(lapic0.wrapping_sub(lapic1)), reference, PM_TIMER_HZ))
}

/// PIT channel 2, gated by port 0x61, one shot of about 20 ms.
fn measure_by_pit() -> Option<Sample> {
    const COUNT: u16 = (PIT_HZ / 50) as u16;
    apic::start_measuring_timer();
    // SAFETY: the PIT and port 0x61 are the machine's; no guest runs yet.
    unsafe {
        outb(0x61, (inb(0x61) & !2) | 1);
        outb(0x43, 0xB0);
        outb(0x42, COUNT as u8);
        outb(0x42, (COUNT >> 8) as u8);
    }
    let (tsc0, lapic0) = (cpu::rdtsc(), apic::timer_count());
    // SAFETY: as above.
    let done = (0..10_000_000).any(|_| unsafe { inb(0x61) } & 0x20 != 0);
    let (tsc1, lapic1) = (cpu::rdtsc(), apic::timer_count());
    apic::stop_timer();
    done.then(|| (tsc1 - tsc0, u64::from(lapic0.wrapping_sub(lapic1)), u64::from(COUNT), PIT_HZ))
}

/// Waits for a number of TSC ticks.
pub fn delay(ticks: u64) {
    let start = cpu::rdtsc();
    while cpu::rdtsc().wrapping_sub(start) < ticks {
        cpu::pause();
    }
}
