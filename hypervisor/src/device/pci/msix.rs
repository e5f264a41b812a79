//! MSI-X as its guest sees it: the table lives here, and the hardware's holds the messages of remapping entries.
//!
//! An entry takes effect when it is unmasked, or changed while it is. Its route is set before its mask bit is cleared,
//! so that a message which waited under the mask goes where the guest last said. PCI 3.0, section 6.8.2.

use super::action::{Action, Actions, Report};
use super::messages::{Applied, RawMessage, Source, Vcpus};
use alloc::vec::Vec;
use arch::pci::Width;
use arch_defs::pci::Msix;
use arch_defs::pci::msix::{Control, Entry, TABLE};
use core::ops::Range;

/// One entry.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// What the guest wrote.
    guest: Entry,
    applied: Applied,
    /// The hardware's entry is unmasked.
    open: bool,
}

impl Line {
    const RESET: Self = Self { guest: Entry::RESET, applied: Applied::Blocked, open: false };
}

/// The capability with its table.
#[derive(Clone, Debug)]
pub struct MsixModel {
    layout: Msix,
    control: Control,
    lines: Vec<Line>,
}

impl MsixModel {
    /// Off, with every entry masked.
    pub fn new(layout: Msix) -> Self {
        let lines = alloc::vec![Line::RESET; layout.entries.into()];
        Self { layout, control: Control::new(), lines }
    }

    /// As after a reset.
    pub fn reset(&mut self) {
        *self = Self::new(self.layout);
    }

    /// Byte offset of the capability.
    pub const fn offset(&self) -> u16 {
        self.layout.offset as u16
    }

    /// Where table and pending bits lie.
    pub const fn layout(&self) -> &Msix {
        &self.layout
    }

    /// The upper half of the capability's first dword.
    pub const fn control(&self) -> u16 {
        self.control.with_last_entry(self.layout.entries - 1).into_bits()
    }

    /// A dword of the capability but the first.
    pub const fn place(&self, at: u16) -> u32 {
        if at == TABLE { self.layout.table.register() } else { self.layout.pending.register() }
    }

    /// The guest writes the control register.
    pub fn write_control(&mut self, value: u16, actions: &mut Actions) {
        let value = Control::from_bits(value);
        let (enable, function_mask) = (value.enable(), value.function_mask());
        let new = Control::new().with_enable(enable).with_function_mask(function_mask);
        if new != self.control {
            self.control = new;
            actions.push(Action::MsixControl { enable, function_mask });
        }
    }

    /// The route that an entry asked for last does not stand; the hardware's entry was masked.
    pub fn route_failed(&mut self, entry: u16) {
        if let Some(line) = self.lines.get_mut(usize::from(entry)) {
            line.applied = Applied::Refused;
            line.open = false;
        }
    }

    /// The whole pages of the BAR that hold the table: what the guest may not touch by itself.
    pub fn hole(&self, page: u64) -> Range<u64> {
        let table = self.layout.table_span();
        table.start & !(page - 1)..table.end.next_multiple_of(page)
    }

    /// A read inside the table, at a byte offset from its start; ones where it is not inside.
    pub fn read(&self, offset: u64, width: Width) -> u64 {
        let dword = |at: u64| {
            let Some(line) = self.lines.get((at / Entry::SIZE) as usize) else { return u32::MAX };
            match at % Entry::SIZE / 4 {
                0 => line.guest.address,
                1 => line.guest.address_high,
                2 => line.guest.data,
                _ => line.guest.control,
            }
        };
        let low = u64::from(dword(offset)) >> (offset % 4 * 8);
        match width {
            Width::Qword => low | u64::from(dword(offset + 4)) << 32,
            Width::Dword => low,
            Width::Word => low & 0xFFFF,
            Width::Byte => low & 0xFF,
        }
    }

    /// A write inside the table, at a byte offset from its start. Only aligned dwords and qwords have a meaning.
    pub fn write(
        &mut self,
        offset: u64,
        width: Width,
        value: u64,
        vcpus: &Vcpus,
        actions: &mut Actions,
    ) {
        if !offset.is_multiple_of(width.bytes()) || width.bytes() < 4 {
            return;
        }
        let halves = width.bytes() / 4;
        for half in 0..halves {
            let at = offset + 4 * half;
            let Some(line) = self.lines.get_mut((at / Entry::SIZE) as usize) else { return };
            let value = (value >> (32 * half)) as u32;
            match at % Entry::SIZE / 4 {
                0 => line.guest.address = value & !3,
                1 => line.guest.address_high = value,
                2 => line.guest.data = value,
                _ => line.guest.control = value & Entry::MASKED,
            }
        }
        // A qword is aligned, so both of its dwords belong to one entry.
        let entry = (offset / Entry::SIZE) as u16;
        if let Some(line) = self.lines.get_mut(usize::from(entry)) {
            line.apply(entry, vcpus, actions);
        }
    }
}

impl Line {
    /// Lets the hardware follow what the guest wrote.
    fn apply(&mut self, entry: u16, vcpus: &Vcpus, actions: &mut Actions) {
        if self.guest.control & Entry::MASKED != 0 {
            self.set_open(entry, false, actions);
            return;
        }
        let address = u64::from(self.guest.address_high) << 32 | u64::from(self.guest.address);
        match (RawMessage { address, data: self.guest.data }).resolve(entry, vcpus) {
            Ok(route) => {
                if self.applied != Applied::Route(route) {
                    actions.push(Action::Route(route));
                    self.applied = Applied::Route(route);
                }
                self.set_open(entry, true, actions);
            }
            Err(why) => {
                self.set_open(entry, false, actions);
                if matches!(self.applied, Applied::Route(_)) {
                    actions.push(Action::Block(Source::Msix(entry)));
                }
                self.applied = Applied::Refused;
                let source = Source::Msix(entry);
                actions.push(Action::Report(Report::Message { source, why }));
            }
        }
    }

    fn set_open(&mut self, entry: u16, open: bool, actions: &mut Actions) {
        if self.open != open {
            self.open = open;
            actions.push(Action::Mask { entry, masked: !open });
        }
    }
}
