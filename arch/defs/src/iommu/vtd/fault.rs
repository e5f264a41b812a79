//! Fault records. VT-d specification 4.1, sections 7.2 (reasons) and 11.4.14 (record registers).

use bitfield_struct::bitfield;

/// Low half of a record: the address, or the interrupt index in its top 16 bits.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct FaultLow {
    #[bits(12)]
    __: u16,
    /// Frame number of the address.
    #[bits(52)]
    pub frame: u64,
}

/// High half of a record.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct FaultHigh {
    /// SID: who asked.
    pub source_id: u16,
    __: u16,
    /// FR.
    pub reason: u8,
    #[bits(22)]
    __: u32,
    /// T1: a read rather than a write.
    pub read: bool,
    /// F: the record holds a fault; writing 1 frees it.
    pub fault: bool,
}

/// True if the reason is one of interrupt remapping.
pub const fn is_interrupt(reason: u8) -> bool {
    reason >= 0x20 && reason <= 0x2F
}

/// A reason of legacy-mode translation or of interrupt remapping in words.
pub const fn reason_text(reason: u8) -> &'static str {
    match reason {
        0x01 => "no root entry for the bus",
        0x02 => "no context entry for the function",
        0x03 => "context entry invalid",
        0x04 => "address beyond the guest's width",
        0x05 => "write not permitted",
        0x06 => "read not permitted",
        0x07 => "second-stage table not accessible",
        0x08 => "root table not accessible",
        0x09 => "context table not accessible",
        0x0A => "reserved bits in the root entry",
        0x0B => "reserved bits in the context entry",
        0x0C => "reserved bits in a second-stage entry",
        0x0D => "translation type blocked by the context entry",
        0x0E => "address in the interrupt range",
        0x20 => "reserved bits in the interrupt request",
        0x21 => "interrupt index beyond the table",
        0x22 => "remapping entry not present",
        0x23 => "remapping table not accessible",
        0x24 => "reserved bits in the remapping entry",
        0x25 => "compatibility-format interrupt blocked",
        0x26 => "source-id verification failed",
        _ => "unknown reason",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read() {
        // Requester 00:02.0, remapping entry 3 not present.
        let (low, high) =
            (FaultLow::from_bits(3 << 48), FaultHigh::from_bits(1 << 63 | 0x22 << 32 | 0x10));
        assert!(high.fault() && !high.read() && is_interrupt(high.reason()));
        assert_eq!((high.source_id(), low.frame() >> 36), (0x10, 3));
    }
}
