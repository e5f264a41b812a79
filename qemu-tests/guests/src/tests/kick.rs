//! Kicks: the housekeeping core can take a CPU away from this guest in any state, and the guest never sees it (D1-D4).
//!
//! CPU 1 walks through the phases while the storm runs; CPU 0 watches, and wakes it from the sleep with IF = 0 by an NMI
//! of the guest's own. The storm is seeded, so a failure repeats.

use super::phases::{self, *};
use crate::runtime::random::Random;
use crate::runtime::registry::{detail, figure, tests};
use crate::runtime::text::{Outcome, Text, ensure, ensure_eq};
use crate::runtime::{boot, cpu, hypercall, irq, lapic, smp, time};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

tests! { "kick", Machine: d1_phases_work_without_kicks }
tests! { "kick", Hooks:
    d1_d3_10000_kicks_over_all_phases,
    d1_kicks_inside_the_guests_nmi_handler,
    d2_kicks_between_the_last_check_and_the_entry,
    d2_kicks_inside_the_handling_of_an_exit,
    d3_bursts_of_merged_kicks,
    d4_guest_nmis_by_ipi_survive_a_storm,
    d4_raw_nmis_arrive_once_each,
}
// An NMI from outside merges with a kick that waits in SVM's one latch, or for its CPU's turn on the host.
tests! { "kick", [Hooks, Steady]: d4_raw_nmis_survive_a_storm }

/// The CPU that is kicked.
pub const TARGET: usize = 1;
/// Units that a whole storm may take: ten times what the longest one takes. Each CPU of TCG is a thread of the host,
/// and a kick of a thread that waits for its turn takes as long as the host lets it wait.
pub fn patience() -> u64 {
    if boot::options().tcg { 100 * time::LONG } else { 6 * time::LONG }
}
/// The storm's modes.
pub const ANY_MOMENT: u64 = 0;
const BEFORE_ENTRY: u64 = 1;
const BURSTS: u64 = 2;
const IN_EXIT: u64 = 3;

/// The storm's figures.
pub const RUNNING: u64 = 0;
pub const POSTED: u64 = 1;
const ACKNOWLEDGED: u64 = 2;
const LONGEST: u64 = 3;
const MEAN: u64 = 4;
pub const NMIS_SENT: u64 = 5;
pub const NMIS_AS_EXIT: u64 = 6;
pub const NMIS_IN_ROOT: u64 = 7;
const NMIS_MID_EXIT: u64 = 11;
const NMIS_BEFORE_ENTRY: u64 = 8;
const RAW_SENT: u64 = 10;
const IN_PHASE: u64 = 16;

static STOP: AtomicBool = AtomicBool::new(false);
static LAPS: AtomicU64 = AtomicU64::new(0);

