//! How a level interrupt ends: by an EOI that comes while its pin is masked, by the IOAPIC itself, with its CPU, with its
//! machine (E4, V5).

use super::super::{Edu, STATUS};
use super::{Line, PATIENCE, PINS, VECTOR, give_way, patience, taken};
use crate::runtime::pci::{self, Function, Message};
use crate::runtime::registry::{detail, tests};
use crate::runtime::serial::{self, println};
use crate::runtime::text::{Outcome, ensure, ensure_eq, fail};
use crate::runtime::{arrivals, cpu, irq, lapic, smp, time};
use crate::tests::ioapic::{self, Route};
use core::sync::atomic::Ordering;

tests! { "edu-intx", Machine:
    e4_edu_level_interrupt_ends_behind_its_mask,
    e4_edu_level_interrupt_is_ended_by_the_ioapic,
}
tests! { "edu-intx", Beeline: e4_v5_edu_level_interrupt_goes_and_comes_with_its_cpu }
tests! { "edu-intx-reset", Beeline: e4_an_asserted_line_does_not_outlive_its_run }
tests! { "edu-intx-shared", Beeline: e4_a_line_of_two_vms_is_offered_to_neither }

/// The CPU waits with it in IRR.
fn arrived() -> Outcome {
    let requested = time::wait(time::LONG, || lapic::requested(VECTOR));
    ensure!(requested, "the interrupt did not arrive in IRR");
    Ok(())
}

/// As a kernel with threaded handlers does: mask, EOI, let the thread quieten the device, unmask.
fn e4_edu_level_interrupt_ends_behind_its_mask() -> Outcome {
    let line = Line::find()?;
    for _ in 0..100 {
        patience(2);
        line.edu.raise(1);
        arrived()?;
        ioapic::set_mask(line.pin, true);
        ensure!(line.is_in_service(), "remote IRR behind the mask");
        line.comes(1, "masked after it had come")?;
        ensure!(!line.is_in_service(), "remote IRR after the EOI");
        ioapic::set_mask(line.pin, false);
        line.comes(2, "unmasked, the device not quiet")?;
        ensure!(!line.is_in_service(), "remote IRR of a quiet line");
    }
    line.rest();
    Ok(())
}

/// The EOI register of version 0x20, and the older way: an entry that is no level entry waits for no EOI.
fn e4_edu_level_interrupt_is_ended_by_the_ioapic() -> Outcome {
    let line = Line::find()?;
    for round in 0..100 {
        patience(1);
        line.edu.raise(1);
        arrived()?;
        line.edu.acknowledge(!0);
        ensure!(line.is_in_service(), "remote IRR of an interrupt that waits");
        if round % 2 == 0 {
            ioapic::end(VECTOR + 1);
            ensure!(line.is_in_service(), "remote IRR after the end of another vector");
            ioapic::end(VECTOR);
        } else {
            ioapic::mask(line.pin);
            line.route(0, false);
        }
        ensure!(!line.is_in_service(), "remote IRR after the end");
        line.comes(1, "in IRR when it was ended")?;
        // It works as before.
        patience(3);
        line.edu.raise(1);
        line.comes(3, "the next one")?;
    }
    line.rest();
    Ok(())
}

/// Nobody takes the cause away: the CPU's handler runs for ever.
fn storm() -> Outcome {
    cpu::sti();
    time::delay(100 * time::LONG);
    Ok(())
}

fn drain() -> Outcome {
    cpu::take_pending();
    Ok(())
}

/// A bare machine's IOAPIC waits for ever for the EOI of a CPU that was reset.
fn e4_v5_edu_level_interrupt_goes_and_comes_with_its_cpu() -> Outcome {
    const N: u64 = 50;
    smp::others()?;
    let line = Line::find()?;
    for round in 1..=N {
        patience(u64::MAX);
        line.route(1, false);
        let storming = smp::spawn(1, &storm)?;
        line.edu.raise(1);
        let storms = time::wait(time::LONG, || taken() > 100 + round * 7);
        ensure!(storms, "only {} interrupts of a line that stays asserted", taken());
        storming.abandon()?;
        let fresh = smp::lapic_at_start(1);
        ensure_eq!((fresh.in_service, fresh.requested), (None, None), "in service, requested");
        let before = taken();
        let again = time::wait(time::LONG, || taken() > before);
        ensure!(again, "round {round}: the line did not come back with its CPU");
        line.edu.acknowledge(!0);
        // A job runs there once the storm is over, however long the host kept that CPU waiting.
        smp::on_cpu(1, drain)?;
        let quiet = taken();
        arrivals::settle();
        smp::on_cpu(1, drain)?;
        ensure_eq!(taken(), quiet, "interrupts of a quiet line");
        ensure!(!line.is_in_service(), "remote IRR of a quiet line");
    }
    line.rest();
    detail(format_args!("inits={N}"));
    Ok(())
}

/// Each run finds quiet LAPICs and leaves its line asserted, a CPU in its storm. Two restart the VM, the third switches it
/// off; the device cannot be reset and remembers how many there were. The host looks for LAPICs that were left with something.
fn e4_an_asserted_line_does_not_outlive_its_run() -> Outcome {
    const RUNS: u32 = 3;
    let device = Function::find(0x1234, 0x11E8)?;
    device.command(pci::MEMORY | pci::NO_INTX);
    let run = cpu::mmio_read(device.bar(0)? + STATUS) + 1;
    ensure_eq!(irq::count_range(0, 0..=255), 0, "interrupts before there was a route");
    for index in smp::others()? {
        let found = smp::lapic_at_start(index);
        ensure_eq!((found.in_service, found.requested), (None, None), "in service, requested");
    }
    let line = Line::find()?;
    patience(u64::MAX);
    line.route(1, false);
    let _storming = smp::spawn(1, &storm)?;
    line.edu.raise(run);
    ensure!(time::wait(time::LONG, || taken() > 100), "the line does not storm");
    if run < RUNS {
        cpu::out8(0xCF9, 0x06);
    } else {
        println!("TEST e4_an_asserted_line_does_not_outlive_its_run ok runs={run}");
        serial::drain();
        // SLP_TYP 5, SLP_EN.
        cpu::out8(0xB004, 5 << 2 | 1 << 5);
    }
    time::delay(time::LONG);
    fail!("survived run {run}")
}

/// Functions of two VMs are wired to one pin: neither VM finds an interrupt pin, messages go on to work.
fn e4_a_line_of_two_vms_is_offered_to_neither() -> Outcome {
    let edu = Edu::find()?;
    let register = edu.function.read(0x3C);
    ensure_eq!(register >> 8 & 0xFF, 0, "interrupt pin");
    PATIENCE.store(1, Ordering::SeqCst);
    irq::hook(VECTOR, give_way);
    edu.function.command(pci::MEMORY | pci::BUS_MASTER);
    for pin in PINS {
        ioapic::route_level(pin, Route { vector: VECTOR, destination: 0, masked: false });
    }
    edu.raise(1);
    arrivals::settle();
    PINS.for_each(ioapic::mask);
    ensure_eq!(irq::count(0, VECTOR), 0, "interrupts of a line that is nobody's");
    edu.acknowledge(!0);
    edu.by_msi(Message::to(0, 0x59));
    arrivals::each_arrives(0, 0x59, 10, || edu.raise(1))?;
    edu.rest();
    Ok(())
}
