//! Where things go in guest memory: what is taken, and the next free place.
//!
//! Every loader claims all it writes here first, so that two parts of one VM never overlap and
//! every conflict is reported by name.

use super::LoadError;
use crate::layout::{self, ACPI_END, HOLE_END, MapKind, PAGE};
use crate::memory::{GuestPhys, RamRange};
use alloc::vec::Vec;

struct Taken {
    start: u64,
    end: u64,
    what: &'static str,
}

/// The claims on the memory of one VM.
pub struct Places {
    map: layout::MemoryMap,
    taken: Vec<Taken>,
    low_end: u64,
}

impl Places {
    /// All RAM free but what the memory map reserves below 1 MiB.
    pub fn new(ram: &[RamRange]) -> Self {
        let firmware =
            Taken { start: HOLE_END, end: ACPI_END, what: "the ACPI tables below 1 MiB" };
        let taken = [firmware].into();
        Self { map: layout::e820(ram), taken, low_end: layout::low_ram_end(ram) }
    }

    /// End of the RAM below 4 GiB.
    pub fn low_end(&self) -> u64 {
        self.low_end
    }

    /// Claims exactly `size` bytes at `start`.
    ///
    /// # Errors
    /// [`LoadError::NoRoom`] outside RAM, [`LoadError::Overlap`] on an earlier claim.
    pub fn claim(&mut self, what: &'static str, start: u64, size: u64) -> Result<(), LoadError> {
        let no_room = LoadError::NoRoom { what, start, size };
        let end = start.checked_add(size).ok_or(no_room)?;
        if let Some(with) = self.conflict(start, end) {
            return Err(LoadError::Overlap { what, start, size, with: with.what });
        }
        if !self.is_ram(start, size) {
            return Err(no_room);
        }
        if size > 0 {
            self.taken.push(Taken { start, end, what });
        }
        Ok(())
    }

    /// Claims `size` bytes at the lowest free page boundary from `from`, below 4 GiB.
    ///
    /// # Errors
    /// [`LoadError::NoRoom`].
    pub fn lowest(
        &mut self,
        what: &'static str,
        from: u64,
        size: u64,
    ) -> Result<GuestPhys, LoadError> {
        self.lowest_aligned(what, from, size, PAGE)
    }

    /// As [`Places::lowest`], at a multiple of `align`, a power of two.
    ///
    /// # Errors
    /// [`LoadError::NoRoom`].
    pub fn lowest_aligned(
        &mut self,
        what: &'static str,
        from: u64,
        size: u64,
        align: u64,
    ) -> Result<GuestPhys, LoadError> {
        let no_room = LoadError::NoRoom { what, start: from, size };
        let mut start = from.checked_next_multiple_of(align).ok_or(no_room)?;
        loop {
            let end = start.checked_add(size).filter(|&end| end <= self.low_end).ok_or(no_room)?;
            match self.obstacle(start, end) {
                // Each round passes one claim or gap, so the search ends.
                Some((_, behind)) => {
                    start = behind.checked_next_multiple_of(align).ok_or(no_room)?;
                }
                None => {
                    self.claim(what, start, size)?;
                    return Ok(GuestPhys(start));
                }
            }
        }
    }

    /// Claims `size` bytes at the highest free page boundary that ends at or below `limit` and
    /// starts at or above `floor`.
    ///
    /// # Errors
    /// [`LoadError::NoRoom`].
    pub fn highest(
        &mut self,
        what: &'static str,
        floor: u64,
        limit: u64,
        size: u64,
    ) -> Result<GuestPhys, LoadError> {
        let no_room = LoadError::NoRoom { what, start: floor, size };
        let mut end = limit.min(self.low_end);
        loop {
            let start = end.checked_sub(size).ok_or(no_room)? / PAGE * PAGE;
            if start < floor {
                return Err(no_room);
            }
            match self.obstacle(start, start.saturating_add(size)) {
                Some((before, _)) => end = before,
                None => {
                    self.claim(what, start, size)?;
                    return Ok(GuestPhys(start));
                }
            }
        }
    }

