//! Rows of xAPIC mode, where register accesses go through the page at 0xFEE0_0000. Boot kind `xapic-bench`: the whole boot
//! works in that mode, since Bochs 2.7 cannot leave x2APIC mode again.

#![expect(unsafe_code, reason = "assembly loops")]

use super::frame::{measured, row};
use crate::runtime::registry::tests;
use crate::runtime::text::Outcome;
use crate::runtime::{cpu, lapic, tables};
use core::arch::naked_asm;

tests! { "xapic-bench", Machine: bench_xapic_registers }
tests! { "xapic-bench", Deadline: bench_xapic_timer }

const VECTOR: u8 = 0x62;

measured! { page_eoi, ["mov ebx, 0xFEE00000", "xor eax, eax"], ["mov [rbx + 0xB0], eax"] }
measured! { page_icr, ["mov ebx, 0xFEE00000", "mov eax, 0x40062"], ["mov [rbx + 0x300], eax"] }
measured! { page_id, ["mov ebx, 0xFEE00000"], ["mov eax, [rbx + 0x20]"] }

fn bench_xapic_registers() -> Outcome {
    row("xapic_eoi", 1, page_eoi)?;
    row("xapic_icr_write_self", 1, page_icr)?;
    cpu::take_pending();
    row("xapic_id_read", 1, page_id)
}

/// EOI through the page; R15 counts down.
#[unsafe(naked)]
unsafe extern "sysv64" fn handler() {
    naked_asm!("mov ebx, 0xFEE00000", "mov dword ptr [rbx + 0xB0], 0", "dec r15", "iretq")
}

measured! { page_deadline, ["sti"],
    ["mov ecx, 0x6E0", "mov eax, 1", "xor edx, edx", "wrmsr", "3: cmp r15, r12", "je 3b"]
}

fn bench_xapic_timer() -> Outcome {
    tables::set_gate(VECTOR, handler as *const () as u64);
    lapic::deadline_timer(VECTOR);
    row("xapic_deadline_past_handler_eoi", 1, page_deadline)
}
