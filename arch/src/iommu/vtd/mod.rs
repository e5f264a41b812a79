//! One VT-d remapping unit, in legacy mode with queued invalidation and interrupt remapping. VT-d
//! specification 4.1; called by [`super::Iommu`], which see for the locks.

mod queue;
mod registers;
mod remapping;
mod translation;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

pub use registers::{Mmio, Registers};

use super::{Blocked, Error, Fault, RemapIndex, Route};
use crate::heap::{self, Block};
use crate::stage2::Stage2;
use arch_defs::iommu::RequesterId;
use arch_defs::iommu::vtd::fault::{FaultHigh, FaultLow, is_interrupt};
use arch_defs::iommu::vtd::invalidation;
use arch_defs::iommu::vtd::register::{
    Capability, EVENT_MASKED, ExtendedCapability, FaultStatus, Global, PROTECTED_MEMORY_ENABLE,
    PROTECTED_MEMORY_STATUS, offset,
};
use core::fmt;
use queue::Queue;
use registers::{Access, SPINS};
use remapping::Remapping;
use translation::Translation;

/// A unit that was started.
#[derive(Debug)]
pub struct Unit<R> {
    access: Access<R>,
    segment: u16,
    capability: Capability,
    extended: ExtendedCapability,
    levels: u8,
    queue: Queue,
    remapping: Remapping,
    translation: Translation,
    /// Between begin and finish of an interrupt flush.
    flushing: bool,
    /// An invalidation failed: what the hardware has cached is unknown for good.
    dead: bool,
}

/// What a unit's registers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitFacts {
    /// Physical address of its registers.
    pub unit: u64,
    /// VER: major version in bits 7:4, minor in 3:0.
    pub version: u8,
    /// CAP.
    pub capability: Capability,
    /// ECAP.
    pub extended: ExtendedCapability,
    /// GSTS as it reads.
    pub status: u32,
    /// Entries of its interrupt remapping table.
    pub entries: u32,
}

impl UnitFacts {
    /// The memory of its registers, in whole pages.
    pub fn registers(&self) -> core::ops::Range<u64> {
        // Fault records and IOTLB registers lie where the unit says.
        let iotlb = 16 * (self.extended.iotlb_offset() + 1);
        let bytes = self.capability.fault_records_end().max(iotlb).next_multiple_of(0x1000);
        self.unit..self.unit.saturating_add(bytes.into())
    }

    /// GSTS.CFIS: interrupts in compatibility format bypass the remapping.
    pub const fn compatibility_format(&self) -> bool {
        self.status & Global::COMPATIBILITY_FORMAT.bits() != 0
    }
}

impl fmt::Display for UnitFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "IOMMU at {:#x}: VT-d {}.{}, CAP {:#x}, ECAP {:#x}, {} table levels, pages up to {}, {} \
             remapping entries, table walks {}, GSTS {:#x}: CFIS {} (compatibility-format interrupts {})",
            self.unit,
            self.version >> 4,
            self.version & 15,
            self.capability.into_bits(),
            self.extended.into_bits(),
            self.capability.levels().unwrap_or(0),
            ["4 KiB", "2 MiB", "1 GiB"][self.capability.largest_page().min(2)],
            self.entries,
            if self.extended.coherent() { "coherent" } else { "not coherent" },
            self.status,
            u8::from(self.compatibility_format()),
            if self.compatibility_format() { "pass" } else { "blocked" },
        )
    }
}

