//! The guest-physical map: the one place that says what lies where.
//!
//! Read by the loaders, the ACPI tables, and the hypervisor when it maps a VM and its devices.
//!
//! | from | to | what |
//! |---|---|---|
//! | 0 | 0xA_0000 | RAM; the boot tables below are in its first 192 KiB |
//! | 0xA_0000 | 0xC_0000 | hole (VGA on a PC) |
//! | 0xC_0000 | 0xE_0000 | RAM, reported as reserved: PCs have option ROMs here |
//! | 0xE_0000 | 0x10_0000 | RAM, reported as ACPI: RSDP and tables, where a BIOS scan finds them |
//! | 0x10_0000 | 0xC000_0000 at most | RAM: kernel, modules, initial RAM disk |
//! | 0xC000_0000 | 0xE000_0000 | BARs of PCI functions |
//! | 0xE000_0000 | 0xE010_0000 | PCI configuration space (ECAM) of bus 0 |
//! | 0xE010_0000 | 0x1_0000_0000 | IOAPIC, LAPIC |
//! | 0x1_0000_0000 | | the rest of the RAM |
//!
//! A VM's memory fills the map from 0 without moving: the hole's 128 KiB are part of its size
//! and stay unused, so that all else keeps the alignment of a 2 MiB page.

use crate::memory::{GuestPhys, RamRange};
use arrayvec::ArrayVec;

/// Bytes of a small page; boot tables and modules are aligned to it.
pub const PAGE: u64 = 4096;

/// End of conventional memory and start of the hole.
pub const HOLE_START: u64 = 0xA_0000;
/// End of the hole.
pub const HOLE_END: u64 = 0xC_0000;
/// Start of the ACPI tables; the RSDP is their first byte. It lies in the window that ACPI 6.5
/// section 5.2.5.1 tells an OS to scan.
pub const ACPI_START: u64 = 0xE_0000;
/// End of the ACPI tables.
pub const ACPI_END: u64 = 0x10_0000;
/// Start of extended memory: where kernels and modules go.
pub const HIGH_MEMORY: u64 = 0x10_0000;
/// RAM below 4 GiB ends here at the latest; devices follow.
pub const LOW_RAM_END: u64 = 0xC000_0000;
/// RAM that does not fit below [`LOW_RAM_END`] continues here.
pub const HIGH_RAM_START: u64 = 0x1_0000_0000;

/// Where the BARs of a VM's PCI functions lie; the host bridge's memory window.
pub const PCI_WINDOW_START: u64 = LOW_RAM_END;
/// End of that window.
pub const PCI_WINDOW_END: u64 = 0xE000_0000;
/// Configuration space of PCI bus 0, the only one.
pub const PCI_ECAM: u64 = PCI_WINDOW_END;
/// Its bytes: 256 functions of 4 KiB.
pub const PCI_ECAM_SIZE: u64 = 1 << 20;
/// Port of the PCI configuration address.
pub const PCI_CONFIG_ADDRESS: u16 = 0xCF8;
/// First of the four ports of the PCI configuration data.
pub const PCI_CONFIG_DATA: u16 = 0xCFC;

/// The virtual IOAPIC.
pub const IOAPIC: u64 = 0xFEC0_0000;
/// The local APIC, as it comes out of reset (SDM vol. 3, 11.4.1).
pub const LAPIC: u64 = 0xFEE0_0000;

/// First I/O port of COM1, a 16550A with eight registers.
pub const COM1_PORT: u16 = 0x3F8;
/// Global system interrupt of COM1: IOAPIC pin 4, edge-triggered, active high.
pub const COM1_GSI: u32 = 4;
/// The reset control port (FADT RESET_REG).
pub const RESET_PORT: u16 = 0xCF9;
/// The value that restarts the VM when written to [`RESET_PORT`].
pub const RESET_VALUE: u8 = 0x06;
/// ACPI SLEEP_CONTROL port (ACPI 6.5 section 4.8.3.7).
pub const SLEEP_CONTROL_PORT: u16 = 0xB004;
/// ACPI SLEEP_STATUS port.
pub const SLEEP_STATUS_PORT: u16 = 0xB005;
/// SLP_TYP of the soft-off state.
pub const SLEEP_TYPE_S5: u8 = 5;

