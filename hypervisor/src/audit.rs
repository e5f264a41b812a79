//! The audit before every entry, in debug builds: what direct delivery rests on (requirements
//! A2, E3, H1) is read back from the hardware's own structures.

use crate::vcpu::Vcpu;
use arch::virt::{Backend, Event};

/// What an I/O APIC pin's new target is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinPurpose {
    /// An interrupt of the hypervisor's own.
    Host,
    /// A passed-through device's, for the guest whose vCPU runs on the core.
    Guest,
}

/// H1: no interrupt of the hypervisor's own may target a core that runs a direct-mode guest. ICR
/// writes need no such check here: `interrupt::post` sends guests' vectors to their own vCPUs,
/// `housekeeping::wake` sends to core 0, and nothing else has a door to ICR but for NMIs.
#[expect(clippy::panic, reason = "a broken invariant of ours")]
pub fn pin_route(core: usize, purpose: PinPurpose) {
    let guest_core = crate::vm::all().iter().flat_map(|vm| &vm.vcpus).any(|v| v.core == core);
    if guest_core != (purpose == PinPurpose::Guest) {
        panic!("audit H1: a pin for {purpose:?} is routed to core {core}");
    }
}

/// Panics if the entry would break the rules: a bug of ours, not a guest's doing.
#[expect(clippy::panic, reason = "a broken invariant of ours")]
pub fn before_entry<B: Backend>(vcpu: &Vcpu<B>) {
    let controls = vcpu.backend.entry_controls();
    if controls.external_interrupts || !controls.nmis {
        panic!("audit A2: entry controls of a direct-mode vCPU are {controls:?}");
    }
    // E3: an external interrupt is injected only to complete a delivery that an exit cut short;
    // the LAPIC has accepted that one already.
    if let Some(Event::External { vector }) = vcpu.backend.injecting()
        && !arch::apic::in_service(vector)
    {
        panic!("audit E3: vector {vector} is injected without its ISR bit");
    }
}
