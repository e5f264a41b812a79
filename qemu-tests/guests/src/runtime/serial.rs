//! The console: COM1, 8N1, polled, one line at a time under a lock with IF = 0.

use super::cpu::{self, in8, out8};
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

/// First port of COM1.
pub const COM1: u16 = 0x3F8;

static LOCKED: AtomicBool = AtomicBool::new(false);

/// 115200 baud, 8 data bits (Bochs powers up at 5 and really cuts them off), no interrupts.
pub fn init() {
    out8(COM1 + 1, 0);
    out8(COM1 + 3, 0x80);
    out8(COM1, 1);
    out8(COM1 + 1, 0);
    out8(COM1 + 3, 3);
    out8(COM1 + 2, 0x07);
    out8(COM1 + 4, 0x03);
}

struct Port;

impl Write for Port {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for byte in s.bytes() {
            if byte == b'\n' {
                put(b'\r');
            }
            put(byte);
        }
        Ok(())
    }
}

fn put(byte: u8) {
    // Bounded: a broken UART must not turn a failure report into silence and a hang.
    for _ in 0..1_000_000 {
        if in8(COM1 + 5) & 0x20 != 0 {
            break;
        }
    }
    out8(COM1, byte);
}

/// Waits until the last byte has left.
pub fn drain() {
    for _ in 0..1_000_000 {
        if in8(COM1 + 5) & 0x40 != 0 {
            break;
        }
    }
}

/// Prints one line.
pub fn line(arguments: fmt::Arguments<'_>) {
    cpu::without_interrupts(|| {
        let mut patience = 50_000_000u32;
        // A CPU that died with the lock must not silence the others: the wait is bounded.
        while LOCKED.swap(true, Ordering::Acquire) && patience > 0 {
            patience -= 1;
            cpu::pause();
        }
        let _ = Port.write_fmt(arguments);
        let _ = Port.write_str("\n");
        LOCKED.store(false, Ordering::Release);
    });
}

/// Prints one line, formatted.
macro_rules! println {
    ($($arg:tt)*) => { $crate::runtime::serial::line(format_args!($($arg)*)) };
}
pub(crate) use println;
