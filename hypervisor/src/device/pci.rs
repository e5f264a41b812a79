//! The PCI bus that a guest finds: a host bridge at 00:00.0 and its assigned functions as 00:01.0 and up.
//!
//! Called by the board for the ports 0xCF8 and 0xCFC, the ECAM window and the holes in functions' memory; the caller
//! holds the VM's PCI lock. The models compute only: what a write does to the hardware comes back as [`Action`]s, which
//! [`Bus`] has carried out by the function's [`Backing`]. A function that is being reset is not there for its guest: reads
//! give ones, writes have no effect, and nobody waits under the lock. PCI 3.0, sections 3.2.2.3 and 6; PCIe 5.0, section 7.
//!
//! | file | what |
//! |---|---|
//! | [`action`] | what a write leads to, and who does it |
//! | [`assigned`] | the hardware behind a function |
//! | [`remapped`] | the remapping entries of its messages |
//! | [`description`] | what is known of a real function |
//! | [`function`] | a function's configuration space as its guest sees it |
//! | [`bars`] | where a function's memory lies for the guest |
//! | [`messages`] | a guest's messages, checked against its vCPUs |
//! | [`msi`], [`msix`] | the two kinds of them |

pub mod action;
pub mod assigned;
pub mod bars;
pub mod description;
pub mod function;
pub mod messages;
pub mod msi;
pub mod msix;
pub mod remapped;
pub mod senders;
#[cfg(test)]
mod tests;
pub mod unprotected;

pub use action::{Action, Actions, Backing, MsiRoute, Presence, Report, RouteError};
pub use bars::{PlaceError, Region};
pub use description::Description;
pub use function::{Function, MemoryRead};
pub use messages::{Block, Source, Vcpus};

use alloc::boxed::Box;
use alloc::vec::Vec;
use arch::pci::Width;
use arch_defs::pci::Bdf;
use arch_defs::pci::header::{self, STATUS_INTERRUPT};
use guest_loader::config::MAX_PCI_DEVICES;
use guest_loader::layout::{PCI_CONFIG_ADDRESS, PCI_CONFIG_DATA, PCI_ECAM_SIZE};

/// An assigned function with the hardware behind it.
pub struct Slot {
    /// What the guest sees.
    pub function: Function,
    /// What carries its actions out.
    pub backing: Box<dyn Backing + Send>,
}

/// One VM's bus.
pub struct Bus {
    /// The address latch, port 0xCF8.
    address: u32,
    slots: Vec<Slot>,
    /// A reset has begun that nobody has been told of.
    begun: bool,
}

/// The host bridge, dword by dword: a function without registers of its own, under the ids that other small virtual
/// machines give theirs (Intel 0D57).
const HOST_BRIDGE: [u32; 4] = [0x0D57_8086, 0x0000_0006, 0x0600_0000, 0];

impl Slot {
    /// The guest may speak to it.
    fn is_there(&mut self) -> bool {
        self.backing.presence() == Presence::Ready
    }
}

impl Bus {
    /// A bus with these functions, which get device numbers from 1 and places in the guest's PCI window.
    ///
    /// # Errors
    /// The BAR that does not fit.
    pub fn new(mut slots: Vec<Slot>) -> Result<Self, PlaceError> {
        if let Some(extra) = slots.get(MAX_PCI_DEVICES) {
            return Err(PlaceError::TooMany { function: extra.function.name() });
        }
        bars::place(slots.iter_mut().map(|slot| &mut slot.function))?;
        Ok(Self { address: 0, slots, begun: false })
    }

    /// A bus with nothing but its host bridge.
    pub const fn empty() -> Self {
        Self { address: 0, slots: Vec::new(), begun: false }
    }

    /// The functions, in order of their device numbers.
    pub fn functions(&self) -> impl Iterator<Item = &Function> {
        self.slots.iter().map(|slot| &slot.function)
    }

    /// Whether a reset has begun since the last call.
    pub const fn has_begun(&mut self) -> bool {
        core::mem::replace(&mut self.begun, false)
    }

    /// Takes the steps that are due of resets under way. True while there are some.
    pub fn attend(&mut self) -> bool {
        let mut under_way = false;
        // Each is looked at, also if one before it is not through.
        for slot in &mut self.slots {
            under_way |= slot.backing.presence() == Presence::Resetting;
        }
        under_way
    }

    /// As after a power-on: latch, registers and the functions themselves, whose resets begin side by side (VM stop, and
    /// before its first start). Nothing comes from them any more; [`Bus::attend`] tells when they are through.
    pub fn reset(&mut self) {
        self.address = 0;
        for slot in &mut self.slots {
            self.begun = true;
            let actions = slot.function.reset();
            action::carry_out(&mut slot.function, actions, &mut *slot.backing);
        }
    }

    /// A read of `size` bytes at a port from 0xCF8 to 0xCFF; `None` where nobody answers.
    pub fn port_read(&mut self, port: u16, size: u8) -> Option<u32> {
        if port == PCI_CONFIG_ADDRESS && size == 4 {
            return Some(self.address);
        }
        let (slot, offset) = self.latched(port)?;
        Some(self.config_read(slot, offset, width(size)?))
    }

