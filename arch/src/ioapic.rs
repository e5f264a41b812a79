//! The machine's I/O APICs. 82093AA datasheet, section 3. The `x2apic` crate has the register
//! layout; this file owns the pins.
//!
//! Locks: [`PINS`], a leaf.

#![expect(unsafe_code, reason = "maps and writes device registers")]

use crate::apic::PhysicalApicId;
use crate::paging;
use alloc::vec::Vec;
use arch_defs::acpi::{IoApic as Description, SourceOverride};
use spin::Mutex;
use x2apic::ioapic::{IoApic, IrqFlags, IrqMode, RedirectionTableEntry};

struct Chip {
    id: u8,
    address: u64,
    registers: IoApic,
    gsi_base: u32,
    pins: u32,
}

// SAFETY: the registers are reached under the lock only.
unsafe impl Send for Chip {}

static PINS: Mutex<Vec<Chip>> = Mutex::new(Vec::new());

/// How a pin signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// Level rather than edge.
    pub level: bool,
    /// Active low rather than high.
    pub active_low: bool,
}

/// Where a pin delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinRoute {
    /// Vector, 16 to 255.
    pub vector: u8,
    /// Core, physical destination. Without interrupt remapping an I/O APIC reaches ids below 255.
    pub target: PhysicalApicId,
    /// Trigger mode.
    pub trigger: Trigger,
}

/// The pin cannot be used as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinError {
    /// No I/O APIC has this global system interrupt.
    NoSuchPin,
    /// The target's APIC id does not fit in 8 bits.
    TargetTooLarge,
    /// The IOMMU has no remapping entry for it.
    NotRemapped,
}

/// Masks both 8259s. Their INTR wire reaches the boot core by other ways than LINT0 as well, with
/// vectors that firmware left at 8 to 15.
fn silence_8259() {
    // SAFETY: these are the 8259s' mask registers, or nobody's.
    unsafe {
        x86::io::outb(0x21, 0xFF);
        x86::io::outb(0xA1, 0xFF);
    }
}

/// Takes over the I/O APICs and masks every pin; the 8259s go silent.
pub fn init(chips: &[Description]) {
    silence_8259();
    let mut owned = PINS.lock();
    for chip in chips {
        let address = u64::from(chip.address);
        paging::map_mmio(address..address + 0x1000);
        // SAFETY: the MADT says that these are an I/O APIC's registers; they are mapped uncached.
        let mut registers = unsafe { IoApic::new(address) };
        // SAFETY: as above.
        let last = unsafe { registers.max_table_entry() };
        for pin in 0..=last {
            // SAFETY: as above; a masked pin delivers nothing.
            unsafe { registers.disable_irq(pin) };
        }
        owned.push(Chip {
            id: chip.id,
            address,
            registers,
            gsi_base: chip.gsi_base,
            pins: u32::from(last) + 1,
        });
    }
}

/// The chip that has the pin, and the pin's number there.
fn chip_of(chips: &mut [Chip], gsi: u32) -> Result<(&mut Chip, u8), PinError> {
    let chip = chips
        .iter_mut()
        .find(|c| gsi.checked_sub(c.gsi_base).is_some_and(|pin| pin < c.pins))
        .ok_or(PinError::NoSuchPin)?;
    let pin = gsi - chip.gsi_base;
    Ok((chip, pin as u8))
}

fn with_pin(gsi: u32, act: impl FnOnce(&mut IoApic, u8)) -> Result<(), PinError> {
    let mut chips = PINS.lock();
    let (chip, pin) = chip_of(&mut chips, gsi)?;
    act(&mut chip.registers, pin);
    Ok(())
}

/// Routes a pin and unmasks it.
///
/// # Errors
/// [`PinError`].
pub fn route(gsi: u32, route: PinRoute) -> Result<(), PinError> {
    let target = u8::try_from(route.target.0).map_err(|_| PinError::TargetTooLarge)?;
    with_pin(gsi, |registers, pin| {
        let mut entry = RedirectionTableEntry::default();
        entry.set_vector(route.vector);
        entry.set_mode(IrqMode::Fixed);
        entry.set_dest(target);
        let mut flags = IrqFlags::empty();
        flags.set(IrqFlags::LEVEL_TRIGGERED, route.trigger.level);
        flags.set(IrqFlags::LOW_ACTIVE, route.trigger.active_low);
        // The two halves of an entry are written apart: masked until both are there, or an edge
        // in between would go to the old destination.
        flags.insert(IrqFlags::MASKED);
        entry.set_flags(flags);
        // SAFETY: the pin exists.
        unsafe {
            registers.disable_irq(pin);
            registers.set_table_entry(pin, entry);
            registers.enable_irq(pin);
        }
    })
}

