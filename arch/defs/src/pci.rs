//! PCI: names of functions, the layout of configuration space, and the arithmetic of BARs, MSI-X tables and virtual
//! functions.
//!
//! Everything here reads through [`ConfigSpace`] or computes on values, so the host tests it. `arch::pci` has the
//! hardware behind that trait; the hypervisor's virtual devices use the same layouts. No locks.
//!
//! Source: PCI Local Bus Specification 3.0, PCI Express Base Specification 5.0, chapters 7 and 9.
//!
//! | file | what |
//! |---|---|
//! | [`bdf`] | which function |
//! | [`header`] | the first 64 bytes, bridges |
//! | [`capability`] | both lists of capabilities |
//! | [`bar`] | base address registers: kind, size, address |
//! | [`express`] | PCI Express, advanced features, power management |
//! | [`acs`] | access control between functions |
//! | [`msi`], [`msix`] | message-signalled interrupts |
//! | [`intx`] | interrupt pins |
//! | [`message`] | what a guest's message would do, checked |
//! | [`sriov`] | SR-IOV and the numbering of virtual functions |

pub mod acs;
pub mod bar;
pub mod bdf;
pub mod capability;
pub mod express;
pub mod header;
pub mod intx;
pub mod message;
pub mod msi;
pub mod msix;
pub mod sriov;
#[cfg(test)]
mod tests;

pub use bar::{Bar, BarError, BarKind, bars};
pub use bdf::{Bdf, BdfError};
pub use capability::{
    Capability, CapabilityError, ExtendedCapability, Fault, capabilities, extended_capabilities,
    find, find_extended,
};
pub use intx::Pin;
pub use message::{DeviceMessage, MessageRefused, decode_message};
pub use msix::{Msix, Place};
pub use sriov::{Sriov, VfError};

/// Bytes of a function's configuration space by ECAM.
pub const CONFIG_SIZE: u16 = 4096;
/// Bytes of it that 0xCF8 reaches.
pub const LEGACY_CONFIG_SIZE: u16 = 256;

/// A function's configuration space, to read. Where nobody answers, all bits are ones.
pub trait ConfigSpace {
    /// The dword at `offset`, whose low two bits are ignored; below [`CONFIG_SIZE`].
    fn read_u32(&self, offset: u16) -> u32;

    /// The word at the even `offset`.
    fn read_u16(&self, offset: u16) -> u16 {
        (self.read_u32(offset) >> (offset % 4 / 2 * 16)) as u16
    }

    /// The byte at `offset`.
    fn read_u8(&self, offset: u16) -> u8 {
        (self.read_u32(offset) >> (offset % 4 * 8)) as u8
    }
}

/// A copy of a configuration space, dword by dword; beyond its end it reads as ones.
impl ConfigSpace for [u32] {
    fn read_u32(&self, offset: u16) -> u32 {
        self.get(usize::from(offset / 4)).copied().unwrap_or(u32::MAX)
    }
}
