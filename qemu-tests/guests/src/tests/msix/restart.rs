//! A function is as after a reset at each start of its VM (S7), also when the VM ends in the middle of a reset of its own.
//! Memory cannot tell the runs apart, as it is cleared: each run checks, leaves the function busy and restarts the VM. The
//! host counts the starts.

use super::{ALL, EIAC, EICS, EIMS, ENTRIES, GPIE, Igb, MULTIPLE_MSIX};
use crate::runtime::pci::{self, Function, Message, Msix};
use crate::runtime::registry::tests;
use crate::runtime::serial::{self, println};
use crate::runtime::text::{Outcome, ensure_eq, fail};
use crate::runtime::{cpu, time};

tests! { "restart-function", Beeline: s7_function_does_not_survive_a_restart }

/// Configuration and registers as a reset leaves them.
fn check(function: Function) -> Outcome {
    ensure_eq!(function.read(pci::COMMAND) & 0x7FF, 0, "command register");
    function.command(pci::MEMORY | pci::NO_INTX);
    let igb = Igb { function, msix: Msix::of(function)?, registers: function.bar(0)? };
    ensure_eq!(igb.msix.control_word() & 0xC000, 0, "MSI-X control");
    for entry in 0..ENTRIES {
        ensure_eq!(igb.msix.entry(entry), [0, 0, 0, 1], "entry {entry}");
    }
    for (name, register) in [("GPIE", GPIE), ("EIAC", EIAC), ("EIMS", EIMS)] {
        ensure_eq!(igb.read(register), 0, "{name}");
    }
    Ok(())
}

fn s7_function_does_not_survive_a_restart() -> Outcome {
    let function = Function::find(0x8086, 0x10C9)?;
    check(function)?;
    let igb = Igb::find()?;
    for entry in 0..ENTRIES {
        igb.route(entry, Message::to(0, 0x51));
    }
    let left = [GPIE, EIAC, EIMS].map(|register| igb.read(register));
    ensure_eq!(left, [MULTIPLE_MSIX, ALL, ALL], "what is left for the next run");
    // By chance in the middle of a reset, or with interrupts on their way.
    let resetting = cpu::rdtsc() >> 8 & 1 != 0;
    println!("TEST s7_function_does_not_survive_a_restart ok resetting={resetting}");
    serial::drain();
    if resetting {
        function.write16(function.express()? + 8, 1 << 15);
    } else {
        igb.write(EICS, ALL);
    }
    cpu::out8(0xCF9, 0x06);
    time::delay(time::LONG);
    fail!("survived a reset")
}