    /// Start and end of something that a search for room must pass: a claim, or a gap in the RAM.
    fn obstacle(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let claim = self.conflict(start, end).map(|taken| (taken.start, taken.end));
        claim.or_else(|| {
            let ram = || self.map.iter().filter(|entry| entry.kind == MapKind::Ram);
            let ends = ram().map(|entry| entry.start.0.saturating_add(entry.size));
            ends.zip(ram().skip(1).map(|entry| entry.start.0))
                .find(|&(gap, next)| start < next && gap < end && gap < next)
        })
    }

    fn conflict(&self, start: u64, end: u64) -> Option<&Taken> {
        self.taken.iter().find(|taken| start < taken.end && taken.start < end)
    }

    fn is_ram(&self, start: u64, size: u64) -> bool {
        self.map
            .iter()
            .filter(|entry| entry.kind == MapKind::Ram)
            .any(|entry| RamRange { start: entry.start, size: entry.size }.contains(start, size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: u64 = 1 << 20;

    #[test]
    fn finds_room_around_claims() {
        let mut places = Places::new(&layout::ram_ranges(32 * M));
        places.claim("kernel", 2 * M, M + 5).unwrap();
        assert_eq!(places.lowest("a", 2 * M, 10), Ok(GuestPhys(3 * M + PAGE)));
        assert_eq!(places.lowest("b", 2 * M, 10), Ok(GuestPhys(3 * M + 2 * PAGE)));
        assert_eq!(places.highest("c", M, u64::MAX, 10), Ok(GuestPhys(32 * M - PAGE)));
        assert_eq!(places.highest("d", M, u64::MAX, PAGE), Ok(GuestPhys(32 * M - 2 * PAGE)));
    }

    #[test]
    fn searches_pass_gaps_in_the_ram() {
        let pieces = [(16 * M, 4 * M), (32 * M, 8 * M), (64 * M, 2 * M)];
        let mut places = Places::new(&layout::identity_ranges(pieces).unwrap());
        assert_eq!(places.lowest("a", M, 2 * M), Ok(GuestPhys(16 * M)));
        assert_eq!(places.lowest("b", M, 3 * M), Ok(GuestPhys(32 * M)));
        assert_eq!(places.lowest_aligned("c", M, M, 4 * M), Ok(GuestPhys(36 * M)));
        assert_eq!(places.highest("d", M, u64::MAX, 3 * M), Ok(GuestPhys(37 * M)));
        assert_eq!(places.highest("e", M, u64::MAX, M), Ok(GuestPhys(65 * M)));
        assert!(matches!(places.lowest("f", M, 3 * M), Err(LoadError::NoRoom { .. })));
        assert!(matches!(places.highest("f", M, u64::MAX, 3 * M), Err(LoadError::NoRoom { .. })));
        assert_eq!(layout::identity_ranges([(0xBFF0_0000, 2 * M)]), None, "it reaches the BARs");
    }

    #[test]
    fn names_both_sides_of_a_conflict() {
        let mut places = Places::new(&layout::ram_ranges(32 * M));
        places.claim("kernel", M, M).unwrap();
        let error = places.claim("module", 2 * M - 1, 2).unwrap_err();
        assert_eq!(
            error,
            LoadError::Overlap { what: "module", start: 2 * M - 1, size: 2, with: "kernel" }
        );
        // One byte is an overlap, touching is none.
        assert!(matches!(places.claim("x", M - 4, 5), Err(LoadError::Overlap { .. })));
        assert_eq!(places.claim("x", 2 * M, 4), Ok(()));
        assert!(matches!(places.claim("x", 0xF_0000, 4), Err(LoadError::Overlap { .. })));
        assert!(matches!(places.claim("x", 0xA_0000, 4), Err(LoadError::NoRoom { .. })));
        assert!(matches!(places.claim("x", u64::MAX, 4), Err(LoadError::NoRoom { .. })));
        assert!(matches!(places.highest("x", M, u64::MAX, 31 * M), Err(LoadError::NoRoom { .. })));
        assert!(matches!(places.lowest("x", M, u64::MAX), Err(LoadError::NoRoom { .. })));
    }
}
