//! Which memory the functions of a VM reach: its RAM, from its start until they have come to rest after its stop. Without an
//! IOMMU there is nothing to do: its configuration has said that they reach all of it.
//!
//! Called by `boot` and `vm::life`. Locks: the IOMMU's, the VM's PCI lock.

use crate::device::pci::Bus;
use crate::device::pci::assigned::requester;
use crate::interrupt::route;
use crate::memory::GuestRam;
use crate::vm::Vm;
use alloc::format;
use alloc::string::{String, ToString};
use arch::iommu::Error;
use arch::stage2::{Format, Stage2};

/// Maps the memory of a VM's functions into its second stage. Returns the address space that the functions get at each
/// start ([`connect`]): the VM's RAM.
///
/// # Errors
/// No memory for tables.
pub fn confine(bus: &Bus, ram: &GuestRam, space: &mut Stage2) -> Result<Option<Stage2>, String> {
    for region in
        bus.functions().flat_map(|function| function.regions()).filter(|region| region.mapped)
    {
        space
            .map_device(region.gpa, region.host)
            .map_err(|_| "no memory for page tables".to_string())?;
    }
    let largest = route::with_iommu(|iommu| iommu.largest_page());
    let Some(largest) = largest.filter(|_| bus.functions().next().is_some()) else {
        return Ok(None);
    };
    let mut dma =
        Stage2::new(Format::Vtd, largest).map_err(|_| "no memory for page tables".to_string())?;
    ram.map(&mut dma).map_err(|_| "no memory for page tables".to_string())?;
    Ok(Some(dma))
}

/// Lets a VM's functions, which are at rest, reach its RAM.
///
/// # Errors
/// What the IOMMU cannot do; no function reaches it then.
pub fn connect(vm: &Vm) -> Result<(), String> {
    let Some(dma) = &vm.dma else { return Ok(()) };
    // One address space per VM, and domain 0 is nobody's.
    let domain = vm.index as u16 + 1;
    for name in vm.devices.pci_names() {
        let attached = route::with_iommu(|iommu| iommu.attach(requester(name), dma, domain));
        if let Some(Err(why)) = attached {
            disconnect(vm)?;
            return Err(format!("PCI {name}: {why}"));
        }
    }
    Ok(())
}

/// Takes a VM's functions out of its address space. On return their last accesses are done.
///
/// # Errors
/// What the IOMMU did not do: a function may still reach the memory.
pub fn disconnect(vm: &Vm) -> Result<(), String> {
    let mut result = Ok(());
    for name in vm.devices.pci_names() {
        // All of them, also if one fails.
        match route::with_iommu(|iommu| iommu.detach(requester(name))) {
            None | Some(Ok(()) | Err(Error::NotAttached(_))) => {}
            Some(Err(why)) => {
                result = Err(format!("PCI {name} may still reach its memory: {why}"));
            }
        }
    }
    result
}
