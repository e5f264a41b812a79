//! IOMMU layouts: who asks (requester ids), the DMAR table, and VT-d's registers and tables. Used by
//! `arch::iommu`. Pure; no locks. VT-d specification, revision 4.1.

pub mod dmar;
pub mod vtd;

use crate::pci::Bdf;
use core::fmt;

/// Who sends a request over PCI Express: the segment, and the id that the request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequesterId {
    /// PCI segment.
    pub segment: u16,
    /// Bus in bits 15:8, device in 7:3, function in 2:0.
    pub id: u16,
}

impl RequesterId {
    /// From bus, device (below 32) and function (below 8); higher bits of the two are dropped.
    pub const fn new(segment: u16, bus: u8, device: u8, function: u8) -> Self {
        let devfn = (device & 31) << 3 | function & 7;
        Self { segment, id: (bus as u16) << 8 | devfn as u16 }
    }

    /// Bus number.
    pub const fn bus(self) -> u8 {
        (self.id >> 8) as u8
    }

    /// Device and function: the index into a context table.
    pub const fn devfn(self) -> u8 {
        self.id as u8
    }
}

impl From<Bdf> for RequesterId {
    fn from(function: Bdf) -> Self {
        Self { segment: function.segment, id: function.requester() }
    }
}

impl From<RequesterId> for Bdf {
    fn from(requester: RequesterId) -> Self {
        Self::from_requester(requester.segment, requester.id)
    }
}

/// As people write it: `segment:bus:device.function`.
impl fmt::Display for RequesterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Bdf::from(*self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_requester_reads_as_people_write_it() {
        let requester = RequesterId::new(1, 0xFE, 0x1F, 7);
        assert_eq!(requester.to_string(), "0001:fe:1f.7");
        assert_eq!((requester.bus(), requester.devfn(), requester.id), (0xFE, 0xFF, 0xFEFF));
        assert_eq!(RequesterId::from(Bdf::from(requester)), requester);
    }
}
