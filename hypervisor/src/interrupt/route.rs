//! Where the interrupts of the machine's devices go: remapping entries of assigned functions, and I/O APIC pins, which pass
//! through the remapping too once the IOMMU is on. The one owner of the IOMMU.
//!
//! Callers: `device::pci::assigned` for a guest's messages, `housekeeping` and `device::pit` for pins, `assignment` for
//! address spaces, [`super::faults`]. Locks: [`IOMMU`], then [`PINS`] and the I/O APICs' in `arch`; no guest code is waited
//! for under it, but for the hardware's answer to an invalidation. [`IOMMU`] is a queue: a VM that re-programs its messages
//! without end costs each other one change of its own, not more.

use crate::audit::{self, PinPurpose};
use crate::cores;
use crate::sync::{Mutex, Once, TicketMutex};
use alloc::collections::BTreeMap;
use arch::apic::PhysicalApicId;
use arch::ioapic::{self, PinError, PinRoute};
use arch::iommu::{Error, Iommu, RemapIndex, Route};
use arch_defs::apic::GuestVector;

static IOMMU: Once<TicketMutex<Iommu>> = Once::new();
/// The remapping entries of pins, by global system interrupt.
static PINS: Mutex<BTreeMap<u32, RemapIndex>> = Mutex::new(BTreeMap::new());

/// Takes the IOMMU over, once, at boot.
pub fn install(iommu: Iommu) {
    IOMMU.call_once(|| TicketMutex::new(iommu));
}

/// Does this machine remap?
pub fn remaps() -> bool {
    IOMMU.get().is_some()
}

/// Does something with the IOMMU; `None` on a machine without one.
pub fn with_iommu<T>(act: impl FnOnce(&mut Iommu) -> T) -> Option<T> {
    IOMMU.get().map(|iommu| act(&mut iommu.lock()))
}

/// The physical APIC id of a core that a guest's interrupt goes to.
pub fn guest_core(core: usize) -> PhysicalApicId {
    if cfg!(debug_assertions) {
        audit::pin_route(core, PinPurpose::Guest);
    }
    cores::core(core).apic_id()
}

/// Lets entries raise a guest's vectors on its vCPU's core, and those without a vector nothing, by one invalidation with wait
/// (requirements A1, A3, B2). On return nothing goes by an old route.
///
/// # Errors
/// What the IOMMU says.
pub fn to_guest(
    entries: impl IntoIterator<Item = (RemapIndex, Option<GuestVector>)>,
    core: usize,
) -> Result<(), Error> {
    let destination = guest_core(core);
    let to = |vector: GuestVector| Route { vector: vector.get(), destination, level: false };
    let changes = entries.into_iter().map(|(index, vector)| (index, vector.map(to)));
    // Whoever has an entry has an IOMMU.
    with_iommu(|iommu| iommu.change(changes)).unwrap_or(Ok(()))
}

/// Lets entries raise nothing, by one invalidation with wait (requirement B2).
///
/// # Errors
/// What the IOMMU says.
pub fn block(entries: impl IntoIterator<Item = RemapIndex>) -> Result<(), Error> {
    let blocked = entries.into_iter().map(|index| (index, None));
    with_iommu(|iommu| iommu.change(blocked)).unwrap_or(Ok(()))
}

/// Routes an I/O APIC pin and unmasks it, by a remapping entry where the machine remaps: compatibility-format interrupts
/// are blocked there.
///
/// # Errors
/// [`PinError`].
pub fn pin(gsi: u32, route: PinRoute) -> Result<(), PinError> {
    let Some(iommu) = IOMMU.get() else { return ioapic::route(gsi, route) };
    let chip = ioapic::chip_id(gsi)?;
    let mut iommu = iommu.lock();
    let mut pins = PINS.lock();
    let index = match pins.get(&gsi) {
        Some(&index) => index,
        None => {
            let requester = iommu.ioapic_requester(chip).ok_or(PinError::NotRemapped)?;
            let index = iommu.allocate_remapping(requester).map_err(|_| PinError::NotRemapped)?;
            pins.insert(gsi, index);
            index
        }
    };
    // Nothing may come by half of a new route.
    ioapic::mask(gsi)?;
    let to = Route { vector: route.vector, destination: route.target, level: route.trigger.level };
    iommu.route(index, to).map_err(|_| PinError::NotRemapped)?;
    let entry = index.ioapic_entry(route.vector, route.trigger.level, route.trigger.active_low);
    ioapic::route_remapped(gsi, entry.into_bits())
}

/// Lets the remapping entry of a masked pin deliver nothing. On return what was under way has reached its core.
///
/// # Errors
/// [`PinError::NotRemapped`] if the IOMMU cannot.
pub fn block_pin(gsi: u32) -> Result<(), PinError> {
    let index = PINS.lock().get(&gsi).copied();
    block(index).map_err(|_| PinError::NotRemapped)
}

/// Whether a pin exists and the machine can remap it.
///
/// # Errors
/// [`PinError`].
pub fn can_remap_pin(gsi: u32) -> Result<(), PinError> {
    let chip = ioapic::chip_id(gsi)?;
    let requester = with_iommu(|iommu| iommu.ioapic_requester(chip)).flatten();
    requester.map(drop).ok_or(PinError::NotRemapped)
}
