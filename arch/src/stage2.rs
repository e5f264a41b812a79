//! Second-stage address spaces: EPT, nested page tables and VT-d second-level tables, by one walker.
//! SDM volume 3, section 29.3; APM volume 2, section 15.25; VT-d specification, section 9.8.
//!
//! An address space is built before its guest runs and does not change while it does; the frames
//! stay with it for good.

use crate::heap::{self, Block, FRAME};
use alloc::vec::Vec;
use core::ops::Range;

/// Bits that mean the same in all three formats: read or present, write, execute or user (VT-d
/// ignores it), a large page, the frame.
mod bits {
    pub const READ: u64 = 1 << 0;
    pub const ACCESS: u64 = READ | 1 << 1 | 1 << 2;
    pub const LARGE: u64 = 1 << 7;
    pub const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;
}

/// Whose hardware walks the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Intel EPT: bits 5:3 are the memory type (SDM tables 29-1 to 29-7).
    Ept,
    /// AMD nested page tables: ordinary long-mode entries. An access by the guest counts as a user's
    /// (APM volume 2, section 15.25.5), bits 4:3 choose a type of the host's PAT.
    Npt,
    /// VT-d second-level tables: no memory type of their own.
    Vtd,
}

impl Format {
    const fn memory(self) -> u64 {
        match self {
            Self::Ept => 6 << 3,
            Self::Npt | Self::Vtd => 0,
        }
    }

    const fn device(self) -> u64 {
        match self {
            // PCD and PWT: entry 3 of the PAT, uncacheable after a reset.
            Self::Npt => 3 << 3,
            Self::Ept | Self::Vtd => 0,
        }
    }
}

/// Page sizes by level: 4 KiB, 2 MiB, 1 GiB.
const SIZE: [u64; 3] = [1 << 12, 1 << 21, 1 << 30];

/// A guest-physical address space.
#[derive(Debug)]
pub struct Stage2 {
    root: Block,
    /// Lower tables; kept so that their frames have an owner.
    tables: Vec<Block>,
    format: Format,
    largest: usize,
}

