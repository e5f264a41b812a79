//! The RAM of a VM: host memory behind guest-physical ranges.

use crate::vm::walk::ReadPhys;
use alloc::vec::Vec;
use arch::heap::{self, Block};
use arch::stage2::{OutOfMemory, Stage2};
use guest_loader::layout::{self, HOLE_END, HOLE_START, LOW_RAM_END, RamRanges};
use guest_loader::memory::{GuestMemory, GuestPhys, OutOfRange, RamRange};

/// Largest and smallest piece of host memory behind guest RAM, in bytes.
const LARGEST: u64 = 1 << 30;
const SMALLEST: u64 = 2 << 20;

/// The RAM of one VM: host memory behind guest-physical ranges. All accesses are bounds-checked;
/// a guest's addresses are never turned into references.
pub struct GuestRam {
    /// The piece at 0. It holds nearly everything that an exit reads: kernel text, page tables.
    first: Block,
    /// The others, by their guest-physical addresses.
    more: Vec<(u64, Block)>,
    ranges: RamRanges,
}

impl GuestRam {
    /// Allocates zeroed RAM of `size` bytes (a multiple of 2 MiB) in pieces as large as there
    /// are.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn new(size: u64) -> Result<Self, OutOfMemory> {
        let first = largest_block(LOW_RAM_END.min(size), 0).ok_or(OutOfMemory)?;
        let mut done = first.len();
        let mut more = Vec::new();
        while done < size {
            let gpa =
                if done < LOW_RAM_END { done } else { done - LOW_RAM_END + layout::HIGH_RAM_START };
            let room = if done < LOW_RAM_END { LOW_RAM_END.min(size) } else { size } - done;
            let block = largest_block(room, gpa).ok_or(OutOfMemory)?;
            done += block.len();
            more.push((gpa, block));
        }
        Ok(Self { first, more, ranges: layout::ram_ranges(size) })
    }

    /// Allocates zeroed RAM of `size` bytes at the host's own addresses, for devices that no IOMMU translates for, and the
    /// first MiB, which is where every guest has it: a device would miss that one.
    ///
    /// # Errors
    /// If there is not enough memory where a VM has no devices, or only in too many stretches.
    pub fn identity(size: u64) -> Result<Self, OutOfMemory> {
        let first = heap::block(layout::HIGH_MEMORY).ok_or(OutOfMemory)?;
        let mut more = Vec::new();
        let mut done = 0;
        while done < size {
            // Kernels start below 4 GiB, and so do old devices.
            let below = |size| heap::block_below(size, LOW_RAM_END);
            let block = largest(size - done, 0, below).or_else(|| largest_block(size - done, 0));
            let block = block.ok_or(OutOfMemory)?;
            done += block.len();
            more.push((block.address(), block));
        }
        more.sort_unstable_by_key(|(gpa, _)| *gpa);
        let pieces = more.iter().map(|(gpa, block)| (*gpa, block.len()));
        let ranges = layout::identity_ranges(pieces).ok_or(OutOfMemory)?;
        Ok(Self { first, more, ranges })
    }

    /// All pieces, with their guest-physical addresses.
    fn pieces(&self) -> impl Iterator<Item = (u64, &Block)> {
        let more = self.more.iter().map(|(gpa, block)| (*gpa, block));
        core::iter::once((0, &self.first)).chain(more)
    }

    /// Maps all of it, but for the hole below 1 MiB.
    ///
    /// # Errors
    /// If memory for tables ran out.
    pub fn map(&self, space: &mut Stage2) -> Result<(), OutOfMemory> {
        for (start, block) in self.pieces() {
            let end = start + block.len();
            if start == 0 {
                space.map(0..HOLE_START, block.address())?;
                space.map(HOLE_END..end, block.address() + HOLE_END)?;
            } else {
                space.map(start..end, block.address())?;
            }
        }
        Ok(())
    }

    /// Zeroes everything: nothing of the last run is readable in the next (requirement S7).
    pub fn clear(&self) {
        self.pieces().for_each(|(_, block)| block.fill(0));
    }

    /// The part that nearly everything an exit reads is in, read with the fewest instructions.
    #[inline(always)]
    pub fn near(&self) -> NearRam<'_> {
        NearRam(&self.first)
    }

    /// The piece that holds all of `len` bytes, and the offset in it.
    #[inline(never)]
    fn find(&self, gpa: u64, len: u64) -> Option<(&Block, u64)> {
        let end = gpa.checked_add(len)?;
        if gpa < HOLE_END && end > HOLE_START {
            return None;
        }
        self.pieces().find_map(|(start, block)| {
            let offset = gpa.checked_sub(start)?;
            (end - start <= block.len()).then_some((block, offset))
        })
    }

    /// Eight aligned bytes, `None` where there is no RAM.
    pub fn read_u64(&self, gpa: u64) -> Option<u64> {
        let (block, offset) = self.find(gpa & !7, 8)?;
        block.get_u64(offset)
    }

    /// Fills `bytes`; false where one of them is not RAM.
    pub fn read_bytes(&self, gpa: u64, bytes: &mut [u8]) -> bool {
        if let Some((block, offset)) = self.find(gpa, bytes.len() as u64) {
            block.read_bytes(offset, bytes);
            return true;
        }
        let (mut at, mut rest) = (gpa, bytes);
        while !rest.is_empty() {
            let Some((block, offset, len)) = self.piece_at(at, rest.len()) else { return false };
            let (now, later) = rest.split_at_mut(len);
            block.read_bytes(offset, now);
            at += len as u64;
            rest = later;
        }
        true
    }

    /// Writes `bytes`; false (and nothing written) where one of them is not RAM.
    pub fn write_bytes(&self, gpa: u64, bytes: &[u8]) -> bool {
        if let Some((block, offset)) = self.find(gpa, bytes.len() as u64) {
            block.write_bytes(offset, bytes);
            return true;
        }
        // Looked at once before, so that nothing is written if a part is missing.
        for write in [false, true] {
            let (mut at, mut rest) = (gpa, bytes);
            while !rest.is_empty() {
                let Some((block, offset, len)) = self.piece_at(at, rest.len()) else {
                    return false;
                };
                let (now, later) = rest.split_at(len);
                if write {
                    block.write_bytes(offset, now);
                }
                at += len as u64;
                rest = later;
            }
        }
        true
    }

    /// The piece that holds `gpa`, the offset in it, and how many of `len` bytes it has before it,
    /// or the hole, begins to differ.
    fn piece_at(&self, gpa: u64, len: usize) -> Option<(&Block, u64, usize)> {
        let (block, offset) = self.find(gpa, 1)?;
        let mut room = block.len() - offset;
        if gpa < HOLE_START {
            room = room.min(HOLE_START - gpa);
        }
        Some((block, offset, usize::try_from(room).map_or(len, |room| room.min(len))))
    }
}

