//! Interrupt lines of assigned functions (requirement E4): a pin of a guest's virtual IOAPIC, and the pin of the machine's
//! I/O APIC behind it, which is programmed as the guest's is. The interrupt arrives with the guest's own vector, and the
//! guest's EOI reaches that pin by the CPU's EOI broadcast: neither takes an exit.
//!
//! For that the vector in the I/O APIC's entry is that of the remapping entry (VT-d 4.1, section 5.1.5.1), and the trigger
//! mode of both is the guest's. Polarity is the board's: to the guest a line is asserted or not.
//!
//! *A line never leads to a LAPIC that is off.* When a vCPU stops, its lines are closed before its LAPIC is emptied: a line
//! that is asserted would fill it again with each EOI. They come back when its guest switches its LAPIC on.
//!
//! Called by the board, under the virtual IOAPIC's lock. Locks: the line's own, then those of [`super::route`].

use super::route;
use crate::device::board::message_targets;
use crate::device::ioapic::{Delivery, Entry, Pin};
use crate::rate_limit;
use crate::sync::Mutex;
use crate::vm::{VcpuShared, Vm};
use alloc::vec::Vec;
use arch::ioapic::{self, PinError, PinRoute, Trigger};
use arch_defs::apic::ApicId;

/// One line.
pub struct Line {
    /// Pin of the virtual IOAPIC.
    pub pin: Pin,
    /// Global system interrupt of the machine.
    pub gsi: u32,
    /// How the board signals.
    pub active_low: bool,
    routed: Mutex<Option<Routed>>,
}

/// What stands in the hardware's entries, masked or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Routed {
    route: PinRoute,
    core: usize,
}

/// What a pin shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// Deliver: vector, core.
    Open(u8, usize),
    /// Nothing now; a level that waits for its EOI goes on to wait.
    Masked,
    /// Nothing, and nothing waits.
    Closed,
}

impl Line {
    /// A line, closed.
    pub const fn new(pin: Pin, gsi: u32, active_low: bool) -> Self {
        Self { pin, gsi, active_low, routed: Mutex::new(None) }
    }

    /// The guest has programmed the pin: the machine's follows.
    pub fn follow(&self, vm: &Vm, entry: Entry) {
        // `leave` comes after the vCPU has said that it stops, and under the same lock as this.
        let target = fixed_target(vm, entry).filter(|(_, vcpu)| vcpu.accepts());
        let done = match wanted(entry, target.map(|(vector, vcpu)| (vector, vcpu.core))) {
            Wanted::Open(vector, core) => self.open(vector, core, entry.is_level()),
            Wanted::Masked => ioapic::mask(self.gsi),
            Wanted::Closed => self.close(),
        };
        if let Err(why) = done
            && rate_limit::PCI.allow()
        {
            let name = &vm.config.name;
            log::error!("vm {name}: the line of GSI {} cannot be routed: {why:?}", self.gsi);
        }
    }

    fn open(&self, vector: u8, core: usize, level: bool) -> Result<(), PinError> {
        let target = route::guest_core(core);
        let trigger = Trigger { level, active_low: self.active_low };
        let new = Routed { route: PinRoute { vector, target, trigger }, core };
        let mut routed = self.routed.lock();
        if *routed == Some(new) {
            return ioapic::unmask(self.gsi);
        }
        route::pin(self.gsi, new.route)?;
        *routed = Some(new);
        Ok(())
    }

    /// Lets the line deliver nothing. On return what was under way has reached its core.
    fn close(&self) -> Result<(), PinError> {
        let mut routed = self.routed.lock();
        ioapic::close(self.gsi)?;
        *routed = None;
        route::block_pin(self.gsi)
    }

    /// The guest ends a level interrupt by the virtual IOAPIC's EOI register.
    pub fn end(&self, vm: &Vm, entry: Entry) {
        if self.is_in_service() {
            let _ = self.close();
            self.follow(vm, entry);
        }
    }

