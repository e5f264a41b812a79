//! The machine's PCI: configuration access, the functions that are there, and the mechanics of handing one to a guest.
//!
//! Called by boot, which finds what the configuration names, and later by the glue behind a guest's virtual functions.
//! All but [`access`] and [`registers`] works on the trait [`ConfigAccess`], so that the host tests it on a model.
//! Locks: that of the 0xCF8 ports, a leaf. PCIe 5.0, chapters 6, 7 and 9.
//!
//! | file | what |
//! |---|---|
//! | [`access`] | ECAM windows, the 0xCF8 ports behind them |
//! | [`topology`] | functions and bridges |
//! | [`bars`] | sizes and places of BARs |
//! | [`acs`] | keeping functions apart from their peers |
//! | [`intx`] | where interrupt pins are wired to |
//! | [`reset`] | resetting a single function |
//! | [`sriov`] | switching virtual functions on |
//! | [`registers`] | a function's memory |

pub mod access;
pub mod acs;
pub mod bars;
pub mod intx;
pub mod registers;
pub mod reset;
pub mod sriov;
#[cfg(test)]
mod tests;
pub mod topology;

pub use access::{ConfigAccess, Hardware, Width};
pub use registers::Registers;
pub use sriov::VirtualFunction;
pub use topology::{Found, Topology};

use arch_defs::pci::header::{Command, STATUS_INTERRUPT, offset};
use arch_defs::pci::{BarError, Bdf, CapabilityError, ConfigSpace, VfError};
use core::fmt;

/// Bit of the expansion ROM's register: it answers.
const ROM_ENABLE: u32 = 1;

/// One function, by way of an access.
pub struct Function<'a, A: ?Sized> {
    access: &'a A,
    /// Which one.
    pub bdf: Bdf,
}

impl<A: ?Sized> Clone for Function<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A: ?Sized> Copy for Function<'_, A> {}

impl<A: ConfigAccess + ?Sized> ConfigSpace for Function<'_, A> {
    fn read_u32(&self, offset: u16) -> u32 {
        self.access.read(self.bdf, offset & !3)
    }
}

impl<'a, A: ConfigAccess + ?Sized> Function<'a, A> {
    /// The function `bdf`, whether it is there or not.
    pub const fn new(access: &'a A, bdf: Bdf) -> Self {
        Self { access, bdf }
    }

    /// Whether it answers. Virtual functions do so at the command register only.
    pub fn answers(&self) -> bool {
        self.read_u32(offset::COMMAND) != u32::MAX
    }

    /// Writes a dword.
    pub fn write_u32(&self, offset: u16, value: u32) {
        self.access.write(self.bdf, offset, Width::Dword, value);
    }

    /// Writes a word.
    pub fn write_u16(&self, offset: u16, value: u16) {
        self.access.write(self.bdf, offset, Width::Word, value.into());
    }

    /// Writes a byte.
    pub fn write_u8(&self, offset: u16, value: u8) {
        self.access.write(self.bdf, offset, Width::Byte, value.into());
    }

    /// The command register.
    pub fn command(&self) -> Command {
        Command::from_bits(self.read_u16(offset::COMMAND))
    }

    /// Sets the command register; the status beside it is left alone.
    pub fn set_command(&self, command: Command) {
        self.write_u16(offset::COMMAND, command.into_bits());
    }

    /// Answers at its memory BARs from now on, with its interrupt pin silent.
    pub fn enable_memory(&self) {
        self.set_command(self.command().with_memory(true).with_no_intx(true));
    }

    /// Answers at its expansion ROM no longer. Only of a header of type 0.
    pub fn disable_rom(&self) {
        let rom = self.read_u32(offset::ROM);
        if rom & ROM_ENABLE != 0 {
            self.write_u32(offset::ROM, rom & !ROM_ENABLE);
        }
    }

    /// Silences the interrupt pin, or lets it speak. True if the function has done so.
    pub fn set_intx(&self, on: bool) -> bool {
        self.set_command(self.command().with_no_intx(!on));
        self.command().no_intx() != on
    }

