//! What ends a VM: the hypervisor must stop it with a report and go on (S6, S8). One boot kind each; the tests do not come back.
//! Kind `window` marks a measured window and goes on.

#![expect(unsafe_code, reason = "breaks the machine on purpose")]

use crate::runtime::cpu;
use crate::runtime::registry::{detail, tests};
use crate::runtime::serial::{self, println};
use crate::runtime::text::{Outcome, ensure, fail};
use crate::runtime::{hypercall, irq, lapic, smp, tables, time};
use core::arch::asm;

tests! { "hostile-triple", Beeline: s6_triple_fault_ends_the_vm }
tests! { "hostile-triple-ap", Beeline: s6_triple_fault_of_another_cpu_ends_the_vm }
tests! { "hostile-fetch", Beeline: s8_code_fetched_from_a_hole_ends_the_vm }
tests! { "hostile-sleep", Beeline: s8_all_cpus_asleep_for_ever }
tests! { "panic", Hooks: s8_a_bug_of_the_hypervisor_is_reported }
tests! { "reset", Beeline: s8_reset_by_port_cf9 }
tests! { "window", Machine: m1_measured_window }

/// The last words, for whoever compares them with the report.
fn about_to(what: &str) {
    println!("# about to {what}");
    serial::drain();
}

/// An exception with no IDT.
fn triple_fault() {
    let empty = [0u16; 5];
    // SAFETY: the end of this VM.
    unsafe { asm!("lidt [{}]", "ud2", in(reg) empty.as_ptr()) };
}

fn s6_triple_fault_ends_the_vm() -> Outcome {
    about_to("triple-fault");
    triple_fault();
    fail!("survived a triple fault")
}

fn s6_triple_fault_of_another_cpu_ends_the_vm() -> Outcome {
    smp::others()?;
    about_to("triple-fault on cpu 1");
    smp::on_cpu(1, || {
        triple_fault();
        Ok(())
    })
}

fn s8_code_fetched_from_a_hole_ends_the_vm() -> Outcome {
    about_to("run code from a hole");
    // SAFETY: the end of this VM.
    unsafe { asm!("call {}", in(reg) 0xFEA0_0000u64, clobber_abi("sysv64")) };
    fail!("came back from a hole")
}

/// The hypervisor's own bug, simulated by a debug hook: its report ends the machine.
fn s8_a_bug_of_the_hypervisor_is_reported() -> Outcome {
    about_to("make the hypervisor panic");
    hypercall::panic();
    fail!("survived a panic")
}

/// Nothing can ever wake this VM: the hypervisor may notice or not, but its console stays alive.
fn s8_all_cpus_asleep_for_ever() -> Outcome {
    about_to("sleep for ever");
    loop {
        cpu::cli();
        cpu::hlt();
    }
}

/// The VM starts again, and again: the host counts `vm-start` lines and ends the emulator.
fn s8_reset_by_port_cf9() -> Outcome {
    about_to("reset");
    cpu::out8(0xCF9, 0x06);
    time::delay(time::LONG);
    fail!("survived a reset")
}

/// Seven CPUIDs and a hundred timer interrupts between opening and closing the window: the report must list just that,
/// and the port write that closes it if that is counted.
fn m1_measured_window() -> Outcome {
    const VECTOR: u8 = 0x6F;
    lapic::alarm_timer(VECTOR);
    let before = irq::count(tables::current(), VECTOR);
    cpu::out8(0x0BE0, 1);
    for _ in 0..7 {
        cpu::cpuid(0, 0);
    }
    cpu::sti();
    let mut lost = false;
    for i in 1..=100 {
        lapic::alarm(500);
        lost |= !time::wait(time::LONG, || irq::count_here(VECTOR) - before >= i);
    }
    cpu::cli();
    cpu::out8(0x0BE0, 0);
    ensure!(!lost, "a timer interrupt was lost");
    detail(format_args!("cpuid=7 interrupts=100"));
    Ok(())
}
