//! The LAPIC timer in its three modes: it fires on time, every time, and without an exit (A1, C1).

use crate::runtime::cpu::{self, rdtsc};
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq, fail};
use crate::runtime::{hypercall, irq, lapic, smp, tables, time};

tests! { "up", Machine:
    a1_c1_one_shot_timer_fires_100000_times_without_an_exit,
    a1_c1_periodic_timer_fires_without_an_exit,
    c4_count_0_disarms,
}
tests! { "up", Deadline:
    a1_c1_deadline_timer_fires_100000_times_without_an_exit,
    c4_deadline_0_disarms,
    c4_mode_change_disarms,
}
tests! { "up", Beeline: a2_no_interrupt_is_an_exit }
tests! { "smp", Machine: a1_c1_timers_of_all_cpus_at_once_without_an_exit }

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
    const PERIOD: u64 = 1_000;
    const N: u64 = 2_000;
    let start = irq::count_here(VECTOR);
    let (exits, fired) = hypercall::exits_of(|| {
        lapic::count_timer(lapic::PERIODIC, VECTOR, PERIOD);
        cpu::sti();
        let fired = time::wait(10 * N * PERIOD, || irq::count_here(VECTOR) - start >= N);
        cpu::cli();
        lapic::write(lapic::TIMER_INITIAL, 0);
        fired
    });
    ensure!(fired, "only {} of {N} periods fired", irq::count_here(VECTOR) - start);
    ensure_eq!(exits, 0, "exits over {N} periods");
    detail(format_args!("interrupts={N} exits={exits}"));
    Ok(())
}

/// Every CPU runs its own timer, all at the same time; each counts its own exits.
fn a1_c1_timers_of_all_cpus_at_once_without_an_exit() -> Outcome {
    const N: u64 = 10_000;
    let one = || {
        lapic::alarm_timer(VECTOR);
        let (exits, outcome) = hypercall::exits_of(|| fire(N, || lapic::alarm(50)));
        outcome?;
        ensure_eq!(exits, 0, "exits of cpu {}", tables::current());
        Ok(())
    };
    let mut running = [const { None }; smp::MAX_CPUS];
    for index in smp::others()? {
        running[index] = Some(smp::spawn(index, &one)?);
    }
    one()?;
    for job in running.into_iter().flatten() {
        job.wait(10 * time::LONG)?;
    }
    detail(format_args!("interrupts={N} per cpu"));
    Ok(())
}

/// The other half of A1: interrupts come while exits of other kinds go on, and none is of kind external_interrupt.
fn a2_no_interrupt_is_an_exit() -> Outcome {
    let exits = || hypercall::exits(hypercall::ALL, hypercall::EXTERNAL_INTERRUPT);
    ensure_eq!(exits(), 0, "external-interrupt exits since the start");
    lapic::alarm_timer(VECTOR);
    fire(1_000, || {
        lapic::alarm(100);
        cpu::cpuid(0, 0);
    })?;
    ensure_eq!(exits(), 0, "external-interrupt exits");
    Ok(())
}

/// The timer is armed for `DUE` units from now at the earliest, then disarmed.
fn never_fires(what: &str, disarm: impl Fn()) -> Outcome {
    for _ in 0..100 {
        lapic::alarm_timer(VECTOR);
        let start = rdtsc();
        lapic::alarm(DUE);
        disarm();
        let in_time = rdtsc() - start < time::ticks(DUE);
        if !in_time {
            // An emulator whose host was busy meanwhile: it may have fired.
            lapic::stop_timer();
            cpu::take_pending();
            continue;
        }
        let before = irq::count_here(VECTOR);
        cpu::sti();
        time::delay(5 * DUE);
        cpu::cli();
        ensure_eq!(irq::count_here(VECTOR) - before, 0, "interrupts after {what}");
        return Ok(());
    }
    fail!("the timer could never be disarmed in time");
}

const DUE: u64 = 2_000;

fn c4_deadline_0_disarms() -> Outcome {
    never_fires("deadline 0", || {
        lapic::arm(0);
        assert!(cpu::rdmsr(cpu::IA32_TSC_DEADLINE) == 0);
    })
}

/// SDM 11.5.4: "a write of 0 to the initial-count register effectively stops the local APIC timer".
fn c4_count_0_disarms() -> Outcome {
    for mode in [lapic::ONE_SHOT, lapic::PERIODIC] {
        never_fires("count 0", || {
            lapic::count_timer(mode, VECTOR, DUE);
            lapic::write(lapic::TIMER_INITIAL, 0);
        })?;
        ensure_eq!(lapic::read(lapic::TIMER_CURRENT), 0, "current count");
    }
    Ok(())
}

/// SDM 11.5.4.1: a change between TSC-deadline mode and the others disarms the timer.
fn c4_mode_change_disarms() -> Outcome {
    never_fires("a change to one-shot mode and back", || {
        lapic::write(lapic::LVT_TIMER, lapic::ONE_SHOT | u64::from(VECTOR));
        lapic::write(lapic::LVT_TIMER, lapic::DEADLINE | u64::from(VECTOR));
    })
}
