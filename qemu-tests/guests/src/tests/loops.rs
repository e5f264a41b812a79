//! Exceptions that raise themselves again while they are delivered: CVE-2015-8104 (#DB) and CVE-2015-5307 (#AC) hung
//! whole machines. Here a CPU in such a loop still takes kicks, and INIT ends it (S6). Kind `kick`: on a bare machine the
//! loops cannot be left.

#![expect(unsafe_code, reason = "sets up the loops")]

use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{cpu, hypercall, irq, lapic, smp, tables, time};
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, Ordering};

tests! { "kick", [Hooks, FrameBreakpoint]: s6_db_loop_cannot_hold_a_core }
tests! { "kick", [Hooks, Alignment]: s6_ac_loop_cannot_hold_a_core }
// The hook-less half: an ordinary #DB and #AC reach the guest although the hypervisor intercepts them.
tests! { "up", Machine: s6_db_reaches_the_guest, s6_exceptions_reach_the_guest, s6_general_detect_reaches_the_guest }

const TARGET: usize = 1;
const DB: u8 = 1;
static READY: AtomicBool = AtomicBool::new(false);

/// Kicks the looping CPU, then stops it by INIT, then sees that it works again.
fn kick_and_stop(running: smp::Running) -> Outcome {
    const KICKS: u64 = 300;
    ensure!(time::wait(time::LONG, || READY.load(Ordering::SeqCst)), "the loop did not start");
    let traps = || hypercall::exits(TARGET as u64, hypercall::EXCEPTION);
    let before = traps();
    time::delay(10_000);
    hypercall::storm_reset();
    ensure!(hypercall::kick_storm(KICKS, 6, TARGET, 0), "the storm was refused");
    let over = time::wait(300 * time::LONG, || hypercall::storm(0) == 0);
    let settled = time::wait(time::LONG, || hypercall::storm(1) == hypercall::storm(2));
    let (posted, acknowledged) = (hypercall::storm(1), hypercall::storm(2));
    let longest = hypercall::storm(3);
    let (looping, traps) = (!running.is_done(), traps() - before);
    running.abandon()?;
    ensure!(over && settled, "{posted} kicks posted, {acknowledged} acknowledged");
    ensure!(posted >= KICKS, "only {posted} kicks were posted");
    ensure!(
        looping && traps > KICKS,
        "{traps} exceptions: it did not loop, the test shows nothing"
    );
    smp::on_cpu(TARGET, || {
        ensure_eq!(lapic::id(), TARGET as u32, "id");
        Ok(())
    })?;
    detail(format_args!("kicks={acknowledged} longest={longest} exceptions={traps}"));
    Ok(())
}

/// The delivery of #DB writes its frame where a data breakpoint is: each delivery is the cause of the next.
fn s6_db_loop_cannot_hold_a_core() -> Outcome {
    smp::others()?;
    READY.store(false, Ordering::SeqCst);
    // A handler that returns: without the breakpoint on its own frame it would end each time.
    tables::set_gate_on_fault_stack(DB, returning as *const () as u64);
    let job = || {
        let frame = tables::fault_stack_top(TARGET) - 8;
        cpu::set_dr0(frame);
        // G0, a write of 8 bytes.
        cpu::set_dr7(1 << 1 | 0b1001 << 16 | 1 << 10);
        READY.store(true, Ordering::SeqCst);
        // SAFETY: never comes back; the word belongs to a stack that nothing else uses.
        unsafe {
            asm!("2:", "mov [{frame}], rax", "jmp 2b", frame = in(reg) frame, options(noreturn))
        }
    };
    let job: &(dyn Fn() -> Outcome + Sync) = &job;
    kick_and_stop(smp::spawn(TARGET, job)?)
}

/// IRETQ alone.
#[unsafe(naked)]
unsafe extern "sysv64" fn returning() {
    core::arch::naked_asm!("iretq")
}

global_asm!(
    ".section .text",
    ".code64",
    // ac_loop: protected mode without paging, ring 3, ESP odd, EFLAGS.AC and CR0.AM set; #AC enters ring 3 again and
    // pushes its frame to the odd stack, which is the next #AC.
    ".global ac_loop",
    "ac_loop:",
    "cli",
    "lgdt ac_gdt_pointer(%rip)",
    "lidt ac_idt_pointer(%rip)",
    "pushq $0x08",
    "leaq ac_32(%rip), %rax",
    "pushq %rax",
    "lretq",
    ".code32",
    "ac_32:",
    "movl $0x10, %eax; movl %eax, %ss; movl %eax, %ds; movl %eax, %es",
    "movl %cr0, %eax; andl $0x7FFFFFFF, %eax; orl $0x40000, %eax; movl %eax, %cr0",
    "movl $0xC0000080, %ecx; rdmsr; andl $~0x100, %eax; wrmsr",
    "movl $ac_stack_end, %esp",
    "pushl $0x23",
    "pushl $(ac_stack_end - 0x101)",
    "pushl $0x40002",
    "pushl $0x1B",
    "pushl $ac_user",
    "iretl",
    "ac_user:",
    "pushl %eax",
    "jmp ac_user",
    ".section .data",
    ".align 16",
    // Null, ring-0 code and data, ring-3 code and data.
    "ac_gdt: .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF",
    ".quad 0x00CFFB000000FFFF, 0x00CFF3000000FFFF",
    "ac_gdt_end:",
    "ac_gdt_pointer: .word ac_gdt_end - ac_gdt - 1",
    ".quad ac_gdt",
    ".align 16",
    // Gates 0 to 16 are absent. Gate 17 leads to ring 3, from where it came; `start` fills in the address.
    ".global ac_gate",
    "ac_idt: .skip 17 * 8",
    "ac_gate: .quad 0",
    "ac_idt_end:",
    "ac_idt_pointer: .word ac_idt_end - ac_idt - 1",
    ".quad ac_idt",
    ".section .bss",
    ".align 16",
    ".skip 1024",
    "ac_stack_end:",
    ".section .text",
    ".code64",
    options(att_syntax)
);

