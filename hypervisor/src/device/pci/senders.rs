//! Where the messages of an assigned function go: by remapping entries, or without an IOMMU straight to a core. Either way
//! says what the function's own registers must hold.

use super::assigned::requester;
use super::description::Description;
use super::remapped::Remapped;
use super::unprotected::Unprotected;
use super::{Block, MsiRoute, RouteError, Source};
use crate::interrupt::route;
use alloc::vec::Vec;
use arch_defs::iommu::vtd::interrupt::MsiMessage;

/// The routes of one function's messages.
pub enum Senders {
    /// The registers hold the handle of a remapping entry, which stays the same.
    Remapped(Remapped),
    /// The registers hold the message itself.
    Unprotected(Unprotected),
}

impl Senders {
    /// None yet, for a function of a VM whose vCPUs have these cores.
    pub fn of(description: &Description, cores: Vec<usize>) -> Self {
        let messages = description.msi.map_or(0, |(_, control)| control.messages());
        let entries = description.msix.as_ref().map_or(0, |msix| msix.entries);
        if route::remaps() {
            let device = requester(description.name);
            Self::Remapped(Remapped::new(device, cores, messages, entries))
        } else {
            Self::Unprotected(Unprotected::new(cores, entries))
        }
    }

    /// What the registers of a source hold, if it was routed.
    pub fn message(&self, source: Source) -> Option<MsiMessage> {
        match self {
            Self::Remapped(entries) => entries.get(source).map(|index| index.msi_message(0)),
            Self::Unprotected(messages) => messages.get(source),
        }
    }

    /// Sees to a remapping entry for a source. Returns what its registers must hold from now on, if that is new.
    ///
    /// # Errors
    /// Why there is none.
    pub fn prepare(&mut self, source: Source) -> Result<Option<MsiMessage>, RouteError> {
        let Self::Remapped(entries) = self else { return Ok(None) };
        let (index, new) = entries.get_or_allocate(source)?;
        Ok(new.then(|| index.msi_message(0)))
    }

    /// Routes an MSI-X entry that is prepared. Returns what its registers must hold from now on, if that is new.
    ///
    /// # Errors
    /// Why there is no route.
    pub fn route(&mut self, to: MsiRoute) -> Result<Option<MsiMessage>, RouteError> {
        match self {
            Self::Remapped(entries) => entries.route(to).map(|()| None),
            Self::Unprotected(messages) => messages.route(to).map(Some),
        }
    }

    /// Routes all messages of MSI; as [`Senders::route`].
    ///
    /// # Errors
    /// Why there is no route.
    pub fn route_msi(&mut self, block: Block) -> Result<Option<MsiMessage>, RouteError> {
        match self {
            Self::Remapped(entries) => entries.route_msi(block).map(|()| None),
            Self::Unprotected(messages) => messages.route_msi(block).map(Some),
        }
    }

    /// Lets a source deliver nothing. Without an IOMMU the caller's mask does it.
    ///
    /// # Errors
    /// What the IOMMU says.
    pub fn block(&mut self, source: Source) -> Result<(), RouteError> {
        match self {
            Self::Remapped(entries) => entries.block(source),
            Self::Unprotected(messages) => {
                messages.block(source);
                Ok(())
            }
        }
    }

    /// The same for all of them.
    ///
    /// # Errors
    /// What the IOMMU says.
    pub fn block_all(&mut self) -> Result<(), RouteError> {
        match self {
            Self::Remapped(entries) => entries.block_all(),
            Self::Unprotected(messages) => {
                messages.block_all();
                Ok(())
            }
        }
    }
}
