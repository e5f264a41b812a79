//! The two lists of capabilities: from byte 0x34 in the first 256 bytes, and from 0x100 in ECAM.
//!
//! The lists come from a device, which may be broken: a list that loops, leaves the space or has two capabilities in
//! one place ends with an error that names the capability and its offset. PCIe 5.0, sections 7.5.1.1.11 and 7.6.3.

use super::header::{STATUS_CAPABILITIES, offset};
use super::msi::Control as MsiControl;
use super::{CONFIG_SIZE, ConfigSpace, LEGACY_CONFIG_SIZE};
use core::fmt;

/// Ids of capabilities.
pub mod id {
    /// Power management.
    pub const POWER: u8 = 0x01;
    /// Message-signalled interrupts.
    pub const MSI: u8 = 0x05;
    /// PCI Express.
    pub const EXPRESS: u8 = 0x10;
    /// MSI-X.
    pub const MSIX: u8 = 0x11;
    /// Advanced features.
    pub const ADVANCED: u8 = 0x13;
}

/// Ids of extended capabilities.
pub mod extended_id {
    /// Access control services.
    pub const ACS: u16 = 0x000D;
    /// Alternative routing-id interpretation.
    pub const ARI: u16 = 0x000E;
    /// Single-root I/O virtualisation.
    pub const SRIOV: u16 = 0x0010;
}

const FIRST: u16 = 0x40;
const FIRST_EXTENDED: u16 = 0x100;

/// A capability of the first list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// What it is.
    pub id: u8,
    /// Where it starts, in bytes.
    pub offset: u8,
    /// Bytes that belong to it; at least 4, more for those of [`id`].
    pub len: u8,
}

/// A capability of the second list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedCapability {
    /// What it is.
    pub id: u16,
    /// Where it starts, in bytes.
    pub offset: u16,
}

/// What is wrong with a capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The pointer to it leads below the list or beyond its end.
    Outside,
    /// The list comes back to it.
    Loop,
    /// It lies over another one.
    Overlap,
    /// It ends beyond the configuration space.
    Truncated,
    /// This field of it has a value without a meaning.
    Field(&'static str),
}

/// A capability that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapabilityError {
    /// Its id; of the pointer before it if the fault is [`Fault::Outside`].
    pub id: u16,
    /// It is of the extended list.
    pub extended: bool,
    /// Where it starts, in bytes.
    pub offset: u16,
    /// What is wrong.
    pub fault: Fault,
}

impl fmt::Display for CapabilityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.extended { "extended capability" } else { "capability" };
        let (id, offset) = (self.id, self.offset);
        match self.fault {
            Fault::Outside if id == 0 => {
                write!(
                    f,
                    "the first {kind}'s pointer leads to {offset:#x}, which is no place for one"
                )
            }
            Fault::Outside => {
                write!(
                    f,
                    "{kind} {id:#x}: its next pointer leads to {offset:#x}, which is no place for one"
                )
            }
            Fault::Loop => write!(f, "{kind} {id:#x} at {offset:#x}: the list comes back to it"),
            Fault::Overlap => write!(f, "{kind} {id:#x} at {offset:#x} lies over another one"),
            Fault::Truncated => {
                write!(f, "{kind} {id:#x} at {offset:#x} ends beyond the configuration space")
            }
            Fault::Field(field) => {
                write!(f, "{kind} {id:#x} at {offset:#x}: {field} has no meaning")
            }
        }
    }
}

/// Which dwords of a space have an owner, and which of them begin a capability.
struct Taken {
    owned: [u64; 16],
    starts: [u64; 16],
}

impl Taken {
    const NOTHING: Self = Self { owned: [0; 16], starts: [0; 16] };

    /// Takes `len` bytes from `offset`, which is below [`CONFIG_SIZE`].
    fn take(&mut self, offset: u16, len: u16, end: u16) -> Result<(), Fault> {
        let slot = |at: u16| (usize::from(at / 4 / 64), 1_u64 << (at / 4 % 64));
        let (word, bit) = slot(offset);
        let started = self.starts.get(word).is_some_and(|bits| bits & bit != 0);
        if started {
            return Err(Fault::Loop);
        }
        if offset + len > end {
            return Err(Fault::Truncated);
        }
        for at in (offset..offset + len).step_by(4) {
            let (word, bit) = slot(at);
            let owned = self.owned.get_mut(word).ok_or(Fault::Truncated)?;
            if *owned & bit != 0 {
                return Err(Fault::Overlap);
            }
            *owned |= bit;
        }
        if let Some(starts) = self.starts.get_mut(word) {
            *starts |= bit;
        }
        Ok(())
    }
}

