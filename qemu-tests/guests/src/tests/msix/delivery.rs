//! Entries as they are programmed, at rest and while they fire (A1, A3, B2, E1).

use super::{ALL, ENTRIES, Igb};
use crate::runtime::arrivals::{each_arrives, settle, traps};
use crate::runtime::pci::Message;
use crate::runtime::random::Random;
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq, fail};
use crate::runtime::{cpu, hypercall, irq, smp, time};
use crate::tests::retarget::{self, route};

tests! { "msix", Machine:
    a1_e1_msix_20000_interrupts_take_no_exit,
    a3_msix_each_entry_arrives_as_programmed,
    a3_msix_all_entries_at_once,
    a3_msix_entries_share_a_vector,
    b2_msix_moved_1000_times_while_firing,
    s8_msix_table_reads_back,
}

/// The vector of an entry: one of each priority class.
fn vector(entry: usize) -> u8 {
    0x41 + 0x11 * entry as u8
}

/// Even entries go to CPU 0, odd ones to CPU 1.
fn message(entry: usize) -> Message {
    Message::to(entry % 2, vector(entry))
}

fn a1_e1_msix_20000_interrupts_take_no_exit() -> Outcome {
    const N: u64 = 20_000;
    const RECEIVER: usize = 1;
    smp::others()?;
    let igb = Igb::find()?;
    for entry in 0..ENTRIES {
        igb.route(entry, Message::to(RECEIVER, vector(entry)));
    }
    let exits_there = || match hypercall::present() {
        true => hypercall::exits(RECEIVER as u64, hypercall::ALL),
        false => 0,
    };
    let (before, there) = (traps(), exits_there());
    let (here, outcome) = hypercall::exits_of(|| {
        for i in 0..N {
            let entry = i as usize % ENTRIES;
            let seen = irq::count(RECEIVER, vector(entry));
            igb.fire(1 << entry);
            let taken = time::wait(time::LONG, || irq::count(RECEIVER, vector(entry)) > seen);
            ensure!(taken, "interrupt {i}, of entry {entry}, was lost");
        }
        Ok(())
    });
    let there = exits_there() - there;
    outcome?;
    settle();
    ensure_eq!(traps()[RECEIVER] - before[RECEIVER], N, "traps of the receiver");
    ensure_eq!(traps()[0] - before[0], 0, "traps of the other CPU");
    ensure_eq!(there, 0, "exits of the receiver");
    ensure_eq!(here, 0, "exits of the CPU that writes to the device");
    igb.rest();
    detail(format_args!("fired={N} taken={N} receiver_exits={there} sender_exits={here}"));
    Ok(())
}

fn a3_msix_each_entry_arrives_as_programmed() -> Outcome {
    smp::others()?;
    let igb = Igb::find()?;
    (0..ENTRIES).for_each(|entry| igb.route(entry, message(entry)));
    for entry in 0..ENTRIES {
        each_arrives(entry % 2, vector(entry), 20, || igb.fire(1 << entry))?;
    }
    // Again, each with another's message.
    for entry in 0..ENTRIES {
        igb.route(entry, message(ENTRIES - 1 - entry));
    }
    for entry in 0..ENTRIES {
        let other = ENTRIES - 1 - entry;
        each_arrives(other % 2, vector(other), 20, || igb.fire(1 << entry))?;
    }
    igb.rest();
    detail(format_args!("entries={ENTRIES} function={:#x}", igb.function.number()));
    Ok(())
}

fn a3_msix_all_entries_at_once() -> Outcome {
    const N: u64 = 200;
    smp::others()?;
    let igb = Igb::find()?;
    (0..ENTRIES).for_each(|entry| igb.route(entry, message(entry)));
    let count = |entry: usize| irq::count(entry % 2, vector(entry));
    let before: [u64; ENTRIES] = core::array::from_fn(count);
    let all = traps();
    cpu::sti();
    for i in 1..=N {
        igb.fire(ALL);
        let came =
            time::wait(time::LONG, || (0..ENTRIES).all(|entry| count(entry) - before[entry] >= i));
        if !came {
            cpu::cli();
            let late = (0..ENTRIES).find(|entry| count(*entry) - before[*entry] < i);
            fail!("round {i}: entry {late:?} was lost");
        }
    }
    cpu::cli();
    settle();
    let (seen, half) = (traps(), N * ENTRIES as u64 / 2);
    ensure_eq!([seen[0] - all[0], seen[1] - all[1]], [half, half], "traps by CPU");
    igb.rest();
    detail(format_args!("fired={}", N * ENTRIES as u64));
    Ok(())
}

fn a3_msix_entries_share_a_vector() -> Outcome {
    const SHARED: u8 = 0x9D;
    smp::others()?;
    let igb = Igb::find()?;
    for entry in 0..ENTRIES {
        igb.route(entry, Message::to(1, SHARED));
    }
    for entry in 0..ENTRIES {
        each_arrives(1, SHARED, 5, || igb.fire(1 << entry))?;
    }
    igb.rest();
    Ok(())
}

/// What fires while the entry is masked comes when it is unmasked, by the new route.
fn b2_msix_moved_1000_times_while_firing() -> Outcome {
    const CHANGES: usize = 1_000;
    const ENTRY: usize = 4;
    let igb = Igb::find()?;
    let program = |change| {
        let route = route(change);
        igb.route(ENTRY, Message::to(route.cpu, route.vector));
    };
    let fired = retarget::while_firing(CHANGES, || igb.fire(1 << ENTRY), program)?;
    igb.rest();
    detail(format_args!("changes={CHANGES} fired={fired} taken={fired}"));
    Ok(())
}

fn s8_msix_table_reads_back() -> Outcome {
    let igb = Igb::find()?;
    let mut random = Random::new(32);
    for _ in 0..20 {
        // The lowest two bits of an address are zero.
        let messages: [Message; ENTRIES] = core::array::from_fn(|_| Message {
            address: random.next() & !3,
            data: random.next() as u32,
        });
        for (entry, message) in messages.iter().enumerate() {
            igb.msix.program(entry, *message);
        }
        for (entry, Message { address, data }) in messages.into_iter().enumerate() {
            let expected = [address as u32, (address >> 32) as u32, data, 1];
            ensure_eq!(igb.msix.entry(entry), expected, "entry {entry}");
        }
    }
    for entry in 0..ENTRIES {
        igb.route(entry, message(entry));
        let Message { address, data } = message(entry);
        ensure_eq!(igb.msix.entry(entry), [address as u32, 0, data, 0], "entry {entry}, unmasked");
    }
    igb.rest();
    Ok(())
}
