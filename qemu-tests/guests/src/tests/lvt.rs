//! The local vector table and the spurious-vector register under a guest's writes (H3, S2, D9).

use crate::runtime::catch::{catch, expect_gp};
use crate::runtime::irq;
use crate::runtime::lapic::{self, *};
use crate::runtime::random::Random;
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{boot, cpu, hypercall, time};

tests! { "up", Machine:
    h3_dangerous_delivery_modes_read_back_and_do_nothing,
    h3_timer_entry_is_the_guests,
    s2_random_lvt_writes_raise_nothing,
    d9_soft_disable_masks_and_comes_back,
}
tests! { "up", Strict: h3_lvt_reserved_bits_fault }
tests! { "up", IllegalVectors: s2_timer_with_vectors_0_to_15_raises_nothing }
// Bochs 2.7 by itself ignores the reserved bits of the low half.
tests! { "up", Beeline: h3_lvt_reserved_low_bits_fault }

const VECTOR: u8 = 0x64;
const PINS: [u32; 4] = [LVT_THERMAL, LVT_PMI, LVT_LINT0, LVT_LINT1];

fn nothing_arrives(what: &str, f: impl FnOnce() -> Outcome) -> Outcome {
    let before = irq::count_range(0, 0..=255);
    f()?;
    cpu::sti();
    time::delay(300);
    cpu::cli();
    ensure_eq!(irq::count_range(0, 0..=255) - before, 0, "traps after {what}");
    Ok(())
}

fn h3_dangerous_delivery_modes_read_back_and_do_nothing() -> Outcome {
    for lvt in PINS {
        for mode in [0, 2, 4, 5, 7] {
            for mask in [0, MASKED] {
                let value = mask | mode << 8 | u64::from(VECTOR);
                nothing_arrives("an LVT write", || {
                    lapic::write(lvt, value);
                    ensure_eq!(lapic::read(lvt), value, "LVT {lvt:#x} reads back");
                    Ok(())
                })?;
            }
        }
        lapic::write(lvt, MASKED);
    }
    // The error entry has no delivery mode; CMCI may be absent.
    lapic::write(LVT_ERROR, u64::from(VECTOR));
    ensure_eq!(lapic::read(LVT_ERROR), u64::from(VECTOR), "error LVT reads back");
    let _ = catch(|| lapic::write(LVT_CMCI, 0x200 | u64::from(VECTOR)));
    let _ = catch(|| lapic::write(LVT_CMCI, MASKED));
    Ok(())
}

fn h3_lvt_reserved_bits_fault() -> Outcome {
    for lvt in [LVT_TIMER, LVT_LINT0, LVT_LINT1, LVT_PMI, LVT_THERMAL, LVT_ERROR] {
        // The timer's passes to a machine that takes anything.
        if lvt == LVT_TIMER && boot::options().tcg {
            continue;
        }
        for bit in [32, 63] {
            expect_gp("reserved LVT bit", || lapic::write(lvt, MASKED | 1 << bit))?;
        }
    }
    for bit in [13, 20, 31, 32, 63] {
        expect_gp("reserved SVR bit", || lapic::write(SVR, 0x1FF | 1 << bit))?;
    }
    Ok(())
}

fn h3_lvt_reserved_low_bits_fault() -> Outcome {
    for lvt in [LVT_LINT0, LVT_LINT1, LVT_PMI, LVT_THERMAL, LVT_ERROR] {
        for bit in [11, 17, 20, 31] {
            expect_gp("reserved LVT bit", || lapic::write(lvt, MASKED | 1 << bit))?;
        }
    }
    Ok(())
}

fn h3_timer_entry_is_the_guests() -> Outcome {
    for mode in [ONE_SHOT, PERIODIC, DEADLINE] {
        if mode == DEADLINE && !lapic::has_deadline() {
            continue;
        }
        for mask in [0, MASKED] {
            let value = mode | mask | u64::from(VECTOR);
            lapic::write(LVT_TIMER, value);
            ensure_eq!(lapic::read(LVT_TIMER), value, "timer LVT reads back");
        }
    }
    // A masked timer runs and raises nothing.
    nothing_arrives("a masked one-shot", || {
        lapic::count_timer(ONE_SHOT | MASKED, VECTOR, 50);
        Ok(())
    })?;
    nothing_arrives("a masked alarm", || {
        lapic::alarm_timer(VECTOR);
        lapic::write(LVT_TIMER, lapic::read(LVT_TIMER) | MASKED);
        lapic::alarm_now();
        Ok(())
    })
}

fn s2_timer_with_vectors_0_to_15_raises_nothing() -> Outcome {
    for vector in 0..16 {
        nothing_arrives("a timer with a vector below 16", || {
            lapic::alarm_timer(vector);
            lapic::alarm_now();
            Ok(())
        })?;
    }
    Ok(())
}

fn s2_random_lvt_writes_raise_nothing() -> Outcome {
    let mut random = Random::new(3);
    let mut refused = 0;
    let before = irq::count_range(0, 0..=255);
    for _ in 0..2_000 {
        let lvt = PINS[random.below(4) as usize];
        let value = random.next() & [0x1_FFFF, 0x1_07FF, u64::MAX][random.below(3) as usize];
        refused += u64::from(catch(|| lapic::write(lvt, value)).is_err());
        cpu::take_pending();
    }
    for lvt in PINS {
        lapic::write(lvt, MASKED);
    }
    // The refusals are the only traps.
    ensure_eq!(irq::count_range(0, 0..=255) - before, refused, "traps");
    detail(format_args!("refused={refused}"));
    Ok(())
}

fn d9_soft_disable_masks_and_comes_back() -> Outcome {
    let tcg = boot::options().tcg;
    lapic::write(LVT_TIMER, ONE_SHOT | u64::from(VECTOR));
    lapic::write(SVR, 0xFF);
    ensure_eq!(lapic::read(SVR), 0xFF, "SVR software-disabled");
    // TCG leaves the entries as they are; the timer's passes, the others are Beeline's to mask.
    let by_beeline =
        [LVT_LINT0, LVT_LINT1, LVT_ERROR].into_iter().filter(|_| !tcg || hypercall::present());
    for lvt in by_beeline.chain([LVT_TIMER].into_iter().filter(|_| !tcg)) {
        ensure!(lapic::read(lvt) & MASKED != 0, "LVT {lvt:#x} is not masked");
    }
    // While disabled a mask bit cannot be cleared.
    lapic::write(LVT_TIMER, ONE_SHOT | u64::from(VECTOR));
    let masked = lapic::read(LVT_TIMER) & MASKED != 0;
    ensure!(masked || tcg, "the timer's mask was cleared while disabled");
    lapic::write(SVR, 0x1FF);
    let before = irq::count_here(VECTOR);
    let (exits, ()) = hypercall::exits_of(|| {
        lapic::self_ipi(VECTOR);
        cpu::take_pending();
    });
    ensure_eq!(irq::count_here(VECTOR) - before, 1, "self-IPI after the enable");
    ensure_eq!(exits, 0, "exits");
    Ok(())
}
