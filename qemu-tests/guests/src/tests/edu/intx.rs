//! Its interrupt line, level-triggered through the IOAPIC (E4): it comes back until the device is quiet, and no longer.
//! PCI 3.0, 2.2.6; 82093AA data sheet, 3.2.4.

mod ends;

use super::{ACKNOWLEDGE, Edu, REGISTERS};
use crate::runtime::cpu::mmio_write;
use crate::runtime::irq::{self, Frame};
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, Text, ensure, ensure_eq};
use crate::runtime::{arrivals, cpu, hypercall, lapic, pci, smp, time};
use crate::tests::ioapic::{self, REMOTE_IRR, Route};
use core::sync::atomic::{AtomicU64, Ordering};

tests! { "edu-intx", Machine:
    e4_edu_level_interrupt_comes_back_until_acknowledged,
    e4_edu_level_interrupt_neither_storms_nor_sticks,
    e4_edu_level_interrupt_waits_behind_its_mask,
    e4_edu_level_interrupt_moves_while_it_is_asserted,
    e4_edu_level_interrupt_can_be_switched_off_at_the_function,
}

/// PCI's lines are wired to pins 16 to 23 of a q35's IOAPIC.
const PINS: core::ops::Range<u32> = 16..24;
const VECTOR: u8 = 0x74;

/// How often `give_way` has run, and the time at which it takes the cause away.
static TAKEN: AtomicU64 = AtomicU64::new(0);
static PATIENCE: AtomicU64 = AtomicU64::new(0);

/// A handler that ends the interrupt and leaves the cause alone, but for the last time.
fn give_way(_: &mut Frame) {
    if TAKEN.fetch_add(1, Ordering::SeqCst) + 1 >= PATIENCE.load(Ordering::SeqCst) {
        mmio_write(REGISTERS.load(Ordering::Relaxed) + ACKNOWLEDGE, !0);
    }
    lapic::eoi();
}

/// `give_way` shall take the cause away when it runs for the `n`th time.
fn patience(n: u64) {
    PATIENCE.store(n, Ordering::SeqCst);
    TAKEN.store(0, Ordering::SeqCst);
}

fn taken() -> u64 {
    TAKEN.load(Ordering::SeqCst)
}

/// The device, with its line on.
struct Line {
    edu: Edu,
    pin: u32,
}

impl Line {
    /// Finds the pin: the one of them all that follows the device.
    fn find() -> Outcome<Self> {
        let edu = Edu::find()?;
        edu.function.command(pci::MEMORY | pci::BUS_MASTER);
        let mut found = None;
        for pin in PINS {
            patience(1);
            irq::hook(VECTOR, give_way);
            ioapic::route_level(pin, Route { vector: VECTOR, destination: 0, masked: false });
            arrivals::settle();
            let quiet = taken();
            edu.raise(1);
            arrivals::settle();
            ioapic::mask(pin);
            edu.acknowledge(!0);
            if quiet == 0 && taken() == 1 {
                found = Some(pin);
            }
        }
        let pin = found.ok_or_else(|| Text::from("no pin of the IOAPIC follows the line"))?;
        let line = Self { edu, pin };
        line.route(0, false);
        Ok(line)
    }

    fn route(&self, destination: u8, masked: bool) {
        ioapic::route_level(self.pin, Route { vector: VECTOR, destination, masked });
    }

    /// Whether the IOAPIC waits for an end of interrupt.
    fn is_in_service(&self) -> bool {
        ioapic::entry(self.pin) & REMOTE_IRR != 0
    }

    /// Waits until `give_way` has run `n` times, and long enough for once too many.
    fn comes(&self, n: u64, what: &str) -> Outcome {
        time::wait(time::LONG, || {
            cpu::take_pending();
            taken() >= n
        });
        arrivals::settle();
        ensure_eq!(taken(), n, "{what}: interrupts");
        Ok(())
    }

    fn rest(&self) {
        ioapic::mask(self.pin);
        self.edu.rest();
        arrivals::settle();
    }
}

