//! Entries that a guest must not have (S2): nothing of them may arrive anywhere, and the good ones beside them work on. On the
//! bare machine most of them do what they say, so that only a guest is judged.

use super::{ENTRIES, Igb};
use crate::runtime::arrivals::{each_arrives, nothing_arrives, settle};
use crate::runtime::pci::Message;
use crate::runtime::random::Random;
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure_eq};
use crate::runtime::{cpu, irq, smp};
use crate::tests::messages::{self, VECTOR};

tests! { "msix", Machine: s2_msix_entries_of_absent_cpus }
tests! { "msix", Beeline:
    s2_msix_entries_with_vectors_0_to_15,
    s2_msix_entries_with_dangerous_delivery_modes,
    s2_msix_entries_with_addresses_that_are_no_messages,
    s2_msix_random_table_writes_harm_nobody,
}

/// The entry that stays good, and its vector.
const GOOD: usize = 9;
const ITS: u8 = 0xB6;

/// Puts each message into an entry, and fires it unmasked, and once more through its mask.
fn are_blocked(messages: impl Iterator<Item = Message>) -> Outcome {
    smp::others()?;
    let igb = Igb::find()?;
    let started = smp::starts(1);
    igb.route(GOOD, Message::to(1, ITS));
    let mut count = 0;
    for message in messages {
        let entry = count % GOOD;
        let Message { address, data } = message;
        nothing_arrives(format_args!("entry {entry}: {data:#x} to {address:#x}"), || {
            igb.route(entry, message);
            igb.fire(1 << entry);
            igb.msix.mask(entry, true);
            igb.fire(1 << entry);
            igb.msix.mask(entry, false);
        })?;
        if count % 16 == 0 {
            each_arrives(1, ITS, 1, || igb.fire(1 << GOOD))?;
        }
        count += 1;
    }
    ensure_eq!(smp::starts(1), started, "starts of cpu 1");
    detail(format_args!("messages={count}"));
    still_works(&igb)
}

fn still_works(igb: &Igb) -> Outcome {
    for entry in 0..ENTRIES {
        igb.route(entry, Message::to(entry % 2, VECTOR));
        // A message that pended under the mask goes out now.
        settle();
        each_arrives(entry % 2, VECTOR, 5, || igb.fire(1 << entry))?;
    }
    igb.rest();
    Ok(())
}

fn s2_msix_entries_of_absent_cpus() -> Outcome {
    are_blocked(messages::foreign_destinations())
}

fn s2_msix_entries_with_vectors_0_to_15() -> Outcome {
    are_blocked(messages::illegal_vectors())
}

fn s2_msix_entries_with_dangerous_delivery_modes() -> Outcome {
    are_blocked(messages::dangerous_modes())
}

fn s2_msix_entries_with_addresses_that_are_no_messages() -> Outcome {
    are_blocked(messages::odd_addresses())
}

/// Words of the table at random, masked or not, while entries fire.
fn s2_msix_random_table_writes_harm_nobody() -> Outcome {
    const N: u64 = 3_000;
    smp::others()?;
    let igb = Igb::find()?;
    let started = smp::starts(1);
    let low = || irq::count_range(0, 0..=31) + irq::count_range(1, 0..=31);
    let before = low();
    let mut random = Random::new(33);
    for _ in 0..N {
        let entry = random.below(ENTRIES as u64) as usize;
        let bits = random.next();
        // Vectors 16 to 31 are legal, but exceptions to this guest.
        let data = random.next() as u32 & [0xFF, 0xFFFF, !0][random.below(3) as usize];
        let data = if data & 0xF0 == 0x10 { data | 0x20 } else { data };
        let address = match random.below(4) {
            0 => bits & !3,
            _ => 0xFEE0_0000 | bits & 0xF_FFFC,
        };
        match random.below(5) {
            0 => igb.msix.mask(entry, bits & 1 != 0),
            1 => igb.msix.control(bits & 3 != 0, bits & 12 == 0),
            2 => igb.route(entry, Message { address, data }),
            _ => igb.msix.program(entry, Message { address, data }),
        }
        igb.fire(random.next() as u32 & super::ALL);
        cpu::take_pending();
    }
    igb.rest();
    settle();
    ensure_eq!(low() - before, 0, "exceptions, NMIs and vectors below 32");
    ensure_eq!(smp::starts(1), started, "starts of cpu 1");
    detail(format_args!("writes={N}"));
    // What is pending now goes to nobody.
    still_works(&Igb::find()?)
}
