//! What of a guest's LAPIC is virtual: its mode, its ids, the shadows of trapped registers.
//! Everything else is the core's own x2APIC, which the guest uses directly. SDM volume 3,
//! chapter 11.

use arch_defs::apic::{
    ApicId, ApicMode, Lvt, LvtRegister, Svr, XapicLogical, check_lvt, check_svr, x2apic_ldr,
};

/// The guest gets #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// The version register as a guest sees it: the hardware's, but for the suppression of EOI
/// broadcasts (bit 24), which would let a guest leave a line of the machine without its EOI.
pub fn version() -> u64 {
    const EOI_SUPPRESSION: u64 = 1 << 24;
    arch::apic::read_register(arch_defs::apic::msr::VERSION).unwrap_or(0) & !EOI_SUPPRESSION
}

/// The virtual part of a vCPU's LAPIC.
pub struct ApicState {
    /// Virtual id.
    pub id: ApicId,
    /// x2APIC, disabled or xAPIC (requirement A6).
    pub mode: ApicMode,
    /// The last ICR value written.
    pub icr: u64,
    /// SVR as the guest reads it.
    pub svr: Svr,
    /// LVT entries as the guest reads them, in the order of [`LvtRegister::ALL`]. The timer's is
    /// in the hardware.
    lvt: [Lvt; 7],
    /// xAPIC mode: LDR bits 31:24.
    pub xapic_ldr: u32,
    /// xAPIC mode: DFR.
    pub xapic_dfr: u32,
    /// xAPIC mode: high half of ICR.
    pub xapic_icr_high: u32,
}

impl ApicState {
    /// After a reset or INIT: x2APIC mode, software-disabled, everything masked.
    pub const fn reset(id: u32) -> Self {
        Self {
            id: ApicId(id),
            mode: ApicMode::X2apic,
            icr: 0,
            svr: Svr::RESET,
            lvt: [Lvt::RESET; 7],
            xapic_ldr: 0,
            xapic_dfr: u32::MAX,
            xapic_icr_high: 0,
        }
    }

    /// Logical x2APIC id.
    pub const fn ldr(&self) -> u32 {
        x2apic_ldr(self.id)
    }

    /// Logical xAPIC id and model.
    pub const fn xapic_logical(&self) -> XapicLogical {
        XapicLogical::from_registers(self.xapic_ldr, self.xapic_dfr)
    }

    /// An LVT entry as the guest reads it.
    pub fn lvt(&self, register: LvtRegister) -> u64 {
        self.lvt[register as usize].into_bits().into()
    }

    /// A guest's LVT write: the shadow keeps it, the hardware gets what policy lets through
    /// (requirement H3). Returns the hardware's value where the register has one.
    ///
    /// # Errors
    /// #GP for reserved bits.
    pub fn write_lvt(&mut self, register: LvtRegister, value: u64) -> Result<u64, Refused> {
        let action = check_lvt(register, value).map_err(|_| Refused)?;
        // Under software disable the mask bit cannot be cleared (SDM section 11.4.7.2).
        let shadow = if self.svr.enabled() { action.shadow } else { action.shadow.with_mask(true) };
        self.lvt[register as usize] = shadow;
        Ok(action.hardware.into_bits().into())
    }

    /// A guest's SVR write; returns the hardware's value.
    ///
    /// # Errors
    /// #GP for reserved bits.
    pub fn write_svr(&mut self, value: u64) -> Result<u64, Refused> {
        let action = check_svr(value, false).map_err(|_| Refused)?;
        self.svr = action.shadow;
        if !action.shadow.enabled() {
            self.lvt = self.lvt.map(|entry| entry.with_mask(true));
        }
        Ok(action.hardware.into_bits().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_h3_software_disable_masks_the_shadows() {
        let mut apic = ApicState::reset(3);
        assert_eq!(apic.write_lvt(LvtRegister::Lint0, 0x700), Ok(0x100FF));
        assert_eq!(apic.lvt(LvtRegister::Lint0), 0x1_0700);
        apic.write_svr(0x1FF).unwrap();
        apic.write_lvt(LvtRegister::Lint0, 0x700).unwrap();
        assert_eq!(apic.lvt(LvtRegister::Lint0), 0x700);
        apic.write_svr(0x0FF).unwrap();
        assert_eq!(apic.lvt(LvtRegister::Lint0), 0x1_0700);
    }

    #[test]
    fn r_s2_reserved_bits_are_refused() {
        let mut apic = ApicState::reset(0);
        assert_eq!(apic.write_svr(1 << 12), Err(Refused));
        assert_eq!(apic.write_lvt(LvtRegister::Error, 1 << 20), Err(Refused));
    }
}
