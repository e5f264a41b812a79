//! The machine's interval timer (8254), passed through to the one VM that owns it
//! (`devices = ["pit"]`): its ports exit and are carried out; its interrupt pin is programmed with
//! the guest's own vector and core, so that the interrupt takes no exit.
//!
//! A pin that the guest programs for NMI delivers to the housekeeping core, which raises the NMI by
//! request: a physical NMI on the guest's core could merge with a kick and be lost (requirements
//! D4).
//!
//! Locks: none but the physical IOAPIC's.

use super::ioapic::{Delivery, Entry, PinChanged};
use crate::audit::{self, PinPurpose};
use crate::cores;
use crate::housekeeping;
use crate::interrupt::line::fixed_target;
use crate::interrupt::route;
use crate::sync::Once;
use crate::vm::{self, Vm};
use arch::acpi::Platform;
use arch::ioapic::{self, PinRoute, Trigger};
use arch::machine::{pit_read, pit_write};
use guest_loader::config::DeviceConfig;

/// The guest's global system interrupt, as on every PC: ISA interrupt 0 is wired to pin 2.
pub const GSI: u32 = 2;
/// Channels and control register; 0x61 has the gate and output of channel 2.
const PORTS: core::ops::RangeInclusive<u16> = 0x40..=0x43;
const GATE_PORT: u16 = 0x61;

/// Where the machine's own PIT interrupt arrives.
static WIRE: Once<(u32, Trigger)> = Once::new();

/// Learns the wiring, at boot.
pub fn init(platform: &Platform) {
    WIRE.call_once(|| ioapic::isa_gsi(0, &platform.overrides));
    arch::tables::set_vector_handler(housekeeping::PIT_NMI_VECTOR, nmi_pin_fired);
}

/// A guest's read; `None` for other ports.
pub fn read(port: u16) -> Option<u8> {
    (PORTS.contains(&port) || port == GATE_PORT).then(|| pit_read(port))
}

/// A guest's write; `None` for other ports.
pub fn write(port: u16, value: u8) -> Option<()> {
    if PORTS.contains(&port) {
        pit_write(port, value);
    } else if port == GATE_PORT {
        // Gate and speaker of channel 2; the NMI enables in bits 2 and 3 stay the machine's.
        pit_write(port, (pit_read(port) & 0x0C) | value & 3);
    } else {
        return None;
    }
    Some(())
}

/// Masks the pin and stops channel 0 (VM start).
pub fn silence() {
    if let Some((gsi, _)) = WIRE.get() {
        let _ = ioapic::mask(*gsi);
    }
    // Channel 0, mode 0, no count: the output stays low.
    pit_write(0x43, 0x30);
}

/// The guest programmed the pin: the real one follows.
pub fn pin_changed(vm: &Vm, changed: PinChanged) {
    let Some(&(gsi, trigger)) = WIRE.get() else { return };
    let done = match wanted(vm, changed.entry) {
        Some((vector, target, purpose)) => {
            // Masked first: the entry's two halves are written apart.
            ioapic::mask(gsi).and_then(|()| {
                if cfg!(debug_assertions) {
                    audit::pin_route(target, purpose);
                }
                let target = cores::core(target).apic_id();
                route::pin(gsi, PinRoute { vector, target, trigger })
            })
        }
        None => ioapic::mask(gsi),
    };
    if let Err(why) = done {
        log::warn!("vm {}: the PIT's pin cannot be routed: {why:?}", vm.config.name);
    }
}

/// Vector, core and purpose for a redirection entry; `None`: masked, or a mode that stays inside.
fn wanted(vm: &Vm, entry: Entry) -> Option<(u8, usize, PinPurpose)> {
    let message = entry.message().filter(|_| !entry.is_masked())?;
    match message.delivery {
        Delivery::Fixed(vector) | Delivery::LowestPriority(vector) => {
            let (_, vcpu) = fixed_target(vm, entry)?;
            Some((vector.get(), vcpu.core, PinPurpose::Guest))
        }
        Delivery::Nmi => Some((housekeeping::PIT_NMI_VECTOR, housekeeping::CORE, PinPurpose::Host)),
    }
}

/// The pin fired in NMI mode (housekeeping core).
fn nmi_pin_fired() {
    let owner = vm::all().iter().find(|vm| vm.config.devices.contains(&DeviceConfig::Pit));
    if let Some(vm) = owner {
        vm.devices.pit_nmi(vm);
    }
}
