//! Reading the machine's ACPI tables from bytes: MADT and MCFG; DMAR is in [`crate::iommu::dmar`].
//! Every length comes from firmware and is checked before it is used. ACPI specification 6.5,
//! sections 5.2.12 and 5.2.6. Called by `arch::acpi`.

use core::fmt;

/// A table that cannot be used, with the field that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableError {
    /// Table signature.
    pub table: &'static str,
    /// The field.
    pub field: &'static str,
    /// Byte offset of that field in the table.
    pub offset: usize,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ACPI {} table: {} at offset {:#x} is invalid",
            self.table, self.field, self.offset
        )
    }
}

/// One enabled processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// x2APIC id.
    pub apic_id: u32,
}

/// One I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Its id, by which DMAR names it.
    pub id: u8,
    /// Physical address of its registers.
    pub address: u32,
    /// First global system interrupt.
    pub gsi_base: u32,
}

/// Where an ISA interrupt is really wired to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceOverride {
    /// ISA interrupt number.
    pub isa: u8,
    /// Global system interrupt.
    pub gsi: u32,
    /// MPS INTI flags: polarity in bits 1:0, trigger mode in bits 3:2.
    pub flags: u16,
}

/// An entry of the MADT that Beeline uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MadtEntry {
    /// Types 0 and 9, enabled ones only.
    Processor(Processor),
    /// Type 1.
    IoApic(IoApic),
    /// Type 2.
    SourceOverride(SourceOverride),
}

const HEADER: usize = 36;
const MADT_ENTRIES: usize = HEADER + 8;
const ENABLED: u32 = 1;

fn bytes<const N: usize>(table: &[u8], at: usize) -> Option<[u8; N]> {
    table.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u32_at(table: &[u8], at: usize) -> Option<u32> {
    bytes(table, at).map(u32::from_le_bytes)
}

/// Calls `each` for every entry of a MADT that Beeline uses. `table` is the whole table.
///
/// # Errors
/// The first entry whose length or content is wrong.
pub fn parse_madt(table: &[u8], mut each: impl FnMut(MadtEntry)) -> Result<(), TableError> {
    let error = |field, offset| TableError { table: "APIC", field, offset };
    if table.len() < MADT_ENTRIES {
        return Err(error("table length", 4));
    }
    let mut at = MADT_ENTRIES;
    while at < table.len() {
        let [kind, len] = bytes(table, at).ok_or(error("entry header", at))?;
        let len = usize::from(len);
        let entry = table
            .get(at..at + len)
            .filter(|entry| entry.len() >= 2)
            .ok_or(error("entry length", at + 1))?;
        if let Some(found) = madt_entry(kind, entry).ok_or(error("entry length", at + 1))? {
            each(found);
        }
        at += len;
    }
    Ok(())
}

/// `None`: too short for its type. `Some(None)`: not one that Beeline uses.
fn madt_entry(kind: u8, entry: &[u8]) -> Option<Option<MadtEntry>> {
    let processor = |apic_id, flags: u32| {
        (flags & ENABLED != 0).then_some(MadtEntry::Processor(Processor { apic_id }))
    };
    Some(match kind {
        0 => processor(u32::from(*entry.get(3)?), u32_at(entry, 4)?),
        1 => Some(MadtEntry::IoApic(IoApic {
            id: *entry.get(2)?,
            address: u32_at(entry, 4)?,
            gsi_base: u32_at(entry, 8)?,
        })),
        2 => Some(MadtEntry::SourceOverride(SourceOverride {
            isa: *entry.get(3)?,
            gsi: u32_at(entry, 4)?,
            flags: u16::from_le_bytes(bytes(entry, 8)?),
        })),
        9 => processor(u32_at(entry, 4)?, u32_at(entry, 8)?),
        _ => None,
    })
}

/// A PCI configuration window (ECAM).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EcamWindow {
    /// Physical address of bus `first_bus`'s first function.
    pub base: u64,
    /// PCI segment.
    pub segment: u16,
    /// First bus.
    pub first_bus: u8,
    /// Last bus.
    pub last_bus: u8,
}

