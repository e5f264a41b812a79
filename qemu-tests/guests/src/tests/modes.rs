//! From 64-bit mode through compatibility, protected and real mode and back (A5, S8): interrupts, the timer, HLT and
//! trapped instructions work in real mode too. SDM 3A 10.8.5, 10.9.2, 21.1.4.

#![expect(unsafe_code, reason = "leaves long mode")]

use crate::runtime::lapic;
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure_eq};
use crate::runtime::{cpu, smp, time};
use core::arch::global_asm;

tests! { "up", Machine: s8_round_trip_through_real_mode }
tests! { "smp", Machine: s8_round_trip_through_real_mode_on_every_cpu }

/// Where the 16-bit part runs: a free page in the first 64 KiB, so that segment base 0 serves everywhere.
const PAGE: u64 = 0x9000;
/// The real-mode vector that the trip takes twice: by self-IPI and by the timer.
const VECTOR: u8 = 0x41;

global_asm!(
    ".section .text",
    ".code64",
    ".global mode_trip, trip_low, trip_low_end",
    // What goes to the page, then out of long mode by way of compatibility mode.
    "mode_trip:",
    "pushq %rbx; pushq %rbp; pushq %r12; pushq %r13; pushq %r14; pushq %r15; pushfq",
    "cli",
    "movl $0xC0000101, %ecx",
    "rdmsr",
    "pushq %rax; pushq %rdx",
    "subq $32, %rsp",
    "sgdt (%rsp)",
    "sidt 16(%rsp)",
    "movq %rsp, {page} + trip_rsp - trip_low",
    "lgdt trip_gdt_pointer(%rip)",
    "pushq $0x18",
    "leaq trip_32(%rip), %rax",
    "pushq %rax",
    "lretq",
    ".code32",
    "trip_32:",
    "movl $0x10, %eax; movl %eax, %ss; movl %eax, %ds; movl %eax, %es",
    "movl $({page} + 0xF00), %esp",
    "movl %cr0, %eax; andl $0x7FFFFFFF, %eax; movl %eax, %cr0",
    "movl $0xC0000080, %ecx; rdmsr; andl $~0x100, %eax; wrmsr",
    "movl %cr4, %eax; andl $~0x20, %eax; movl %eax, %cr4",
    // A trapped instruction in protected mode without paging.
    "xorl %eax, %eax; cpuid; movl %ebx, {page} + trip_vendor - trip_low",
    "ljmp $0x20, $({page} + trip_16 - trip_low)",
    ".code16",
    "trip_low:",
    "trip_16:",
    "movw $0x28, %ax; movw %ax, %ss; movw %ax, %ds; movw %ax, %es",
    "movl %cr0, %eax; andl $~1, %eax; movl %eax, %cr0",
    "ljmpw $0, $({page} + trip_real - trip_low)",
    "trip_real:",
    "xorw %ax, %ax; movw %ax, %ss; movw %ax, %ds; movw %ax, %es",
    "lidtl {page} + trip_real_idt - trip_low",
    "movw $({page} + trip_handler - trip_low), 4 * {vector}",
    "movw $0, 4 * {vector} + 2",
    // #GP of a trapped instruction: real mode has no error codes. The x2APIC id cannot be written.
    "movw $({page} + trip_fault - trip_low), 4 * 13",
    "movw $0, 4 * 13 + 2",
    "movl $0x802, %ecx; xorl %eax, %eax; xorl %edx, %edx; wrmsr",
    // Trapped instructions in real mode: the vendor is still the same, nobody is at the port.
    "xorl %eax, %eax; cpuid; xorl %ebx, {page} + trip_vendor - trip_low",
    "movw $0x5678, %dx; inb %dx, %al; movb %al, {page} + trip_port - trip_low",
    "movl $0x83F, %ecx; movl ${vector}, %eax; xorl %edx, %edx; wrmsr",
    "sti; nop; nop; cli",
    // The alarm: a deadline counts from now, a one-shot from 0.
    "rdtsc; andl {page} + trip_from - trip_low, %eax; andl {page} + trip_from - trip_low, %edx",
    "addl {page} + trip_alarm - trip_low, %eax; adcl $0, %edx",
    "movl {page} + trip_timer - trip_low, %ecx; wrmsr",
    "2: sti; hlt; cli",
    "cmpb $2, {page} + trip_count - trip_low",
    "jb 2b",
    "lgdtl {page} + trip_low_gdt - trip_low",
    "movl %cr0, %eax; orl $1, %eax; movl %eax, %cr0",
    "ljmpl $0x18, $trip_back_32",
    // Counts, and steps over the two bytes of WRMSR.
    "trip_fault:",
    "pushw %bp; movw %sp, %bp; addw $2, 2(%bp); popw %bp",
    "incb {page} + trip_faults - trip_low",
    "iretw",
    "trip_handler:",
    "pushl %eax; pushl %ecx; pushl %edx",
    "incb {page} + trip_count - trip_low",
    "movl $0x80B, %ecx; xorl %eax, %eax; xorl %edx, %edx; wrmsr",
    "popl %edx; popl %ecx; popl %eax",
    "iretw",
    ".align 8",
    "trip_rsp: .quad 0",
    "trip_vendor: .long 0",
    ".global trip_from, trip_alarm, trip_timer",
    "trip_from: .long 0",
    "trip_alarm: .long 0",
    "trip_timer: .long 0",
    "trip_count: .byte 0",
    "trip_port: .byte 0",
    "trip_faults: .byte 0",
    ".align 8",
    "trip_real_idt: .word 0x3FF",
    ".long 0",
    "trip_low_gdt: .word trip_gdt_end - trip_gdt - 1",
    ".long trip_gdt",
    "trip_low_end:",
    ".code32",
    "trip_back_32:",
    "movl $0x10, %eax; movl %eax, %ss; movl %eax, %ds; movl %eax, %es",
    "movl $({page} + 0xF00), %esp",
    "call to_long_mode",
    "ljmp $0x08, $trip_back_64",
    ".code64",
    "trip_back_64:",
    "movq {page} + trip_rsp - trip_low, %rsp",
    "lgdt (%rsp)",
    "lidt 16(%rsp)",
    "addq $32, %rsp",
    "movl $0x10, %eax; movl %eax, %ss; movl %eax, %ds; movl %eax, %es",
    "xorl %eax, %eax; movl %eax, %fs; movl %eax, %gs",
    "popq %rdx; popq %rax",
    "movl $0xC0000101, %ecx",
    "wrmsr",
    "movzbl {page} + trip_faults - trip_low, %eax",
    "shll $8, %eax",
    "movb {page} + trip_port - trip_low, %al",
    "shll $8, %eax",
    "movb {page} + trip_count - trip_low, %al",
    "movl {page} + trip_vendor - trip_low, %ecx",
    "shlq $32, %rcx",
    "orq %rcx, %rax",
    "popfq; popq %r15; popq %r14; popq %r13; popq %r12; popq %rbp; popq %rbx",
    "ret",
    ".section .rodata",
    ".align 8",
    // Null, 64-bit code, data, 32-bit code, 16-bit code, 16-bit data.
    "trip_gdt: .quad 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF",
    ".quad 0x00CF9B000000FFFF, 0x00009B000000FFFF, 0x000093000000FFFF",
    "trip_gdt_end:",
    "trip_gdt_pointer: .word trip_gdt_end - trip_gdt - 1",
    ".quad trip_gdt",
    ".section .text",
    page = const PAGE,
    vector = const VECTOR,
    options(att_syntax)
);

