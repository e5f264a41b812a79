//! Which assigned functions get their interrupt line (requirement E4). A line belongs to one VM: a pin of the machine's
//! I/O APICs has one vector and one core, and who shares it would take and end the others' interrupts.
//!
//! Called by `boot` before VMs are built. A function without a line is assigned all the same, since drivers prefer
//! messages; the log says why. Only one that has no messages, and whose line another VM's function shares, is refused.

use super::Pci;
use crate::device::ioapic::Pin as VirtualPin;
use crate::device::pit;
use crate::interrupt::line::Line;
use crate::interrupt::route;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use arch::acpi::Platform;
use arch::ioapic::isa_gsi;
use arch::pci::{Function, intx};
use arch_defs::aml::Wire;
use arch_defs::pci::header::offset;
use arch_defs::pci::{Bdf, ConfigSpace, Pin};
use guest_loader::config::VmConfig;

/// Pins of the virtual IOAPIC that lines lead to, as on a PC.
const VIRTUAL_PINS: core::ops::Range<u8> = 16..24;
/// ISA interrupt of the console.
const COM1: u8 = 4;
/// ISA interrupt of the timer that one VM may own.
const PIT: u8 = 0;

/// Why a function gets no line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoLine {
    /// In words.
    pub why: String,
    /// Another VM's function is on it.
    pub shared: bool,
}

/// What is known of the lines of the functions that VMs own and that have a pin.
pub type Plan = BTreeMap<Bdf, Result<Wire, NoLine>>;

/// A function with a pin that VM number `vm` owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owned {
    bdf: Bdf,
    vm: usize,
    pin: Pin,
}

impl Pci {
    /// Finds where the interrupt pins of the functions lead that VMs own.
    pub fn wire(&mut self, vms: &[VmConfig], platform: &Platform) {
        let owned: Vec<Owned> =
            vms.iter().enumerate().flat_map(|(n, vm)| self.pins(n, vm)).collect();
        // Only for them the tables' code is worth its risks.
        if owned.is_empty() || self.unconfined.is_some() {
            return;
        }
        let wires = match intx::wires(platform.code.clone(), &self.ram, &self.topology) {
            Ok(found) => {
                if let Some(why) = found.left_out {
                    log::info!(
                        "reading the wiring of PCI's interrupt pins, some was left out: {why}"
                    );
                }
                found.wires
            }
            Err(why) => {
                log::warn!("the wiring of PCI's interrupt pins is unknown: {why}");
                Vec::new()
            }
        };
        let find =
            |bdf, pin| intx::find(&self.topology, &wires, bdf, pin).map_err(|e| e.to_string());
        let found: Vec<(Owned, Result<Wire, String>)> =
            owned.iter().map(|&owned| (owned, find(owned.bdf, owned.pin))).collect();
        let of_beeline = [COM1, PIT].map(|isa| isa_gsi(isa, &platform.overrides).0);
        let mut plan = judge(&found, vms, &of_beeline);
        for (&bdf, planned) in &mut plan {
            let Ok(wire) = planned else { continue };
            if let Err(why) = self.silence_neighbours(wire.gsi, &owned, &wires) {
                *planned = Err(NoLine { why, shared: false });
            } else {
                log::info!("PCI {bdf}: its interrupt line is GSI {}", wire.gsi);
            }
        }
        self.lines = plan;
    }

    /// The functions of a VM that have a pin. Virtual functions have none.
    fn pins(&self, vm: usize, config: &VmConfig) -> Vec<Owned> {
        let whole = super::devices(config).filter(|device| device.vf.is_none());
        let pin = |bdf| {
            let function = Function::new(self.hardware, bdf);
            Pin::from_register(function.read_u8(offset::INTERRUPT + 1))
        };
        whole.filter_map(|d| Some(Owned { bdf: d.function, vm, pin: pin(d.function)? })).collect()
    }

    /// Lets functions that no VM owns say nothing on this line.
    fn silence_neighbours(&self, gsi: u32, owned: &[Owned], wires: &[Wire]) -> Result<(), String> {
        route::can_remap_pin(gsi)
            .map_err(|why| format!("GSI {gsi} is no pin that can be remapped ({why:?})"))?;
        let of_nobody = |bdf: &Bdf| !owned.iter().any(|owned| owned.bdf == *bdf);
        for bdf in self.topology.functions.iter().map(|found| found.bdf).filter(of_nobody) {
            let function = Function::new(self.hardware, bdf);
            let Some(pin) = Pin::from_register(function.read_u8(offset::INTERRUPT + 1)) else {
                continue;
            };
            let here = intx::find(&self.topology, wires, bdf, pin).is_ok_and(|w| w.gsi == gsi);
            if here && !function.set_intx(false) {
                return Err(format!(
                    "its line (GSI {gsi}) is that of {bdf}, too, which cannot be silenced"
                ));
            }
        }
        Ok(())
    }

