//! A block of messages re-programmed while another CPU raises them (B2).

use super::{MESSAGES, ORDER, Xhci};
use crate::runtime::pci::Message;
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{arrivals, cpu, irq, smp, time};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};

tests! { "xhci", Machine:
    b2_xhci_block_moved_1000_times_while_firing,
    b2_xhci_more_and_fewer_messages_while_firing,
}

const CHANGES: usize = 1_000;
const CPUS: usize = 2;
const BASES: [u8; 4] = [0x40, 0x70, 0xA0, 0xC0];

/// CPU and first vector after `changes` changes: by turns another CPU and other vectors.
fn place(changes: usize) -> (usize, u8) {
    (changes / 2 % CPUS, BASES[changes.div_ceil(2) % BASES.len()])
}

/// How often each vector of the blocks was taken, by CPU.
fn taken_by(message: usize) -> [[u64; BASES.len()]; CPUS] {
    core::array::from_fn(|cpu| BASES.map(|base| irq::count(cpu, base + message as u8)))
}

/// Raises `message(n)` as interrupt `n` without a pause on CPU 1, each when the one before has arrived, while this CPU calls
/// `program(change)`. Each must come once, as its own message, where the block stood between its raising and its arrival.
/// Returns how many were raised.
fn while_firing(
    xhci: &Xhci,
    message: impl Fn(u64) -> usize + Sync,
    stands: impl Fn(usize) -> (usize, u8) + Sync,
    program: impl Fn(usize),
) -> Outcome<u64> {
    smp::others()?;
    let (begun, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (stop, fired) = (AtomicBool::new(false), AtomicU64::new(0));
    let firer = || {
        let before: u64 = arrivals::traps().iter().sum();
        cpu::sti();
        while !stop.load(SeqCst) {
            let n = fired.load(SeqCst);
            let (number, from) = (message(n), done.load(SeqCst));
            let had = taken_by(number);
            xhci.raise(number);
            let came = time::wait(time::LONG, || taken_by(number) != had);
            ensure!(came, "interrupt {n}, message {number}, was lost at change {from}");
            let (to, has) = (begun.load(SeqCst), taken_by(number));
            let stood = (from..=to).map(&stands).any(|(cpu, base)| {
                let at = BASES.iter().position(|b| *b == base).unwrap_or(0);
                has[cpu][at] == had[cpu][at] + 1
            });
            ensure!(stood, "message {number} came where no change of {from} to {to} wants it");
            fired.store(n + 1, SeqCst);
        }
        arrivals::settle();
        cpu::cli();
        // So none came twice, or as another's message.
        let traps = arrivals::traps().iter().sum::<u64>() - before;
        ensure_eq!(traps, fired.load(SeqCst), "traps of all CPUs");
        Ok(())
    };
    program(0);
    let running = smp::spawn(1, &firer)?;
    cpu::sti();
    for change in 1..=CHANGES {
        // At least one goes by each, and changes fall into any moment of a delivery.
        let enough = fired.load(SeqCst) + 2;
        let went_on = time::wait(time::LONG, || fired.load(SeqCst) >= enough || running.is_done());
        if !went_on || running.is_done() {
            break;
        }
        time::delay(change as u64 % 61);
        begun.store(change, SeqCst);
        program(change);
        done.store(change, SeqCst);
    }
    stop.store(true, SeqCst);
    let outcome = running.wait(3 * time::LONG);
    cpu::cli();
    outcome?;
    ensure_eq!(done.load(SeqCst), CHANGES, "changes made");
    Ok(fired.load(SeqCst))
}

fn b2_xhci_block_moved_1000_times_while_firing() -> Outcome {
    let xhci = Xhci::find()?;
    let fired = while_firing(
        &xhci,
        |n| (5 * n as usize) % MESSAGES,
        place,
        |change| {
            let ((cpu, base), before) = (place(change), place(change.saturating_sub(1)));
            match change {
                0 => xhci.by_msi(Message::to(cpu, base), ORDER),
                _ if cpu != before.0 => xhci.msi.set_cpu(cpu),
                _ => xhci.msi.set_data(base.into()),
            }
        },
    )?;
    xhci.rest();
    detail(format_args!("messages={MESSAGES} changes={CHANGES} fired={fired} taken={fired}"));
    Ok(())
}

/// Message 0, the one that is always there, whose vector does not depend on their number.
fn b2_xhci_more_and_fewer_messages_while_firing() -> Outcome {
    let xhci = Xhci::find()?;
    let fired = while_firing(
        &xhci,
        |_| 0,
        |_| (0, BASES[0]),
        |change| match change {
            0 => xhci.by_msi(Message::to(0, BASES[0]), ORDER),
            _ => xhci.msi.control(true, (3 * change % 5) as u8),
        },
    )?;
    xhci.rest();
    detail(format_args!("changes={CHANGES} fired={fired} taken={fired}"));
    Ok(())
}
