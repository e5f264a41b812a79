//! The timer of a LAPIC that goes with its vCPU: taken out of the hardware as an absolute TSC value, kept while the
//! vCPU is away, put back (requirements C2 to C4). Called by [`super::save`] and [`super::restore`], and by the exit
//! handlers while the timer's registers are trapped ([`Shadow`]). No locks. SDM volume 3, section 11.5.4.

use super::{LapicOps, Register};
use arch_defs::apic::{FIRST_LEGAL_VECTOR, Lvt, Svr};

const ONE_SHOT: u8 = 0;
const PERIODIC: u8 = 1;
const DEADLINE: u8 = 2;

/// How long after its time, in TSC ticks, a timer may still be about to fire: the hardware compares by a slower clock.
/// A deadline that reads back longer than that has fired and is stale (Bochs 2.7 keeps it readable).
const GRACE: u64 = 10_000;

/// The clocks of a core, in Hz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// The TSC.
    pub tsc: u64,
    /// The input of the LAPIC timer, before the divider.
    pub timer: u64,
}

impl Rates {
    fn scale(value: u64, by: u64, of: u64) -> u64 {
        let scaled = (u128::from(value) * u128::from(by)).div_ceil(u128::from(of.max(1)));
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }

    /// TSC ticks in `ticks` of the timer's input, rounded up.
    pub fn to_tsc(self, ticks: u64) -> u64 {
        Self::scale(ticks, self.tsc, self.timer)
    }

    /// Ticks of the timer's input in `tsc` ticks, rounded up.
    fn to_timer(self, tsc: u64) -> u64 {
        Self::scale(tsc, self.timer, self.tsc)
    }
}

/// What the hardware's timer registers do not show as the guest left them. Unless it is `None` the caller traps MSRs
/// 832, 838, 839 and 83E and hands them to [`Timer::read`] and [`Timer::write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shadow {
    /// The hardware has it all.
    None,
    /// The initial count: the hardware counts what was left of it.
    Initial,
    /// The whole timer: periodic, and its first expiry is still to come. The caller exits at [`Timer::expiry`] (by the
    /// preemption timer, or an NMI) and calls [`Timer::periodic_due`].
    Whole,
}

/// The timer as the guest left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    lvt: Lvt,
    divide: u32,
    initial: u32,
    /// TSC value of the next expiry; `None` when not armed.
    expiry: Option<u64>,
    shadow: Shadow,
}

impl Timer {
    /// After INIT.
    pub const RESET: Self =
        Self { lvt: Lvt::RESET, divide: 0, initial: 0, expiry: None, shadow: Shadow::None };

    /// What has to be trapped while the vCPU runs.
    pub const fn shadow(&self) -> Shadow {
        self.shadow
    }

    /// While the vCPU is away, or in [`Shadow::Whole`]: the TSC value at which the timer has to be looked at.
    pub const fn expiry(&self) -> Option<u64> {
        self.expiry
    }

    /// The vector that an expiry raises, unless masked or illegal.
    fn vector(&self) -> Option<u8> {
        let vector = self.lvt.vector();
        (!self.lvt.mask() && vector >= FIRST_LEGAL_VECTOR).then_some(vector)
    }

    /// `counts` of the divided clock, in TSC ticks.
    fn counts_to_tsc(&self, counts: u64, rates: Rates) -> u64 {
        rates.to_tsc(counts.saturating_mul(divisor(self.divide)))
    }

    /// What is left until the expiry, as the count register would show it.
    fn count(&self, now: u64, rates: Rates) -> u32 {
        let Some(expiry) = self.expiry else { return 0 };
        let left = rates.to_timer(expiry.saturating_sub(now)).div_ceil(divisor(self.divide));
        // 0 would stop the timer: an expiry that is due comes with the next count.
        left.clamp(1, u64::from(self.initial.max(1))) as u32
    }

