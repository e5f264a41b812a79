//! The DMAR table: which remapping units there are and which devices each covers. Every length comes
//! from firmware and is checked before it is used. VT-d specification 4.1, chapter 8. Called by
//! `arch::acpi`; `arch::iommu` resolves the scopes.

use crate::acpi::TableError;
use alloc::vec::Vec;
use core::ops::Range;

/// What the table says. ATSR, RHSA, ANDD and later structures have nothing for Beeline: it uses no
/// device TLBs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dmar {
    /// Width of a physical address, bits.
    pub host_address_width: u8,
    /// INTR_REMAP: the platform supports interrupt remapping.
    pub interrupt_remapping: bool,
    /// X2APIC_OPT_OUT: firmware asks the system not to use x2APIC mode.
    pub x2apic_opt_out: bool,
    /// Remapping units, in the table's order.
    pub units: Vec<Drhd>,
    /// Memory that firmware wants devices to reach.
    pub reserved: Vec<Rmrr>,
}

/// A remapping unit: DRHD, section 8.3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drhd {
    /// Physical address of its registers.
    pub base: u64,
    /// PCI segment.
    pub segment: u16,
    /// It covers every device of the segment that no other unit covers.
    pub include_pci_all: bool,
    /// The devices that it names.
    pub scopes: Vec<DeviceScope>,
}

/// Reserved memory: RMRR, section 8.4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rmrr {
    /// PCI segment.
    pub segment: u16,
    /// Physical addresses.
    pub range: Range<u64>,
    /// The devices that use it.
    pub scopes: Vec<DeviceScope>,
}

/// What a device scope names, section 8.3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeKind {
    /// One function.
    Endpoint,
    /// A bridge and all that is behind it.
    SubHierarchy,
    /// The I/O APIC with this id.
    IoApic(u8),
    /// The HPET with this number.
    Hpet(u8),
    /// A device that ACPI names, by its number in an ANDD structure.
    Acpi(u8),
}

/// A device by its place in the bus tree, since bus numbers may be given anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceScope {
    /// What it names.
    pub kind: ScopeKind,
    /// The bus where the path starts.
    pub start_bus: u8,
    /// Device (below 32) and function (below 8), from that bus down; never empty.
    pub path: Vec<(u8, u8)>,
}

impl DeviceScope {
    /// True if both name the same thing of one segment.
    fn same(&self, other: &Self) -> bool {
        use ScopeKind::{Endpoint, SubHierarchy};
        match (self.kind, other.kind) {
            (Endpoint | SubHierarchy, Endpoint | SubHierarchy) => {
                self.start_bus == other.start_bus && self.path == other.path
            }
            (mine, others) => mine == others,
        }
    }
}

const HEADER: usize = 36;
const STRUCTURES: usize = HEADER + 12;
const SCOPE_PATH: usize = 6;

const fn error(field: &'static str, offset: usize) -> TableError {
    TableError { table: "DMAR", field, offset }
}

fn bytes<const N: usize>(
    table: &[u8],
    at: usize,
    field: &'static str,
) -> Result<[u8; N], TableError> {
    let end = at.checked_add(N).ok_or(error(field, at))?;
    table.get(at..end).and_then(|b| b.try_into().ok()).ok_or(error(field, at))
}

fn u16_at(table: &[u8], at: usize, field: &'static str) -> Result<u16, TableError> {
    bytes(table, at, field).map(u16::from_le_bytes)
}

fn u64_at(table: &[u8], at: usize, field: &'static str) -> Result<u64, TableError> {
    bytes(table, at, field).map(u64::from_le_bytes)
}

