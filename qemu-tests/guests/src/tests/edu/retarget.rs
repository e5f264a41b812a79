//! Its MSI re-programmed while another CPU fires it (B2).

use super::{ACKNOWLEDGE, Edu, REGISTERS, STATUS};
use crate::runtime::cpu::{mmio_read, mmio_write};
use crate::runtime::irq::{self, Frame};
use crate::runtime::pci::Message;
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{arrivals, cpu, lapic, smp, time};
use crate::tests::retarget::{self, route};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};

tests! { "edu", Machine:
    b2_edu_retargeted_1000_times_while_firing,
    b2_edu_retargeted_with_msi_off_while_firing,
}

const CHANGES: usize = 1_000;

/// Each change is one write, of the destination or of the vector, so that a whole message stands at any time.
fn b2_edu_retargeted_1000_times_while_firing() -> Outcome {
    let edu = Edu::find()?;
    let program = |change: usize| {
        let (now, before) = (route(change), route(change.saturating_sub(1)));
        match change {
            0 => edu.by_msi(Message::to(now.cpu, now.vector)),
            _ if now.cpu != before.cpu => edu.msi.set_cpu(now.cpu),
            _ => edu.msi.set_data(u32::from(now.vector)),
        }
    };
    let fired = retarget::while_firing(CHANGES, || edu.raise(1), program)?;
    edu.rest();
    detail(format_args!("changes={CHANGES} fired={fired} taken={fired}"));
    Ok(())
}

/// The number that the device's status held last: who is to be served.
static SERVED: AtomicU32 = AtomicU32::new(0);
static SERVING: AtomicBool = AtomicBool::new(false);

/// Reads the device's status and clears it. Call with IF = 0.
fn serve() {
    // Else one CPU could clear bits of a number that the other has not read yet.
    while SERVING.swap(true, SeqCst) {
        cpu::pause();
    }
    let registers = REGISTERS.load(SeqCst);
    let status = mmio_read(registers + STATUS);
    if status != 0 {
        mmio_write(registers + ACKNOWLEDGE, status);
        SERVED.store(status, SeqCst);
    }
    SERVING.store(false, SeqCst);
}

fn serve_and_end(_: &mut Frame) {
    serve();
    lapic::eoi();
}

/// The device has no mask bit: a driver that changes address and data together switches MSI off, and looks at the device
/// afterwards, as what is raised meanwhile sends nothing. So each number must be served, by an interrupt or by that look, and
/// no number may raise two interrupts.
fn b2_edu_retargeted_with_msi_off_while_firing() -> Outcome {
    smp::others()?;
    let edu = Edu::find()?;
    for change in 0..32 {
        irq::hook(route(change).vector, serve_and_end);
    }
    let done = AtomicUsize::new(0);
    let (stop, fired) = (AtomicBool::new(false), AtomicU64::new(0));
    // Another vector and another CPU each time.
    let message = |change: usize| {
        let route = route(2 * change + 1);
        Message::to(route.cpu, route.vector)
    };
    let first = retarget::taken();
    let firer = || {
        let before: u64 = arrivals::traps().iter().sum();
        cpu::sti();
        let mut number = 0;
        while !stop.load(SeqCst) {
            number += 1;
            let from = done.load(SeqCst);
            edu.raise(number);
            let served = time::wait(time::LONG, || SERVED.load(SeqCst) == number);
            ensure!(served, "number {number} was lost at change {from}");
            fired.store(u64::from(number), SeqCst);
        }
        arrivals::settle();
        cpu::cli();
        let traps = arrivals::traps().iter().sum::<u64>() - before;
        ensure_eq!(retarget::taken() - first, traps, "arrivals by all routes");
        ensure!(traps <= u64::from(number), "{traps} traps for {number} raised");
        ensure!(traps >= u64::from(number) / 2, "only {traps} traps for {number} raised");
        Ok(())
    };
    SERVED.store(0, SeqCst);
    edu.by_msi(message(0));
    let running = smp::spawn(1, &firer)?;
    cpu::sti();
    for change in 1..=CHANGES {
        let enough = fired.load(SeqCst) + 2;
        let went_on = time::wait(time::LONG, || fired.load(SeqCst) >= enough || running.is_done());
        if !went_on || running.is_done() {
            break;
        }
        edu.by_msi(message(change));
        cpu::without_interrupts(serve);
        done.store(change, SeqCst);
    }
    stop.store(true, SeqCst);
    let outcome = running.wait(3 * time::LONG);
    cpu::cli();
    outcome?;
    ensure_eq!(done.load(SeqCst), CHANGES, "changes made");
    edu.rest();
    detail(format_args!("changes={CHANGES} served={}", fired.load(SeqCst)));
    Ok(())
}
