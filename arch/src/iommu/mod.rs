//! The machine's IOMMUs: which memory a device reaches, and which interrupts it can raise. VT-d is the one
//! kind today ([`vtd`]); what is here is common to it and to a later AMD-Vi. VT-d specification 4.1.
//!
//! [`Iommu`] is started by boot and owned by whoever assigns devices; the owner's `&mut` is the only lock
//! (heap and page tables take theirs, which are leaves). No call returns before the hardware has dropped
//! what it had cached of the old state, and finished what it had begun with it.

mod scope;
pub mod vtd;

use crate::apic::PhysicalApicId;
use crate::paging;
use crate::stage2::Stage2;
use alloc::vec::Vec;
use arch_defs::iommu::RequesterId;
use arch_defs::iommu::dmar::{Dmar, Drhd};
use arch_defs::iommu::vtd::fault::reason_text;
use arch_defs::iommu::vtd::interrupt::{MsiMessage, RemappableIoApicEntry};
use core::fmt;
use core::ops::{Range, RangeInclusive};
use scope::Scopes;
use vtd::{Mmio, Registers, Unit, UnitFacts};

/// Why a call failed. The first four name the unit by the address of its registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The unit lacks something that Beeline needs.
    Missing {
        /// The unit.
        unit: u64,
        /// The capability, and what the user can do.
        what: &'static str,
    },
    /// The unit did not do what it was told, within about a second.
    NoAnswer {
        /// The unit.
        unit: u64,
        /// The command.
        what: &'static str,
    },
    /// The unit stopped at an invalidation.
    Queue {
        /// The unit.
        unit: u64,
        /// Its fault status register.
        status: u32,
    },
    /// The unit failed at an earlier invalidation. Nothing of it changes any more, and nobody waits for it again.
    Dead {
        /// The unit.
        unit: u64,
    },
    /// No memory for a table.
    OutOfMemory,
    /// No unit covers the device.
    NotCovered(RequesterId),
    /// The unit's remapping table has no free block of the size.
    NoEntries {
        /// Entries in a row.
        count: u16,
    },
    /// The remapping entry is not allocated.
    NotAllocated(RemapIndex),
    /// A vector below 16.
    Vector(u8),
    /// The unit does not have this domain id; 0 is nobody's.
    Domain(u16),
    /// The device has an address space already.
    Attached(RequesterId),
    /// The device has no address space.
    NotAttached(RequesterId),
    /// The unit cannot walk this address space.
    AddressSpace(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { unit, what } => write!(f, "the IOMMU at {unit:#x} has no {what}"),
            Self::NoAnswer { unit, what } => {
                write!(f, "the IOMMU at {unit:#x} does not answer: {what}")
            }
            Self::Queue { unit, status } => write!(
                f,
                "the IOMMU at {unit:#x} stopped at an invalidation (fault status {status:#x})"
            ),
            Self::Dead { unit } => {
                write!(f, "the IOMMU at {unit:#x} was given up after an invalidation that failed")
            }
            Self::OutOfMemory => f.write_str("no memory for an IOMMU table"),
            Self::NotCovered(device) => write!(f, "no IOMMU covers device {device}"),
            Self::NoEntries { count: 1 } => f.write_str("the interrupt remapping table is full"),
            Self::NoEntries { count } => {
                write!(f, "the interrupt remapping table has no {count} free entries in a row")
            }
            Self::NotAllocated(index) => {
                write!(f, "interrupt remapping entry {} is not allocated", index.entry)
            }
            Self::Vector(vector) => write!(f, "vector {vector} cannot be delivered"),
            Self::Domain(id) => write!(f, "the IOMMU has no domain id {id}"),
            Self::Attached(device) => write!(f, "device {device} is assigned already"),
            Self::NotAttached(device) => write!(f, "device {device} is not assigned"),
            Self::AddressSpace(why) => write!(f, "the IOMMU cannot walk the address space: {why}"),
        }
    }
}

/// An allocated remapping entry: a unit and the index into its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemapIndex {
    unit: u8,
    entry: u16,
}

impl RemapIndex {
    /// The entry `n` after this one, of a block.
    pub const fn nth(self, n: u16) -> Self {
        Self { entry: self.entry.wrapping_add(n), ..self }
    }

    /// The index that the hardware and its fault records use.
    pub const fn entry(self) -> u16 {
        self.entry
    }

    /// What a device writes to raise the entry `subhandle` after this one. The device adds the message's
    /// number itself if it was given several messages by plain MSI: then 0.
    pub const fn msi_message(self, subhandle: u16) -> MsiMessage {
        MsiMessage::remappable(self.entry, subhandle)
    }

    /// The I/O APIC's redirection entry that raises this one, masked. Vector and trigger mode are to be as in
    /// the route, since an EOI finds the pin by them.
    pub const fn ioapic_entry(
        self,
        vector: u8,
        level: bool,
        active_low: bool,
    ) -> RemappableIoApicEntry {
        RemappableIoApicEntry::raising(self.entry)
            .with_vector(vector)
            .with_level(level)
            .with_active_low(active_low)
    }
}

