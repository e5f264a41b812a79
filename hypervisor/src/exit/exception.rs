//! The exceptions that are intercepted so that a guest that loops in their delivery cannot hold
//! its core (requirement S6): #DB and #AC go back to the guest, #MC stops the VM.

use super::fault;
use crate::stats::ExitKind;
use crate::vcpu::Vcpu;
use arch::virt::{Backend, Event};

const DEBUG: u8 = 1;
const MACHINE_CHECK: u8 = 18;

/// An intercepted exception.
#[inline(never)]
pub fn handle<B: Backend>(vcpu: &mut Vcpu<B>, vector: u8, error_code: Option<u32>) {
    vcpu.shared.stats.count(ExitKind::Exception);
    match vector {
        MACHINE_CHECK => fault::machine_check(vcpu),
        DEBUG => vcpu.backend.inject(Event::DEBUG),
        _ => vcpu.backend.inject(Event::Exception { vector, error_code }),
    }
}
