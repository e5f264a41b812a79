//! Taking a LAPIC away from one vCPU of a shared core and giving it to another: everything a guest could notice goes
//! into a [`LapicState`] and comes back (requirements C2 to C4, D5, D6, D9). SDM volume 3, chapter 11.
//!
//! Nothing calls it yet: cores are not shared. The functions are generic over [`LapicOps`], so that the property
//! test (`tests.rs`) runs them on a model of a LAPIC. No locks, no allocation; IF is 0 but for the window.
//!
//! What the caller does around them:
//!
//! 1. Out: no source aims at the core any more, and what was under way has arrived; then [`save`]. What the LAPIC's own
//!    timer does meanwhile is taken care of.
//! 2. Away: [`LapicState::add_pending`] for interrupts, [`LapicState::tick`] for time.
//! 3. In: [`restore`], while no source aims at the core; what arrives meanwhile is kept apart. Then, in one critical
//!    section: `add_pending` for these, [`flush_pending`], and the sources aim at the core again. A source that aimed
//!    at it earlier could merge with a vector in service that is being rebuilt, and be lost, or meet a LAPIC that is
//!    enabled although its guest had it off.
//! 4. While [`Timer::shadow`] says so, the timer's registers are trapped.
//!
//! Not kept: ESR. No write can bring back its value; it is cleared, so that nobody reads another's errors.

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
mod timer;
mod vectors;

pub use timer::{Rates, Shadow, Timer};
pub use vectors::VectorSet;

use arch_defs::apic::{FIRST_LEGAL_VECTOR, Lvt, Svr};

/// Registers that a switch touches. The LVT entries without a name here are always masked in the hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// Task priority.
    Tpr,
    /// Spurious-interrupt vector and software enable.
    Svr,
    /// Error status.
    Esr,
    /// Error LVT.
    LvtError,
    /// Timer LVT.
    LvtTimer,
    /// Timer initial count.
    TimerInitial,
    /// Timer current count, read only.
    TimerCurrent,
    /// Timer divide configuration.
    TimerDivide,
    /// TSC deadline; used only where the timer LVT says so, and after a fence behind a write of that.
    TscDeadline,
}

/// This core's LAPIC in x2APIC mode, IF = 0.
pub trait LapicOps {
    /// Reads a register.
    fn read(&mut self, register: Register) -> u64;
    /// Writes a register.
    fn write(&mut self, register: Register, value: u64);
    /// ISR.
    fn in_service(&mut self) -> VectorSet;
    /// IRR.
    fn requested(&mut self) -> VectorSet;
    /// Sends a vector to this core.
    fn self_ipi(&mut self, vector: u8);
    /// Ends the vector in service with the highest priority.
    fn eoi(&mut self);
    /// Opens IF for a moment: the LAPIC delivers what priorities let through, nested, without an EOI. Returns what
    /// was delivered.
    fn open_window(&mut self) -> VectorSet;
    /// The TSC.
    fn now(&mut self) -> u64;
    /// The clocks of this core.
    fn rates(&self) -> Rates;
}

/// A LAPIC without a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LapicState {
    /// ISR.
    in_service: VectorSet,
    /// IRR, and what has arrived since.
    pending: VectorSet,
    tpr: u8,
    svr: Svr,
    lvt_error: Lvt,
    /// The timer. It is valid while the vCPU is away, and as far as its shadow goes while it runs.
    pub timer: Timer,
}

impl LapicState {
    /// After INIT: empty, software-disabled, everything masked.
    pub const RESET: Self = Self {
        in_service: VectorSet::EMPTY,
        pending: VectorSet::EMPTY,
        tpr: 0,
        svr: Svr::RESET,
        lvt_error: Lvt::RESET,
        timer: Timer::RESET,
    };

    /// An interrupt for a vCPU that is away. A LAPIC that is software-disabled takes none, as on hardware, and no
    /// LAPIC takes a vector below 16.
    pub fn add_pending(&mut self, vector: u8) {
        if self.svr.enabled() && vector >= FIRST_LEGAL_VECTOR {
            self.pending.insert(vector);
        }
    }

    /// True if an interrupt waits for a vCPU that is away, whatever its priority.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Lets time go by for a vCPU that is away, until TSC value `now`. True if its timer has become pending.
    pub fn tick(&mut self, now: u64, rates: Rates) -> bool {
        let expired = self.timer.advance(now, rates);
        if let Some(vector) = expired {
            self.pending.insert(vector);
        }
        expired.is_some()
    }
}

/// What a LAPIC still holds although it was emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotEmpty {
    /// ISR.
    pub in_service: VectorSet,
    /// IRR.
    pub requested: VectorSet,
}

/// A vector in service that the LAPIC did not accept anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAccepted(pub u8);

