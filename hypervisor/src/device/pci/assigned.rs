//! The hardware behind an assigned function: carries out what the models of [`super`] return.
//!
//! Called under the VM's PCI lock; takes the IOMMU's in [`crate::interrupt::route`]. Each message of the function has a
//! remapping entry from its first route on, which only this function can raise; its own table holds that entry's message
//! and never the guest's.

use super::{Backing, MsiRoute};
use crate::interrupt::route;
use crate::rate_limit;
use alloc::vec::Vec;
use arch::iommu::RemapIndex;
use arch::pci::reset::{self, Way};
use arch::pci::{Function, Hardware, Registers, Width};
use arch_defs::iommu::RequesterId;
use arch_defs::pci::msix::Entry;
use arch_defs::pci::{Bar, Bdf, ConfigSpace, Msix, msi, msix};
use core::fmt;

/// Offset of the mask dword in an MSI-X table entry.
const VECTOR_CONTROL: u64 = 12;

/// An assigned function.
pub struct Assigned {
    name: Bdf,
    hardware: &'static Hardware,
    /// How it is reset; `None` if it cannot be, or must not be since others use its virtual functions.
    way: Option<Way>,
    bars: Vec<(u8, Registers)>,
    msi: Option<(u16, msi::Control)>,
    msix: Option<Msix>,
    /// The core of each vCPU.
    cores: Vec<usize>,
    /// The remapping entry of each message.
    entries: Vec<Option<RemapIndex>>,
    /// It did not come back from a reset: nobody speaks to it any more.
    dead: bool,
}

/// The requester id that the function's requests carry.
pub const fn requester(name: Bdf) -> RequesterId {
    RequesterId { segment: name.segment, id: name.requester() }
}

impl Assigned {
    /// A function as `description` tells of it, for a VM whose vCPUs have these cores.
    pub fn new(
        hardware: &'static Hardware,
        description: &super::Description,
        way: Option<Way>,
        cores: Vec<usize>,
    ) -> Self {
        let map = |bar: &Bar| (bar.index, Registers::map(bar.address, bar.size));
        let messages = description.msix.as_ref().map_or(1, |msix| msix.entries);
        Self {
            name: description.name,
            hardware,
            way,
            bars: description.bars.iter().map(map).collect(),
            msi: description.msi.map(|(capability, control)| (capability.offset.into(), control)),
            msix: description.msix,
            cores,
            entries: alloc::vec![None; messages.into()],
            dead: false,
        }
    }

    fn function(&self) -> Function<'static, Hardware> {
        Function::new(self.hardware, self.name)
    }

    fn bar(&self, index: u8) -> Option<&Registers> {
        self.bars
            .iter()
            .find(|(bar, _)| *bar == index && !self.dead)
            .map(|(_, registers)| registers)
    }

    /// The hardware's MSI-X table: its registers and where it begins in them.
    fn table(&self) -> Option<(&Registers, u64)> {
        let msix = self.msix.as_ref()?;
        Some((self.bar(msix.table.bar)?, msix.table_span().start))
    }

    /// The remapping entry of a message, allocated if it has none yet.
    fn entry(&mut self, entry: u16) -> Result<RemapIndex, &'static str> {
        let slot = usize::from(entry);
        match self.entries.get(slot) {
            Some(&Some(index)) => return Ok(index),
            Some(None) => {}
            None => return Err("it has no such message"),
        }
        let device = requester(self.name);
        let index = route::with_iommu(|iommu| iommu.allocate_remapping(device))
            .ok_or("this machine has no IOMMU")?
            .map_err(|_| "the IOMMU has no remapping entry for it")?;
        if let Some(place) = self.entries.get_mut(slot) {
            *place = Some(index);
        }
        self.write_message(entry, index);
        Ok(index)
    }

    /// Puts the remapping entry's message where the function takes it from.
    fn write_message(&self, entry: u16, index: RemapIndex) {
        let message = index.msi_message(0);
        let (low, high) = (message.address & 0xFFFF_FFFF, message.address >> 32);
        if let Some((table, start)) = self.table() {
            let at = start + u64::from(entry) * Entry::SIZE;
            table.write(at, Width::Dword, low);
            table.write(at + 4, Width::Dword, high);
            table.write(at + 8, Width::Dword, message.data.into());
        }
        if let Some((at, control)) = self.msi.filter(|_| entry == 0) {
            let function = self.function();
            function.write_u32(at + msi::ADDRESS, low as u32);
            if control.wide() {
                function.write_u32(at + msi::ADDRESS + 4, high as u32);
            }
            function.write_u16(at + control.data(), message.data as u16);
        }
    }

    fn complain(&self, what: &str, why: impl fmt::Display) {
        if rate_limit::PCI.allow() {
            log::error!("PCI {}: {what}: {why}", self.name);
        }
    }
}

