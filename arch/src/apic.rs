//! This core's local APIC in x2APIC mode, and the only writer of ICR in the image. SDM volume 3,
//! chapter 11.
//!
//! Physical APIC ids stay in here and in the map of cores: policy code names cores by index.

#![expect(unsafe_code, reason = "writes APIC MSRs")]

use crate::cpu::{self, rdmsr, wrmsr};
use arch_defs::apic::msr;
use core::arch::asm;

/// The vector of spurious interrupts on the housekeeping core.
pub const SPURIOUS_VECTOR: u8 = 0xFF;

const BASE_ENABLE: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;
const LVT_MASKED: u64 = 1 << 16;
const SVR_ENABLED: u64 = 1 << 8;
/// Divide by 1.
const TIMER_DIVIDE_1: u64 = 0b1011;
/// LVTs that every core has: timer, thermal, PMI, LINT0, LINT1, error.
const LVTS: [u32; 6] = [
    msr::LVT_TIMER,
    msr::LVT_THERMAL,
    msr::LVT_PMI,
    msr::LVT_LINT0,
    msr::LVT_LINT1,
    msr::LVT_ERROR,
];
/// ICR delivery modes.
const NMI: u64 = 4 << 8;
const INIT: u64 = 5 << 8 | 1 << 14;
const STARTUP: u64 = 6 << 8 | 1 << 14;

/// A physical x2APIC id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysicalApicId(pub u32);

/// What a LAPIC still holds after it should be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotEmpty {
    /// Highest vector in service, if any.
    pub in_service: Option<u8>,
    /// Highest vector requested, if any.
    pub requested: Option<u8>,
}

/// Switches this core to x2APIC mode. Legal from xAPIC mode and from x2APIC mode.
pub fn enable() {
    let base = rdmsr(msr::APIC_BASE);
    // SAFETY: the CPU has an x2APIC (checked at boot). Firmware may have left the LAPIC disabled;
    // then xAPIC mode comes first, as figure 11-27 of the SDM demands.
    unsafe {
        if base & BASE_ENABLE == 0 {
            wrmsr(msr::APIC_BASE, base | BASE_ENABLE);
        }
        // Bochs 2.7 leaves LDR at 0 until the second write; a repeated write harms nobody.
        wrmsr(msr::APIC_BASE, base | BASE_ENABLE | BASE_X2APIC);
        wrmsr(msr::APIC_BASE, base | BASE_ENABLE | BASE_X2APIC);
    }
    mask_lvts();
    // SAFETY: the spurious vector has a handler wherever IF is opened.
    unsafe {
        wrmsr(msr::TPR, 0);
        wrmsr(msr::SVR, SVR_ENABLED | u64::from(SPURIOUS_VECTOR));
    }
}

fn mask_lvts() {
    for lvt in LVTS {
        // SAFETY: a masked entry delivers nothing.
        unsafe { wrmsr(lvt, LVT_MASKED) };
    }
}

/// This core's id.
pub fn id() -> PhysicalApicId {
    PhysicalApicId(rdmsr(msr::ID) as u32)
}

/// Ends the interrupt in service with the highest priority.
#[inline(always)]
pub fn eoi() {
    // SAFETY: EOI with an empty ISR is harmless (requirement E5).
    unsafe { wrmsr(msr::EOI, 0) };
}

fn bit(first: u32, vector: u8) -> bool {
    rdmsr(first + u32::from(vector / 32)) >> (vector % 32) & 1 != 0
}

fn highest(first: u32) -> Option<u8> {
    (0..8_u32).rev().find_map(|word| {
        let bits = rdmsr(first + word) as u32;
        (bits != 0).then(|| (word * 32 + bits.ilog2()) as u8)
    })
}

/// True if the vector is in service on this core.
pub fn in_service(vector: u8) -> bool {
    bit(msr::ISR0, vector)
}

/// True if the vector is requested on this core.
pub fn requested(vector: u8) -> bool {
    bit(msr::IRR0, vector)
}

