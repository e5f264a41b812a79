//! The register page of a guest in xAPIC mode, decoded onto the core's physical x2APIC: register
//! accesses exit, delivery stays direct (requirement A6). SDM volume 3, section 11.4.1.

use super::ipi;
use crate::vcpu::Vcpu;
use arch::apic::{ValidatedRegister, eoi, read_register, write_validated};
use arch::virt::Backend;
use arch_defs::apic::xapic::DFR_ONES;
use arch_defs::apic::{ApicId, LvtRegister, XapicRegister, decode_xapic_icr, msr, xapic_register};

/// SVR bits that exist: vector, enable, focus.
const SVR_BITS: u32 = 0x3FF;

/// A 32-bit read at a byte offset of the page.
pub fn read<B: Backend>(vcpu: &Vcpu<B>, offset: u16) -> u32 {
    let apic = &vcpu.apic;
    match xapic_register(offset) {
        Some(XapicRegister::Same(number)) => match (LvtRegister::from_msr(number), number) {
            (Some(LvtRegister::Timer), _) => read_register(number).unwrap_or(0) as u32,
            (Some(entry), _) => apic.lvt(entry) as u32,
            (None, msr::SVR) => apic.svr.into(),
            (None, msr::VERSION) => super::apic_state::version() as u32,
            (None, _) => read_register(number).unwrap_or(0) as u32,
        },
        Some(XapicRegister::WriteZero(msr::ESR)) => read_register(msr::ESR).unwrap_or(0) as u32,
        Some(XapicRegister::Id) => id_bits(apic.id),
        Some(XapicRegister::Ldr) => apic.xapic_ldr,
        Some(XapicRegister::Dfr) => apic.xapic_dfr,
        Some(XapicRegister::IcrLow) => apic.icr as u32,
        Some(XapicRegister::IcrHigh) => apic.xapic_icr_high,
        _ => 0,
    }
}

const fn id_bits(id: ApicId) -> u32 {
    id.0 << 24
}

/// A 32-bit write at a byte offset of the page. Reserved bits are ignored, as on hardware.
pub fn write<B: Backend>(vcpu: &mut Vcpu<B>, offset: u16, value: u32) {
    match xapic_register(offset) {
        Some(XapicRegister::WriteZero(msr::EOI)) => eoi(),
        Some(XapicRegister::WriteZero(_)) => write_validated(ValidatedRegister::Esr, 0),
        Some(XapicRegister::IcrLow) => {
            vcpu.apic.icr = value.into();
            // An xAPIC write never faults; what is refused is just not sent.
            let _ = ipi::act(vcpu, decode_xapic_icr(value, vcpu.apic.xapic_icr_high));
        }
        Some(XapicRegister::IcrHigh) => vcpu.apic.xapic_icr_high = value & 0xFF00_0000,
        Some(XapicRegister::Ldr) => {
            vcpu.apic.xapic_ldr = value & 0xFF00_0000;
            vcpu.shared.set_xapic_logical(vcpu.apic.xapic_logical());
        }
        Some(XapicRegister::Dfr) => {
            vcpu.apic.xapic_dfr = value | DFR_ONES;
            vcpu.shared.set_xapic_logical(vcpu.apic.xapic_logical());
        }
        Some(XapicRegister::Same(number)) => write_same(vcpu, number, value),
        _ => {}
    }
}

fn write_same<B: Backend>(vcpu: &mut Vcpu<B>, number: u32, value: u32) {
    if let Some(entry) = LvtRegister::from_msr(number) {
        let legal = value & entry.writable_bits();
        let Ok(hardware) = vcpu.apic.write_lvt(entry, legal.into()) else { return };
        match entry {
            LvtRegister::Timer => write_validated(ValidatedRegister::LvtTimer, hardware),
            LvtRegister::Error => write_validated(ValidatedRegister::LvtError, hardware),
            _ => {}
        }
        return;
    }
    match number {
        msr::TPR => write_validated(ValidatedRegister::Tpr, (value & 0xFF).into()),
        msr::SVR => {
            if let Ok(hardware) = vcpu.apic.write_svr((value & SVR_BITS).into()) {
                vcpu.write_svr(hardware);
            }
        }
        msr::TIMER_INITIAL => write_validated(ValidatedRegister::TimerInitial, value.into()),
        msr::TIMER_DIVIDE => write_validated(ValidatedRegister::TimerDivide, (value & 0xB).into()),
        _ => {}
    }
}
