//! Handing the machine's PCI functions to VMs, at boot: what the configuration names is found, virtual functions are
//! switched on, each function becomes a slot of its VM's bus, and the IOMMU lets it reach that VM's memory and no other.
//! Every function that no VM owns stays blocked (requirement S9). Without an IOMMU functions are refused, unless the
//! configuration trusts the VM with the whole machine.
//!
//! Called by `boot`, before any guest runs, and by `vm::life`: a function reaches its VM's memory from its start until it
//! has come to rest after its stop. Locks: the IOMMU's, the VM's PCI lock.

pub mod isolation;
pub mod places;

mod lines;
mod reach;

pub use reach::{confine, connect, disconnect};

use crate::device::pci::assigned::{Assigned, requester};
use crate::device::pci::{Bus, Description, Slot};
use crate::interrupt::line::Lines;
use crate::interrupt::route;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use arch::acpi::Platform;
use arch::iommu::Iommu;
use arch::pci::acs::{self, Peer};
use arch::pci::reset::{self, Way};
use arch::pci::{Function, Hardware, Topology, VirtualFunction, bars, sriov};
use arch_defs::pci::{Bar, Bdf};
use core::ops::Range;
use guest_loader::config::{DeviceConfig, Dma, PciDevice, VmConfig};
use guest_loader::layout::PAGE;
use places::Place;

/// Local APICs, and what devices write to raise interrupts. SDM 3A, section "Message Address Register Format".
const MESSAGES: Range<u64> = 0xFEE0_0000..0xFEF0_0000;
/// Remapping entries of each unit.
const REMAPPING_ENTRIES: u32 = 4096;

/// The machine's PCI as boot found it.
pub struct Pci {
    hardware: &'static Hardware,
    ram: Vec<Range<u64>>,
    /// Who else answers where.
    places: Vec<Place>,
    topology: Topology,
    /// Why devices cannot be confined, if they cannot.
    unconfined: Option<String>,
    /// Every function, as those beside it meet it.
    peers: Vec<Peer>,
    /// The virtual functions that the configuration asks for, by physical function.
    virtual_functions: BTreeMap<Bdf, Vec<VirtualFunction>>,
    /// Where interrupt pins lead.
    lines: lines::Plan,
}

/// Finds the functions and starts the IOMMU.
///
/// # Errors
/// A broken MCFG.
pub fn start(platform: &Platform, ram: &[Range<u64>], tsc_hz: u64) -> Result<Pci, String> {
    let hardware: &'static Hardware =
        Box::leak(Box::new(Hardware::new(&platform.ecam, ram, tsc_hz)?));
    let topology = Topology::read(hardware);
    let unconfined = start_iommu(platform, &topology).err();
    if let Some(why) = &unconfined {
        log::info!("devices cannot be confined: {why}");
    }
    // Without an IOMMU there is nobody to send requests on to.
    let peers = match unconfined {
        Some(_) => Vec::new(),
        None => acs::keep_apart(hardware, &topology),
    };
    Ok(Pci {
        hardware,
        ram: ram.to_vec(),
        places: registers(platform, hardware),
        topology,
        unconfined,
        peers,
        virtual_functions: BTreeMap::new(),
        lines: lines::Plan::new(),
    })
}

fn start_iommu(platform: &Platform, topology: &Topology) -> Result<(), String> {
    let dmar = platform.dmar.as_ref().ok_or(
        "this machine has no IOMMU that Beeline drives (no ACPI DMAR table): switch VT-d on in the firmware",
    )?;
    let iommu = Iommu::start(dmar, REMAPPING_ENTRIES, |function| {
        let found = topology.functions.iter().find(|found| requester(found.bdf) == function)?;
        found.bridge.map(|bridge| bridge.buses())
    });
    let iommu = iommu.map_err(|e| e.to_string())?;
    for facts in iommu.facts() {
        log::info!("{facts}");
    }
    route::install(iommu);
    Ok(())
}

/// The machine's registers in memory.
fn registers(platform: &Platform, hardware: &Hardware) -> Vec<Place> {
    let page = |at: u64| at..at.saturating_add(PAGE);
    let mut places = alloc::vec![Place::registers(&MESSAGES, "the local APICs")];
    places.extend(hardware.windows().map(|at| Place::registers(&at, "PCI configuration space")));
    let chips = platform.io_apics.iter();
    places.extend(chips.map(|chip| Place::registers(&page(chip.address.into()), "an I/O APIC")));
    places.extend(platform.hpet.map(|at| Place::registers(&page(at), "the event timers (HPET)")));
    route::with_iommu(|iommu| {
        places.extend(iommu.facts().map(|unit| Place::registers(&unit.registers(), "an IOMMU")));
    });
    places
}

/// The PCI functions that a VM owns.
fn devices(vm: &VmConfig) -> impl Iterator<Item = PciDevice> + '_ {
    vm.devices.iter().copied().filter_map(DeviceConfig::pci)
}

/// A function that a VM gets.
struct Opened {
    description: Description,
    way: Option<Way>,
}

