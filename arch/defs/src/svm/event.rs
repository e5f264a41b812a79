//! Events in EVENTINJ and EXITINTINFO. APM volume 2, sections 15.7.2 and 15.20.

use bitfield_struct::bitfield;

/// EVENTINJ and EXITINTINFO.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct EventInfo {
    /// Vector.
    pub vector: u8,
    /// One of the `TYPE` constants.
    #[bits(3)]
    pub kind: u8,
    /// An error code follows in the high half.
    pub has_error_code: bool,
    #[bits(19)]
    __: u32,
    /// The field says something.
    pub valid: bool,
    /// Error code.
    pub error_code: u32,
}

impl EventInfo {
    /// External interrupt.
    pub const TYPE_EXTERNAL: u8 = 0;
    /// NMI.
    pub const TYPE_NMI: u8 = 2;
    /// Exception.
    pub const TYPE_EXCEPTION: u8 = 3;
    /// INT n.
    pub const TYPE_SOFTWARE: u8 = 4;

    /// The type of a delivery that an exit cut short, repaired. QEMU 10's TCG says "exception" of an external
    /// interrupt and of an NMI. Vector 2 is no exception; a vector whose ISR bit is set (`in_service`) is an interrupt.
    /// Hardware says it right, and only one case could mislead there: an exception 16 to 31 that is cut short while the
    /// guest has an interrupt of that very number in service.
    #[must_use]
    pub const fn repaired(self, in_service: bool) -> Self {
        if self.kind() != Self::TYPE_EXCEPTION {
            return self;
        }
        match self.vector() {
            2 => self.with_kind(Self::TYPE_NMI).with_has_error_code(false),
            16.. if in_service => self.with_kind(Self::TYPE_EXTERNAL).with_has_error_code(false),
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXCEPTION: EventInfo =
        EventInfo::new().with_valid(true).with_kind(EventInfo::TYPE_EXCEPTION);

    #[test]
    fn the_layout_is_the_manuals() {
        let info = EXCEPTION.with_vector(14).with_has_error_code(true).with_error_code(6);
        assert_eq!(info.into_bits(), 0x6_8000_0B0E);
    }

    #[test]
    fn r_d8_a_mislabelled_interrupt_is_one_again() {
        let interrupt = EXCEPTION.with_vector(0x40);
        assert_eq!(interrupt.repaired(true).kind(), EventInfo::TYPE_EXTERNAL);
        assert_eq!(interrupt.repaired(false), interrupt);
        assert_eq!(EXCEPTION.with_vector(2).repaired(false).kind(), EventInfo::TYPE_NMI);
        for vector in 16..=31 {
            assert_eq!(
                EXCEPTION.with_vector(vector).repaired(true).kind(),
                EventInfo::TYPE_EXTERNAL
            );
        }
        let page_fault = EXCEPTION.with_vector(14);
        assert_eq!(page_fault.repaired(true), page_fault);
        let software = EXCEPTION.with_kind(EventInfo::TYPE_SOFTWARE).with_vector(0x80);
        assert_eq!(software.repaired(true), software);
    }
}