    /// Takes the timer out of the hardware and stops it. Returns the vector of an expiry that fell into the taking:
    /// it may be in IRR or not, and belongs into the pending set, which holds it once (requirement C3).
    ///
    /// The entry stays unmasked meanwhile: an expiry under the mask would leave no trace.
    pub(super) fn capture(&mut self, ops: &mut impl LapicOps) -> Option<u8> {
        if self.shadow == Shadow::Whole {
            return self.advance(ops.now(), ops.rates());
        }
        self.lvt = Lvt::from_bits(ops.read(Register::LvtTimer) as u32).with_pending(false);
        self.divide = ops.read(Register::TimerDivide) as u32;
        if self.lvt.timer_mode() == DEADLINE {
            self.initial = 0;
            self.capture_deadline(ops);
            None
        } else {
            if self.shadow == Shadow::None {
                self.initial = ops.read(Register::TimerInitial) as u32;
            }
            self.capture_count(ops)
        }
    }

    /// A deadline that fires between the read and the disarming is both in IRR and kept: the pending set holds it once,
    /// since [`super::restore`] looks at the clock before it raises the set.
    fn capture_deadline(&mut self, ops: &mut impl LapicOps) {
        self.expiry = loop {
            let now = ops.now();
            let deadline = ops.read(Register::TscDeadline);
            // 0: fired into IRR, or not armed.
            if deadline == 0 || deadline > now {
                break (deadline != 0).then_some(deadline);
            }
            // Due, yet it reads back: it fires any moment, or it is stale.
            if now - deadline > GRACE {
                break None;
            }
        };
        ops.write(Register::TscDeadline, 0);
    }

    fn capture_count(&mut self, ops: &mut impl LapicOps) -> Option<u8> {
        let rates = ops.rates();
        let start = ops.now();
        let periodic = self.lvt.timer_mode() == PERIODIC;
        let (before, count) = loop {
            let before = ops.now();
            let count = ops.read(Register::TimerCurrent);
            // A periodic timer may show 0 for a moment before it reloads.
            if count != 0 || !periodic || self.initial == 0 || before - start > GRACE {
                break (before, count);
            }
        };
        ops.write(Register::TimerInitial, 0);
        let after = ops.now();
        if count == 0 {
            self.expiry = None;
            return None;
        }
        let expiry = before.saturating_add(self.counts_to_tsc(count, rates));
        self.expiry = Some(expiry);
        // The last count may have ended before the timer was stopped. Kept as an expiry to come it would fire twice.
        let earliest = before.saturating_add(self.counts_to_tsc(count - 1, rates));
        if earliest <= after { self.advance(expiry.max(after), rates) } else { None }
    }

    /// Lets time go by while the timer is not in the hardware. Returns the vector if it has expired, once for any
    /// number of periods. A periodic timer keeps its phase.
    pub(super) fn advance(&mut self, now: u64, rates: Rates) -> Option<u8> {
        let expiry = self.expiry.filter(|&expiry| expiry <= now)?;
        self.expiry = (self.lvt.timer_mode() == PERIODIC).then(|| {
            let period = self.counts_to_tsc(self.initial.into(), rates).max(1);
            expiry.saturating_add(((now - expiry) / period + 1).saturating_mul(period))
        });
        self.vector()
    }

    /// Puts the timer into the hardware, whose timer is stopped and masked. What is due was taken by
    /// [`Timer::advance`] before; what becomes due meanwhile fires at once.
    pub(super) fn program(&mut self, ops: &mut impl LapicOps) {
        ops.write(Register::TimerDivide, self.divide.into());
        self.shadow = match self.lvt.timer_mode() {
            DEADLINE => {
                ops.write(Register::LvtTimer, self.lvt.into_bits().into());
                if let Some(deadline) = self.expiry.take() {
                    ops.write(Register::TscDeadline, deadline);
                }
                Shadow::None
            }
            PERIODIC if self.expiry.is_some() => {
                // The hardware knows one number for the count and the period.
                ops.write(Register::LvtTimer, self.lvt.with_mask(true).into_bits().into());
                Shadow::Whole
            }
            _ => {
                ops.write(Register::LvtTimer, self.lvt.into_bits().into());
                let rates = ops.rates();
                if self.expiry.is_some() {
                    let count = self.count(ops.now(), rates);
                    ops.write(Register::TimerInitial, count.into());
                    self.expiry = None;
                }
                if self.initial == 0 { Shadow::None } else { Shadow::Initial }
            }
        };
    }

