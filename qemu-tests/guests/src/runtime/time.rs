//! Time is measured by the TSC and told in units of 100 ns. In the emulator that counts instructions (Bochs, 10 million a
//! second in tests) a unit is one tick and one instruction.

#![expect(unsafe_code, reason = "reads a page that the hypervisor writes")]

use super::{boot, cpu, lapic};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

/// Units in a second.
pub const UNITS: u64 = 10_000_000;
/// Units that any single step of a test may take before it counts as lost: three seconds.
pub const LONG: u64 = 3 * UNITS;

static TSC_HZ: AtomicU64 = AtomicU64::new(UNITS);
static TICKS_PER_UNIT: AtomicU64 = AtomicU64::new(1);
static COUNTS_PER_UNIT: AtomicU64 = AtomicU64::new(1);

/// Fixes the TSC's frequency: the command line's; on a bare machine (whose CPUID may lie) the PIT's measure; under a
/// hypervisor what CPUID 0x15 or KVM's clock says; else one tick is a unit.
pub fn init() {
    let options = boot::options();
    let told = options.tsc_hz.or_else(|| match options.bare {
        true => Some(by_pit()),
        false => told_tsc_hz(),
    });
    if let Some(hz) = told.filter(|hz| *hz != 0) {
        TSC_HZ.store(hz, Ordering::Relaxed);
        TICKS_PER_UNIT.store((hz / UNITS).max(1), Ordering::Relaxed);
    }
}

/// How often a step is repeated: `count` where time is counted in instructions, a fifth of it where the emulator shares its
/// host's CPUs and a step may wait for another core's turn.
pub fn shared(count: u64) -> u64 {
    if ticks(1) > 1 { count / 5 } else { count }
}

/// Measures the LAPIC timer against the TSC; its divider stays at 1, the timer stopped. SDM 11.5.4.
pub fn measure_lapic_timer() {
    const SPAN: u64 = 10_000;
    lapic::write(lapic::LVT_TIMER, lapic::MASKED);
    lapic::write(lapic::TIMER_DIVIDE, 0b1011);
    lapic::write(lapic::TIMER_INITIAL, 0xFFFF_FFFF);
    let (start, first) = (cpu::rdtsc(), lapic::read(lapic::TIMER_CURRENT));
    delay(SPAN);
    let (end, last) = (cpu::rdtsc(), lapic::read(lapic::TIMER_CURRENT));
    lapic::stop_timer();
    let counts = (first - last) * ticks(1);
    COUNTS_PER_UNIT.store(((counts + (end - start) / 2) / (end - start)).max(1), Ordering::Relaxed);
}

/// The TSC's frequency as a hypervisor tells it.
pub fn told_tsc_hz() -> Option<u64> {
    by_cpuid().or_else(by_kvm_clock)
}

/// SDM 2A, CPUID leaf 0x15.
fn by_cpuid() -> Option<u64> {
    if cpu::cpuid(0, 0).eax < 0x15 {
        return None;
    }
    let ratio = cpu::cpuid(0x15, 0);
    let (numerator, denominator) = (u64::from(ratio.ebx), u64::from(ratio.eax));
    (u64::from(ratio.ecx) * numerator).checked_div(denominator).filter(|hz| *hz != 0)
}

/// KVM's per-CPU clock page; Linux, Documentation/virt/kvm/x86/msr.rst.
#[repr(C, align(64))]
struct ClockPage(UnsafeCell<[u32; 16]>);
// SAFETY: only the boot CPU and the hypervisor touch it.
unsafe impl Sync for ClockPage {}
static CLOCK: ClockPage = ClockPage(UnsafeCell::new([0; 16]));

/// The frequency that KVM's clock implies: nanoseconds = (ticks << shift) * multiplier >> 32.
fn by_kvm_clock() -> Option<u64> {
    const MSR_KVM_SYSTEM_TIME_NEW: u32 = 0x4B56_4D01;
    const CLOCKSOURCE2: u32 = 1 << 3;
    let signature = cpu::cpuid(0x4000_0000, 0);
    let kvm = signature.eax >= 0x4000_0001 && signature.ebx == u32::from_le_bytes(*b"KVMK");
    if !kvm || cpu::cpuid(0x4000_0001, 0).eax & CLOCKSOURCE2 == 0 {
        return None;
    }
    cpu::wrmsr(MSR_KVM_SYSTEM_TIME_NEW, CLOCK.0.get() as u64 | 1);
    // SAFETY: inside the page; the hypervisor wrote it before the MSR write returned.
    let word = |index: usize| unsafe { CLOCK.0.get().cast::<u32>().add(index).read_volatile() };
    let (multiplier, shift) = (word(6), word(7) as u8 as i8);
    cpu::wrmsr(MSR_KVM_SYSTEM_TIME_NEW, 0);
    let hz = (1_000_000_000u64 << 32).checked_div(u64::from(multiplier))?;
    Some(if shift < 0 { hz << -shift } else { hz >> shift })
}

/// Channel 2 of the PIT, gated by port 0x61: a one-shot of 20 ms.
pub fn by_pit() -> u64 {
    const PIT_HZ: u64 = 1_193_182;
    const COUNT: u16 = (PIT_HZ / 50) as u16;
    cpu::out8(0x61, cpu::in8(0x61) & !2 | 1);
    cpu::out8(0x43, 0xB0);
    cpu::out8(0x42, COUNT as u8);
    cpu::out8(0x42, (COUNT >> 8) as u8);
    let start = cpu::rdtsc();
    if !(0..10_000_000).any(|_| cpu::in8(0x61) & 0x20 != 0) {
        return 0;
    }
    (cpu::rdtsc() - start) * PIT_HZ / u64::from(COUNT)
}

/// TSC ticks per second.
pub fn tsc_hz() -> u64 {
    TSC_HZ.load(Ordering::Relaxed)
}

/// `units` in ticks of the TSC.
pub fn ticks(units: u64) -> u64 {
    units.saturating_mul(TICKS_PER_UNIT.load(Ordering::Relaxed))
}

/// `units` in counts of the LAPIC timer, divided by 1.
pub fn counts(units: u64) -> u32 {
    let counts = units.saturating_mul(COUNTS_PER_UNIT.load(Ordering::Relaxed));
    u32::try_from(counts).unwrap_or(u32::MAX)
}

/// Spins for `units`.
pub fn delay(units: u64) {
    let (start, ticks) = (cpu::rdtsc(), ticks(units));
    while cpu::rdtsc().wrapping_sub(start) < ticks {
        cpu::pause();
    }
}

/// Spins until `done()` or for `units`; true when done.
pub fn wait(units: u64, mut done: impl FnMut() -> bool) -> bool {
    let (start, ticks) = (cpu::rdtsc(), ticks(units));
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
