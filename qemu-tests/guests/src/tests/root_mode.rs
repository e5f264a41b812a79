//! Interrupts that arrive while the hypervisor works for this CPU stay in IRR and are taken after the entry (A4).
//! On a bare machine the same loops run without anybody in between.

use crate::runtime::cpu::{self, cpuid};
use crate::runtime::random::Random;
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{irq, lapic, time};

tests! { "up", Machine:
    a4_timer_during_exits_is_never_lost,
    a4_timer_during_exits_with_if_0_waits_in_irr,
    a4_several_vectors_during_exits_keep_their_order,
}

const VECTOR: u8 = 0x61;

/// Sweeps the timer's expiry over a chain of CPUID exits, 100 ns further each time.
fn a4_timer_during_exits_is_never_lost() -> Outcome {
    const OFFSETS: u64 = 3_000;
    lapic::alarm_timer(VECTOR);
    let before = irq::count_here(VECTOR);
    cpu::sti();
    for offset in 0..OFFSETS {
        lapic::alarm(offset);
        for _ in 0..12 {
            cpuid(1, 0);
        }
        let taken = time::wait(time::LONG, || irq::count_here(VECTOR) - before > offset);
        ensure!(taken, "lost at offset {offset}");
        ensure_eq!(irq::count_here(VECTOR) - before, offset + 1, "taken at offset {offset}");
    }
    cpu::cli();
    detail(format_args!("interrupts={OFFSETS}"));
    Ok(())
}

fn a4_timer_during_exits_with_if_0_waits_in_irr() -> Outcome {
    lapic::alarm_timer(VECTOR);
    for offset in (0..1_500).step_by(3) {
        let before = irq::count_here(VECTOR);
        lapic::alarm(offset);
        for _ in 0..12 {
            cpuid(1, 0);
        }
        let requested = time::wait(time::LONG, || lapic::requested(VECTOR));
        ensure!(requested, "not in IRR at offset {offset}");
        ensure_eq!(irq::count_here(VECTOR) - before, 0, "taken with IF=0 at offset {offset}");
        cpu::take_pending();
        ensure_eq!(irq::count_here(VECTOR) - before, 1, "taken at offset {offset}");
    }
    Ok(())
}

/// Several vectors become pending between exits with IF = 0: each is taken once, the highest first.
fn a4_several_vectors_during_exits_keep_their_order() -> Outcome {
    let mut random = Random::new(4);
    for round in 0..200 {
        let mut sent = [0u64; 256];
        let before = |vector: usize| irq::count_here(vector as u8);
        let mut counts = [0u64; 256];
        for (vector, count) in counts.iter_mut().enumerate() {
            *count = before(vector);
        }
        for _ in 0..20 {
            let vector = random.between(0x20, 0xEF) as u8;
            lapic::self_ipi(vector);
            sent[usize::from(vector)] = 1;
            cpuid(random.below(2) as u32, 0);
        }
        cpu::sti();
        cpuid(0, 0);
        time::delay(100);
        cpu::cli();
        ensure_eq!(lapic::highest(lapic::IRR), None, "still requested in round {round}");
        for vector in 0x20..0xF0usize {
            let taken = before(vector) - counts[vector];
            ensure_eq!(taken, sent[vector], "vector {vector:#x} taken in round {round}");
        }
    }
    Ok(())
}
