//! The machine's interval timer, passed through, and the IOAPIC pin it is wired to (A1, A3, D4): a real device's edges
//! reach this guest's IDT with its own vector and without an exit, on the CPU it names. 8254 and 82093AA data sheets.

use super::ioapic::{self, Route};
use super::kick::{self, TARGET};
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{boot, cpu, hypercall, irq, lapic, smp, time};

tests! { "pit", Machine:
    a1_a3_pit_interrupts_take_no_exit,
    a1_a3_pit_interrupts_reach_a_halted_cpu,
    a3_pit_vector_changes_at_run_time,
    a3_pit_pin_is_masked_at_run_time,
    a3_pit_destination_changes_at_run_time,
    d4_ioapic_pin_in_nmi_mode_runs_the_handler_once_per_tick,
    d4_ioapic_pin_in_nmi_mode_reaches_another_cpu,
}
tests! { "pit", Steady: d4_ioapic_pin_in_nmi_mode_follows_a_periodic_timer }
tests! { "pit", Beeline: c5_the_told_tsc_frequency_is_the_one_that_the_pit_measures }
tests! { "pit", Hooks: d4_ioapic_pin_in_nmi_mode_survives_a_storm }

/// ISA interrupt 0 is wired to pin 2 on every PC.
const PIN: u32 = 2;
const VECTOR: u8 = 0x57;
/// Clocks per second.
const CLOCK: u64 = 1_193_182;
/// Channel 0, both bytes of the count, mode 0 (one edge when it has run out) or 2 (one edge each time).
const ONE_SHOT: u8 = 0x30;
const PERIODIC: u8 = 0x34;
/// About 400 us.
const PERIOD: u16 = 500;

fn start(mode: u8, clocks: u16) {
    let [low, high] = clocks.to_le_bytes();
    cpu::out8(0x43, mode);
    cpu::out8(0x40, low);
    cpu::out8(0x40, high);
}

/// Ticks of the TSC.
fn ticks(clocks: u16) -> u64 {
    u64::from(clocks) * time::tsc_hz() / CLOCK
}

/// Units of our time.
fn units(clocks: u16) -> u64 {
    u64::from(clocks) * time::UNITS / CLOCK
}

fn route(vector: u8, destination: u8) {
    ioapic::route(PIN, Route { vector, destination, masked: false });
}

/// Runs `f`; afterwards the pin is masked, the timer stands still and nothing is pending.
fn with_pit(f: impl FnOnce() -> Outcome) -> Outcome {
    let outcome = f();
    cpu::cli();
    ioapic::mask(PIN);
    // A last tick, while its vector still has its hook: without one, 0x1F is an exception.
    cpu::take_pending();
    cpu::out8(0x43, ONE_SHOT);
    outcome
}

/// Waits with IF = 1 until CPU `index` has taken `more` interrupts of `vector`; IF is 0 afterwards.
fn wait_for(index: usize, vector: u8, more: u64) -> Outcome {
    let before = irq::count(index, vector);
    cpu::sti();
    // TCG's timer waits for the host.
    let patience = if boot::options().tcg { time::LONG } else { (more + 5) * 4 * units(PERIOD) };
    let came = time::wait(patience, || irq::count(index, vector) - before >= more);
    cpu::cli();
    let seen = irq::count(index, vector) - before;
    ensure!(came, "only {seen} of {more} interrupts {vector:#x} on cpu {index}");
    Ok(())
}

fn traps(index: usize) -> u64 {
    irq::count_range(index, 0..=255)
}

