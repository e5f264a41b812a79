//! The local APIC: register numbers, layouts, and the rules that decide what a guest may write.
//!
//! Everything here is a pure function of its arguments, so the host tests it. `arch::apic` and `arch::virt` use
//! the register numbers and layouts; the hypervisor's exit handlers use the rules. No locks.
//!
//! Source: Intel SDM volume 3, chapter "APIC" (xAPIC, x2APIC, LVT, ICR); AMD APM volume 2, chapter 16.
//!
//! | file | what |
//! |---|---|
//! | [`msr`] | register numbers in x2APIC mode |
//! | [`icr`] | a guest's ICR write, decoded and checked |
//! | [`target`] | which vCPUs a destination means |
//! | [`lvt`] | local vector table and spurious-vector writes: what the guest reads back, what the hardware gets |
//! | [`mode`] | IA32_APIC_BASE and its three states |
//! | [`xapic`] | the memory-mapped page of the xAPIC state |

pub mod icr;
pub mod lvt;
pub mod mode;
pub mod msr;
pub mod target;
pub mod xapic;

pub use icr::{
    DeliveryMode, Destination, Icr, IcrAction, IcrRefused, IcrRequest, RefusalEffect, decode_icr,
};
pub use lvt::{
    Lvt, LvtAction, LvtRefused, LvtRegister, Svr, SvrAction, SvrRefused, check_lvt, check_svr,
};
pub use mode::{ApicBase, ApicBaseFault, ApicMode};
pub use target::{
    ApicId, MAX_VCPUS, TargetSet, XapicLogical, message_destination, targets, x2apic_ldr,
    xapic_targets,
};
pub use xapic::{XapicRegister, decode_xapic_icr, xapic_register};

/// The vectors below this one are illegal for an APIC message of Fixed or LowestPri delivery: the local APIC
/// drops such a message and records an error instead (SDM, "Valid Interrupt Vectors").
pub const FIRST_LEGAL_VECTOR: u8 = 16;

/// An interrupt vector that an APIC may carry: 16..=255.
///
/// The only way to make one is the check, so a function that takes a `GuestVector` need not repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestVector(u8);

impl GuestVector {
    /// Checks a raw vector; `None` for the illegal vectors 0..=15.
    #[inline]
    pub const fn new(raw: u8) -> Option<Self> {
        if raw < FIRST_LEGAL_VECTOR { None } else { Some(Self(raw)) }
    }

    /// The vector as the hardware writes it.
    #[inline]
    pub const fn get(self) -> u8 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_s2_vectors_below_16_cannot_be_named() {
        for raw in 0..=255u8 {
            assert_eq!(GuestVector::new(raw).map(GuestVector::get), (raw >= 16).then_some(raw));
        }
    }
}
