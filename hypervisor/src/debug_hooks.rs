//! Debug hooks of the guest interface: kick storms and raw NMIs, driven by the housekeeping core
//! for a test guest that asks for them (docs/src/guest-interface.md). Only debug images act on
//! them, and only for a VM whose configuration says `debug_hooks = true`.
//!
//! A storm has one target core, and so have raw NMIs; both can run at once, to make them merge. The
//! figures are one static set. No locks: single words, written by the cores named at each field.

use crate::cores;
use crate::interrupt::kick::Requests;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use arch::cpu::rdtsc;
use arch::virt::{Backend, GuestRegs};

/// Phases a guest can name in R15.
const PHASES: usize = 8;
const PHASE_MAGIC: u64 = 0xBEE1_1E00;
/// Largest burst of merged kicks.
const BURST: u64 = 8;
/// The unit of time here: 100 ns, which is one tick where an emulator counts 10 million instructions
/// a second.
const UNITS_PER_SECOND: u64 = 10_000_000;
/// Largest random distance between kicks, in units; not a multiple of Bochs' SMP turn.
const DISTANCE: u64 = 3001;
/// How long a kick may take before the storm gives it up as lost, in units: 20 seconds.
const LOST: u64 = 20 * UNITS_PER_SECOND;
/// Written once, by the housekeeping core.
static TICKS_PER_UNIT: AtomicU64 = AtomicU64::new(1);

/// How a storm kicks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// At any moment.
    Random,
    /// Between the last request check and the entry.
    BeforeEntry,
    /// Merged bursts.
    Burst,
    /// While an exit is handled.
    InExit,
}

/// Where a target core waits for the storm's NMI. Written by the target, except `armed`.
struct Ambush {
    /// 1: arm the point before the entry, 2: the one in an exit. Written by the housekeeping core.
    armed: AtomicU32,
    /// The target stands there now.
    waiting: AtomicBool,
}

struct Storm {
    running: AtomicBool,
    target: AtomicU32,
    mode: AtomicU32,
    left: AtomicU64,
    random: AtomicU64,
    next: AtomicU64,
    sent_at: AtomicU64,
    /// Servings of requests by the target, and how many there were when the kick under way began.
    servings: AtomicU64,
    servings_before: AtomicU64,
    ambush: Ambush,
    posted: AtomicU64,
    acknowledged: AtomicU64,
    longest: AtomicU64,
    total: AtomicU64,
    measured: AtomicU64,
    sent: AtomicU64,
    /// Rounds of kicks, counted when all of a round are posted: a kick may find the NMI of another
    /// request under way and send none.
    rounds: AtomicU64,
    exits: AtomicU64,
    in_root: AtomicU64,
    before_entry: AtomicU64,
    mid_exit: AtomicU64,
    phases: [AtomicU64; PHASES],
}

/// NMIs outside the kick protocol. Written by the housekeeping core, started by a guest core.
struct Raw {
    target: AtomicU32,
    left: AtomicU64,
    distance: AtomicU64,
    next: AtomicU64,
    sent: AtomicU64,
}

static RAW: Raw = Raw {
    target: AtomicU32::new(0),
    left: AtomicU64::new(0),
    distance: AtomicU64::new(0),
    next: AtomicU64::new(0),
    sent: AtomicU64::new(0),
};

static STORM: Storm = Storm {
    running: AtomicBool::new(false),
    target: AtomicU32::new(u32::MAX),
    mode: AtomicU32::new(0),
    left: AtomicU64::new(0),
    random: AtomicU64::new(1),
    next: AtomicU64::new(0),
    sent_at: AtomicU64::new(0),
    servings: AtomicU64::new(0),
    servings_before: AtomicU64::new(0),
    ambush: Ambush { armed: AtomicU32::new(0), waiting: AtomicBool::new(false) },
    posted: AtomicU64::new(0),
    acknowledged: AtomicU64::new(0),
    longest: AtomicU64::new(0),
    total: AtomicU64::new(0),
    measured: AtomicU64::new(0),
    sent: AtomicU64::new(0),
    rounds: AtomicU64::new(0),
    exits: AtomicU64::new(0),
    in_root: AtomicU64::new(0),
    before_entry: AtomicU64::new(0),
    mid_exit: AtomicU64::new(0),
    phases: [const { AtomicU64::new(0) }; PHASES],
};

const R: Ordering = Ordering::Relaxed;

fn is_target(core: usize) -> bool {
    STORM.target.load(R) as usize == core && STORM.running.load(Ordering::Acquire)
}

