//! Writes of the local vector table and of the spurious-vector register, under the declared policy (H3, S2).
//!
//! Called by the MSR exit handler (and for the xAPIC page by way of [`LvtRegister::writable_bits`]). No locks.
//! Source: SDM volume 3, "Local Vector Table", "Spurious Interrupt".
//!
//! The policy: the guest reads back what it wrote (the *shadow*); what the hardware gets is decided here.
//!
//! | entry | hardware |
//! |---|---|
//! | timer | the guest's entry; masked while its vector is below 16 |
//! | error | the guest's entry; masked while its vector is below 16 |
//! | LINT0, LINT1, thermal, CMCI, PMI | always masked: these sources belong to the machine |
//!
//! So no delivery mode of a guest's choice (SMI, NMI, INIT, ExtINT) can reach the hardware: the two entries that
//! pass have no such field. While the guest's APIC is software-disabled a write cannot clear a mask bit: the caller
//! then keeps [`Lvt::with_mask`]`(true)` in its shadow; the hardware does the same by itself.

use bitfield_struct::bitfield;

use super::{DeliveryMode, FIRST_LEGAL_VECTOR, msr};

/// An entry of the local vector table.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Lvt {
    /// Interrupt vector.
    pub vector: u8,
    /// Delivery mode; reserved in the timer's and the error entry.
    #[bits(3)]
    pub delivery_mode: DeliveryMode,
    #[bits(1)]
    __: u8,
    /// Delivery status, read only.
    pub pending: bool,
    /// Pin polarity, LINT0 and LINT1 only: 1 is active low.
    pub active_low: bool,
    /// Remote IRR, read only, LINT0 and LINT1 only.
    pub remote_irr: bool,
    /// Level trigger, LINT0 and LINT1 only.
    pub level: bool,
    /// Masked.
    pub mask: bool,
    /// Timer mode, timer only: 0 one-shot, 1 periodic, 2 TSC-deadline.
    #[bits(2)]
    pub timer_mode: u8,
    #[bits(13)]
    __: u16,
}

/// Timer mode 3, which no processor has.
const TIMER_MODE_RESERVED: u8 = 3;

/// A vector for entries that must be masked: a legal one, because an APIC may report an illegal vector even in a
/// masked entry, and the guest would see that in its ESR.
const PARKED_VECTOR: u8 = 0xFF;

impl Lvt {
    /// What the hardware holds for an entry that must not fire.
    pub const PARKED: Self = Self::new().with_mask(true).with_vector(PARKED_VECTOR);
    /// The value after reset or INIT.
    pub const RESET: Self = Self::new().with_mask(true);
}

/// The entries of the local vector table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LvtRegister {
    /// Corrected machine checks.
    Cmci,
    /// The timer.
    Timer,
    /// Thermal sensor.
    Thermal,
    /// Performance counters.
    Pmi,
    /// Pin LINT0.
    Lint0,
    /// Pin LINT1.
    Lint1,
    /// APIC errors.
    Error,
}

impl LvtRegister {
    /// All of them, in the order of their MSRs.
    pub const ALL: [Self; 7] =
        [Self::Cmci, Self::Timer, Self::Thermal, Self::Pmi, Self::Lint0, Self::Lint1, Self::Error];

    /// The entry behind an x2APIC MSR.
    pub const fn from_msr(number: u32) -> Option<Self> {
        Some(match number {
            msr::LVT_CMCI => Self::Cmci,
            msr::LVT_TIMER => Self::Timer,
            msr::LVT_THERMAL => Self::Thermal,
            msr::LVT_PMI => Self::Pmi,
            msr::LVT_LINT0 => Self::Lint0,
            msr::LVT_LINT1 => Self::Lint1,
            msr::LVT_ERROR => Self::Error,
            _ => return None,
        })
    }

    /// Its x2APIC MSR.
    pub const fn msr(self) -> u32 {
        match self {
            Self::Cmci => msr::LVT_CMCI,
            Self::Timer => msr::LVT_TIMER,
            Self::Thermal => msr::LVT_THERMAL,
            Self::Pmi => msr::LVT_PMI,
            Self::Lint0 => msr::LVT_LINT0,
            Self::Lint1 => msr::LVT_LINT1,
            Self::Error => msr::LVT_ERROR,
        }
    }