impl Dmar {
    /// Reads a whole table.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn parse(table: &[u8]) -> Result<Self, TableError> {
        let length = bytes(table, 4, "table length").map(u32::from_le_bytes)?;
        if length as usize != table.len() || table.len() < STRUCTURES {
            return Err(error("table length", 4));
        }
        if table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) != 0 {
            return Err(error("checksum", 9));
        }
        let [width, flags] = bytes(table, HEADER, "host address width")?;
        if width > 63 {
            return Err(error("host address width", HEADER));
        }
        let mut dmar = Self {
            host_address_width: width + 1,
            interrupt_remapping: flags & 1 != 0,
            x2apic_opt_out: flags & 2 != 0,
            units: Vec::new(),
            reserved: Vec::new(),
        };
        let mut at = STRUCTURES;
        while at < table.len() {
            let kind = u16_at(table, at, "structure type")?;
            let length = usize::from(u16_at(table, at + 2, "structure length")?);
            let least = match kind {
                0 => 16,
                1 => 24,
                _ => 4,
            };
            // Offsets in `structure` are offsets in the table.
            let structure = table
                .get(..at + length)
                .filter(|_| length >= least)
                .ok_or(error("structure length", at + 2))?;
            match kind {
                0 => dmar.unit(structure, at)?,
                1 => dmar.reserved(structure, at)?,
                _ => (),
            }
            at += length;
        }
        Ok(dmar)
    }

    /// A DRHD at `at`, which ends where `table` ends.
    fn unit(&mut self, table: &[u8], at: usize) -> Result<(), TableError> {
        let [flags] = bytes(table, at + 4, "flags")?;
        let segment = u16_at(table, at + 6, "segment")?;
        let base = u64_at(table, at + 8, "register base address")?;
        let beyond = base.checked_shr(u32::from(self.host_address_width)).is_some_and(|b| b != 0);
        let twice = self.units.iter().any(|unit| unit.base == base);
        if base == 0 || base % 4096 != 0 || beyond || twice {
            return Err(error("register base address", at + 8));
        }
        let include_pci_all = flags & 1 != 0;
        if include_pci_all && self.units.iter().any(|u| u.include_pci_all && u.segment == segment) {
            return Err(error("INCLUDE_PCI_ALL flag of a second unit", at + 4));
        }
        let scopes = scopes(table, at + 16, |scope| {
            self.units
                .iter()
                .any(|u| u.segment == segment && u.scopes.iter().any(|s| s.same(scope)))
        })?;
        self.units.push(Drhd { base, segment, include_pci_all, scopes });
        Ok(())
    }

    /// An RMRR at `at`, which ends where `table` ends.
    fn reserved(&mut self, table: &[u8], at: usize) -> Result<(), TableError> {
        let segment = u16_at(table, at + 6, "segment")?;
        let base = u64_at(table, at + 8, "reserved memory base")?;
        if base % 4096 != 0 {
            return Err(error("reserved memory base", at + 8));
        }
        let limit = u64_at(table, at + 16, "reserved memory limit")?;
        let end = limit.checked_add(1).filter(|end| *end > base && end % 4096 == 0);
        let end = end.ok_or(error("reserved memory limit", at + 16))?;
        // One device may have several regions, and a region several devices.
        let scopes = scopes(table, at + 24, |_| false)?;
        self.reserved.push(Rmrr { segment, range: base..end, scopes });
        Ok(())
    }
}