/// A debug hypercall by its number; `None` for a bad argument.
pub fn hypercall(number: u64, regs: &GuestRegs, target: Option<usize>) -> Option<u64> {
    match number {
        0 => start(target?, mode(regs.rsi)?, regs.rbx, regs.rcx),
        1 => figure(regs.rbx),
        2 => start_raw(target?, regs.rbx, regs.rcx),
        3 => {
            reset();
            Some(0)
        }
        _ => None,
    }
}

fn mode(number: u64) -> Option<Mode> {
    Some(match number {
        0 => Mode::Random,
        1 => Mode::BeforeEntry,
        2 => Mode::Burst,
        3 => Mode::InExit,
        _ => return None,
    })
}

fn start_raw(target: usize, count: u64, distance: u64) -> Option<u64> {
    if RAW.left.load(Ordering::Acquire) != 0 {
        return None;
    }
    RAW.target.store(target as u32, R);
    RAW.distance.store(distance, R);
    RAW.next.store(rdtsc(), R);
    RAW.left.store(count, Ordering::Release);
    crate::housekeeping::wake();
    Some(0)
}

fn start(target: usize, mode: Mode, count: u64, seed: u64) -> Option<u64> {
    if STORM.running.load(Ordering::Acquire) {
        return None;
    }
    STORM.target.store(target as u32, R);
    STORM.mode.store(mode as u32, R);
    STORM.left.store(count, R);
    STORM.random.store(seed | 1, R);
    STORM.next.store(rdtsc(), R);
    STORM.sent_at.store(0, R);
    STORM.ambush.waiting.store(false, R);
    STORM.running.store(true, Ordering::Release);
    crate::housekeeping::wake();
    Some(0)
}

fn figures() -> [&'static AtomicU64; 10] {
    let s = &STORM;
    [
        &s.posted,
        &s.acknowledged,
        &s.longest,
        &s.total,
        &s.sent,
        &s.exits,
        &s.in_root,
        &s.before_entry,
        &s.mid_exit,
        &RAW.sent,
    ]
}

fn reset() {
    figures().iter().for_each(|figure| figure.store(0, R));
    STORM.measured.store(0, R);
    STORM.phases.iter().for_each(|phase| phase.store(0, R));
}

fn figure(number: u64) -> Option<u64> {
    let s = &STORM;
    Some(match number {
        0 => running().into(),
        1 => s.posted.load(R),
        2 => s.acknowledged.load(R),
        3 => s.longest.load(R),
        4 => s.total.load(R) / s.measured.load(R).max(1),
        5 => s.sent.load(R),
        6 => s.exits.load(R),
        7 => s.in_root.load(R),
        8 => s.before_entry.load(R),
        9 => cores::get(s.target.load(R) as usize)?.nmis.real.load(R),
        10 => RAW.sent.load(R),
        11 => s.mid_exit.load(R),
        16.. => s.phases.get(usize::try_from(number - 16).ok()?)?.load(R),
        _ => return None,
    })
}

fn random(below: u64) -> u64 {
    // xorshift64: seeded, so that a storm can be repeated.
    let mut x = STORM.random.load(R);
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    STORM.random.store(x, R);
    x % below
}

/// One step of what is under way, by the housekeeping core's loop. True while something is.
pub fn drive() -> bool {
    if !running() {
        return false;
    }
    drive_raw();
    if STORM.running.load(Ordering::Acquire) {
        drive_storm();
    }
    true
}

/// Learns the frequency of the clock.
pub fn set_clock(tsc_hz: u64) {
    TICKS_PER_UNIT.store((tsc_hz / UNITS_PER_SECOND).max(1), R);
}

fn ticks(units: u64) -> u64 {
    units.saturating_mul(TICKS_PER_UNIT.load(R))
}

fn drive_raw() {
    let now = rdtsc();
    if RAW.left.load(Ordering::Acquire) == 0 || now < RAW.next.load(R) {
        return;
    }
    if let Some(target) = cores::get(RAW.target.load(R) as usize) {
        // Outside the kick protocol, as a chipset would.
        arch::apic::send_nmi(target.apic_id());
    }
    RAW.sent.fetch_add(1, R);
    RAW.next.store(now + RAW.distance.load(R), R);
    RAW.left.fetch_sub(1, Ordering::Release);
}

