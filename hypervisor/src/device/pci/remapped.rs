//! The remapping entries of an assigned function's messages: one for each MSI-X entry that was routed, and a block for MSI.
//! Only this function can raise them; they are its own for good.
//!
//! Called by [`super::assigned`]. Takes the IOMMU's lock in [`crate::interrupt::route`].

use super::{Block, MsiRoute, RouteError, Source};
use crate::interrupt::route;
use alloc::vec::Vec;
use arch::iommu::RemapIndex;
use arch_defs::iommu::RequesterId;

/// The entries.
pub struct Remapped {
    device: RequesterId,
    /// The core of each vCPU.
    cores: Vec<usize>,
    /// Messages that MSI has.
    messages: u16,
    /// The first of MSI's, once there was a route.
    msi: Option<RemapIndex>,
    /// That of each MSI-X entry.
    msix: Vec<Option<RemapIndex>>,
}

impl Remapped {
    /// None yet, for a function with so many messages by MSI and so many MSI-X entries.
    pub fn new(device: RequesterId, cores: Vec<usize>, messages: u16, entries: u16) -> Self {
        Self { device, cores, messages, msi: None, msix: alloc::vec![None; entries.into()] }
    }

    /// The first remapping entry of a source, if it has one.
    pub fn get(&self, source: Source) -> Option<RemapIndex> {
        match source {
            Source::Msi => self.msi,
            Source::Msix(entry) => self.msix.get(usize::from(entry)).copied().flatten(),
        }
    }

    /// The first remapping entry of a source; true with it if it is new. MSI gets as many as the function could ever
    /// raise, so that its message is the same whatever the guest enables.
    ///
    /// # Errors
    /// Why there is none.
    pub fn get_or_allocate(&mut self, source: Source) -> Result<(RemapIndex, bool), RouteError> {
        let (place, count) = match source {
            Source::Msi if self.messages > 0 => (&mut self.msi, self.messages),
            Source::Msi => return Err(RouteError::NoSuch),
            Source::Msix(entry) => {
                (self.msix.get_mut(usize::from(entry)).ok_or(RouteError::NoSuch)?, 1)
            }
        };
        if let Some(index) = *place {
            return Ok((index, false));
        }
        let index = route::with_iommu(|iommu| iommu.allocate_block(self.device, count))
            .ok_or(RouteError::NoIommu)??;
        *place = Some(index);
        Ok((index, true))
    }

    fn core(&self, vcpu: u32) -> Result<usize, RouteError> {
        self.cores.get(vcpu as usize).copied().ok_or(RouteError::NoSuch)
    }

    /// Routes an MSI-X entry that has its remapping entry.
    ///
    /// # Errors
    /// What the IOMMU says.
    pub fn route(&self, to: MsiRoute) -> Result<(), RouteError> {
        let index = self.get(Source::Msix(to.entry)).ok_or(RouteError::NoSuch)?;
        Ok(route::to_guest([(index, Some(to.vector))], self.core(to.vcpu)?)?)
    }

    /// Routes all messages of MSI, by one change.
    ///
    /// # Errors
    /// What the IOMMU says.
    pub fn route_msi(&self, block: Block) -> Result<(), RouteError> {
        let first = self.msi.ok_or(RouteError::NoSuch)?;
        let all = (0..self.messages).map(|message| (first.nth(message), block.vector(message)));
        Ok(route::to_guest(all, self.core(block.vcpu)?)?)
    }

    /// Blocks what a source has.
    ///
    /// # Errors
    /// What the IOMMU says.
    pub fn block(&self, source: Source) -> Result<(), RouteError> {
        let count = if source == Source::Msi { self.messages } else { 1 };
        let first = self.get(source);
        Ok(route::block(first.into_iter().flat_map(|f| (0..count).map(move |n| f.nth(n))))?)
    }

    /// Blocks all of them, by one change.
    ///
    /// # Errors
    /// What the IOMMU says.
    pub fn block_all(&self) -> Result<(), RouteError> {
        let msi =
            self.msi.into_iter().flat_map(|first| (0..self.messages).map(move |n| first.nth(n)));
        Ok(route::block(msi.chain(self.msix.iter().copied().flatten()))?)
    }
}
