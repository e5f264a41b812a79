//! MSI as its guest sees it: one message, whatever the hardware could send (several need neighbouring remapping
//! entries, and Linux asks for several only where a driver insists). PCI 3.0, section 6.8.1.
//!
//! The hardware's capability holds the message of a remapping entry. Pending bits read as 0.

use super::action::{Action, Actions, Report};
use super::messages::{Applied, RawMessage, Vcpus};
use arch_defs::pci::msi::{ADDRESS, Control};

/// The capability.
#[derive(Clone, Debug)]
pub struct MsiModel {
    offset: u16,
    /// Layout: address width, masking.
    layout: Control,
    enable: bool,
    masked: bool,
    message: RawMessage,
    applied: Applied,
    /// The hardware's enable and mask bits.
    enabled: bool,
    closed: bool,
}

impl MsiModel {
    /// Off. `control` is the hardware's.
    pub const fn new(offset: u8, control: Control) -> Self {
        let layout = Control::new().with_wide(control.wide()).with_maskable(control.maskable());
        Self {
            offset: offset as u16,
            layout,
            enable: false,
            masked: false,
            message: RawMessage { address: 0, data: 0 },
            applied: Applied::Blocked,
            enabled: false,
            closed: false,
        }
    }

    /// As after a reset.
    pub const fn reset(&mut self) {
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
        self.layout.with_enable(self.enable).into_bits()
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
            self.masked.into()
        } else {
            0
        }
    }

    /// The guest writes the control register.
    pub fn write_control(&mut self, value: u16, vcpus: &Vcpus, actions: &mut Actions) {
        self.enable = Control::from_bits(value).enable();
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
            self.masked = value & 1 != 0;
        } else {
            return;
        }
        self.apply(vcpus, actions);
    }

    /// Lets the hardware follow what the guest wrote.
    fn apply(&mut self, vcpus: &Vcpus, actions: &mut Actions) {
        let mut enable = self.enable;
        if self.enable {
            match self.message.resolve(0, vcpus) {
                Ok(route) => {
                    if self.applied != Applied::Route(route) {
                        actions.push(Action::Route(route));
                        self.applied = Applied::Route(route);
                    }
                }
                Err(why) => {
                    enable = false;
                    actions.push(Action::Report(Report::Message { entry: 0, why }));
                }
            }
        }
        if self.closed != self.masked {
            self.closed = self.masked;
            actions.push(Action::Mask { entry: 0, masked: self.masked });
        }
        if self.enabled != enable {
            self.enabled = enable;
            actions.push(Action::MsiEnable(enable));
        }
        if self.enable && !enable && matches!(self.applied, Applied::Route(_)) {
            actions.push(Action::Block { entry: 0 });
            self.applied = Applied::Refused;
        }
    }
}
