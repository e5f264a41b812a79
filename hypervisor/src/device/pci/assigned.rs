//! The hardware behind an assigned function: carries out what the models of [`super`] return.
//!
//! Called under the VM's PCI lock; takes the IOMMU's in [`crate::interrupt::route`]. Each message of the function has a
//! remapping entry from its first route on; the function's own registers hold that entry's message and never the guest's.
//! Without an IOMMU they hold what [`super::unprotected`] makes of it.

use super::senders::Senders;
use super::{Backing, Block, MsiRoute, Presence, RouteError, Source};
use crate::rate_limit;
use alloc::vec::Vec;
use arch::pci::reset::{Progress, Reset, Way};
use arch::pci::{Function, Hardware, Registers, Width};
use arch_defs::iommu::RequesterId;
use arch_defs::iommu::vtd::interrupt::MsiMessage;
use arch_defs::pci::msix::Entry;
use arch_defs::pci::{Bar, Bdf, ConfigSpace, Msix, msi, msix};
use core::fmt;

/// Offset of the mask dword in an MSI-X table entry.
const VECTOR_CONTROL: u64 = 12;

/// An assigned function.
pub struct Assigned {
    name: Bdf,
    hardware: &'static Hardware,
    reset: Reset,
    bars: Vec<(u8, Registers)>,
    msi: Option<(u16, msi::Control)>,
    msix: Option<Msix>,
    senders: Senders,
    /// Its pin may speak, once it is not being reset.
    intx: bool,
    /// It did not come back from a reset: nobody speaks to it any more.
    dead: bool,
}

/// The requester id that the function's requests carry.
pub const fn requester(name: Bdf) -> RequesterId {
    RequesterId { segment: name.segment, id: name.requester() }
}

impl Assigned {
    /// A function as `description` tells of it, at rest, for a VM whose vCPUs have these cores. Without a `way` it cannot be
    /// reset, or must not be since others use its virtual functions.
    pub fn new(
        hardware: &'static Hardware,
        description: &super::Description,
        way: Option<Way>,
        cores: Vec<usize>,
    ) -> Self {
        let map = |bar: &Bar| (bar.index, Registers::map(bar.address, bar.size));
        Self {
            name: description.name,
            hardware,
            reset: Reset::of(Function::new(hardware, description.name), way),
            bars: description.bars.iter().map(map).collect(),
            msi: description.msi.map(|(capability, control)| (capability.offset.into(), control)),
            msix: description.msix,
            senders: Senders::of(description, cores),
            intx: false,
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

    fn write_message(&self, source: Source, message: MsiMessage) {
        let (low, high) = (message.address & 0xFFFF_FFFF, message.address >> 32);
        match source {
            Source::Msix(entry) => {
                let Some((table, start)) = self.table() else { return };
                let at = start + u64::from(entry) * Entry::SIZE;
                table.write(at, Width::Dword, low);
                table.write(at + 4, Width::Dword, high);
                table.write(at + 8, Width::Dword, message.data.into());
            }
            Source::Msi => {
                let Some((at, control)) = self.msi else { return };
                let function = self.function();
                function.write_u32(at + msi::ADDRESS, low as u32);
                if control.wide() {
                    function.write_u32(at + msi::ADDRESS + 4, high as u32);
                }
                function.write_u16(at + control.data(), message.data as u16);
            }
        }
    }

    /// The place of one of MSI's registers for single messages, if it has them.
    fn msi_register(&self, beyond_mask: u16) -> Option<u16> {
        let (at, control) = self.msi?;
        Some(at + control.mask()? + beyond_mask)
    }

    /// Gives the function what a reset took: memory decoding, its pin, and its messages, those of MSI-X masked.
    fn put_back(&mut self) {
        self.function().enable_memory();
        if self.intx {
            self.function().set_intx(true);
        }
        let entries = self.msix.as_ref().map_or(0, |msix| msix.entries);
        for source in (0..entries).map(Source::Msix).chain([Source::Msi]) {
            match source {
                Source::Msix(entry) => self.mask(entry, true),
                Source::Msi => self.msi_mask(0),
            }
            if let Some(message) = self.senders.message(source) {
                self.write_message(source, message);
            }
        }
    }

    fn complain(&self, what: &str, why: impl fmt::Display) {
        if rate_limit::PCI.allow() {
            log::error!("PCI {}: {what}: {why}", self.name);
        }
    }
}

impl Backing for Assigned {
    fn route(&mut self, wanted: MsiRoute) -> Result<(), RouteError> {
        let source = Source::Msix(wanted.entry);
        if let Some(message) = self.senders.prepare(source)? {
            self.write_message(source, message);
        }
        if let Some(message) = self.senders.route(wanted)? {
            self.write_message(source, message);
        }
        Ok(())
    }

    fn route_msi(&mut self, block: Block) -> Result<(), RouteError> {
        if let Some(message) = self.senders.prepare(Source::Msi)? {
            self.write_message(Source::Msi, message);
        }
        if let Some(message) = self.senders.route_msi(block)? {
            self.write_message(Source::Msi, message);
        }
        Ok(())
    }

    fn block(&mut self, source: Source) {
        if let Err(why) = self.senders.block(source) {
            self.complain("a message cannot be blocked", why);
        }
    }

    fn mask(&mut self, entry: u16, masked: bool) {
        // A message without a remapping entry would be a write to address 0.
        let masked = masked || self.senders.message(Source::Msix(entry)).is_none();
        if let Some((table, start)) = self.table() {
            let at = start + u64::from(entry) * Entry::SIZE + VECTOR_CONTROL;
            table.write(at, Width::Dword, if masked { Entry::MASKED.into() } else { 0 });
        }
    }

    fn msi_mask(&mut self, masks: u32) {
        if let Some(at) = self.msi_register(0) {
            self.function().write_u32(at, masks);
        }
    }

    fn msi_pending(&self) -> u32 {
        self.msi_register(4).map_or(0, |at| self.function().read_u32(at))
    }

    fn msi_control(&mut self, enable: bool, order: u8) {
        if let Some((at, _)) = self.msi {
            // As above.
            let enable = enable && self.senders.message(Source::Msi).is_some();
            let function = self.function();
            let control = msi::Control::from_bits(function.read_u16(at + msi::CONTROL));
            let control = control.with_enabled(order).with_enable(enable);
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

    fn intx(&mut self, on: bool) {
        self.intx = on;
        // It comes right behind a reset as well, when nobody may speak to the function.
        if !self.dead && !self.reset.is_under_way() {
            self.function().set_intx(on);
        }
    }

    fn asks_by_pin(&self) -> bool {
        !self.dead && self.function().asks_by_pin()
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
        if self.dead {
            return;
        }
        if self.presence() == Presence::Ready {
            // First of all nothing may come from it any more.
            self.function().set_bus_master(false);
            self.function().set_intx(false);
            self.msi_control(false, 0);
            self.msix_control(false, false);
        }
        if let Err(why) = self.senders.block_all() {
            self.complain("its messages cannot be blocked", why);
        }
        self.reset.begin(self.function());
        // The hardware's reset itself begins here, unless requests wait for their answers.
        self.presence();
    }

    fn presence(&mut self) -> Presence {
        match self.reset.advance(self.function()) {
            Progress::Idle => {}
            Progress::Waits => return Presence::Resetting,
            Progress::Done => self.put_back(),
            Progress::Lost => {
                self.complain("it is given up: reset", arch::pci::Why::Lost);
                self.dead = true;
            }
        }
        if self.dead { Presence::Lost } else { Presence::Ready }
    }
}