impl ReadPhys for GuestRam {
    fn read_u64(&self, gpa: u64) -> Option<u64> {
        GuestRam::read_u64(self, gpa)
    }

    fn read_u32(&self, gpa: u64) -> Option<u32> {
        let both = GuestRam::read_u64(self, gpa)?;
        Some((both >> (gpa % 8 * 8)) as u32)
    }

    fn read_bytes(&self, gpa: u64, into: &mut [u8]) -> bool {
        GuestRam::read_bytes(self, gpa, into)
    }
}

/// The first piece of a VM's RAM from 1 MiB on: one comparison or two, and no search. What is not
/// readable here may still be RAM: [`GuestRam`] knows.
#[derive(Clone, Copy)]
pub struct NearRam<'a>(&'a Block);

impl ReadPhys for NearRam<'_> {
    #[inline(always)]
    fn read_u64(&self, gpa: u64) -> Option<u64> {
        if gpa < HOLE_END { None } else { self.0.get_u64(gpa) }
    }

    fn read_u32(&self, gpa: u64) -> Option<u32> {
        let both = self.read_u64(gpa)?;
        Some((both >> (gpa % 8 * 8)) as u32)
    }

    #[inline(always)]
    fn read_bytes(&self, gpa: u64, into: &mut [u8]) -> bool {
        gpa >= HOLE_END && self.0.get_bytes(gpa, into)
    }
}

/// The largest power of two that fits, is aligned at `gpa`, and that the heap has.
fn largest_block(room: u64, gpa: u64) -> Option<Block> {
    largest(room, gpa, heap::block)
}

fn largest(room: u64, gpa: u64, block: impl Fn(u64) -> Option<Block>) -> Option<Block> {
    let mut size = LARGEST;
    while size >= SMALLEST {
        if size <= room
            && gpa.is_multiple_of(size)
            && let Some(block) = block(size)
        {
            return Some(block);
        }
        size /= 2;
    }
    None
}

/// The loader's door to a VM's RAM.
pub struct Loader<'a>(pub &'a GuestRam);

