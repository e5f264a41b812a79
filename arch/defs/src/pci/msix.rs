//! The MSI-X capability and its table. PCI 3.0, section 6.8.2.

use super::capability::{Capability, CapabilityError, Fault};
use super::{Bar, ConfigSpace};
use bitfield_struct::bitfield;
use core::ops::Range;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Byte offset of [`Control`].
pub const CONTROL: u16 = 2;
/// Byte offset of the table's [`Place`].
pub const TABLE: u16 = 4;
/// Byte offset of the pending-bit array's [`Place`].
pub const PENDING: u16 = 8;
/// Most entries of a table.
pub const MAX_ENTRIES: u16 = 2048;

/// The message control register.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Control {
    /// Entries of the table, less one; read only.
    #[bits(11)]
    pub last_entry: u16,
    #[bits(3)]
    __: u8,
    /// All entries are masked.
    pub function_mask: bool,
    /// The function sends messages.
    pub enable: bool,
}

/// Where a structure lies in the function's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Number of the BAR's register.
    pub bar: u8,
    /// Byte offset in that BAR, a multiple of 8.
    pub offset: u32,
}

impl Place {
    const fn from_register(value: u32) -> Self {
        Self { bar: value as u8 & 7, offset: value & !7 }
    }

    /// As the register has it.
    pub const fn register(self) -> u32 {
        self.offset | self.bar as u32 & 7
    }
}

/// An entry of the table.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Entry {
    /// Address bits 31:2.
    pub address: u32,
    /// Address bits 63:32.
    pub address_high: u32,
    /// What is written there.
    pub data: u32,
    /// [`Entry::MASKED`].
    pub control: u32,
}

const _: () = assert!(size_of::<Entry>() == Entry::SIZE as usize);

impl Entry {
    /// Bytes of an entry.
    pub const SIZE: u64 = 16;
    /// Vector control: the entry sends nothing.
    pub const MASKED: u32 = 1 << 0;
    /// After a reset.
    pub const RESET: Self = Self { address: 0, address_high: 0, data: 0, control: Self::MASKED };
}

/// The capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msix {
    /// Byte offset of the capability.
    pub offset: u8,
    /// Entries of the table, 1 to [`MAX_ENTRIES`].
    pub entries: u16,
    /// The table.
    pub table: Place,
    /// The pending-bit array.
    pub pending: Place,
}

impl Msix {
    /// Reads the capability, and checks that its structures lie in memory BARs of the function and not over each
    /// other.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn read(
        space: &(impl ConfigSpace + ?Sized),
        capability: Capability,
        bars: &[Bar],
    ) -> Result<Self, CapabilityError> {
        let at = u16::from(capability.offset);
        let found = Self {
            offset: capability.offset,
            entries: Control::from_bits(space.read_u16(at + CONTROL)).last_entry() + 1,
            table: Place::from_register(space.read_u32(at + TABLE)),
            pending: Place::from_register(space.read_u32(at + PENDING)),
        };
        let wrong = |field| CapabilityError {
            id: capability.id.into(),
            extended: false,
            offset: at,
            fault: Fault::Field(field),
        };
        let (table, pending) = (found.table_span(), found.pending_span());
        if !fits(found.table.bar, &table, bars) {
            return Err(wrong("the table's place"));
        }
        let same = found.table.bar == found.pending.bar;
        let over = same && table.start < pending.end && pending.start < table.end;
        if over || !fits(found.pending.bar, &pending, bars) {
            return Err(wrong("the pending-bit array's place"));
        }
        Ok(found)
    }

    /// Bytes of the BAR that are the table.
    pub fn table_span(&self) -> Range<u64> {
        let start = u64::from(self.table.offset);
        start..start + u64::from(self.entries) * Entry::SIZE
    }

    /// Bytes of the BAR that are the pending-bit array: one bit an entry, in words of 64.
    pub fn pending_span(&self) -> Range<u64> {
        let start = u64::from(self.pending.offset);
        start..start + u64::from(self.entries).div_ceil(64) * 8
    }
}

fn fits(bar: u8, span: &Range<u64>, bars: &[Bar]) -> bool {
    bars.iter().any(|b| b.index == bar && b.kind.is_memory() && span.end <= b.size)
}