/// The spurious vector between two guests.
const SPURIOUS: u8 = 0xFF;
/// More windows than that are a source that was not closed.
const WINDOWS: usize = 512;

fn enable(ops: &mut impl LapicOps, spurious: u8) {
    let svr = Svr::new().with_enabled(true).with_vector(spurious);
    ops.write(Register::Svr, svr.into_bits().into());
}

/// Takes the LAPIC's state away. Afterwards it is enabled and empty, with TPR 0, and everything masked. `state` is
/// the one that [`restore`] gave to this LAPIC.
///
/// # Errors
/// What is left if it does not become empty. `state` is complete all the same.
pub fn save(ops: &mut impl LapicOps, state: &mut LapicState) -> Result<(), NotEmpty> {
    state.tpr = ops.read(Register::Tpr) as u8;
    state.svr = Svr::from_bits(ops.read(Register::Svr) as u32);
    // A disabled LAPIC keeps what it has and takes nothing new. It has to be enabled to be emptied; what it takes
    // from then on was for nobody.
    let held = (!state.svr.enabled()).then(|| ops.requested());
    let expired = state.timer.capture(ops);
    state.lvt_error = Lvt::from_bits(ops.read(Register::LvtError) as u32).with_pending(false);
    ops.write(Register::LvtTimer, Lvt::PARKED.into_bits().into());
    ops.write(Register::LvtError, Lvt::PARKED.into_bits().into());
    enable(ops, SPURIOUS);
    ops.write(Register::Tpr, 0);

    state.in_service = ops.in_service();
    retire_all(ops);
    let taken = drain(ops);
    state.pending = held.unwrap_or(taken);
    if let Some(vector) = expired {
        state.pending.insert(vector);
    }
    let left = NotEmpty { in_service: ops.in_service(), requested: ops.requested() };
    if left.in_service.is_empty() && left.requested.is_empty() { Ok(()) } else { Err(left) }
}

/// Takes everything out of IRR. A window that delivers nothing is the end: reading IRR takes eight steps, between
/// which something could arrive.
fn drain(ops: &mut impl LapicOps) -> VectorSet {
    let mut taken = VectorSet::EMPTY;
    for _ in 0..WINDOWS {
        let delivered = ops.open_window();
        if delivered.is_empty() {
            break;
        }
        taken.insert_all(delivered);
        retire_all(ops);
    }
    taken
}

/// Ends everything in service: at most one round per vector.
fn retire_all(ops: &mut impl LapicOps) {
    let in_service = ops.in_service();
    for vector in in_service.ascending().rev() {
        // Bochs 2.7 never retires a vector that equals the spurious vector.
        if vector == SPURIOUS {
            enable(ops, SPURIOUS - 1);
            ops.eoi();
            enable(ops, SPURIOUS);
        } else {
            ops.eoi();
        }
    }
}

/// Gives the state back to a LAPIC that [`save`] has left. Nothing is pending in `state` afterwards: what arrives
/// later goes in by [`LapicState::add_pending`] and [`flush_pending`].
///
/// # Errors
/// A vector in service that the LAPIC does not accept: it was not empty, or a source aims at it.
pub fn restore(ops: &mut impl LapicOps, state: &mut LapicState) -> Result<(), NotAccepted> {
    enable(ops, SPURIOUS);
    ops.write(Register::Tpr, 0);
    // Each vector is above those before it, so each is delivered on top of them, as it once was. By the manual ISR
    // has one vector of a class at most (a second one is not delivered before the first has ended); Bochs 2.7
    // compares whole vectors, and there a class may nest in ascending order, which this order also rebuilds. TPR
    // has to be 0 here: a guest may raise it above what it has in service.
    for vector in state.in_service.ascending() {
        ops.self_ipi(vector);
        if !ops.open_window().contains(vector) {
            return Err(NotAccepted(vector));
        }
    }
    let rates = ops.rates();
    state.tick(ops.now(), rates);
    // After ISR: a vector may be in both, and the window would take it.
    flush_pending(ops, state);
    ops.write(Register::LvtError, state.lvt_error.into_bits().into());
    state.timer.program(ops);
    // The first write makes the errors of before visible, the second one clears them.
    ops.write(Register::Esr, 0);
    ops.write(Register::Esr, 0);
    ops.write(Register::Tpr, state.tpr.into());
    // Last: a disabled LAPIC takes no self-IPI and keeps its LVT entries masked.
    ops.write(Register::Svr, state.svr.into_bits().into());
    Ok(())
}

/// Raises what is pending. The caller's critical section makes sure that nothing is added behind it.
pub fn flush_pending(ops: &mut impl LapicOps, state: &mut LapicState) {
    for vector in state.pending.ascending() {
        ops.self_ipi(vector);
    }
    state.pending = VectorSet::EMPTY;
}
