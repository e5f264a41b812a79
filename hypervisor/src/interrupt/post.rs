//! The one door for interrupts: whatever interrupts a guest (its COM1, another vCPU, later
//! devices and timers) calls [`post`]. Nothing else raises a vector in a guest.
//!
//! A virtual interrupt is a real IPI with the guest's own vector, so that IRR, ISR, priority and
//! EOI stay physical (requirement E3, V1). No locks.

use crate::cores;
use crate::interrupt::kick::Requests;
use crate::vm::{Lifecycle, VcpuShared};
use arch_defs::apic::GuestVector;

/// Raises `vector` in a vCPU. Edge semantics: a vector already pending merges. A vCPU that does
/// not run has an empty, software-disabled LAPIC, which drops it, as on a machine.
#[inline(always)]
pub fn post(vcpu: &VcpuShared, vector: GuestVector) {
    if vcpu.core == arch::cpu::core_index() {
        // This core's own guest: it takes the vector after the next entry.
        arch::apic::send_self(vector.get());
    } else if vcpu.lifecycle() == Lifecycle::Running {
        arch::apic::send_fixed(cores::core(vcpu.core).apic_id(), vector.get());
    }
}

/// Raises an NMI in a vCPU: by request, since a physical NMI would be taken for a kick.
pub fn post_nmi(vcpu: &VcpuShared) {
    request(vcpu, Requests::NMI);
}

/// Leaves a request with a vCPU's core and makes the core look.
pub fn request(vcpu: &VcpuShared, what: Requests) {
    let core = cores::core(vcpu.core);
    if vcpu.core == arch::cpu::core_index() {
        // This core looks at its requests before the next entry anyway.
        core.kick.leave(what);
    } else {
        core.kick.post(what, || arch::apic::send_nmi(core.apic_id()));
    }
}