/// An x2APIC ICR write is not serialising: what was stored before must be visible to the target
/// first (SDM volume 3, section 11.12.3).
#[inline(always)]
fn fence() {
    // SAFETY: fences only order.
    unsafe { asm!("mfence", "lfence", options(nostack, preserves_flags)) };
}

/// The one place that writes ICR.
#[inline(always)]
fn write_icr(value: u64) {
    fence();
    // SAFETY: the callers compose values that deliver a vector to a core that expects it.
    unsafe { wrmsr(msr::ICR, value) };
}

/// Sends a fixed interrupt to one core, physical destination, edge.
#[inline(always)]
pub fn send_fixed(target: PhysicalApicId, vector: u8) {
    write_icr(u64::from(target.0) << 32 | 1 << 14 | u64::from(vector));
}

/// Sends a fixed interrupt to this core.
#[inline(always)]
pub fn send_self(vector: u8) {
    // SAFETY: IF is 0 in root mode: the vector waits in IRR for the guest it is meant for.
    unsafe { wrmsr(msr::SELF_IPI, u64::from(vector)) };
}

/// Makes this core's ESR show "send illegal vector", for a guest whose ICR write named a vector
/// below 16: the hardware refuses such a self-IPI and latches the error (SDM section 11.5.3).
pub fn latch_send_illegal_vector() {
    write_icr(1 << 18 | 1 << 14);
}

/// Sends an NMI: the kick.
pub fn send_nmi(target: PhysicalApicId) {
    write_icr(u64::from(target.0) << 32 | NMI | 1 << 14);
}

/// Sends INIT (bring-up of an application processor only).
pub fn send_init(target: PhysicalApicId) {
    write_icr(u64::from(target.0) << 32 | INIT);
}

/// Sends a start-up IPI for real-mode address `page << 12`.
pub fn send_startup(target: PhysicalApicId, page: u8) {
    write_icr(u64::from(target.0) << 32 | STARTUP | u64::from(page));
}

/// Starts a one-shot count down from the maximum, masked.
pub(crate) fn start_measuring_timer() {
    // SAFETY: the timer is masked and belongs to root mode until a guest gets this core.
    unsafe {
        wrmsr(msr::TIMER_DIVIDE, TIMER_DIVIDE_1);
        wrmsr(msr::LVT_TIMER, LVT_MASKED);
        wrmsr(msr::TIMER_INITIAL, u64::from(u32::MAX));
    }
}

/// The timer's current count.
pub(crate) fn timer_count() -> u32 {
    rdmsr(msr::TIMER_CURRENT) as u32
}

/// Stops this core's timer.
pub fn stop_timer() {
    // SAFETY: a count of 0 stops the timer, a masked entry delivers nothing.
    unsafe {
        wrmsr(msr::LVT_TIMER, LVT_MASKED);
        wrmsr(msr::TIMER_INITIAL, 0);
    }
}

/// Starts a one-shot timer of the housekeeping core, in ticks of the LAPIC timer.
pub fn start_timer(vector: u8, ticks: u32) {
    // SAFETY: the housekeeping core has a handler for the vector; guest cores never call this
    // (requirement C6).
    unsafe {
        wrmsr(msr::TIMER_DIVIDE, TIMER_DIVIDE_1);
        wrmsr(msr::LVT_TIMER, u64::from(vector));
        wrmsr(msr::TIMER_INITIAL, u64::from(ticks));
    }
}

