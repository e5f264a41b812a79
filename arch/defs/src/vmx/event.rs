//! The one format of VM-entry interruption information, exit interruption information and
//! IDT-vectoring information. SDM volume 3, tables 25-17, 25-19 and 25-20.

use bitfield_struct::bitfield;

/// Interruption or vectoring information.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct VectoringInfo {
    /// Vector of the event.
    pub vector: u8,
    /// Event type: one of the `TYPE_` constants.
    #[bits(3)]
    pub kind: u8,
    /// The event pushes an error code.
    pub has_error_code: bool,
    /// Exit information only: NMI unblocking due to IRET. Must be 0 at entry.
    pub nmi_unblocking: bool,
    #[bits(18)]
    __: u32,
    /// The field holds an event.
    pub valid: bool,
}

impl VectoringInfo {
    /// External interrupt.
    pub const TYPE_EXTERNAL: u8 = 0;
    /// Non-maskable interrupt.
    pub const TYPE_NMI: u8 = 2;
    /// Hardware exception.
    pub const TYPE_EXCEPTION: u8 = 3;
    /// Software interrupt (INT n).
    pub const TYPE_SOFTWARE_INTERRUPT: u8 = 4;
    /// Privileged software exception (INT1).
    pub const TYPE_PRIVILEGED_EXCEPTION: u8 = 5;
    /// Software exception (INT3, INTO).
    pub const TYPE_SOFTWARE_EXCEPTION: u8 = 6;
}

const _: () = assert!(size_of::<VectoringInfo>() == 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_manuals() {
        let gp = VectoringInfo::new()
            .with_vector(13)
            .with_kind(VectoringInfo::TYPE_EXCEPTION)
            .with_has_error_code(true)
            .with_valid(true);
        assert_eq!(u32::from(gp), 0x8000_0B0D);
        assert_eq!(VectoringInfo::from(0x8000_0202).kind(), VectoringInfo::TYPE_NMI);
    }
}