impl GuestMemory for Loader<'_> {
    fn write(&mut self, gpa: GuestPhys, bytes: &[u8]) -> Result<(), OutOfRange> {
        let error = OutOfRange { start: gpa, size: bytes.len() as u64 };
        if self.0.write_bytes(gpa.0, bytes) { Ok(()) } else { Err(error) }
    }

    fn read(&self, gpa: GuestPhys, bytes: &mut [u8]) -> Result<(), OutOfRange> {
        let error = OutOfRange { start: gpa, size: bytes.len() as u64 };
        if self.0.read_bytes(gpa.0, bytes) { Ok(()) } else { Err(error) }
    }

    fn ram(&self) -> &[RamRange] {
        &self.0.ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_s9_only_ram_is_reachable() {
        let ram = GuestRam::new(16 << 20).unwrap();
        let mut bytes = [0; 8];
        assert!(ram.write_bytes(0x9_FFF8, &[7; 8]));
        assert!(ram.read_bytes(0x9_FFF8, &mut bytes));
        assert_eq!(bytes, [7; 8]);
        for gpa in [0x9_FFF9, 0xA_0000, 0xB_FFFF, (16 << 20) - 7, 16 << 20, u64::MAX - 3, u64::MAX]
        {
            assert!(!ram.read_bytes(gpa, &mut bytes), "{gpa:#x}");
        }
        assert!(ram.read_bytes(0xC_0000, &mut bytes));
        assert_eq!(ram.read_u64((16 << 20) - 8), Some(0));
        assert_eq!(ram.read_u64(16 << 20), None);
    }

    #[test]
    fn r_s9_near_ram_is_the_first_piece_above_the_hole() {
        let ram = GuestRam::new((32 + 4) << 20).unwrap();
        assert_eq!(ram.first.len(), 32 << 20);
        let near = ram.near();
        let mut bytes = [0; 15];
        for gpa in [HOLE_END, 0x30_0000, (32 << 20) - 16] {
            assert!(ram.write_bytes(gpa, b"fifteen bytes.."));
            assert!(near.read_bytes(gpa, &mut bytes), "{gpa:#x}");
            assert_eq!(&bytes, b"fifteen bytes..");
            assert_eq!(near.read_u64(gpa), ram.read_u64(gpa));
            assert_eq!(near.read_u32(gpa + 4), ReadPhys::read_u32(&ram, gpa + 4));
        }
        assert!(!near.read_bytes((32 << 20) - 14, &mut bytes), "it ends behind the piece");
        for gpa in [0, 0x9_FFF8, HOLE_START, HOLE_END - 8, 32 << 20, 64 << 20, u64::MAX - 7] {
            assert!(!near.read_bytes(gpa, &mut bytes), "{gpa:#x}");
            assert_eq!((near.read_u64(gpa), near.read_u32(gpa)), (None, None), "{gpa:#x}");
        }
    }

    #[test]
    fn an_odd_size_is_made_of_pieces() {
        let ram = GuestRam::new((32 + 4 + 2) << 20).unwrap();
        assert!(ram.pieces().count() >= 3);
        // Across the seam of two pieces.
        let seam = (32 << 20) - 3;
        assert!(ram.write_bytes(seam, b"across"));
        let mut back = [0; 6];
        assert!(ram.read_bytes(seam, &mut back));
        assert_eq!(&back, b"across");
        assert!(!ram.write_bytes((38 << 20) - 3, b"beyond"));
        assert!(ram.read_bytes((38 << 20) - 3, &mut back[..3]));
        assert_eq!(back[..3], [0; 3], "nothing is written if a part is missing");
        assert!(ram.write_bytes((38 << 20) - 1, &[1]));
        assert!(!ram.write_bytes(38 << 20, &[1]));
        let mut space = Stage2::new(arch::stage2::Format::Ept, 1).unwrap();
        ram.map(&mut space).unwrap();
        assert!(space.translate((38 << 20) - 1).is_some());
        assert_eq!(space.translate(38 << 20), None);
        assert_eq!(space.translate(0xA_0000), None);
    }

    #[test]
    fn identity_ram_is_where_the_host_has_it() {
        let ram = GuestRam::identity(8 << 20).unwrap();
        let mut space = Stage2::new(arch::stage2::Format::Ept, 1).unwrap();
        ram.map(&mut space).unwrap();
        let high = || ram.ranges.iter().filter(|range| range.start.0 >= layout::HIGH_MEMORY);
        assert_eq!(high().map(|range| range.size).sum::<u64>(), 8 << 20);
        for range in high() {
            for gpa in [range.start.0, range.end() - 1] {
                assert_eq!(space.translate(gpa), Some(gpa), "{gpa:#x}");
            }
            assert!(ram.write_bytes(range.start.0, b"here"));
            assert!(!ram.write_bytes(range.end() - 2, b"over"));
        }
        assert!(ram.write_bytes(0x1000, b"low"));
        assert!(ram.write_bytes(layout::HIGH_MEMORY - 4, b"last"));
        assert!(!ram.write_bytes(layout::HIGH_MEMORY, b"none"));
    }

    #[test]
    fn r_s7_a_restart_finds_nothing() {
        let ram = GuestRam::new(16 << 20).unwrap();
        assert!(ram.write_bytes(0x30_0000, b"secret"));
        ram.clear();
        assert_eq!(ram.read_u64(0x30_0000), Some(0));
    }
}
