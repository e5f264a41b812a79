//! Second-stage address spaces: EPT now, nested page tables later, by one walker. SDM volume 3,
//! section 29.3.
//!
//! An address space is built before its guest runs and does not change while it does; the frames
//! stay with it for good.

use crate::heap::{self, Block, FRAME};
use alloc::vec::Vec;
use core::ops::Range;

/// Entry bits of an EPT entry, SDM tables 29-1 to 29-7.
mod ept {
    pub const READ: u64 = 1 << 0;
    pub const WRITE: u64 = 1 << 1;
    pub const EXECUTE: u64 = 1 << 2;
    pub const ACCESS: u64 = READ | WRITE | EXECUTE;
    pub const WRITE_BACK: u64 = 6 << 3;
    pub const LARGE: u64 = 1 << 7;
    pub const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;
    /// EPTP: write-back structures, walk length 4.
    pub const POINTER: u64 = 6 | 3 << 3;
}

/// Page sizes by level: 4 KiB, 2 MiB, 1 GiB.
const SIZE: [u64; 3] = [1 << 12, 1 << 21, 1 << 30];

/// A guest-physical address space.
#[derive(Debug)]
pub struct Stage2 {
    root: Block,
    /// Lower tables; kept so that their frames have an owner.
    tables: Vec<Block>,
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
    pub fn new(largest: usize) -> Result<Self, OutOfMemory> {
        let root = heap::frame().ok_or(OutOfMemory)?;
        Ok(Self { root, tables: Vec::new(), largest: largest.min(2) })
    }

    /// Maps guest-physical memory onto host memory, with the largest pages that fit. Sizes and
    /// addresses are multiples of 4 KiB.
    ///
    /// # Errors
    /// If memory ran out.
    pub fn map(&mut self, gpa: Range<u64>, host: u64) -> Result<(), OutOfMemory> {
        let (mut at, mut to) = (gpa.start, host);
        while at < gpa.end {
            let level = (0..=self.largest)
                .rev()
                .find(|&l| at % SIZE[l] == 0 && to % SIZE[l] == 0 && gpa.end - at >= SIZE[l])
                .unwrap_or(0);
            let large = if level > 0 { ept::LARGE } else { 0 };
            let flags = ept::READ | ept::WRITE | ept::EXECUTE | ept::WRITE_BACK;
            self.set(at, level, to | flags | large)?;
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
            let next = if old & ept::READ == 0 {
                let new = heap::frame().ok_or(OutOfMemory)?;
                let pointer = new.address() | ept::READ | ept::WRITE | ept::EXECUTE;
                self.table(table).write_u64(at, pointer);
                self.tables.push(new);
                self.tables.len() - 1
            } else {
                let address = old & ept::ADDRESS;
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
            let mapped = value & ept::ACCESS != 0;
            table.write_u64(at, value & !ept::ACCESS);
            mapped
        })
    }

    /// Gives a hidden page back; false if it was not hidden.
    pub fn unhide(&self, gpa: u64) -> bool {
        self.leaf(gpa).is_some_and(|(table, at, value)| {
            let hidden = value != 0 && value & ept::ACCESS == 0;
            if hidden {
                table.write_u64(at, value | ept::ACCESS);
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
            if level == 0 || value & ept::LARGE != 0 {
                return Some((table, at, value));
            }
            table = self.tables.iter().find(|t| t.address() == value & ept::ADDRESS)?;
        }
        None
    }

    fn table(&self, index: Option<usize>) -> &Block {
        index.and_then(|i| self.tables.get(i)).unwrap_or(&self.root)
    }

    /// The value for a VMCS's EPT-pointer field.
    pub fn ept_pointer(&self) -> u64 {
        self.root.address() | ept::POINTER
    }

    /// Translates a guest-physical address, as the hardware would. For tests and audits.
    pub fn translate(&self, gpa: u64) -> Option<u64> {
        let mut table = &self.root;
        for level in (0..=3).rev() {
            let value = table.read_u64(offset(gpa, level));
            if value & ept::READ == 0 {
                return None;
            }
            let page = SIZE.get(level).filter(|_| level == 0 || value & ept::LARGE != 0);
            if let Some(size) = page {
                return Some((value & ept::ADDRESS & !(size - 1)) | (gpa & (size - 1)));
            }
            table = self.tables.iter().find(|t| t.address() == value & ept::ADDRESS)?;
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
        let mut space = Stage2::new(2).unwrap();
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
        let mut space = Stage2::new(1).unwrap();
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
    fn r_s9_what_is_not_mapped_is_not_there() {
        let mut space = Stage2::new(1).unwrap();
        space.map(0x10_0000..0x20_0000, 0x70_0000).unwrap();
        for gpa in [0, 0xF_FFFF, 0x20_0000, 0xFEE0_0000, 0x1_0000_0000] {
            assert_eq!(space.translate(gpa), None, "{gpa:#x}");
        }
    }
}
