//! MSI-X, by an Intel 82576 (QEMU's `igb`): ten entries of a table in memory, each with a cause that a register sets. Its MSI
//! can mask its one message.
//! 82576 data sheet, 7.3 (interrupts), 8.8 (their registers); PCI 3.0, 6.8.2.

mod delivery;
mod hostile;
mod line;
mod masks;
mod msi;
mod reset;
mod restart;

use crate::runtime::cpu::{mmio_read, mmio_write};
use crate::runtime::pci::{self, Function, Message, Msix};
use crate::runtime::text::{Outcome, ensure_eq};
use crate::runtime::time;

/// Registers.
const CTRL: u64 = 0x0000;
const GPIE: u64 = 0x1514;
const EICS: u64 = 0x1520;
const EIMS: u64 = 0x1524;
const EIMC: u64 = 0x1528;
const EIAC: u64 = 0x152C;

/// CTRL: resets the function.
const RESET: u32 = 1 << 26;
/// GPIE: each cause has an entry of its own.
const MULTIPLE_MSIX: u32 = 1 << 4;

/// Entries, and causes.
const ENTRIES: usize = 10;
const ALL: u32 = (1 << ENTRIES) - 1;

/// The device.
#[derive(Clone, Copy)]
struct Igb {
    function: Function,
    msix: Msix,
    registers: u64,
}

impl Igb {
    /// Finds it and prepares it: MSI-X on, all entries masked, a cause for each, cleared when it is sent.
    fn find() -> Outcome<Self> {
        let function = Function::find(0x8086, 0x10C9)?;
        function.command(pci::MEMORY | pci::BUS_MASTER | pci::NO_INTX);
        let igb = Self { function, msix: Msix::of(function)?, registers: function.bar(0)? };
        ensure_eq!(igb.msix.entries, ENTRIES, "entries");
        // Nobody may be told of what the reset does.
        igb.msix.control(true, true);
        igb.write(CTRL, igb.read(CTRL) | RESET);
        time::delay(time::UNITS / 50);
        igb.write(EIMC, !0);
        igb.write(GPIE, MULTIPLE_MSIX);
        igb.write(EIAC, ALL);
        igb.write(EIMS, ALL);
        for entry in 0..ENTRIES {
            igb.msix.mask(entry, true);
        }
        igb.drain();
        igb.msix.control(true, false);
        Ok(igb)
    }

    /// Sends what is pending to nobody: into the entry of an absent CPU.
    fn drain(&self) {
        self.msix.control(true, false);
        for entry in (0..ENTRIES).filter(|entry| self.msix.is_pending(*entry)) {
            self.msix.program(entry, Message::to(0xFE, 0x40));
            self.msix.mask(entry, false);
            self.msix.mask(entry, true);
        }
    }

    fn read(&self, register: u64) -> u32 {
        mmio_read(self.registers + register)
    }

    fn write(&self, register: u64, value: u32) {
        mmio_write(self.registers + register, value);
    }

    /// Sets the causes of these entries, one bit for each.
    fn fire(&self, entries: u32) {
        self.write(EICS, entries);
    }

    /// Changes an entry the way the specification wants it: behind its mask.
    fn route(&self, entry: usize, message: Message) {
        self.msix.mask(entry, true);
        self.msix.program(entry, message);
        self.msix.mask(entry, false);
    }

    /// All entries masked, the function off.
    fn rest(&self) {
        (0..ENTRIES).for_each(|entry| self.msix.mask(entry, true));
        self.msix.control(false, false);
    }
}
