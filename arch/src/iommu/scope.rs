//! Which unit covers which device: DMAR's device scopes, resolved to bus numbers. VT-d specification 4.1,
//! section 8.3. Used by [`super::Iommu`]; no locks.

use alloc::vec::Vec;
use arch_defs::iommu::RequesterId;
use arch_defs::iommu::dmar::{DeviceScope, Dmar, ScopeKind};
use core::ops::{Range, RangeInclusive};

/// The devices that one scope names.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Devices {
    Function(RequesterId),
    /// A bridge and what is behind it.
    Behind(RequesterId, RangeInclusive<u8>),
    /// The segment's devices that no other scope names.
    Others(u16),
}

impl Devices {
    /// How closely the scope fits the device, from 0; `None` if it does not name it.
    fn distance(&self, device: RequesterId) -> Option<usize> {
        match self {
            Self::Function(function) => (*function == device).then_some(0),
            Self::Behind(bridge, _) if *bridge == device => Some(0),
            Self::Behind(bridge, buses) => (bridge.segment == device.segment
                && buses.contains(&device.bus()))
            .then_some(1 + usize::from(buses.end() - buses.start())),
            Self::Others(segment) => (*segment == device.segment).then_some(usize::MAX),
        }
    }
}

/// All scopes of the machine.
#[derive(Debug)]
pub struct Scopes {
    /// Devices and the number of their unit.
    units: Vec<(Devices, usize)>,
    /// I/O APICs by id.
    ioapics: Vec<(u8, RequesterId)>,
    reserved: Vec<(Devices, Range<u64>)>,
}

impl Scopes {
    /// Resolves a table's paths. A scope whose bridge is not there names nothing: firmware lists devices that
    /// a board may lack.
    pub fn resolve(
        dmar: &Dmar,
        buses: &impl Fn(RequesterId) -> Option<RangeInclusive<u8>>,
    ) -> Self {
        let mut all = Self { units: Vec::new(), ioapics: Vec::new(), reserved: Vec::new() };
        for (number, unit) in dmar.units.iter().enumerate() {
            for scope in &unit.scopes {
                let Some(function) = function(unit.segment, scope, buses) else {
                    log::warn!(
                        "DMAR: unit {number} names a device behind a bridge that is not there"
                    );
                    continue;
                };
                if let ScopeKind::IoApic(id) = scope.kind {
                    all.ioapics.push((id, function));
                }
                all.units.push((devices(function, scope, buses), number));
            }
            if unit.include_pci_all {
                all.units.push((Devices::Others(unit.segment), number));
            }
        }
        for region in &dmar.reserved {
            for scope in &region.scopes {
                if let Some(function) = function(region.segment, scope, buses) {
                    all.reserved.push((devices(function, scope, buses), region.range.clone()));
                }
            }
        }
        all
    }

    /// Number of the unit that covers a device.
    pub fn unit_of(&self, device: RequesterId) -> Option<usize> {
        let fits = self.units.iter().filter_map(|(devices, unit)| {
            devices.distance(device).map(|distance| (distance, *unit))
        });
        fits.min().map(|(_, unit)| unit)
    }

    /// Puts one more function under a unit.
    pub fn add(&mut self, function: RequesterId, unit: usize) {
        self.units.push((Devices::Function(function), unit));
    }

    /// Requester id of an I/O APIC.
    pub fn ioapic(&self, id: u8) -> Option<RequesterId> {
        self.ioapics.iter().find(|(other, _)| *other == id).map(|(_, requester)| *requester)
    }

    /// Memory reserved for a device.
    pub fn reserved(&self, device: RequesterId) -> impl Iterator<Item = Range<u64>> + '_ {
        let regions = self.reserved.iter();
        regions.filter(move |(d, _)| d.distance(device).is_some()).map(|(_, range)| range.clone())
    }
}

/// The function at the end of a scope's path.
fn function(
    segment: u16,
    scope: &DeviceScope,
    buses: &impl Fn(RequesterId) -> Option<RangeInclusive<u8>>,
) -> Option<RequesterId> {
    let (&(device, function), bridges) = scope.path.split_last()?;
    let bus = bridges.iter().try_fold(scope.start_bus, |bus, &(device, function)| {
        buses(RequesterId::new(segment, bus, device, function)).map(|behind| *behind.start())
    })?;
    Some(RequesterId::new(segment, bus, device, function))
}

