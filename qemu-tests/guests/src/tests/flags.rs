//! IF, the STI and MOV SS shadows, TPR and HLT decide when an interrupt is taken, as on bare metal (A5).

#![expect(unsafe_code, reason = "instruction sequences around STI and HLT")]

use crate::runtime::cpu::{self, rdtsc};
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{boot, hypercall, irq, lapic, tables, time};
use core::arch::{asm, naked_asm};

tests! { "up", Machine:
    a5_if_0_holds_an_interrupt_back,
    a5_sti_shadow_covers_one_instruction,
    a5_sti_cli_takes_nothing,
    a5_mov_ss_shadow_covers_one_instruction,
    a5_tpr_holds_a_class_back,
    a5_cr8_is_the_tpr,
    a5_hlt_wakes_once_per_interrupt,
    a5_hlt_sleeps_through_what_tpr_blocks,
    a5_hlt_with_a_pending_interrupt_does_not_sleep,
}

const VECTOR: u8 = 0x61;
const LOWER: u8 = 0x51;
const UPPER: u8 = 0x71;

fn a5_if_0_holds_an_interrupt_back() -> Outcome {
    let before = irq::count_here(VECTOR);
    lapic::self_ipi(VECTOR);
    time::delay(500);
    ensure_eq!(irq::count_here(VECTOR) - before, 0, "taken with IF=0");
    ensure!(lapic::requested(VECTOR), "not in IRR");
    cpu::take_pending();
    ensure_eq!(irq::count_here(VECTOR) - before, 1, "taken with IF=1");
    Ok(())
}

/// Counts in R8, ends the interrupt, keeps everything else.
#[unsafe(naked)]
unsafe extern "sysv64" fn counting_handler() {
    naked_asm!(
        "inc r8",
        "push rax",
        "push rcx",
        "push rdx",
        "mov ecx, 0x80B",
        "xor eax, eax",
        "xor edx, edx",
        "wrmsr",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "iretq"
    )
}

/// Runs a sequence with one interrupt pending and IF = 0 at its start. The handler counts in R8; the sequence copies R8
/// to R9 and R10 where it wants to know.
macro_rules! with_pending {
    ($($line:literal),+ $(,)?) => {{
        tables::set_gate(VECTOR, counting_handler as *const () as u64);
        lapic::self_ipi(VECTOR);
        let (first, second, total): (u64, u64, u64);
        // SAFETY: the sequence changes the listed registers and leaves IF = 0.
        unsafe {
            asm!(
                "xor r8d, r8d",
                $($line,)+
                "cli",
                out("r8") total, out("r9") first, out("r10") second,
                out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _,
            );
        }
        (first, second, total)
    }};
}

fn a5_sti_shadow_covers_one_instruction() -> Outcome {
    let seen = with_pending!("sti", "mov r9, r8", "mov r10, r8", "nop");
    ensure_eq!(seen, (0, 1, 1), "plain instruction in the shadow (then, next, in all)");
    // A trapped instruction in the shadow: it completes, and the shadow ends with it.
    let seen = with_pending!(
        "mov rsi, rbx",
        "xor eax, eax",
        "mov r9, r8",
        "sti",
        "cpuid",
        "mov r10, r8",
        "mov rbx, rsi",
        "nop"
    );
    ensure_eq!(seen, (0, 1, 1), "CPUID in the shadow (before, after, in all)");
    Ok(())
}

fn a5_sti_cli_takes_nothing() -> Outcome {
    let seen = with_pending!("sti", "cli", "mov r9, r8", "nop", "mov r10, r8");
    ensure_eq!(seen, (0, 0, 0), "interrupts taken");
    ensure!(lapic::requested(VECTOR), "the request is gone");
    let seen = with_pending!("sti", "nop", "nop", "mov r9, r8", "mov r10, r8");
    ensure_eq!(seen, (1, 1, 1), "interrupts taken afterwards");
    Ok(())
}

fn a5_mov_ss_shadow_covers_one_instruction() -> Outcome {
    // MOV SS runs in the shadow of STI and casts its own. The manual does not promise the second one (SDM 2B, MOV), and
    // TCG has none.
    let shadow = u64::from(boot::options().tcg);
    let seen =
        with_pending!("mov eax, ss", "sti", "mov ss, eax", "mov r9, r8", "mov r10, r8", "nop");
    ensure_eq!(seen, (shadow, 1, 1), "plain instruction in the shadow (then, next, in all)");
    let seen = with_pending!(
        "mov rsi, rbx",
        "mov eax, ss",
        "mov r9, r8",
        "sti",
        "mov ss, eax",
        "cpuid",
        "mov r10, r8",
        "mov rbx, rsi",
        "nop"
    );
    ensure_eq!(seen, (0, 1, 1), "CPUID in the shadow (before, after, in all)");
    Ok(())
}