impl<R: Registers> Unit<R> {
    /// Takes a unit over, whatever firmware left on: no device reaches memory, no interrupt but a remapped
    /// one passes. If that fails the unit is off, or as good as it could be switched off.
    pub fn start(unit: u64, segment: u16, registers: R, entries: u32) -> Result<Self, Error> {
        let access = Access { unit, registers };
        if access.registers.read32(offset::VER) == u32::MAX {
            return Err(Error::NoAnswer { unit, what: "its registers read as ones" });
        }
        let capability = Capability::from_bits(access.registers.read64(offset::CAP));
        let extended = ExtendedCapability::from_bits(access.registers.read64(offset::ECAP));
        let levels = check(unit, capability, extended)?;
        let coherent = extended.coherent();
        let mut new = Self {
            access,
            segment,
            capability,
            extended,
            levels,
            queue: Queue::new()?,
            remapping: Remapping::new(entries, coherent)?,
            translation: Translation::new(coherent)?,
            flushing: false,
            dead: false,
        };
        match new.quiesce().and_then(|()| new.set_up()) {
            Ok(()) => Ok(new),
            Err(why) => {
                new.stop();
                Err(why)
            }
        }
    }

    /// Lets everything pass again: devices reach all memory, and interrupts go unremapped. For a machine whose IOMMUs
    /// cannot all be used. The tables stay where they are, since a unit that does not answer may still read them.
    pub fn stop(&self) {
        let unit = self.access.unit;
        match self.quiesce() {
            Ok(()) => log::info!("IOMMU at {unit:#x}: off again"),
            Err(why) => log::warn!("the IOMMU at {unit:#x} cannot be switched off: {why}"),
        }
    }

    /// Stops what firmware or an earlier system left on.
    fn quiesce(&self) -> Result<(), Error> {
        let access = &self.access;
        access.registers.write32(offset::FECTL, EVENT_MASKED);
        access.registers.write32(offset::IECTL, EVENT_MASKED);
        access.command(Global::TRANSLATION, false, "translation off")?;
        access.command(Global::INTERRUPT_REMAPPING, false, "interrupt remapping off")?;
        access.command(Global::ADVANCED_FAULTS, false, "advanced fault logging off")?;
        if access.status().contains(Global::QUEUED_INVALIDATION) {
            // A queue in error stands still until the error is cleared.
            access.registers.write32(offset::FSTS, FaultStatus::QUEUE.bits());
            access.wait_until("its invalidation queue runs empty", |registers| {
                registers.read64(offset::IQH) == registers.read64(offset::IQT)
            })?;
            access.command(Global::QUEUED_INVALIDATION, false, "queued invalidation off")?;
        }
        access.command(Global::COMPATIBILITY_FORMAT, false, "compatibility-format interrupts off")
    }

    /// Tables first, then the caches emptied, then on.
    fn set_up(&mut self) -> Result<(), Error> {
        let access = &self.access;
        access.registers.write64(offset::RTADDR, self.translation.root());
        access.command(Global::ROOT_TABLE, true, "set the root table")?;
        self.queue.enable(access)?;
        access.registers.write64(offset::IRTA, self.remapping.address().into_bits());
        access.command(Global::REMAPPING_TABLE, true, "set the interrupt remapping table")?;
        let drains = self.drains();
        self.flush(&[
            invalidation::all_contexts(),
            invalidation::all_translations(drains),
            invalidation::all_interrupts(),
        ])?;
        let access = &self.access;
        access.command(Global::INTERRUPT_REMAPPING, true, "interrupt remapping on")?;
        access.command(Global::TRANSLATION, true, "translation on")?;
        self.release_protected_memory()?;
        self.discard_faults();
        Ok(())
    }

    /// Firmware guards memory from DMA with registers of their own (section 11.4.9); the tables do now.
    fn release_protected_memory(&self) -> Result<(), Error> {
        let registers = &self.access.registers;
        if !self.capability.protected_low_memory() && !self.capability.protected_high_memory() {
            return Ok(());
        }
        let old = registers.read32(offset::PMEN);
        registers.write32(offset::PMEN, old & !PROTECTED_MEMORY_ENABLE);
        self.access.wait_until("protected memory off", |registers| {
            registers.read32(offset::PMEN) & PROTECTED_MEMORY_STATUS == 0
        })
    }

