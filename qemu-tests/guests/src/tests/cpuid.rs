//! CPUID: what it offers works, what it hides is not there.

use crate::runtime::catch::{expect_fault, expect_fine, expect_gp};
use crate::runtime::cpu::{self, cpuid, rdmsr, rdtsc};
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{hypercall, irq, lapic, time};

tests! { "up", Machine:
    a3_cpuid_offers_what_the_tests_use,
    s8_cpuid_of_any_leaf_answers,
    s7_xsave_leaf_is_consistent,
}
tests! { "up", Deadline: c1_tsc_deadline_is_offered_if_it_works }
tests! { "up", Beeline:
    c5_the_tsc_frequency_is_told,
    s8_cpuid_hides_vmx_and_monitor,
    s8_cpuid_takes_one_exit,
    s8_hypervisor_leaves,
    s8_unknown_hypercalls_answer_enosys,
}

fn bit(register: u32, bit: u32) -> bool {
    register >> bit & 1 != 0
}

fn a3_cpuid_offers_what_the_tests_use() -> Outcome {
    let features = cpuid(1, 0);
    ensure!(bit(features.ecx, 21), "no x2APIC");
    ensure!(bit(features.edx, 9), "no APIC");
    for (name, at) in [("FPU", 0), ("TSC", 4), ("MSR", 5), ("PAE", 6), ("CX8", 8), ("PAT", 16)] {
        ensure!(bit(features.edx, at), "no {name}");
    }
    ensure!(bit(cpuid(0x8000_0001, 0).edx, 29), "no long mode");
    let widths = cpuid(0x8000_0008, 0).eax;
    ensure!((32..=52).contains(&(widths & 0xFF)), "physical address bits {}", widths & 0xFF);
    Ok(())
}

fn c1_tsc_deadline_is_offered_if_it_works() -> Outcome {
    const VECTOR: u8 = 0x6D;
    let before = irq::count_here(VECTOR);
    expect_fine("the deadline register", || {
        lapic::deadline_timer(VECTOR);
        lapic::arm(rdtsc() + time::ticks(100));
    })?;
    cpu::sti();
    let fired = time::wait(time::LONG, || irq::count_here(VECTOR) > before);
    cpu::cli();
    ensure!(fired, "offered, but the deadline did not fire");
    Ok(())
}

fn s8_cpuid_of_any_leaf_answers() -> Outcome {
    let mut answered = 0;
    for base in [0, 0x4000_0000, 0x8000_0000, 0xC000_0000, 0xFFFF_FFE0] {
        for leaf in 0..0x20 {
            for sub_leaf in [0, 1, 2, 3, 63, 64, 0xFFFF_FFFF] {
                let answer = cpuid(base + leaf, sub_leaf);
                answered += u32::from(answer.eax | answer.ebx | answer.ecx | answer.edx != 0);
            }
        }
    }
    detail(format_args!("answers={answered} of {}", 5 * 32 * 7));
    Ok(())
}

/// Leaf 0xD against what XSETBV takes. SDM 1, 13.2 and 13.3.
fn s7_xsave_leaf_is_consistent() -> Outcome {
    if !bit(cpuid(1, 0).ecx, 26) {
        return Ok(());
    }
    let old = cpu::cr4();
    ensure_eq!(bit(cpuid(1, 0).ecx, 27), old >> 18 & 1 != 0, "OSXSAVE before");
    cpu::set_cr4(old | 1 << 18);
    ensure!(bit(cpuid(1, 0).ecx, 27), "OSXSAVE does not follow CR4");
    let leaf = cpuid(0xD, 0);
    let offered = u64::from(leaf.edx) << 32 | u64::from(leaf.eax);
    ensure_eq!(offered & 3, 3, "x87 and SSE in XCR0");
    ensure_eq!(cpu::xgetbv(0) & 1, 1, "x87 bit of XCR0");
    let before = cpu::xgetbv(0);
    expect_fine("XSETBV of all that is offered", || cpu::xsetbv(0, offered))?;
    ensure_eq!(cpu::xgetbv(0), offered, "XCR0");
    let full = cpuid(0xD, 0);
    ensure_eq!(full.ebx, full.ecx, "sizes with everything on");
    let mut end = 576;
    for component in (2..63).filter(|&component| offered >> component & 1 != 0) {
        let area = cpuid(0xD, component);
        end = end.max(area.eax + area.ebx);
    }
    // Bochs 2.7's corei3_cnl by itself offers PKRU without a place, and a size that fits nothing.
    ensure!(end == full.ecx || !hypercall::present(), "components end at {end}, size {}", full.ecx);
    cpu::xsetbv(0, 1);
    ensure_eq!(cpuid(0xD, 0).ebx, 576, "size with x87 alone");
    cpu::xsetbv(0, before);
    cpu::set_cr4(old);
    expect_fault(irq::UD, "XGETBV without OSXSAVE", || {
        cpu::xgetbv(0);
    })?;
    detail(format_args!("xcr0={offered:#x} size={end}"));
    Ok(())
}

