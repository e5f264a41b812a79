//! The board of one VM: which device answers where.

use crate::vm::{Ask, Vm};

/// What a port write does beyond its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Nothing,
    /// The VM ends this run.
    Stop(Ask),
}

/// The devices of one VM.
pub struct Devices {}

impl Devices {
    pub fn new() -> Self {
        Self {}
    }
    pub fn reset(&self) {}
    pub fn ioapic_read(&self, _: u16) -> u32 {
        0
    }
    pub fn ioapic_write(&self, _: &Vm, _: u16, _: u32) {}
    pub fn port_read(&self, _: &Vm, port: u16, _: u8) -> Option<u32> {
        (port == 0x3FD).then_some(0x60)
    }
    pub fn port_write(&self, vm: &Vm, port: u16, _: u8, value: u32) -> Option<Effect> {
        match port {
            0x3F8 => {
                vm.output.put(value as u8);
                crate::housekeeping::wake();
                Some(Effect::Nothing)
            }
            0xB004 => Some(Effect::Stop(Ask::PowerOff)),
            _ => None,
        }
    }
    pub fn output_drained(&self, _: &Vm) {}
    pub fn receive(&self, _: &Vm, _: u8) {}
}