/// Calls `each` for every window of an MCFG.
///
/// # Errors
/// A truncated entry, or one whose last bus is before its first.
pub fn parse_mcfg(table: &[u8], mut each: impl FnMut(EcamWindow)) -> Result<(), TableError> {
    const ENTRIES: usize = HEADER + 8;
    let error = |field, offset| TableError { table: "MCFG", field, offset };
    let entries = table.get(ENTRIES..).ok_or(error("table length", 4))?;
    for (index, entry) in entries.chunks(16).enumerate() {
        let at = ENTRIES + index * 16;
        let base = bytes(entry, 0).map(u64::from_le_bytes).ok_or(error("entry", at))?;
        let segment = bytes(entry, 8).map(u16::from_le_bytes).ok_or(error("entry", at))?;
        let [first_bus, last_bus] = bytes(entry, 10).ok_or(error("entry", at))?;
        if last_bus < first_bus {
            return Err(error("bus range", at + 10));
        }
        each(EcamWindow { base, segment, first_bus, last_bus });
    }
    Ok(())
}

/// Physical address of the event timers' registers, from an HPET; `None` if it is short, or they are not in memory.
pub fn parse_hpet(table: &[u8]) -> Option<u64> {
    const ADDRESS_SPACE: usize = HEADER + 4;
    let memory = *table.get(ADDRESS_SPACE)? == 0;
    let address = u64::from_le_bytes(bytes(table, ADDRESS_SPACE + 4)?);
    (memory && address != 0).then_some(address)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::{string::ToString, vec, vec::Vec};

    #[test]
    fn event_timers_lie_where_the_table_says() {
        let mut table = vec![0_u8; 56];
        table[44..52].copy_from_slice(&0xFED0_0000_u64.to_le_bytes());
        assert_eq!(parse_hpet(&table), Some(0xFED0_0000));
        assert_eq!(parse_hpet(&table[..51]), None);
        table[40] = 1;
        assert_eq!(parse_hpet(&table), None, "ports");
    }

    fn madt() -> Vec<u8> {
        let mut table = vec![0_u8; MADT_ENTRIES];
        table.extend([0, 8, 0, 3, 1, 0, 0, 0]);
        table.extend([0, 8, 1, 4, 0, 0, 0, 0]);
        table.extend([1, 12, 6, 0, 0, 0, 0xC0, 0xFE, 0, 0, 0, 0]);
        table.extend([2, 10, 0, 0, 2, 0, 0, 0, 5, 0]);
        table.extend([9, 16, 0, 0, 0x00, 0x01, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]);
        table.extend([4, 6, 0xFF, 0, 0, 1]);
        table
    }

    fn parse(table: &[u8]) -> Result<Vec<MadtEntry>, TableError> {
        let mut entries = vec![];
        parse_madt(table, |entry| entries.push(entry)).map(|()| entries)
    }

    #[test]
    fn a_madt_is_read() {
        let entries = parse(&madt()).unwrap();
        assert_eq!(
            entries,
            [
                MadtEntry::Processor(Processor { apic_id: 3 }),
                MadtEntry::IoApic(IoApic { id: 6, address: 0xFEC0_0000, gsi_base: 0 }),
                MadtEntry::SourceOverride(SourceOverride { isa: 0, gsi: 2, flags: 5 }),
                MadtEntry::Processor(Processor { apic_id: 0x100 }),
            ]
        );
    }

    #[test]
    fn r_s10_an_entry_of_length_zero_is_named_and_does_not_hang() {
        let mut table = madt();
        table[MADT_ENTRIES + 1] = 0;
        let error = parse(&table).unwrap_err();
        assert_eq!(error.to_string(), "ACPI APIC table: entry length at offset 0x2d is invalid");
    }

    #[test]
    fn r_s10_an_entry_too_short_for_its_type_is_refused() {
        let mut table = vec![0_u8; MADT_ENTRIES];
        table.extend([9, 4, 0, 0]);
        assert_eq!(parse(&table).unwrap_err().field, "entry length");
    }

    #[test]
    fn r_s10_a_bus_range_that_runs_backwards_is_refused() {
        let mut table = vec![0_u8; 44];
        table.extend([0, 0, 0, 0xB0, 0, 0, 0, 0, 0, 0, 9, 8, 0, 0, 0, 0]);
        assert_eq!(parse_mcfg(&table, |_| ()).unwrap_err().field, "bus range");
    }

    proptest! {
        #[test]
        fn r_s10_no_bytes_panic_or_hang(table in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&table);
            let _ = parse_mcfg(&table, |_| ());
        }
    }
}
