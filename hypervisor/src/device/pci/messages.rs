//! A guest's message, checked against the vCPUs of its VM (requirements A3, S2).

use super::MsiRoute;
use arch_defs::apic::{ApicId, MAX_VCPUS, XapicLogical, targets, xapic_targets};
use arch_defs::pci::{MessageRefused, decode_message};
use arrayvec::ArrayVec;

/// Who a VM's destinations are.
#[derive(Clone, Debug)]
pub struct Vcpus {
    /// The logical ids that the guest gave its vCPUs in xAPIC state, one for each vCPU.
    pub logical: ArrayVec<XapicLogical, { MAX_VCPUS as usize }>,
    /// Its APICs are in xAPIC state.
    pub xapic: bool,
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
    /// The route that this message stands for as entry `entry`. A message reaches one vCPU: a remapping entry has one
    /// destination.
    ///
    /// # Errors
    /// Why it must be blocked.
    pub fn resolve(self, entry: u16, vcpus: &Vcpus) -> Result<MsiRoute, MessageRefused> {
        let message = decode_message(self.address, self.data)?;
        let destination = message.target(vcpus.xapic);
        let set = if vcpus.xapic {
            xapic_targets(destination, ApicId(0), &vcpus.logical)
        } else {
            targets(destination, ApicId(0), vcpus.logical.len() as u32)
        };
        match set.first() {
            Some(vcpu) if message.any || set.len() == 1 => {
                Ok(MsiRoute { entry, vector: message.vector, vcpu: vcpu.0 })
            }
            _ => Err(MessageRefused::Destination(message.destination)),
        }
    }
}

/// What stands in an entry's remapping entry, as far as its model has asked for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Applied {
    /// Nothing was asked for since the reset: it delivers nothing.
    #[default]
    Blocked,
    /// A refused message.
    Refused,
    /// This route.
    Route(MsiRoute),
}
