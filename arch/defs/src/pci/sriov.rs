//! The SR-IOV capability and the numbering of virtual functions (VFs). PCIe 5.0, section 9.3.3.
//!
//! A VF's own configuration space has neither ids nor BARs: both follow from its physical function (PF).

use super::capability::{CapabilityError, ExtendedCapability, Fault, extended_id};
use super::{Bar, Bdf, ConfigSpace};
use bitfield_struct::bitfield;
use core::fmt;

/// Byte offsets in the capability.
pub mod offset {
    /// [`super::Control`].
    pub const CONTROL: u16 = 0x08;
    /// VFs that are there at first (16 bits).
    pub const INITIAL_VFS: u16 = 0x0C;
    /// Most VFs (16 bits).
    pub const TOTAL_VFS: u16 = 0x0E;
    /// VFs that are wanted (16 bits).
    pub const NUM_VFS: u16 = 0x10;
    /// Distance from the PF to the first VF (16 bits).
    pub const FIRST_VF: u16 = 0x14;
    /// Distance between VFs (16 bits).
    pub const STRIDE: u16 = 0x16;
    /// Device id of the VFs (16 bits).
    pub const VF_DEVICE: u16 = 0x1A;
    /// Page sizes that are known (32 bits): bit n for 4 KiB shifted by n.
    pub const PAGE_SIZES: u16 = 0x1C;
    /// The page size in use (32 bits).
    pub const PAGE_SIZE: u16 = 0x20;
    /// First of six BARs.
    pub const BARS: u16 = 0x24;
}

/// SR-IOV control register.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Control {
    /// The VFs are there.
    pub enable: bool,
    #[bits(2)]
    __: u8,
    /// They answer at their BARs.
    pub memory: bool,
    /// VFs may have device numbers above 0; only in the first PF of a device.
    pub ari: bool,
    #[bits(11)]
    __: u16,
}

/// The capability of a PF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sriov {
    /// Byte offset of the capability.
    pub offset: u16,
    /// Most VFs.
    pub total: u16,
    /// Distance from the PF to the first VF.
    pub first: u16,
    /// Distance between VFs.
    pub stride: u16,
    /// Device id of the VFs.
    pub vf_device: u16,
}

/// A VF that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VfError {
    /// The PF has fewer.
    TooMany {
        /// Number of the VF, from 0.
        vf: u16,
        /// VFs that the PF has at most.
        total: u16,
    },
    /// Its requester id does not fit in 16 bits.
    BusOverflow {
        /// Number of the VF, from 0.
        vf: u16,
    },
    /// Its requester id is that of the PF or of another VF: offset or stride is 0.
    Collision {
        /// Number of the VF, from 0.
        vf: u16,
    },
    /// Its BAR lies beyond the address space.
    Bar {
        /// Number of the BAR.
        index: u8,
    },
}

impl fmt::Display for VfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany { vf, total } => {
                write!(f, "vf{vf} is not there: TotalVFs is {total}")
            }
            Self::BusOverflow { vf } => write!(f, "vf{vf} would lie behind bus ff"),
            Self::Collision { vf } => {
                write!(f, "vf{vf} has the number of another function: VF offset or stride is 0")
            }
            Self::Bar { index } => write!(f, "VF BAR {index} ends beyond the address space"),
        }
    }
}

impl Sriov {
    /// Reads the capability. `first` and `stride` depend on NumVFs and the ARI bit: read anew when those change.
    ///
    /// # Errors
    /// The field that is wrong.
    pub fn read(
        space: &(impl ConfigSpace + ?Sized),
        capability: ExtendedCapability,
    ) -> Result<Self, CapabilityError> {
        let at = capability.offset;
        let total = space.read_u16(at + offset::TOTAL_VFS);
        let wrong = |field| CapabilityError {
            id: extended_id::SRIOV,
            extended: true,
            offset: at,
            fault: Fault::Field(field),
        };
        if space.read_u16(at + offset::INITIAL_VFS) > total {
            return Err(wrong("InitialVFs"));
        }
        if space.read_u32(at + offset::PAGE_SIZES) & 1 == 0 {
            // PCIe requires 4 KiB of every PF.
            return Err(wrong("Supported Page Sizes"));
        }
        Ok(Self {
            offset: at,
            total,
            first: space.read_u16(at + offset::FIRST_VF),
            stride: space.read_u16(at + offset::STRIDE),
            vf_device: space.read_u16(at + offset::VF_DEVICE),
        })
    }

    /// The function that is VF `vf` (from 0) of `pf`.
    ///
    /// # Errors
    /// Why there is none.
    pub fn vf(&self, pf: Bdf, vf: u16) -> Result<Bdf, VfError> {
        if vf >= self.total {
            return Err(VfError::TooMany { vf, total: self.total });
        }
        if self.first == 0 || vf > 0 && self.stride == 0 {
            return Err(VfError::Collision { vf });
        }
        let ids = u32::from(self.first) + u32::from(vf) * u32::from(self.stride);
        let requester = u16::try_from(u32::from(pf.requester()) + ids);
        let requester = requester.map_err(|_| VfError::BusOverflow { vf })?;
        Ok(Bdf::from_requester(pf.segment, requester))
    }
}

/// The BAR of VF `vf`, from that of VF 0 as the PF's capability has it: one behind the other.
///
/// # Errors
/// If it ends beyond the address space.
pub fn vf_bar(first: Bar, vf: u16) -> Result<Bar, VfError> {
    let error = VfError::Bar { index: first.index };
    let offset = first.size.checked_mul(vf.into()).ok_or(error)?;
    let address = first.address.checked_add(offset).ok_or(error)?;
    address.checked_add(first.size - 1).ok_or(error)?;
    Ok(Bar { address, ..first })
}