impl Pci {
    /// Switches on the virtual functions that VMs own: on each physical function as many as the highest number asks for.
    ///
    /// # Errors
    /// The device of the configuration that cannot be, and why.
    pub fn enable_virtual_functions(&mut self, vms: &[VmConfig]) -> Result<(), String> {
        let mut counts: BTreeMap<Bdf, u16> = BTreeMap::new();
        for device in vms.iter().flat_map(devices) {
            if let Some(vf) = device.vf {
                let count = counts.entry(device.function).or_default();
                *count = (*count).max(vf.saturating_add(1));
            }
        }
        for (pf, count) in counts {
            let named =
                |why: &dyn core::fmt::Display| format!("devices: pci:{pf}/vf{}: {why}", count - 1);
            self.topology.find(pf).map_err(|e| named(&e))?;
            // A reset later would switch its virtual functions off under their guests.
            let function = Function::new(self.hardware, pf);
            if let Ok(way) = reset::way(function) {
                reset::reset(function, way).map_err(|e| named(&e))?;
            }
            let vfs =
                sriov::enable(self.hardware, &self.topology, pf, count).map_err(|e| named(&e))?;
            for vf in &vfs {
                let added = route::with_iommu(|iommu| {
                    iommu.add_virtual_function(requester(vf.bdf), requester(pf))
                });
                added.unwrap_or(Ok(())).map_err(|e| named(&e))?;
            }
            if let Some(&peer) = self.peers.iter().find(|peer| peer.bdf == pf) {
                self.peers.extend(vfs.iter().map(|vf| peer.virtual_function(vf.bdf)));
            }
            log::info!(
                "PCI {pf}: {count} virtual functions, the first at {}",
                vfs.first().map_or(pf, |vf| vf.bdf)
            );
            self.virtual_functions.insert(pf, vfs);
        }
        Ok(())
    }

    /// Finds out who answers where in memory, if a VM owns functions. Decoding of each function is off for a moment: before
    /// any guest runs.
    pub fn survey(&mut self, vms: &[VmConfig]) {
        let owned: Vec<Bdf> = vms.iter().flat_map(devices).map(|device| device.function).collect();
        if owned.is_empty() {
            return;
        }
        for found in &self.topology.functions {
            let function = Function::new(self.hardware, found.bdf);
            // What nobody owns and does not decode stays so.
            if function.command().memory() || owned.contains(&found.bdf) {
                match bars::read(function) {
                    Ok(bars) => self.places.extend(places::of_bars(found.bdf, &bars)),
                    Err(why) => log::warn!("PCI {}: {why}", found.bdf),
                }
            }
            let windows = found.bridge.iter().flat_map(|own| places::of_bridge(found.bdf, own));
            self.places.extend(windows);
        }
        for vf in self.virtual_functions.values().flatten() {
            self.places.extend(places::of_bars(vf.bdf, &vf.bars));
        }
    }

    /// Looks for functions of different owners that can reach each other past the IOMMU.
    ///
    /// # Errors
    /// Two functions that must have one owner, and why.
    pub fn check_isolation(&self, vms: &[VmConfig]) -> Result<(), String> {
        let mut owners: BTreeMap<Bdf, (usize, PciDevice)> = BTreeMap::new();
        for (index, vm) in vms.iter().enumerate() {
            for device in devices(vm) {
                // What is not there is refused later, by its name.
                if let Ok(bdf) = self.name(device) {
                    owners.insert(bdf, (index, device));
                }
            }
        }
        for (&bdf, (vm, device)) in &owners {
            if let Some(bridge) = isolation::alias(&self.peers, bdf) {
                let name = vms.get(*vm).map_or("", |vm| &vm.name);
                log::warn!(
                    "vm {name}: devices: {device} is behind the conventional PCI bridge {bridge}: DMA and messages that \
                     carry the bridge's id are blocked"
                );
            }
        }
        let owner = |bdf: Bdf| {
            let &(index, device) = owners.get(&bdf)?;
            Some((vms.get(index)?, device))
        };
        for pair in isolation::pairs(&self.peers, |bdf| owners.get(&bdf).map(|&(vm, _)| vm)) {
            let Some((vm, device)) = owner(pair.one) else { continue };
            let Some((second, other)) = owner(pair.other) else {
                // Firmware may have left it at work; nobody starts it again.
                Function::new(self.hardware, pair.other).set_bus_master(false);
                log::info!("PCI {} is kept off the bus: it and {device} {}", pair.other, pair.way);
                continue;
            };
            let text = format!(
                "vm {}: devices: {device}, and {other} of vm {}, {}",
                vm.name, second.name, pair.way
            );
            if pair.way.is_certain() {
                return Err(format!("{text}: give both to one VM"));
            }
            log::warn!("{text}: their VMs are apart only if the device keeps them apart");
        }
        Ok(())
    }

