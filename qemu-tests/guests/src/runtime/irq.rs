//! Interrupts and exceptions after entry: counters per CPU and vector, hooks that tests install, and what happens else.

#![expect(unsafe_code, reason = "hooks are stored as addresses")]

use super::smp::MAX_CPUS;
use super::{catch, lapic, registry, tables};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Invalid opcode.
pub const UD: u8 = 6;
/// Non-maskable interrupt.
pub const NMI: u8 = 2;
/// General protection.
pub const GP: u8 = 13;

/// The vector that wakes an idle CPU for a job.
pub const WAKE: u8 = 0xF1;
/// The LAPIC's spurious vector.
pub const SPURIOUS: u8 = 0xFF;

/// The stack at the dispatcher's call.
#[repr(C)]
pub struct Frame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// A test's own handler of a vector; it issues the EOI itself.
pub type Hook = fn(&mut Frame);

static COUNTS: [[AtomicU64; 256]; MAX_CPUS] =
    [const { [const { AtomicU64::new(0) }; 256] }; MAX_CPUS];
static HOOKS: [AtomicUsize; 256] = [const { AtomicUsize::new(0) }; 256];

/// How often `vector` was taken on CPU `index`.
pub fn count(index: usize, vector: u8) -> u64 {
    COUNTS[index][usize::from(vector)].load(Ordering::Acquire)
}

/// The counter itself, for loops in assembly.
pub fn counter(index: usize, vector: u8) -> &'static AtomicU64 {
    &COUNTS[index][usize::from(vector)]
}

/// How often `vector` was taken on this CPU.
pub fn count_here(vector: u8) -> u64 {
    count(tables::current(), vector)
}

/// Sum over all vectors of `range` on CPU `index`.
pub fn count_range(index: usize, range: core::ops::RangeInclusive<u8>) -> u64 {
    range.map(|vector| count(index, vector)).sum()
}

/// NMIs taken on CPU `index`.
pub fn nmis(index: usize) -> u64 {
    count(index, NMI)
}

/// Gives `vector` to `hook` on all CPUs until `reset`.
pub fn hook(vector: u8, hook: Hook) {
    HOOKS[usize::from(vector)].store(hook as usize, Ordering::Release);
}

/// Takes the hook of `vector` away.
pub fn unhook(vector: u8) {
    HOOKS[usize::from(vector)].store(0, Ordering::Release);
}

/// Takes all hooks and all special gates away.
pub fn reset() {
    for vector in 0..=255 {
        unhook(vector);
        tables::reset_gate(vector);
    }
}

/// Every trap comes here.
pub fn dispatch(frame: &mut Frame) {
    let vector = frame.vector as u8;
    COUNTS[tables::current()][usize::from(vector)].fetch_add(1, Ordering::Release);
    let hook = HOOKS[usize::from(vector)].load(Ordering::Acquire);
    if hook != 0 {
        // SAFETY: only `hook` stores here, and it stores functions of this type.
        let hook = unsafe { core::mem::transmute::<usize, Hook>(hook) };
        return hook(frame);
    }
    match vector {
        NMI => {}
        // The spurious vector takes no EOI, unless somebody sent it as an ordinary interrupt.
        SPURIOUS if !lapic::in_service(SPURIOUS) => {}
        32.. => lapic::eoi(),
        _ => {
            if !catch::divert(frame) {
                registry::fatal(format_args!(
                    "exception {vector} error {:#x} at {:#x} CR2 {:#x} on cpu {}",
                    frame.error,
                    frame.rip,
                    super::cpu::cr2(),
                    tables::current()
                ));
            }
        }
    }
}
