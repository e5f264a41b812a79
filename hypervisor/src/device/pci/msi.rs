//! MSI as its guest sees it: as many messages as the hardware has, up to 32. PCI 3.0, section 6.8.1.
//!
//! The hardware's capability holds one message for good, that of a block of remapping entries; a function with several
//! messages adds a message's number to it. So a guest's address and data change remapping entries alone, each as a whole,
//! and never what the function sends. Routes of messages that are added stand before the function may send them, and those
//! of messages that are taken away stand until it may not.

use super::action::{Action, Actions, Report};
use super::messages::{Block, RawMessage, Source, Vcpus};
use arch_defs::pci::msi::{ADDRESS, Control, MAX_ORDER};

/// The capability.
#[derive(Clone, Debug)]
pub struct MsiModel {
    offset: u16,
    /// Layout: messages, address width, masking.
    layout: Control,
    enable: bool,
    /// 1 shifted by this many messages, not more than the layout has.
    order: u8,
    masks: u32,
    message: RawMessage,
    /// MSI-X is on, which excludes MSI.
    held: bool,
    hardware: State,
}

/// What the hardware was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    enable: bool,
    order: u8,
    masks: u32,
    routes: Option<Block>,
}

impl MsiModel {
    /// Off. `control` is the hardware's.
    pub fn new(offset: u8, control: Control) -> Self {
        let layout = Control::new()
            .with_capable(control.capable().min(MAX_ORDER))
            .with_wide(control.wide())
            .with_maskable(control.maskable());
        Self {
            offset: offset.into(),
            layout,
            enable: false,
            order: 0,
            masks: 0,
            message: RawMessage { address: 0, data: 0 },
            held: false,
            hardware: State::default(),
        }
    }

    /// As after a reset.
    pub fn reset(&mut self) {
        *self = Self::new(self.offset as u8, self.layout);
    }

    /// Byte offset of the capability.
    pub const fn offset(&self) -> u16 {
        self.offset
    }

    /// Bytes of the capability.
    pub const fn size(&self) -> u16 {
        self.layout.size() as u16
    }

    /// The upper half of the capability's first dword.
    pub const fn control(&self) -> u16 {
        self.layout.with_enable(self.enable).with_enabled(self.order).into_bits()
    }

    /// Byte offset of the pending bits in the capability, which the hardware has.
    pub fn pending(&self) -> Option<u16> {
        self.layout.mask().map(|mask| mask + 4)
    }

    /// Mask bits of all messages that there are.
    const fn all(&self) -> u32 {
        u32::MAX >> (32 - (1_u32 << self.layout.capable()))
    }

    /// A dword of the capability but the first, by its byte offset in it.
    pub fn read(&self, at: u16) -> u32 {
        if at == ADDRESS {
            self.message.address as u32
        } else if at == self.layout.data() {
            self.message.data
        } else if at == ADDRESS + 4 {
            (self.message.address >> 32) as u32
        } else if Some(at) == self.layout.mask() {
            self.masks
        } else {
            0
        }
    }

    /// The guest writes the control register. More messages than there are, also by a reserved value, are as many as there
    /// are.
    pub fn write_control(&mut self, value: u16, vcpus: &Vcpus, actions: &mut Actions) {
        let value = Control::from_bits(value);
        self.enable = value.enable();
        self.order = value.enabled().min(self.layout.capable());
        self.apply(vcpus, actions);
    }

    /// The guest writes a dword but the first, by its byte offset in the capability.
    pub fn write(&mut self, at: u16, value: u32, vcpus: &Vcpus, actions: &mut Actions) {
        let address = self.message.address;
        if at == ADDRESS {
            self.message.address = address & !0xFFFF_FFFF | u64::from(value & !3);
        } else if at == self.layout.data() {
            self.message.data = value & 0xFFFF;
        } else if at == ADDRESS + 4 {
            self.message.address = address & 0xFFFF_FFFF | u64::from(value) << 32;
        } else if Some(at) == self.layout.mask() {
            self.masks = value & self.all();
        } else {
            return;
        }
        self.apply(vcpus, actions);
    }

    /// MSI-X is switched on or off.
    pub fn hold(&mut self, held: bool, vcpus: &Vcpus, actions: &mut Actions) {
        if self.held != held {
            self.held = held;
            self.apply(vcpus, actions);
        }
    }

    /// The routes asked for last do not stand; the hardware was switched off.
    pub const fn route_failed(&mut self) {
        self.hardware.routes = None;
        self.hardware.enable = false;
    }

    /// Lets the hardware follow what the guest wrote.
    fn apply(&mut self, vcpus: &Vcpus, actions: &mut Actions) {
        let old = self.hardware;
        let mut new = State { masks: self.masks, ..old };
        new.enable = false;
        if self.enable && !self.held {
            match self.message.resolve_block(self.order, vcpus) {
                Ok(block) => {
                    new = State { enable: true, order: self.order, routes: Some(block), ..new };
                    if self.layout.maskable() {
                        new.masks |= block.refused();
                    }
                }
                Err(why) => {
                    new.routes = None;
                    actions.push(Action::Report(Report::Message { source: Source::Msi, why }));
                }
            }
        }
        self.hardware = new;
        // What must be silent, before its route goes.
        let closed = old.masks | new.masks;
        if closed != old.masks {
            actions.push(Action::MsiMask(closed));
        }
        let fewer = !new.enable || old.enable && new.order < old.order;
        let switched = (old.enable, old.order) != (new.enable, new.order);
        let control = Action::MsiControl { enable: new.enable, order: new.order };
        if switched && fewer {
            actions.push(control);
        }
        match new.routes {
            routes if routes == old.routes => {}
            Some(block) => actions.push(Action::RouteMsi(block)),
            None => actions.push(Action::Block(Source::Msi)),
        }
        // What has its route now.
        if new.masks != closed {
            actions.push(Action::MsiMask(new.masks));
        }
        if switched && !fewer {
            actions.push(control);
        }
    }
}
