//! Declarations: what the code puts into the namespace. ACPI 6.5, section 20.2.5.

use super::statement::Flow;
use super::stream::Frame;
use super::value::{Object, Path, Value};
use super::{Aml, AmlError, Space};

/// Bytes of an element of a field list that names nothing.
const ACCESS: usize = 2;
const EXTENDED_ACCESS: usize = 3;

impl Aml<'_> {
    /// The names that are there before any table (section 5.3.1, 5.7).
    pub(super) fn predefine(&mut self) {
        self.objects.insert(Path::default(), Object::Place);
        for name in [b"_SB_", b"_GPE", b"_PR_", b"_SI_", b"_TZ_", b"_GL_"] {
            self.objects.insert(Path::default().child(name), Object::Place);
        }
        let revision = Object::Value(Value::Integer(2));
        self.objects.insert(Path::default().child(b"_REV"), revision);
    }

    /// Loads a table.
    pub(super) fn load(&mut self, table: usize) {
        let end = self.tables.get(table).map_or(0, |table| table.code.len());
        let mut frame = Frame::new(table, 0, end, Path::default());
        self.block(&mut frame, end, Path::default());
    }

    /// Executes the terms up to `end` in `scope`. What cannot be read ends the block, not what is around it.
    #[inline(never)]
    pub(super) fn block(&mut self, frame: &mut Frame, end: usize, scope: Path) {
        let outer = (frame.end, core::mem::replace(&mut frame.scope, scope));
        frame.end = end;
        if let Err(why) = self.terms(frame)
            && self.skipped.is_none()
        {
            self.skipped = Some(why);
        }
        frame.at = end;
        (frame.end, frame.scope) = outer;
    }

    #[inline(never)]
    fn declare(
        &mut self,
        frame: &Frame,
        path: Option<Path>,
        object: Object,
    ) -> Result<(), AmlError> {
        let path = path.ok_or_else(|| self.error(frame, "a name above the root, or too long"))?;
        self.objects.insert(path, object);
        Ok(())
    }

    fn new_name(&self, frame: &mut Frame) -> Result<Option<Path>, AmlError> {
        let name = self.name(frame)?;
        Ok(Self::place(&frame.scope, &name))
    }

    /// A block with a name: `skip` bytes lie between name and terms.
    #[inline(never)]
    fn named_block(&mut self, frame: &mut Frame, skip: usize, new: bool) -> Result<(), AmlError> {
        let end = self.package_end(frame)?;
        let name = self.name(frame)?;
        let known = if new { None } else { self.find(&frame.scope, &name) };
        let Some(path) = known.or_else(|| Self::place(&frame.scope, &name)) else {
            return Err(self.error(frame, "a name above the root, or too long"));
        };
        self.bytes(frame, skip)?;
        self.objects.entry(path.clone()).or_insert(Object::Place);
        self.block(frame, end, path);
        Ok(())
    }

    /// A declaration with this opcode; `None` if it is none.
    pub(super) fn declaration(
        &mut self,
        frame: &mut Frame,
        op: u8,
    ) -> Option<Result<Flow, AmlError>> {
        let done = match op {
            0x06 => self.alias(frame),
            0x08 => self.named_value(frame),
            0x10 => self.named_block(frame, 0, false),
            0x14 => self.method(frame),
            // External: a hint for disassemblers.
            0x15 => self.name(frame).and_then(|_| self.bytes(frame, 2)).map(drop),
            0x8A => self.buffer_field(frame, Some(32)),
            0x8B => self.buffer_field(frame, Some(16)),
            0x8C => self.buffer_field(frame, Some(8)),
            0x8D => self.buffer_field(frame, Some(1)),
            0x8F => self.buffer_field(frame, Some(64)),
            _ => return None,
        };
        Some(done.map(|()| Flow::Next))
    }

    /// A declaration with this opcode after the prefix 0x5B; `None` if it is none.
    pub(super) fn extended(&mut self, frame: &mut Frame, op: u8) -> Option<Result<Flow, AmlError>> {
        let done = match op {
            // Mutex, event.
            0x01 => self.place_only(frame, 1),
            0x02 => self.place_only(frame, 0),
            0x13 => self.buffer_field(frame, None),
            0x80 => self.region(frame),
            0x81 => self.fields(frame),
            0x82 | 0x85 => self.named_block(frame, 0, true),
            0x83 => self.named_block(frame, 6, true),
            0x84 => self.named_block(frame, 3, true),
            0x86 => self.indirect_fields(frame, false),
            0x87 => self.indirect_fields(frame, true),
            _ => return None,
        };
        Some(done.map(|()| Flow::Next))
    }

    #[inline(never)]
    fn alias(&mut self, frame: &mut Frame) -> Result<(), AmlError> {
        let source = self.name(frame)?;
        let target = self.find(&frame.scope, &source);
        let path = self.new_name(frame)?;
        match target {
            Some(target) => self.declare(frame, path, Object::Alias(target)),
            None => Ok(()),
        }
    }

    #[inline(never)]
    fn named_value(&mut self, frame: &mut Frame) -> Result<(), AmlError> {
        let path = self.new_name(frame)?;
        let value = self.value(frame)?;
        self.declare(frame, path, Object::Value(value))
    }

    #[inline(never)]
    fn place_only(&mut self, frame: &mut Frame, skip: usize) -> Result<(), AmlError> {
        let path = self.new_name(frame)?;
        self.bytes(frame, skip)?;
        self.declare(frame, path, Object::Place)
    }

    #[inline(never)]
    fn method(&mut self, frame: &mut Frame) -> Result<(), AmlError> {
        let end = self.package_end(frame)?;
        let path = self.new_name(frame)?;
        let arguments = self.byte(frame)? & 7;
        let method = Object::Method { table: frame.table, start: frame.at, end, arguments };
        frame.at = end;
        self.declare(frame, path, method)
    }

    #[inline(never)]
    fn buffer_field(&mut self, frame: &mut Frame, bits: Option<u64>) -> Result<(), AmlError> {
        let name = self.name(frame)?;
        let buffer = self.find(&frame.scope, &name);
        let buffer = buffer.ok_or_else(|| self.error(frame, "a field of an unknown buffer"))?;
        let index = self.integer(frame)?;
        let (bit, len) = match bits {
            None => (index, self.integer(frame)?),
            Some(1) => (index, 1),
            Some(bits) => (index.saturating_mul(8), bits),
        };
        let path = self.new_name(frame)?;
        self.declare(frame, path, Object::BufferField { buffer, bit, len })
    }

    #[inline(never)]
    fn region(&mut self, frame: &mut Frame) -> Result<(), AmlError> {
        let path = self.new_name(frame)?;
        let space = match self.byte(frame)? {
            0 => Space::Memory,
            1 => Space::Ports,
            other => Space::Other(other),
        };
        let base = self.integer(frame)?;
        let len = self.integer(frame)?;
        self.declare(frame, path, Object::Region { space, base, len })
    }

    #[inline(never)]
    fn fields(&mut self, frame: &mut Frame) -> Result<(), AmlError> {
        let end = self.package_end(frame)?;
        let name = self.name(frame)?;
        let region = self.find(&frame.scope, &name);
        self.field_list(frame, end, region)
    }

    #[inline(never)]
    fn indirect_fields(&mut self, frame: &mut Frame, bank: bool) -> Result<(), AmlError> {
        let end = self.package_end(frame)?;
        self.name(frame)?;
        self.name(frame)?;
        if bank {
            self.integer(frame)?;
        }
        self.field_list(frame, end, None)
    }

    /// Flags and elements; those of no known region are declared, but not evaluated.
    #[inline(never)]
    fn field_list(
        &mut self,
        frame: &mut Frame,
        end: usize,
        region: Option<Path>,
    ) -> Result<(), AmlError> {
        self.byte(frame)?;
        let mut bit = 0_u64;
        while frame.at < end {
            self.burn(frame)?;
            match self.byte(frame)? {
                0 => bit += self.length(frame)?.0 as u64,
                1 => drop(self.bytes(frame, ACCESS)?),
                3 => drop(self.bytes(frame, EXTENDED_ACCESS)?),
                2 => return Err(self.error(frame, "a field with a connection")),
                _ => {
                    frame.at -= 1;
                    let path = self.new_name(frame)?;
                    let len = self.length(frame)?.0 as u64;
                    let field = match &region {
                        Some(region) => Object::Field { region: region.clone(), bit, len },
                        None => Object::Indirect,
                    };
                    self.declare(frame, path, field)?;
                    bit += len;
                }
            }
        }
        frame.at = end;
        Ok(())
    }
}
