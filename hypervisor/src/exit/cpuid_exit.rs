//! The CPUID exit: nearly all that a busy guest exits for, so it comes first and is short.

use super::cpuid::{CpuidRow, GuestNow};
use crate::stats::ExitKind;
use crate::vcpu::Vcpu;
use arch::virt::Backend;
use arch_defs::apic::ApicMode;

/// Answers CPUID from the vCPU's table.
#[inline(always)]
pub fn handle<B: Backend>(vcpu: &mut Vcpu<B>) {
    vcpu.shared.stats.count(ExitKind::Cpuid);
    let regs = vcpu.backend.regs();
    let (leaf, subleaf) = (regs.rax as u32, regs.rcx as u32);
    let [eax, ebx, ecx, edx] = match vcpu.cpuid.plain(leaf) {
        Some(regs) => regs,
        None => {
            let row = vcpu.cpuid.lookup(leaf, subleaf);
            if row.needs_patch() { patched(vcpu, row, subleaf) } else { row.regs }
        }
    };
    let regs = vcpu.backend.regs();
    (regs.rax, regs.rbx, regs.rcx, regs.rdx) = (eax.into(), ebx.into(), ecx.into(), edx.into());
    vcpu.backend.skip_instruction();
}

/// The rows that depend on the guest's registers, leaf 1 above all.
#[inline(always)]
fn patched<B: Backend>(vcpu: &Vcpu<B>, row: &CpuidRow, subleaf: u32) -> [u32; 4] {
    let now = GuestNow {
        cr4: vcpu.backend.cr4(),
        xcr0: vcpu.xcr0,
        apic_enabled: vcpu.apic.mode != ApicMode::Disabled,
        subleaf,
    };
    vcpu.cpuid.patched(row, &now)
}
