//! Messages that the device must not send (S2): nothing of them may arrive anywhere, and a good one must work afterwards. On
//! the bare machine most of them do what they say, so that only a guest is judged. SDM 3A 11.11.

use super::Edu;
use super::dma::TARGET;
use crate::runtime::arrivals::{each_arrives, nothing_arrives};
use crate::runtime::pci::Message;
use crate::runtime::random::Random;
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{cpu, irq, smp};
use crate::tests::messages::{self, VECTOR};

tests! { "hostile-edu", Machine: s2_edu_msi_to_absent_cpus }
tests! { "hostile-edu", Beeline:
    s2_edu_msi_with_vectors_0_to_15,
    s2_edu_msi_with_dangerous_delivery_modes,
    s2_edu_msi_to_addresses_that_are_no_messages,
    s2_edu_random_messages_harm_nobody,
}

/// Fires each message three times: nothing may arrive. Afterwards the device works, and the CPUs are who they were.
fn are_blocked(messages: impl Iterator<Item = Message>) -> Outcome {
    smp::others()?;
    let edu = Edu::find()?;
    let started = smp::starts(1);
    let mut count = 0;
    for message in messages {
        let Message { address, data } = message;
        edu.by_msi(message);
        nothing_arrives(format_args!("message {data:#x} to {address:#x}"), || {
            (0..3).for_each(|_| edu.raise(1));
        })?;
        count += 1;
    }
    ensure_eq!(smp::starts(1), started, "starts of cpu 1");
    detail(format_args!("messages={count}"));
    still_works(&edu)
}

fn still_works(edu: &Edu) -> Outcome {
    for target in 0..2 {
        edu.by_msi(Message::to(target, VECTOR));
        each_arrives(target, VECTOR, 10, || edu.raise(1))?;
    }
    edu.rest();
    Ok(())
}

fn s2_edu_msi_with_vectors_0_to_15() -> Outcome {
    are_blocked(messages::illegal_vectors())
}

fn s2_edu_msi_with_dangerous_delivery_modes() -> Outcome {
    are_blocked(messages::dangerous_modes())
}

fn s2_edu_msi_to_absent_cpus() -> Outcome {
    are_blocked(messages::foreign_destinations())
}

fn s2_edu_msi_to_addresses_that_are_no_messages() -> Outcome {
    // To RAM it would be DMA.
    TARGET.fill(0x5A);
    let ram = Message { address: TARGET.address(), data: u32::from(VECTOR) };
    are_blocked(messages::odd_addresses().chain([ram]))?;
    ensure!((0..4096).all(|index| TARGET.get(index) == 0x5A), "a message was written to RAM");
    Ok(())
}

/// Address and data at random, changed while MSI is on. What is a legal message of this guest may arrive.
fn s2_edu_random_messages_harm_nobody() -> Outcome {
    const N: u64 = 2_000;
    smp::others()?;
    let edu = Edu::find()?;
    let started = smp::starts(1);
    let low = || irq::count_range(0, 0..=31) + irq::count_range(1, 0..=31);
    let before = low();
    edu.by_msi(Message::to(0, VECTOR));
    let mut random = Random::new(31);
    for _ in 0..N {
        let bits = random.next();
        let address = match random.below(4) {
            0 => bits,
            1 => bits & 0xFFFF_FFFF,
            _ => 0xFEE0_0000 | bits & 0xF_FFFC,
        };
        // Vectors 16 to 31 are legal, but exceptions to this guest.
        let data = random.next() as u32 & 0xFFFF;
        let data = if data & 0xF0 == 0x10 { data | 0x20 } else { data };
        match random.below(3) {
            0 => edu.msi.set_data(data),
            1 => edu.msi.set_address(address),
            _ => edu.msi.program(Message { address, data }),
        }
        edu.raise(1);
        cpu::take_pending();
    }
    edu.rest();
    ensure_eq!(low() - before, 0, "exceptions, NMIs and vectors below 32");
    ensure_eq!(smp::starts(1), started, "starts of cpu 1");
    detail(format_args!("messages={N}"));
    still_works(&edu)
}
