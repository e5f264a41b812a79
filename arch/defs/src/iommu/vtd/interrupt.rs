//! Interrupt remapping: the table's entries and the requests that name them. VT-d specification 4.1,
//! sections 9.10 (remapping entry, remapped mode) and 5.1.2 (remappable format).

use super::super::RequesterId;
use bitfield_struct::bitfield;

/// Low half of a remapping entry (IRTE): where the interrupt goes. All of it changes by one 64-bit store,
/// so hardware never sees half a route.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RemappingLow {
    /// P: without it the interrupt is blocked and a fault recorded.
    pub present: bool,
    /// FPD: faults are not recorded.
    pub fault_disable: bool,
    /// DM: logical destination.
    pub logical: bool,
    /// RH: redirection hint.
    pub redirection_hint: bool,
    /// TM: level rather than edge.
    pub level: bool,
    /// DLM: 0 is fixed.
    #[bits(3)]
    pub delivery_mode: u8,
    #[bits(7)]
    __: u8,
    /// IM: posted rather than remapped.
    pub posted: bool,
    /// V.
    pub vector: u8,
    __: u8,
    /// DST: x2APIC id.
    pub destination: u32,
}

/// High half of a remapping entry: who may use it. Written once, while the low half is not present.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RemappingHigh {
    /// SID.
    pub source_id: u16,
    /// SQ: 0 compares all 16 bits.
    #[bits(2)]
    pub source_qualifier: u8,
    /// SVT: 1 compares the requester's id with SID.
    #[bits(2)]
    pub validation: u8,
    #[bits(44)]
    __: u64,
}

impl RemappingLow {
    /// A fixed interrupt to one physical x2APIC id.
    pub const fn fixed(vector: u8, destination: u32, level: bool) -> Self {
        Self::new()
            .with_present(true)
            .with_level(level)
            .with_vector(vector)
            .with_destination(destination)
    }
}

impl RemappingHigh {
    /// Only requests that carry this very id.
    pub const fn only(requester: RequesterId) -> Self {
        Self::new().with_source_id(requester.id).with_validation(1)
    }
}

/// What a device writes to raise a message-signalled interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// Address register, both halves.
    pub address: u64,
    /// Data register.
    pub data: u32,
}

/// Address of a remappable MSI, section 5.1.2.2.
#[bitfield(u64)]
struct RemappableAddress {
    #[bits(2)]
    __: u8,
    handle_15: bool,
    /// SHV: the data is added to the handle.
    subhandle_valid: bool,
    /// 1: remappable format.
    remappable: bool,
    #[bits(15)]
    handle: u16,
    /// 0xFEE.
    #[bits(12)]
    interrupt_range: u16,
    __: u32,
}

impl MsiMessage {
    /// Raises the entry at `index + subhandle`. For multiple-message MSI `subhandle` is 0: the device puts
    /// the message's number into the low bits of the data itself.
    pub const fn remappable(index: u16, subhandle: u16) -> Self {
        let address = RemappableAddress::new()
            .with_interrupt_range(0xFEE)
            .with_handle(index & 0x7FFF)
            .with_handle_15(index >> 15 != 0)
            .with_remappable(true)
            .with_subhandle_valid(true);
        Self { address: address.into_bits(), data: subhandle as u32 }
    }
}

/// An I/O APIC's redirection entry in remappable format, section 5.1.2.1.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RemappableIoApicEntry {
    /// The vector of the remapping entry: an EOI finds the pin by it.
    pub vector: u8,
    #[bits(3)]
    __: u8,
    handle_15: bool,
    /// Delivery status, read only.
    pub busy: bool,
    /// Polarity.
    pub active_low: bool,
    /// Read only: a level waits for its EOI.
    pub remote_irr: bool,
    /// Trigger mode: as in the remapping entry.
    pub level: bool,
    /// The pin is masked.
    pub masked: bool,
    #[bits(31)]
    __: u64,
    remappable: bool,
    #[bits(15)]
    handle: u16,
}

impl RemappableIoApicEntry {
    /// A masked pin that raises the entry at `index`.
    pub const fn raising(index: u16) -> Self {
        Self::new()
            .with_masked(true)
            .with_remappable(true)
            .with_handle(index & 0x7FFF)
            .with_handle_15(index >> 15 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_the_manuals() {
        let low = RemappingLow::fixed(0x70, 0x1_0002, false).into_bits();
        assert_eq!(low, 0x0001_0002_0070_0001);
        assert_eq!(RemappingLow::fixed(0x31, 1, true).into_bits(), 0x0000_0001_0031_0011);
        let requester = RequesterId::new(0, 3, 2, 1);
        assert_eq!(RemappingHigh::only(requester).into_bits(), 0x4_0311);
    }

    #[test]
    fn requests_name_their_entry() {
        assert_eq!(MsiMessage::remappable(3, 0), MsiMessage { address: 0xFEE0_0078, data: 0 });
        let high = MsiMessage::remappable(0x8001, 5);
        assert_eq!(high, MsiMessage { address: 0xFEE0_003C, data: 5 });
        let pin = RemappableIoApicEntry::raising(0x8003).with_vector(0x31).with_level(true);
        assert_eq!(pin.with_masked(false).into_bits(), 0x0007_0000_0000_8831);
    }
}
