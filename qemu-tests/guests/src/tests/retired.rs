//! An interrupt whose delivery an exception cuts short is in service and has not run. When the exception's handler ends
//! it by EOI, it is over: nobody may deliver it again, and nothing may be upset that it is gone (E3, D8). The frame of a
//! 64-bit gate is always aligned, so the scene is 32-bit protected mode.

#![expect(unsafe_code, reason = "leaves long mode")]

use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure_eq};
use crate::runtime::{cpu, irq, lapic, tables};
use core::arch::global_asm;

tests! { "up", Alignment: e3_d8_interrupt_retired_by_an_exception_handler_is_not_delivered_again }

const VECTOR: u8 = 0x40;
/// Where ring 3 leaves the scene.
const LEAVE: u8 = 0x80;
/// Alignment check.
const AC: u8 = 17;

/// Selectors of `retired_gdt`.
const CODE32: u16 = 0x18;
const USER_CODE32: u16 = 0x20 | 3;
const USER_DATA32: u16 = 0x28 | 3;
const TSS32: u16 = 0x30;

global_asm!(
    ".section .text",
    ".code64",
    ".global retired_scene, retired_user, retired_ac, retired_interrupt, retired_leave",
    "retired_scene:",
    "pushq %rbx; pushq %rbp; pushq %r12; pushq %r13; pushq %r14; pushq %r15; pushfq",
    "cli",
    "movq %rsp, retired_rsp(%rip)",
    "lgdt retired_gdt_pointer(%rip)",
    "lidt retired_idt_pointer(%rip)",
    "pushq ${code32}",
    "leaq retired_32(%rip), %rax",
    "pushq %rax",
    "lretq",
    ".code32",
    "retired_32:",
    "movl $0x10, %eax; movl %eax, %ss",
    "movl ${user_data}, %eax; movl %eax, %ds; movl %eax, %es",
    "movl %cr0, %eax; andl $0x7FFFFFFF, %eax; orl $0x40000, %eax; movl %eax, %cr0",
    "movl $0xC0000080, %ecx; rdmsr; andl $~0x100, %eax; wrmsr",
    "movl $retired_stack_end, %esp",
    "movl ${tss}, %eax; ltr %ax",
    // Pending, until IRET opens IF together with AC on a stack that is not aligned.
    "movl $0x83F, %ecx; movl ${vector}, %eax; xorl %edx, %edx; wrmsr",
    "pushl ${user_data}",
    "pushl $(retired_user_stack_end - 0x101)",
    "pushl $0x40202",
    "pushl ${user_code}",
    "pushl $retired_user",
    "iretl",
    // Ring 3: time, and exits, in which the interrupt could come again.
    "retired_user:",
    "movl $200, %esi",
    "2: xorl %eax, %eax; cpuid",
    "movl $100, %ecx",
    "3: decl %ecx; jnz 3b",
    "decl %esi; jnz 2b",
    "int ${leave}",
    // Entered in ring 3.
    "retired_interrupt:",
    "incl retired_runs",
    "iretl",
    // Ring 0: the error code, EIP, CS, EFLAGS, ESP and SS above the three registers.
    "retired_ac:",
    "pushl %eax; pushl %ecx; pushl %edx",
    "incl retired_checks",
    "movl $0x80B, %ecx; xorl %eax, %eax; xorl %edx, %edx; wrmsr",
    "andl $~0x40000, 24(%esp)",
    "andl $~15, 28(%esp)",
    "popl %edx; popl %ecx; popl %eax",
    "addl $4, %esp",
    "iretl",
    "retired_leave:",
    "movl $0x10, %eax; movl %eax, %ds; movl %eax, %es",
    "call to_long_mode",
    "ljmp $0x08, $retired_64",
    ".code64",
    "retired_64:",
    "movl $0x10, %eax; movl %eax, %ss; movl %eax, %ds; movl %eax, %es",
    "xorl %eax, %eax; movl %eax, %fs; movl %eax, %gs",
    "movq retired_rsp(%rip), %rsp",
    "popfq; popq %r15; popq %r14; popq %r13; popq %r12; popq %rbp; popq %rbx",
    "ret",
    ".section .data",
    ".align 16",
    // Null, 64-bit code, data, 32-bit code, ring-3 code and data, and the TSS, which `prepare` fills in.
    ".global retired_gdt, retired_idt, retired_tss, retired_runs, retired_checks",
    "retired_gdt: .quad 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CF9B000000FFFF",
    ".quad 0x00CFFB000000FFFF, 0x00CFF3000000FFFF, 0",
    "retired_gdt_end:",
    "retired_gdt_pointer: .word retired_gdt_end - retired_gdt - 1",
    ".quad retired_gdt",
    ".align 16",
    "retired_idt: .skip 8 * ({leave} + 1)",
    "retired_idt_end:",
    "retired_idt_pointer: .word retired_idt_end - retired_idt - 1",
    ".quad retired_idt",
    ".align 128",
    // Only ring 0's stack matters; there is no I/O bitmap.
    "retired_tss: .long 0, retired_stack_end, 0x10",
    ".skip 90",
    ".word 104",
    ".align 8",
    "retired_rsp: .quad 0",
    "retired_runs: .long 0",
    "retired_checks: .long 0",
    ".section .bss",
    ".align 16",
    ".skip 1024",
    "retired_stack_end:",
    ".skip 1024",
    "retired_user_stack_end:",
    ".section .text",
    ".code64",
    vector = const VECTOR,
    leave = const LEAVE,
    code32 = const CODE32,
    user_code = const USER_CODE32,
    user_data = const USER_DATA32,
    tss = const TSS32,
    options(att_syntax)
);

