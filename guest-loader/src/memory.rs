//! Guest-physical addresses and the door through which the loader writes guest memory.
//!
//! The hypervisor implements [`GuestMemory`] over the second-level mapping of a VM; the tool and
//! the tests use [`SparseMemory`], so that an image can be checked without a machine.
//! A write goes through [`GuestMemory::write`] or not at all: the loader never sees a pointer.

mod sparse;

pub use sparse::SparseMemory;

use core::fmt;

/// An address in a guest's physical address space, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct GuestPhys(pub u64);

impl GuestPhys {
    /// The address `bytes` above this one, `None` where 64 bits do not hold it.
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }
}

impl fmt::Display for GuestPhys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A stretch of guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// First byte.
    pub start: GuestPhys,
    /// Length in bytes.
    pub size: u64,
}

impl RamRange {
    /// The first address behind it.
    pub const fn end(&self) -> u64 {
        self.start.0.saturating_add(self.size)
    }

    /// Whether `size` bytes at `start` lie inside.
    pub const fn contains(&self, start: u64, size: u64) -> bool {
        match start.checked_add(size) {
            Some(end) => start >= self.start.0 && end <= self.end(),
            None => false,
        }
    }
}

/// An access that is not wholly inside one range of guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange {
    /// First byte of the access.
    pub start: GuestPhys,
    /// Its length in bytes.
    pub size: u64,
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "guest memory: {} bytes at {} are not RAM; give the VM more memory",
            self.size, self.start
        )
    }
}

impl core::error::Error for OutOfRange {}

/// The memory of one VM, before it runs.
pub trait GuestMemory {
    /// Copies `bytes` to `gpa`.
    ///
    /// # Errors
    /// [`OutOfRange`], and nothing is written, when not every byte is RAM.
    fn write(&mut self, gpa: GuestPhys, bytes: &[u8]) -> Result<(), OutOfRange>;

    /// Fills `bytes` from `gpa`.
    ///
    /// # Errors
    /// [`OutOfRange`] when not every byte is RAM.
    fn read(&self, gpa: GuestPhys, bytes: &mut [u8]) -> Result<(), OutOfRange>;

    /// The RAM, ascending and without overlap: what [`crate::layout::ram_ranges`] gives for the VM.
    fn ram(&self) -> &[RamRange];

    /// Writes `size` zero bytes at `gpa`: a restarted VM must not find what the last run left.
    ///
    /// # Errors
    /// [`OutOfRange`] when not every byte is RAM; part of it may have been written.
    fn zero(&mut self, gpa: GuestPhys, size: u64) -> Result<(), OutOfRange> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let out_of_range = OutOfRange { start: gpa, size };
        let mut done = 0;
        while done < size {
            let step = (size - done).min(ZEROS.len() as u64);
            let at = gpa.checked_add(done).ok_or(out_of_range)?;
            self.write(at, ZEROS.get(..step as usize).unwrap_or(&ZEROS))?;
            done += step;
        }
        Ok(())
    }
}
