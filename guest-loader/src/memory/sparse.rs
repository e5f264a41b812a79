//! Guest memory that allocates only the pages written: for the tool's dry run and for tests.

use super::{GuestMemory, GuestPhys, OutOfRange, RamRange};
use crate::layout;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;

const PAGE: usize = 4096;

/// Memory of a VM that does not exist. Pages never written read as zero.
pub struct SparseMemory {
    ram: layout::RamRanges,
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

impl SparseMemory {
    /// The memory of a VM configured with `size` bytes.
    pub fn new(size: u64) -> Self {
        Self { ram: layout::ram_ranges(size), pages: BTreeMap::new() }
    }

    fn check(&self, gpa: GuestPhys, size: u64) -> Result<(), OutOfRange> {
        if self.ram.iter().any(|range| range.contains(gpa.0, size)) {
            Ok(())
        } else {
            Err(OutOfRange { start: gpa, size })
        }
    }
}

impl GuestMemory for SparseMemory {
    fn write(&mut self, gpa: GuestPhys, bytes: &[u8]) -> Result<(), OutOfRange> {
        self.check(gpa, bytes.len() as u64)?;
        let mut at = gpa.0;
        let mut rest = bytes;
        while !rest.is_empty() {
            let offset = (at % PAGE as u64) as usize;
            let (part, tail) = rest.split_at(rest.len().min(PAGE - offset));
            let page = self.pages.entry(at / PAGE as u64).or_insert_with(|| Box::new([0; PAGE]));
            for (to, from) in page.iter_mut().skip(offset).zip(part) {
                *to = *from;
            }
            at += part.len() as u64;
            rest = tail;
        }
        Ok(())
    }

    fn read(&self, gpa: GuestPhys, bytes: &mut [u8]) -> Result<(), OutOfRange> {
        self.check(gpa, bytes.len() as u64)?;
        let mut at = gpa.0;
        let mut rest = bytes;
        while !rest.is_empty() {
            let offset = (at % PAGE as u64) as usize;
            let length = rest.len().min(PAGE - offset);
            let (part, tail) = rest.split_at_mut(length);
            match self.pages.get(&(at / PAGE as u64)) {
                Some(page) => {
                    part.iter_mut().zip(page.iter().skip(offset)).for_each(|(to, from)| *to = *from)
                }
                None => part.fill(0),
            }
            at += length as u64;
            rest = tail;
        }
        Ok(())
    }

    // Pages never written are zero already: a kernel's large .bss costs nothing.
    fn zero(&mut self, gpa: GuestPhys, size: u64) -> Result<(), OutOfRange> {
        self.check(gpa, size)?;
        let end = gpa.0 + size;
        for (number, page) in self.pages.range_mut(gpa.0 / PAGE as u64..end.div_ceil(PAGE as u64)) {
            let start = number * PAGE as u64;
            let from = gpa.0.saturating_sub(start) as usize;
            let to = (end - start).min(PAGE as u64) as usize;
            page.iter_mut().take(to).skip(from).for_each(|byte| *byte = 0);
        }
        Ok(())
    }

    fn ram(&self) -> &[RamRange] {
        &self.ram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_exactly_the_range() {
        let mut mem = SparseMemory::new(16 << 20);
        mem.write(GuestPhys(0x1000), &[0xAA; 3 * PAGE]).unwrap();
        mem.zero(GuestPhys(0x1FFE), 0x1004).unwrap();
        let mut bytes = [0u8; 3 * PAGE];
        mem.read(GuestPhys(0x1000), &mut bytes).unwrap();
        for (at, byte) in bytes.iter().enumerate() {
            let zeroed = (0xFFE..0x2002).contains(&at);
            assert_eq!(*byte, if zeroed { 0 } else { 0xAA }, "{at:#x}");
        }
    }

    #[test]
    fn refuses_what_is_not_ram() {
        let mut mem = SparseMemory::new(16 << 20);
        for (at, size) in [(0x9_FFFF, 2), (0xA_0000, 1), (0xFF_FFFF, 2), (u64::MAX, 2)] {
            let out_of_range = OutOfRange { start: GuestPhys(at), size };
            assert_eq!(mem.write(GuestPhys(at), &[0; 2][..size as usize]), Err(out_of_range));
            assert_eq!(mem.zero(GuestPhys(at), size), Err(out_of_range));
        }
    }
}
