//! Base address registers. PCI 3.0, section 6.2.5.1.
//!
//! A BAR is sized by writing ones and reading back which bits stuck. [`bars`] works on both values of all registers:
//! what firmware left, and what stuck.

use core::fmt;

/// What a BAR addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// Memory anywhere; the next register holds the upper half.
    Memory64 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
}

impl BarKind {
    /// Registers that it takes.
    pub const fn registers(self) -> u8 {
        if matches!(self, Self::Memory64 { .. }) { 2 } else { 1 }
    }

    /// The bits of the register that say so.
    pub const fn bits(self) -> u32 {
        match self {
            Self::Io => 1,
            Self::Memory32 { prefetchable } => (prefetchable as u32) << 3,
            Self::Memory64 { prefetchable } => 4 | (prefetchable as u32) << 3,
        }
    }

    /// Whether it is memory.
    pub const fn is_memory(self) -> bool {
        !matches!(self, Self::Io)
    }
}

/// A BAR that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Number of its (first) register.
    pub index: u8,
    /// What it addresses.
    pub kind: BarKind,
    /// Where; 0 if nobody has placed it.
    pub address: u64,
    /// Bytes, a power of two.
    pub size: u64,
}

/// A BAR that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarError {
    /// Its type is reserved, or memory below 1 MiB.
    Type {
        /// Number of its register.
        index: u8,
    },
    /// A 64-bit one begins in the last register.
    NoUpperHalf {
        /// Number of its register.
        index: u8,
    },
    /// The bits that stuck are no size.
    Size {
        /// Number of its register.
        index: u8,
        /// Those bits.
        mask: u64,
    },
    /// It lies where its size does not let it.
    Alignment {
        /// Number of its register.
        index: u8,
        /// Where it lies.
        address: u64,
    },
}

impl fmt::Display for BarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type { index } => write!(f, "BAR {index}: its type is reserved"),
            Self::NoUpperHalf { index } => write!(f, "BAR {index}: its upper half is missing"),
            Self::Size { index, mask } => write!(f, "BAR {index}: {mask:#x} is no size"),
            Self::Alignment { index, address } => {
                write!(f, "BAR {index}: its address {address:#x} is no multiple of its size")
            }
        }
    }
}

/// The BARs in registers that hold `now` and, with ones written to all of them, read back as `probed`. Registers that
/// are not there are skipped. Ends after the first error.
pub const fn bars<'a>(now: &'a [u32], probed: &'a [u32]) -> Bars<'a> {
    Bars { now, probed, index: 0 }
}

/// See [`bars`].
pub struct Bars<'a> {
    now: &'a [u32],
    probed: &'a [u32],
    index: usize,
}

impl Iterator for Bars<'_> {
    type Item = Result<Bar, BarError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let low = self.pair(self.index)?;
            if low.1 == 0 {
                self.index += 1;
                continue;
            }
            let found = bar(self.index as u8, low, self.pair(self.index + 1));
            self.index = match &found {
                Ok(bar) => self.index + usize::from(bar.kind.registers()),
                Err(_) => usize::MAX,
            };
            return Some(found);
        }
    }
}

impl Bars<'_> {
    fn pair(&self, index: usize) -> Option<(u32, u32)> {
        Some((*self.now.get(index)?, *self.probed.get(index)?))
    }
}