/// Where a remapped interrupt goes: fixed delivery, physical destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Vector, 16 to 255.
    pub vector: u8,
    /// Core.
    pub destination: PhysicalApicId,
    /// Level rather than edge: for I/O APIC pins alone.
    pub level: bool,
}

/// What a fault was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// An access to memory.
    Dma {
        /// Page of the address that the device used.
        address: u64,
        /// A write rather than a read.
        write: bool,
    },
    /// An interrupt.
    Interrupt {
        /// Index into the unit's remapping table.
        index: u16,
    },
}

/// A request that was blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Who asked.
    pub requester: RequesterId,
    /// For what.
    pub blocked: Blocked,
    /// The specification's fault reason.
    pub reason: u8,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {}: ", self.requester)?;
        match self.blocked {
            Blocked::Dma { address, write: true } => write!(f, "DMA write to page {address:#x}")?,
            Blocked::Dma { address, write: false } => write!(f, "DMA read of page {address:#x}")?,
            Blocked::Interrupt { index } => write!(f, "interrupt by remapping entry {index}")?,
        }
        write!(f, " blocked: {} (reason {:#x})", reason_text(self.reason), self.reason)
    }
}

/// All IOMMUs of the machine. `R` is how their registers are reached: memory, or a model in tests.
#[derive(Debug)]
pub struct Iommu<R = Mmio> {
    units: Vec<Unit<R>>,
    scopes: Scopes,
}

