//! What this core's SVM offers, and turning it on. APM volume 2, sections 15.4 and 15.30; volume 3, appendix E.4.9.

#![expect(unsafe_code, reason = "turns SVM on and writes MSRs")]

use super::entry;
use crate::cpu;
use crate::heap;
use crate::tables::area;
use crate::virt::Unusable;
use arch_defs::svm::Vmcb;
use core::sync::atomic::Ordering;

pub const EFER_SVME: u64 = 1 << 12;
const VM_CR: u32 = 0xC001_0114;
const VM_CR_SVMDIS: u64 = 1 << 4;
const VM_HSAVE_PA: u32 = 0xC001_0117;
const TSC_RATIO: u32 = 0xC000_0104;
/// A guest's TSC runs as fast as the CPU's: 8.32 fixed point.
const TSC_RATIO_1: u64 = 1 << 32;
const SVM_LEAF: u32 = 0x8000_000A;
/// Tags in use: parking and the core's vCPU; 0 is the host's.
const TAGS: u32 = 3;

/// Optional features, CPUID 8000_000A:EDX.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// The VMCB has the address of the next instruction.
    pub next_rip: bool,
    /// One guest's translations can be flushed.
    pub flush_by_asid: bool,
    /// The CPU tracks the guest's NMIs.
    pub virtual_nmi: bool,
}

pub fn features() -> Features {
    let edx = cpu::cpuid(SVM_LEAF, 0)[3];
    let bit = |n: u32| edx >> n & 1 != 0;
    Features { next_rip: bit(3), flush_by_asid: bit(6), virtual_nmi: bit(25) }
}

/// Turns SVM on for this core.
pub fn enable() -> Result<(), Unusable> {
    if !cpu::has_svm() {
        return Err(Unusable {
            missing: "this CPU has no SVM (CPUID 8000_0001:ECX bit 2)",
            hint: "use an AMD CPU with AMD-V, switch SVM on in the firmware, or pass `-cpu host` and nesting to the \
                   outer QEMU/KVM",
            bits: 0,
        });
    }
    let vm_cr = cpu::rdmsr(VM_CR);
    if vm_cr & VM_CR_SVMDIS != 0 {
        return Err(Unusable {
            missing: "SVM is switched off (VM_CR.SVMDIS)",
            hint: "switch SVM on in the firmware and power-cycle the machine",
            bits: vm_cr,
        });
    }
    let [_, tags, _, edx] = cpu::cpuid(SVM_LEAF, 0);
    if edx & 1 == 0 {
        return Err(Unusable {
            missing: "this CPU's SVM has no nested paging (CPUID 8000_000A:EDX bit 0)",
            hint: "this CPU is too old for Beeline, or the outer hypervisor hides the feature",
            bits: edx.into(),
        });
    }
    if tags < TAGS {
        return Err(Unusable {
            missing: "this CPU's SVM has too few address-space ids (CPUID 8000_000A:EBX)",
            hint: "this CPU is too old for Beeline, or the outer hypervisor hides them",
            bits: tags.into(),
        });
    }
    let (Some(host_save), Some(host_vmcb)) = (heap::frame(), heap::frame()) else {
        return Err(Unusable {
            missing: "no memory for SVM's host state",
            hint: "give the machine more memory",
            bits: 0,
        });
    };
    // SAFETY: SVM exists and is not switched off; both pages are ours for good.
    unsafe {
        cpu::wrmsr(cpu::MSR_EFER, cpu::rdmsr(cpu::MSR_EFER) | EFER_SVME);
        cpu::wrmsr(VM_HSAVE_PA, host_save.address());
        entry::save_host_state(host_vmcb.address());
        if edx >> 4 & 1 != 0 {
            // Requirement C5: an earlier hypervisor may have left another one.
            cpu::wrmsr(TSC_RATIO, TSC_RATIO_1);
        }
    }
    area().host_vmcb.store(host_vmcb.address(), Ordering::Relaxed);
    Ok(())
}

const _: () = assert!(size_of::<Vmcb>() as u64 == heap::FRAME);
