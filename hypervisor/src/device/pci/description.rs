//! What is known of a real function, read once at boot before its guest runs.

use crate::device::ioapic::Pin;
use alloc::vec::Vec;
use arch_defs::pci::capability::{Fault, id};
use arch_defs::pci::header::offset;
use arch_defs::pci::{Bar, Bdf, Capability, CapabilityError, ConfigSpace, Msix, capabilities, msi};

/// A function before it becomes a guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Which one it is on the machine.
    pub name: Bdf,
    /// Vendor id, and device id in the upper half.
    pub ids: u32,
    /// Revision and class code.
    pub class: u32,
    /// Subsystem vendor id, and subsystem id in the upper half.
    pub subsystem: u32,
    /// Its memory BARs, where the machine has them. Ports are not passed on.
    pub bars: Vec<Bar>,
    /// It has power management.
    pub power: Option<Capability>,
    /// It is a PCI Express function.
    pub express: Option<Capability>,
    /// It has MSI, with this control register.
    pub msi: Option<(Capability, msi::Control)>,
    /// It has MSI-X.
    pub msix: Option<Msix>,
    /// It can be reset by itself.
    pub resettable: bool,
    /// Where its interrupt pin leads in its guest: to this pin of the virtual IOAPIC.
    pub line: Option<Pin>,
}

impl Description {
    /// Reads a function. `bars` are its BARs as `arch::pci` found them; `ids` are those of a virtual function, whose own
    /// registers do not have them.
    ///
    /// # Errors
    /// The capability that is broken.
    pub fn read(
        name: Bdf,
        space: &(impl ConfigSpace + ?Sized),
        bars: &[Bar],
        ids: Option<(u16, u16)>,
        resettable: bool,
    ) -> Result<Self, CapabilityError> {
        let ids = ids.map(|(vendor, device)| u32::from(vendor) | u32::from(device) << 16);
        let mut found = Self {
            name,
            ids: ids.unwrap_or_else(|| space.read_u32(offset::ID)),
            class: space.read_u32(offset::CLASS),
            subsystem: space.read_u32(offset::SUBSYSTEM),
            bars: bars.iter().filter(|bar| bar.kind.is_memory()).copied().collect(),
            power: None,
            express: None,
            msi: None,
            msix: None,
            resettable,
            line: None,
        };
        for capability in capabilities(space) {
            found.add(space, capability?)?;
        }
        Ok(found)
    }

    fn add(
        &mut self,
        space: &(impl ConfigSpace + ?Sized),
        capability: Capability,
    ) -> Result<(), CapabilityError> {
        let twice = match capability.id {
            id::POWER => self.power.replace(capability).is_some(),
            id::EXPRESS => self.express.replace(capability).is_some(),
            id::MSI => {
                let control = space.read_u16(u16::from(capability.offset) + msi::CONTROL);
                let control = msi::Control::from_bits(control);
                self.msi.replace((capability, control)).is_some()
            }
            id::MSIX => {
                let msix = Msix::read(space, capability, &self.bars)?;
                self.msix.replace(msix).is_some()
            }
            // The rest is not for guests.
            _ => false,
        };
        if twice {
            return Err(CapabilityError {
                id: capability.id.into(),
                extended: false,
                offset: capability.offset.into(),
                fault: Fault::Field("a second one in the list"),
            });
        }
        Ok(())
    }
}
