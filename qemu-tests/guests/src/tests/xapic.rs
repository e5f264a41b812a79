//! A whole boot in xAPIC mode (kind `xapic`): a bare PC starts in it, a guest of Beeline gets there through "disabled" (A6).

use super::apic_base::{MODE, to_x2apic, works};
use crate::runtime::catch::expect_gp;
use crate::runtime::cpu::{self, IA32_APIC_BASE, rdmsr, rdtsc, wrmsr};
use crate::runtime::lapic::{self, *};
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{hypercall, irq, smp, time};

tests! { "xapic", Machine:
    a6_xapic_mode_works,
    a6_xapic_registers_cost_an_exit_each_and_delivery_none,
    a6_xapic_ipis_reach_every_cpu,
    a6_xapic_hlt_wakes_by_timer,
    // Last, since it ends xAPIC mode for good on Bochs 2.7: the names sort.
    a6_zz_request_survives_the_change_to_x2apic,
}

const VECTOR: u8 = 0x6C;

fn a6_xapic_mode_works() -> Outcome {
    ensure_eq!(rdmsr(IA32_APIC_BASE) & MODE, BASE_ENABLE, "mode");
    expect_gp("EXTD without EN", || wrmsr(IA32_APIC_BASE, 0xFEE0_0000 | BASE_X2APIC))?;
    works("xAPIC")?;
    for lvt in [LVT_LINT0, LVT_LINT1, LVT_PMI, LVT_THERMAL, LVT_ERROR] {
        lapic::write(lvt, MASKED | 0x77);
        ensure_eq!(lapic::read(lvt), MASKED | 0x77, "LVT {lvt:#x} reads back");
    }
    // Any value ends an interrupt here.
    lapic::page_write(EOI, 0x1234_5678);
    lapic::page_write(TPR, 0x55);
    ensure_eq!(lapic::page_read(TPR), 0x55, "TPR");
    ensure_eq!(cpu::cr8(), 5, "CR8 follows TPR");
    lapic::page_write(TPR, 0);
    Ok(())
}

fn a6_xapic_registers_cost_an_exit_each_and_delivery_none() -> Outcome {
    const N: u64 = 500;
    let before = irq::count_here(VECTOR);
    lapic::alarm_timer(VECTOR);
    let (exits, outcome) = hypercall::exits_of(|| {
        for i in 1..=N {
            lapic::alarm(50);
            cpu::sti();
            let taken = time::wait(time::LONG, || irq::count_here(VECTOR) - before >= i);
            cpu::cli();
            ensure!(taken, "timer interrupt {i} lost");
        }
        Ok(())
    });
    outcome?;
    ensure_eq!(irq::count_here(VECTOR) - before, N, "timer interrupts");
    if hypercall::present() {
        // The EOI is an access to the page; arming is another, or an MSR that passes.
        let each = if lapic::has_deadline() { 1 } else { 2 };
        ensure_eq!(exits, each * N, "exits for {N} timer interrupts");
    }
    detail(format_args!("interrupts={N} exits={exits}"));
    Ok(())
}

fn a6_xapic_ipis_reach_every_cpu() -> Outcome {
    let n = smp::count();
    let others = if n > 1 { smp::others()? } else { 1..1 };
    for index in others.clone() {
        for (what, low) in [("physical", 0), ("lowest priority", LOWEST)] {
            if low == LOWEST && !hypercall::present() {
                continue;
            }
            let before = irq::count(index, VECTOR);
            lapic::send(index as u32, ASSERT | low | u64::from(VECTOR));
            let taken = time::wait(time::LONG, || irq::count(index, VECTOR) > before);
            ensure!(taken, "{what} IPI to cpu {index} was lost");
        }
    }
    let sum = || others.clone().map(|index| irq::count(index, VECTOR)).sum::<u64>();
    let (here, there) = (irq::count_here(VECTOR), sum());
    for (low, to_self, to_others) in [(TO_OTHERS, 0, 1), (TO_ALL, 1, 1), (TO_SELF, 1, 0)] {
        let (here, there) = (irq::count_here(VECTOR), sum());
        lapic::send(0, ASSERT | low | u64::from(VECTOR));
        cpu::take_pending();
        time::wait(time::LONG, || sum() - there == to_others * (n as u64 - 1));
        time::delay(500);
        let seen = (irq::count_here(VECTOR) - here, sum() - there);
        ensure_eq!(seen, (to_self, to_others * (n as u64 - 1)), "shorthand {low:#x}: IPIs taken");
    }
    lapic::send(0xFF, ASSERT | u64::from(VECTOR));
    cpu::take_pending();
    time::wait(time::LONG, || sum() - there == 3 * (n as u64 - 1));
    time::delay(5_000);
    cpu::take_pending();
    ensure_eq!(irq::count_here(VECTOR) - here, 3, "IPIs here after the 8-bit broadcast");
    ensure_eq!(sum() - there, 3 * (n as u64 - 1), "IPIs there after the 8-bit broadcast");
    Ok(())
}

fn a6_xapic_hlt_wakes_by_timer() -> Outcome {
    lapic::alarm_timer(VECTOR);
    let before = irq::count_here(VECTOR);
    for i in 1..=100 {
        let due = rdtsc() + super::flags::earliest(700);
        lapic::alarm(700);
        while irq::count_here(VECTOR) - before < i {
            cpu::sti_hlt();
            cpu::cli();
        }
        ensure!(rdtsc() >= due, "woken early");
    }
    Ok(())
}

fn a6_zz_request_survives_the_change_to_x2apic() -> Outcome {
    let before = irq::count_here(VECTOR);
    lapic::self_ipi(VECTOR);
    ensure!(lapic::requested(VECTOR), "not requested in xAPIC mode");
    to_x2apic();
    ensure_eq!(rdmsr(IA32_APIC_BASE) & MODE, MODE, "mode");
    ensure!(lapic::requested(VECTOR), "the request was lost in the change to x2APIC mode");
    cpu::take_pending();
    ensure_eq!(irq::count_here(VECTOR) - before, 1, "taken");
    expect_gp("x2APIC to xAPIC", || {
        wrmsr(IA32_APIC_BASE, rdmsr(IA32_APIC_BASE) & !BASE_X2APIC);
    })?;
    works("x2APIC")
}