    /// The bits software may set. A write through the xAPIC page ignores the others: mask with this first.
    pub const fn writable_bits(self) -> u32 {
        const VECTOR: u32 = 0xFF;
        const DELIVERY: u32 = 7 << 8;
        const POLARITY_AND_TRIGGER: u32 = 1 << 13 | 1 << 15;
        const MASK: u32 = 1 << 16;
        const TIMER_MODE: u32 = 3 << 17;
        match self {
            Self::Timer => VECTOR | MASK | TIMER_MODE,
            Self::Error => VECTOR | MASK,
            Self::Cmci | Self::Thermal | Self::Pmi => VECTOR | DELIVERY | MASK,
            Self::Lint0 | Self::Lint1 => VECTOR | DELIVERY | POLARITY_AND_TRIGGER | MASK,
        }
    }

    /// Bits that read-modify-write software hands back although they are read only: ignored, no fault.
    const fn read_only_bits(self) -> u32 {
        const STATUS: u32 = 1 << 12;
        const REMOTE_IRR: u32 = 1 << 14;
        match self {
            Self::Lint0 | Self::Lint1 => STATUS | REMOTE_IRR,
            _ => STATUS,
        }
    }
}

/// What becomes of a guest's LVT write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LvtAction {
    /// What the guest reads back.
    pub shadow: Lvt,
    /// What the hardware gets.
    pub hardware: Lvt,
}

/// Why an LVT write was refused; the guest gets #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LvtRefused {
    /// Reserved bits were set.
    ReservedBits,
    /// Timer mode 3.
    TimerMode,
}

/// Judges a guest's write of an LVT entry (x2APIC form: 64-bit MSR value).
///
/// # Errors
/// See [`LvtRefused`].
#[inline]
pub const fn check_lvt(register: LvtRegister, value: u64) -> Result<LvtAction, LvtRefused> {
    let allowed = register.writable_bits() | register.read_only_bits();
    if value & !(allowed as u64) != 0 {
        return Err(LvtRefused::ReservedBits);
    }
    let shadow = Lvt::from_bits(value as u32 & register.writable_bits());
    if shadow.timer_mode() == TIMER_MODE_RESERVED {
        return Err(LvtRefused::TimerMode);
    }
    let hardware = match register {
        LvtRegister::Timer | LvtRegister::Error => {
            if shadow.vector() < FIRST_LEGAL_VECTOR {
                // The timer mode stays: arming and counting go on as on a machine that drops illegal vectors.
                shadow.with_mask(true).with_vector(PARKED_VECTOR)
            } else {
                shadow
            }
        }
        LvtRegister::Cmci
        | LvtRegister::Thermal
        | LvtRegister::Pmi
        | LvtRegister::Lint0
        | LvtRegister::Lint1 => Lvt::PARKED,
    };
    Ok(LvtAction { shadow, hardware })
}

/// The spurious-interrupt vector register.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Svr {
    /// Vector of a spurious interrupt.
    pub vector: u8,
    /// Software enable.
    pub enabled: bool,
    /// Focus-processor checking, without meaning since the Pentium 4.
    pub focus: bool,
    #[bits(2)]
    __: u8,
    /// Suppress the broadcast of EOIs to the IOAPICs.
    pub suppress_eoi_broadcast: bool,
    #[bits(19)]
    __: u32,
}

impl Svr {
    /// The value after reset or INIT: software-disabled, vector 0xFF.
    pub const RESET: Self = Self::new().with_vector(0xFF);
}

/// What becomes of a guest's SVR write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SvrAction {
    /// What the guest reads back.
    pub shadow: Svr,
    /// What the hardware gets.
    pub hardware: Svr,
}

/// An SVR write with reserved bits set; the guest gets #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SvrRefused;