    /// Faults of earlier systems are nobody's.
    fn discard_faults(&mut self) {
        self.faults(&mut |_| ());
    }

    fn flush(&mut self, descriptors: &[invalidation::Descriptor]) -> Result<(), Error> {
        self.alive()?;
        self.queue.submit(&self.access, descriptors);
        self.wait()
    }

    /// Waits for what was submitted. A unit that fails here is given up: the next one must not wait as long again,
    /// with the owner's lock in its hands, and the queue would fill.
    fn wait(&mut self) -> Result<(), Error> {
        let done = self.queue.wait(&self.access);
        if done.is_err() {
            self.dead = true;
            log::error!(
                "the IOMMU at {:#x} is given up: nothing of it can change any more",
                self.access.unit
            );
        }
        done
    }

    const fn alive(&self) -> Result<(), Error> {
        if self.dead { Err(Error::Dead { unit: self.access.unit }) } else { Ok(()) }
    }

    const fn drains(&self) -> (bool, bool) {
        (self.capability.read_draining(), self.capability.write_draining())
    }

    /// See [`super::Iommu::largest_page`].
    pub const fn largest_page(&self) -> usize {
        self.capability.largest_page()
    }

    /// Allocates remapping entries; gives the first one's index.
    pub fn allocate(&mut self, requester: RequesterId, count: u16) -> Result<u16, Error> {
        self.remapping.allocate(requester, count).ok_or(Error::NoEntries { count })
    }

    /// Gives a blocked entry back.
    pub fn release(&mut self, entry: u16) {
        self.remapping.release(entry);
    }

    /// Writes an entry; the interrupt flush makes the hardware see it.
    pub fn set_route(&mut self, index: RemapIndex, route: Option<Route>) -> Result<(), Error> {
        if self.dead && route.is_some() {
            return self.alive();
        }
        if let Some(Route { vector: vector @ 0..16, .. }) = route {
            return Err(Error::Vector(vector));
        }
        self.remapping.set(index.entry, route).ok_or(Error::NotAllocated(index))
    }

    /// Begins to invalidate what [`Unit::set_route`] changed, if anything.
    pub fn begin_interrupt_flush(&mut self) {
        if let Some(changed) = self.remapping.take_changed() {
            self.flushing = true;
            if !self.dead {
                let mask = self.extended.maximum_handle_mask();
                let descriptor = invalidation::interrupts(*changed.start(), *changed.end(), mask);
                self.queue.submit(&self.access, &[descriptor]);
            }
        }
    }

    /// Waits for the end of it, if something changed.
    pub fn finish_interrupt_flush(&mut self) -> Result<(), Error> {
        if !core::mem::take(&mut self.flushing) {
            return Ok(());
        }
        self.alive()?;
        self.wait()
    }

    /// The route in the table.
    pub fn current(&self, entry: u16) -> Option<Route> {
        self.remapping.current(entry)
    }

    /// See [`super::Iommu::attach`].
    pub fn attach(
        &mut self,
        device: RequesterId,
        space: &Stage2,
        domain: u16,
    ) -> Result<(), Error> {
        // With caching mode, domain 0 tags entries that are not present (section 6.1).
        if domain == 0 || u32::from(domain) >= self.capability.domains() {
            return Err(Error::Domain(domain));
        }
        let root =
            space.device_root(self.levels, self.largest_page()).map_err(Error::AddressSpace)?;
        if !self.extended.coherent() {
            space.write_back();
        }
        self.translation.attach(device, root, self.levels, domain)?;
        self.forget_domain(domain)
    }

    /// See [`super::Iommu::detach`].
    pub fn detach(&mut self, device: RequesterId) -> Result<(), Error> {
        let domain = self.translation.detach(device).ok_or(Error::NotAttached(device))?;
        self.forget_domain(domain)
    }

