//! Reading and writing what names stand for. ACPI 6.5, sections 19.6.48 (fields) and 19.6.60 (buffer fields).

use super::stream::Frame;
use super::value::{NameString, Object, Path, Value};
use super::{Aml, AmlError};
use alloc::vec::Vec;

/// Bits of a field that is a number.
const NUMBER: u64 = 64;

/// Puts the low `len` bits of `value` into `bytes` from bit `bit` on.
fn put_bits(bytes: &mut [u8], bit: u64, len: u64, value: u64) {
    for n in 0..len {
        let at = bit.saturating_add(n);
        if let Some(byte) = usize::try_from(at / 8).ok().and_then(|index| bytes.get_mut(index)) {
            let mask = 1 << (at % 8);
            let set = n < NUMBER && value >> n & 1 != 0;
            *byte = if set { *byte | mask } else { *byte & !mask };
        }
    }
}

/// `len` bits of `bytes` from bit `bit` on.
fn get_bits(bytes: &[u8], bit: u64, len: u64) -> u64 {
    (0..len.min(NUMBER)).fold(0, |value, n| {
        let at = bit.saturating_add(n);
        let byte = usize::try_from(at / 8).ok().and_then(|index| bytes.get(index));
        value | u64::from(byte.copied().unwrap_or(0) >> (at % 8) & 1) << n
    })
}

impl Aml<'_> {
    /// The bytes of a region that hold some bits: where they are in it.
    fn span(&self, frame: &Frame, region: &Path, bit: u64, len: u64) -> Result<Span, AmlError> {
        let Some(&Object::Region { space, base, len: size }) = self.objects.get(region) else {
            return Err(self.error(frame, "a field of no region"));
        };
        let end = bit.checked_add(len).filter(|&end| end.div_ceil(8) <= size && len <= NUMBER);
        let end = end.ok_or_else(|| self.error(frame, "a field beyond its region, or too wide"))?;
        let first = base.checked_add(bit / 8);
        let first = first.ok_or_else(|| self.error(frame, "a region beyond its space"))?;
        Ok(Span { space, first, count: end.div_ceil(8) - bit / 8 })
    }

    fn region_bytes(&self, frame: &Frame, span: &Span) -> Result<Vec<u8>, AmlError> {
        let byte = |address: u64| {
            let written = self.written.get(&(span.space, address)).copied();
            written.or_else(|| (self.look)(span.space, address))
        };
        let bytes = (0..span.count).map(|n| byte(span.first.wrapping_add(n)));
        let bytes: Option<Vec<u8>> = bytes.collect();
        bytes.ok_or_else(|| self.error(frame, "a region that Beeline does not read"))
    }

    /// The value of what a name stands for; a method is called by its own rules.
    pub(super) fn read_object(&mut self, frame: &Frame, path: &Path) -> Result<Value, AmlError> {
        if let Some(Object::Value(value)) = self.objects.get(path) {
            self.spend(frame, value.cost())?;
        }
        match self.objects.get(path) {
            Some(Object::Value(value)) => Ok(value.clone()),
            Some(Object::Field { region, bit, len }) => {
                let bytes = self.region_bytes(frame, &self.span(frame, region, *bit, *len)?)?;
                Ok(Value::Integer(get_bits(&bytes, bit % 8, *len)))
            }
            Some(Object::BufferField { buffer, bit, len }) => match self.objects.get(buffer) {
                Some(Object::Value(Value::Buffer(bytes))) => {
                    Ok(Value::Integer(get_bits(bytes, *bit, *len)))
                }
                _ => Err(self.error(frame, "a field of no buffer")),
            },
            Some(Object::Place) => {
                let name = NameString { root: true, up: 0, segments: path.0.clone() };
                Ok(Value::Name(Path::default(), name))
            }
            _ => Err(self.error(frame, "a name without a value")),
        }
    }

    /// Stores into what a name stands for.
    pub(super) fn write_object(
        &mut self,
        frame: &Frame,
        path: &Path,
        value: Value,
    ) -> Result<(), AmlError> {
        let number = value.integer();
        let no_number = || self.error(frame, "a store of no number into a field");
        match self.objects.get(path) {
            Some(Object::Field { region, bit, len }) => {
                let (bit, len) = (*bit, *len);
                let span = self.span(frame, region, bit, len)?;
                let number = number.ok_or_else(no_number)?;
                // What is not read is not needed for its neighbours either.
                let count = usize::try_from(span.count).unwrap_or(0);
                let mut bytes = self.region_bytes(frame, &span).unwrap_or(alloc::vec![0; count]);
                put_bits(&mut bytes, bit % 8, len, number);
                for (n, byte) in (0..).zip(bytes) {
                    self.written.insert((span.space, span.first.wrapping_add(n)), byte);
                }
                Ok(())
            }
            Some(Object::BufferField { buffer, bit, len }) => {
                let (buffer, bit, len) = (buffer.clone(), *bit, *len);
                let number = number.ok_or_else(no_number)?;
                match self.objects.get_mut(&buffer) {
                    Some(Object::Value(Value::Buffer(bytes))) => {
                        put_bits(bytes, bit, len.min(NUMBER), number);
                        Ok(())
                    }
                    _ => Err(self.error(frame, "a field of no buffer")),
                }
            }
            Some(Object::Value(_)) => {
                self.objects.insert(path.clone(), Object::Value(value));
                Ok(())
            }
            _ => Err(self.error(frame, "a store into what cannot hold it")),
        }
    }
}

/// Bytes of an address space.
struct Span {
    space: super::Space,
    first: u64,
    count: u64,
}