fn a1_a3_pit_interrupts_take_no_exit() -> Outcome {
    const N: u64 = 1_000;
    with_pit(|| {
        route(VECTOR, 0);
        start(PERIODIC, PERIOD);
        wait_for(0, VECTOR, 2)?;
        let (own, all) = (irq::count_here(VECTOR), traps(0));
        let begin = cpu::rdtsc();
        let (exits, came) = hypercall::exits_of(|| wait_for(0, VECTOR, N));
        let span = cpu::rdtsc() - begin;
        came?;
        let seen = irq::count_here(VECTOR) - own;
        ensure_eq!(exits, 0, "exits during {seen} interrupts");
        ensure_eq!(traps(0) - all, seen, "traps during the interrupts");
        // The rate is the one that was programmed: nothing was doubled, nothing lost.
        let expected = N * ticks(PERIOD);
        // TCG sends what a busy host made late in one burst.
        if !boot::options().tcg {
            ensure!(span > expected - expected / 20, "{span} ticks instead of {expected}");
            ensure!(span < expected + expected / 20, "{span} ticks instead of {expected}");
        }
        detail(format_args!("interrupts={seen} exits={exits} ticks_each={}", span / N));
        Ok(())
    })
}

fn a1_a3_pit_interrupts_reach_a_halted_cpu() -> Outcome {
    const N: u64 = 200;
    with_pit(|| {
        route(VECTOR, 0);
        start(PERIODIC, PERIOD);
        let before = irq::count_here(VECTOR);
        let (exits, ()) = hypercall::exits_of(|| {
            while irq::count_here(VECTOR) - before < N {
                cpu::sti_hlt();
                cpu::cli();
            }
        });
        ensure_eq!(exits, 0, "exits");
        detail(format_args!("interrupts={N}"));
        Ok(())
    })
}

fn a3_pit_vector_changes_at_run_time() -> Outcome {
    with_pit(|| {
        start(PERIODIC, PERIOD);
        let vectors = (0x20..=0xF0u8).step_by(8).chain([0x10, 0x1F]);
        let mut changes = 0;
        for vector in vectors {
            irq::hook(vector, |_| lapic::eoi());
            route(vector, 0);
            ensure_eq!(ioapic::entry(PIN) & 0xFF, u64::from(vector), "vector that was programmed");
            // What the old vector has left in IRR.
            cpu::take_pending();
            let (own, all) = (irq::count_here(vector), traps(0));
            wait_for(0, vector, 5)?;
            let seen = irq::count_here(vector) - own;
            ensure_eq!(traps(0) - all, seen, "traps while the pin had vector {vector:#x}");
            changes += 1;
        }
        // One that the test leaves behind.
        ensure!(time::wait(time::LONG, || lapic::requested(0x1F)), "the timer stands still");
        detail(format_args!("changes={changes}"));
        Ok(())
    })
}

fn a3_pit_pin_is_masked_at_run_time() -> Outcome {
    with_pit(|| {
        route(VECTOR, 0);
        start(PERIODIC, PERIOD);
        for i in 0..20 {
            wait_for(0, VECTOR, 3)?;
            ioapic::set_mask(PIN, true);
            cpu::take_pending();
            let all = traps(0);
            cpu::sti();
            time::delay(5 * units(PERIOD));
            cpu::cli();
            ensure_eq!(traps(0) - all, 0, "traps while the pin was masked, time {i}");
            ioapic::set_mask(PIN, false);
        }
        wait_for(0, VECTOR, 3)
    })
}

fn a3_pit_destination_changes_at_run_time() -> Outcome {
    smp::others()?;
    with_pit(|| {
        route(VECTOR, 0);
        start(PERIODIC, PERIOD);
        for i in 1..=40usize {
            let (here, there) = (i % 2, (i + 1) % 2);
            route(VECTOR, here as u8);
            cpu::take_pending();
            // The other CPU idles with IF = 1; one that was on its way is in by now.
            time::delay(500);
            let before = traps(there);
            // One exit per question and none per interrupt: the target itself does not ask.
            let exits = |index: usize| match hypercall::present() {
                true => hypercall::exits(index as u64, hypercall::ALL),
                false => 0,
            };
            let target = exits(1);
            wait_for(here, VECTOR, 10)?;
            ensure_eq!(exits(1) - target, 0, "exits of cpu 1");
            ensure_eq!(traps(there) - before, 0, "traps of cpu {there}, which it left");
        }
        detail(format_args!("changes=40"));
        Ok(())
    })
}

