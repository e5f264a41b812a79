//! Root and context entries of legacy mode: which second-stage tables a device's addresses go through.
//! VT-d specification 4.1, sections 9.1 and 9.3. Both are 128 bits; the present bit is in the low half.

use bitfield_struct::bitfield;

/// Low half of a root entry: one for each bus. The high half is 0.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RootEntry {
    /// P: without it every request from the bus is blocked.
    pub present: bool,
    #[bits(11)]
    __: u16,
    /// Frame number of the bus's context table.
    #[bits(52)]
    pub context_table: u64,
}

/// Low half of a context entry: one for each function of a bus.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ContextLow {
    /// P: without it every request from the function is blocked.
    pub present: bool,
    /// FPD: faults are not recorded.
    pub fault_disable: bool,
    /// T: 0 translates untranslated requests and blocks those that claim to be translated.
    #[bits(2)]
    pub translation_type: u8,
    __: u8,
    /// Frame number of the second-stage root.
    #[bits(52)]
    pub second_stage: u64,
}

/// High half of a context entry.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ContextHigh {
    /// AW: levels of the tables, less 2.
    #[bits(3)]
    pub address_width: u8,
    #[bits(5)]
    __: u8,
    /// DID: tag of cached translations.
    pub domain: u16,
    #[bits(40)]
    __: u64,
}

/// A context entry for second-stage tables of 3 or 4 levels, as low and high half.
pub const fn context_entry(second_stage: u64, levels: u8, domain: u16) -> (u64, u64) {
    let low = ContextLow::new().with_present(true).with_second_stage(second_stage >> 12);
    let high = ContextHigh::new().with_address_width(levels - 2).with_domain(domain);
    (low.into_bits(), high.into_bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_entry_is_the_manuals() {
        assert_eq!(context_entry(0x1234_5000, 4, 0x567), (0x1234_5001, 0x5_6702));
        assert_eq!(context_entry(0x1234_5000, 3, 1), (0x1234_5001, 0x101));
    }
}
