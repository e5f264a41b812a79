//! The MSR policy: what a guest's RDMSR and WRMSR do, one row per register or range.
//!
//! The rows are in `msr_policy/table.rs`; a register without a row is #GP, which the caller logs at
//! a limited rate. [`MsrState`] holds what a vCPU has written to the registers that only remember.
//!
//! Callers: the MSR exit ([`common_row`], [`lookup`], [`MsrState`]) and both backends' bitmaps ([`passes`]). No
//! locks. SDM vol. 4, APM vol. 2 appendix A.

mod state;
mod table;
#[cfg(test)]
mod tests;

use super::cpuid::Vendor;
use arch_defs::apic::LvtRegister;
pub use state::{Gp, MsrState};
use table::{LOW, TABLE};

/// What RDMSR does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Reads the hardware's register, without an exit.
    Pass,
    /// Always this value.
    Value(u64),
    /// Answered by a module of ours.
    Emulated(Kind),
    /// #GP.
    Gp,
}

/// What WRMSR does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Writes the hardware's register, without an exit.
    Pass,
    /// Dropped.
    Ignore,
    /// Dropped; the first one is logged, since the guest may count on it.
    IgnoreLogOnce(Once),
    /// Taken by a module of ours, which may refuse it with #GP.
    Emulated(Kind),
    /// #GP.
    Gp,
}

/// The emulated registers, by who emulates them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IA32_APIC_BASE: the three-state machine of `arch_defs::apic::ApicBase`.
    ApicBase,
    /// The vCPU's APIC id.
    ApicId,
    /// The version register.
    Version,
    /// The logical id derived from it.
    Ldr,
    /// The interrupt command: checked, translated, sent.
    Icr,
    /// The spurious-interrupt vector.
    Svr,
    /// One entry of the local vector table.
    Lvt(LvtRegister),
    /// EFER: the backend's.
    Efer,
    /// KVM's system time: the clock page is written where it says.
    SystemTime,
    /// KVM's wall clock.
    WallClock,
    /// Remembered by [`MsrState`].
    Held(Held),
}

/// The registers of [`MsrState`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// IA32_MISC_ENABLE.
    MiscEnable,
    /// IA32_MTRR_PHYSBASEn and PHYSMASKn.
    MtrrVariable,
    /// The fixed-range MTRRs.
    MtrrFixed,
    /// IA32_MTRR_DEF_TYPE.
    MtrrDefType,
    /// Reads 0, takes 0 only.
    Zero,
}

/// The dropped writes that are logged once per vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Once {
    /// IA32_TIME_STAMP_COUNTER.
    Tsc,
    /// IA32_TSC_ADJUST.
    TscAdjust,
    /// IA32_DEBUGCTL.
    DebugCtl,
}

/// One row of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// First register.
    pub first: u32,
    /// Last register.
    pub last: u32,
    /// The vendor that has it; none: both.
    pub vendor: Option<Vendor>,
    /// What RDMSR does.
    pub read: Read,
    /// What WRMSR does.
    pub write: Write,
}

/// The row of a register that has one for both vendors, as nearly all have: the short way.
#[inline(always)]
pub fn common_row(msr: u32) -> Option<&'static Row> {
    let row = TABLE.get(usize::from(*LOW.get(msr as usize)?))?;
    (row.vendor.is_none() && row.first <= msr).then_some(row)
}

/// The row of a register; none: #GP, and worth a line in the log.
pub fn lookup(vendor: Vendor, msr: u32) -> Option<&'static Row> {
    search(msr).find(|row| row.vendor.is_none_or(|only| only == vendor))
}

/// Whether RDMSR and WRMSR of this register pass without an exit, on either vendor.
pub fn passes(msr: u32) -> (bool, bool) {
    search(msr).fold((false, false), |(read, write), row| {
        (read || row.read == Read::Pass, write || row.write == Write::Pass)
    })
}

/// The rows of a register: none, one, or one per vendor.
fn search(msr: u32) -> impl Iterator<Item = &'static Row> {
    let first = TABLE.partition_point(|row| row.last < msr);
    TABLE.iter().skip(first).take_while(move |row| row.first <= msr)
}
