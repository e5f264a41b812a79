//! What this core's VMX offers, and turning it on. SDM volume 3, section 24.6 to 24.8, appendix A.

#![expect(unsafe_code, reason = "turns VMX on and writes MSRs")]

use super::insn;
use crate::cpu;
use crate::heap;
use crate::virt::Unusable;
use arch_defs::vmx::feature_control::IA32_FEATURE_CONTROL;
use arch_defs::vmx::{ControlKind, FeatureControl, control, fit_controls};

const VMX_BASIC: u32 = 0x480;
const VMX_CR0_FIXED0: u32 = 0x486;
const VMX_CR4_FIXED0: u32 = 0x488;
const VMX_EPT_VPID_CAP: u32 = 0x48C;
const CR4_VMXE: u64 = 1 << 13;

/// The control words that every direct-mode VMCS starts from.
#[derive(Clone, Copy, Debug)]
pub struct Controls {
    pub pin: u32,
    pub proc: u32,
    pub proc2: u32,
    pub exit: u32,
    pub entry: u32,
}

/// VMCS revision identifier, SDM volume 3 section 25.2.
pub fn revision() -> u32 {
    cpu::rdmsr(VMX_BASIC) as u32 & 0x7FFF_FFFF
}

/// CR0 bits that must be 1 in VMX operation, except PE and PG, which an unrestricted guest may
/// clear.
pub fn cr0_fixed() -> u64 {
    cpu::rdmsr(VMX_CR0_FIXED0) & !(cpu::CR0_PE | cpu::CR0_PG)
}

/// CR4 bits that must be 1 in VMX operation.
pub fn cr4_fixed() -> u64 {
    cpu::rdmsr(VMX_CR4_FIXED0)
}

fn fit(kind: ControlKind, wanted: u32) -> Result<u32, Unusable> {
    let has_true = cpu::rdmsr(VMX_BASIC) & (1 << 55) != 0;
    fit_controls(kind, wanted, cpu::rdmsr(kind.capability_msr(has_true))).map_err(|missing| {
        Unusable {
            missing: match missing.kind {
                ControlKind::Pin => {
                    "VMX pin-based control missing (NMI exiting, virtual NMIs, preemption timer)"
                }
                ControlKind::Proc => "VMX primary control missing (MSR bitmaps, secondary)",
                ControlKind::Proc2 => "VMX secondary control missing (EPT, unrestricted guest)",
                ControlKind::Exit => "VM-exit control missing (64-bit host, PAT, EFER)",
                ControlKind::Entry => "VM-entry control missing (PAT, EFER)",
            },
            hint: "this CPU is too old for Beeline, or the outer hypervisor hides the feature",
            bits: u64::from(missing.bits),
        }
    })
}

/// The controls of a direct-mode vCPU on this core.
pub fn direct_controls() -> Result<Controls, Unusable> {
    use control::{Entry, Exit, Pin, Proc, Proc2};
    // The preemption timer makes an entry exit at once, the windows wait for the guest: all three
    // are switched on when they are needed.
    let on_demand = Pin::PREEMPTION_TIMER.bits();
    let windows = (Proc::INTERRUPT_WINDOW | Proc::NMI_WINDOW).bits();
    let proc = fit(
        ControlKind::Proc,
        (Proc::MWAIT_EXITING
            | Proc::MONITOR_EXITING
            | Proc::RDPMC_EXITING
            | Proc::UNCONDITIONAL_IO
            | Proc::MSR_BITMAPS
            | Proc::SECONDARY)
            .bits()
            | windows,
    )?;
    // Only now is it known that the secondary controls' MSR exists.
    let optional2 = {
        let msr = cpu::rdmsr(ControlKind::Proc2.capability_msr(true));
        Proc2::from_bits_truncate((msr >> 32) as u32) & (Proc2::RDTSCP | Proc2::INVPCID)
    };
    let proc2 = fit(
        ControlKind::Proc2,
        (Proc2::EPT | Proc2::VPID | Proc2::UNRESTRICTED_GUEST | optional2).bits(),
    )?;
    // The oldest requirement comes first in the message: a CPU without EPT lacks the others too.
    let pin = fit(ControlKind::Pin, (Pin::NMI_EXITING | Pin::VIRTUAL_NMIS).bits() | on_demand)?;
    Ok(Controls {
        pin: pin & !on_demand,
        proc: proc & !windows,
        proc2,
        exit: fit(
            ControlKind::Exit,
            (Exit::SAVE_DEBUG
                | Exit::HOST_64
                | Exit::SAVE_PAT
                | Exit::LOAD_PAT
                | Exit::SAVE_EFER
                | Exit::LOAD_EFER)
                .bits(),
        )?,
        entry: fit(
            ControlKind::Entry,
            (Entry::LOAD_DEBUG | Entry::LOAD_PAT | Entry::LOAD_EFER).bits(),
        )?,
    })
}