/// The first list of a function, in its order. Ends after the first error.
pub fn capabilities<S: ConfigSpace + ?Sized>(space: &S) -> Capabilities<'_, S> {
    // Where nobody answers, all is ones. The ids do not tell: those of a virtual function are ones too.
    let there = space.read_u32(offset::COMMAND) != u32::MAX;
    let has = there && space.read_u16(offset::STATUS) & STATUS_CAPABILITIES != 0;
    let next = if has { space.read_u8(offset::CAPABILITIES) } else { 0 };
    Capabilities { space, next, last: 0, taken: Taken::NOTHING }
}

/// See [`capabilities`].
pub struct Capabilities<'a, S: ?Sized> {
    space: &'a S,
    next: u8,
    last: u8,
    taken: Taken,
}

impl<S: ConfigSpace + ?Sized> Iterator for Capabilities<'_, S> {
    type Item = Result<Capability, CapabilityError>;

    fn next(&mut self) -> Option<Self::Item> {
        // The low two bits of a pointer are reserved.
        let offset = u16::from(self.next & !3);
        if offset == 0 {
            return None;
        }
        self.next = 0;
        let error = |id: u8, fault| {
            Some(Err(CapabilityError { id: id.into(), extended: false, offset, fault }))
        };
        if offset < FIRST {
            return error(self.last, Fault::Outside);
        }
        let [id, next, ..] = self.space.read_u32(offset).to_le_bytes();
        let len = length(self.space, id, offset);
        if let Err(fault) = self.taken.take(offset, len.into(), LEGACY_CONFIG_SIZE) {
            return error(id, fault);
        }
        (self.next, self.last) = (next, id);
        Some(Ok(Capability { id, offset: offset as u8, len }))
    }
}

/// Bytes of a capability that starts at `offset`.
fn length(space: &(impl ConfigSpace + ?Sized), id: u8, offset: u16) -> u8 {
    let word = space.read_u16(offset + 2);
    match id {
        id::POWER | id::ADVANCED => 8,
        id::MSI => MsiControl::from_bits(word).size(),
        id::MSIX => 12,
        id::EXPRESS if word & 0xF < 2 => 0x14,
        id::EXPRESS => 0x3C,
        _ => 4,
    }
}

/// The second list of a function, in its order. Ends after the first error. A function without ECAM reads as ones
/// there, and has none.
pub fn extended_capabilities<S: ConfigSpace + ?Sized>(space: &S) -> ExtendedCapabilities<'_, S> {
    let first = space.read_u32(FIRST_EXTENDED);
    let next = if first == 0 || first == u32::MAX { 0 } else { FIRST_EXTENDED };
    ExtendedCapabilities { space, next, last: 0, taken: Taken::NOTHING }
}

/// See [`extended_capabilities`].
pub struct ExtendedCapabilities<'a, S: ?Sized> {
    space: &'a S,
    next: u16,
    last: u16,
    taken: Taken,
}

impl<S: ConfigSpace + ?Sized> Iterator for ExtendedCapabilities<'_, S> {
    type Item = Result<ExtendedCapability, CapabilityError>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.next & !3;
        if offset == 0 {
            return None;
        }
        self.next = 0;
        let error = |id, fault| Some(Err(CapabilityError { id, extended: true, offset, fault }));
        if offset < FIRST_EXTENDED {
            return error(self.last, Fault::Outside);
        }
        let header = self.space.read_u32(offset);
        let id = header as u16;
        let len = match id {
            extended_id::SRIOV => 0x40,
            extended_id::ARI | extended_id::ACS => 8,
            _ => 4,
        };
        if let Err(fault) = self.taken.take(offset, len, CONFIG_SIZE) {
            return error(id, fault);
        }
        (self.next, self.last) = ((header >> 20) as u16, id);
        Some(Ok(ExtendedCapability { id, offset }))
    }
}

/// The first capability with `id`.
///
/// # Errors
/// What is wrong with the list up to it.
pub fn find(
    space: &(impl ConfigSpace + ?Sized),
    id: u8,
) -> Result<Option<Capability>, CapabilityError> {
    capabilities(space).find(|found| found.is_err() || found.is_ok_and(|c| c.id == id)).transpose()
}

/// The first extended capability with `id`.
///
/// # Errors
/// What is wrong with the list up to it.
pub fn find_extended(
    space: &(impl ConfigSpace + ?Sized),
    id: u16,
) -> Result<Option<ExtendedCapability>, CapabilityError> {
    let mut list = extended_capabilities(space);
    list.find(|found| found.is_err() || found.is_ok_and(|c| c.id == id)).transpose()
}
