//! A guest's messages, checked against the vCPUs of its VM (requirements A3, S2).

use super::MsiRoute;
use arch_defs::apic::{ApicId, GuestVector, MAX_VCPUS, XapicLogical, targets, xapic_targets};
use arch_defs::pci::{MessageRefused, decode_message};
use arrayvec::ArrayVec;
use core::fmt;

/// Who a VM's destinations are.
#[derive(Clone, Debug)]
pub struct Vcpus {
    /// The logical ids that the guest gave its vCPUs in xAPIC state, one for each vCPU.
    pub logical: ArrayVec<XapicLogical, { MAX_VCPUS as usize }>,
    /// Its APICs are in xAPIC state.
    pub xapic: bool,
}

/// What of a function sends messages. Each has remapping entries of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// MSI, with all its messages.
    Msi,
    /// An entry of the MSI-X table.
    Msix(u16),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Msi => f.write_str("MSI"),
            Self::Msix(entry) => write!(f, "MSI-X entry {entry}"),
        }
    }
}

/// The messages of MSI: vectors in a row on one vCPU. The function puts a message's number into the low bits of the data,
/// so the first vector is a multiple of their number, and none carries into the next bit (PCI 3.0, section 6.8.1.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Vector of message 0.
    first: u8,
    /// 1 shifted by this many messages, at most 5.
    pub order: u8,
    /// The vCPU, by its number in the VM.
    pub vcpu: u32,
}

impl Block {
    /// Messages that it has.
    pub const fn count(self) -> u16 {
        1 << self.order
    }

    /// The vector of a message: none for one that it has not, and for one below 16, which no APIC takes.
    pub fn vector(self, message: u16) -> Option<GuestVector> {
        GuestVector::new((message < self.count()).then_some(self.first | message as u8)?)
    }

    /// Mask bits of the messages that have no vector.
    pub fn refused(self) -> u32 {
        let bits = (0..self.count()).filter(|&message| self.vector(message).is_none());
        bits.fold(0, |bits, message| bits | 1 << message)
    }
}

/// Address and data as the guest wrote them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawMessage {
    /// Where to.
    pub address: u64,
    /// What.
    pub data: u32,
}

impl RawMessage {
    /// The route that this message stands for as entry `entry` of an MSI-X table.
    ///
    /// # Errors
    /// Why it must be blocked.
    pub fn resolve(self, entry: u16, vcpus: &Vcpus) -> Result<MsiRoute, MessageRefused> {
        let (vector, vcpu) = self.target(vcpus)?;
        Ok(MsiRoute { entry, vector, vcpu })
    }

    /// The routes that this message stands for as MSI with 1 shifted by `order` messages.
    ///
    /// # Errors
    /// Why all of them must be blocked.
    pub fn resolve_block(self, order: u8, vcpus: &Vcpus) -> Result<Block, MessageRefused> {
        let own = (1 << order) - 1;
        // One that has the highest number: if its vector is below 16, all are.
        let (highest, vcpu) = Self { data: self.data | own, ..self }.target(vcpus)?;
        Ok(Block { first: highest.get() & !(own as u8), order, vcpu })
    }

    /// The vector and the one vCPU: a remapping entry has one destination.
    fn target(self, vcpus: &Vcpus) -> Result<(GuestVector, u32), MessageRefused> {
        let message = decode_message(self.address, self.data)?;
        let destination = message.target(vcpus.xapic);
        let set = if vcpus.xapic {
            xapic_targets(destination, ApicId(0), &vcpus.logical)
        } else {
            targets(destination, ApicId(0), vcpus.logical.len() as u32)
        };
        match set.first() {
            Some(vcpu) if message.any || set.len() == 1 => Ok((message.vector, vcpu.0)),
            _ => Err(MessageRefused::Destination(message.destination)),
        }
    }
}

/// What stands in the remapping entry of an MSI-X entry, as far as its model has asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Applied {
    /// Nothing was asked for since the reset: it delivers nothing.
    #[default]
    Blocked,
    /// A refused message, or one whose route failed.
    Refused,
    /// This route.
    Route(MsiRoute),
}