impl Backing for Assigned {
    fn route(&mut self, wanted: MsiRoute) {
        let Some(&core) = self.cores.get(wanted.vcpu as usize) else { return };
        match self.entry(wanted.entry) {
            Ok(index) => {
                if let Err(why) = route::to_guest(index, wanted.vector.get(), core) {
                    self.complain("a message cannot be routed", why);
                }
            }
            Err(why) => self.complain("a message cannot be routed", why),
        }
    }

    fn block(&mut self, entry: u16) {
        let index = self.entries.get(usize::from(entry)).copied().flatten();
        if let Err(why) = route::block(index) {
            self.complain("a message cannot be blocked", why);
        }
    }

    fn mask(&mut self, entry: u16, masked: bool) {
        // A message without a remapping entry would be a write to address 0.
        let has_entry = matches!(self.entries.get(usize::from(entry)), Some(Some(_)));
        let masked = masked || self.msix.is_some() && !has_entry;
        if let Some((table, start)) = self.table() {
            let at = start + u64::from(entry) * Entry::SIZE + VECTOR_CONTROL;
            table.write(at, Width::Dword, if masked { Entry::MASKED.into() } else { 0 });
        } else if let Some((at, control)) = self.msi
            && let Some(mask) = control.mask()
        {
            self.function().write_u32(at + mask, masked.into());
        }
    }

    fn msi_enable(&mut self, enable: bool) {
        if let Some((at, _)) = self.msi {
            let function = self.function();
            let control = msi::Control::from_bits(function.read_u16(at + msi::CONTROL));
            let control = control.with_enabled(0).with_enable(enable);
            function.write_u16(at + msi::CONTROL, control.into_bits());
        }
    }

    fn msix_control(&mut self, enable: bool, function_mask: bool) {
        if let Some(layout) = &self.msix {
            let control =
                msix::Control::new().with_enable(enable).with_function_mask(function_mask);
            self.function()
                .write_u16(u16::from(layout.offset) + msix::CONTROL, control.into_bits());
        }
    }

    fn bus_master(&mut self, on: bool) {
        self.function().set_bus_master(on && !self.dead);
    }

    fn read(&mut self, bar: u8, offset: u64, width: Width) -> u64 {
        self.bar(bar).map_or(u64::MAX, |registers| registers.read(offset, width))
    }

    fn write(&mut self, bar: u8, offset: u64, width: Width, value: u64) {
        if let Some(registers) = self.bar(bar) {
            registers.write(offset, width, value);
        }
    }

    fn reset(&mut self) {
        // First of all nothing may come from it any more.
        self.function().set_bus_master(false);
        self.msi_enable(false);
        self.msix_control(false, false);
        if let Err(why) = route::block(self.entries.iter().copied().flatten()) {
            self.complain("its messages cannot be blocked", why);
        }
        if let Some(way) = self.way
            && let Err(why) = reset::reset(self.function(), way)
        {
            self.complain("it is given up: reset", why);
            self.dead = true;
        }
        if self.dead {
            return;
        }
        self.function().enable_memory();
        for entry in 0..self.entries.len() as u16 {
            self.mask(entry, self.msix.is_some());
            if let Some(&Some(index)) = self.entries.get(usize::from(entry)) {
                self.write_message(entry, index);
            }
        }
    }
}
