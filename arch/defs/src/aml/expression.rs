//! Expressions: what has a value. ACPI 6.5, section 20.2.5.4.
//!
//! Terms nest, so do these functions: none is inlined into another, which keeps a level's share of the stack small.

use super::stream::{Frame, begins_name};
use super::value::{Object, Path, Value};
use super::{Aml, AmlError, LARGEST};
use alloc::vec::Vec;

/// Where a result goes.
enum Target {
    Nowhere,
    Own(usize),
    Named(Path),
}

const TRUE: u64 = u64::MAX;

impl Aml<'_> {
    /// A term that must be a number.
    pub(super) fn integer(&mut self, frame: &mut Frame) -> Result<u64, AmlError> {
        let value = self.value(frame)?;
        value.integer().ok_or_else(|| self.error(frame, "a number is expected"))
    }

    /// The value of a term.
    pub(super) fn value(&mut self, frame: &mut Frame) -> Result<Value, AmlError> {
        self.burn(frame)?;
        self.deeper(frame)?;
        let value = self.expression(frame);
        frame.depth -= 1;
        value
    }

    #[inline(never)]
    fn expression(&mut self, frame: &mut Frame) -> Result<Value, AmlError> {
        let op = self.peek(frame).ok_or_else(|| self.error(frame, "the code ends in a term"))?;
        if begins_name(op) {
            return self.named(frame);
        }
        frame.at += 1;
        let number = |value| Ok(Value::Integer(value));
        match op {
            0x00 | 0x01 => number(op.into()),
            0xFF => number(u64::MAX),
            0x0A => number(self.number(frame, 1)?),
            0x0B => number(self.number(frame, 2)?),
            0x0C => number(self.number(frame, 4)?),
            0x0E => number(self.number(frame, 8)?),
            0x0D => self.text(frame),
            0x11 => self.buffer(frame),
            0x12 => self.package(frame, false),
            0x13 => self.package(frame, true),
            0x5B => self.extended_expression(frame),
            0x60..=0x6E => {
                let own = frame.own.get(usize::from(op - 0x60)).cloned().unwrap_or(Value::None);
                self.spend(frame, own.cost())?;
                Ok(own)
            }
            // Store, CopyObject.
            0x70 | 0x9D => {
                let value = self.value(frame)?;
                self.store(frame, value)
            }
            0x75 | 0x76 => self.step(frame, op == 0x75),
            0x72 | 0x74 | 0x77 | 0x79..=0x7F | 0x85 => self.arithmetic(frame, op),
            0x78 => self.divide(frame),
            0x80 => {
                let value = !self.integer(frame)?;
                self.store(frame, Value::Integer(value))
            }
            0x83 => self.value(frame),
            0x86 => {
                self.value(frame)?;
                self.value(frame)?;
                Ok(Value::None)
            }
            0x87 => self.size(frame),
            0x88 => self.element(frame),
            0x90 | 0x91 | 0x93..=0x95 => self.comparison(frame, op),
            0x92 => number(if self.integer(frame)? == 0 { TRUE } else { 0 }),
            // ToInteger.
            0x99 => {
                let value = self.integer(frame)?;
                self.store(frame, Value::Integer(value))
            }
            _ => Err(self.error(frame, "an operation that Beeline does not know")),
        }
    }

    #[inline(never)]
    fn extended_expression(&mut self, frame: &mut Frame) -> Result<Value, AmlError> {
        match self.byte(frame)? {
            // CondRefOf.
            0x12 => {
                let name = self.name(frame)?;
                let found = self.find(&frame.scope, &name).is_some();
                let _ = self.target(frame)?;
                Ok(Value::Integer(if found { TRUE } else { 0 }))
            }
            // Stall, sleep: nobody waits here.
            0x21 | 0x22 => self.value(frame).map(|_| Value::None),
            // Acquire: the code is alone.
            0x23 => {
                let _ = self.target(frame)?;
                self.bytes(frame, 2)?;
                Ok(Value::Integer(0))
            }
            // Signal, reset, release.
            0x24 | 0x26 | 0x27 => self.target(frame).map(|_| Value::None),
            0x30 => Ok(Value::Integer(2)),
            0x33 => Ok(Value::Integer(0)),
            _ => Err(self.error(frame, "an operation that Beeline does not know")),
        }
    }

    #[inline(never)]
    fn named(&mut self, frame: &mut Frame) -> Result<Value, AmlError> {
        let name = self.name(frame)?;
        let path = self.find(&frame.scope, &name);
        let path = path.ok_or_else(|| self.error(frame, "an unknown name"))?;
        let Some(&Object::Method { arguments, .. }) = self.objects.get(&path) else {
            return self.read_object(frame, &path);
        };
        let mut values = Vec::new();
        for _ in 0..arguments {
            values.push(self.value(frame)?);
        }
        self.call(&path, &values, frame.depth)
    }

    #[inline(never)]
    fn text(&mut self, frame: &mut Frame) -> Result<Value, AmlError> {
        let mut text = Vec::new();
        loop {
            match self.byte(frame)? {
                0 => break,
                byte => text.push(byte),
            }
        }
        self.spend(frame, text.len() / 16)?;
        Ok(Value::String(text))
    }

    #[inline(never)]
    fn buffer(&mut self, frame: &mut Frame) -> Result<Value, AmlError> {
        let end = self.package_end(frame)?;
        let size = self.integer(frame)?;
        let given =
            end.checked_sub(frame.at).ok_or_else(|| self.error(frame, "a buffer's size"))?;
        self.spend(frame, given / 16)?;
        let mut bytes = self.bytes(frame, given)?;
        let size = usize::try_from(size).ok().filter(|&size| size <= LARGEST);
        let size = size.ok_or_else(|| self.error(frame, "a buffer that is too large"))?;
        // Memory is bounded as well: a few bytes of code can ask for much of it.
        self.spend(frame, size / 16)?;
        if bytes.len() < size {
            bytes.resize(size, 0);
        }
        Ok(Value::Buffer(bytes))
    }

    #[inline(never)]
    fn package(&mut self, frame: &mut Frame, variable: bool) -> Result<Value, AmlError> {
        let end = self.package_end(frame)?;
        let count = if variable { self.integer(frame)? } else { u64::from(self.byte(frame)?) };
        let count = usize::try_from(count).ok().filter(|&count| count <= LARGEST);
        let count = count.ok_or_else(|| self.error(frame, "a package that is too large"))?;
        let outer = core::mem::replace(&mut frame.end, end);
        let mut elements = Vec::new();
        while frame.at < end && elements.len() < count {
            elements.push(match self.peek(frame) {
                Some(byte) if begins_name(byte) => {
                    let name = Value::Name(frame.scope.clone(), self.name(frame)?);
                    self.spend(frame, name.cost())?;
                    name
                }
                // Data alone: packages that hold locals could double with each turn of a loop.
                Some(0x00 | 0x01 | 0x0A..=0x0E | 0x11..=0x13 | 0xFF) => self.value(frame)?,
                _ => return Err(self.error(frame, "a package with something else than data")),
            });
        }
        frame.end = outer;
        frame.at = end;
        Ok(Value::Package(elements))
    }

    fn target(&mut self, frame: &mut Frame) -> Result<Target, AmlError> {
        match self.peek(frame) {
            Some(0) => {
                frame.at += 1;
                Ok(Target::Nowhere)
            }
            Some(own @ 0x60..=0x6E) => {
                frame.at += 1;
                Ok(Target::Own(usize::from(own - 0x60)))
            }
            // The debug object.
            Some(0x5B) => {
                self.bytes(frame, 2)?;
                Ok(Target::Nowhere)
            }
            Some(byte) if begins_name(byte) => {
                let name = self.name(frame)?;
                let path = self.find(&frame.scope, &name);
                path.map(Target::Named).ok_or_else(|| self.error(frame, "an unknown name"))
            }
            _ => Err(self.error(frame, "a target that Beeline does not know")),
        }
    }

    /// Stores into the target that follows; gives the value.
    #[inline(never)]
    fn store(&mut self, frame: &mut Frame, value: Value) -> Result<Value, AmlError> {
        match self.target(frame)? {
            Target::Nowhere => {}
            Target::Own(n) => {
                self.spend(frame, value.cost())?;
                if let Some(place) = frame.own.get_mut(n) {
                    *place = value.clone();
                }
            }
            Target::Named(path) => {
                self.spend(frame, value.cost())?;
                self.write_object(frame, &path, value.clone())?;
            }
        }
        Ok(value)
    }

    #[inline(never)]
    fn step(&mut self, frame: &mut Frame, up: bool) -> Result<Value, AmlError> {
        let start = frame.at;
        let old = self.integer(frame)?;
        frame.at = start;
        let new = if up { old.wrapping_add(1) } else { old.wrapping_sub(1) };
        self.store(frame, Value::Integer(new))
    }

    #[inline(never)]
    fn arithmetic(&mut self, frame: &mut Frame, op: u8) -> Result<Value, AmlError> {
        let (a, b) = (self.integer(frame)?, self.integer(frame)?);
        let shift = u32::try_from(b).ok().filter(|&b| b < 64);
        let value = match op {
            0x72 => a.wrapping_add(b),
            0x74 => a.wrapping_sub(b),
            0x77 => a.wrapping_mul(b),
            0x79 => shift.map_or(0, |b| a << b),
            0x7A => shift.map_or(0, |b| a >> b),
            0x7B => a & b,
            0x7C => !(a & b),
            0x7D => a | b,
            0x7E => !(a | b),
            0x7F => a ^ b,
            _ => a.checked_rem(b).ok_or_else(|| self.error(frame, "a division by 0"))?,
        };
        self.store(frame, Value::Integer(value))
    }

    #[inline(never)]
    fn divide(&mut self, frame: &mut Frame) -> Result<Value, AmlError> {
        let (a, b) = (self.integer(frame)?, self.integer(frame)?);
        let (Some(quotient), Some(remainder)) = (a.checked_div(b), a.checked_rem(b)) else {
            return Err(self.error(frame, "a division by 0"));
        };
        self.store(frame, Value::Integer(remainder))?;
        self.store(frame, Value::Integer(quotient))
    }

    #[inline(never)]
    fn comparison(&mut self, frame: &mut Frame, op: u8) -> Result<Value, AmlError> {
        let (a, b) = (self.value(frame)?, self.value(frame)?);
        let holds = match (&a, &b) {
            (Value::String(a), Value::String(b)) => compare(op, a, b),
            (Value::Buffer(a), Value::Buffer(b)) => compare(op, a, b),
            _ => match (a.integer(), b.integer()) {
                (Some(a), Some(b)) if op == 0x90 => a != 0 && b != 0,
                (Some(a), Some(b)) if op == 0x91 => a != 0 || b != 0,
                (Some(a), Some(b)) => compare(op, &a, &b),
                _ => return Err(self.error(frame, "a comparison of different kinds")),
            },
        };
        Ok(Value::Integer(if holds { TRUE } else { 0 }))
    }

    #[inline(never)]
    fn size(&mut self, frame: &mut Frame) -> Result<Value, AmlError> {
        match self.value(frame)? {
            Value::Buffer(bytes) | Value::String(bytes) => Ok(Value::Integer(bytes.len() as u64)),
            Value::Package(elements) => Ok(Value::Integer(elements.len() as u64)),
            _ => Err(self.error(frame, "SizeOf of no object")),
        }
    }

    /// Index, to read: DerefOf passes its value on.
    #[inline(never)]
    fn element(&mut self, frame: &mut Frame) -> Result<Value, AmlError> {
        let whole = self.value(frame)?;
        let index = usize::try_from(self.integer(frame)?).unwrap_or(usize::MAX);
        let value = match &whole {
            Value::Buffer(bytes) | Value::String(bytes) => {
                bytes.get(index).map(|&byte| Value::Integer(byte.into()))
            }
            Value::Package(elements) => elements.get(index).cloned(),
            _ => None,
        };
        let value = value.ok_or_else(|| self.error(frame, "an index beyond its object"))?;
        self.store(frame, value)
    }
}

fn compare<T: PartialOrd>(op: u8, a: &T, b: &T) -> bool {
    match op {
        0x93 => a == b,
        0x94 => a > b,
        0x95 => a < b,
        _ => false,
    }
}
