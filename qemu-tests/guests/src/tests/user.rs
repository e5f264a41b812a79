//! Ring 3: what a guest's own programs may do to the hypervisor is nothing (S8).

#![expect(unsafe_code, reason = "enters ring 3")]

use crate::runtime::catch::{Caught, catch};
use crate::runtime::registry::tests;
use crate::runtime::tables::{USER_CODE64, USER_DATA};
use crate::runtime::text::{Outcome, ensure_eq, fail};
use crate::runtime::{boot, cpu, hypercall, irq};
use core::arch::{asm, naked_asm};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

tests! { "up", Machine: s8_ring_3_cannot_reach_machine_registers, s8_ring_3_sees_cpuid }
tests! { "up", Beeline: s8_ring_3_hypercalls_are_refused }

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; 4096]>);
// SAFETY: used by the one CPU that runs these tests.
unsafe impl Sync for Stack {}
static STACK: Stack = Stack(UnsafeCell::new([0; 4096]));

static RESULT: AtomicU64 = AtomicU64::new(0);

/// Runs `program` in ring 3 until its first exception, which is the result.
fn in_ring_3(program: unsafe extern "sysv64" fn()) -> Caught {
    let caught = catch(|| {
        // SAFETY: everything is mapped for ring 3; the exception that ends the program lands in `catch`.
        unsafe {
            asm!(
                "push {ss}", "push {rsp}", "push 2", "push {cs}", "push {rip}", "iretq",
                ss = in(reg) u64::from(USER_DATA),
                rsp = in(reg) STACK.0.get() as u64 + 4096,
                cs = in(reg) u64::from(USER_CODE64),
                rip = in(reg) program as *const () as u64,
            );
        }
    });
    match caught {
        Err(caught) => caught,
        Ok(()) => Caught::Panic("came back from ring 3 without an exception".into()),
    }
}

fn ends_with(what: &str, vector: u8, program: unsafe extern "sysv64" fn()) -> Outcome {
    match in_ring_3(program) {
        Caught::Fault { vector: seen, .. } if seen == vector => Ok(()),
        other => fail!("{what}: {other} instead of exception {vector}"),
    }
}

/// Defines a ring-3 program; UD2 ends it.
macro_rules! program {
    ($name:ident, $($line:literal),+) => {
        #[unsafe(naked)]
        unsafe extern "sysv64" fn $name() {
            naked_asm!($($line,)+ "mov [rip + {result}], rax", "ud2", result = sym RESULT)
        }
    };
}

program!(reads_msr, "mov ecx, 0x802", "rdmsr");
program!(writes_msr, "mov ecx, 0x83F", "mov eax, 0x40", "xor edx, edx", "wrmsr");
program!(reads_port, "mov edx, 0x5678", "in al, dx");
program!(writes_port, "mov edx, 0x80", "out dx, al");
program!(halts, "hlt");
program!(closes_if, "cli");
program!(reads_cr0, "mov rax, cr0");
program!(writes_cr3, "mov cr3, rax");
program!(flushes, "wbinvd");
program!(sets_xcr0, "mov eax, 1", "xor ecx, ecx", "xor edx, edx", "xsetbv");
program!(asks_cpuid, "xor eax, eax", "cpuid", "mov eax, ebx");
program!(calls_intel, "mov eax, 0x42450000", "vmcall");
program!(calls_amd, "mov eax, 0x42450000", "vmmcall");

fn s8_ring_3_cannot_reach_machine_registers() -> Outcome {
    for (what, program) in [
        ("RDMSR", reads_msr as unsafe extern "sysv64" fn()),
        ("WRMSR", writes_msr),
        ("IN", reads_port),
        ("OUT", writes_port),
        ("HLT", halts),
        ("CLI", closes_if),
        ("MOV from CR0", reads_cr0),
        ("MOV to CR3", writes_cr3),
    ] {
        ends_with(what, irq::GP, program)?;
    }
    // TCG lets ring 3 flush caches that it does not have.
    if !boot::options().tcg {
        ends_with("WBINVD", irq::GP, flushes)?;
    }
    let cr4 = cpu::cr4();
    if cpu::cpuid(1, 0).ecx >> 26 & 1 != 0 {
        cpu::set_cr4(cr4 | 1 << 18);
        let outcome = ends_with("XSETBV", irq::GP, sets_xcr0);
        cpu::set_cr4(cr4);
        outcome?;
    }
    Ok(())
}

fn s8_ring_3_sees_cpuid() -> Outcome {
    ends_with("the program's end", irq::UD, asks_cpuid)?;
    ensure_eq!(RESULT.load(Ordering::SeqCst), u64::from(cpu::cpuid(0, 0).ebx), "CPUID.0:EBX");
    Ok(())
}

/// KVM_HC answers -KVM_EPERM to ring 3.
fn s8_ring_3_hypercalls_are_refused() -> Outcome {
    let program = if hypercall::is_amd() { calls_amd } else { calls_intel };
    ends_with("the program's end", irq::UD, program)?;
    ensure_eq!(RESULT.load(Ordering::SeqCst), u64::MAX, "answer to a hypercall from ring 3");
    Ok(())
}