    /// The lines of a VM, by function. Functions of one VM may share a line.
    pub(super) fn lines_of(&self, vm: &VmConfig) -> (BTreeMap<Bdf, VirtualPin>, Vec<Line>) {
        let mut pins = BTreeMap::new();
        let mut lines: Vec<Line> = Vec::new();
        for bdf in super::devices(vm).filter(|device| device.vf.is_none()).map(|d| d.function) {
            let wire = match self.lines.get(&bdf) {
                Some(Ok(wire)) => wire,
                Some(Err(none)) => {
                    log::warn!("PCI {bdf}: no interrupt pin for its guest: {}", none.why);
                    continue;
                }
                None => continue,
            };
            if let Some(line) = lines.iter().find(|line| line.gsi == wire.gsi) {
                pins.insert(bdf, line.pin);
                continue;
            }
            let next = VIRTUAL_PINS.clone().nth(lines.len()).and_then(VirtualPin::new);
            let Some(pin) = next else {
                log::warn!("PCI {bdf}: no interrupt pin for its guest: a VM has 8 lines");
                continue;
            };
            lines.push(Line::new(pin, wire.gsi, wire.active_low));
            pins.insert(bdf, pin);
        }
        (pins, lines)
    }

    /// Refuses a function that could interrupt its guest by a line alone, and another VM's function is on that.
    ///
    /// # Errors
    /// Who shares it.
    pub(super) fn check_line(&self, bdf: Bdf, has_messages: bool) -> Result<(), String> {
        match self.lines.get(&bdf) {
            Some(Err(none)) if none.shared && !has_messages => {
                Err(format!("{}, and it has no other way to interrupt", none.why))
            }
            _ => Ok(()),
        }
    }
}

/// Who gets its line: one VM's functions alone, and no line that Beeline or the timer's owner uses.
fn judge(found: &[(Owned, Result<Wire, String>)], vms: &[VmConfig], of_beeline: &[u32]) -> Plan {
    let name = |vm: usize| vms.get(vm).map_or("", |vm| vm.name.as_str());
    let verdict = |owned: &Owned, wire: &Result<Wire, String>| {
        let wire = wire.clone().map_err(|why| NoLine { why, shared: false })?;
        let gsi = wire.gsi;
        if of_beeline.contains(&gsi) || gsi == pit::GSI {
            let why = format!("its line (GSI {gsi}) is that of the console or the timer, too");
            return Err(NoLine { why, shared: false });
        }
        let on_it = |other: &&(Owned, Result<Wire, String>)| {
            other.0.vm != owned.vm && other.1.as_ref().is_ok_and(|other| other.gsi == gsi)
        };
        match found.iter().find(on_it) {
            Some((other, _)) => Err(NoLine {
                why: format!(
                    "its line (GSI {gsi}) is that of pci:{} of vm {}, too: give both functions to one VM",
                    other.bdf,
                    name(other.vm)
                ),
                shared: true,
            }),
            None => Ok(wire),
        }
    };
    found.iter().map(|(owned, wire)| (owned.bdf, verdict(owned, wire))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_loader::config::{Delivery, Dma};

    fn vm(name: &str) -> VmConfig {
        VmConfig {
            name: name.into(),
            cpus: Vec::new(),
            memory: 0,
            kernel: String::new(),
            initrd: None,
            modules: Vec::new(),
            cmdline: String::new(),
            delivery: Delivery::Direct,
            devices: Vec::new(),
            dma: Dma::default(),
            debug_hooks: false,
            console: true,
        }
    }

    fn owned(bdf: &str, vm: usize, gsi: u32) -> (Owned, Result<Wire, String>) {
        let wire =
            Wire { segment: 0, bus: 0, device: 1, pin: 0, gsi, level: true, active_low: true };
        (Owned { bdf: bdf.parse().unwrap(), vm, pin: Pin::A }, Ok(wire))
    }

    #[test]
    fn r_e4_a_line_of_two_vms_is_nobodys_and_both_functions_are_named() {
        let found = [
            owned("0000:00:01.0", 0, 21),
            owned("0000:00:02.0", 0, 22),
            owned("0000:00:05.0", 1, 21),
            owned("0000:00:06.0", 0, 22),
        ];
        let plan = judge(&found, &[vm("first"), vm("second")], &[4, 2]);
        let gsi = |bdf: &str| plan[&bdf.parse::<Bdf>().unwrap()].clone().map(|wire| wire.gsi);
        let (one, other) = (gsi("0000:00:01.0").unwrap_err(), gsi("0000:00:05.0").unwrap_err());
        assert!(one.shared && one.why.contains("pci:0000:00:05.0 of vm second"), "{}", one.why);
        assert!(other.shared && other.why.contains("pci:0000:00:01.0 of vm first"));
        assert_eq!([gsi("0000:00:02.0"), gsi("0000:00:06.0")], [Ok(22), Ok(22)]);
    }

    #[test]
    fn r_e4_no_line_is_that_of_the_console() {
        let plan = judge(&[owned("0000:00:01.0", 0, 4)], &[vm("vm")], &[4, 2]);
        let none = plan.values().next().unwrap().clone().unwrap_err();
        assert!(none.why.contains("console") && !none.shared);
    }
}