    /// A write of `size` bytes at a port from 0xCF8 to 0xCFF; `None` where nobody answers.
    pub fn port_write(&mut self, port: u16, size: u8, value: u32, vcpus: &Vcpus) -> Option<()> {
        if port == PCI_CONFIG_ADDRESS && size == 4 {
            // Bits 30:24 and 1:0 are reserved and read as 0.
            self.address = value & 0x80FF_FFFC;
            return Some(());
        }
        let (slot, offset) = self.latched(port)?;
        self.config_write(slot, offset, width(size)?, value, vcpus);
        Some(())
    }

    /// What the latch selects, for an access at a data port.
    fn latched(&self, port: u16) -> Option<(Bdf, u16)> {
        const ENABLE: u32 = 1 << 31;
        let byte = port.checked_sub(PCI_CONFIG_DATA).filter(|&byte| byte < 4)?;
        let bdf = Bdf::from_requester(0, (self.address >> 8) as u16);
        (self.address & ENABLE != 0).then_some((bdf, (self.address & 0xFC) as u16 + byte))
    }

    /// A read at a byte offset of the ECAM window; ones where nobody answers.
    pub fn ecam_read(&mut self, offset: u64, width: Width) -> u64 {
        let mut dword = |at| match ecam(at) {
            Some((bdf, register)) => self.config_read(bdf, register, width.min_dword()).into(),
            None => u64::from(u32::MAX),
        };
        // Nobody promises a whole qword in one access: two of them.
        if width == Width::Qword {
            return dword(offset) | dword(offset + 4) << 32;
        }
        dword(offset)
    }

    /// A write at a byte offset of the ECAM window.
    pub fn ecam_write(&mut self, offset: u64, width: Width, value: u64, vcpus: &Vcpus) {
        let halves = if width == Width::Qword { 2 } else { 1 };
        for half in 0..halves {
            if let Some((bdf, register)) = ecam(offset + 4 * half) {
                let value = (value >> (32 * half)) as u32;
                self.config_write(bdf, register, width.min_dword(), value, vcpus);
            }
        }
    }

    /// The function that answers at `bdf`; `None` for the host bridge, where nobody is, and during a reset.
    fn slot(&mut self, bdf: Bdf) -> Option<&mut Slot> {
        let device = usize::from(bdf.device());
        let index = (bdf.bus() == 0 && bdf.function() == 0).then_some(device.checked_sub(1)?)?;
        let slot = self.slots.get_mut(index)?;
        slot.is_there().then_some(slot)
    }

    fn config_read(&mut self, bdf: Bdf, offset: u16, width: Width) -> u32 {
        if bdf.requester() == 0 {
            let dword = HOST_BRIDGE.get(usize::from(offset / 4)).copied().unwrap_or(0);
            return function::part(dword, offset, width);
        }
        match self.slot(bdf) {
            Some(slot) if slot.function.is_msi_pending(offset) => {
                function::part(slot.backing.msi_pending(), offset, width)
            }
            Some(slot) => {
                let value = slot.function.config_read(offset, width);
                if slot.function.line().is_some() && offset & !3 == header::offset::COMMAND {
                    let status = if slot.backing.asks_by_pin() { STATUS_INTERRUPT } else { 0 };
                    return value | function::part(u32::from(status) << 16, offset, width);
                }
                value
            }
            None => u32::MAX,
        }
    }

    fn config_write(&mut self, bdf: Bdf, offset: u16, width: Width, value: u32, vcpus: &Vcpus) {
        let Some(slot) = self.slot(bdf) else { return };
        let actions = slot.function.config_write(offset, width, value, vcpus);
        let begun = actions.contains(&Action::Reset);
        action::carry_out(&mut slot.function, actions, &mut *slot.backing);
        self.begun |= begun;
    }

    /// A read of memory that is not mapped for the guest; `None` if no function has it.
    pub fn memory_read(&mut self, gpa: u64, width: Width) -> Option<u64> {
        self.slots.iter_mut().find_map(|slot| {
            let (bar, offset) = slot.function.bar_at(gpa)?;
            if !slot.is_there() {
                return Some(u64::MAX);
            }
            Some(match slot.function.memory_read(bar, offset, width) {
                MemoryRead::Value(value) => value,
                MemoryRead::Forward => slot.backing.read(bar, offset, width),
            })
        })
    }

    /// A write to memory that is not mapped for the guest; `None` if no function has it.
    pub fn memory_write(
        &mut self,
        gpa: u64,
        width: Width,
        value: u64,
        vcpus: &Vcpus,
    ) -> Option<()> {
        self.slots.iter_mut().find_map(|slot| {
            let (bar, offset) = slot.function.bar_at(gpa)?;
            if !slot.is_there() {
                return Some(());
            }
            let actions = slot.function.memory_write(bar, offset, width, value, vcpus);
            action::carry_out(&mut slot.function, actions, &mut *slot.backing);
            Some(())
        })
    }
}

/// The function and register at a byte offset of the ECAM window.
fn ecam(offset: u64) -> Option<(Bdf, u16)> {
    let inside = offset < PCI_ECAM_SIZE;
    inside.then_some((Bdf::from_requester(0, (offset >> 12) as u16), (offset & 0xFFF) as u16))
}

const fn width(size: u8) -> Option<Width> {
    match size {
        1 => Some(Width::Byte),
        2 => Some(Width::Word),
        4 => Some(Width::Dword),
        _ => None,
    }
}
