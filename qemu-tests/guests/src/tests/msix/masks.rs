//! Mask bits, pending bits, the function's mask and its enable bit (A3). PCI 3.0, 6.8.3.5.

use super::{ALL, ENTRIES, Igb};
use crate::runtime::arrivals::{each_arrives, nothing_arrives, settle, traps};
use crate::runtime::pci::Message;
use crate::runtime::registry::tests;
use crate::runtime::smp;
use crate::runtime::text::{Outcome, ensure, ensure_eq};

tests! { "msix", Machine:
    a3_msix_masked_entry_pends_and_fires_at_unmasking,
    a3_msix_pending_entry_fires_as_programmed_last,
    a3_msix_function_mask_holds_all_entries,
    a3_msix_entries_masked_both_ways,
}

const ON: u16 = 1 << 15;
const MASKED: u16 = 1 << 14;

/// The entries whose pending bit is set.
fn pending(igb: &Igb) -> u32 {
    (0..ENTRIES).filter(|entry| igb.msix.is_pending(*entry)).fold(0, |set, entry| set | 1 << entry)
}

fn vector(entry: usize) -> u8 {
    0x50 + entry as u8
}

fn a3_msix_masked_entry_pends_and_fires_at_unmasking() -> Outcome {
    smp::others()?;
    let igb = Igb::find()?;
    for entry in 0..ENTRIES {
        igb.route(entry, Message::to(entry % 2, vector(entry)));
    }
    for entry in 0..ENTRIES {
        igb.msix.mask(entry, true);
        // However often it fires: one bit, one interrupt.
        for _ in 0..3 {
            nothing_arrives(format_args!("entry {entry}, masked"), || igb.fire(1 << entry))?;
            ensure_eq!(pending(&igb), 1 << entry, "pending bits");
        }
        // The others are not held up.
        let other = (entry + 1) % ENTRIES;
        each_arrives(other % 2, vector(other), 1, || igb.fire(1 << other))?;
        each_arrives(entry % 2, vector(entry), 1, || igb.msix.mask(entry, false))?;
        ensure_eq!(pending(&igb), 0, "pending bits afterwards");
        each_arrives(entry % 2, vector(entry), 1, || igb.fire(1 << entry))?;
    }
    igb.rest();
    Ok(())
}

fn a3_msix_pending_entry_fires_as_programmed_last() -> Outcome {
    smp::others()?;
    let igb = Igb::find()?;
    for entry in 0..ENTRIES {
        igb.route(entry, Message::to(0, vector(entry)));
        igb.msix.mask(entry, true);
        nothing_arrives(format_args!("entry {entry}, masked"), || igb.fire(1 << entry))?;
        let what = format_args!("entry {entry}, moved behind its mask");
        nothing_arrives(what, || igb.msix.program(entry, Message::to(1, 0xA7)))?;
        ensure_eq!(pending(&igb), 1 << entry, "pending bits");
        each_arrives(1, 0xA7, 1, || igb.msix.mask(entry, false))?;
        igb.msix.mask(entry, true);
    }
    igb.rest();
    Ok(())
}

fn a3_msix_function_mask_holds_all_entries() -> Outcome {
    smp::others()?;
    let igb = Igb::find()?;
    for entry in 0..ENTRIES {
        igb.route(entry, Message::to(1, vector(entry)));
    }
    for entry in 0..ENTRIES {
        igb.msix.control(true, true);
        ensure_eq!(igb.msix.control_word() & (ON | MASKED), ON | MASKED, "control word");
        nothing_arrives(format_args!("function masked"), || igb.fire(1 << entry))?;
        ensure_eq!(pending(&igb), 1 << entry, "pending bits");
        ensure_eq!(igb.msix.entry(entry)[3] & 1, 0, "mask bit of entry {entry}");
        each_arrives(1, vector(entry), 1, || igb.msix.control(true, false))?;
        ensure_eq!(igb.msix.control_word() & (ON | MASKED), ON, "control word");
    }
    igb.rest();
    Ok(())
}

fn a3_msix_entries_masked_both_ways() -> Outcome {
    smp::others()?;
    let igb = Igb::find()?;
    for entry in 0..ENTRIES {
        igb.route(entry, Message::to(entry % 2, vector(entry)));
    }
    // Even entries behind their own mask, too.
    for entry in (0..ENTRIES).step_by(2) {
        igb.msix.mask(entry, true);
    }
    igb.msix.control(true, true);
    nothing_arrives(format_args!("all masked"), || igb.fire(ALL))?;
    ensure_eq!(pending(&igb), ALL, "pending bits");
    for entry in (1..ENTRIES).step_by(2) {
        // Unmasked by itself it still waits for the function.
        let what = format_args!("entry {entry} behind the function's mask");
        nothing_arrives(what, || {
            igb.msix.mask(entry, true);
            igb.msix.mask(entry, false);
        })?;
    }
    let before = traps();
    igb.msix.control(true, false);
    settle();
    let seen = traps();
    let half = ENTRIES as u64 / 2;
    ensure_eq!([seen[0] - before[0], seen[1] - before[1]], [0, half], "odd entries, by CPU");
    ensure_eq!(pending(&igb), ALL / 3, "pending bits of the even entries");
    for entry in (0..ENTRIES).step_by(2) {
        each_arrives(0, vector(entry), 1, || igb.msix.mask(entry, false))?;
    }
    ensure!(pending(&igb) == 0, "pending bits afterwards");
    igb.rest();
    Ok(())
}
