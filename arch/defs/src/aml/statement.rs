//! Calls and statements. ACPI 6.5, sections 19.6.85 and 20.2.5.3.

use super::stream::Frame;
use super::value::{Object, Path, Value};
use super::{Aml, AmlError, DEPTH};

/// How a statement ends.
#[derive(Clone, Debug)]
pub enum Flow {
    /// On to the next one.
    Next,
    /// Out of the loop.
    Break,
    /// To the loop's condition.
    Continue,
    /// Out of the method.
    Return(Value),
}

impl Aml<'_> {
    /// The value of an object, by a call if it is a method; `None` if there is none.
    ///
    /// # Errors
    /// What the code asks for and cannot get.
    pub fn evaluate(
        &mut self,
        path: &Path,
        arguments: &[Value],
    ) -> Result<Option<Value>, AmlError> {
        match self.objects.get(path) {
            None => Ok(None),
            Some(Object::Method { .. }) => self.call(path, arguments, 0).map(Some),
            Some(_) => {
                self.read_object(&Frame::new(usize::MAX, 0, 0, Path::default()), path).map(Some)
            }
        }
    }

    #[inline(never)]
    pub(super) fn call(
        &mut self,
        path: &Path,
        arguments: &[Value],
        depth: u32,
    ) -> Result<Value, AmlError> {
        let Some(&Object::Method { table, start, end, .. }) = self.objects.get(path) else {
            return Ok(Value::None);
        };
        let mut frame = Frame::new(table, start, end, path.clone());
        frame.depth = depth;
        self.spend(&frame, arguments.iter().map(Value::cost).sum())?;
        for (place, argument) in frame.own.iter_mut().skip(8).zip(arguments) {
            *place = argument.clone();
        }
        match self.terms(&mut frame)? {
            Flow::Return(value) => Ok(value),
            _ => Ok(Value::None),
        }
    }

    /// Executes what is left of the frame's code.
    pub(super) fn terms(&mut self, frame: &mut Frame) -> Result<Flow, AmlError> {
        self.deeper(frame)?;
        while frame.at < frame.end {
            match self.term(frame)? {
                Flow::Next => {}
                other => {
                    frame.depth -= 1;
                    return Ok(other);
                }
            }
        }
        frame.depth -= 1;
        Ok(Flow::Next)
    }

    pub(super) fn deeper(&mut self, frame: &mut Frame) -> Result<(), AmlError> {
        if frame.depth >= DEPTH {
            return Err(self.error(frame, "terms are nested too deeply"));
        }
        frame.depth += 1;
        Ok(())
    }

    pub(super) fn burn(&mut self, frame: &Frame) -> Result<(), AmlError> {
        self.spend(frame, 1)
    }

    /// Work and memory that a term takes beside its own: `cost` is about a sixteenth of the bytes.
    pub(super) fn spend(&mut self, frame: &Frame, cost: usize) -> Result<(), AmlError> {
        let left = u32::try_from(cost).ok().and_then(|cost| self.fuel.checked_sub(cost));
        self.fuel = left.ok_or_else(|| self.error(frame, "the code does not end"))?;
        Ok(())
    }

    /// One statement.
    fn term(&mut self, frame: &mut Frame) -> Result<Flow, AmlError> {
        self.burn(frame)?;
        let op = self.byte(frame)?;
        if op == 0x5B {
            let extended = self.byte(frame)?;
            if let Some(done) = self.extended(frame, extended) {
                return done;
            }
            frame.at -= 1;
        } else if let Some(done) = self.declaration(frame, op) {
            return done;
        }
        match op {
            0xA0 => self.condition(frame),
            // An Else whose If was in a block that was skipped.
            0xA1 => {
                frame.at = self.package_end(frame)?;
                Ok(Flow::Next)
            }
            0xA2 => self.repeat(frame),
            0xA3 | 0xCC => Ok(Flow::Next),
            0xA4 => Ok(Flow::Return(self.value(frame)?)),
            0xA5 => Ok(Flow::Break),
            0x9F => Ok(Flow::Continue),
            _ => {
                frame.at -= 1;
                self.value(frame).map(|_| Flow::Next)
            }
        }
    }

    /// Executes the terms up to `end`.
    #[inline(never)]
    fn inner(&mut self, frame: &mut Frame, end: usize) -> Result<Flow, AmlError> {
        let outer = core::mem::replace(&mut frame.end, end);
        let flow = self.terms(frame);
        frame.end = outer;
        frame.at = end;
        flow
    }

    #[inline(never)]
    fn condition(&mut self, frame: &mut Frame) -> Result<Flow, AmlError> {
        let end = self.package_end(frame)?;
        let holds = self.integer(frame)? != 0;
        let mut flow = Flow::Next;
        if holds {
            flow = self.inner(frame, end)?;
        }
        frame.at = end;
        if self.peek(frame) == Some(0xA1) {
            frame.at += 1;
            let end = self.package_end(frame)?;
            if !holds {
                flow = self.inner(frame, end)?;
            }
            frame.at = end;
        }
        Ok(flow)
    }

    #[inline(never)]
    fn repeat(&mut self, frame: &mut Frame) -> Result<Flow, AmlError> {
        let end = self.package_end(frame)?;
        let start = frame.at;
        loop {
            self.burn(frame)?;
            frame.at = start;
            let goes_on = self.integer(frame)? != 0;
            let flow = if goes_on { self.inner(frame, end)? } else { Flow::Break };
            match flow {
                Flow::Next | Flow::Continue => {}
                Flow::Break => break,
                Flow::Return(value) => return Ok(Flow::Return(value)),
            }
        }
        frame.at = end;
        Ok(Flow::Next)
    }
}
