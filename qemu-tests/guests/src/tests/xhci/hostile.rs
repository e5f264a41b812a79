//! Numbers of messages and vectors that are none (S2, S8).

use super::{MESSAGES, ORDER, Xhci};
use crate::runtime::arrivals::{each_arrives, nothing_arrives};
use crate::runtime::pci::Message;
use crate::runtime::random::Random;
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure_eq};
use crate::runtime::{cpu, irq, smp};
use crate::tests::messages::{self, VECTOR};

tests! { "xhci", Machine: s2_xhci_reserved_numbers_are_all_messages }
tests! { "xhci", Beeline:
    s2_xhci_messages_below_vector_16_are_blocked,
    s2_xhci_dangerous_messages_are_blocked_all_together,
    s8_xhci_random_msi_registers_harm_nobody,
}

fn still_works(xhci: &Xhci) -> Outcome {
    for target in 0..2 {
        xhci.by_msi(Message::to(target, 0x60), ORDER);
        for message in 0..MESSAGES {
            each_arrives(target, 0x60 + message as u8, 1, || xhci.raise(message))?;
        }
    }
    xhci.rest();
    Ok(())
}

fn s2_xhci_reserved_numbers_are_all_messages() -> Outcome {
    smp::others()?;
    let xhci = Xhci::find()?;
    // One more than it has, and the two that nobody has.
    for order in [5, 6, 7] {
        xhci.by_msi(Message::to(1, 0x70), order);
        ensure_eq!(xhci.msi.orders(), (ORDER, ORDER), "orders after {order} was written");
        for message in 0..MESSAGES {
            each_arrives(1, 0x70 + message as u8, 1, || xhci.raise(message))?;
        }
    }
    still_works(&xhci)
}

/// Raises all messages of a block, of which nothing may arrive.
fn are_blocked(messages: impl Iterator<Item = Message>) -> Outcome {
    smp::others()?;
    let xhci = Xhci::find()?;
    let started = smp::starts(1);
    let mut count = 0;
    for message in messages {
        let Message { address, data } = message;
        xhci.by_msi(message, ORDER);
        nothing_arrives(format_args!("messages from {data:#x} to {address:#x}"), || {
            (0..MESSAGES).for_each(|message| xhci.raise(message));
        })?;
        count += 1;
    }
    ensure_eq!(smp::starts(1), started, "starts of cpu 1");
    detail(format_args!("blocks={count}"));
    still_works(&xhci)
}

fn s2_xhci_messages_below_vector_16_are_blocked() -> Outcome {
    are_blocked(messages::illegal_vectors())
}

fn s2_xhci_dangerous_messages_are_blocked_all_together() -> Outcome {
    are_blocked(messages::dangerous_modes().chain(messages::foreign_destinations()))
}

/// Control, address and data at random, changed while MSI or MSI-X is on. Message 0 alone is raised, which is always there.
fn s8_xhci_random_msi_registers_harm_nobody() -> Outcome {
    const N: u64 = 2_000;
    smp::others()?;
    let xhci = Xhci::find()?;
    let started = smp::starts(1);
    let low = || irq::count_range(0, 0..=31) + irq::count_range(1, 0..=31);
    let before = low();
    let mut random = Random::new(41);
    for _ in 0..N {
        let bits = random.next();
        let address = match random.below(4) {
            0 => bits,
            _ => 0xFEE0_0000 | bits & 0x3004,
        };
        // Vectors 16 to 31 are legal, but exceptions to this guest.
        let data = random.next() as u32 & 0xFFFF;
        let data = if data & 0xF0 == 0x10 { data | 0x20 } else { data };
        match random.below(5) {
            0 => xhci.msi.set_data(data & 0xFF),
            1 => xhci.msi.set_address(address),
            2 => xhci.msi.program(Message { address, data }),
            3 => xhci.msix.control(bits & 3 == 3, bits & 4 != 0),
            _ => xhci.msi.control(bits & 3 != 0, (bits >> 8) as u8 & 7),
        }
        xhci.raise(0);
        cpu::take_pending();
    }
    xhci.rest();
    ensure_eq!(low() - before, 0, "exceptions, NMIs and vectors below 32");
    ensure_eq!(smp::starts(1), started, "starts of cpu 1");
    each_arrives(0, VECTOR, 2, || {
        xhci.by_msi(Message::to(0, VECTOR), 0);
        xhci.raise(0);
    })?;
    detail(format_args!("writes={N}"));
    still_works(&xhci)
}
