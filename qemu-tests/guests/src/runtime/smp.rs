//! The other CPUs: starting them by INIT-SIPI-SIPI and running jobs on them.
//!
//! A started CPU halts with IF = 1 until `WAKE` arrives, looks at its slot and runs the job with IF = 0. Slots are handed
//! over by their state word; there is no lock. A CPU that does not come back is restarted by INIT, so that it cannot
//! touch what the job borrowed.

#![expect(unsafe_code, reason = "hands borrowed closures to other CPUs")]

use super::start::TRAMPOLINE;
use super::text::{Outcome, Text, fail};
use super::{boot, catch, cpu, irq, lapic, tables, time};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// CPUs that the tables have room for.
pub const MAX_CPUS: usize = 8;
const STACK: usize = 32 * 1024;

/// Top of the starting CPU's stack, read by the start-up code.
pub static AP_STACK: AtomicU64 = AtomicU64::new(0);
/// Index of the starting CPU, read by the start-up code.
pub static AP_INDEX: AtomicU64 = AtomicU64::new(0);

#[repr(C, align(16))]
struct Stacks(UnsafeCell<[[u8; STACK]; MAX_CPUS]>);
// SAFETY: each stack is used by its own CPU only.
unsafe impl Sync for Stacks {}
static STACKS: Stacks = Stacks(UnsafeCell::new([[0; STACK]; MAX_CPUS]));

/// What a CPU found in its LAPIC when it started.
#[derive(Clone, Copy)]
pub struct LapicState {
    pub svr: u64,
    pub tpr: u64,
    pub lvts: [u64; 6],
    pub timer_initial: u64,
    pub in_service: Option<u8>,
    pub requested: Option<u8>,
}

impl LapicState {
    const NONE: Self =
        Self { svr: 0, tpr: 0, lvts: [0; 6], timer_initial: 0, in_service: None, requested: None };

    fn read() -> Self {
        use lapic::*;
        let lvts = [LVT_TIMER, LVT_THERMAL, LVT_PMI, LVT_LINT0, LVT_LINT1, LVT_ERROR];
        Self {
            svr: lapic::read(SVR),
            tpr: lapic::read(TPR),
            lvts: lvts.map(lapic::read),
            timer_initial: lapic::read(TIMER_INITIAL),
            in_service: lapic::highest(ISR),
            requested: lapic::highest(IRR),
        }
    }
}

type Job<'a> = &'a (dyn Fn() -> Outcome + Sync);

const IDLE: u32 = 0;
const POSTED: u32 = 1;
const RUNNING: u32 = 2;
const DONE: u32 = 3;

struct Slot {
    online: AtomicBool,
    state: AtomicU32,
    job: UnsafeCell<Option<Job<'static>>>,
    outcome: UnsafeCell<Outcome>,
    starts: AtomicU64,
    at_start: UnsafeCell<LapicState>,
}
// SAFETY: `job` and `outcome` belong to the side that `state` names.
unsafe impl Sync for Slot {}

static SLOTS: [Slot; MAX_CPUS] = [const {
    Slot {
        online: AtomicBool::new(false),
        state: AtomicU32::new(IDLE),
        job: UnsafeCell::new(None),
        outcome: UnsafeCell::new(Ok(())),
        starts: AtomicU64::new(0),
        at_start: UnsafeCell::new(LapicState::NONE),
    }
}; MAX_CPUS];

/// CPUs that the command line names.
pub fn count() -> usize {
    boot::options().cpus
}

/// CPUs other than the boot CPU; a test that needs one fails without.
pub fn others() -> Outcome<core::ops::Range<usize>> {
    if count() < 2 {
        fail!("needs cpus=2 or more on the command line");
    }
    Ok(1..count())
}

/// Starts every CPU that the command line names; returns the first that did not come up.
pub fn start_all() -> Outcome {
    unsafe extern "C" {
        static ap_start: u8;
        static ap_end: u8;
    }
    let start = &raw const ap_start;
    let length = (&raw const ap_end) as usize - start as usize;
    // SAFETY: the page at TRAMPOLINE is free low memory, identity-mapped; the source lies in our text.
    unsafe { core::ptr::copy_nonoverlapping(start, TRAMPOLINE as *mut u8, length) };
    (1..count()).try_for_each(restart)
}

/// INIT-SIPI-SIPI to CPU `index`, whatever it was doing, and waits until it is idle.
pub fn restart(index: usize) -> Outcome {
    init(index);
    start(index)
}

/// SIPI to CPU `index`, which waits for it since an INIT, and waits until it is idle.
pub fn start(index: usize) -> Outcome {
    let slot = &SLOTS[index];
    slot.online.store(false, Ordering::SeqCst);
    slot.state.store(IDLE, Ordering::SeqCst);
    AP_INDEX.store(index as u64, Ordering::SeqCst);
    AP_STACK.store(STACKS.0.get() as u64 + (STACK * (index + 1)) as u64, Ordering::SeqCst);
    for patience in [time::LONG / 10, time::LONG] {
        startup(index);
        if time::wait(patience, || slot.online.load(Ordering::Acquire)) {
            return Ok(());
        }
    }
    fail!("cpu {index} did not start")
}

