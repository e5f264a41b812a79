//! Its interrupt line, without messages, before and after a function-level reset (E4): a boot of its own, since the other
//! tests leave MSI-X on. 82576 data sheet, 7.3.1, 8.8.

use super::{CTRL, EIMC, EIMS, RESET};
use crate::runtime::cpu::{mmio_read, mmio_write};
use crate::runtime::irq::{self, Frame};
use crate::runtime::pci::{self, Function};
use crate::runtime::registry::tests;
use crate::runtime::text::{Outcome, ensure_eq};
use crate::runtime::{arrivals, cpu, lapic, time};
use crate::tests::ioapic::{self, Route};
use core::sync::atomic::{AtomicU64, Ordering};

tests! { "igb-line", Machine: e4_igb_line_speaks_from_the_start_and_after_a_function_reset }

const ICR: u64 = 0x00C0;
const ICS: u64 = 0x00C8;
/// Causes of messages, and "other" for all of ICR's.
const EICR: u64 = 0x1580;
const IMS: u64 = 0x00D0;
const IMC: u64 = 0x00D8;
/// A change of the link.
const LINK: u32 = 1 << 2;
const PINS: core::ops::Range<u32> = 16..24;
const VECTOR: u8 = 0x75;

static REGISTERS: AtomicU64 = AtomicU64::new(0);
static TAKEN: AtomicU64 = AtomicU64::new(0);

fn quieten(_: &mut Frame) {
    TAKEN.fetch_add(1, Ordering::SeqCst);
    let registers = REGISTERS.load(Ordering::Relaxed);
    mmio_write(registers + IMC, !0);
    mmio_write(registers + EIMC, !0);
    mmio_write(registers + ICR, !0);
    let _ = mmio_read(registers + ICR);
    let _ = mmio_read(registers + EICR);
    mmio_write(registers + EICR, !0);
    lapic::eoi();
}

/// How many pins of the IOAPIC follow the line, once it is raised.
fn comes(function: Function) -> Outcome<u64> {
    function.command(pci::MEMORY | pci::BUS_MASTER);
    let registers = function.bar(0)?;
    REGISTERS.store(registers, Ordering::Relaxed);
    mmio_write(registers + CTRL, mmio_read(registers + CTRL) | RESET);
    time::delay(time::UNITS / 50);
    mmio_write(registers + EIMC, !0);
    mmio_write(registers + IMC, !0);
    let _ = mmio_read(registers + ICR);
    TAKEN.store(0, Ordering::SeqCst);
    irq::hook(VECTOR, quieten);
    for pin in PINS {
        ioapic::route_level(pin, Route { vector: VECTOR, destination: 0, masked: false });
    }
    mmio_write(registers + EIMS, !0);
    mmio_write(registers + IMS, LINK);
    mmio_write(registers + ICS, LINK);
    time::wait(time::UNITS, || {
        cpu::take_pending();
        TAKEN.load(Ordering::SeqCst) > 0
    });
    arrivals::settle();
    mmio_write(registers + IMC, !0);
    PINS.for_each(ioapic::mask);
    Ok(TAKEN.load(Ordering::SeqCst))
}

fn e4_igb_line_speaks_from_the_start_and_after_a_function_reset() -> Outcome {
    let function = Function::find(0x8086, 0x10C9)?;
    let first = comes(function)?;
    // As a kernel does that looks whether the bit works.
    function.command(pci::MEMORY | pci::NO_INTX);
    let toggled = comes(function)?;
    super::reset::plain(function)?;
    let again = comes(function)?;
    ensure_eq!((first, toggled, again), (1, 1, 1), "interrupts: first, toggled, after a reset");
    Ok(())
}
