//! The UART as its drivers use it.

extern crate std;

use std::vec::Vec;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const DATA: u16 = 0;
const IER: u16 = 1;
const IIR: u16 = 2;
const FCR: u16 = 2;
const LCR: u16 = 3;
const MCR: u16 = 4;
const LSR: u16 = 5;
const MSR: u16 = 6;
const SCR: u16 = 7;

/// A UART with a sink that takes everything.
struct Bench {
    uart: Uart,
    sent: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        Self { uart: Uart::new(), sent: Vec::new() }
    }

    fn out(&mut self, offset: u16, value: u8) {
        let sent = &mut self.sent;
        self.uart.write(offset, value, &mut |byte| {
            sent.push(byte);
            true
        });
    }

    fn inb(&mut self, offset: u16) -> u8 {
        self.uart.read(offset)
    }
}

fn full(_: u8) -> bool {
    false
}

/// The probe of Linux's drivers/tty/serial/8250/8250_port.c, step by step.
#[test]
fn r_v1_linux_autoconfig_finds_a_16550a() {
    let mut pc = Bench::new();
    pc.out(IER, 0);
    assert_eq!(pc.inb(IER) & 0x0F, 0);
    pc.out(IER, 0x0F);
    assert_eq!(pc.inb(IER) & 0x0F, 0x0F);
    pc.out(IER, 0);
    // Loopback: OUT2 and RTS come back as DCD and CTS.
    pc.out(MCR, 0x10 | 0x0A);
    assert_eq!(pc.inb(MSR) & 0xF0, 0x90);
    pc.out(MCR, 0);
    pc.out(LCR, 0xBF);
    pc.out(FCR, 0);
    pc.out(LCR, 0);
    pc.out(FCR, 1);
    assert_eq!(pc.inb(IIR) >> 6, 3);
    // No EFR (16650), no EXCR1 (NS16550A), no 64-byte mode (16750), no UUE bit (XScale).
    for lcr in [0x80, 0xBF] {
        pc.out(LCR, lcr);
        assert_ne!(pc.inb(2), 0);
    }
    pc.out(LCR, 0xE0);
    assert_eq!(pc.inb(2) & 0x10, 0);
    for lcr in [0, 0x80] {
        pc.out(LCR, lcr);
        pc.out(FCR, 0x21);
        assert_eq!(pc.inb(IIR) >> 5, 6);
    }
    pc.out(LCR, 0);
    pc.out(IER, 0x40);
    assert_eq!(pc.inb(IER), 0);
    assert!(pc.sent.is_empty());
}

/// Linux's `serial8250_THRE_test` and its test for UART_BUG_TXEN.
#[test]
fn r_v1_the_transmitter_interrupt_is_raised_by_enabling_it() {
    let mut pc = Bench::new();
    for _ in 0..2 {
        pc.out(IER, 2);
        assert_eq!(pc.inb(IIR) & 0x0F, 0x02);
        pc.out(IER, 0);
    }
    pc.out(IER, 2);
    assert_eq!(pc.inb(LSR) & 0x40, 0x40);
    assert_eq!(pc.inb(IIR) & 1, 0);
    // Reading it took it back.
    assert_eq!(pc.inb(IIR) & 1, 1);
}

#[test]
fn r_v1_out2_gates_the_line() {
    let mut pc = Bench::new();
    pc.out(IER, 2);
    assert!(!pc.uart.interrupt_line());
    pc.out(MCR, 0x08);
    assert!(pc.uart.interrupt_line());
    pc.out(MCR, 0x18);
    assert!(!pc.uart.interrupt_line());
}

#[test]
fn r_v1_each_byte_gives_an_edge_also_without_reading_iir() {
    let mut pc = Bench::new();
    pc.out(MCR, 0x08);
    pc.out(IER, 2);
    assert!(pc.uart.interrupt_line() && !pc.uart.take_dip());
    pc.out(DATA, b'a');
    assert!(pc.uart.interrupt_line() && pc.uart.take_dip());
    assert!(!pc.uart.take_dip());
    // With a read of IIR the caller sees the line fall and rise by itself.
    pc.inb(IIR);
    assert!(!pc.uart.interrupt_line());
    pc.out(DATA, b'b');
    assert!(pc.uart.interrupt_line() && !pc.uart.take_dip());
    assert_eq!(pc.sent, b"ab");
}