/// A page table could not be allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl Stage2 {
    /// An empty address space. `largest` is the largest page: 1 for 2 MiB, 2 for 1 GiB.
    ///
    /// # Errors
    /// If memory ran out.
    pub fn new(format: Format, largest: usize) -> Result<Self, OutOfMemory> {
        let root = heap::frame().ok_or(OutOfMemory)?;
        Ok(Self { root, tables: Vec::new(), format, largest: largest.min(2) })
    }

    /// Maps guest-physical memory onto host memory, with the largest pages that fit. Sizes and
    /// addresses are multiples of 4 KiB.
    ///
    /// # Errors
    /// If memory ran out.
    pub fn map(&mut self, gpa: Range<u64>, host: u64) -> Result<(), OutOfMemory> {
        self.map_as(gpa, host, self.format.memory())
    }

    /// Maps a device's registers, uncacheable. Sizes and addresses are multiples of 4 KiB.
    ///
    /// # Errors
    /// If memory ran out.
    pub fn map_device(&mut self, gpa: Range<u64>, host: u64) -> Result<(), OutOfMemory> {
        self.map_as(gpa, host, self.format.device())
    }

    fn map_as(&mut self, gpa: Range<u64>, host: u64, kind: u64) -> Result<(), OutOfMemory> {
        let (mut at, mut to) = (gpa.start, host);
        while at < gpa.end {
            let level = (0..=self.largest)
                .rev()
                .find(|&l| at % SIZE[l] == 0 && to % SIZE[l] == 0 && gpa.end - at >= SIZE[l])
                .unwrap_or(0);
            let large = if level > 0 { bits::LARGE } else { 0 };
            self.set(at, level, to | bits::ACCESS | kind | large)?;
            at += SIZE[level];
            to += SIZE[level];
        }
        Ok(())
    }

    fn set(&mut self, gpa: u64, level: usize, value: u64) -> Result<(), OutOfMemory> {
        // `None` is the root, `Some(n)` the n-th lower table.
        let mut table = None;
        for upper in (level + 1..=3).rev() {
            let at = offset(gpa, upper);
            let old = self.table(table).read_u64(at);
            let next = if old & bits::READ == 0 {
                let new = heap::frame().ok_or(OutOfMemory)?;
                let pointer = new.address() | bits::ACCESS;
                self.table(table).write_u64(at, pointer);
                self.tables.push(new);
                self.tables.len() - 1
            } else {
                let address = old & bits::ADDRESS;
                let known = self.tables.iter().position(|t| t.address() == address);
                // A large page in the way: maps never overlap, so this is a bug of ours.
                known.ok_or(OutOfMemory)?
            };
            table = Some(next);
        }
        self.table(table).write_u64(offset(gpa, level), value);
        Ok(())
    }

    /// Takes the page that holds `gpa` away until [`Stage2::unhide`]: a debug hook that cuts the
    /// delivery of events short. False where nothing is mapped. The caller drops cached
    /// translations.
    pub fn hide(&self, gpa: u64) -> bool {
        self.leaf(gpa).is_some_and(|(table, at, value)| {
            let mapped = value & bits::ACCESS != 0;
            table.write_u64(at, value & !bits::ACCESS);
            mapped
        })
    }

    /// Gives a hidden page back; false if it was not hidden.
    pub fn unhide(&self, gpa: u64) -> bool {
        self.leaf(gpa).is_some_and(|(table, at, value)| {
            let hidden = value != 0 && value & bits::ACCESS == 0;
            if hidden {
                table.write_u64(at, value | bits::ACCESS);
            }
            hidden
        })
    }

    /// The entry that maps `gpa`, also if it is hidden: its table, byte offset and value.
    fn leaf(&self, gpa: u64) -> Option<(&Block, u64, u64)> {
        let mut table = &self.root;
        for level in (0..=3).rev() {
            let at = offset(gpa, level);
            let value = table.read_u64(at);
            if level == 0 || value & bits::LARGE != 0 {
                return Some((table, at, value));
            }
            table = self.tables.iter().find(|t| t.address() == value & bits::ADDRESS)?;
        }
        None
    }

    fn table(&self, index: Option<usize>) -> &Block {
        index.and_then(|i| self.tables.get(i)).unwrap_or(&self.root)
    }

    /// Host-physical address of the root table.
    pub fn root(&self) -> u64 {
        self.root.address()
    }

    /// Physical address of the table that an IOMMU starts from, for tables of 4 levels or of 3 (39 bits).
    ///
    /// # Errors
    /// Why hardware with these levels and pages up to `largest` cannot walk the space.
    pub fn device_root(&self, levels: u8, largest: usize) -> Result<u64, &'static str> {
        if self.format != Format::Vtd {
            return Err("its tables are of another format");
        }
        if self.largest > largest {
            return Err("it has larger pages than the hardware knows");
        }
        if levels == 4 {
            return Ok(self.root());
        }
        let entry = |index: u64| self.root.read_u64(index * 8);
        if (1..512).any(|index| entry(index) != 0) {
            return Err("it goes beyond 512 GiB, and the hardware has 39 address bits");
        }
        Some(entry(0) & bits::ADDRESS).filter(|table| *table != 0).ok_or("it is empty")
    }

    /// Writes all tables back to memory, for an IOMMU that does not snoop the caches.
    pub fn write_back(&self) {
        self.tables.iter().chain([&self.root]).for_each(Block::write_back);
    }

    /// Translates a guest-physical address, as the hardware would. For tests and audits.
    pub fn translate(&self, gpa: u64) -> Option<u64> {
        let mut table = &self.root;
        for level in (0..=3).rev() {
            let value = table.read_u64(offset(gpa, level));
            if value & bits::READ == 0 {
                return None;
            }
            let page = SIZE.get(level).filter(|_| level == 0 || value & bits::LARGE != 0);
            if let Some(size) = page {
                return Some((value & bits::ADDRESS & !(size - 1)) | (gpa & (size - 1)));
            }
            table = self.tables.iter().find(|t| t.address() == value & bits::ADDRESS)?;
        }
        None
    }

    /// Bytes of table memory in use.
    pub fn table_bytes(&self) -> u64 {
        (self.tables.len() as u64 + 1) * FRAME
    }
}

