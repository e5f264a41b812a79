//! A block of messages re-programmed while another CPU raises them (B2).

use super::{MESSAGES, ORDER, Xhci};
use crate::runtime::pci::Message;
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure};
use crate::runtime::{irq, time};
use crate::tests::retarget::{Changes, race};

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
    let one = |n: u64, made: &Changes| {
        let (number, from) = (message(n), made.done());
        let had = taken_by(number);
        xhci.raise(number);
        let came = time::wait(time::LONG, || taken_by(number) != had);
        ensure!(came, "interrupt {n}, message {number}, was lost at change {from}");
        let (to, has) = (made.begun(), taken_by(number));
        let stood = (from..=to).map(&stands).any(|(cpu, base)| {
            let at = BASES.iter().position(|b| *b == base).unwrap_or(0);
            has[cpu][at] == had[cpu][at] + 1
        });
        ensure!(stood, "message {number} came where no change of {from} to {to} wants it");
        Ok(())
    };
    race(CHANGES, one, program)
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
