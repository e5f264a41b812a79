//! States to be kicked in: each phase keeps its name, `0xBEE1_1E00 + p`, in R15 while the CPU is in it, and canaries in
//! the other registers, so that the hypervisor can count where its kicks hit and a kick that changes a register shows.

#![expect(unsafe_code, reason = "loops that own R15")]

use crate::runtime::cpu::rdtsc;
use crate::runtime::lapic::{self, ASSERT, TPR};
use crate::runtime::text::{Outcome, ensure_eq};
use crate::runtime::{cpu, irq, tables, time};
use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU64, Ordering};

/// Phases, by number.
pub const HALTED: u64 = 0;
pub const HALTED_IF_0: u64 = 1;
pub const SPIN_IF_0: u64 = 2;
pub const IN_HANDLER: u64 = 3;
pub const SPIN_TPR: u64 = 4;
pub const SPIN_OPEN: u64 = 5;
pub const EXITS: u64 = 6;
pub const IN_NMI_HANDLER: u64 = 7;

/// What stands for "in phase p" in R15.
const NAME: u64 = 0xBEE1_1E00;

const TIMER: u8 = 0x6A;
const HANDLER: u8 = 0x6B;

/// Odd while a CPU sleeps in `HALTED_IF_0`: whoever sees that sends it an NMI.
pub static DEEP_SLEEP: AtomicU64 = AtomicU64::new(0);

/// Two instructions each: about `units` where a tick is an instruction, and not far from it where it is not.
fn rounds(units: u64) -> u64 {
    time::ticks(units) / 2 + 1
}

/// Spins for about `units` with IF as it is; the canaries must survive.
fn spin(phase: u64, units: u64) -> Outcome {
    const CANARY: [u64; 8] = [
        0x0123_4567_89AB_CDEF,
        0x1111_2222_3333_4444,
        0xFEDC_BA98_7654_3210,
        0xAAAA_5555_AAAA_5555,
        0xFFFF_0000_FFFF_0000,
        0x8000_0000_0000_0001,
        0x0F0F_0F0F_F0F0_F0F0,
        0x7777_7777_7777_7777,
    ];
    let mut seen = CANARY;
    // SAFETY: all registers that the loop uses are listed; R15 and RCX are its own.
    unsafe {
        asm!(
            "2:",
            "dec rcx",
            "jnz 2b",
            inout("rcx") rounds(units) => _,
            inout("r15") NAME + phase => _,
            inout("rax") seen[0], inout("rdx") seen[1], inout("rsi") seen[2],
            inout("rdi") seen[3], inout("r8") seen[4], inout("r9") seen[5],
            inout("r12") seen[6], inout("r13") seen[7],
        );
    }
    ensure_eq!(seen, CANARY, "registers after phase {phase}");
    Ok(())
}

/// Counts down RCX inside the handler, with the phase in R15; then EOI. RAX, RCX, RDX, R15 are lost.
#[unsafe(naked)]
unsafe extern "sysv64" fn spinning_handler() {
    naked_asm!(
        "mov r15d, {name}",
        "2:",
        "dec rcx",
        "jnz 2b",
        "xor r15d, r15d",
        "mov ecx, 0x80B",
        "xor eax, eax",
        "xor edx, edx",
        "wrmsr",
        "iretq",
        name = const NAME + IN_HANDLER,
    )
}

/// Prepares the gates that the phases use; undone by the runner after the test.
pub fn prepare() {
    tables::set_gate(HANDLER, spinning_handler as *const () as u64);
    irq::hook(irq::NMI, nmi_handler);
}

/// Units that the NMI handler stays in its phase; 0 for an ordinary one.
static NMI_STAY: AtomicU64 = AtomicU64::new(0);

fn nmi_handler(_: &mut irq::Frame) {
    let stay = NMI_STAY.swap(0, Ordering::SeqCst);
    if stay != 0 {
        // Lost canaries show elsewhere too; a handler has nobody to tell.
        let _ = spin(IN_NMI_HANDLER, stay);
    }
}

