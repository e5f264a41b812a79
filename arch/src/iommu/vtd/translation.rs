//! Root and context tables: which address space each device has. VT-d specification 4.1, sections 3.4, 9.1
//! and 9.3. What is not present is blocked: at first that is every device.

use super::{Error, Table};
use crate::heap::FRAME;
use alloc::collections::BTreeMap;
use arch_defs::iommu::RequesterId;
use arch_defs::iommu::vtd::translation::{ContextHigh, ContextLow, RootEntry, context_entry};

/// A unit's tables.
#[derive(Debug)]
pub struct Translation {
    root: Table,
    /// Context tables by bus.
    contexts: BTreeMap<u8, Table>,
}

impl Translation {
    /// Tables in which no device is present.
    pub fn new(coherent: bool) -> Result<Self, Error> {
        Ok(Self { root: Table::new(FRAME, coherent)?, contexts: BTreeMap::new() })
    }

    /// Physical address of the root table: legacy mode.
    pub fn root(&self) -> u64 {
        self.root.memory.address()
    }

    /// Puts a device under second-stage tables; the caller invalidates.
    pub fn attach(
        &mut self,
        device: RequesterId,
        second_stage: u64,
        levels: u8,
        domain: u16,
    ) -> Result<(), Error> {
        let bus = device.bus();
        if !self.contexts.contains_key(&bus) {
            let table = Table::new(FRAME, self.root.coherent)?;
            let entry = RootEntry::new()
                .with_present(true)
                .with_context_table(table.memory.address() >> 12);
            self.root.write(u64::from(bus) * 16, entry.into_bits());
            self.contexts.insert(bus, table);
        }
        let table = self.contexts.get(&bus).ok_or(Error::OutOfMemory)?;
        let at = u64::from(device.devfn()) * 16;
        if ContextLow::from_bits(table.memory.read_u64(at)).present() {
            return Err(Error::Attached(device));
        }
        let (low, high) = context_entry(second_stage, levels, domain);
        // The half with the present bit last.
        table.write(at + 8, high);
        table.write(at, low);
        Ok(())
    }

    /// Takes a device away and gives its domain; the caller invalidates. `None` if it has none.
    pub fn detach(&self, device: RequesterId) -> Option<u16> {
        let table = self.contexts.get(&device.bus())?;
        let at = u64::from(device.devfn()) * 16;
        if !ContextLow::from_bits(table.memory.read_u64(at)).present() {
            return None;
        }
        table.write(at, 0);
        Some(ContextHigh::from_bits(table.memory.read_u64(at + 8)).domain())
    }
}
