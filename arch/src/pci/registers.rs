//! A stretch of a function's memory that the hypervisor itself reads and writes: MSI-X tables, and registers that share
//! a page with one.

#![expect(unsafe_code, reason = "reads and writes device memory")]

use super::Width;
use crate::paging;

/// Mapped registers, uncached. Every access is checked against their length.
#[derive(Debug)]
pub struct Registers {
    start: u64,
    len: u64,
}

impl Registers {
    /// Maps `len` bytes of physical memory at `start`, which the caller has found to be a BAR of a function, with memory
    /// decoding on.
    pub fn map(start: u64, len: u64) -> Self {
        paging::map_mmio(start..start + len);
        Self { start, len }
    }

    fn address(&self, offset: u64, width: Width) -> Option<u64> {
        let inside = self.len.checked_sub(width.bytes()).is_some_and(|last| offset <= last);
        let address = self.start.checked_add(offset)?;
        (inside && address % width.bytes() == 0).then_some(address)
    }

    /// Reads; ones outside and where the access is not aligned.
    pub fn read(&self, offset: u64, width: Width) -> u64 {
        let Some(address) = self.address(offset, width) else { return u64::MAX };
        // SAFETY: the address is inside the mapped registers of a device, and aligned. No reference is made.
        unsafe {
            match width {
                Width::Byte => (address as *const u8).read_volatile().into(),
                Width::Word => (address as *const u16).read_volatile().into(),
                Width::Dword => (address as *const u32).read_volatile().into(),
                Width::Qword => (address as *const u64).read_volatile(),
            }
        }
    }

    /// Writes; without effect outside and where the access is not aligned.
    pub fn write(&self, offset: u64, width: Width, value: u64) {
        let Some(address) = self.address(offset, width) else { return };
        // SAFETY: as above. What the device does then (DMA) is bounded by the IOMMU.
        unsafe {
            match width {
                Width::Byte => (address as *mut u8).write_volatile(value as u8),
                Width::Word => (address as *mut u16).write_volatile(value as u16),
                Width::Dword => (address as *mut u32).write_volatile(value as u32),
                Width::Qword => (address as *mut u64).write_volatile(value),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_s9_nothing_outside_is_touched() {
        let memory = [1_u64, 2, 3];
        // Bounds are those of the middle word.
        let registers = Registers { start: &raw const memory[1] as u64, len: 8 };
        assert_eq!(registers.read(0, Width::Qword), 2);
        for (offset, width) in [
            (8, Width::Byte),
            (6, Width::Dword),
            (1, Width::Qword),
            (u64::MAX, Width::Byte),
            (2, Width::Dword),
            (u64::MAX - 7, Width::Qword),
        ] {
            assert_eq!(registers.read(offset, width), u64::MAX, "{offset:#x} {width:?}");
        }
    }
}