/// Byte offset of an address's entry in a table of `level`.
const fn offset(gpa: u64, level: usize) -> u64 {
    (gpa >> (12 + 9 * level) & 511) * 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_fitting_page_is_used() {
        let mut space = Stage2::new(Format::Ept, 2).unwrap();
        space.map(0..0xA_0000, 0x4000_0000).unwrap();
        space.map(0x20_0000..0x4000_0000, 0x4020_0000).unwrap();
        space.map(0x1_0000_0000..0x1_4000_0000, 0x8000_0000).unwrap();
        assert_eq!(space.translate(0x9_FFFF), Some(0x4009_FFFF));
        assert_eq!(space.translate(0xA_0000), None);
        assert_eq!(space.translate(0x3FFF_FFFF), Some(0x7FFF_FFFF));
        assert_eq!(space.translate(0x1_2345_6789), Some(0xA345_6789));
        // Root, one PDPT, one PD, one PT: the 1 GiB page needs no table of its own.
        assert_eq!(space.table_bytes(), 4 * FRAME);
    }

    #[test]
    fn a_hidden_page_comes_back_as_it_was() {
        let mut space = Stage2::new(Format::Ept, 1).unwrap();
        space.map(0..0x40_0000, 0x4000_0000).unwrap();
        assert!(!space.unhide(0x20_1234));
        assert!(space.hide(0x20_1234));
        assert_eq!(space.translate(0x20_0000), None);
        assert!(space.translate(0x1F_FFFF).is_some());
        assert!(space.unhide(0x3F_FFFF));
        assert_eq!(space.translate(0x20_0000), Some(0x4020_0000));
        assert!(!space.hide(0x8000_0000));
    }

    #[test]
    fn device_pages_are_uncacheable_in_every_format() {
        for (format, memory, device) in
            [(Format::Ept, 0x37, 0x07), (Format::Npt, 0x07, 0x1F), (Format::Vtd, 0x07, 0x07)]
        {
            let mut space = Stage2::new(format, 1).unwrap();
            space.map(0..0x1000, 0x5000).unwrap();
            space.map_device(0x1000..0x2000, 0xFEB0_0000).unwrap();
            let entry = |gpa| space.leaf(gpa).map(|(_, _, value)| value);
            assert_eq!(entry(0), Some(0x5000 | memory), "{format:?}");
            assert_eq!(entry(0x1000), Some(0xFEB0_0000 | device), "{format:?}");
        }
    }

    #[test]
    fn a_device_gets_three_levels_only_of_a_space_that_fits() {
        let mut space = Stage2::new(Format::Vtd, 1).unwrap();
        assert!(space.device_root(3, 1).is_err(), "an empty space");
        space.map(0x20_0000..0x40_0000, 0x4000_0000).unwrap();
        let three = space.device_root(3, 1).unwrap();
        let table = space.tables.iter().find(|t| t.address() == three).unwrap();
        assert_ne!(table.read_u64(0), 0, "the entry of the first GiB");
        assert_eq!(space.device_root(4, 2), Ok(space.root()));
        assert!(space.device_root(4, 0).is_err(), "2 MiB pages");
        space.map(0x80_0000_0000..0x80_0020_0000, 0x4020_0000).unwrap();
        assert!(space.device_root(3, 1).is_err() && space.device_root(4, 1).is_ok());
        assert!(Stage2::new(Format::Ept, 1).unwrap().device_root(4, 2).is_err());
    }

    #[test]
    fn r_s9_what_is_not_mapped_is_not_there() {
        let mut space = Stage2::new(Format::Ept, 1).unwrap();
        space.map(0x10_0000..0x20_0000, 0x70_0000).unwrap();
        for gpa in [0, 0xF_FFFF, 0x20_0000, 0xFEE0_0000, 0x1_0000_0000] {
            assert_eq!(space.translate(gpa), None, "{gpa:#x}");
        }
    }
}