    /// Drops the cached context entries and a domain's translations, in that order (section 6.2.2.1), and
    /// drains the accesses under way.
    fn forget_domain(&mut self, domain: u16) -> Result<(), Error> {
        let drains = self.drains();
        self.flush(&[
            invalidation::all_contexts(),
            invalidation::domain_translations(domain, drains),
        ])
    }

    /// See [`super::Iommu::faults`].
    pub fn faults(&mut self, each: &mut impl FnMut(Fault)) -> bool {
        let registers = &self.access.registers;
        let status = registers.read32(offset::FSTS);
        let first = status >> 8 & 0xFF;
        let count = u32::from(self.capability.fault_records()) + 1;
        for n in 0..count {
            let at = 16 * (self.capability.fault_record_offset() + (first + n) % count);
            let high = FaultHigh::from_bits(registers.read64(at + 8));
            if !high.fault() {
                break;
            }
            each(self.fault(FaultLow::from_bits(registers.read64(at)), high));
            registers.write32(at + 12, 1 << 31);
        }
        let lost = FaultStatus::from_bits_truncate(status).contains(FaultStatus::OVERFLOW);
        if lost {
            registers.write32(offset::FSTS, FaultStatus::OVERFLOW.bits());
        }
        lost
    }

    fn fault(&self, low: FaultLow, high: FaultHigh) -> Fault {
        let blocked = if is_interrupt(high.reason()) {
            Blocked::Interrupt { index: (low.into_bits() >> 48) as u16 }
        } else {
            Blocked::Dma { address: low.frame() << 12, write: !high.read() }
        };
        let requester = RequesterId { segment: self.segment, id: high.source_id() };
        Fault { requester, blocked, reason: high.reason() }
    }

    /// The registers now.
    pub fn facts(&self) -> UnitFacts {
        UnitFacts {
            unit: self.access.unit,
            version: self.access.registers.read32(offset::VER) as u8,
            capability: self.capability,
            extended: self.extended,
            status: self.access.registers.read32(offset::GSTS),
            entries: self.remapping.entries(),
        }
    }
}

/// What Beeline needs of a unit; gives the levels of its second-stage tables.
fn check(unit: u64, cap: Capability, ecap: ExtendedCapability) -> Result<u8, Error> {
    let missing = |what| Error::Missing { unit, what };
    if !ecap.queued_invalidation() {
        return Err(missing("queued invalidation (ECAP.QI): use a newer board"));
    }
    if !ecap.interrupt_remapping() {
        return Err(missing(
            "interrupt remapping (ECAP.IR): switch it on in the firmware, or give QEMU \
             `-device intel-iommu,intremap=on`",
        ));
    }
    if !ecap.extended_interrupt_mode() {
        return Err(missing(
            "32-bit interrupt destinations (ECAP.EIM), which x2APIC mode needs: use a newer board, or \
             give QEMU `-device intel-iommu,eim=on`",
        ));
    }
    if cap.required_write_buffer_flush() {
        return Err(missing("automatic write-buffer flush (CAP.RWBF is 1): use a newer board"));
    }
    cap.levels()
        .ok_or(missing("second-stage tables of 3 or 4 levels (CAP.SAGAW): use a newer board"))
}

/// A zeroed table that the hardware reads.
#[derive(Debug)]
struct Table {
    memory: Block,
    /// The hardware snoops the caches; else each change is written back to memory.
    coherent: bool,
}

impl Table {
    fn new(bytes: u64, coherent: bool) -> Result<Self, Error> {
        let memory = heap::block(bytes).ok_or(Error::OutOfMemory)?;
        if !coherent {
            memory.write_back();
        }
        Ok(Self { memory, coherent })
    }

    /// Writes half of a 128-bit entry. Halves reach the hardware in program order.
    fn write(&self, offset: u64, value: u64) {
        self.memory.write_u64(offset, value);
        if !self.coherent {
            self.memory.write_back_at(offset);
        }
    }
}
