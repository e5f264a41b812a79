//! The sixteen-byte FIFO of the UART. No locks; called by [`super::Uart`] only.

/// Bytes in a FIFO.
pub const SIZE: u8 = 16;

/// A ring of bytes. Positions wrap by the mask, so no index can be out of range.
#[derive(Debug)]
pub struct Fifo {
    bytes: [u8; SIZE as usize],
    first: u8,
    len: u8,
}

impl Fifo {
    pub const fn new() -> Self {
        Self { bytes: [0; SIZE as usize], first: 0, len: 0 }
    }

    pub const fn len(&self) -> u8 {
        self.len
    }

    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn clear(&mut self) {
        self.len = 0;
    }

    const fn at(&self, position: u8) -> usize {
        (self.first.wrapping_add(position) & (SIZE - 1)) as usize
    }

    /// Appends a byte unless there are `depth` already; false when it did not fit.
    pub fn push(&mut self, byte: u8, depth: u8) -> bool {
        if self.len >= depth.min(SIZE) {
            return false;
        }
        self.bytes[self.at(self.len)] = byte;
        self.len += 1;
        true
    }

    pub fn front(&self) -> Option<u8> {
        (self.len > 0).then(|| self.bytes[self.at(0)])
    }

    pub fn pop(&mut self) -> Option<u8> {
        let byte = self.front()?;
        self.first = self.first.wrapping_add(1) & (SIZE - 1);
        self.len -= 1;
        Some(byte)
    }
}
