//! Where interrupt pins are wired to: the machine's AML says so for the pins of a bus, and what lies behind a bridge turns.
//!
//! Called at boot, once for all functions. PCI-to-PCI Bridge Architecture 1.2, section 9.1; ACPI 6.5, section 6.2.13.

#![expect(unsafe_code, reason = "AML may look at firmware's memory")]

use super::topology::Topology;
use crate::paging;
use alloc::vec::Vec;
use arch_defs::aml::{Aml, AmlError, Space, Table, Wire, Wires};
use arch_defs::pci::{Bdf, Pin};
use core::fmt;
use core::ops::Range;

/// Why a pin leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoWire {
    /// No `_PRT` is there for its bus, nor for a bus before it.
    NoTable,
    /// The `_PRT` does not have the pin of this device.
    NoEntry {
        /// The bus.
        bus: u8,
        /// The device.
        device: u8,
        /// Its pin.
        pin: Pin,
    },
}

impl fmt::Display for NoWire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTable => f.write_str("the ACPI tables have no _PRT for its bus"),
            Self::NoEntry { bus, device, pin } => write!(
                f,
                "the _PRT of bus {bus:02x} has no entry for INT{} of device {device:02x}",
                char::from(b'A' + pin.number())
            ),
        }
    }
}

/// Evaluates the machine's tables. Memory that is no RAM may be looked at: firmware keeps variables of its code there.
///
/// # Errors
/// What the code cannot do.
pub fn wires(code: Vec<Table>, ram: &[Range<u64>], topology: &Topology) -> Result<Wires, AmlError> {
    let limit = 1_u64 << crate::cpu::physical_bits();
    let look = |space: Space, address: u64| {
        let is_ram = ram.iter().any(|ram| ram.contains(&address));
        if space != Space::Memory || is_ram || address == 0 || address >= limit {
            return None;
        }
        let page = address & !0xFFF;
        paging::map_mmio(page..page + 0x1000);
        // SAFETY: the page was mapped just now. It is no RAM, so nothing of ours; firmware says that its code reads it.
        Some(unsafe { (address as *const u8).read_volatile() })
    };
    let behind = |segment, bus, device, function| {
        let bdf = Bdf::new(segment, bus, device, function)?;
        Some(topology.find(bdf).ok()?.bridge?.secondary)
    };
    arch_defs::aml::wires(&mut Aml::new(code, &look), &behind)
}

/// The wire that a pin of a function leads to.
///
/// # Errors
/// [`NoWire`].
pub fn find(topology: &Topology, wires: &[Wire], bdf: Bdf, pin: Pin) -> Result<Wire, NoWire> {
    let bridges = topology.bridges(bdf).map(|(bridge, _)| bridge);
    let (mut at, mut pin) = (bdf, pin);
    for bridge in bridges.map(Some).chain([None]) {
        let on_bus = |wire: &&Wire| wire.segment == at.segment && wire.bus == at.bus();
        if wires.iter().any(|wire| on_bus(&wire)) {
            let is = |wire: &&Wire| wire.device == at.device() && wire.pin == pin.number();
            let none = NoWire::NoEntry { bus: at.bus(), device: at.device(), pin };
            return wires.iter().filter(on_bus).find(is).copied().ok_or(none);
        }
        let Some(bridge) = bridge else { break };
        pin = pin.behind_bridge(at.device());
        at = bridge;
    }
    Err(NoWire::NoTable)
}

#[cfg(test)]
mod tests {
    use super::super::topology::Found;
    use super::*;
    use arch_defs::pci::header::Bridge;

    fn bdf(text: &str) -> Bdf {
        text.parse().unwrap()
    }

    fn found(name: &str, parent: Option<&str>, secondary: u8) -> Found {
        let bridge = Bridge { secondary, subordinate: 9, memory: None, prefetchable: None };
        let bridge = (secondary != 0).then_some(bridge);
        Found { bdf: bdf(name), parent: parent.map(bdf), bridge }
    }

    /// A device on the root bus, one behind a root port, one behind a switch there.
    fn machine() -> Topology {
        let functions = vec![
            found("0000:00:01.0", None, 0),
            found("0000:00:02.0", None, 1),
            found("0000:01:03.0", Some("0000:00:02.0"), 2),
            found("0000:02:05.1", Some("0000:01:03.0"), 0),
        ];
        Topology { functions }
    }

    fn wire(bus: u8, device: u8, pin: u8, gsi: u32) -> Wire {
        Wire { segment: 0, bus, device, pin, gsi, level: true, active_low: true }
    }

    fn pin(register: u8) -> Pin {
        Pin::from_register(register).unwrap()
    }

    #[test]
    fn r_e4_a_pin_turns_at_each_bridge_on_its_way() {
        let wires = [wire(0, 1, 0, 20), wire(0, 2, 1, 30), wire(0, 2, 2, 31)];
        let gsi = |name, register| {
            find(&machine(), &wires, bdf(name), pin(register)).map(|wire| wire.gsi)
        };
        assert_eq!(gsi("0000:00:01.0", 1), Ok(20));
        // INTB of 05 is INTC of 03 (1 + 5), and that INTB of 02 (2 + 3).
        assert_eq!(gsi("0000:02:05.1", 2), Ok(30));
        assert_eq!(gsi("0000:02:05.1", 3), Ok(31));
        let none = NoWire::NoEntry { bus: 0, device: 2, pin: pin(4) };
        assert_eq!(gsi("0000:02:05.1", 4), Err(none));
        assert_eq!(none.to_string(), "the _PRT of bus 00 has no entry for INTD of device 02");
    }

    #[test]
    fn r_e4_a_table_of_a_bridge_comes_before_the_turn() {
        let wires = [wire(0, 2, 1, 30), wire(1, 3, 2, 40)];
        let found = find(&machine(), &wires, bdf("0000:02:05.1"), pin(2));
        assert_eq!(found, Ok(wire(1, 3, 2, 40)));
        assert_eq!(find(&machine(), &[], bdf("0000:00:01.0"), Pin::A), Err(NoWire::NoTable));
    }
}