/// Linux: the GDT in force at entry.
pub const LINUX_GDT: u64 = 0x1000;
/// Linux: `struct boot_params`, the zero page.
pub const LINUX_BOOT_PARAMS: u64 = 0x2000;
/// Linux: top of a one-page stack. The protocol asks for none; an early fault is easier to read
/// with one.
pub const LINUX_STACK_TOP: u64 = 0x4000;
/// Linux: kernel command line, one page.
pub const LINUX_CMDLINE: u64 = 0x4000;
/// Linux: identity page tables: PML4, PDPT and [`IDENTITY_GIB`] page directories.
pub const LINUX_PAGE_TABLES: u64 = 0x9000;
/// GiB covered by the identity page tables.
pub const IDENTITY_GIB: u64 = 4;
/// Multiboot and PVH: the information structure and all it points to.
pub const BOOT_INFO_START: u64 = 0x1_0000;
/// End of the area for the information structure.
pub const BOOT_INFO_END: u64 = 0x3_0000;

/// Stretches of RAM a VM may have. One stretch is enough unless guest addresses are the host's.
pub const MAX_STRETCHES: usize = 16;
/// The RAM of one VM.
pub type RamRanges = ArrayVec<RamRange, MAX_STRETCHES>;
/// A VM's memory map as its boot protocol reports it: each of the borders of [`e820`] adds one
/// entry at most.
pub type MemoryMap = ArrayVec<MapEntry, { MAX_STRETCHES + 3 }>;

/// The RAM of a VM configured with `memory` bytes, ascending.
pub fn ram_ranges(memory: u64) -> RamRanges {
    let low = memory.min(LOW_RAM_END);
    let high = memory - low;
    let stretches = [
        (0, low.min(HOLE_START)),
        (HOLE_END, low.saturating_sub(HOLE_END)),
        (HIGH_RAM_START, high.min(u64::MAX - HIGH_RAM_START)),
    ];
    stretches
        .into_iter()
        .filter(|&(_, size)| size > 0)
        .map(|(start, size)| RamRange { start: GuestPhys(start), size })
        .collect()
}

/// The RAM of a VM whose `pieces` (first byte and length, ascending) lie at the host's own
/// addresses, so that devices without an IOMMU find it: the first MiB as in every VM, then the pieces. `None` if
/// one of them lies where a VM has something else, or if they make too many stretches.
pub fn identity_ranges(pieces: impl IntoIterator<Item = (u64, u64)>) -> Option<RamRanges> {
    let mut ranges = ram_ranges(HIGH_MEMORY);
    for (start, size) in pieces {
        let end = start.checked_add(size)?;
        if start < HIGH_MEMORY || start < HIGH_RAM_START && end > LOW_RAM_END {
            return None;
        }
        match ranges.last_mut().filter(|last| last.end() == start && start != HIGH_MEMORY) {
            Some(last) => last.size += size,
            None => ranges.try_push(RamRange { start: GuestPhys(start), size }).ok()?,
        }
    }
    Some(ranges)
}

/// What a stretch of memory is for. The numbers are those of E820, Multiboot and PVH alike
/// (ACPI 6.5 table 15.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// Free for the guest.
    Ram = 1,
    /// Not to be touched.
    Reserved = 2,
    /// ACPI tables; free once the guest has read them.
    Acpi = 3,
}

/// One entry of the memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// First byte.
    pub start: GuestPhys,
    /// Length in bytes.
    pub size: u64,
    /// What it is for.
    pub kind: MapKind,
}