fn s8_cpuid_hides_vmx_and_monitor() -> Outcome {
    let features = cpuid(1, 0);
    ensure!(bit(features.ecx, 31), "no hypervisor bit");
    ensure!(!bit(features.ecx, 5), "VMX is offered");
    ensure!(!bit(features.ecx, 3), "MONITOR is offered");
    ensure!(!bit(cpuid(0x8000_0001, 0).ecx, 2), "SVM is offered");
    expect_gp("IA32_VMX_BASIC", || {
        rdmsr(0x480);
    })
}

fn s8_cpuid_takes_one_exit() -> Outcome {
    let (exits, ()) = hypercall::exits_of(|| {
        for _ in 0..100 {
            cpuid(0, 0);
        }
    });
    ensure_eq!(exits, 100, "exits for 100 CPUIDs");
    let cpuids = hypercall::exits(hypercall::ALL, hypercall::CPUID);
    cpuid(0, 0);
    ensure_eq!(hypercall::exits(hypercall::ALL, hypercall::CPUID) - cpuids, 1, "kind cpuid");
    ensure_eq!(hypercall::exits(0, hypercall::CPUID) - cpuids, 1, "kind cpuid of vCPU 0");
    Ok(())
}

fn s8_hypervisor_leaves() -> Outcome {
    let leaf = cpuid(0x4000_0000, 0);
    ensure!(leaf.eax >= 0x4000_0001, "highest hypervisor leaf {:#x}", leaf.eax);
    let features = cpuid(0x4000_0001, 0);
    detail(format_args!("features={:#x} hints={:#x}", features.eax, features.edx));
    Ok(())
}

/// An unknown number, a number that looks signed, and registers that must come back.
fn s8_unknown_hypercalls_answer_enosys() -> Outcome {
    for number in [0x4245_FFFF, 0x7777, u64::MAX, 1 << 63, 0x4245_0004] {
        let answer = hypercall::call(number, 1, 2, 3, 4);
        ensure_eq!(answer, hypercall::UNKNOWN, "answer to number {number:#x}");
    }
    // A vCPU or an exit kind that does not exist must not index out of range.
    for (cpu, kind) in [(63, 0), (64, 0), (1 << 32, 0), (0, 19), (0, 1 << 40), (u64::MAX - 1, 5)] {
        hypercall::exits(cpu, kind);
        hypercall::root_ticks(cpu);
    }
    ensure!(hypercall::present(), "gone");
    Ok(())
}

/// On Intel by leaf 0x15, on AMD by KVM's clock page.
fn c5_the_tsc_frequency_is_told() -> Outcome {
    ensure!(bit(cpuid(0x8000_0007, 0).edx, 8), "the TSC is not called invariant");
    let told = time::told_tsc_hz();
    ensure!(told.is_some(), "nobody tells the TSC's frequency");
    detail(format_args!("tsc_hz={}", told.unwrap_or(0)));
    if hypercall::is_amd() {
        return Ok(());
    }
    let ratio = cpuid(0x15, 0);
    // The LAPIC timer counts at the crystal's rate that ECX names; compare it with the TSC.
    lapic::write(lapic::LVT_TIMER, lapic::MASKED | 0x6D);
    lapic::write(lapic::TIMER_DIVIDE, 0b1011);
    let t0 = rdtsc();
    lapic::write(lapic::TIMER_INITIAL, 0xFFFF_FFFF);
    time::delay(1_000_000);
    let counted = 0xFFFF_FFFF - lapic::read(lapic::TIMER_CURRENT);
    let passed = rdtsc() - t0;
    lapic::stop_timer();
    let expected = passed * u64::from(ratio.eax) / u64::from(ratio.ebx);
    let off = counted.abs_diff(expected);
    ensure!(off <= expected / 100 + 20, "LAPIC timer counted {counted}, leaf 0x15 says {expected}");
    Ok(())
}