fn drive_storm() {
    let Some(target) = cores::get(STORM.target.load(R) as usize) else { return finish() };
    let now = rdtsc();
    let waiting_since = STORM.sent_at.load(R);
    if waiting_since != 0 {
        // The requests under way must be served before the next ones: else it could not be told
        // which was lost. An empty request word and a serving since then show it.
        let served = STORM.servings.load(Ordering::Acquire) != STORM.servings_before.load(R);
        if served && !target.kick.pending() {
            STORM.acknowledged.store(STORM.posted.load(R), R);
            STORM.sent_at.store(0, R);
            STORM.next.store(now + ticks(random(DISTANCE)), R);
        } else if now.wrapping_sub(waiting_since) > ticks(LOST) {
            log::error!("kick storm: a kick is not acknowledged");
            finish();
        }
    } else if STORM.left.load(R) == 0 {
        finish();
    } else if now >= STORM.next.load(R) {
        kick(target);
    }
}

/// True while a storm or raw NMIs are under way.
pub fn running() -> bool {
    cfg!(debug_assertions)
        && (STORM.running.load(Ordering::Acquire) || RAW.left.load(Ordering::Acquire) != 0)
}

fn finish() {
    STORM.ambush.armed.store(0, Ordering::Release);
    STORM.running.store(false, Ordering::Release);
}

fn kick(target: &cores::CoreShared) {
    let mode = STORM.mode.load(R);
    let ambush = match mode {
        m if m == Mode::BeforeEntry as u32 => 1,
        m if m == Mode::InExit as u32 => 2,
        _ => 0,
    };
    if ambush != 0 {
        STORM.ambush.armed.store(ambush, Ordering::Release);
        if !STORM.ambush.waiting.load(Ordering::Acquire) {
            // The target comes by with its next exit.
            return;
        }
    }
    let wanted = if mode == Mode::Burst as u32 { 1 + random(BURST) } else { 1 };
    let burst = wanted.min(STORM.left.load(R));
    STORM.servings_before.store(STORM.servings.load(Ordering::Acquire), R);
    STORM.left.fetch_sub(burst, R);
    for _ in 0..burst {
        STORM.posted.fetch_add(1, R);
        STORM.sent_at.store(rdtsc(), Ordering::Release);
        target.kick.post(Requests::PING, || {
            STORM.sent.fetch_add(1, R);
            arch::apic::send_nmi(target.apic_id());
        });
    }
    // Afterwards: a target that waits for it finds the NMI under way.
    STORM.rounds.fetch_add(1, Ordering::Release);
}

/// The target serves a storm's request (target core). The guest's R15 names the phase that it was
/// in when the kick came.
pub fn acknowledge(core: usize, r15: u64) {
    if !cfg!(debug_assertions) || !is_target(core) {
        return;
    }
    let took = rdtsc().wrapping_sub(STORM.sent_at.load(Ordering::Acquire));
    STORM.longest.fetch_max(took, R);
    STORM.total.fetch_add(took, R);
    STORM.measured.fetch_add(1, R);
    if r15 & !0xFF == PHASE_MAGIC
        && let Some(phase) = STORM.phases.get((r15 & 0xFF) as usize)
    {
        phase.fetch_add(1, R);
    }
    STORM.servings.fetch_add(1, Ordering::Release);
}

/// The target took an NMI as an exit.
pub fn nmi_exit(core: usize) {
    if is_target(core) {
        STORM.exits.fetch_add(1, R);
    }
}

/// The target's host NMI handler ran.
pub fn nmi_in_root(core: usize) {
    if is_target(core) {
        STORM.in_root.fetch_add(1, R);
    }
}

/// Between the last look at the requests and the entry: the place where a lost kick would be
/// lost (requirement D2). An armed storm sends its NMI while the target stands here.
pub fn before_entry<B: Backend>(core: usize) {
    if ambush::<B>(core, 1) {
        STORM.before_entry.fetch_add(1, R);
    }
}

/// In the middle of an exit.
pub fn in_exit<B: Backend>(core: usize) {
    if ambush::<B>(core, 2) {
        STORM.mid_exit.fetch_add(1, R);
    }
}

/// Waits here until the storm's NMI has been taken, or, where NMIs wait in root mode, is under way; true
/// if it was.
fn ambush<B: Backend>(core: usize, place: u32) -> bool {
    if !is_target(core) || STORM.ambush.armed.load(Ordering::Acquire) != place {
        return false;
    }
    let sign = if B::HOLDS_NMIS { &STORM.rounds } else { &STORM.in_root };
    let before = sign.load(R);
    let since = rdtsc();
    STORM.ambush.waiting.store(true, Ordering::Release);
    while sign.load(Ordering::Acquire) == before {
        if !STORM.running.load(Ordering::Acquire) || rdtsc().wrapping_sub(since) > ticks(LOST) {
            STORM.ambush.waiting.store(false, Ordering::Release);
            return false;
        }
        arch::cpu::pause();
    }
    STORM.ambush.armed.store(0, Ordering::Release);
    STORM.ambush.waiting.store(false, Ordering::Release);
    true
}
