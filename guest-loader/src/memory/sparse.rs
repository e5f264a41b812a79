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

    fn check(&self, gpa: GuestPhys, size: usize) -> Result<(), OutOfRange> {
        let size = size as u64;
        if self.ram.iter().any(|range| range.contains(gpa.0, size)) {
            Ok(())
        } else {
            Err(OutOfRange { start: gpa, size })
        }
    }
}

impl GuestMemory for SparseMemory {
    fn write(&mut self, gpa: GuestPhys, bytes: &[u8]) -> Result<(), OutOfRange> {
        self.check(gpa, bytes.len())?;
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
        self.check(gpa, bytes.len())?;
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

    fn ram(&self) -> &[RamRange] {
        &self.ram
    }
}
