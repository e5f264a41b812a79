//! Rows of interrupts between two CPUs: received by a busy CPU, write to handler, and to a halted CPU and back.

#![expect(unsafe_code, reason = "assembly loops")]

use super::frame::{ROUNDS, empty, unit};
use crate::runtime::registry::{detail, figure, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{cpu, hypercall, lapic, smp, tables};
use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

tests! { "bench-smp", Machine: bench_cross_cpu_ipi, bench_ipi_to_halted_cpu_and_back }

const TO: u8 = 0x63;
const BACK: u8 = 0x64;

static SENT_AT: AtomicU64 = AtomicU64::new(0);
static SUM: AtomicU64 = AtomicU64::new(0);
static TAKEN: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);
static READY: AtomicBool = AtomicBool::new(false);

/// The receiver's handler: interval since the sender's stamp, count, EOI.
#[unsafe(naked)]
unsafe extern "sysv64" fn receive() {
    naked_asm!(
        "push rax",
        "push rcx",
        "push rdx",
        "rdtsc",
        "shl rdx, 32",
        "add rax, rdx",
        "sub rax, [rip + {sent_at}]",
        "add [rip + {sum}], rax",
        "mov ecx, 0x80B",
        "xor eax, eax",
        "xor edx, edx",
        "wrmsr",
        "inc qword ptr [rip + {taken}]",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "iretq",
        sent_at = sym SENT_AT,
        sum = sym SUM,
        taken = sym TAKEN,
    )
}

/// Sends `rounds` IPIs to CPU `id`, each after the one before has been counted. 13 instructions a round and the wait.
fn send_and_wait(rounds: u64, id: u32) -> u64 {
    let ticks: u64;
    // SAFETY: only listed registers change; the statics are written by the receiver's handler alone.
    unsafe {
        asm!(
            "rdtsc",
            "shl rdx, 32",
            "lea r9, [rax + rdx]",
            "2:",
            "mov r10, [rip + {taken}]",
            "rdtsc",
            "shl rdx, 32",
            "add rax, rdx",
            "mov [rip + {sent_at}], rax",
            "mov ecx, 0x830",
            "mov eax, 0x63",
            "mov edx, {id:e}",
            "wrmsr",
            "3: cmp r10, [rip + {taken}]",
            "je 3b",
            "dec {rounds}",
            "jnz 2b",
            "rdtsc",
            "shl rdx, 32",
            "add rax, rdx",
            "sub rax, r9",
            taken = sym TAKEN,
            sent_at = sym SENT_AT,
            id = in(reg) id,
            rounds = inout(reg) rounds => _,
            out("rax") ticks,
            out("rcx") _, out("rdx") _, out("r9") _, out("r10") _,
            options(nostack)
        );
    }
    ticks
}

fn bench_cross_cpu_ipi() -> Outcome {
    smp::others()?;
    tables::set_gate(TO, receive as *const () as u64);
    for flag in [&STOP, &READY] {
        flag.store(false, Ordering::SeqCst);
    }
    SUM.store(0, Ordering::SeqCst);
    TAKEN.store(0, Ordering::SeqCst);
    let spin = || {
        cpu::sti();
        READY.store(true, Ordering::SeqCst);
        while !STOP.load(Ordering::Relaxed) {
            cpu::pause();
        }
        cpu::cli();
        Ok(())
    };
    let receiver = smp::spawn(1, &spin)?;
    while !READY.load(Ordering::SeqCst) {
        cpu::pause();
    }
    let received_before = receiver_exits();
    let (exits, ticks) = hypercall::exits_of(|| send_and_wait(ROUNDS, 1));
    let received = receiver_exits() - received_before;
    STOP.store(true, Ordering::SeqCst);
    receiver.wait(crate::runtime::time::LONG)?;
    // SAFETY: keeps the ABI.
    let ticks = ticks as i64 - unsafe { empty(ROUNDS) } as i64;
    figure("cross_cpu_ipi_received", 10 * ticks / ROUNDS as i64, unit(), ROUNDS);
    let sum = SUM.load(Ordering::SeqCst) as i64;
    figure("cross_cpu_ipi_write_to_isr", 10 * sum / ROUNDS as i64, unit(), ROUNDS);
    ensure_eq!(TAKEN.load(Ordering::SeqCst), ROUNDS, "IPIs taken");
    if hypercall::present() {
        ensure_eq!(exits, ROUNDS, "exits of the sender");
        ensure_eq!(received, 0, "exits of the receiver");
        detail(format_args!("sender_exits_per_ipi=1 receiver_exits=0"));
    }
    Ok(())
}

fn receiver_exits() -> u64 {
    if hypercall::present() { hypercall::exits(1, hypercall::ALL) } else { 0 }
}

/// The halted CPU's handler: an IPI back to CPU 0, EOI.
#[unsafe(naked)]
unsafe extern "sysv64" fn reply() {
    naked_asm!(
        "push rax",
        "push rcx",
        "push rdx",
        "mov ecx, 0x830",
        "mov eax, 0x64",
        "xor edx, edx",
        "wrmsr",
        "mov ecx, 0x80B",
        "xor eax, eax",
        "wrmsr",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "iretq",
    )
}

/// The asking CPU's handler: count, EOI.
#[unsafe(naked)]
unsafe extern "sysv64" fn answered() {
    naked_asm!(
        "push rax",
        "push rcx",
        "push rdx",
        "inc qword ptr [rip + {taken}]",
        "mov ecx, 0x80B",
        "xor eax, eax",
        "xor edx, edx",
        "wrmsr",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "iretq",
        taken = sym TAKEN,
    )
}

fn bench_ipi_to_halted_cpu_and_back() -> Outcome {
    smp::others()?;
    tables::set_gate(TO, reply as *const () as u64);
    tables::set_gate(BACK, answered as *const () as u64);
    TAKEN.store(0, Ordering::SeqCst);
    // CPU 1 is idle: halted with IF = 1 in its job loop, where it goes back after each interrupt.
    cpu::sti();
    let ticks = send_and_wait(ROUNDS, 1);
    cpu::cli();
    ensure_eq!(TAKEN.load(Ordering::SeqCst), ROUNDS, "IPIs that came back");
    // SAFETY: keeps the ABI.
    let ticks = ticks as i64 - unsafe { empty(ROUNDS) } as i64;
    figure("ipi_to_halted_cpu_and_back", 10 * ticks / ROUNDS as i64, unit(), ROUNDS);
    ensure!(lapic::highest(lapic::ISR).is_none(), "a vector was left in service");
    Ok(())
}