/// Puts this core's LAPIC into the state after INIT, except that it stays in x2APIC mode: empty,
/// software-disabled, everything masked (SDM section 11.4.7.1).
///
/// # Errors
/// What is left, if the LAPIC does not become empty: a device keeps asserting a line.
pub fn reset() -> Result<(), NotEmpty> {
    stop_timer();
    if rdmsr(msr::APIC_BASE) & BASE_X2APIC != 0 && cpu::cpuid(1, 0)[2] & 1 << 24 != 0 {
        // SAFETY: zero disarms the deadline.
        unsafe { wrmsr(msr::TSC_DEADLINE, 0) };
    }
    mask_lvts();
    // SAFETY: what is accepted from here on is drained below.
    unsafe {
        wrmsr(msr::SVR, SVR_ENABLED | u64::from(SPURIOUS_VECTOR));
        wrmsr(msr::TPR, 0);
    }
    retire_all();
    crate::tables::drain_pending();
    // Vector 2, which QEMU's TCG delivers although no LAPIC should: the NMI handler took it.
    retire_all();
    let left = NotEmpty { in_service: highest(msr::ISR0), requested: highest(msr::IRR0) };
    // SAFETY: software-disabled is the state after INIT; the error register is cleared by a
    // write and TDCR starts at 0.
    unsafe {
        wrmsr(msr::SVR, u64::from(SPURIOUS_VECTOR));
        wrmsr(msr::TIMER_DIVIDE, 0);
        wrmsr(msr::ESR, 0);
    }
    if left.in_service.is_some() || left.requested.is_some() { Err(left) } else { Ok(()) }
}

/// Bochs 2.7 never retires a vector that equals the spurious vector, although a guest may send it
/// to itself as an ordinary interrupt: name another one while this one is retired. Harmless on
/// hardware.
fn keep_spurious_vector_off(vector: u8) {
    let spurious = if vector == SPURIOUS_VECTOR { SPURIOUS_VECTOR - 1 } else { SPURIOUS_VECTOR };
    // SAFETY: both vectors have handlers wherever IF is opened.
    unsafe { wrmsr(msr::SVR, SVR_ENABLED | u64::from(spurious)) };
}

/// Ends everything in service: at most one round per vector.
fn retire_all() {
    for _ in 0..256 {
        let Some(vector) = highest(msr::ISR0) else { break };
        retire(vector);
    }
}

/// Ends `vector`, the highest in service, while a LAPIC is emptied.
pub(crate) fn retire(vector: u8) {
    keep_spurious_vector_off(vector);
    eoi();
}

/// Writes a register that a guest's validated write may reach: SVR, an LVT or ESR.
pub fn write_validated(register: ValidatedRegister, value: u64) {
    let number = match register {
        ValidatedRegister::Svr => msr::SVR,
        ValidatedRegister::LvtError => msr::LVT_ERROR,
        ValidatedRegister::LvtTimer => msr::LVT_TIMER,
        ValidatedRegister::Tpr => msr::TPR,
        ValidatedRegister::TimerInitial => msr::TIMER_INITIAL,
        ValidatedRegister::TimerDivide => msr::TIMER_DIVIDE,
        ValidatedRegister::Esr => msr::ESR,
    };
    // SAFETY: the value went through the checks of `arch_defs::apic`; these registers act on this
    // core's guest only.
    unsafe { wrmsr(number, value) };
}

/// Registers that [`write_validated`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValidatedRegister {
    /// Spurious-interrupt vector register.
    Svr,
    /// Error LVT.
    LvtError,
    /// Timer LVT.
    LvtTimer,
    /// Task priority.
    Tpr,
    /// Timer initial count.
    TimerInitial,
    /// Timer divide configuration.
    TimerDivide,
    /// Error status.
    Esr,
}

/// Reads an x2APIC register of this core for an emulated read (xAPIC page).
///
/// # Errors
/// `None` for a register that a guest may not read this way.
pub fn read_register(number: u32) -> Option<u64> {
    const LAST_IRR: u32 = msr::IRR0 + 7;
    match number {
        msr::VERSION
        | msr::TPR
        | msr::PPR
        | msr::SVR
        | msr::ISR0..=LAST_IRR
        | msr::ESR
        | msr::LVT_TIMER
        | msr::LVT_ERROR
        | msr::TIMER_INITIAL
        | msr::TIMER_CURRENT
        | msr::TIMER_DIVIDE => Some(rdmsr(number)),
        _ => None,
    }
}
