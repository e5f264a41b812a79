//! Accesses of CR0, CR4 and XCR0 that touch bits the hypervisor owns. SDM volume 3, section 2.5
//! and 13.3 of volume 1.

use crate::stats::ExitKind;
use crate::vcpu::{Vcpu, cr4_allowed};
use crate::vm::walk::{PAE_PDPTE_RESERVED, ReadPhys};
use arch::cpu::{CR0_CD, CR0_NW, CR0_PE, CR0_PG, CR4_MCE, CR4_OSXSAVE};
use arch::virt::{Backend, CrAccess, Event, Reg};

/// Bits of CR0 that exist: PE, MP, EM, TS, ET, NE, WP, AM, NW, CD, PG.
const CR0_KNOWN: u64 = 0xE005_003F;
const RSP: u8 = 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_PCIDE: u64 = 1 << 17;

/// MOV to CR0 or CR4.
#[inline(never)]
pub fn handle<B: Backend>(vcpu: &mut Vcpu<B>, access: CrAccess) {
    vcpu.shared.stats.count(ExitKind::CrAccess);
    let now = vcpu.backend.control_registers();
    let legal = match access.register {
        0 => {
            // 64-bit code cannot switch paging off under itself.
            let unpaged = access.value & CR0_PG == 0;
            cr0_legal(access.value, now.cr4, now.efer)
                && !(unpaged && vcpu.backend.code_segment().long)
        }
        4 => {
            cr4_legal(access.value, cr4_allowed(&vcpu.cpuid), now.efer)
                && !(access.value & !now.cr4 & CR4_PCIDE != 0 && now.cr3 & 0xFFF != 0)
        }
        _ => false,
    };
    if !legal {
        vcpu.backend.inject(Event::GENERAL_PROTECTION);
        return;
    }
    let (cr0, cr4) =
        if access.register == 0 { (access.value, now.cr4) } else { (now.cr0, access.value) };
    if cr0 & CR0_PG != 0 && cr4 & CR4_PAE != 0 && now.efer & arch::cpu::EFER_LME == 0 {
        match pdptes(&vcpu.vm.ram, now.cr3, arch::cpu::physical_bits()) {
            Some(entries) => vcpu.backend.set_pdptes(entries),
            None => {
                vcpu.backend.inject(Event::GENERAL_PROTECTION);
                return;
            }
        }
    }
    match access.register {
        0 => vcpu.backend.set_cr0(access.value),
        _ => vcpu.backend.set_cr4(access.value),
    }
    vcpu.backend.skip_instruction();
}

/// The PAE page-directory-pointer entries that the CPU would load now. `None`: one is not readable
/// or has a reserved bit set, for which MOV raises #GP (SDM volume 3, section 4.4.1).
fn pdptes(ram: &impl ReadPhys, cr3: u64, physical_bits: u8) -> Option<[u64; 4]> {
    const PRESENT: u64 = 1;
    let reserved = PAE_PDPTE_RESERVED | u64::MAX << physical_bits.min(52);
    let mut entries = [0; 4];
    for (gpa, entry) in (cr3 & 0xFFFF_FFE0..).step_by(8).zip(&mut entries) {
        *entry = ram.read_u64(gpa)?;
        if *entry & PRESENT != 0 && *entry & reserved != 0 {
            return None;
        }
    }
    Some(entries)
}

/// The combinations that raise #GP (SDM volume 3, section 2.5).
fn cr0_legal(value: u64, cr4: u64, efer: u64) -> bool {
    let has = |bit| value & bit != 0;
    let long = efer & arch::cpu::EFER_LME != 0;
    let unknown = value & !CR0_KNOWN != 0;
    let paging_unprotected = has(CR0_PG) && !has(CR0_PE);
    let write_through_cached = has(CR0_NW) && !has(CR0_CD);
    let long_without_pae = has(CR0_PG) && long && cr4 & CR4_PAE == 0;
    let unpaged_with_pcid = !has(CR0_PG) && cr4 & CR4_PCIDE != 0;
    !(unpaged_with_pcid
        || unknown
        || paging_unprotected
        || write_through_cached
        || long_without_pae)
}