/// With TPR at `VECTOR`'s class, set by `set`: `VECTOR` and `LOWER` wait, `UPPER` is taken.
fn class_held_back(set: impl Fn(u8)) -> Outcome {
    let counts = || (irq::count_here(LOWER), irq::count_here(VECTOR), irq::count_here(UPPER));
    let (lower, same, upper) = counts();
    let (exits, outcome) = hypercall::exits_of(|| {
        set(6);
        ensure_eq!(lapic::read(lapic::TPR) & 0xF0, 0x60, "TPR");
        ensure_eq!(lapic::read(lapic::PPR) & 0xF0, 0x60, "PPR");
        for vector in [LOWER, VECTOR, UPPER] {
            lapic::self_ipi(vector);
        }
        cpu::sti();
        time::delay(200);
        ensure_eq!(counts(), (lower, same, upper + 1), "taken under TPR 6x");
        set(5);
        time::delay(200);
        ensure_eq!(counts(), (lower, same + 1, upper + 1), "taken under TPR 5x");
        set(0);
        time::delay(200);
        ensure_eq!(counts(), (lower + 1, same + 1, upper + 1), "taken under TPR 0");
        cpu::cli();
        Ok(())
    });
    outcome?;
    ensure_eq!(exits, 0, "exits");
    Ok(())
}

fn a5_tpr_holds_a_class_back() -> Outcome {
    class_held_back(|class| lapic::write(lapic::TPR, u64::from(class) << 4))
}

fn a5_cr8_is_the_tpr() -> Outcome {
    class_held_back(|class| cpu::set_cr8(u64::from(class)))?;
    lapic::write(lapic::TPR, 0xA0);
    ensure_eq!(cpu::cr8(), 0xA, "CR8 after TPR=A0");
    lapic::write(lapic::TPR, 0);
    Ok(())
}

/// Ticks until an alarm may fire. A one-shot counts by another clock than the TSC, whose ratio is known to 2 %.
pub fn earliest(units: u64) -> u64 {
    let ticks = time::ticks(units);
    if lapic::has_deadline() { ticks } else { ticks - ticks / 50 }
}

fn a5_hlt_wakes_once_per_interrupt() -> Outcome {
    const N: u64 = 1_000;
    lapic::alarm_timer(VECTOR);
    let before = irq::count_here(VECTOR);
    let mut wakes = 0;
    let (exits, outcome) = hypercall::exits_of(|| {
        for i in 1..=N {
            let due = rdtsc() + earliest(700);
            lapic::alarm(700);
            while irq::count_here(VECTOR) - before < i {
                cpu::sti_hlt();
                cpu::cli();
                wakes += 1;
            }
            ensure!(rdtsc() >= due, "woken {} ticks early", due - rdtsc());
        }
        Ok(())
    });
    outcome?;
    ensure_eq!(irq::count_here(VECTOR) - before, N, "interrupts");
    ensure_eq!(wakes, N, "wake-ups from HLT");
    ensure_eq!(exits, 0, "exits");
    detail(format_args!("halts={wakes} exits={exits}"));
    Ok(())
}

fn a5_hlt_sleeps_through_what_tpr_blocks() -> Outcome {
    lapic::alarm_timer(UPPER);
    lapic::write(lapic::TPR, 0x60);
    let (low, up) = (irq::count_here(LOWER), irq::count_here(UPPER));
    lapic::self_ipi(LOWER);
    let due = rdtsc() + earliest(5_000);
    lapic::alarm(5_000);
    cpu::sti_hlt();
    cpu::cli();
    let woken = rdtsc();
    let seen = (irq::count_here(LOWER) - low, irq::count_here(UPPER) - up);
    lapic::write(lapic::TPR, 0);
    cpu::take_pending();
    ensure!(woken >= due, "woken {} ticks early", due - woken);
    ensure_eq!(seen, (0, 1), "blocked and unblocked interrupts taken at the wake-up");
    ensure_eq!(irq::count_here(LOWER) - low, 1, "blocked interrupt taken after TPR=0");
    Ok(())
}

fn a5_hlt_with_a_pending_interrupt_does_not_sleep() -> Outcome {
    let before = irq::count_here(VECTOR);
    for _ in 0..100 {
        lapic::self_ipi(VECTOR);
        // If it slept, nothing would wake it: the host's time limit is the failure.
        cpu::sti_hlt();
        cpu::cli();
    }
    ensure_eq!(irq::count_here(VECTOR) - before, 100, "interrupts");
    Ok(())
}