    /// The first expiry of a periodic timer after a switch: raises it, and gives the timer back to the hardware.
    /// Nothing happens before its time.
    pub fn periodic_due(&mut self, ops: &mut impl LapicOps) {
        if self.shadow != Shadow::Whole || self.expiry.is_none_or(|expiry| expiry > ops.now()) {
            return;
        }
        if let Some(vector) = self.vector() {
            ops.self_ipi(vector);
        }
        ops.write(Register::LvtTimer, self.lvt.into_bits().into());
        self.start(ops, self.initial);
    }

    fn start(&mut self, ops: &mut impl LapicOps, initial: u32) {
        ops.write(Register::TimerInitial, initial.into());
        self.initial = initial;
        self.expiry = None;
        self.shadow = Shadow::None;
    }

    /// A guest's read of a timer register while there is a [`Shadow`].
    pub fn read(&self, ops: &mut impl LapicOps, register: Register) -> u64 {
        match (self.shadow, register) {
            (Shadow::Initial | Shadow::Whole, Register::TimerInitial) => self.initial.into(),
            (Shadow::Whole, Register::LvtTimer) => self.lvt.into_bits().into(),
            (Shadow::Whole, Register::TimerCurrent) => {
                let rates = ops.rates();
                self.count(ops.now(), rates).into()
            }
            _ => ops.read(register),
        }
    }

    /// A guest's write of a timer register while there is a [`Shadow`]; an LVT value has passed `check_lvt`.
    pub fn write(&mut self, ops: &mut impl LapicOps, register: Register, value: u64) {
        self.periodic_due(ops);
        match (self.shadow, register) {
            (Shadow::None, _) => ops.write(register, value),
            (_, Register::TimerInitial) => {
                if self.shadow == Shadow::Whole {
                    ops.write(Register::LvtTimer, self.lvt.into_bits().into());
                }
                self.start(ops, value as u32);
            }
            (_, Register::LvtTimer) => self.write_lvt(ops, Lvt::from_bits(value as u32)),
            (Shadow::Whole, Register::TimerDivide) => {
                // What is left is a number of counts, which the new divider makes longer or shorter.
                let (now, rates) = (ops.now(), ops.rates());
                let count = self.count(now, rates);
                self.divide = value as u32;
                self.expiry = Some(now.saturating_add(self.counts_to_tsc(count.into(), rates)));
                ops.write(register, value);
            }
            _ => ops.write(register, value),
        }
    }

    fn write_lvt(&mut self, ops: &mut impl LapicOps, lvt: Lvt) {
        // As the hardware does it: a disabled LAPIC's entries cannot be unmasked.
        let enabled = Svr::from_bits(ops.read(Register::Svr) as u32).enabled();
        let lvt = lvt.with_mask(lvt.mask() || !enabled);
        if lvt.timer_mode() == DEADLINE {
            // A change of mode to or from deadlines disarms.
            ops.write(Register::LvtTimer, lvt.into_bits().into());
            *self = Self { lvt, ..Self::RESET };
        } else if self.shadow == Shadow::Whole && lvt.timer_mode() == PERIODIC {
            self.lvt = lvt;
        } else if self.shadow == Shadow::Whole || lvt.timer_mode() != ONE_SHOT {
            // Between one shot and periodic the count goes on; a period is the whole initial count.
            if let Some(vector) = self.capture(ops) {
                ops.self_ipi(vector);
            }
            self.lvt = lvt;
            self.program(ops);
        } else {
            ops.write(Register::LvtTimer, lvt.into_bits().into());
        }
    }

    /// The guest has switched its LAPIC off by SVR, which masks its LVT entries.
    pub fn software_disabled(&mut self) {
        self.lvt.set_mask(true);
    }
}

/// The divider that TDCR names: bits 3, 1 and 0.
fn divisor(divide: u32) -> u64 {
    let code = divide >> 1 & 4 | divide & 3;
    1 << ((code + 1) & 7)
}