#[test]
fn r_v1_a_full_sink_holds_the_fifo_and_loses_nothing() {
    let mut uart = Uart::new();
    uart.write(FCR, 1, &mut full);
    uart.write(MCR, 8, &mut full);
    uart.write(IER, 2, &mut full);
    uart.read(IIR);
    for byte in 0..16 {
        uart.write(DATA, byte, &mut full);
        assert_eq!(uart.read(LSR) & 0x60, 0);
    }
    assert!(!uart.interrupt_line() && uart.tx_waiting());
    let mut sent = Vec::new();
    let mut room = 5;
    uart.tx_ready(&mut |byte| {
        let taken = room > 0;
        if taken {
            room -= 1;
            sent.push(byte);
        }
        taken
    });
    assert!(!uart.interrupt_line());
    uart.tx_ready(&mut |byte| {
        sent.push(byte);
        true
    });
    assert_eq!(sent, (0..16).collect::<Vec<_>>());
    assert_eq!(uart.read(LSR) & 0x60, 0x60);
    assert!(uart.interrupt_line());
    assert_eq!(uart.read(IIR) & 0x0F, 2);
}

#[test]
fn r_v1_receive_trigger_timeout_and_back_pressure() {
    let mut pc = Bench::new();
    pc.out(MCR, 8);
    pc.out(FCR, 0x41);
    pc.out(IER, 1);
    assert!(pc.uart.receive(0));
    assert_eq!(pc.inb(IIR), 0xCC);
    for byte in 1..16 {
        assert!(pc.uart.receive(byte));
    }
    assert!(!pc.uart.receive(99));
    assert_eq!(pc.inb(IIR), 0xC4);
    for byte in 0..16 {
        assert_eq!(pc.inb(LSR), 0x61);
        assert!(pc.uart.interrupt_line());
        assert_eq!(pc.inb(DATA), byte);
    }
    assert_eq!(pc.inb(LSR), 0x60);
    assert!(!pc.uart.interrupt_line());
}

#[test]
fn r_v1_loopback_returns_bytes_and_overruns() {
    let mut pc = Bench::new();
    pc.out(MCR, 0x1F);
    pc.out(DATA, b'x');
    assert_eq!(pc.inb(LSR) & 3, 1);
    pc.out(DATA, b'y');
    assert_eq!(pc.inb(LSR) & 3, 3);
    assert_eq!(pc.inb(LSR) & 3, 1);
    assert_eq!(pc.inb(DATA), b'x');
    assert!(pc.sent.is_empty() && !pc.uart.receive(0));
    // The outputs are seen on the inputs, with their changes.
    pc.inb(MSR);
    pc.out(MCR, 0x10);
    assert_eq!(pc.inb(MSR), 0x0F);
    assert_eq!(pc.inb(MSR), 0);
}

#[test]
fn r_v1_divisor_and_scratch_are_apart_from_data() {
    let mut pc = Bench::new();
    pc.out(LCR, 0x83);
    pc.out(DATA, 1);
    pc.out(IER, 0x20);
    assert_eq!((pc.inb(DATA), pc.inb(IER)), (1, 0x20));
    pc.out(LCR, 3);
    assert_eq!(pc.inb(IER), 0);
    pc.out(SCR, 0x5A);
    assert_eq!((pc.inb(SCR), pc.inb(LCR)), (0x5A, 3));
    assert!(pc.sent.is_empty());
}

proptest! {
    /// Any register traffic: no panic, bytes leave in order and only once, and an interrupt always has a cause
    /// that IIR names.
    #[test]
    fn r_s8_random_accesses_never_break_it(ops in vec((0u16..20, any::<u8>(), any::<bool>()), 0..200)) {
        let mut uart = Uart::new();
        for (op, value, room) in ops {
            match op {
                0..=7 => { uart.read(op); }
                8..=15 => uart.write(op, value, &mut |_| room),
                16 => { let _ = uart.receive(value); }
                _ => uart.tx_ready(&mut |_| room),
            }
            let line = uart.interrupt_line();
            let waiting = uart.tx_waiting();
            prop_assert_eq!(uart.line_status() & 0x20 == 0, waiting);
            if line {
                prop_assert_eq!(uart.read(IIR) & 1, 0);
            }
        }
    }
}