    /// Whether a level interrupt waits for its EOI.
    pub fn is_in_service(&self) -> bool {
        ioapic::is_in_service(self.gsi).unwrap_or(false)
    }
}

/// The lines of a VM.
#[derive(Default)]
pub struct Lines(Vec<Line>);

impl Lines {
    /// These.
    pub const fn new(lines: Vec<Line>) -> Self {
        Self(lines)
    }

    /// Their pins, as a set of bits.
    pub fn pins(&self) -> u32 {
        self.0.iter().fold(0, |pins, line| pins | 1 << line.pin.number())
    }

    /// The line of a pin.
    pub fn get(&self, pin: Pin) -> Option<&Line> {
        self.0.iter().find(|line| line.pin == pin)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Line> {
        self.0.iter()
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Closes the lines to a core whose vCPU stops, before its LAPIC is emptied.
    pub fn leave(&self, core: usize) {
        for line in &self.0 {
            let leads_there = line.routed.lock().is_some_and(|routed| routed.core == core);
            if leads_there && let Err(why) = line.close() {
                log::error!("the line of GSI {} cannot be closed: {why:?}", line.gsi);
            }
        }
    }

    /// Closes every line (VM start and stop).
    pub fn close(&self) {
        for line in &self.0 {
            if let Err(why) = line.close() {
                log::error!("the line of GSI {} cannot be closed: {why:?}", line.gsi);
            }
        }
    }
}

/// Vector and vCPU of an entry, masked or not. A real pin has one target: a guest that names several gets the first.
/// `None` for an NMI, and for modes that stay inside.
pub fn fixed_target(vm: &Vm, entry: Entry) -> Option<(u8, &VcpuShared)> {
    let message = entry.message()?;
    let (Delivery::Fixed(vector) | Delivery::LowestPriority(vector)) = message.delivery else {
        return None;
    };
    let ApicId(id) = message_targets(vm, message).first()?;
    Some((vector.get(), vm.vcpus.get(id as usize)?))
}

/// What the machine's pin does for an entry whose target, if its LAPIC is on, is this vector and core.
fn wanted(entry: Entry, target: Option<(u8, usize)>) -> Wanted {
    match target {
        // Whoever masks an edge entry can have no level that waits: so kernels end one without the EOI register.
        _ if entry.is_masked() && !entry.is_level() => Wanted::Closed,
        _ if entry.is_masked() => Wanted::Masked,
        Some((vector, core)) => Wanted::Open(vector, core),
        None => Wanted::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::ioapic::Ioapic;

    /// An entry as a guest programs it.
    fn entry(low: u32) -> Entry {
        let mut ioapic = Ioapic::new(1 << 16);
        let _ = ioapic.write(0x00, 0x30);
        let written = ioapic.write(0x10, low);
        written.changed.map_or(ioapic.entry(Pin::new(16).unwrap()), |changed| changed.entry)
    }

    #[test]
    fn r_e4_a_masked_level_goes_on_to_wait_and_a_masked_edge_does_not() {
        let target = Some((0x51, 2));
        assert_eq!(wanted(entry(0xA051), target), Wanted::Open(0x51, 2));
        assert_eq!(wanted(entry(0x1_A051), target), Wanted::Masked);
        assert_eq!(wanted(entry(0x1_2051), target), Wanted::Closed);
        assert_eq!(wanted(entry(0x2051), target), Wanted::Open(0x51, 2));
    }

    #[test]
    fn r_e4_no_line_leads_to_a_lapic_that_is_off() {
        assert_eq!(wanted(entry(0xA051), None), Wanted::Closed);
        // Modes that stay inside the register have no target either.
        for mode in [2, 4, 5, 7] {
            let entry = entry(0xA051 | mode << 8);
            assert!(!matches!(
                entry.message().map(|message| message.delivery),
                Some(Delivery::Fixed(_))
            ));
        }
    }
}