unsafe extern "C" {
    static mut retired_gdt: [u64; 7];
    static mut retired_idt: [u64; LEAVE as usize + 1];
    static retired_tss: u8;
    static mut retired_runs: u32;
    static mut retired_checks: u32;
    fn retired_ac();
    fn retired_interrupt();
    fn retired_leave();
}
unsafe extern "sysv64" {
    /// Comes back in 64-bit mode, with the scene's tables still loaded and GS not restored.
    fn retired_scene();
}

/// A 32-bit interrupt gate that ring 3 may call.
fn gate(entry: unsafe extern "C" fn(), selector: u16) -> u64 {
    let entry = entry as *const () as u64;
    entry & 0xFFFF | u64::from(selector) << 16 | 0xEE << 40 | (entry >> 16 & 0xFFFF) << 48
}

/// Fills in what the assembler cannot: addresses in pieces. The descriptor of the TSS is not busy.
fn prepare() {
    let tss = &raw const retired_tss as u64;
    let descriptor = 103 | (tss & 0xFF_FFFF) << 16 | 0x89 << 40 | (tss >> 24 & 0xFF) << 56;
    // SAFETY: no CPU uses these tables now; only this CPU runs the test.
    unsafe {
        retired_gdt[usize::from(TSS32) / 8] = descriptor;
        retired_idt[usize::from(AC)] = gate(retired_ac, CODE32);
        retired_idt[usize::from(VECTOR)] = gate(retired_interrupt, USER_CODE32);
        retired_idt[usize::from(LEAVE)] = gate(retired_leave, CODE32);
        retired_runs = 0;
        retired_checks = 0;
    }
}

fn e3_d8_interrupt_retired_by_an_exception_handler_is_not_delivered_again() -> Outcome {
    const ROUNDS: u64 = 50;
    let (cr0, index) = (cpu::cr0(), tables::current());
    for round in 0..ROUNDS {
        prepare();
        // SAFETY: all memory is where it was without paging; the scene comes back with all registers that a callee must
        // keep, and `load` brings the tables and GS back before anything needs them.
        let (runs, checks) = unsafe {
            retired_scene();
            tables::load(index);
            ((&raw const retired_runs).read(), (&raw const retired_checks).read())
        };
        cpu::set_cr0(cr0);
        ensure_eq!(checks, 1, "#AC in the delivery, round {round}");
        ensure_eq!(runs, 0, "runs of the handler of the retired interrupt, round {round}");
        ensure_eq!(lapic::highest(lapic::ISR), None, "in service, round {round}");
        ensure_eq!(lapic::highest(lapic::IRR), None, "requested, round {round}");
        // The next one is as good as any.
        let before = irq::count_here(VECTOR);
        cpu::take_pending();
        ensure_eq!(irq::count_here(VECTOR) - before, 0, "left over, round {round}");
        lapic::self_ipi(VECTOR);
        cpu::take_pending();
        ensure_eq!(irq::count_here(VECTOR) - before, 1, "the next interrupt, round {round}");
    }
    detail(format_args!("rounds={ROUNDS}"));
    Ok(())
}