/// INIT to CPU `index`, which then waits for a SIPI.
pub fn init(index: usize) {
    lapic::send(index as u32, lapic::INIT | lapic::ASSERT);
    time::delay(20_000);
}

/// One SIPI to CPU `index`.
pub fn startup(index: usize) {
    lapic::send(index as u32, lapic::STARTUP | lapic::ASSERT | TRAMPOLINE >> 12);
}

/// How often CPU `index` has started.
pub fn starts(index: usize) -> u64 {
    SLOTS[index].starts.load(Ordering::SeqCst)
}

/// What CPU `index` found in its LAPIC at its last start.
pub fn lapic_at_start(index: usize) -> LapicState {
    // SAFETY: written before the CPU said `online`, and only by a restart, which its caller waits for.
    unsafe { *SLOTS[index].at_start.get() }
}

/// Rust entry of a started CPU.
pub extern "sysv64" fn other_cpu(index: u64) -> ! {
    let index = index as usize;
    tables::load(index);
    let slot = &SLOTS[index];
    lapic::note_mode();
    // SAFETY: nobody reads it before `online` is set.
    unsafe { *slot.at_start.get() = LapicState::read() };
    slot.starts.fetch_add(1, Ordering::SeqCst);
    lapic::init(boot::wants_xapic());
    slot.online.store(true, Ordering::Release);
    loop {
        cpu::cli();
        if slot.state.compare_exchange(POSTED, RUNNING, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            // SAFETY: in state RUNNING the slot is ours.
            let job = unsafe { (*slot.job.get()).take() };
            let outcome = match catch::catch(|| job.map_or(Ok(()), |job| job())) {
                Ok(outcome) => outcome,
                Err(caught) => Err(Text::format(format_args!("cpu {index}: {caught}"))),
            };
            cpu::cli();
            lapic::quiesce();
            // SAFETY: still ours until DONE is stored.
            unsafe { *slot.outcome.get() = outcome };
            slot.state.store(DONE, Ordering::Release);
        } else {
            cpu::sti_hlt();
        }
    }
}

/// A job under way on another CPU. Dropping it waits, and restarts a CPU that does not come back.
pub struct Running {
    index: usize,
    open: bool,
}

impl Running {
    /// Whether the job has ended.
    pub fn is_done(&self) -> bool {
        SLOTS[self.index].state.load(Ordering::Acquire) == DONE
    }

    /// Restarts the CPU, whatever its job is doing.
    pub fn abandon(mut self) -> Outcome {
        self.open = false;
        restart(self.index)
    }

    /// The job's outcome, or a failure when it takes longer than `ticks`.
    pub fn wait(mut self, ticks: u64) -> Outcome {
        if !time::wait(ticks, || self.is_done()) {
            fail!("cpu {} is lost: its job did not end in {ticks} ticks", self.index);
        }
        self.open = false;
        let slot = &SLOTS[self.index];
        // SAFETY: in state DONE the slot is ours.
        let outcome = unsafe { core::mem::replace(&mut *slot.outcome.get(), Ok(())) };
        slot.state.store(IDLE, Ordering::Release);
        outcome
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.open && !time::wait(time::LONG, || self.is_done()) {
            // The job's borrows end with us: stop the CPU by force.
            let _ = restart(self.index);
        }
        if self.open {
            SLOTS[self.index].state.store(IDLE, Ordering::Release);
        }
    }
}

/// Starts `job` on CPU `index`. The job must outlive the result: keep both in one function and wait.
pub fn spawn(index: usize, job: Job<'_>) -> Outcome<Running> {
    let slot = &SLOTS[index];
    if slot.state.load(Ordering::Acquire) != IDLE {
        fail!("cpu {index} is busy");
    }
    // SAFETY: in state IDLE the slot is ours. The lifetime ends with `Running`, which waits or stops the CPU.
    unsafe { *slot.job.get() = Some(core::mem::transmute::<Job<'_>, Job<'static>>(job)) };
    slot.state.store(POSTED, Ordering::Release);
    lapic::send(index as u32, lapic::ASSERT | u64::from(irq::WAKE));
    Ok(Running { index, open: true })
}

/// Runs `job` on CPU `index` and waits for it.
pub fn on_cpu(index: usize, job: impl Fn() -> Outcome + Sync) -> Outcome {
    spawn(index, &job)?.wait(10 * time::LONG)
}

/// After a failed test: restarts every CPU that is not idle.
pub fn recover() {
    for (index, slot) in SLOTS.iter().enumerate().take(count()).skip(1) {
        if slot.state.load(Ordering::Acquire) != IDLE {
            let _ = restart(index);
        }
    }
}
