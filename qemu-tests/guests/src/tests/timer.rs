//! The LAPIC timer in its three modes: it fires on time, every time, and without an exit (A1, C1).

use crate::runtime::cpu::{self, rdtsc};
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{hypercall, irq, lapic, time};

tests! { "up", Machine:
    a1_c1_deadline_timer_fires_100000_times_without_an_exit,
    a1_c1_one_shot_timer_fires_100000_times_without_an_exit,
    a1_c1_periodic_timer_fires_without_an_exit,
}

const VECTOR: u8 = 0x61;
const MANY: u64 = 100_000;

/// Arms with `arm`, `n` times, and waits for each interrupt.
fn fire(n: u64, arm: impl Fn()) -> Outcome {
    let start = irq::count_here(VECTOR);
    cpu::sti();
    for i in 1..=n {
        arm();
        let fired = time::wait(time::LONG, || irq::count_here(VECTOR) - start >= i);
        ensure!(fired, "interrupt {i} of {n} was lost");
    }
    cpu::cli();
    ensure_eq!(irq::count_here(VECTOR) - start, n, "interrupts taken");
    Ok(())
}

fn without_exit(n: u64, arm: impl Fn()) -> Outcome {
    let (exits, outcome) = hypercall::exits_of(|| fire(n, arm));
    outcome?;
    ensure_eq!(exits, 0, "exits over {n} timer interrupts");
    detail(format_args!("interrupts={n} exits={exits}"));
    Ok(())
}

fn a1_c1_deadline_timer_fires_100000_times_without_an_exit() -> Outcome {
    lapic::deadline_timer(VECTOR);
    without_exit(MANY, || lapic::arm(rdtsc() + 20))
}

fn a1_c1_one_shot_timer_fires_100000_times_without_an_exit() -> Outcome {
    lapic::count_timer(lapic::ONE_SHOT, VECTOR, 0);
    without_exit(MANY, || lapic::write(lapic::TIMER_INITIAL, 20))
}

fn a1_c1_periodic_timer_fires_without_an_exit() -> Outcome {
    const PERIOD: u32 = 1_000;
    const N: u64 = 2_000;
    let start = irq::count_here(VECTOR);
    let (exits, fired) = hypercall::exits_of(|| {
        lapic::count_timer(lapic::PERIODIC, VECTOR, PERIOD);
        cpu::sti();
        let fired = time::wait(10 * N * u64::from(PERIOD), || irq::count_here(VECTOR) - start >= N);
        cpu::cli();
        lapic::write(lapic::TIMER_INITIAL, 0);
        fired
    });
    ensure!(fired, "only {} of {N} periods fired", irq::count_here(VECTOR) - start);
    ensure_eq!(exits, 0, "exits over {N} periods");
    detail(format_args!("interrupts={N} exits={exits}"));
    Ok(())
}