/// The device scopes from `at` to the end. `taken` says whether an earlier unit names the same.
fn scopes(
    table: &[u8],
    mut at: usize,
    taken: impl Fn(&DeviceScope) -> bool,
) -> Result<Vec<DeviceScope>, TableError> {
    let mut scopes: Vec<DeviceScope> = Vec::new();
    while at < table.len() {
        let [kind, length] = bytes(table, at, "device scope header")?;
        let length = usize::from(length);
        let path = table
            .get(at + SCOPE_PATH..at + length)
            .filter(|path| !path.is_empty() && path.len() % 2 == 0)
            .ok_or(error("device scope length", at + 1))?;
        let [number, start_bus] = bytes(table, at + 4, "device scope header")?;
        let kind = match kind {
            1 => Some(ScopeKind::Endpoint),
            2 => Some(ScopeKind::SubHierarchy),
            3 => Some(ScopeKind::IoApic(number)),
            4 => Some(ScopeKind::Hpet(number)),
            5 => Some(ScopeKind::Acpi(number)),
            // Reserved for later revisions.
            _ => None,
        };
        if let Some(kind) = kind {
            let path: Vec<(u8, u8)> =
                path.as_chunks().0.iter().map(|&[device, function]| (device, function)).collect();
            if let Some(bad) =
                path.iter().position(|&(device, function)| device > 31 || function > 7)
            {
                return Err(error("device scope path", at + SCOPE_PATH + 2 * bad));
            }
            let scope = DeviceScope { kind, start_bus, path };
            if taken(&scope) || scopes.iter().any(|other| other.same(&scope)) {
                return Err(error("device scope, which an earlier one covers,", at));
            }
            scopes.push(scope);
        }
        at += length;
    }
    Ok(scopes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::ToString;
    use std::vec;

    /// A table of these structures with the right length and checksum.
    fn table(structures: &[&[u8]]) -> Vec<u8> {
        let mut table = vec![0_u8; STRUCTURES];
        table[..4].copy_from_slice(b"DMAR");
        table[HEADER] = 38;
        table[HEADER + 1] = 3;
        table.extend(structures.concat());
        let length = table.len() as u32;
        table[4..8].copy_from_slice(&length.to_le_bytes());
        seal(table)
    }

    fn seal(mut table: Vec<u8>) -> Vec<u8> {
        table[9] = 0;
        table[9] = table.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
        table
    }

    fn unit(all: bool, base: u64, scopes: &[&[u8]]) -> Vec<u8> {
        let scopes = scopes.concat();
        let mut unit = vec![0, 0, 16 + scopes.len() as u8, 0, u8::from(all), 0, 0, 0];
        unit.extend(base.to_le_bytes());
        unit.extend(scopes);
        unit
    }

    fn reserved(base: u64, limit: u64) -> Vec<u8> {
        let mut region = vec![1, 0, 32, 0, 0, 0, 0, 0];
        region.extend(base.to_le_bytes());
        region.extend(limit.to_le_bytes());
        region.extend(VGA);
        region
    }

    const VGA: &[u8] = &[1, 8, 0, 0, 0, 0, 2, 0];
    const BEHIND_A_PORT: &[u8] = &[1, 10, 0, 0, 0, 0, 0x1C, 3, 0, 1];
    const BRIDGE: &[u8] = &[2, 8, 0, 0, 0, 0, 0x1C, 3];
    const IO_APIC: &[u8] = &[3, 8, 0, 0, 4, 0xF0, 0x1F, 0];
    const LATER: &[u8] = &[9, 8, 0, 0, 0, 0, 0xFF, 0xFF];

    fn refusal(table: &[u8]) -> std::string::String {
        Dmar::parse(table).unwrap_err().to_string()
    }

    #[test]
    fn a_dmar_is_read() {
        let first = unit(false, 0xFED9_0000, &[VGA]);
        let second = unit(true, 0xFED9_1000, &[BEHIND_A_PORT, BRIDGE, IO_APIC, LATER]);
        let atsr: &[u8] = &[2, 0, 8, 0, 1, 0, 0, 0];
        let dmar =
            Dmar::parse(&table(&[&first, &second, atsr, &reserved(0x7B00_0000, 0x7FFF_FFFF)]));
        let dmar = dmar.unwrap();
        assert_eq!(dmar.host_address_width, 39);
        assert!(dmar.interrupt_remapping && dmar.x2apic_opt_out);
        assert_eq!(dmar.units.len(), 2);
        assert!(!dmar.units[0].include_pci_all && dmar.units[1].include_pci_all);
        assert_eq!(dmar.units[1].base, 0xFED9_1000);
        let scopes = &dmar.units[1].scopes;
        assert_eq!(scopes.len(), 3);
        assert_eq!(scopes[0].path, [(0x1C, 3), (0, 1)]);
        assert_eq!(scopes[1].kind, ScopeKind::SubHierarchy);
        assert_eq!((scopes[2].kind, scopes[2].start_bus), (ScopeKind::IoApic(4), 0xF0));
        assert_eq!(dmar.reserved[0].range, 0x7B00_0000..0x8000_0000);
        assert_eq!(dmar.reserved[0].scopes[0].path, [(2, 0)]);
    }

    #[test]
    fn r_s10_a_damaged_dmar_names_table_field_and_offset() {
        let good = table(&[&unit(true, 0xFED9_0000, &[VGA, IO_APIC])]);
        assert!(Dmar::parse(&good).is_ok());
        let with = |at: usize, value: u8| {
            let mut table = good.clone();
            table[at] = value;
            refusal(&seal(table))
        };
        let says = |field, at: usize| {
            std::format!("ACPI DMAR table: {field} at offset {at:#x} is invalid")
        };
        assert_eq!(refusal(&good[..60]), says("table length", 4));
        assert_eq!(refusal(&good[..3]), says("table length", 4));
        let mut flipped = good.clone();
        flipped[56] ^= 1;
        assert_eq!(refusal(&flipped), says("checksum", 9));
        assert_eq!(with(36, 64), says("host address width", 36));
        assert_eq!(with(50, 0), says("structure length", 50));
        assert_eq!(with(50, 15), says("structure length", 50));
        assert_eq!(with(50, 33), says("structure length", 50));
        assert_eq!(with(56, 0x80), says("register base address", 56));
        assert_eq!(with(62, 1), says("register base address", 56));
        assert_eq!(with(65, 0), says("device scope length", 65));
        assert_eq!(with(65, 6), says("device scope length", 65));
        assert_eq!(with(65, 9), says("device scope length", 65));
        assert_eq!(with(73, 10), says("device scope length", 73));
        assert_eq!(with(70, 32), says("device scope path", 70));
        assert_eq!(with(71, 8), says("device scope path", 70));
    }

    #[test]
    fn r_s10_a_base_of_zero_or_used_twice_is_refused() {
        assert!(refusal(&table(&[&unit(false, 0, &[])])).contains("register base address"));
        let unit = unit(false, 0xFED9_0000, &[]);
        assert!(refusal(&table(&[&unit, &unit])).contains("register base address at offset 0x48"));
    }

    #[test]
    fn r_s10_a_device_under_two_units_is_refused() {
        let first = unit(false, 0xFED9_0000, &[BRIDGE]);
        // The same function, once as a bridge and once as an endpoint.
        let endpoint: &[u8] = &[1, 8, 0, 0, 0, 0, 0x1C, 3];
        let twice = table(&[&first, &unit(false, 0xFED9_1000, &[VGA, endpoint])]);
        assert_eq!(
            refusal(&twice),
            "ACPI DMAR table: device scope, which an earlier one covers, at offset 0x60 is invalid"
        );
        let in_one = table(&[&unit(false, 0xFED9_0000, &[IO_APIC, IO_APIC])]);
        assert!(refusal(&in_one).contains("device scope"));
        let all = table(&[&unit(true, 0xFED9_0000, &[]), &unit(true, 0xFED9_1000, &[])]);
        assert!(refusal(&all).contains("INCLUDE_PCI_ALL"));
    }

    #[test]
    fn r_s10_reserved_memory_that_ends_before_it_starts_is_refused() {
        for (base, limit, field) in [
            (0x1000, 0xFFE, "limit"),
            (0x1000, 0xFFF, "limit"),
            (0x1000, 0x1FFE, "limit"),
            (0x1001, 0x1FFF, "base"),
            (0x1000, u64::MAX, "limit"),
        ] {
            assert!(
                refusal(&table(&[&reserved(base, limit)])).contains(field),
                "{base:#x} {limit:#x}"
            );
        }
    }

    proptest! {
        #[test]
        fn r_s10_no_dmar_panics_or_hangs(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), sealed: bool,
        ) {
            let table = if sealed { table(&[&bytes]) } else { bytes };
            let _ = Dmar::parse(&table);
        }

        /// A table with one damaged byte either reads or names a field inside of itself.
        #[test]
        fn r_s10_one_damaged_byte_of_a_dmar_is_read_or_named(at in STRUCTURES..120_usize, value: u8) {
            let mut damaged = table(&[
                &unit(false, 0xFED9_0000, &[VGA, BEHIND_A_PORT]),
                &unit(true, 0xFED9_1000, &[IO_APIC]),
                &reserved(0x7B00_0000, 0x7FFF_FFFF),
            ]);
            prop_assert!(at < damaged.len());
            damaged[at] = value;
            let damaged = seal(damaged);
            match Dmar::parse(&damaged) {
                Ok(dmar) => prop_assert!(dmar.units.iter().all(|unit| unit.base % 4096 == 0)),
                Err(error) => prop_assert!(error.offset < damaged.len() + 4),
            }
        }
    }
}