unsafe extern "sysv64" {
    /// Interrupts taken in bits 7:0, the port's value in 15:8, faults in 23:16; 63:32 is 0 when CPUID answered the same in both modes.
    fn mode_trip() -> u64;
}

fn round_trips(n: u64) -> Outcome {
    unsafe extern "C" {
        static trip_low: u8;
        static trip_low_end: u8;
        static trip_from: u8;
        static trip_alarm: u8;
        static trip_timer: u8;
    }
    let start = &raw const trip_low;
    let length = (&raw const trip_low_end) as usize - start as usize;
    let on_page = |label: *const u8| (PAGE + (label as u64 - start as u64)) as *mut u32;
    lapic::alarm_timer(VECTOR);
    let (from, alarm, timer) = match lapic::has_deadline() {
        true => (u32::MAX, time::ticks(2_000) as u32, cpu::IA32_TSC_DEADLINE),
        false => (0, time::counts(2_000), 0x800 + lapic::TIMER_INITIAL),
    };
    for round in 0..n {
        // SAFETY: the page is free low memory; the code in it comes back with all registers that a callee must keep,
        // the tables and GS as before; nothing else runs on this CPU meanwhile.
        let seen = unsafe {
            core::ptr::copy_nonoverlapping(start, PAGE as *mut u8, length);
            on_page(&raw const trip_from).write(from);
            on_page(&raw const trip_alarm).write(alarm);
            on_page(&raw const trip_timer).write(timer);
            mode_trip()
        };
        ensure_eq!(seen & 0xFF, 2, "interrupts taken in real mode, round {round}");
        ensure_eq!(seen >> 8 & 0xFF, 0xFF, "port read in real mode, round {round}");
        ensure_eq!(seen >> 16 & 0xFF, 1, "#GP in real mode, round {round}");
        ensure_eq!(seen >> 32, 0, "CPUID differs between modes, round {round}");
    }
    Ok(())
}

fn s8_round_trip_through_real_mode() -> Outcome {
    detail(format_args!("round_trips=50"));
    round_trips(50)
}

fn s8_round_trip_through_real_mode_on_every_cpu() -> Outcome {
    smp::others()?.try_for_each(|index| smp::on_cpu(index, || round_trips(20)))
}
