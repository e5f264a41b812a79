//! The messages of a function on a machine without an IOMMU: the function's own registers hold the guest's vector and the
//! core of its vCPU (SDM volume 3, 11.11). Only for a VM whose configuration trusts it (`dma = "identity-unprotected"`).
//!
//! Called by [`super::assigned`]. No locks.

use super::{Block, MsiRoute, RouteError, Source};
use crate::interrupt::route;
use alloc::vec::Vec;
use arch_defs::apic::GuestVector;
use arch_defs::iommu::vtd::interrupt::MsiMessage;

/// The window that local APICs answer in.
const WINDOW: u64 = 0xFEE0_0000;

/// The messages that were routed.
pub struct Unprotected {
    /// The core of each vCPU.
    cores: Vec<usize>,
    msi: Option<MsiMessage>,
    msix: Vec<Option<MsiMessage>>,
}

impl Unprotected {
    /// None yet, for a function with so many MSI-X entries.
    pub fn new(cores: Vec<usize>, entries: u16) -> Self {
        Self { cores, msi: None, msix: alloc::vec![None; entries.into()] }
    }

    /// The message of a source, if it has a route.
    pub fn get(&self, source: Source) -> Option<MsiMessage> {
        match source {
            Source::Msi => self.msi,
            Source::Msix(entry) => self.msix.get(usize::from(entry)).copied().flatten(),
        }
    }

    /// The message of an MSI-X entry.
    ///
    /// # Errors
    /// Why there can be none.
    pub fn route(&mut self, to: MsiRoute) -> Result<MsiMessage, RouteError> {
        let message = self.message(to.vcpu, to.vector)?;
        let place = self.msix.get_mut(usize::from(to.entry)).ok_or(RouteError::NoSuch)?;
        Ok(*place.insert(message))
    }

    /// The message that the function makes all those of MSI from.
    ///
    /// # Errors
    /// Why there can be none.
    pub fn route_msi(&mut self, block: Block) -> Result<MsiMessage, RouteError> {
        // Nothing stops single messages on their way here.
        let first = block.vector(0).filter(|_| block.refused() == 0).ok_or(RouteError::NoSuch)?;
        let message = self.message(block.vcpu, first)?;
        Ok(*self.msi.insert(message))
    }

    /// Forgets what a source had.
    pub fn block(&mut self, source: Source) {
        match source {
            Source::Msi => self.msi = None,
            Source::Msix(entry) => {
                if let Some(place) = self.msix.get_mut(usize::from(entry)) {
                    *place = None;
                }
            }
        }
    }

    /// Forgets all of them.
    pub fn block_all(&mut self) {
        self.msi = None;
        self.msix.fill(None);
    }

    fn message(&self, vcpu: u32, vector: GuestVector) -> Result<MsiMessage, RouteError> {
        let core = self.cores.get(vcpu as usize).copied().ok_or(RouteError::NoSuch)?;
        message(route::guest_core(core).0, vector)
    }
}

/// A message to the CPU with this APIC id: physical destination, fixed, edge.
fn message(apic_id: u32, vector: GuestVector) -> Result<MsiMessage, RouteError> {
    // 0xFF is everybody.
    let id = u8::try_from(apic_id).ok().filter(|&id| id != 0xFF).ok_or(RouteError::FarCore)?;
    Ok(MsiMessage { address: WINDOW | u64::from(id) << 12, data: vector.get().into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_vector_and_core() {
        let vector = GuestVector::new(0x41).unwrap();
        let expected = MsiMessage { address: 0xFEE0_3000, data: 0x41 };
        assert_eq!(message(3, vector), Ok(expected));
        for far in [0xFF, 0x100, u32::MAX] {
            assert_eq!(message(far, vector), Err(RouteError::FarCore));
        }
    }
}