impl Iommu {
    /// Takes over every unit that the table names: all devices are blocked, all interrupts but remapped ones
    /// too. `entries` is the size of each unit's remapping table, rounded up to a power of two from 256 to
    /// 65536. `buses` gives the secondary to subordinate bus of a PCI bridge, `None` for anything else.
    ///
    /// Once per boot, with the I/O APICs' pins masked, after `paging::activate`. Register bases do not lie in
    /// RAM (checked by boot).
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::NoAnswer`], [`Error::Queue`], [`Error::OutOfMemory`]. All units are off then, but for
    /// one that does not answer to that.
    pub fn start(
        dmar: &Dmar,
        entries: u32,
        buses: impl Fn(RequesterId) -> Option<RangeInclusive<u8>>,
    ) -> Result<Self, Error> {
        Self::start_with(dmar, entries, buses, |drhd| Mmio::new(drhd.base, paging::map_mmio))
    }
}

impl<R: Registers> Iommu<R> {
    fn start_with(
        dmar: &Dmar,
        entries: u32,
        buses: impl Fn(RequesterId) -> Option<RangeInclusive<u8>>,
        registers: impl Fn(&Drhd) -> R,
    ) -> Result<Self, Error> {
        if let (false, Some(drhd)) = (dmar.interrupt_remapping, dmar.units.first()) {
            let what = "interrupt remapping on this board (DMAR flag INTR_REMAP is 0): switch VT-d \
                        and interrupt remapping on in the firmware";
            return Err(Error::Missing { unit: drhd.base, what });
        }
        let mut units = Vec::new();
        for drhd in &dmar.units {
            match Unit::start(drhd.base, drhd.segment, registers(drhd), entries) {
                Ok(unit) => units.push(unit),
                Err(why) => {
                    // Half of them would block interrupts that nobody remaps, and confine nobody.
                    units.iter().for_each(Unit::stop);
                    return Err(why);
                }
            }
        }
        Ok(Self { units, scopes: Scopes::resolve(dmar, &buses) })
    }

    fn number(&self, device: RequesterId) -> Result<usize, Error> {
        self.scopes.unit_of(device).ok_or(Error::NotCovered(device))
    }

    fn unit_of(&mut self, device: RequesterId) -> Result<&mut Unit<R>, Error> {
        let number = self.number(device)?;
        self.units.get_mut(number).ok_or(Error::NotCovered(device))
    }

    /// Tells that a function is a virtual function of `physical`, whose unit covers it too (section 8.3.1).
    /// Before any other call for it.
    ///
    /// # Errors
    /// [`Error::NotCovered`].
    pub fn add_virtual_function(
        &mut self,
        function: RequesterId,
        physical: RequesterId,
    ) -> Result<(), Error> {
        let number = self.number(physical)?;
        self.scopes.add(function, number);
        Ok(())
    }

    /// Requester id of the I/O APIC with this id.
    pub fn ioapic_requester(&self, id: u8) -> Option<RequesterId> {
        self.scopes.ioapic(id)
    }

    /// Memory that firmware wants the device to reach (RMRR). Nothing of it is mapped.
    pub fn reserved_memory(&self, device: RequesterId) -> impl Iterator<Item = Range<u64>> + '_ {
        self.scopes.reserved(device)
    }

    /// The largest page that every unit can map: 0 for 4 KiB, 1 for 2 MiB, 2 for 1 GiB.
    pub fn largest_page(&self) -> usize {
        self.units.iter().map(Unit::largest_page).min().unwrap_or(0)
    }

    /// Allocates one remapping entry, blocked, which only `requester` can raise.
    ///
    /// # Errors
    /// [`Error::NotCovered`], [`Error::NoEntries`].
    pub fn allocate_remapping(&mut self, requester: RequesterId) -> Result<RemapIndex, Error> {
        self.allocate_block(requester, 1)
    }

    /// Allocates `count` entries in a row, from a multiple of the next power of two on, as multiple-message
    /// MSI needs them.
    ///
    /// # Errors
    /// [`Error::NotCovered`], [`Error::NoEntries`].
    pub fn allocate_block(
        &mut self,
        requester: RequesterId,
        count: u16,
    ) -> Result<RemapIndex, Error> {
        let number = self.number(requester)?;
        let entry = self.unit_of(requester)?.allocate(requester, count)?;
        Ok(RemapIndex { unit: number as u8, entry })
    }

    /// Blocks `count` entries from `first` on and gives them back.
    ///
    /// # Errors
    /// [`Error::NotAllocated`], and what the hardware can answer.
    pub fn free(&mut self, first: RemapIndex, count: u16) -> Result<(), Error> {
        self.change((0..count).map(|n| (first.nth(n), None)))?;
        for n in 0..count {
            self.unit(first)?.release(first.nth(n).entry);
        }
        Ok(())
    }

    fn unit(&mut self, index: RemapIndex) -> Result<&mut Unit<R>, Error> {
        self.units.get_mut(usize::from(index.unit)).ok_or(Error::NotAllocated(index))
    }

    /// Routes an entry.
    ///
    /// # Errors
    /// As [`Iommu::change`].
    pub fn route(&mut self, index: RemapIndex, target: Route) -> Result<(), Error> {
        self.change([(index, Some(target))])
    }

    /// Blocks an entry.
    ///
    /// # Errors
    /// As [`Iommu::change`].
    pub fn block(&mut self, index: RemapIndex) -> Result<(), Error> {
        self.change([(index, None)])
    }

    /// Routes or blocks many entries by one invalidation for each unit concerned. On return no interrupt will
    /// go by an old route any more: what had begun to has reached its core's IRR (requirement B2).
    ///
    /// # Errors
    /// [`Error::NotAllocated`] or [`Error::Vector`] of the first bad item: those before it have been changed.
    /// [`Error::Queue`], [`Error::NoAnswer`], [`Error::Dead`]: the hardware may still use old routes. A unit that
    /// fails is waited for once, and only by those who change something of it.
    pub fn change(
        &mut self,
        changes: impl IntoIterator<Item = (RemapIndex, Option<Route>)>,
    ) -> Result<(), Error> {
        let mut changes = changes.into_iter();
        let written =
            changes.try_for_each(|(index, route)| self.unit(index)?.set_route(index, route));
        // The units work side by side.
        self.units.iter_mut().for_each(Unit::begin_interrupt_flush);
        // All are waited for, also if one fails.
        let flushed = self.units.iter_mut().map(Unit::finish_interrupt_flush);
        flushed.fold(Ok(()), Result::and)?;
        written
    }

    /// Where an entry sends its interrupt, read from the table; `None` if it is blocked. For audits.
    pub fn current(&mut self, index: RemapIndex) -> Option<Route> {
        self.unit(index).ok()?.current(index.entry)
    }

    /// Gives a device an address space. `domain` tags what the hardware caches of it: one id for one address
    /// space, not 0. The space is of [`crate::stage2::Format::Vtd`] and does not change any more.
    ///
    /// # Errors
    /// [`Error::NotCovered`], [`Error::Domain`], [`Error::Attached`], [`Error::AddressSpace`],
    /// [`Error::OutOfMemory`], and what the hardware can answer.
    pub fn attach(
        &mut self,
        device: RequesterId,
        space: &Stage2,
        domain: u16,
    ) -> Result<(), Error> {
        self.unit_of(device)?.attach(device, space, domain)
    }

    /// Blocks a device. On return its last access is done.
    ///
    /// # Errors
    /// [`Error::NotCovered`], [`Error::NotAttached`], and what the hardware can answer.
    pub fn detach(&mut self, device: RequesterId) -> Result<(), Error> {
        self.unit_of(device)?.detach(device)
    }

    /// Hands out the recorded faults and frees their records. True if a unit had more than it could record.
    pub fn faults(&mut self, each: &mut impl FnMut(Fault)) -> bool {
        self.units.iter_mut().fold(false, |lost, unit| unit.faults(each) | lost)
    }

    /// Each unit's registers as they are now, for the log and for tests.
    pub fn facts(&self) -> impl Iterator<Item = UnitFacts> + '_ {
        self.units.iter().map(Unit::facts)
    }
}
