//! What a message that a guest programs into its device would do (requirements S2, S3).
//!
//! Called by the model of MSI and MSI-X on every change of an unmasked message. A guest's message never reaches the
//! hardware: a remapping entry stands in its place, and this check says what that entry may deliver. Pure, no locks.
//! Source: SDM volume 3, "Message Signalled Interrupts".

use crate::apic::{DeliveryMode, Destination, GuestVector, message_destination};
use bitfield_struct::bitfield;
use core::fmt;

/// A message's address, the lower half.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Address {
    #[bits(2)]
    __: u8,
    /// The destination is logical.
    pub logical: bool,
    /// One of the destination's CPUs only.
    pub redirection_hint: bool,
    /// The rest is the handle of a remapping entry.
    pub remappable: bool,
    #[bits(7)]
    pub extended_destination: u8,
    /// APIC id or logical id.
    pub destination: u8,
    /// 0xFEE.
    #[bits(12)]
    pub window: u16,
}

/// A message's data.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Data {
    /// Interrupt vector.
    pub vector: u8,
    /// Delivery mode.
    #[bits(3)]
    pub delivery_mode: DeliveryMode,
    #[bits(3)]
    __: u8,
    /// Level trigger: assert rather than deassert.
    pub assert: bool,
    /// Level trigger.
    pub level: bool,
    __: u16,
}

/// Bits 31:20 of every message's address.
const WINDOW: u16 = 0xFEE;

/// A message that a guest may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMessage {
    /// The vector.
    pub vector: GuestVector,
    /// Destination field.
    pub destination: u8,
    /// It is logical.
    pub logical: bool,
    /// Any one CPU of the destination rather than all.
    pub any: bool,
}

impl DeviceMessage {
    /// The destination in the terms of [`crate::apic::targets`]. `xapic`: the guest's APICs are in xAPIC state.
    pub const fn target(self, xapic: bool) -> Destination {
        message_destination(self.destination, self.logical, xapic)
    }
}

/// Why a guest's message is blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageRefused {
    /// The address is not in the interrupt range.
    Address(u64),
    /// The address is of the remappable format, which guests have no entries for, or uses reserved bits.
    Format(u32),
    /// SMI, NMI, INIT, ExtINT or a reserved delivery mode.
    Mode(DeliveryMode),
    /// Level trigger.
    Level,
    /// A vector below 16.
    Vector(u8),
    /// No vCPU of the VM, or more than one.
    Destination(u8),
}

impl fmt::Display for MessageRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => {
                write!(f, "address {address:#x} is not in the interrupt range")
            }
            Self::Format(address) => {
                write!(f, "address {address:#x} is of a format that is not offered")
            }
            Self::Mode(mode) => write!(f, "delivery mode {mode:?} is not a device's"),
            Self::Level => f.write_str("level trigger is not offered"),
            Self::Vector(vector) => write!(f, "vector {vector} is below 16"),
            Self::Destination(id) => write!(f, "destination {id:#x} is not one vCPU of this VM"),
        }
    }
}

/// Checks a guest's message. Who the destination is remains to be found out.
///
/// # Errors
/// Why it must be blocked; never [`MessageRefused::Destination`].
pub fn decode_message(address: u64, data: u32) -> Result<DeviceMessage, MessageRefused> {
    let low = Address::from_bits(address as u32);
    if address >> 32 != 0 || low.window() != WINDOW {
        return Err(MessageRefused::Address(address));
    }
    if low.remappable() || low.extended_destination() != 0 {
        return Err(MessageRefused::Format(address as u32));
    }
    let data = Data::from_bits(data);
    let any = match data.delivery_mode() {
        DeliveryMode::Fixed => low.redirection_hint(),
        DeliveryMode::LowestPriority => true,
        mode => return Err(MessageRefused::Mode(mode)),
    };
    if data.level() {
        return Err(MessageRefused::Level);
    }
    let raw = data.vector();
    let vector = GuestVector::new(raw).ok_or(MessageRefused::Vector(raw))?;
    Ok(DeviceMessage { vector, destination: low.destination(), logical: low.logical(), any })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_linux_writes() {
        let message = decode_message(0xFEE0_3000, 0x0000_4031).unwrap();
        assert_eq!((message.vector.get(), message.any), (0x31, false));
        assert_eq!(message.target(false), Destination::Physical(3));
        // xAPIC flat mode: logical.
        let message = decode_message(0xFEE0_4004, 0x22).unwrap();
        assert_eq!(message.target(true), Destination::XapicLogical(4));
        assert!(decode_message(0xFEE0_400C, 0x0122).unwrap().any);
    }

    #[test]
    fn r_s2_each_dangerous_message_is_refused_by_name() {
        use MessageRefused as R;
        let refused = |address, data| decode_message(address, data).unwrap_err();
        assert_eq!(refused(0xFEC0_0000, 0x31), R::Address(0xFEC0_0000));
        assert_eq!(refused(0x1_FEE0_0000, 0x31), R::Address(0x1_FEE0_0000));
        assert_eq!(refused(0xFEE0_0010, 0x31), R::Format(0xFEE0_0010));
        assert_eq!(refused(0xFEE0_0020, 0x31), R::Format(0xFEE0_0020));
        for mode in [2_u32, 3, 4, 5, 6, 7] {
            let expected = DeliveryMode::from_bits(mode as u8);
            assert_eq!(refused(0xFEE0_0000, mode << 8 | 0x31), R::Mode(expected));
        }
        assert_eq!(refused(0xFEE0_0000, 0x8031), R::Level);
        assert_eq!(refused(0xFEE0_0000, 0x0F), R::Vector(15));
    }

    proptest! {
        #[test]
        fn r_s2_only_plain_edges_pass(high in 0_u64..2, low: u32, window: bool, data: u32) {
            let low = if window { 0xFEE0_0000 | low & 0xF_FFFF } else { low };
            if let Ok(message) = decode_message(high << 32 | u64::from(low), data) {
                // Judged from the raw bits.
                prop_assert!(high == 0 && low >> 20 == 0xFEE && low & 0xFF0 == 0);
                prop_assert!(data & 0xFF >= 16 && data >> 8 & 7 <= 1 && data & 1 << 15 == 0);
                prop_assert_eq!(u32::from(message.vector.get()), data & 0xFF);
            }
        }
    }
}
