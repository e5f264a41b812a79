//! IA32_APIC_BASE: the three states of a guest's local APIC (requirements A6 and S4).
//!
//! Called by the MSR exit handler. No locks. The physical register is never touched: a guest moves only its own
//! [`ApicMode`]. Source: SDM volume 3, "x2APIC State Transitions"; `MSR_APIC_BASE` in volume 4.

use bitfield_struct::bitfield;

/// Where the xAPIC page is, in guest-physical space as in physical: a guest cannot move it.
pub const XAPIC_PAGE: u64 = 0xFEE0_0000;

/// IA32_APIC_BASE.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ApicBase {
    __: u8,
    /// This is the bootstrap processor.
    pub bsp: bool,
    #[bits(1)]
    __: u8,
    /// x2APIC mode (EXTD).
    pub x2apic: bool,
    /// APIC on (EN).
    pub enabled: bool,
    /// Frame number of the xAPIC page.
    #[bits(52)]
    pub frame: u64,
}

/// State of a guest's local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicMode {
    /// x2APIC: registers are MSRs. Guests start here.
    X2apic,
    /// Globally disabled.
    Disabled,
    /// xAPIC: registers are a page of memory.
    Xapic,
}

/// Why a write of IA32_APIC_BASE is refused; the guest gets #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicBaseFault {
    /// Bits 7:0 or 9 were set.
    ReservedBits,
    /// The base is not [`XAPIC_PAGE`]. Hardware would allow it; we do not (S4).
    BaseMoved,
    /// EXTD without EN, x2APIC straight to xAPIC, or disabled straight to x2APIC.
    Transition,
}

impl ApicMode {
    /// The state after a guest's write of `value`.
    ///
    /// The BSP flag of the value is ignored: the register's flag stays what the vCPU is, so that neither a guest that
    /// writes only base and enable bits nor one that moves the flag is surprised by a fault.
    ///
    /// # Errors
    /// See [`ApicBaseFault`]; the state then stays.
    pub const fn write(self, value: u64) -> Result<Self, ApicBaseFault> {
        const RESERVED: u64 = 0x2FF;
        if value & RESERVED != 0 {
            return Err(ApicBaseFault::ReservedBits);
        }
        let base = ApicBase::from_bits(value);
        if base.frame() != XAPIC_PAGE >> 12 {
            return Err(ApicBaseFault::BaseMoved);
        }
        let next = match (base.enabled(), base.x2apic()) {
            (false, false) => Self::Disabled,
            (true, false) => Self::Xapic,
            (true, true) => Self::X2apic,
            (false, true) => return Err(ApicBaseFault::Transition),
        };
        match (self, next) {
            (Self::X2apic, Self::Xapic) | (Self::Disabled, Self::X2apic) => {
                Err(ApicBaseFault::Transition)
            }
            _ => Ok(next),
        }
    }

    /// What the guest reads; `is_bsp` for vCPU 0.
    pub const fn read(self, is_bsp: bool) -> u64 {
        ApicBase::new()
            .with_bsp(is_bsp)
            .with_x2apic(matches!(self, Self::X2apic))
            .with_enabled(!matches!(self, Self::Disabled))
            .with_frame(XAPIC_PAGE >> 12)
            .into_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ApicMode::*;

    const OFF: u64 = 0xFEE0_0000;
    const XAPIC: u64 = 0xFEE0_0800;
    const X2APIC: u64 = 0xFEE0_0C00;

    #[test]
    fn r_a6_legal_transitions() {
        let table = [
            (X2apic, OFF, Disabled),
            (X2apic, X2APIC, X2apic),
            (Disabled, OFF, Disabled),
            (Disabled, XAPIC, Xapic),
            (Xapic, X2APIC, X2apic),
            (Xapic, XAPIC, Xapic),
            (Xapic, OFF, Disabled),
        ];
        for (from, value, to) in table {
            assert_eq!(from.write(value), Ok(to), "{from:?} {value:#x}");
            // With or without the BSP flag.
            assert_eq!(from.write(value | 0x100), Ok(to));
        }
    }

    #[test]
    fn r_a6_illegal_transitions_fault() {
        assert_eq!(X2apic.write(XAPIC), Err(ApicBaseFault::Transition));
        assert_eq!(Disabled.write(X2APIC), Err(ApicBaseFault::Transition));
        for from in [X2apic, Disabled, Xapic] {
            assert_eq!(from.write(0xFEE0_0400), Err(ApicBaseFault::Transition));
        }
    }

    #[test]
    fn r_s4_reserved_bits_and_other_bases_fault() {
        for from in [X2apic, Disabled, Xapic] {
            for bit in [0, 1, 2, 3, 4, 5, 6, 7, 9] {
                let value = from.read(false) | 1 << bit;
                assert_eq!(from.write(value), Err(ApicBaseFault::ReservedBits), "bit {bit}");
            }
            for bit in 12..64 {
                let value = from.read(false) ^ 1 << bit;
                assert_eq!(from.write(value), Err(ApicBaseFault::BaseMoved), "bit {bit}");
            }
        }
    }

    #[test]
    fn r_a6_the_register_reads_back_as_hardware_has_it() {
        assert_eq!(X2apic.read(true), 0xFEE0_0D00);
        assert_eq!(Xapic.read(false), 0xFEE0_0800);
        assert_eq!(Disabled.read(true), 0xFEE0_0100);
        for mode in [X2apic, Xapic, Disabled] {
            assert_eq!(mode.write(mode.read(true)), Ok(mode));
        }
    }
}
