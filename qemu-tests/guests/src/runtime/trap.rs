//! Trap entry: 256 stubs, one dispatcher.
//!
//! No stub assumes an error code: the CPU aligns RSP to 16 before it pushes a frame, so bit 3 of RSP tells whether the
//! frame has five words (no error code) or six. So vectors 16-31, which a LAPIC may deliver as interrupts, need no table.
//! SDM 3A 6.14.2.

#![expect(unsafe_code, reason = "trap entry in assembly")]

use super::irq::Frame;
use core::arch::global_asm;

global_asm!(
    ".section .text",
    ".balign 32",
    ".global trap_stubs",
    "trap_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign 32",
    "testb $8, %spl",
    "jz 2f",
    "pushq $0",
    "2: pushq $vector",
    "jmp trap_common",
    ".set vector, vector + 1",
    ".endr",
    ".balign 32",
    "trap_common:",
    "pushq %rax",
    "pushq %rbx",
    "pushq %rcx",
    "pushq %rdx",
    "pushq %rsi",
    "pushq %rdi",
    "pushq %rbp",
    "pushq %r8",
    "pushq %r9",
    "pushq %r10",
    "pushq %r11",
    "pushq %r12",
    "pushq %r13",
    "pushq %r14",
    "pushq %r15",
    "cld",
    "movq %rsp, %rdi",
    "call {entry}",
    "popq %r15",
    "popq %r14",
    "popq %r13",
    "popq %r12",
    "popq %r11",
    "popq %r10",
    "popq %r9",
    "popq %r8",
    "popq %rbp",
    "popq %rdi",
    "popq %rsi",
    "popq %rdx",
    "popq %rcx",
    "popq %rbx",
    "popq %rax",
    "addq $16, %rsp",
    "iretq",
    entry = sym trap_entry,
    options(att_syntax)
);

unsafe extern "C" {
    static trap_stubs: u8;
}

/// Address of the stub of `vector`.
pub fn stub(vector: u8) -> u64 {
    (&raw const trap_stubs) as u64 + 32 * u64::from(vector)
}

extern "sysv64" fn trap_entry(frame: &mut Frame) {
    super::irq::dispatch(frame);
}