/// Judges a guest's write of the spurious-vector register. `eoi_suppression_offered` is whether the version
/// register the guest sees has bit 24 set.
///
/// The suppression bit never reaches the hardware: a guest could else leave a level line of the machine without its
/// EOI. Nor does a vector below 16: the hardware would raise it without a message that anybody could check, also in
/// a drain window of root mode.
///
/// # Errors
/// [`SvrRefused`] when reserved bits are set.
#[inline]
pub const fn check_svr(value: u64, eoi_suppression_offered: bool) -> Result<SvrAction, SvrRefused> {
    const PLAIN: u64 = 0x3FF;
    const SUPPRESS: u64 = 1 << 12;
    let allowed = if eoi_suppression_offered { PLAIN | SUPPRESS } else { PLAIN };
    if value & !allowed != 0 {
        return Err(SvrRefused);
    }
    let shadow = Svr::from_bits(value as u32);
    let hardware = shadow.with_suppress_eoi_broadcast(false).with_focus(false);
    let hardware = if shadow.vector() < FIRST_LEGAL_VECTOR {
        hardware.with_vector(PARKED_VECTOR)
    } else {
        hardware
    };
    Ok(SvrAction { shadow, hardware })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn r_h3_the_timer_passes_in_its_three_modes() {
        for value in [0x0000_00EC, 0x0002_00EC, 0x0004_00EC, 0x0005_00EC] {
            let action = check_lvt(LvtRegister::Timer, value).unwrap();
            assert_eq!(u64::from(action.hardware.into_bits()), value);
            assert_eq!(action.shadow, action.hardware);
        }
        assert_eq!(check_lvt(LvtRegister::Timer, 0x0006_00EC), Err(LvtRefused::TimerMode));
    }

    #[test]
    fn r_h3_reserved_bits_fault_and_read_only_bits_do_not() {
        use LvtRegister::*;
        let reserved = [
            (Timer, 0xFFFF_FFFF_FFF8_EF00u64),
            (Error, 0xFFFF_FFFF_FFFE_EF00),
            (Thermal, 0xFFFF_FFFF_FFFE_E800),
            (Pmi, 0xFFFF_FFFF_FFFE_E800),
            (Cmci, 0xFFFF_FFFF_FFFE_E800),
            (Lint0, 0xFFFF_FFFF_FFFE_0800),
            (Lint1, 0xFFFF_FFFF_FFFE_0800),
        ];
        for (register, mask) in reserved {
            for bit in 8..64 {
                let value = 0x20 | 1u64 << bit;
                let faults = check_lvt(register, value) == Err(LvtRefused::ReservedBits);
                assert_eq!(faults, mask >> bit & 1 == 1, "{register:?} bit {bit}");
            }
        }
        let read_back = check_lvt(Lint0, 0x5720).unwrap();
        assert_eq!(read_back.shadow.into_bits(), 0x0720);
    }

    #[test]
    fn r_h3_machine_sources_stay_masked_whatever_is_written() {
        // Linux on the boot CPU: LINT0 ExtINT, LINT1 NMI. The guest reads them back, the hardware never has them.
        for (register, value) in [(LvtRegister::Lint0, 0x700u32), (LvtRegister::Lint1, 0x400)] {
            let action = check_lvt(register, value.into()).unwrap();
            assert_eq!(action.shadow.into_bits(), value);
            assert_eq!(action.hardware, Lvt::PARKED);
        }
    }

    #[test]
    fn r_s2_vectors_below_16_are_masked_in_hardware() {
        for register in [LvtRegister::Timer, LvtRegister::Error] {
            let action = check_lvt(register, 0x0F).unwrap();
            assert_eq!(action.shadow.into_bits(), 0x0F);
            assert!(action.hardware.mask());
            assert!(check_lvt(register, 0x10).unwrap().hardware == Lvt::new().with_vector(0x10));
        }
        let deadline = check_lvt(LvtRegister::Timer, 0x0004_0002).unwrap();
        assert_eq!(deadline.hardware.timer_mode(), 2);
    }

    #[test]
    fn r_h3_msrs_and_entries_name_each_other() {
        for register in LvtRegister::ALL {
            assert_eq!(LvtRegister::from_msr(register.msr()), Some(register));
        }
        assert_eq!(LvtRegister::from_msr(msr::ICR), None);
    }

    #[test]
    fn r_e4_eoi_suppression_never_reaches_the_hardware() {
        assert_eq!(check_svr(0x11FF, false), Err(SvrRefused));
        let action = check_svr(0x11FF, true).unwrap();
        assert!(action.shadow.suppress_eoi_broadcast());
        assert_eq!(action.hardware.into_bits(), 0x1FF);
        for bit in (10..64).filter(|&bit| bit != 12) {
            assert_eq!(check_svr(0x1FF | 1 << bit, true), Err(SvrRefused), "bit {bit}");
        }
    }

    #[test]
    fn r_s2_a_spurious_vector_below_16_is_kept_from_the_hardware() {
        let action = check_svr(0x108, false).unwrap();
        assert_eq!(action.shadow.into_bits(), 0x108);
        assert_eq!(action.hardware.into_bits(), 0x1FF);
    }

    proptest! {
        #[test]
        fn r_s2_no_lvt_write_arms_anything_but_a_legal_fixed_vector(which in 0usize..7, value in 0u64..0x10_0000) {
            if let Ok(action) = check_lvt(LvtRegister::ALL[which], value) {
                prop_assert_eq!(action.hardware.delivery_mode(), DeliveryMode::Fixed);
                prop_assert!(action.hardware.vector() >= 16);
                prop_assert!(action.hardware.mask() || action.hardware.vector() == action.shadow.vector());
            }
        }
    }
}
