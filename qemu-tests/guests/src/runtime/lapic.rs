//! The local APIC in either mode. Registers are named by their x2APIC number: MSR 0x800 + n, or the page's offset 16 n.
//! SDM 3A chapter 11.

use super::cpu::{self, IA32_APIC_BASE, IA32_TSC_DEADLINE, rdmsr, wrmsr};
use super::irq::SPURIOUS;
use super::smp::MAX_CPUS;
use super::{tables, time};
use core::sync::atomic::{AtomicBool, Ordering};

pub const ID: u32 = 0x02;
pub const VERSION: u32 = 0x03;
pub const TPR: u32 = 0x08;
pub const PPR: u32 = 0x0A;
pub const EOI: u32 = 0x0B;
pub const LDR: u32 = 0x0D;
pub const SVR: u32 = 0x0F;
pub const ISR: u32 = 0x10;
pub const TMR: u32 = 0x18;
pub const IRR: u32 = 0x20;
pub const ESR: u32 = 0x28;
pub const LVT_CMCI: u32 = 0x2F;
pub const ICR: u32 = 0x30;
pub const LVT_TIMER: u32 = 0x32;
pub const LVT_THERMAL: u32 = 0x33;
pub const LVT_PMI: u32 = 0x34;
pub const LVT_LINT0: u32 = 0x35;
pub const LVT_LINT1: u32 = 0x36;
pub const LVT_ERROR: u32 = 0x37;
pub const TIMER_INITIAL: u32 = 0x38;
pub const TIMER_CURRENT: u32 = 0x39;
pub const TIMER_DIVIDE: u32 = 0x3E;
pub const SELF_IPI: u32 = 0x3F;

/// Mask bit of an LVT.
pub const MASKED: u64 = 1 << 16;
/// LVT timer modes.
pub const ONE_SHOT: u64 = 0;
pub const PERIODIC: u64 = 1 << 17;
pub const DEADLINE: u64 = 2 << 17;

/// APIC_BASE: global enable and x2APIC mode.
pub const BASE_ENABLE: u64 = 1 << 11;
pub const BASE_X2APIC: u64 = 1 << 10;

/// ICR delivery modes; Fixed is 0.
pub const LOWEST: u64 = 1 << 8;
pub const NMI: u64 = 4 << 8;
pub const INIT: u64 = 5 << 8;
pub const STARTUP: u64 = 6 << 8;
/// ICR: logical destination, level asserted, shorthands.
pub const LOGICAL: u64 = 1 << 11;
pub const ASSERT: u64 = 1 << 14;
pub const TO_SELF: u64 = 1 << 18;
pub const TO_ALL: u64 = 2 << 18;
pub const TO_OTHERS: u64 = 3 << 18;
/// The x2APIC broadcast destination.
pub const BROADCAST: u32 = 0xFFFF_FFFF;

/// Where the registers are in xAPIC mode.
pub const PAGE: u64 = 0xFEE0_0000;

static XAPIC: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

static AT_BOOT: AtomicBool = AtomicBool::new(false);

static HAS_DEADLINE: AtomicBool = AtomicBool::new(false);

/// Whether this CPU's LAPIC is in xAPIC mode.
pub fn is_xapic() -> bool {
    XAPIC[tables::current()].load(Ordering::Relaxed)
}

/// Reads a register.
pub fn read(register: u32) -> u64 {
    if is_xapic() {
        let low = u64::from(page_read(register));
        return if register == ICR { low | u64::from(page_read(ICR + 1)) << 32 } else { low };
    }
    rdmsr(0x800 + register)
}

/// Writes a register.
pub fn write(register: u32, value: u64) {
    if !is_xapic() {
        return wrmsr(0x800 + register, value);
    }
    if register == ICR {
        page_write(ICR + 1, (value >> 32 << 24) as u32);
    }
    page_write(register, value as u32);
}

/// Reads a register of the xAPIC page.
pub fn page_read(register: u32) -> u32 {
    cpu::mmio_read(PAGE + 16 * u64::from(register))
}

/// Writes a register of the xAPIC page.
pub fn page_write(register: u32, value: u32) {
    cpu::mmio_write(PAGE + 16 * u64::from(register), value);
}

/// Whether the boot CPU was in x2APIC mode before anybody asked for it.
pub fn was_x2apic_at_boot() -> bool {
    AT_BOOT.load(Ordering::Relaxed)
}

/// Brings this CPU's LAPIC to x2APIC mode (or leaves it in xAPIC mode where `xapic` asks), enabled, all LVTs masked.
pub fn init(xapic: bool) {
    let base = rdmsr(IA32_APIC_BASE);
    if tables::current() == 0 {
        AT_BOOT.store(base & BASE_X2APIC != 0, Ordering::Relaxed);
        HAS_DEADLINE.store(cpu::cpuid(1, 0).ecx >> 24 & 1 != 0, Ordering::Relaxed);
    }
    if xapic && base & BASE_X2APIC != 0 {
        // From x2APIC to xAPIC the only legal way leads through "disabled".
        let plain = base & !(BASE_ENABLE | BASE_X2APIC);
        wrmsr(IA32_APIC_BASE, plain);
        wrmsr(IA32_APIC_BASE, plain | BASE_ENABLE);
    } else if !xapic && base & BASE_X2APIC == 0 {
        // Twice: Bochs 2.7 sets the logical id only at the second write. Writing the same value again is legal.
        wrmsr(IA32_APIC_BASE, base | BASE_ENABLE);
        wrmsr(IA32_APIC_BASE, base | BASE_ENABLE | BASE_X2APIC);
        wrmsr(IA32_APIC_BASE, base | BASE_ENABLE | BASE_X2APIC);
    }
    note_mode();
    quiesce();
}