/// Walks through `walk` in random order and lengths until told to stop.
fn walk_phases(walk: &[u64]) -> Outcome {
    let mut random = Random::new(11);
    while !STOP.load(Ordering::Relaxed) {
        let phase = walk[random.below(walk.len() as u64) as usize];
        phases::stay(phase, random.between(500, 3_000))?;
        LAPS.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// What CPU 0 saw while the walk went on.
pub struct Watch {
    /// NMIs that the target took.
    pub taken: u64,
    /// NMIs that CPU 0 sent it to end a sleep with IF = 0.
    pub woken: u64,
}

/// Starts the walk on the target, calls `round` about every 2,000 units until it says that all is over, stops the walk.
pub fn watch(
    walk: &[u64],
    patience: u64,
    mut round: impl FnMut() -> Outcome<bool>,
) -> Outcome<Watch> {
    smp::others()?;
    STOP.store(false, Ordering::SeqCst);
    phases::prepare();
    let taken = irq::nmis(TARGET);
    let (mut woken, mut last) = (0, (0, 0));
    let mut wake = || {
        let sleep = DEEP_SLEEP.load(Ordering::SeqCst);
        // One NMI per sleep; another one only if it came between the sleeper's last look and its HLT, so not before the
        // first has surely been taken.
        let again = if boot::options().tcg { time::UNITS } else { 20_000 };
        if sleep % 2 == 1 && (sleep != last.0 || cpu::rdtsc() - last.1 > time::ticks(again)) {
            time::delay(1_500);
            if DEEP_SLEEP.load(Ordering::SeqCst) == sleep {
                lapic::send(TARGET as u32, lapic::NMI | lapic::ASSERT);
                woken += 1;
                last = (sleep, cpu::rdtsc());
            }
        }
    };
    let job = || walk_phases(walk);
    let running = smp::spawn(TARGET, &job)?;
    let start = cpu::rdtsc();
    let outcome = loop {
        wake();
        match round() {
            Ok(false) => {}
            other => break other,
        }
        if running.is_done() {
            break Ok(true);
        }
        if cpu::rdtsc() - start > time::ticks(patience) {
            break Err(Text::format(format_args!(
                "the storm did not end in time: {} kicks posted, {} acknowledged",
                hypercall::storm(POSTED),
                hypercall::storm(ACKNOWLEDGED)
            )));
        }
        time::delay(2_000);
    };
    STOP.store(true, Ordering::SeqCst);
    // The last phase may be one more sleep.
    time::wait(time::LONG, || {
        wake();
        running.is_done()
    });
    running.wait(time::LONG)?;
    outcome?;
    time::delay(5_000);
    Ok(Watch { taken: irq::nmis(TARGET) - taken, woken })
}

const ALL_BUT_NMI: [u64; 7] =
    [HALTED, HALTED_IF_0, SPIN_IF_0, IN_HANDLER, SPIN_TPR, SPIN_OPEN, EXITS];
/// Phases in which the guest's own interrupts end every sleep.
pub const QUIET: [u64; 6] = [HALTED, SPIN_IF_0, IN_HANDLER, SPIN_TPR, SPIN_OPEN, EXITS];

fn d1_phases_work_without_kicks() -> Outcome {
    let start = LAPS.load(Ordering::SeqCst);
    let seen = watch(&ALL_BUT_NMI, patience(), || Ok(LAPS.load(Ordering::SeqCst) - start > 500))?;
    ensure_eq!(seen.taken, seen.woken, "NMIs taken");
    ensure!(seen.woken > 10, "only {} sleeps with IF=0", seen.woken);
    let start = LAPS.load(Ordering::SeqCst);
    watch(&[IN_NMI_HANDLER], patience(), || Ok(LAPS.load(Ordering::SeqCst) - start > 50))?;
    Ok(())
}

/// Runs a storm of `count` kicks in `mode` over `walk`; every request must be acknowledged.
fn storm(walk: &[u64], count: u64, mode: u64) -> Outcome<Watch> {
    hypercall::storm_reset();
    ensure!(
        hypercall::kick_storm(count, boot::options().seed, TARGET, mode),
        "the storm was refused"
    );
    let seen = watch(walk, patience(), || Ok(hypercall::storm(RUNNING) == 0))?;
    all_acknowledged()?;
    let posted = hypercall::storm(POSTED);
    ensure!(posted >= count, "only {posted} of {count} kicks were posted");
    Ok(seen)
}

/// Each kick that was posted must have been acknowledged.
pub fn all_acknowledged() -> Outcome {
    let settled =
        time::wait(time::LONG, || hypercall::storm(POSTED) == hypercall::storm(ACKNOWLEDGED));
    ensure!(
        settled,
        "{} kicks posted, {} acknowledged",
        hypercall::storm(POSTED),
        hypercall::storm(ACKNOWLEDGED)
    );
    Ok(())
}

/// Prints where the kicks hit and how long they took.
pub fn figures(name: &str) {
    let n = hypercall::storm(ACKNOWLEDGED);
    let print = |what: &str, value: u64, unit: &str| {
        let name = Text::format(format_args!("{name}_{what}"));
        figure(name.as_str(), 10 * value as i64, unit, n);
    };
    print("latency_longest", hypercall::storm(LONGEST), crate::bench::frame::unit());
    print("latency_mean", hypercall::storm(MEAN), crate::bench::frame::unit());
    print("nmis_sent", hypercall::storm(NMIS_SENT), "nmis");
    print("nmis_as_exit", hypercall::storm(NMIS_AS_EXIT), "nmis");
    print("nmis_in_root_mode", hypercall::storm(NMIS_IN_ROOT), "nmis");
    print("nmis_before_entry", hypercall::storm(NMIS_BEFORE_ENTRY), "nmis");
    let what = ["halted", "halted_if_0", "if_0", "in_handler", "tpr", "open", "exits", "in_nmi"];
    for (phase, what) in what.iter().enumerate() {
        let hits = hypercall::storm(IN_PHASE + phase as u64);
        if hits != 0 {
            print(what, hits, "kicks");
        }
    }
}

fn d1_d3_10000_kicks_over_all_phases() -> Outcome {
    const N: u64 = 10_000;
    // First without the sleep that only an NMI ends: the guest must not see a single NMI.
    let seen = storm(&QUIET, N, ANY_MOMENT)?;
    figures("kick");
    ensure_eq!(seen.taken, 0, "NMIs that the guest saw");
    for phase in QUIET {
        let hits = hypercall::storm(IN_PHASE + phase);
        ensure!(hits > 100, "only {hits} kicks hit phase {phase}");
    }
    let sent = hypercall::storm(NMIS_SENT);
    let arrived = hypercall::storm(NMIS_AS_EXIT) + hypercall::storm(NMIS_IN_ROOT);
    ensure_eq!(arrived, sent, "kick NMIs taken as exit or in root mode");
    // Then the sleep itself, ended by NMIs of the guest's own.
    let seen = storm(&[HALTED_IF_0, SPIN_OPEN], N / 10, ANY_MOMENT)?;
    figures("kick_asleep");
    ensure_eq!(seen.taken, seen.woken, "NMIs that the guest saw");
    let hits = hypercall::storm(IN_PHASE + HALTED_IF_0);
    ensure!(hits > 100, "only {hits} kicks hit HLT with IF=0");
    detail(format_args!("kicks={}", N + N / 10));
    Ok(())
}

fn d1_kicks_inside_the_guests_nmi_handler() -> Outcome {
    let seen = storm(&[IN_NMI_HANDLER, SPIN_OPEN], 1_000, ANY_MOMENT)?;
    figures("kick_in_nmi");
    let hits = hypercall::storm(IN_PHASE + IN_NMI_HANDLER);
    ensure!(hits > 100, "only {hits} kicks hit the guest's NMI handler");
    detail(format_args!("guest_nmis={}", seen.taken));
    Ok(())
}

fn d2_kicks_between_the_last_check_and_the_entry() -> Outcome {
    let seen = storm(&QUIET, time::shared(2_000), BEFORE_ENTRY)?;
    figures("kick_before_entry");
    ensure_eq!(seen.taken, 0, "NMIs that the guest saw");
    let hits = hypercall::storm(NMIS_BEFORE_ENTRY);
    ensure!(hits > 100, "only {hits} kicks landed between the last check and the entry");
    Ok(())
}

fn d2_kicks_inside_the_handling_of_an_exit() -> Outcome {
    let seen = storm(&QUIET, time::shared(2_000), IN_EXIT)?;
    figures("kick_in_exit");
    ensure_eq!(seen.taken, 0, "NMIs that the guest saw");
    let hits = hypercall::storm(NMIS_MID_EXIT);
    ensure!(hits > 100, "only {hits} kicks landed in the handling of an exit");
    Ok(())
}

fn d3_bursts_of_merged_kicks() -> Outcome {
    let seen = storm(&QUIET, time::shared(5_000), BURSTS)?;
    figures("kick_bursts");
    ensure_eq!(seen.taken, 0, "NMIs that the guest saw");
    let (posted, sent) = (hypercall::storm(POSTED), hypercall::storm(NMIS_SENT));
    ensure!(sent < posted, "{posted} kicks took {sent} NMIs: nothing was merged");
    Ok(())
}

fn d4_guest_nmis_by_ipi_survive_a_storm() -> Outcome {
    hypercall::storm_reset();
    ensure!(hypercall::kick_storm(3_000, 4, TARGET, ANY_MOMENT), "the storm was refused");
    let before = irq::nmis(TARGET);
    let mut sent = 0;
    // One NMI at a time: the next goes out when the target has counted the one before.
    let seen = watch(&QUIET, patience(), || {
        let counted = time::wait(time::LONG, || irq::nmis(TARGET) - before >= sent);
        ensure!(counted, "guest NMI {sent} was lost");
        if hypercall::storm(RUNNING) == 0 {
            return Ok(true);
        }
        lapic::send(TARGET as u32, lapic::NMI | lapic::ASSERT);
        sent += 1;
        Ok(false)
    })?;
    all_acknowledged()?;
    ensure!(sent > 100, "only {sent} guest NMIs fitted into the storm");
    ensure_eq!(seen.taken, sent, "guest NMIs taken");
    detail(format_args!("guest_nmis={sent}"));
    Ok(())
}

/// Raw NMIs one at a time, so that no two of them can merge.
fn raw_nmis(count: u64, storm: Option<u64>) -> Outcome {
    hypercall::storm_reset();
    if let Some(kicks) = storm {
        ensure!(hypercall::kick_storm(kicks, 5, TARGET, ANY_MOMENT), "the storm was refused");
    }
    let before = irq::nmis(TARGET);
    let mut sent = 0;
    let seen = watch(&QUIET, patience(), || {
        let counted = time::wait(time::LONG, || irq::nmis(TARGET) - before >= sent);
        ensure!(counted, "raw NMI {sent} was lost");
        if sent == count {
            return Ok(hypercall::storm(RUNNING) == 0);
        }
        // Refused while the one before is still being sent.
        let asked = time::wait(time::LONG, || hypercall::raw_nmi(1, 0, TARGET));
        ensure!(asked, "RAW_NMI was refused");
        sent += 1;
        Ok(false)
    })?;
    all_acknowledged()?;
    ensure_eq!(hypercall::storm(RAW_SENT), count, "raw NMIs sent");
    ensure_eq!(seen.taken, count, "raw NMIs that the guest saw");
    detail(format_args!("raw_nmis={count}"));
    Ok(())
}

fn d4_raw_nmis_arrive_once_each() -> Outcome {
    raw_nmis(500, None)
}

fn d4_raw_nmis_survive_a_storm() -> Outcome {
    raw_nmis(300, Some(3_000))
}
