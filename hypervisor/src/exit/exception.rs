//! The exceptions that are intercepted so that a guest that loops in their delivery cannot hold
//! its core (requirement S6): #DB and #AC go back to the guest, #MC stops the VM.

use super::fault;
use crate::stats::ExitKind;
use crate::vcpu::Vcpu;
use arch::virt::{Backend, Event};

const DEBUG: u8 = 1;
const MACHINE_CHECK: u8 = 18;
/// DR6 bits that a #DB reports: B0-B3, BD, BS, BT. RTM (bit 16) is inverted and left alone.
const DR6_REPORTED: u64 = 0xE00F;

/// General detect enable.
const DR7_GD: u64 = 1 << 13;

/// An intercepted exception.
#[inline(never)]
pub fn handle<B: Backend>(vcpu: &mut Vcpu<B>, vector: u8, error_code: Option<u32>, dr6: u64) {
    vcpu.shared.stats.count(ExitKind::Exception);
    match vector {
        MACHINE_CHECK => fault::machine_check(vcpu),
        DEBUG => {
            // The exit left DR6 as it was; the guest's handler expects the reason there (SDM
            // volume 3, section 28.2.1, table 28-1). B0-B3 say what this exception was.
            let old = arch::cpu::dr6() & !0xF;
            arch::cpu::set_dr6(old | dr6 & DR6_REPORTED);
            // A delivery ends general detection, or the handler could not touch the registers.
            let dr7 = vcpu.backend.dr7();
            if dr7 & DR7_GD != 0 {
                vcpu.backend.set_dr7(dr7 & !DR7_GD);
            }
            vcpu.backend.inject(Event::DEBUG);
        }
        _ => vcpu.backend.inject(Event::Exception { vector, error_code }),
    }
}