/// Largest EPT page: 2 for 1 GiB (bit 17), else 1 for 2 MiB.
pub fn largest_page() -> usize {
    if cpu::rdmsr(VMX_EPT_VPID_CAP) & 1 << 17 != 0 { 2 } else { 1 }
}

fn check_ept() -> Result<(), Unusable> {
    let cap = cpu::rdmsr(VMX_EPT_VPID_CAP);
    // Walk length 4, write-back structures, 2 MiB pages, INVEPT and INVVPID of a single context.
    let need = (1 << 6) | (1 << 14) | (1 << 16) | (1 << 20) | (1 << 25) | (1 << 32) | (1 << 41);
    if cap & need == need {
        return Ok(());
    }
    Err(Unusable {
        missing: "EPT misses a capability (4-level walk, write-back, 2 MiB pages, INVEPT, INVVPID)",
        hint: "this CPU is too old for Beeline",
        bits: need & !cap,
    })
}

/// What to write to IA32_FEATURE_CONTROL, whose value is `now`, before VMXON; `None` for nothing.
fn to_allow_vmxon(now: u64) -> Result<Option<u64>, Unusable> {
    match FeatureControl::of(now) {
        FeatureControl::On => Ok(None),
        FeatureControl::Unlocked { write } => Ok(Some(write)),
        FeatureControl::LockedOff => Err(Unusable {
            missing: "IA32_FEATURE_CONTROL is locked with VMX off",
            hint: "switch VT-x (Intel Virtualization Technology) on in the firmware and \
                   power-cycle the machine",
            bits: now,
        }),
    }
}

/// Turns VMX on for this core.
pub fn enable() -> Result<(), Unusable> {
    if !cpu::has_vmx() {
        return Err(Unusable {
            missing: "this CPU has no VMX (CPUID.1:ECX bit 5)",
            hint: "use an Intel CPU with VT-x, switch VT-x on in the firmware, or pass \
                   `-cpu host` and nesting to the outer QEMU/KVM",
            bits: 0,
        });
    }
    if let Some(value) = to_allow_vmxon(cpu::rdmsr(IA32_FEATURE_CONTROL))? {
        // SAFETY: the register is unlocked, so the write is allowed and only permits VMXON.
        unsafe { cpu::wrmsr(IA32_FEATURE_CONTROL, value) };
    }
    direct_controls()?;
    check_ept()?;
    let region = heap::frame().ok_or(Unusable {
        missing: "no memory for the VMXON region",
        hint: "give the machine more memory",
        bits: 0,
    })?;
    region.write_u32(0, revision());
    // SAFETY: CR4.VMXE only allows VMXON; the fixed bits are what VMX operation demands.
    unsafe {
        cpu::set_cr0(cpu::cr0() | cr0_fixed());
        cpu::set_cr4(cpu::cr4() | cr4_fixed() | CR4_VMXE);
        insn::vmxon(region.address())
    }
    .map_err(|_| Unusable {
        missing: "VMXON failed",
        hint: "another hypervisor or the firmware may hold VMX; power-cycle the machine",
        bits: cpu::cr4(),
    })
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::string::ToString;

    #[test]
    fn r_s10_vmx_that_is_locked_off_is_named_with_a_hint() {
        assert_eq!(to_allow_vmxon(5), Ok(None));
        assert_eq!(to_allow_vmxon(0), Ok(Some(5)));
        let why = to_allow_vmxon(1).unwrap_err().to_string();
        for part in ["IA32_FEATURE_CONTROL is locked with VMX off", "VT-x", "firmware", "0x1"] {
            assert!(why.contains(part), "{part:?} is not in {why:?}");
        }
    }
}
