//! Values, names, and the objects of the namespace. ACPI 6.5, sections 5.3 and 19.3.5.

use super::Space;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// A name's segment.
pub type Segment = [u8; 4];

/// An object's place in the namespace, from the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(pub Vec<Segment>);

impl Path {
    /// The object `name` below this one.
    #[must_use]
    pub fn child(&self, name: &Segment) -> Self {
        let mut path = self.clone();
        path.0.push(*name);
        path
    }

    /// The object around this one; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (_, before) = self.0.split_last()?;
        Some(Self(before.to_vec()))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\\")?;
        for (n, segment) in self.0.iter().enumerate() {
            let dot = if n == 0 { "" } else { "." };
            write!(f, "{dot}{}", String::from_utf8_lossy(segment))?;
        }
        Ok(())
    }
}

/// A name as the code has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameString {
    /// It starts at the root.
    pub root: bool,
    /// How many levels it goes up first.
    pub up: usize,
    /// The rest.
    pub segments: Vec<Segment>,
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Integer(u64),
    /// A text.
    String(Vec<u8>),
    /// Bytes.
    Buffer(Vec<u8>),
    /// Values.
    Package(Vec<Value>),
    /// A name in a package, with the scope that it was read in.
    Name(Path, NameString),
    /// Nothing.
    None,
}

impl Value {
    /// The number, of what converts to one (section 19.3.5.7).
    pub fn integer(&self) -> Option<u64> {
        match self {
            Self::Integer(value) => Some(*value),
            Self::Buffer(bytes) => Some(little_endian(bytes.get(..8).unwrap_or(bytes))),
            _ => None,
        }
    }
}

impl Value {
    /// What a copy costs, as [`Aml::spend`](super::Aml) counts.
    pub fn cost(&self) -> usize {
        /// A value's own bytes.
        const OWN: usize = size_of::<Value>().div_ceil(16);
        OWN + match self {
            Self::String(bytes) | Self::Buffer(bytes) => bytes.len() / 16,
            Self::Package(elements) => elements.iter().map(Self::cost).sum(),
            Self::Name(scope, name) => (scope.0.len() + name.segments.len()) / 4,
            Self::Integer(_) | Self::None => 0,
        }
    }
}

/// A number of up to eight bytes.
pub fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Object {
    /// A scope, a device, a processor, a mutex: a place for names.
    Place,
    /// A value.
    Value(Value),
    /// Code: its table and bytes, and how many arguments it takes.
    Method {
        /// Number of the table.
        table: usize,
        /// First byte.
        start: usize,
        /// Byte after the last.
        end: usize,
        /// Arguments.
        arguments: u8,
    },
    /// An operation region.
    Region {
        /// Where.
        space: Space,
        /// First byte.
        base: u64,
        /// Bytes.
        len: u64,
    },
    /// Bits of a region.
    Field {
        /// The region.
        region: Path,
        /// First bit.
        bit: u64,
        /// Bits.
        len: u64,
    },
    /// Bits of a buffer.
    BufferField {
        /// The buffer.
        buffer: Path,
        /// First bit.
        bit: u64,
        /// Bits.
        len: u64,
    },
    /// A field that goes by way of another: not evaluated.
    Indirect,
    /// Another name for an object.
    Alias(Path),
}