    /// The name on the bus of a function of the configuration.
    fn name(&self, device: PciDevice) -> Result<Bdf, &'static str> {
        let Some(vf) = device.vf else { return Ok(device.function) };
        self.virtual_function(device.function, vf).map(|vf| vf.bdf)
    }

    fn virtual_function(&self, pf: Bdf, vf: u16) -> Result<&VirtualFunction, &'static str> {
        let vfs = self.virtual_functions.get(&pf);
        vfs.and_then(|vfs| vfs.get(usize::from(vf))).ok_or("there is no such virtual function")
    }

    /// Whether no IOMMU keeps the VM's functions in its memory, because its configuration trusts it. Then its RAM must lie at
    /// the machine's own addresses.
    pub fn is_unprotected(&self, vm: &VmConfig) -> bool {
        if vm.dma != Dma::IdentityUnprotected || devices(vm).next().is_none() {
            return false;
        }
        if self.unconfined.is_none() {
            log::info!(
                "vm {}: this machine's IOMMU confines its functions: dma = \"remapped\" would do",
                vm.name
            );
            return false;
        }
        log::warn!(
            "vm {}: nothing confines its functions (dma = \"identity-unprotected\"): they reach all memory, this image too",
            vm.name
        );
        true
    }

    /// The bus of a VM, with its functions on it, and their interrupt lines.
    ///
    /// # Errors
    /// The device of the configuration that cannot be, and why.
    pub fn bus(&self, vm: &VmConfig) -> Result<(Bus, Lines), String> {
        let (pins, lines) = self.lines_of(vm);
        let mut slots = Vec::new();
        for device in devices(vm) {
            let named =
                |why: &dyn core::fmt::Display| format!("vm {}: devices: {device}: {why}", vm.name);
            if let Some(why) = self.unconfined.as_ref().filter(|_| vm.dma == Dma::Remapped) {
                return Err(named(why));
            }
            let mut opened = self.open(device).map_err(|why| named(&why))?;
            let description = &mut opened.description;
            let has_messages = description.msi.is_some() || description.msix.is_some();
            self.check_line(description.name, has_messages).map_err(|why| named(&why))?;
            description.line = pins.get(&description.name).copied();
            let cores = vm.cpus.iter().map(|&core| core as usize).collect();
            let backing = Assigned::new(self.hardware, &opened.description, opened.way, cores);
            slots.push(Slot {
                function: crate::device::pci::Function::new(opened.description),
                backing: Box::new(backing),
            });
        }
        let bus = Bus::new(slots).map_err(|e| format!("vm {}: devices: {e}", vm.name))?;
        Ok((bus, Lines::new(lines)))
    }

    fn open(&self, device: PciDevice) -> Result<Opened, String> {
        let pf = device.function;
        match device.vf {
            Some(vf) => {
                let vf = self.virtual_function(pf, vf)?;
                self.check_places(vf.bdf, pf, &vf.bars)?;
                self.describe(vf.bdf, &vf.bars, Some((vf.vendor, vf.device)), true)
            }
            None => {
                let found = self.topology.find(pf).map_err(|e| e.to_string())?;
                if found.bridge.is_some() {
                    return Err("a bridge cannot be assigned".to_string());
                }
                let bars =
                    bars::read(Function::new(self.hardware, pf)).map_err(|e| e.to_string())?;
                self.check_places(pf, pf, &bars)?;
                self.describe(pf, &bars, None, !self.virtual_functions.contains_key(&pf))
            }
        }
    }

    /// Whether nothing else answers where a function's BARs lie, and they are no RAM. `at` is the function on whose bus it is.
    fn check_places(&self, function: Bdf, at: Bdf, own: &[Bar]) -> Result<(), String> {
        bars::check(own, &self.ram).map_err(|e| e.to_string())?;
        let before: Vec<Bdf> = self.topology.bridges(at).map(|(bridge, _)| bridge).collect();
        match places::overlap(function, own, &before, &self.places) {
            Some(overlap) => Err(format!("{overlap}: its guest would get that with it")),
            None => Ok(()),
        }
    }

    fn describe(
        &self,
        bdf: Bdf,
        bars: &[Bar],
        ids: Option<(u16, u16)>,
        may_reset: bool,
    ) -> Result<Opened, String> {
        let function = Function::new(self.hardware, bdf);
        // Firmware may have left it at work: nothing comes from it before the IOMMU knows whose it is.
        function.set_bus_master(false);
        // Guests have no ROM, and its place has not been looked at.
        function.disable_rom();
        let way = if may_reset { reset::way(function) } else { Err(arch::pci::Why::NoReset) };
        let way = match way {
            Ok(way) => Some(way),
            Err(why) if may_reset => {
                log::warn!("PCI {bdf}: {why}");
                None
            }
            Err(_) => None,
        };
        let description = Description::read(bdf, &function, bars, ids, way.is_some())
            .map_err(|e| e.to_string())?;
        let reserved = route::with_iommu(|iommu| iommu.reserved_memory(requester(bdf)).next());
        if let Some(Some(range)) = reserved {
            return Err(format!(
                "firmware keeps it busy with memory of its own at {:#x} (ACPI DMAR, RMRR): switch that off in the firmware",
                range.start
            ));
        }
        function.enable_memory();
        Ok(Opened { description, way })
    }
}