/// Learns the mode from APIC_BASE, after a test has changed it.
pub fn note_mode() {
    let xapic = rdmsr(IA32_APIC_BASE) & BASE_X2APIC == 0;
    XAPIC[tables::current()].store(xapic, Ordering::Relaxed);
}

/// Software-enabled, all LVTs masked, timer stopped, TPR 0, nothing in service. Call with IF = 0.
pub fn quiesce() {
    write(SVR, 0x100 | u64::from(SPURIOUS));
    write(LVT_TIMER, MASKED);
    write(TIMER_INITIAL, 0);
    for lvt in [LVT_THERMAL, LVT_PMI, LVT_LINT0, LVT_LINT1, LVT_ERROR] {
        write(lvt, MASKED);
    }
    write(TPR, 0);
    // Bochs 2.7 does not retire a vector that equals the spurious one, so try with two.
    for spurious in [SPURIOUS - 1, SPURIOUS] {
        write(SVR, 0x100 | u64::from(spurious));
        for _ in 0..256 {
            if (0..8).all(|word| read(ISR + word) == 0) {
                break;
            }
            eoi();
        }
    }
    write(ESR, 0);
}

/// End of interrupt.
pub fn eoi() {
    write(EOI, 0);
}

/// This CPU's id, as IPIs address it.
pub fn id() -> u32 {
    if is_xapic() { page_read(ID) >> 24 } else { rdmsr(0x800 + ID) as u32 }
}

fn bit(first: u32, vector: u8) -> bool {
    read(first + u32::from(vector) / 32) >> (vector % 32) & 1 != 0
}

/// Whether `vector` is in service.
pub fn in_service(vector: u8) -> bool {
    bit(ISR, vector)
}

/// Whether `vector` is requested.
pub fn requested(vector: u8) -> bool {
    bit(IRR, vector)
}

/// The highest vector of a 256-bit register, ISR or IRR.
pub fn highest(first: u32) -> Option<u8> {
    (0..8).rev().find_map(|word| {
        let bits = read(first + word) as u32;
        (bits != 0).then(|| (32 * word + 31 - bits.leading_zeros()) as u8)
    })
}

/// Sends an IPI: `low` is the ICR's low half, `destination` the id it goes to. Waits for the xAPIC to accept it.
pub fn send(destination: u32, low: u64) {
    // An x2APIC ICR write is not serialising: what the receiver shall see must be visible first.
    core::sync::atomic::fence(Ordering::SeqCst);
    write(ICR, u64::from(destination) << 32 | low);
    if is_xapic() {
        while page_read(ICR) & (1 << 12) != 0 {
            cpu::pause();
        }
    }
}

/// Sends `vector` to this CPU by the SELF_IPI register (in xAPIC mode, which has none, by ICR).
pub fn self_ipi(vector: u8) {
    if is_xapic() {
        send(0, TO_SELF | u64::from(vector));
    } else {
        wrmsr(0x800 + SELF_IPI, u64::from(vector));
    }
}

/// TSC-deadline mode on `vector`; arm it with `arm`.
pub fn deadline_timer(vector: u8) {
    write(LVT_TIMER, DEADLINE | u64::from(vector));
    // SDM 11.5.4.1: in xAPIC mode the LVT write must be done before the MSR is written.
    core::sync::atomic::fence(Ordering::SeqCst);
}

/// Arms the deadline at an absolute TSC value; 0 disarms.
pub fn arm(deadline: u64) {
    wrmsr(IA32_TSC_DEADLINE, deadline);
}

/// One-shot or periodic mode, divided by 1, for `units` of time.
pub fn count_timer(mode: u64, vector: u8, units: u64) {
    write(TIMER_DIVIDE, 0b1011);
    write(LVT_TIMER, mode | u64::from(vector));
    write(TIMER_INITIAL, u64::from(time::counts(units)));
}

/// A timer that fires once on `vector` each time that `alarm` arms it: TSC-deadline mode where the CPU has it, else
/// one-shot mode.
pub fn alarm_timer(vector: u8) {
    if has_deadline() {
        deadline_timer(vector);
    } else {
        count_timer(ONE_SHOT, vector, 0);
    }
}

/// Arms `alarm_timer` for `units` of time from now.
pub fn alarm(units: u64) {
    if has_deadline() {
        arm(cpu::rdtsc() + time::ticks(units));
    } else {
        // A count of 0 would stop it.
        write(TIMER_INITIAL, u64::from(time::counts(units).max(1)));
    }
}

/// Arms `alarm_timer` so that it fires at once.
pub fn alarm_now() {
    if has_deadline() {
        arm(1);
    } else {
        alarm(0);
    }
}

/// Whether the timer has TSC-deadline mode: CPUID.1:ECX[24] at the start.
pub fn has_deadline() -> bool {
    HAS_DEADLINE.load(Ordering::Relaxed)
}

/// Stops the timer in any mode.
pub fn stop_timer() {
    write(TIMER_INITIAL, 0);
    write(LVT_TIMER, MASKED);
}