fn c5_the_told_tsc_frequency_is_the_one_that_the_pit_measures() -> Outcome {
    let told = time::told_tsc_hz().unwrap_or(0);
    // A measurement that the host interrupts is too long, never too short.
    let measured = (0..5).map(|_| time::by_pit()).min().unwrap_or(0);
    ensure!(told.abs_diff(measured) < told / 50, "told {told} Hz, measured {measured} Hz");
    detail(format_args!("told={told} measured={measured}"));
    Ok(())
}

/// One edge at a time: each must run the NMI handler of CPU `index` once.
fn single_nmis(index: usize, count: u64) -> Outcome {
    ioapic::route_nmi(PIN, index as u8);
    let before = irq::nmis(index);
    for i in 1..=count {
        start(ONE_SHOT, 40 + (i % 61) as u16);
        let came = time::wait(time::LONG, || irq::nmis(index) - before >= i);
        ensure!(came, "the NMI of tick {i} was lost");
    }
    time::delay(10 * units(100));
    ensure_eq!(irq::nmis(index) - before, count, "NMIs taken");
    detail(format_args!("ticks={count} nmis={count}"));
    Ok(())
}

fn d4_ioapic_pin_in_nmi_mode_runs_the_handler_once_per_tick() -> Outcome {
    with_pit(|| single_nmis(0, 500))
}

fn d4_ioapic_pin_in_nmi_mode_reaches_another_cpu() -> Outcome {
    smp::others()?;
    let here = irq::nmis(0);
    with_pit(|| single_nmis(1, 500))?;
    ensure_eq!(irq::nmis(0) - here, 0, "NMIs of the CPU that is not named");
    Ok(())
}

fn d4_ioapic_pin_in_nmi_mode_follows_a_periodic_timer() -> Outcome {
    const N: u64 = 200;
    // Far enough apart that no two can merge.
    const CLOCKS: u16 = 2_400;
    with_pit(|| {
        ioapic::route_nmi(PIN, 0);
        start(PERIODIC, CLOCKS);
        let first = irq::nmis(0);
        ensure!(time::wait(time::LONG, || irq::nmis(0) > first), "the first NMI was lost");
        let before = irq::nmis(0);
        // Half a period more, so that the last one is not on the edge.
        time::delay(N * units(CLOCKS) + units(CLOCKS) / 2);
        ensure_eq!(irq::nmis(0) - before, N, "NMIs in {N} periods");
        detail(format_args!("ticks={N}"));
        Ok(())
    })
}

fn d4_ioapic_pin_in_nmi_mode_survives_a_storm() -> Outcome {
    smp::others()?;
    with_pit(|| {
        hypercall::storm_reset();
        let accepted = hypercall::kick_storm(3_000, boot::options().seed, TARGET, kick::ANY_MOMENT);
        ensure!(accepted, "the storm was refused");
        ioapic::route_nmi(PIN, TARGET as u8);
        let before = irq::nmis(TARGET);
        let mut sent = 0;
        // One tick at a time: the next is started when the target has counted the one before.
        let seen = kick::watch(&kick::QUIET, kick::patience(), || {
            let counted = time::wait(time::LONG, || irq::nmis(TARGET) - before >= sent);
            ensure!(counted, "the NMI of tick {sent} was lost");
            if hypercall::storm(kick::RUNNING) == 0 {
                return Ok(true);
            }
            start(ONE_SHOT, 40 + (sent % 61) as u16);
            sent += 1;
            Ok(false)
        })?;
        kick::all_acknowledged()?;
        ensure!(sent > 100, "only {sent} ticks fitted into the storm");
        ensure_eq!(seen.taken, sent, "NMIs taken");
        detail(format_args!("ticks={sent}"));
        Ok(())
    })
}
