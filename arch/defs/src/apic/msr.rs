//! Numbers of the local APIC's model-specific registers.
//!
//! Used by `arch::apic`, by the MSR bitmaps of both backends and by the MSR exit handler. No locks.
//! Source: SDM volume 3, "x2APIC Register Address Space"; volume 4 for IA32_APIC_BASE and IA32_TSC_DEADLINE.

/// IA32_APIC_BASE: enable bits and the base of the xAPIC page.
pub const APIC_BASE: u32 = 0x1B;
/// IA32_TSC_DEADLINE: absolute TSC value (ticks) at which the timer fires, 0 when disarmed.
pub const TSC_DEADLINE: u32 = 0x6E0;

/// First MSR of the x2APIC range.
pub const X2APIC_FIRST: u32 = 0x800;
/// Last MSR of the x2APIC range.
pub const X2APIC_LAST: u32 = 0x8FF;

/// Local APIC id, read only.
pub const ID: u32 = 0x802;
/// Version and number of LVT entries, read only.
pub const VERSION: u32 = 0x803;
/// Task priority.
pub const TPR: u32 = 0x808;
/// Processor priority, read only.
pub const PPR: u32 = 0x80A;
/// End of interrupt, write only; any value but 0 is #GP.
pub const EOI: u32 = 0x80B;
/// Logical destination, derived from the id, read only.
pub const LDR: u32 = 0x80D;
/// Spurious-interrupt vector, with the software-enable bit.
pub const SVR: u32 = 0x80F;
/// First of eight in-service registers (32 vectors each), read only.
pub const ISR0: u32 = 0x810;
/// First of eight trigger-mode registers, read only.
pub const TMR0: u32 = 0x818;
/// First of eight interrupt-request registers, read only.
pub const IRR0: u32 = 0x820;
/// Error status; a write of 0 latches, any other write is #GP.
pub const ESR: u32 = 0x828;
/// LVT entry of corrected machine checks.
pub const LVT_CMCI: u32 = 0x82F;
/// Interrupt command, 64 bits.
pub const ICR: u32 = 0x830;
/// LVT entry of the timer.
pub const LVT_TIMER: u32 = 0x832;
/// LVT entry of the thermal sensor.
pub const LVT_THERMAL: u32 = 0x833;
/// LVT entry of the performance counters.
pub const LVT_PMI: u32 = 0x834;
/// LVT entry of the pin LINT0.
pub const LVT_LINT0: u32 = 0x835;
/// LVT entry of the pin LINT1.
pub const LVT_LINT1: u32 = 0x836;
/// LVT entry of APIC errors.
pub const LVT_ERROR: u32 = 0x837;
/// Initial count of the timer, in divided bus clocks.
pub const TIMER_INITIAL: u32 = 0x838;
/// Current count of the timer, read only, in divided bus clocks.
pub const TIMER_CURRENT: u32 = 0x839;
/// Divider of the timer.
pub const TIMER_DIVIDE: u32 = 0x83E;
/// Self-IPI, write only: a vector to this very APIC.
pub const SELF_IPI: u32 = 0x83F;

/// First and last of AMD's extended registers, which guests never see.
pub const AMD_EXTENDED: core::ops::RangeInclusive<u32> = 0x840..=0x853;

/// ESR bit 5: this APIC was told to send an illegal vector.
pub const ESR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
/// ESR bit 6: this APIC received, or was programmed with, an illegal vector.
pub const ESR_RECEIVED_ILLEGAL_VECTOR: u32 = 1 << 6;
/// ESR bit 7: a reserved register was accessed (xAPIC state only; x2APIC faults instead).
pub const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;
