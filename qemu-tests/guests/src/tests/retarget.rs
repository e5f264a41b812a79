//! Re-programming an interrupt while another CPU fires it (B2): the part that is the same for every kind of interrupt.

use crate::runtime::text::{Outcome, ensure, ensure_eq, fail};
use crate::runtime::{arrivals, cpu, irq, lapic, smp, time};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};

/// The CPU that fires; it and CPU 0 are the destinations.
const FIRES: usize = 1;
const CPUS: usize = 2;
const VECTORS: [u8; 8] = [0x35, 0x4A, 0x5E, 0x63, 0x77, 0x8C, 0x91, 0xB8];

/// Where an interrupt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub cpu: usize,
    pub vector: u8,
}

/// The route after `changes` changes. One change gives another vector or another CPU, by turns.
pub fn route(changes: usize) -> Route {
    let vector = VECTORS[changes.div_ceil(2) % VECTORS.len()];
    Route { cpu: changes / 2 % CPUS, vector }
}

/// All routes there are.
fn routes() -> impl Iterator<Item = Route> {
    (0..CPUS).flat_map(|cpu| VECTORS.map(|vector| Route { cpu, vector }))
}

/// How often each route was taken.
fn counts() -> [[u64; VECTORS.len()]; CPUS] {
    core::array::from_fn(|cpu| VECTORS.map(|vector| irq::count(cpu, vector)))
}

/// How often all routes together were taken.
pub fn taken() -> u64 {
    sum(&counts())
}

fn sum(counts: &[[u64; VECTORS.len()]; CPUS]) -> u64 {
    counts.iter().flatten().sum()
}

/// How many changes of the route were made, as far as the CPU that fires can know.
pub struct Changes {
    begun: AtomicUsize,
    done: AtomicUsize,
}

impl Changes {
    /// Those that are done: what is fired from now on goes by a later route, or by this one.
    pub fn done(&self) -> usize {
        self.done.load(SeqCst)
    }

    /// Those that have begun: what has arrived went by an earlier route, or by this one.
    pub fn begun(&self) -> usize {
        self.begun.load(SeqCst)
    }
}

/// Lets CPU 1 fire one interrupt after the other, and calls `program` on this one `changes` times. `one(n, changes)` fires
/// number `n`, waits for it and judges it. No other interrupt may come meanwhile. Returns how many were fired.
pub fn race(
    changes: usize,
    one: impl Fn(u64, &Changes) -> Outcome + Sync,
    program: impl Fn(usize),
) -> Outcome<u64> {
    smp::others()?;
    let made = Changes { begun: AtomicUsize::new(0), done: AtomicUsize::new(0) };
    let (stop, fired) = (AtomicBool::new(false), AtomicU64::new(0));
    let firer = || {
        let before: u64 = arrivals::traps().iter().sum();
        cpu::sti();
        while !stop.load(SeqCst) {
            one(fired.load(SeqCst), &made)?;
            fired.fetch_add(1, SeqCst);
        }
        arrivals::settle();
        cpu::cli();
        let traps: u64 = arrivals::traps().iter().sum();
        // So none came twice, or by another way.
        ensure_eq!(traps - before, fired.load(SeqCst), "traps of all CPUs");
        Ok(())
    };
    program(0);
    let running = smp::spawn(FIRES, &firer)?;
    cpu::sti();
    for change in 1..=changes {
        // At least one goes by each route, and changes fall into any moment of a delivery.
        let enough = fired.load(SeqCst) + 2;
        let went_on = time::wait(time::LONG, || fired.load(SeqCst) >= enough || running.is_done());
        if !went_on || running.is_done() {
            break;
        }
        time::delay(change as u64 % 61);
        made.begun.store(change, SeqCst);
        program(change);
        made.done.store(change, SeqCst);
    }
    stop.store(true, SeqCst);
    let outcome = running.wait(3 * time::LONG);
    cpu::cli();
    if let Err(why) = outcome {
        // Where it may hang: an interrupt that waits, or one in service that keeps others waiting.
        let (waits, serves) = (lapic::highest(lapic::IRR), lapic::highest(lapic::ISR));
        fail!("{why}; cpu 0 has {waits:x?} requested, {serves:x?} in service");
    }
    ensure_eq!(made.done(), changes, "changes made");
    let fired = fired.load(SeqCst);
    ensure!(fired >= 2 * changes as u64, "only {fired} interrupts for {changes} changes");
    Ok(fired)
}

/// Fires without a pause on one CPU, each interrupt when the one before has arrived, and calls `program` on this one `changes`
/// times; `program(n)` makes the interrupt go to `route(n)`. No interrupt may be lost, come twice or go to a route that did not
/// stand at any time between its firing and its arrival. Returns how many were fired.
pub fn while_firing(
    changes: usize,
    fire: impl Fn() + Sync,
    program: impl Fn(usize),
) -> Outcome<u64> {
    let first = taken();
    let one = |n: u64, made: &Changes| {
        let (from, had) = (made.done(), counts());
        fire();
        let came = time::wait(time::LONG, || taken() > sum(&had));
        ensure!(
            came,
            "interrupt {n} was lost at change {from}; {} came by all routes",
            taken() - first
        );
        let (to, has) = (made.begun(), counts());
        ensure_eq!(sum(&has) - sum(&had), 1, "arrivals of one interrupt at change {from}");
        let taken = routes()
            .zip(has.iter().flatten().zip(had.iter().flatten()))
            .find_map(|(route, (now, before))| (now > before).then_some(route));
        let stood = (from..=to).any(|change| Some(route(change)) == taken);
        ensure!(stood, "{taken:?} is none of the routes of changes {from} to {to}");
        Ok(())
    };
    let fired = race(changes, one, program)?;
    ensure_eq!(taken() - first, fired, "arrivals by all routes");
    Ok(fired)
}
