//! The VMX instructions. SDM volume 3, chapter 31.

#![expect(unsafe_code, reason = "VMX instructions have no safe form")]

use arch_defs::vmx::Field;
use core::arch::asm;

/// How a VMX instruction failed (SDM volume 3, section 31.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmFail {
    /// VMfailInvalid: there is no current VMCS.
    Invalid,
    /// VMfailValid: the VM-instruction error field has the number.
    Valid,
}

fn outcome(carry: u8, zero: u8) -> Result<(), VmFail> {
    match (carry, zero) {
        (0, 0) => Ok(()),
        (0, _) => Err(VmFail::Valid),
        _ => Err(VmFail::Invalid),
    }
}

/// Enters VMX operation.
///
/// # Safety
/// `region` is a page of its own, kept for good, with the revision identifier written; CR4.VMXE is
/// set and FEATURE_CONTROL allows it.
pub unsafe fn vmxon(region: u64) -> Result<(), VmFail> {
    let (carry, zero): (u8, u8);
    // SAFETY: as the caller promises; the memory operand is a local variable.
    unsafe {
        asm!("vmxon [{r}]", "setc {c}", "setz {z}", r = in(reg) &region,
             c = out(reg_byte) carry, z = out(reg_byte) zero);
    }
    outcome(carry, zero)
}

/// Makes a VMCS inactive and writes it back to memory.
///
/// # Safety
/// `region` is a VMCS page that no other core has active.
pub unsafe fn vmclear(region: u64) -> Result<(), VmFail> {
    let (carry, zero): (u8, u8);
    // SAFETY: as the caller promises.
    unsafe {
        asm!("vmclear [{r}]", "setc {c}", "setz {z}", r = in(reg) &region,
             c = out(reg_byte) carry, z = out(reg_byte) zero);
    }
    outcome(carry, zero)
}

/// Makes a VMCS current on this core.
///
/// # Safety
/// `region` is a VMCS page that no other core has active.
pub unsafe fn vmptrld(region: u64) -> Result<(), VmFail> {
    let (carry, zero): (u8, u8);
    // SAFETY: as the caller promises.
    unsafe {
        asm!("vmptrld [{r}]", "setc {c}", "setz {z}", r = in(reg) &region,
             c = out(reg_byte) carry, z = out(reg_byte) zero);
    }
    outcome(carry, zero)
}

/// Reads a field of the current VMCS. Unchecked, since it stands on the exit path: a field that
/// the CPU lacks reads as an undefined value.
#[inline(always)]
pub fn vmread(field: Field) -> u64 {
    let value: u64;
    // SAFETY: reading a VMCS field touches no memory; the backend runs in VMX operation only.
    unsafe {
        asm!("vmread {v}, {f}", v = out(reg) value, f = in(reg) field as u64,
             options(nomem, nostack));
    }
    value
}

/// Writes a field of the current VMCS. Unchecked, since it stands on the exit path: a field that the
/// CPU lacks is not written, and the capabilities that a field belongs to are checked at boot.
#[inline(always)]
pub fn vmwrite(field: Field, value: u64) {
    // SAFETY: only the current VMCS changes, which belongs to this core alone; host-state fields
    // are written once, at set-up, from values read on this core.
    unsafe {
        asm!("vmwrite {f}, {v}", v = in(reg) value, f = in(reg) field as u64,
             options(nostack));
    }
}

/// Invalidation type of INVEPT and INVVPID: one context.
pub const SINGLE_CONTEXT: u64 = 1;

/// Drops the cached translations of one EPT pointer.
pub fn invept(eptp: u64) {
    let descriptor = [eptp, 0_u64];
    // SAFETY: dropping cached translations is always allowed.
    unsafe {
        asm!("invept {t}, [{d}]", t = in(reg) SINGLE_CONTEXT, d = in(reg) &descriptor,
             options(nostack));
    }
}

/// Drops the cached translations of one VPID.
pub fn invvpid(vpid: u16) {
    let descriptor = [u64::from(vpid), 0_u64];
    // SAFETY: dropping cached translations is always allowed.
    unsafe {
        asm!("invvpid {t}, [{d}]", t = in(reg) SINGLE_CONTEXT, d = in(reg) &descriptor,
             options(nostack));
    }
}
