//! Why an image or a boot table could not be loaded.

use crate::memory::OutOfRange;
use core::fmt;

/// Every text names the field of the image or of the VM that is wrong, and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The kernel is none of the formats.
    UnknownFormat,
    /// An ELF file has neither a Multiboot 1 header nor a PVH note.
    NoEntry,
    /// The image ends before the end of a field.
    Truncated {
        /// What was being read.
        field: &'static str,
        /// Bytes the image must have for it.
        need: u64,
        /// Bytes it has.
        have: u64,
    },
    /// A field has a value that cannot be loaded.
    BadField {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What is expected, or what to change.
        want: &'static str,
    },
    /// A flags field asks for a feature that is not there.
    UnknownFlag {
        /// The field.
        field: &'static str,
        /// Number of the bit.
        bit: u32,
    },
    /// A part does not fit in the RAM of the VM.
    NoRoom {
        /// The part.
        what: &'static str,
        /// Where it must start, or where the search began.
        start: u64,
        /// Its size in bytes.
        size: u64,
    },
    /// A part lies on top of another.
    Overlap {
        /// The part.
        what: &'static str,
        /// Where it starts.
        start: u64,
        /// Its size in bytes.
        size: u64,
        /// What is already there.
        with: &'static str,
    },
    /// A text or table is longer than its place.
    TooLong {
        /// The field.
        field: &'static str,
        /// Its length in bytes (or entries, where the field is a list).
        length: u64,
        /// The most.
        max: u64,
    },
    /// The guest memory refused an access.
    Memory(OutOfRange),
}

impl From<OutOfRange> for LoadError {
    fn from(error: OutOfRange) -> Self {
        Self::Memory(error)
    }
}

impl core::error::Error for LoadError {}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UnknownFormat => f.write_str(
                "kernel: neither a Linux bzImage nor an ELF file; use one of these formats",
            ),
            Self::NoEntry => f.write_str(
                "kernel: ELF without a Multiboot 1 header in its first 8192 bytes and without a PHYS32_ENTRY note; build it with one",
            ),
            Self::Truncated { field, need, have } => write!(
                f,
                "{field}: the image ends at byte {have}, {need} are needed; copy it again"
            ),
            Self::BadField { field, value, want } => write!(f, "{field} is {value:#x}: {want}"),
            Self::UnknownFlag { field, bit } => write!(
                f,
                "{field}: bit {bit} demands a feature that is not offered; build the kernel without it"
            ),
            Self::NoRoom { what, start, size } => write!(
                f,
                "{what}: {size} bytes from {start:#x} do not fit in the RAM of the VM; give it more memory"
            ),
            Self::Overlap { what, start, size, with } => write!(
                f,
                "{what}: {size} bytes at {start:#x} lie on {with}; link or load it elsewhere"
            ),
            Self::TooLong { field, length, max } => {
                write!(f, "{field}: length is {length}, {max} is the most; shorten it")
            }
            Self::Memory(error) => error.fmt(f),
        }
    }
}