fn devices(
    function: RequesterId,
    scope: &DeviceScope,
    buses: &impl Fn(RequesterId) -> Option<RangeInclusive<u8>>,
) -> Devices {
    let behind = Some(scope.kind).filter(|kind| *kind == ScopeKind::SubHierarchy);
    match behind.and_then(|_| buses(function)) {
        Some(range) => Devices::Behind(function, range),
        None => Devices::Function(function),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arch_defs::iommu::dmar::{Drhd, Rmrr};

    fn scope(kind: ScopeKind, start_bus: u8, path: &[(u8, u8)]) -> DeviceScope {
        DeviceScope { kind, start_bus, path: path.to_vec() }
    }

    fn unit(base: u64, include_pci_all: bool, scopes: Vec<DeviceScope>) -> Drhd {
        Drhd { base, segment: 0, include_pci_all, scopes }
    }

    /// A port 00:1c.0 with buses 1 to 8 behind it, one of which is a switch's 01:00.0 with 3 to 4.
    fn buses(bridge: RequesterId) -> Option<RangeInclusive<u8>> {
        match (bridge.bus(), bridge.devfn()) {
            (0, 0xE0) => Some(1..=8),
            (1, 0) => Some(3..=4),
            _ => None,
        }
    }

    fn scopes() -> Scopes {
        let vga = scope(ScopeKind::Endpoint, 0, &[(2, 0)]);
        let port = scope(ScopeKind::SubHierarchy, 0, &[(0x1C, 0)]);
        let behind = scope(ScopeKind::SubHierarchy, 0, &[(0x1C, 0), (0, 0)]);
        let missing = scope(ScopeKind::Endpoint, 0, &[(0x1D, 0), (0, 0)]);
        let chip = scope(ScopeKind::IoApic(2), 0xF0, &[(0x1F, 0)]);
        Scopes::resolve(
            &Dmar {
                host_address_width: 39,
                interrupt_remapping: true,
                x2apic_opt_out: false,
                units: vec![
                    unit(0x1000, false, vec![vga.clone(), missing]),
                    unit(0x2000, false, vec![port]),
                    unit(0x3000, false, vec![behind]),
                    unit(0x4000, true, vec![chip]),
                ],
                reserved: vec![Rmrr { segment: 0, range: 0x5000..0x6000, scopes: vec![vga] }],
            },
            &buses,
        )
    }

    #[test]
    fn r_s9_each_device_is_under_its_own_unit() {
        let scopes = scopes();
        let unit =
            |bus, device, function| scopes.unit_of(RequesterId::new(0, bus, device, function));
        assert_eq!(unit(0, 2, 0), Some(0));
        assert_eq!(unit(0, 2, 1), Some(3), "another function of the same device");
        assert_eq!((unit(0, 0x1C, 0), unit(1, 1, 0), unit(8, 0, 0)), (Some(1), Some(1), Some(1)));
        assert_eq!((unit(1, 0, 0), unit(3, 0, 0), unit(4, 31, 7)), (Some(2), Some(2), Some(2)));
        assert_eq!((unit(9, 0, 0), unit(0xF0, 0x1F, 0)), (Some(3), Some(3)));
        assert_eq!(scopes.unit_of(RequesterId::new(1, 0, 2, 0)), None, "another segment");
        assert_eq!(scopes.ioapic(2), Some(RequesterId::new(0, 0xF0, 0x1F, 0)));
        assert_eq!(scopes.ioapic(0), None);
    }

    #[test]
    fn a_virtual_function_is_under_the_unit_of_its_physical_one() {
        let mut scopes = scopes();
        let virtual_function = RequesterId::new(0, 0, 2, 1);
        scopes.add(virtual_function, 0);
        assert_eq!(scopes.unit_of(virtual_function), Some(0));
    }

    #[test]
    fn reserved_memory_is_the_devices_own() {
        let scopes = scopes();
        let first = |device| scopes.reserved(device).next();
        assert_eq!(first(RequesterId::new(0, 0, 2, 0)), Some(0x5000..0x6000));
        assert_eq!(first(RequesterId::new(0, 0, 3, 0)), None);
    }
}
