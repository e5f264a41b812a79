//! The audit before every entry, in debug builds: what direct delivery rests on (REQUIREMENTS
//! A2, E3, H1) is read back from the hardware's own structures.

use crate::vcpu::Vcpu;
use arch::virt::{Backend, Event};

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