fn cr4_legal(value: u64, allowed: u64, efer: u64) -> bool {
    let long = efer & arch::cpu::EFER_LMA != 0;
    let unknown = value & !(allowed | CR4_MCE) != 0;
    let long_without_pae = long && value & CR4_PAE == 0;
    let pcid_outside_long = value & CR4_PCIDE != 0 && !long;
    !(unknown || long_without_pae || pcid_outside_long)
}

/// MOV from CR0 or CR4, or SMSW.
#[inline(never)]
pub fn read<B: Backend>(vcpu: &mut Vcpu<B>, register: u8, gpr: u8, word: bool) {
    vcpu.shared.stats.count(ExitKind::CrAccess);
    let now = vcpu.backend.control_registers();
    let value = if register == 0 { now.cr0 } else { now.cr4 };
    let old = vcpu.backend.regs().get(Reg(gpr));
    let new = if word { old & !0xFFFF | value & 0xFFFF } else { value };
    vcpu.backend.regs().set(Reg(gpr), new);
    if gpr == RSP {
        vcpu.backend.set_rsp(new);
    }
    vcpu.backend.skip_instruction();
}

/// XSETBV.
#[inline(never)]
pub fn xsetbv<B: Backend>(vcpu: &mut Vcpu<B>) {
    vcpu.shared.stats.count(ExitKind::Xsetbv);
    let regs = *vcpu.backend.regs();
    let value = regs.edx_eax();
    if vcpu.backend.control_registers().cr4 & CR4_OSXSAVE == 0 {
        vcpu.backend.inject(Event::UNDEFINED_OPCODE);
        return;
    }
    let legal = vcpu.backend.cpl() == 0
        && regs.rcx as u32 == 0
        && value & !vcpu.cpuid.allowed_xcr0() == 0
        && arch::cpu::set_xcr0(value).is_ok();
    if legal {
        vcpu.xcr0 = value;
        vcpu.backend.skip_instruction();
    } else {
        vcpu.backend.inject(Event::GENERAL_PROTECTION);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_s8_illegal_cr0_values_fault() {
        assert!(cr0_legal(0x8005_0033, 0x20, 0x500));
        assert!(cr0_legal(0x6000_0010, 0, 0));
        assert!(!cr0_legal(0x8000_0000, 0x20, 0));
        assert!(!cr0_legal(0x2000_0011, 0, 0));
        assert!(!cr0_legal(0x8000_0001, 0, 0x100));
        assert!(!cr0_legal(1 << 40, 0, 0));
        assert!(!cr0_legal(1 << 6, 0, 0));
    }

    #[test]
    fn r_s8_pae_entries_are_loaded_or_refused() {
        let ram = crate::memory::GuestRam::new(16 << 20).unwrap();
        for (index, entry) in [0x1001_u64, 0, 0x3001, 0x4001].into_iter().enumerate() {
            assert!(ram.write_bytes(0x5020 + index as u64 * 8, &entry.to_le_bytes()));
        }
        assert_eq!(pdptes(&ram, 0x5020, 40), Some([0x1001, 0, 0x3001, 0x4001]));
        assert!(ram.write_bytes(0x5020, &0x1003_u64.to_le_bytes()));
        assert_eq!(pdptes(&ram, 0x5020, 40), None);
        assert!(ram.write_bytes(0x5020, &(1_u64 << 40 | 1).to_le_bytes()));
        assert_eq!(pdptes(&ram, 0x5020, 40), None, "beyond the physical address width");
        assert_eq!(pdptes(&ram, 0xFFFF_FFE0, 40), None);
    }

    #[test]
    fn r_s8_illegal_cr4_values_fault() {
        let allowed = 0x7FF | 1 << 17 | 1 << 18;
        assert!(cr4_legal(0x6F0, allowed, 0x500));
        assert!(cr4_legal(1 << 6, allowed & !(1 << 6), 0));
        assert!(!cr4_legal(1 << 13, allowed, 0), "VMXE");
        assert!(!cr4_legal(1 << 12, allowed, 0), "LA57");
        assert!(!cr4_legal(0x10, allowed, 0x500), "PAE off in long mode");
        assert!(!cr4_legal(1 << 17 | 0x20, allowed, 0), "PCIDE outside long mode");
        assert!(!cr4_legal(1 << 40, allowed, 0));
    }
}
