//! The machine's COM1 (16550), polled. The housekeeping core writes the log and the guests'
//! consoles through it; before that core's console runs, boot code does.
//!
//! Locks: none here; the console serialises.

#![expect(unsafe_code, reason = "port I/O")]

use x86::io::{inb, outb};

const BASE: u16 = 0x3F8;
const DATA: u16 = BASE;
const INTERRUPT_ENABLE: u16 = BASE + 1;
const FIFO_CONTROL: u16 = BASE + 2;
const LINE_CONTROL: u16 = BASE + 3;
const MODEM_CONTROL: u16 = BASE + 4;
const LINE_STATUS: u16 = BASE + 5;
const DATA_READY: u8 = 1 << 0;
const TRANSMIT_EMPTY: u8 = 1 << 5;
/// How long to wait for a port that does not answer, in polls (about 100 ms of slow port reads):
/// a machine without COM1 must still boot.
const PATIENCE: u32 = 100_000;

/// 115200 baud, 8 data bits, no parity, FIFOs on, interrupts off.
pub fn init() {
    // SAFETY: these are COM1's registers, or nobody's.
    unsafe {
        outb(INTERRUPT_ENABLE, 0);
        outb(LINE_CONTROL, 0x80);
        outb(DATA, 1);
        outb(INTERRUPT_ENABLE, 0);
        // 8 data bits: Bochs powers up with 5 and really masks the output.
        outb(LINE_CONTROL, 3);
        outb(FIFO_CONTROL, 0x07);
        // DTR, RTS, OUT2: the last one gates the interrupt line.
        outb(MODEM_CONTROL, 0x0B);
    }
}

/// Writes one byte, waiting for room.
pub fn put(byte: u8) {
    for _ in 0..PATIENCE {
        // SAFETY: as above.
        if unsafe { inb(LINE_STATUS) } & TRANSMIT_EMPTY != 0 {
            break;
        }
    }
    // SAFETY: as above.
    unsafe { outb(DATA, byte) };
}

/// True if the transmitter's FIFO is empty (or there is no port, which takes everything).
pub fn ready() -> bool {
    // SAFETY: as above.
    unsafe { inb(LINE_STATUS) & TRANSMIT_EMPTY != 0 }
}

/// Writes one byte after [`ready`] said so; up to 16 of them.
pub fn put_ready(byte: u8) {
    // SAFETY: as above.
    unsafe { outb(DATA, byte) };
}

/// A received byte, if there is one.
pub fn get() -> Option<u8> {
    // SAFETY: as above.
    let status = unsafe { inb(LINE_STATUS) };
    // A port that is not there reads as ones.
    // SAFETY: as above.
    (status != 0xFF && status & DATA_READY != 0).then(|| unsafe { inb(DATA) })
}

/// Interrupt on received data and on an empty transmitter, so that the housekeeping core may
/// sleep in between.
pub fn enable_interrupts() {
    // SAFETY: as above.
    unsafe { outb(INTERRUPT_ENABLE, 0b11) };
}

/// True if a received byte waits.
pub fn has_input() -> bool {
    // SAFETY: as above. A port that is not there reads as ones.
    let status = unsafe { inb(LINE_STATUS) };
    status != 0xFF && status & DATA_READY != 0
}

/// Ends a transmitter-empty interrupt by reading the interrupt identification. While received data
/// wait as well, they are named first and hide it, the line stays high, and no further edge comes:
/// the housekeeping loop looks for input before it sleeps.
pub fn acknowledge() {
    const NONE: u8 = 1;
    const TRANSMITTER_EMPTY: u8 = 0b0010;
    for _ in 0..4 {
        // SAFETY: as above; FCR and IIR share the port number.
        let cause = unsafe { inb(FIFO_CONTROL) } & 0x0F;
        if cause & NONE != 0 || cause == TRANSMITTER_EMPTY {
            return;
        }
    }
}
