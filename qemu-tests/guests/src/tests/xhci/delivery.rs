//! Each message to its own vector, and for nothing (A1, A3, E1).

use super::{MESSAGES, ORDER, Xhci};
use crate::runtime::arrivals::{each_arrives, settle, traps};
use crate::runtime::pci::Message;
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{hypercall, irq, smp, time};

tests! { "xhci", Machine:
    a1_e1_xhci_16_messages_take_no_exit,
    a3_xhci_each_message_arrives_with_its_number,
    a3_xhci_messages_move_together,
}

/// The CPU that takes the interrupts; CPU 0 raises them.
const RECEIVER: usize = 1;

fn a1_e1_xhci_16_messages_take_no_exit() -> Outcome {
    const N: u64 = 32_000;
    const BASE: u8 = 0x60;
    smp::others()?;
    let xhci = Xhci::find()?;
    xhci.by_msi(Message::to(RECEIVER, BASE), ORDER);
    let exits_there = |kind| match hypercall::present() {
        true => hypercall::exits(RECEIVER as u64, kind),
        false => 0,
    };
    let kinds = [hypercall::ALL, hypercall::EXTERNAL_INTERRUPT];
    let vectors = || core::array::from_fn(|n| irq::count(RECEIVER, BASE + n as u8));
    let first: [u64; MESSAGES] = vectors();
    let (all, there) = (traps(), kinds.map(exits_there));
    let (here, outcome) = hypercall::exits_of(|| {
        for i in 0..N {
            // Not in their order: 7 has no divisor in common with 16.
            let message = (7 * i as usize) % MESSAGES;
            let (vector, had) = (BASE + message as u8, i / MESSAGES as u64);
            xhci.raise(message);
            let came = || irq::count(RECEIVER, vector) - first[message] > had;
            ensure!(time::wait(time::LONG, came), "interrupt {i}, message {message}, was lost");
        }
        Ok(())
    });
    let there = [exits_there(kinds[0]) - there[0], exits_there(kinds[1]) - there[1]];
    outcome?;
    settle();
    let (now, seen) = (vectors(), traps());
    for message in 0..MESSAGES {
        let taken = now[message] - first[message];
        ensure_eq!(taken, N / MESSAGES as u64, "interrupts of message {message}");
    }
    ensure_eq!(seen[RECEIVER] - all[RECEIVER], N, "traps of the receiver");
    ensure_eq!(seen[0] - all[0], 0, "traps of the other CPU");
    ensure_eq!(there, [0, 0], "exits of the receiver: all, external interrupts");
    ensure_eq!(here, 0, "exits of the CPU that writes to the device");
    xhci.rest();
    detail(format_args!(
        "messages={MESSAGES} raised={N} taken={N} receiver_exits={} sender_exits={here}",
        there[0]
    ));
    Ok(())
}

fn a3_xhci_each_message_arrives_with_its_number() -> Outcome {
    smp::others()?;
    let xhci = Xhci::find()?;
    let mut count = 0;
    // Low bits that the number replaces, too.
    for (target, data) in [(0, 0x20), (1, 0x4B), (1, 0xB0), (0, 0xDF)] {
        for order in 0..=ORDER {
            let own = (1_u8 << order) - 1;
            xhci.by_msi(Message::to(target, data), order);
            ensure_eq!(xhci.msi.orders(), (ORDER, order), "orders of the messages");
            ensure_eq!(xhci.msi.message(), Message::to(target, data), "message read back");
            for message in 0..=own {
                let vector = data & !own | message;
                each_arrives(target, vector, 2, || xhci.raise(message.into()))?;
                count += 2;
            }
        }
    }
    xhci.rest();
    detail(format_args!("taken={count}"));
    Ok(())
}

/// While MSI is on: one write moves all messages to another CPU or to other vectors.
fn a3_xhci_messages_move_together() -> Outcome {
    smp::others()?;
    let xhci = Xhci::find()?;
    xhci.by_msi(Message::to(0, 0x50), ORDER);
    for (target, base) in [(0, 0x70), (1, 0x70), (1, 0xA0), (0, 0xA0)] {
        xhci.msi.set_cpu(target);
        xhci.msi.set_data(base.into());
        for message in [0, 1, 9, 15] {
            each_arrives(target, base + message, 1, || xhci.raise(message.into()))?;
        }
    }
    xhci.rest();
    Ok(())
}
