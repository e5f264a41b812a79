//! COM1 as a guest sees it: a 16550A with its interrupt on pin 4 of the IOAPIC (E2, A1, A3).
//! Nothing may be printed while a test has the UART in loopback mode.

use super::ioapic::{self, Route};
use crate::runtime::cpu::{self, in8, out8};
use crate::runtime::registry::{detail, tests};
use crate::runtime::serial::{self, COM1};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{irq, time};

tests! { "up", Machine:
    a3_uart_interrupt_arrives_through_pin_4,
    a3_uart_interrupt_with_if_0_waits,
    a3_uart_masked_pin_raises_nothing,
    s8_uart_loopback,
    s8_uart_registers,
}

const VECTOR: u8 = 0x48;
const DATA: u16 = COM1;
const IER: u16 = COM1 + 1;
const IIR: u16 = COM1 + 2;
const LCR: u16 = COM1 + 3;
const MCR: u16 = COM1 + 4;
const LSR: u16 = COM1 + 5;
const MSR: u16 = COM1 + 6;
const SCRATCH: u16 = COM1 + 7;

const LOOPBACK: u8 = 0x10;
const OUT2: u8 = 0x08;
const THR_EMPTY: u8 = 2;
const DATA_READY: u8 = 1;

/// Runs `f` with a drained UART and puts the registers back for the console.
fn with_uart(f: impl FnOnce() -> Outcome) -> Outcome {
    serial::drain();
    let outcome = f();
    out8(IER, 0);
    out8(MCR, 3);
    while in8(LSR) & DATA_READY != 0 {
        in8(DATA);
    }
    serial::init();
    outcome
}

fn s8_uart_registers() -> Outcome {
    with_uart(|| {
        for value in [0x55, 0xAA, 0] {
            out8(SCRATCH, value);
            ensure_eq!(in8(SCRATCH), value, "scratch register");
            out8(LCR, 0x83);
            out8(DATA, value);
            out8(IER, 0x12);
            let divisor = (in8(DATA), in8(IER));
            out8(DATA, 1);
            out8(IER, 0);
            out8(LCR, 3);
            ensure_eq!(divisor, (value, 0x12), "divisor latch");
        }
        out8(IER, 0xF);
        ensure_eq!(in8(IER), 0xF, "interrupt enable");
        out8(IER, 0);
        ensure_eq!(in8(IER), 0, "interrupt enable");
        ensure_eq!(in8(LCR), 3, "line control");
        ensure_eq!(in8(IIR) & 0xC1, 0xC1, "FIFO enabled, nothing pending");
        Ok(())
    })
}

fn s8_uart_loopback() -> Outcome {
    with_uart(|| {
        out8(MCR, LOOPBACK);
        for (out, expected) in [(1, 0x20), (2, 0x10), (4, 0x40), (8, 0x80), (0xF, 0xF0), (0, 0)] {
            out8(MCR, LOOPBACK | out);
            ensure_eq!(in8(MSR) & 0xF0, expected, "modem status for modem control {out:#x}");
        }
        for byte in [0x00, 0xFF, b'B', b'\n'] {
            out8(DATA, byte);
            let ready = time::wait(time::LONG, || in8(LSR) & DATA_READY != 0);
            ensure!(ready, "byte {byte:#x} did not come back");
            ensure_eq!(in8(DATA), byte, "byte that came back");
            ensure_eq!(in8(LSR) & DATA_READY, 0, "data ready after the read");
        }
        Ok(())
    })
}

/// Enables one interrupt, the pin routed to this CPU with `mask`, in loopback so that nothing is printed.
fn with_interrupt(masked: bool, f: impl FnOnce() -> Outcome) -> Outcome {
    with_uart(|| {
        ioapic::route(4, Route { vector: VECTOR, destination: 0, masked });
        // In loopback mode OUT2 does not reach the gate of the interrupt line.
        out8(MCR, OUT2 | 3);
        let outcome = f();
        out8(IER, 0);
        ioapic::mask(4);
        cpu::take_pending();
        outcome
    })
}

fn a3_uart_interrupt_arrives_through_pin_4() -> Outcome {
    let before = irq::count_here(VECTOR);
    let others = irq::count_range(0, 0..=255) - before;
    let mut rounds = 0;
    with_interrupt(false, || {
        cpu::sti();
        for i in 1..=20 {
            // The transmitter is empty, so enabling its interrupt raises it; reading IIR takes it back.
            out8(IER, THR_EMPTY);
            let taken = time::wait(time::LONG, || irq::count_here(VECTOR) - before >= i);
            let cause = in8(IIR) & 0xF;
            out8(IER, 0);
            ensure!(taken, "interrupt {i} was lost");
            ensure_eq!(cause, 2, "cause in IIR");
            ensure_eq!(in8(IIR) & 0xF, 1, "cause after it was read");
            rounds = i;
        }
        cpu::cli();
        Ok(())
    })?;
    ensure_eq!(irq::count_here(VECTOR) - before, rounds, "interrupts taken");
    let strangers = irq::count_range(0, 0..=255) - irq::count_here(VECTOR) - others;
    ensure_eq!(strangers, 0, "other vectors taken");
    detail(format_args!("interrupts={rounds}"));
    Ok(())
}

fn a3_uart_interrupt_with_if_0_waits() -> Outcome {
    let before = irq::count_here(VECTOR);
    with_interrupt(false, || {
        out8(IER, THR_EMPTY);
        let requested = time::wait(time::LONG, || crate::runtime::lapic::requested(VECTOR));
        ensure!(requested, "not in IRR");
        ensure_eq!(irq::count_here(VECTOR) - before, 0, "taken with IF=0");
        cpu::take_pending();
        ensure_eq!(irq::count_here(VECTOR) - before, 1, "taken with IF=1");
        Ok(())
    })
}

fn a3_uart_masked_pin_raises_nothing() -> Outcome {
    let before = irq::count_here(VECTOR);
    with_interrupt(true, || {
        out8(IER, THR_EMPTY);
        cpu::sti();
        time::delay(5_000);
        cpu::cli();
        out8(IER, 0);
        in8(IIR);
        Ok(())
    })?;
    ensure_eq!(irq::count_here(VECTOR) - before, 0, "interrupts through a masked pin");
    Ok(())
}
