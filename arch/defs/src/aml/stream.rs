//! Bytes, package lengths and names. ACPI 6.5, sections 20.2.2 and 20.2.4.

use super::value::{NameString, Path, Segment, Value, little_endian};
use super::{Aml, AmlError, HEADER, LONGEST};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Where code is being read, and what is its own.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Number of the table.
    pub table: usize,
    /// Next byte.
    pub at: usize,
    /// Byte after the last.
    pub end: usize,
    /// Where its names are looked up.
    pub scope: Path,
    /// Terms and calls around this one.
    pub depth: u32,
    /// Locals 0 to 7, then arguments 0 to 6.
    pub own: Box<[Value; 15]>,
}

impl Frame {
    /// Code of a table, without locals or arguments.
    pub fn new(table: usize, at: usize, end: usize, scope: Path) -> Self {
        Self { table, at, end, scope, depth: 0, own: Box::new([const { Value::None }; 15]) }
    }
}

const fn is_lead(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'_'
}

/// Whether a name can begin with this byte.
pub const fn begins_name(byte: u8) -> bool {
    is_lead(byte) || matches!(byte, b'\\' | b'^' | 0x2E | 0x2F)
}

impl Aml<'_> {
    /// An error at the byte before the next one.
    pub(super) fn error(&self, frame: &Frame, what: &'static str) -> AmlError {
        let table = self.tables.get(frame.table).map_or("", |table| table.name);
        AmlError { table, offset: HEADER + frame.at.saturating_sub(1), what }
    }

    /// The next byte, which stays.
    pub(super) fn peek(&self, frame: &Frame) -> Option<u8> {
        let code = &self.tables.get(frame.table)?.code;
        code.get(frame.at).copied().filter(|_| frame.at < frame.end)
    }

    /// The next byte.
    pub(super) fn byte(&self, frame: &mut Frame) -> Result<u8, AmlError> {
        let byte = self.peek(frame).ok_or_else(|| self.error(frame, "the code ends in a term"))?;
        frame.at += 1;
        Ok(byte)
    }

    /// The next `count` bytes.
    pub(super) fn bytes(&self, frame: &mut Frame, count: usize) -> Result<Vec<u8>, AmlError> {
        let end = frame.at.checked_add(count).filter(|&end| end <= frame.end);
        let code = self.tables.get(frame.table).map(|table| &table.code);
        let bytes = end.and_then(|end| code?.get(frame.at..end));
        let bytes = bytes.ok_or_else(|| self.error(frame, "the code ends in a term"))?.to_vec();
        frame.at += count;
        Ok(bytes)
    }

    /// A number of `count` bytes.
    pub(super) fn number(&self, frame: &mut Frame, count: usize) -> Result<u64, AmlError> {
        Ok(little_endian(&self.bytes(frame, count)?))
    }

    /// A package length as it stands, and how many bytes it took.
    pub(super) fn length(&self, frame: &mut Frame) -> Result<(usize, usize), AmlError> {
        let first = self.byte(frame)?;
        let more = usize::from(first >> 6);
        let mut length = usize::from(first & if more == 0 { 0x3F } else { 0x0F });
        for n in 0..more {
            length |= usize::from(self.byte(frame)?) << (4 + 8 * n);
        }
        Ok((length, more + 1))
    }

    /// A package length: gives the byte after the package.
    pub(super) fn package_end(&self, frame: &mut Frame) -> Result<usize, AmlError> {
        let start = frame.at;
        let (length, _) = self.length(frame)?;
        let end = start.checked_add(length).filter(|&end| frame.at <= end && end <= frame.end);
        end.ok_or_else(|| self.error(frame, "invalid package length"))
    }

    /// A name.
    pub(super) fn name(&self, frame: &mut Frame) -> Result<NameString, AmlError> {
        let mut name = NameString { root: false, up: 0, segments: Vec::new() };
        if self.peek(frame) == Some(b'\\') {
            frame.at += 1;
            name.root = true;
        }
        while self.peek(frame) == Some(b'^') {
            frame.at += 1;
            name.up += 1;
        }
        let count = match self.peek(frame) {
            Some(0) => {
                frame.at += 1;
                0
            }
            Some(0x2E) => {
                frame.at += 1;
                2
            }
            Some(0x2F) => {
                frame.at += 1;
                self.byte(frame)?
            }
            _ => 1,
        };
        for _ in 0..count {
            let segment = self.bytes(frame, 4)?;
            let segment: Option<Segment> = segment.as_slice().try_into().ok();
            let valid =
                |s: &Segment| is_lead(s[0]) && s.iter().all(|&b| is_lead(b) || b.is_ascii_digit());
            let segment = segment.filter(valid).ok_or_else(|| self.error(frame, "invalid name"))?;
            name.segments.push(segment);
        }
        Ok(name)
    }

    /// The place that a name declares or means without a search; `None` above the root and for too long a path.
    pub(super) fn place(scope: &Path, name: &NameString) -> Option<Path> {
        let mut path = if name.root { Path::default() } else { scope.clone() };
        for _ in 0..name.up {
            path = path.parent()?;
        }
        path.0.extend(&name.segments);
        // Real ones have a few; each object, and each name in a package, keeps a path.
        Some(path).filter(|path| path.0.len() <= LONGEST)
    }

    /// The object that a name means: one segment alone is searched upwards (section 5.3).
    pub(super) fn find(&self, scope: &Path, name: &NameString) -> Option<Path> {
        let direct = Self::place(scope, name)?;
        let alone = !name.root && name.up == 0 && name.segments.len() == 1;
        let mut found = direct;
        if alone {
            let segment = name.segments.first()?;
            let mut scope = scope.clone();
            found = loop {
                let path = scope.child(segment);
                if self.objects.contains_key(&path) {
                    break path;
                }
                scope = scope.parent()?;
            };
        }
        // An alias of an alias of itself is no object.
        for _ in 0..8 {
            match self.objects.get(&found)? {
                super::value::Object::Alias(other) => found = other.clone(),
                _ => return Some(found),
            }
        }
        None
    }
}