    /// Whether the function asks for an interrupt by its pin.
    pub fn asks_by_pin(&self) -> bool {
        self.read_u16(offset::STATUS) & STATUS_INTERRUPT != 0
    }

    /// May do DMA and send messages, or no longer.
    pub fn set_bus_master(&self, on: bool) {
        self.set_command(self.command().with_bus_master(on));
    }
}

/// Why a function cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nobody answers.
    Absent,
    /// One of its capabilities is broken.
    Capability(CapabilityError),
    /// One of its BARs is broken.
    Bar(BarError),
    /// It can neither do PCIe's nor conventional PCI's function-level reset.
    NoReset,
    /// It did not come back from its reset.
    Lost,
    /// It has no SR-IOV capability.
    NoSriov,
    /// A virtual function cannot be.
    Vf(VfError),
    /// Virtual function `vf` would lie on bus `bus`, which `bridge` does not pass on.
    NoBus {
        /// Number of the VF.
        vf: u16,
        /// Its bus.
        bus: u8,
        /// The bridge, and the last bus that it passes on.
        bridge: Bdf,
        /// Last bus behind that bridge.
        last: u8,
    },
    /// Virtual function `vf` would lie on bus `bus`, which belongs to others.
    BusTaken {
        /// Number of the VF.
        vf: u16,
        /// Its bus.
        bus: u8,
    },
    /// Virtual function `vf` has a device number that `bridge` does not pass on without ARI.
    NoAri {
        /// Number of the VF.
        vf: u16,
        /// The bridge.
        bridge: Bdf,
    },
    /// A BAR has no place, or one that is RAM.
    Misplaced {
        /// The BAR.
        index: u8,
        /// Where it lies; 0 if nobody has placed it.
        address: u64,
    },
    /// There is no room for the BARs of its virtual functions.
    NoRoom {
        /// The BAR.
        index: u8,
        /// Bytes that are needed.
        bytes: u64,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("there is no such function on this machine"),
            Self::Capability(e) => write!(f, "{e}"),
            Self::Bar(e) => write!(f, "{e}"),
            Self::NoReset => f.write_str(
                "it cannot be reset by itself (neither PCI Express nor Advanced Features offer it), so nothing \
                 would keep one owner's state from the next",
            ),
            Self::Lost => f.write_str("it did not come back from its reset within a second"),
            Self::NoSriov => f.write_str("it has no SR-IOV capability, so it has no virtual functions"),
            Self::Vf(e) => write!(f, "{e}"),
            Self::NoBus { vf, bus, bridge, last } => write!(
                f,
                "vf{vf} would lie on bus {bus:02x}, and the bridge {bridge} passes buses up to {last:02x} on: \
                 switch SR-IOV on in the firmware, so that it leaves bus numbers free"
            ),
            Self::BusTaken { vf, bus } => write!(
                f,
                "vf{vf} would lie on bus {bus:02x}, which another bridge has: switch SR-IOV on in the firmware, \
                 so that it leaves bus numbers free"
            ),
            Self::NoAri { vf, bridge } => write!(
                f,
                "vf{vf} has a device number above 0, and the bridge {bridge} cannot pass that on (no ARI forwarding)"
            ),
            Self::Misplaced { index, address: 0 } => {
                write!(f, "firmware gave BAR {index} no address: switch \"PnP OS\" off in the firmware")
            }
            Self::Misplaced { index, address } => {
                write!(f, "firmware put BAR {index} over the RAM at {address:#x}")
            }
            Self::NoRoom { index, bytes } => write!(
                f,
                "VF BAR {index} needs {} KiB, which firmware left no room for: switch SR-IOV on in the firmware",
                bytes >> 10
            ),
        }
    }
}

impl From<CapabilityError> for Why {
    fn from(e: CapabilityError) -> Self {
        Self::Capability(e)
    }
}

impl From<BarError> for Why {
    fn from(e: BarError) -> Self {
        Self::Bar(e)
    }
}

impl From<VfError> for Why {
    fn from(e: VfError) -> Self {
        Self::Vf(e)
    }
}
