//! The interrupt remapping table. VT-d specification 4.1, sections 5.1.4 and 9.10.
//!
//! An entry's high half, which says who may use it, is written while the entry is not present and stays until
//! it is given back. All of a route is in the low half, so each change is one 64-bit store, and the hardware
//! never sees half an entry.

use super::{Error, Route, Table};
use crate::apic::PhysicalApicId;
use alloc::vec;
use alloc::vec::Vec;
use arch_defs::iommu::RequesterId;
use arch_defs::iommu::vtd::interrupt::{RemappingHigh, RemappingLow};
use arch_defs::iommu::vtd::register::RemappingTableAddress;
use core::ops::RangeInclusive;

/// A unit's table.
#[derive(Debug)]
pub struct Remapping {
    table: Table,
    taken: Vec<bool>,
    /// Entries written since the last invalidation, and maybe some between.
    changed: Option<RangeInclusive<u16>>,
}

impl Remapping {
    /// A table in which nothing is present.
    pub fn new(entries: u32, coherent: bool) -> Result<Self, Error> {
        let entries = entries.clamp(256, 1 << 16).next_power_of_two();
        Ok(Self {
            table: Table::new(u64::from(entries) * 16, coherent)?,
            taken: vec![false; entries as usize],
            changed: None,
        })
    }

    /// What the hardware is told of the table.
    pub fn address(&self) -> RemappingTableAddress {
        RemappingTableAddress::new()
            .with_frame(self.table.memory.address() >> 12)
            .with_size((self.entries().ilog2() - 1) as u8)
            .with_extended_interrupt_mode(true)
    }

    /// Size of the table.
    pub fn entries(&self) -> u32 {
        self.taken.len() as u32
    }

    /// Allocates `count` blocked entries in a row, aligned to the next power of two.
    pub fn allocate(&mut self, requester: RequesterId, count: u16) -> Option<u16> {
        let count = usize::from(count.max(1));
        let free = |first: &usize| {
            self.taken.get(*first..*first + count).is_some_and(|block| block.iter().all(|t| !t))
        };
        let step = count.checked_next_power_of_two()?;
        let first = (0..self.taken.len()).step_by(step).find(free)?;
        for entry in first..first + count {
            self.table.write(entry as u64 * 16 + 8, RemappingHigh::only(requester).into_bits());
            if let Some(taken) = self.taken.get_mut(entry) {
                *taken = true;
            }
        }
        u16::try_from(first).ok()
    }

    /// Gives an entry back that was blocked and invalidated.
    pub fn release(&mut self, entry: u16) {
        if let Some(taken) = self.taken.get_mut(usize::from(entry)) {
            *taken = false;
        }
    }

    /// Routes or blocks an entry; `None` if it is not allocated.
    pub fn set(&mut self, entry: u16, route: Option<Route>) -> Option<()> {
        self.taken.get(usize::from(entry)).filter(|taken| **taken)?;
        let low = route.map_or(RemappingLow::new(), |route| {
            RemappingLow::fixed(route.vector, route.destination.0, route.level)
        });
        self.table.write(u64::from(entry) * 16, low.into_bits());
        let (first, last) = self.changed.take().map_or((entry, entry), RangeInclusive::into_inner);
        self.changed = Some(first.min(entry)..=last.max(entry));
        Some(())
    }

    /// The entries to invalidate.
    pub const fn take_changed(&mut self) -> Option<RangeInclusive<u16>> {
        self.changed.take()
    }

    /// The route in the table.
    pub fn current(&self, entry: u16) -> Option<Route> {
        self.taken.get(usize::from(entry)).filter(|taken| **taken)?;
        let low = RemappingLow::from_bits(self.table.memory.read_u64(u64::from(entry) * 16));
        low.present().then_some(Route {
            vector: low.vector(),
            destination: PhysicalApicId(low.destination()),
            level: low.level(),
        })
    }
}
