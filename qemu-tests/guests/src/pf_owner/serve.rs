//! Finds the PFs that the VM was given, starts them and serves them for ever.

use super::igb::Igb;
use super::nvme;
use crate::runtime::pci::Function;
use crate::runtime::registry::tests;
use crate::runtime::serial::println;
use crate::runtime::text::{Outcome, ensure};
use crate::runtime::{cpu, lapic, time};

tests! { "pf-owner", Beeline: serves_virtual_functions_for_ever }

/// Intel 82576, the PF.
const IGB: u32 = 0x10C9_8086;
/// Class code of an NVMe controller, and of all else that has none.
const NVME: u32 = 0x01_0802;
/// The timer's vector.
const TICK: u8 = 0x40;
/// Time between two looks at the mailboxes. A VF's driver waits 1 ms at the least.
const PERIOD: u64 = time::UNITS / 4000;

fn serves_virtual_functions_for_ever() -> Outcome {
    let mut served = 0;
    let mut igb = None;
    for function in (0..256).map(Function::at) {
        // Of a function that is not there all bits are ones.
        let (id, class) = (function.read(0), function.read(8) >> 8);
        let started = match (id, class) {
            (IGB, _) if igb.is_none() => Igb::start(function).map(|found| {
                let vfs = found.vfs();
                igb = Some(found);
                ("igb", vfs)
            }),
            (_, NVME) => nvme::start(function).map(|vfs| ("nvme", vfs)),
            _ => continue,
        };
        served += 1;
        match started {
            Ok((what, vfs)) => println!("PF {what} ready vfs={vfs}"),
            Err(why) => println!("PF {:04x}:{:04x} FAILED {why}", id & 0xFFFF, id >> 16),
        }
    }
    ensure!(served > 0, "no function of a kind that it knows");
    lapic::count_timer(lapic::PERIODIC, TICK, PERIOD);
    loop {
        if let Some(igb) = &mut igb {
            igb.poll();
        }
        // The tick ends the halt, and its handler returns here with IF = 1.
        cpu::sti_hlt();
        cpu::cli();
    }
}