fn e4_edu_level_interrupt_comes_back_until_acknowledged() -> Outcome {
    let line = Line::find()?;
    for n in [1, 2, 3, 10, 500] {
        patience(n);
        line.edu.raise(1);
        line.comes(n, "acknowledged at the last")?;
        ensure!(!line.is_in_service(), "remote IRR afterwards");
    }
    line.rest();
    detail(format_args!("pin={}", line.pin));
    Ok(())
}

fn e4_edu_level_interrupt_neither_storms_nor_sticks() -> Outcome {
    const N: u64 = 10_000;
    let line = Line::find()?;
    patience(0);
    let before = arrivals::traps()[0];
    let (exits, outcome) = hypercall::exits_of(|| {
        cpu::sti();
        for i in 1..=N {
            line.edu.raise(1);
            let came = time::wait(time::LONG, || taken() >= i);
            ensure!(came, "interrupt {i} was lost");
        }
        Ok(())
    });
    cpu::cli();
    outcome?;
    line.comes(N, "one each time")?;
    ensure_eq!(arrivals::traps()[0] - before, N, "traps");
    // On the bare machine nobody counts.
    ensure_eq!(exits, 0, "exits on the way of {N} interrupts and their EOIs");
    line.rest();
    detail(format_args!("raised={N} taken={N} exits={exits}"));
    Ok(())
}

fn e4_edu_level_interrupt_waits_behind_its_mask() -> Outcome {
    let line = Line::find()?;
    for _ in 0..100 {
        // Behind the IOAPIC's mask the level waits; it is not an edge that goes by.
        patience(1);
        line.route(0, true);
        line.edu.raise(1);
        line.comes(0, "masked")?;
        ioapic::set_mask(line.pin, false);
        line.comes(1, "unmasked")?;
        // Withdrawn behind the mask, it does not come.
        line.route(0, true);
        line.edu.raise(1);
        line.edu.acknowledge(!0);
        ioapic::set_mask(line.pin, false);
        line.comes(1, "withdrawn")?;
        // In service at the CPU and no EOI yet: one, however often it is raised.
        patience(1);
        line.edu.raise(1);
        let requested = time::wait(time::LONG, || lapic::requested(VECTOR));
        ensure!(requested, "the interrupt did not arrive in IRR");
        ensure!(line.is_in_service(), "remote IRR of an interrupt that waits");
        line.edu.raise(2);
        line.comes(1, "raised twice")?;
    }
    line.rest();
    Ok(())
}

fn e4_edu_level_interrupt_moves_while_it_is_asserted() -> Outcome {
    smp::others()?;
    let line = Line::find()?;
    for i in 1..=100 {
        let target = (i % 2) as usize;
        patience(3);
        line.route(target as u8, true);
        line.edu.raise(1);
        let before = [0, 1].map(|cpu| irq::count(cpu, VECTOR));
        ioapic::set_mask(line.pin, false);
        line.comes(3, "to the CPU named last")?;
        let seen = [0, 1].map(|cpu| irq::count(cpu, VECTOR) - before[cpu]);
        ensure_eq!(seen, if target == 0 { [3, 0] } else { [0, 3] }, "by CPU, target {target}");
    }
    line.rest();
    Ok(())
}

fn e4_edu_level_interrupt_can_be_switched_off_at_the_function() -> Outcome {
    let line = Line::find()?;
    let on = pci::MEMORY | pci::BUS_MASTER;
    for _ in 0..100 {
        patience(1);
        line.edu.function.command(on | pci::NO_INTX);
        line.edu.raise(1);
        line.comes(0, "off")?;
        // The device still wants it: the status register says so (PCI 3.0, 6.2.3).
        ensure!(line.edu.function.read(pci::COMMAND) >> 19 & 1 != 0, "interrupt status bit");
        line.edu.function.command(on);
        line.comes(1, "on again")?;
    }
    line.rest();
    Ok(())
}