/// Id of the chip that has the pin, as the DMAR table names it.
///
/// # Errors
/// [`PinError::NoSuchPin`].
pub fn chip_id(gsi: u32) -> Result<u8, PinError> {
    chip_of(&mut PINS.lock(), gsi).map(|(chip, _)| chip.id)
}

/// Bits of an entry's low half: the pin is masked; a level interrupt waits for its EOI.
const MASKED: u32 = 1 << 16;
const REMOTE_IRR: u32 = 1 << 14;
const LEVEL: u32 = 1 << 15;

impl Chip {
    /// Index of the low half of a pin's entry; the high half follows.
    const fn low_half(pin: u8) -> u32 {
        0x10 + 2 * pin as u32
    }

    /// Selects a register and gives the place of its value. The `x2apic` crate has no entries in remappable format.
    fn select(&self, register: u32) -> *mut u32 {
        const SELECT: u64 = 0;
        const DATA: u64 = 0x10;
        // SAFETY: these are the chip's registers, reached under the lock.
        unsafe { ((self.address + SELECT) as *mut u32).write_volatile(register) };
        (self.address + DATA) as *mut u32
    }

    fn write(&self, register: u32, value: u32) {
        // SAFETY: as in `select`; the callers compose entries that are masked, or deliver to who expects it.
        unsafe { self.select(register).write_volatile(value) };
    }

    fn read(&self, register: u32) -> u32 {
        // SAFETY: as in `select`; reading changes nothing.
        unsafe { self.select(register).read_volatile() }
    }
}

/// Gives a pin an entry in remappable format and unmasks it. The pin is masked.
///
/// # Errors
/// [`PinError::NoSuchPin`].
pub fn route_remapped(gsi: u32, entry: u64) -> Result<(), PinError> {
    let mut chips = PINS.lock();
    let (chip, pin) = chip_of(&mut chips, gsi)?;
    // The halves are written apart: the mask stays until both are there.
    chip.write(Chip::low_half(pin) + 1, (entry >> 32) as u32);
    chip.write(Chip::low_half(pin), entry as u32 | MASKED);
    chip.write(Chip::low_half(pin), entry as u32 & !MASKED);
    Ok(())
}

/// Unmasks a pin and leaves the rest of its entry alone.
///
/// # Errors
/// [`PinError::NoSuchPin`].
pub fn unmask(gsi: u32) -> Result<(), PinError> {
    // SAFETY: the pin exists; its owner has routed it.
    with_pin(gsi, |registers, pin| unsafe { registers.enable_irq(pin) })
}

/// Whether a level interrupt of the pin waits for its EOI (Remote IRR).
///
/// # Errors
/// [`PinError::NoSuchPin`].
pub fn is_in_service(gsi: u32) -> Result<bool, PinError> {
    let mut chips = PINS.lock();
    let (chip, pin) = chip_of(&mut chips, gsi)?;
    Ok(chip.read(Chip::low_half(pin)) & REMOTE_IRR != 0)
}

/// Masks a level-triggered pin and forgets its route. An interrupt that waits for its EOI does so no longer: an entry that
/// is no level entry has no Remote IRR. (The EOI register of newer chips would end the interrupts of other pins with the
/// same vector.) It rests as a level entry: QEMU 10 forgets a level that rises at a masked edge entry.
///
/// # Errors
/// [`PinError::NoSuchPin`].
pub fn close(gsi: u32) -> Result<(), PinError> {
    mask(gsi)?;
    let mut chips = PINS.lock();
    let (chip, pin) = chip_of(&mut chips, gsi)?;
    chip.write(Chip::low_half(pin), MASKED);
    chip.write(Chip::low_half(pin) + 1, 0);
    chip.write(Chip::low_half(pin), LEVEL | MASKED);
    Ok(())
}

/// Masks a pin.
///
/// # Errors
/// [`PinError::NoSuchPin`].
pub fn mask(gsi: u32) -> Result<(), PinError> {
    // SAFETY: the pin exists; a masked pin delivers nothing.
    with_pin(gsi, |registers, pin| unsafe { registers.disable_irq(pin) })
}

/// The global system interrupt and trigger of an ISA interrupt (ACPI section 5.2.12.5: identity
/// and edge, active high, unless overridden).
pub fn isa_gsi(isa: u8, overrides: &[SourceOverride]) -> (u32, Trigger) {
    match overrides.iter().find(|o| o.isa == isa) {
        Some(o) => (o.gsi, Trigger { level: o.flags >> 2 & 3 == 3, active_low: o.flags & 3 == 3 }),
        None => (u32::from(isa), Trigger { level: false, active_low: false }),
    }
}
