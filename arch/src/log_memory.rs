//! The memory that keeps the log over a warm reset: 64 KiB that neither firmware nor GRUB writes to.
//! What it holds after a power-on is noise, so the header proves itself.
//!
//! Locks: none; the console serialises the writers.

#![expect(unsafe_code, reason = "reads and writes fixed physical memory")]

use core::ops::Range;

/// Physical addresses of the log memory: the last 64 KiB below 128 MiB. Firmware and GRUB write all
/// over conventional memory at each boot and load files from 2 MiB upwards; this stays as it was
/// (seen with SeaBIOS and GRUB 2.06 on QEMU; 0x80000 did not).
pub const RANGE: Range<u64> = 0x7FF_0000..0x800_0000;

const MAGIC: u64 = 0x4245_454C_4F47_3031;
const HEADER: u64 = 32;
/// Bytes of log that fit.
pub const CAPACITY: usize = (RANGE.end - RANGE.start - HEADER) as usize;

/// Magic, count of bytes ever written, its complement, spare.
fn header(index: u64) -> *mut u64 {
    (RANGE.start + index * 8) as *mut u64
}

fn byte(position: u64) -> *mut u8 {
    (RANGE.start + HEADER + position % CAPACITY as u64) as *mut u8
}

/// The log memory, once it is known to be RAM.
#[derive(Debug)]
pub struct LogMemory {
    written: u64,
}

impl LogMemory {
    /// Takes the memory over if it is RAM that no file of the boot loader lies in (`used`), and
    /// gives what the previous run left there to `each`. `None`: this machine keeps no log.
    pub fn take(ram: &[Range<u64>], used: &[Range<u64>], mut each: impl FnMut(u8)) -> Option<Self> {
        ram.iter().find(|r| r.start <= RANGE.start && RANGE.end <= r.end)?;
        if used.iter().any(|span| span.start < RANGE.end && RANGE.start < span.end) {
            return None;
        }
        // SAFETY: the range is RAM, identity-mapped, kept out of the heap, and nobody else's.
        unsafe {
            let written = header(1).read_volatile();
            if header(0).read_volatile() == MAGIC && header(2).read_volatile() == !written {
                let oldest = written.saturating_sub(CAPACITY as u64);
                (oldest..written).for_each(|at| each(byte(at).read_volatile()));
            }
            header(0).write_volatile(MAGIC);
        }
        let mut memory = Self { written: 0 };
        memory.publish();
        Some(memory)
    }

    /// Appends to the log.
    pub fn write(&mut self, text: &[u8]) {
        for &b in text {
            // SAFETY: as in `take`.
            unsafe { byte(self.written).write_volatile(b) };
            self.written += 1;
        }
        self.publish();
    }

    fn publish(&mut self) {
        // SAFETY: as in `take`.
        unsafe {
            header(1).write_volatile(self.written);
            header(2).write_volatile(!self.written);
        }
    }
}
