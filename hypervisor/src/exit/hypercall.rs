//! Hypercalls: KVM's one that a Linux guest may make, and Beeline's own of the guest interface
//! (docs/src/guest-interface.md).

use crate::interrupt::kick::Requests;
use crate::interrupt::post::request;
use crate::stats::ExitKind;
use crate::vcpu::Vcpu;
use crate::vm::VcpuShared;
use arch::virt::Backend;

const KVM_HC_KICK_CPU: u64 = 5;
const PRESENCE: u64 = 0x4245_0000;
const EXITS: u64 = 0x4245_0001;
const ROOT_TICKS: u64 = 0x4245_0002;
const REDELIVERED: u64 = 0x4245_0003;
const HIDE_PAGE: u64 = 0x4245_0014;
const PANIC: u64 = 0x4245_0015;
const HARDWARE_CR4: u64 = 0x4245_0016;
const DEBUG_FIRST: u64 = 0x4245_0010;
const DEBUG_LAST: u64 = 0x4245_0013;

/// KVM's error numbers, which guests know.
const NO_SUCH_CALL: u64 = -1000_i64 as u64;
const NOT_PERMITTED: u64 = -1_i64 as u64;
const BAD_ARGUMENT: u64 = -22_i64 as u64;

/// VMCALL or VMMCALL.
#[inline(always)]
pub fn handle<B: Backend>(vcpu: &mut Vcpu<B>) {
    let result = answer(vcpu);
    // Counted afterwards: a guest that asks for its exits does not count the question.
    vcpu.shared.stats.count(ExitKind::Hypercall);
    vcpu.backend.regs().rax = result;
    vcpu.backend.skip_instruction();
}

#[inline(always)]
fn answer<B: Backend>(vcpu: &mut Vcpu<B>) -> u64 {
    let number = vcpu.backend.regs().rax;
    if vcpu.backend.cpl() != 0 {
        return NOT_PERMITTED;
    }
    if number == PRESENCE {
        return PRESENCE | u64::from(hooks(vcpu));
    }
    rare(vcpu, number)
}

fn hooks<B: Backend>(vcpu: &Vcpu<B>) -> bool {
    cfg!(debug_assertions) && vcpu.vm.config.debug_hooks
}

fn named<B: Backend>(vcpu: &Vcpu<B>, id: u64) -> Option<&'static VcpuShared> {
    if id == u64::MAX { Some(vcpu.shared) } else { vcpu.vm.vcpus.get(usize::try_from(id).ok()?) }
}

#[inline(never)]
fn rare<B: Backend>(vcpu: &mut Vcpu<B>, number: u64) -> u64 {
    let regs = *vcpu.backend.regs();
    match number {
        KVM_HC_KICK_CPU => {
            if let Some(target) = named(vcpu, regs.rcx & 0xFFFF_FFFF) {
                request(target, Requests::WAKE);
            }
            0
        }
        EXITS => named(vcpu, regs.rbx).map_or(BAD_ARGUMENT, |target| {
            target.stats.exits((regs.rcx != u64::MAX).then_some(regs.rcx as usize))
        }),
        ROOT_TICKS => named(vcpu, regs.rbx).map_or(BAD_ARGUMENT, |t| t.stats.root_ticks()),
        REDELIVERED => named(vcpu, regs.rbx)
            .map_or(BAD_ARGUMENT, |t| t.stats.redelivered.load(crate::sync::Ordering::Relaxed)),
        HIDE_PAGE if hooks(vcpu) => {
            let hidden = vcpu.vm.stage2.hide(regs.rbx);
            vcpu.backend.flush_stage2();
            if hidden { 0 } else { BAD_ARGUMENT }
        }
        PANIC if hooks(vcpu) => simulated_bug(),
        HARDWARE_CR4 if hooks(vcpu) => vcpu.backend.cr4(),
        DEBUG_FIRST..=DEBUG_LAST if hooks(vcpu) => {
            // The target of a storm stands in another register than the other calls'.
            let target = vcpu.vm.vcpus.get(regs.rdx as usize).map(|target| target.core);
            crate::debug_hooks::hypercall(number - DEBUG_FIRST, &regs, target)
                .unwrap_or(BAD_ARGUMENT)
        }
        _ => NO_SUCH_CALL,
    }
}

/// A bug of ours, for the test of the panic report.
#[expect(clippy::panic, reason = "that is what it is for")]
#[inline(never)]
fn simulated_bug() -> ! {
    panic!("a debug hook asked for this panic")
}
