//! Rows of interrupts that one CPU raises and takes itself: timer, EOI, self-IPI.

#![expect(unsafe_code, reason = "assembly loops")]

use super::frame::{Loop, ROUNDS, measured, row, unit};
use crate::runtime::registry::{figure, tests};
use crate::runtime::text::{Outcome, ensure_eq};
use crate::runtime::{cpu, lapic, tables};
use core::arch::naked_asm;

tests! { "bench", Machine:
    bench_one_shot_timer, bench_eoi, bench_self_ipi_taken, bench_self_ipi_write_to_isr,
}
tests! { "bench", Deadline: bench_timer }

const VECTOR: u8 = 0x62;

// RBX is the boot CPU's id in the loops below: 0.

/// The shortest honest handler: EOI, one interrupt less to come (R15), registers as before but RAX, RCX, RDX, which the
/// loops reload. It enters by the IDT directly.
#[unsafe(naked)]
unsafe extern "sysv64" fn handler() {
    naked_asm!("mov ecx, 0x80B", "xor eax, eax", "xor edx, edx", "wrmsr", "dec r15", "iretq")
}

/// As `handler`, and adds the TSC at its first instruction to R14.
#[unsafe(naked)]
unsafe extern "sysv64" fn stamping_handler() {
    naked_asm!(
        "rdtsc",
        "shl rdx, 32",
        "add rax, rdx",
        "add r14, rax",
        "mov ecx, 0x80B",
        "xor eax, eax",
        "xor edx, edx",
        "wrmsr",
        "dec r15",
        "iretq"
    )
}

// A deadline of 1 lies in the past and fires at once. R15 falls below R12 when the interrupt has been taken.
measured! { deadline_past, ["sti"],
    ["mov ecx, 0x6E0", "mov eax, 1", "xor edx, edx", "wrmsr", "3: cmp r15, r12", "je 3b"]
}

// A deadline that does not come while the loop runs.
measured! { deadline_arm, ["mov ecx, 0x6E0", "mov eax, -1", "mov edx, 0x7FFFFFFF"], ["wrmsr"] }

// From the deadline itself, 97 ticks after the reading, to the first instruction of the handler.
measured! { deadline_isr, ["sti"], [
    "rdtsc", "shl rdx, 32", "add rax, rdx", "add rax, 97", "sub r14, rax", "mov rdx, rax",
    "shr rdx, 32", "mov ecx, 0x6E0", "wrmsr", "3: cmp r15, r12", "je 3b", "nop",
] }

fn bench_timer() -> Outcome {
    tables::set_gate(VECTOR, handler as *const () as u64);
    lapic::deadline_timer(VECTOR);
    row("deadline_past_handler_eoi", 0, deadline_past)?;
    row("deadline_arm", 0, deadline_arm)?;
    lapic::arm(0);
    tables::set_gate(VECTOR, stamping_handler as *const () as u64);
    interval("deadline_to_isr", deadline_isr)
}

// A count of 1 is over at once.
measured! { one_shot, ["sti"],
    ["mov ecx, 0x838", "mov eax, 1", "xor edx, edx", "wrmsr", "3: cmp r15, r12", "je 3b"]
}

fn bench_one_shot_timer() -> Outcome {
    tables::set_gate(VECTOR, handler as *const () as u64);
    lapic::count_timer(lapic::ONE_SHOT, VECTOR, 0);
    row("one_shot_handler_eoi", 0, one_shot)
}

measured! { eoi, ["mov ecx, 0x80B", "xor eax, eax", "xor edx, edx"], ["wrmsr"] }

fn bench_eoi() -> Outcome {
    row("eoi", 0, eoi)
}

measured! { icr_taken, ["sti"],
    ["mov ecx, 0x830", "mov eax, 0x40062", "xor edx, edx", "wrmsr", "3: cmp r15, r12", "je 3b"]
}
measured! { icr_physical_taken, ["xor ebx, ebx", "sti"],
    ["mov ecx, 0x830", "mov eax, 0x62", "mov edx, ebx", "wrmsr", "3: cmp r15, r12", "je 3b"]
}
measured! { register_taken, ["sti"],
    ["mov ecx, 0x83F", "mov eax, 0x62", "xor edx, edx", "wrmsr", "3: cmp r15, r12", "je 3b"]
}

fn bench_self_ipi_taken() -> Outcome {
    tables::set_gate(VECTOR, handler as *const () as u64);
    row("self_ipi_icr_taken", 1, icr_taken)?;
    row("self_ipi_icr_physical_taken", 1, icr_physical_taken)?;
    row("self_ipi_register_taken", 0, register_taken)
}

/// From the clock's reading right before the write to the first instruction of the handler, which reads it again; the
/// six instructions in between are the same with and without a hypervisor.
macro_rules! write_to_isr {
    ($name:ident, $msr:literal, $low:literal, $high:literal) => {
        measured! { $name, ["xor ebx, ebx", "sti"], [
            "rdtsc", "shl rdx, 32", "add rax, rdx", "sub r14, rax",
            $msr, $low, $high, "wrmsr", "3: cmp r15, r12", "je 3b", "nop",
        ] }
    };
}
write_to_isr!(icr_self_isr, "mov ecx, 0x830", "mov eax, 0x40062", "xor edx, edx");
write_to_isr!(icr_physical_isr, "mov ecx, 0x830", "mov eax, 0x62", "mov edx, ebx");
write_to_isr!(register_isr, "mov ecx, 0x83F", "mov eax, 0x62", "xor edx, edx");

/// Runs a write-to-handler loop, whose sum of intervals comes back in RDX.
fn interval(name: &str, run: Loop) -> Outcome {
    let sum: u64;
    // SAFETY: the loops keep the ABI of `Loop`; RDX is theirs to return.
    unsafe {
        core::arch::asm!("call {}", in(reg) run as *const () as u64, in("rdi") ROUNDS,
                         lateout("rdx") sum, clobber_abi("sysv64"));
    }
    figure(name, (10 * sum / ROUNDS) as i64, unit(), ROUNDS);
    Ok(())
}

fn bench_self_ipi_write_to_isr() -> Outcome {
    tables::set_gate(VECTOR, stamping_handler as *const () as u64);
    interval("self_ipi_icr_write_to_isr", icr_self_isr)?;
    interval("self_ipi_icr_physical_write_to_isr", icr_physical_isr)?;
    interval("self_ipi_register_write_to_isr", register_isr)?;
    cpu::cli();
    ensure_eq!(lapic::highest(lapic::ISR), None, "vector left in service");
    Ok(())
}