/// Sleeps with IF = 1 until a timer interrupt `units` away; a wake-up without it is legal and goes back to sleep.
fn halted(units: u64) {
    let counter = irq::counter(tables::current(), TIMER);
    let before = counter.load(Ordering::SeqCst);
    lapic::alarm_timer(TIMER);
    lapic::alarm(units);
    // SAFETY: R15 is the loop's own; handlers restore all registers; IF is 0 again at the end.
    unsafe {
        asm!(
            "2:",
            "sti",
            "hlt",
            "cli",
            "cmp [{counter}], {before}",
            "je 2b",
            counter = in(reg) counter.as_ptr(),
            before = in(reg) before,
            inout("r15") NAME + HALTED => _,
        );
    }
}

/// Sleeps with IF = 0 until an NMI of the guest's own.
fn halted_if_0() {
    let counter = irq::counter(tables::current(), irq::NMI);
    let before = counter.load(Ordering::SeqCst);
    DEEP_SLEEP.fetch_add(1, Ordering::SeqCst);
    // SAFETY: as for `halted`.
    unsafe {
        asm!(
            "2:",
            "hlt",
            "cmp [{counter}], {before}",
            "je 2b",
            counter = in(reg) counter.as_ptr(),
            before = in(reg) before,
            inout("r15") NAME + HALTED_IF_0 => _,
        );
    }
    DEEP_SLEEP.fetch_add(1, Ordering::SeqCst);
}

/// An interrupt whose handler stays for `units`.
fn in_handler(units: u64) {
    // SAFETY: the handler changes the listed registers only; it uses RCX from here as its counter.
    unsafe {
        asm!(
            "mov r8, rcx",
            "mov ecx, 0x83F",
            "xor edx, edx",
            "wrmsr",
            "mov rcx, r8",
            "sti",
            "nop",
            "nop",
            "cli",
            inout("rcx") rounds(units) => _,
            inout("eax") u32::from(HANDLER) => _,
            out("rdx") _, out("r8") _, out("r15") _,
        );
    }
}

/// A chain of trapped instructions for at least `units`, with some of the guest's own between them, so that kicks hit both.
fn exits(units: u64) {
    let end = rdtsc() + time::ticks(units);
    while rdtsc() < end {
        // SAFETY: RBX is saved; the listed registers change; R15 is the loop's own.
        unsafe {
            asm!(
                "mov {saved}, rbx",
                "mov {n:e}, 10",
                "2:",
                "xor eax, eax",
                "cpuid",
                "mov eax, 50",
                "3:",
                "dec eax",
                "jnz 3b",
                "dec {n:e}",
                "jnz 2b",
                "mov rbx, {saved}",
                saved = out(reg) _,
                n = out(reg) _,
                inout("r15") NAME + EXITS => _,
                out("rax") _, out("rcx") _, out("rdx") _,
                options(nostack)
            );
        }
    }
}

/// Stays in `phase` for about `units`. IF is 0 before and after.
pub fn stay(phase: u64, units: u64) -> Outcome {
    match phase {
        HALTED => halted(units),
        HALTED_IF_0 => halted_if_0(),
        IN_HANDLER => in_handler(units),
        SPIN_TPR => {
            lapic::write(TPR, 0xF0);
            cpu::sti();
            let outcome = spin(phase, units);
            cpu::cli();
            lapic::write(TPR, 0);
            outcome?;
        }
        SPIN_OPEN => {
            cpu::sti();
            let outcome = spin(phase, units);
            cpu::cli();
            outcome?;
        }
        EXITS => exits(units),
        IN_NMI_HANDLER => {
            NMI_STAY.store(units, Ordering::SeqCst);
            let before = irq::count_here(irq::NMI);
            lapic::send(lapic::id(), lapic::NMI | ASSERT);
            let taken = time::wait(10 * units, || irq::count_here(irq::NMI) > before);
            ensure_eq!(taken, true, "own NMI taken");
        }
        _ => spin(phase, units)?,
    }
    Ok(())
}