fn bar(index: u8, low: (u32, u32), high: Option<(u32, u32)>) -> Result<Bar, BarError> {
    let prefetchable = low.1 & 8 != 0;
    let (kind, flags) = match low.1 & 7 {
        0 => (BarKind::Memory32 { prefetchable }, 0xF),
        4 => (BarKind::Memory64 { prefetchable }, 0xF),
        flags if flags & 1 != 0 => (BarKind::Io, 3),
        _ => return Err(BarError::Type { index }),
    };
    let (now, stuck) = (u64::from(low.0 & !flags), u64::from(low.1 & !flags));
    let (address, mask) = match kind {
        // The upper 16 bits of an I/O BAR may be wired to 0.
        BarKind::Io if stuck >> 16 == 0 => (now, stuck | 0xFFFF_FFFF_FFFF_0000),
        BarKind::Io | BarKind::Memory32 { .. } => (now, stuck | 0xFFFF_FFFF_0000_0000),
        BarKind::Memory64 { .. } => {
            let (high, stuck_high) = high.ok_or(BarError::NoUpperHalf { index })?;
            (now | u64::from(high) << 32, stuck | u64::from(stuck_high) << 32)
        }
    };
    let size = (!mask).wrapping_add(1);
    // Ones from some bit upwards, and nothing below: a power of two.
    if stuck == 0 && !matches!(kind, BarKind::Memory64 { .. }) || !size.is_power_of_two() {
        return Err(BarError::Size { index, mask: stuck });
    }
    if address & (size - 1) != 0 {
        return Err(BarError::Alignment { index, address });
    }
    Ok(Bar { index, kind, address, size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn all(now: &[u32], probed: &[u32]) -> Vec<Result<Bar, BarError>> {
        bars(now, probed).collect()
    }

    #[test]
    fn a_network_card() {
        let now = [0xFEB0_0000, 0, 0xC001, 0xC, 0x8, 0];
        let probed = [0xFFFE_0000, 0, 0xFFE1, 0xFFFF_C00C, 0xFFFF_FFFF, 0];
        let expected = [
            (0, BarKind::Memory32 { prefetchable: false }, 0xFEB0_0000, 0x2_0000),
            (2, BarKind::Io, 0xC000, 0x20),
            (3, BarKind::Memory64 { prefetchable: true }, 0x8_0000_0000, 0x4000),
        ];
        let expected =
            expected.map(|(index, kind, address, size)| Ok(Bar { index, kind, address, size }));
        assert_eq!(all(&now, &probed), expected);
    }

    #[test]
    fn a_bar_of_16_gib_has_an_empty_lower_half() {
        let found = all(&[0xC, 0x10], &[0xC, 0xFFFF_FFFC]);
        let kind = BarKind::Memory64 { prefetchable: true };
        let bar = Bar { index: 0, kind, address: 0x10_0000_0000, size: 16 << 30 };
        assert_eq!(found, [Ok(bar)]);
    }

    #[test]
    fn r_s10_a_bar_that_cannot_be_is_named() {
        assert_eq!(all(&[0; 2], &[0, 0xFFFF_F006]), [Err(BarError::Type { index: 1 })]);
        assert_eq!(all(&[0; 1], &[0xFFFF_F004]), [Err(BarError::NoUpperHalf { index: 0 })]);
        let holes = BarError::Size { index: 0, mask: 0xFF0F_0000 };
        assert_eq!(all(&[0; 2], &[0xFF0F_0000, 0xFFFF_F000]), [Err(holes)]);
        let odd = BarError::Alignment { index: 0, address: 0xFEB0_1000 };
        assert_eq!(all(&[0xFEB0_1000], &[0xFFFF_E000]), [Err(odd)]);
    }

    proptest! {
        #[test]
        fn r_s10_no_registers_panic(now: [u32; 6], probed: [u32; 6]) {
            for bar in bars(&now, &probed).flatten() {
                prop_assert!(bar.size.is_power_of_two() && bar.address % bar.size == 0);
                prop_assert!(bar.index + bar.kind.registers() <= 6);
            }
        }

        #[test]
        fn a_memory_bar_comes_back(bits in 4_u32..36, at: u32, prefetchable: bool) {
            let (size, kind) = (1_u64 << bits, BarKind::Memory64 { prefetchable });
            let address = (u64::from(at) << 20) & !(size - 1);
            let low = |value: u64| value as u32 & !0xF | kind.bits();
            let mask = !(size - 1);
            let now = [low(address), (address >> 32) as u32];
            let found = all(&now, &[low(mask), (mask >> 32) as u32]);
            prop_assert_eq!(found, [Ok(Bar { index: 0, kind, address, size })]);
        }
    }
}