/// The memory map that every boot protocol reports for RAM in `ram`: ascending, without overlap,
/// covering the RAM exactly.
pub fn e820(ram: &[RamRange]) -> MemoryMap {
    const KINDS: [(u64, u64, MapKind); 4] = [
        (0, HOLE_END, MapKind::Ram),
        (HOLE_END, ACPI_START, MapKind::Reserved),
        (ACPI_START, ACPI_END, MapKind::Acpi),
        (ACPI_END, u64::MAX, MapKind::Ram),
    ];
    let mut map = MemoryMap::new();
    for range in ram {
        for (from, to, kind) in KINDS {
            let start = range.start.0.max(from);
            let end = range.end().min(to);
            if start < end {
                // The map has room for every stretch and border.
                let entry = MapEntry { start: GuestPhys(start), size: end - start, kind };
                let _ = map.try_push(entry);
            }
        }
    }
    map
}

/// End of the RAM below 4 GiB that kernels and modules may use.
pub fn low_ram_end(ram: &[RamRange]) -> u64 {
    ram.iter().map(RamRange::end).filter(|&end| end <= LOW_RAM_END).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    #[test]
    fn fixed_places_do_not_overlap() {
        let tables = (2 + IDENTITY_GIB) * PAGE;
        let mut places = [
            (LINUX_GDT, PAGE),
            (LINUX_BOOT_PARAMS, PAGE),
            (LINUX_STACK_TOP - PAGE, PAGE),
            (LINUX_CMDLINE, PAGE),
            (LINUX_PAGE_TABLES, tables),
            (BOOT_INFO_START, BOOT_INFO_END - BOOT_INFO_START),
            (ACPI_START, ACPI_END - ACPI_START),
        ];
        places.sort_unstable();
        for pair in places.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:#x?}");
        }
    }

    proptest! {
        #[test]
        fn e820_covers_ram_exactly_without_overlap(units in 8u64..(1 << 19)) {
            let memory = units * (2 << 20);
            let ram = ram_ranges(memory);
            let map = e820(&ram);
            for pair in map.windows(2) {
                prop_assert!(pair[0].start.0 + pair[0].size <= pair[1].start.0);
            }
            let mapped: u64 = map.iter().map(|entry| entry.size).sum();
            let present: u64 = ram.iter().map(|range| range.size).sum();
            prop_assert_eq!(mapped, present);
            prop_assert_eq!(present, memory - (HOLE_END - HOLE_START));
            for entry in &map {
                prop_assert!(ram.iter().any(|r| r.contains(entry.start.0, entry.size)));
            }
            let acpi = map.iter().find(|entry| entry.kind == MapKind::Acpi).unwrap();
            prop_assert_eq!((acpi.start.0, acpi.size), (ACPI_START, ACPI_END - ACPI_START));
        }

        #[test]
        fn identity_stretches_are_the_pieces(pieces in proptest::collection::btree_set(1u64..3000, 1..40)) {
            let pieces: Vec<_> = pieces.into_iter().map(|mib| (mib << 21, 2 << 20)).collect();
            match identity_ranges(pieces.iter().copied()) {
                Some(ranges) => {
                    prop_assert_eq!(e820(&ranges).iter().map(|e| e.size).sum::<u64>(),
                        ranges.iter().map(|r| r.size).sum::<u64>());
                    for (start, size) in pieces {
                        prop_assert!(ranges.iter().any(|range| range.contains(start, size)));
                        prop_assert!(start + size <= LOW_RAM_END || start >= HIGH_RAM_START);
                    }
                }
                None => {
                    let device = |&(start, size)| start + size > LOW_RAM_END && start < HIGH_RAM_START;
                    prop_assert!(pieces.len() > MAX_STRETCHES - 2 || pieces.iter().any(device));
                }
            }
        }

        #[test]
        fn any_size_gives_a_sane_map(memory: u64) {
            let ram = ram_ranges(memory);
            for pair in ram.windows(2) {
                prop_assert!(pair[0].end() <= pair[1].start.0);
            }
            prop_assert!(low_ram_end(&ram) <= LOW_RAM_END);
        }
    }
}