unsafe extern "C" {
    static mut ac_gate: u64;
    fn ac_user();
}
unsafe extern "sysv64" {
    fn ac_loop() -> !;
}

fn s6_ac_loop_cannot_hold_a_core() -> Outcome {
    smp::others()?;
    READY.store(false, Ordering::SeqCst);
    let target = ac_user as *const () as u64;
    // SAFETY: nobody uses the table yet.
    unsafe { ac_gate = target & 0xFFFF | 0x1B << 16 | 0xEE << 40 | (target >> 16) << 48 };
    let job = || {
        READY.store(true, Ordering::SeqCst);
        // SAFETY: never comes back; INIT ends it.
        unsafe { ac_loop() }
    };
    let job: &(dyn Fn() -> Outcome + Sync) = &job;
    kick_and_stop(smp::spawn(TARGET, job)?)
}

fn s6_db_reaches_the_guest() -> Outcome {
    let before = irq::count_here(DB);
    irq::hook(DB, |frame| frame.rflags &= !(1 << 8));
    // Single step: TF is set by POPF, the trap comes after the next instruction.
    // SAFETY: the hook clears TF again.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "nop") };
    ensure_eq!(irq::count_here(DB) - before, 1, "single-step traps");
    ensure_eq!(cpu::dr6() >> 14 & 1, 1, "DR6.BS");
    cpu::set_dr6(0xFFFF_0FF0);
    // TF across a trapped instruction.
    // SAFETY: as above; RBX is restored.
    unsafe {
        asm!("mov {b}, rbx", "pushfq", "or qword ptr [rsp], 0x100", "popfq", "cpuid", "nop",
             "mov rbx, {b}", b = out(reg) _, inout("eax") 0 => _, out("ecx") _, out("edx") _);
    }
    ensure_eq!(irq::count_here(DB) - before, 2, "single-step traps after CPUID");
    // A data breakpoint.
    let word = core::cell::Cell::new(0u64);
    cpu::set_dr0(word.as_ptr() as u64);
    cpu::set_dr7(1 << 1 | 0b1001 << 16 | 1 << 10);
    // SAFETY: writes a local variable.
    unsafe { word.as_ptr().write_volatile(1) };
    cpu::set_dr7(1 << 10);
    ensure_eq!(irq::count_here(DB) - before, 3, "traps after a data breakpoint");
    ensure_eq!(cpu::dr6() & 1, 1, "DR6.B0");
    cpu::set_dr6(0xFFFF_0FF0);
    Ok(())
}

/// An access to a debug register with DR7.GD faults before it happens, and the delivery clears GD. SDM 3B 18.2.4.
fn s6_general_detect_reaches_the_guest() -> Outcome {
    cpu::set_dr7(1 << 13 | 1 << 10);
    crate::runtime::catch::expect_fault(DB, "MOV from DR7 with GD", || {
        cpu::dr7();
    })?;
    // Where GD is still set, this faults.
    let gd =
        crate::runtime::catch::expect_fine("MOV from DR7 after the fault", cpu::dr7)? >> 13 & 1;
    ensure_eq!(gd, 0, "DR7.GD after the fault");
    ensure_eq!(cpu::dr6() >> 13 & 1, 1, "DR6.BD");
    cpu::set_dr6(0xFFFF_0FF0);
    cpu::set_dr7(1 << 10);
    Ok(())
}

fn s6_exceptions_reach_the_guest() -> Outcome {
    use crate::runtime::catch::expect_fault;
    // SAFETY: each raises one exception, which lands in `catch`.
    unsafe {
        expect_fault(3, "INT3", || asm!("int3"))?;
        expect_fault(irq::UD, "UD2", || asm!("ud2"))?;
        expect_fault(0, "division by 0", || {
            asm!("xor ecx, ecx", "div ecx", out("rcx") _, inout("rax") 1u64 => _, out("rdx") _);
        })?;
        expect_fault(irq::GP, "non-canonical address", || {
            asm!("mov rax, [{}]", in(reg) 1u64 << 62, out("rax") _);
        })?;
        expect_fault(14, "address that is not mapped", || {
            asm!("mov rax, [{}]", in(reg) 1u64 << 40, out("rax") _);
        })?;
    }
    ensure_eq!(cpu::cr2(), 1 << 40, "CR2");
    Ok(())
}
