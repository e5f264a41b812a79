//! The switch on the model: vCPUs share a LAPIC, and each has a twin, a LAPIC of its own that is never switched. What
//! a vCPU sees must be what its twin sees.

use super::model::{Kind, Model};
use super::*;
use std::vec::Vec;

mod cases;
mod property;

/// What a switch may cost a timer, in TSC ticks. Time in a guest is stepped around expiries that are closer than that.
const TOLERANCE: u64 = 6_000;

/// What a guest does, and its world.
#[derive(Clone, Debug)]
enum Op {
    SelfIpi(u8),
    Take,
    Eoi,
    Tpr(u8),
    Svr(bool, u8),
    LvtError(u8, bool),
    LvtTimer(u8, u8, bool),
    Divide(u8),
    Initial(u32),
    /// A deadline so far from now; `None` is 0, which disarms.
    Deadline(Option<i64>),
    ReadInitial,
    Advance(u64),
    /// An interrupt from outside.
    Arrive(u8),
}

struct Vcpu {
    state: LapicState,
    twin: Model,
}

/// The core that vCPUs share.
struct Core {
    lapic: Model,
    vcpus: Vec<Vcpu>,
    current: usize,
}

impl Core {
    fn new(kind: Kind, vcpus: usize, cost: u64) -> Self {
        let start = 1_000_000;
        let mut lapic = Model::new(kind, start);
        lapic.cost = cost;
        let twin = Model::new(kind, start);
        let vcpus = (0..vcpus).map(|_| Vcpu { state: LapicState::RESET, twin: twin.clone() });
        let mut core = Self { lapic, vcpus: vcpus.collect(), current: 0 };
        // From the state after INIT to the state that a switch leaves.
        save(&mut core.lapic, &mut LapicState::RESET.clone()).unwrap();
        core.enter(0, &[]);
        core
    }

    /// Lets everybody's time go by, with the hypervisor's exit for a periodic timer.
    fn run_to(&mut self, time: u64) {
        let timer = &mut self.vcpus[self.current].state.timer;
        if let (Shadow::Whole, Some(expiry)) = (timer.shadow(), timer.expiry())
            && expiry <= time
        {
            self.lapic.run_to(expiry);
            timer.periodic_due(&mut self.lapic);
        }
        self.lapic.run_to(time);
        for vcpu in &mut self.vcpus {
            vcpu.twin.run_to(self.lapic.now);
        }
    }

    /// The running vCPU's next expiries, by the hardware and by the twin.
    fn expiries(&self) -> [Option<u64>; 2] {
        let vcpu = &self.vcpus[self.current];
        [self.lapic.expiry.or(vcpu.state.timer.expiry()), vcpu.twin.expiry]
    }

    /// Goes on until no expiry of the running vCPU is so close that the switch's cost could turn it around.
    fn advance(&mut self, ticks: u64) {
        let mut time = self.lapic.now + ticks;
        loop {
            self.run_to(time);
            let close = |&at: &u64| at < self.lapic.now + TOLERANCE;
            let [ours, twins] = self.expiries().map(|expiry| expiry.is_some_and(|at| close(&at)));
            if !ours && !twins {
                return;
            }
            time = self.lapic.now + TOLERANCE;
        }
    }

    fn enter(&mut self, to: usize, early: &[u8]) {
        let vcpu = &mut self.vcpus[to];
        self.lapic.schedule(&[]);
        restore(&mut self.lapic, &mut vcpu.state).unwrap();
        for &vector in early {
            vcpu.twin.receive(vector);
            vcpu.state.add_pending(vector);
        }
        flush_pending(&mut self.lapic, &mut vcpu.state);
        self.current = to;
        self.advance(0);
    }

    /// Switches; `arrivals` come in at operations of the saving, `early` while the other is being restored.
    fn switch(&mut self, to: usize, arrivals: &[(u64, u8)], early: &[u8]) {
        let vcpu = &mut self.vcpus[self.current];
        self.lapic.schedule(arrivals);
        save(&mut self.lapic, &mut vcpu.state).unwrap();
        for (time, vector) in core::mem::take(&mut self.lapic.arrived) {
            vcpu.twin.run_to(time);
            vcpu.twin.receive(vector);
        }
        self.enter(to, early);
    }

    /// An interrupt for a vCPU, wherever it is.
    fn arrive(&mut self, vcpu: usize, vector: u8) {
        self.vcpus[vcpu].twin.receive(vector);
        if vcpu == self.current {
            self.lapic.receive(vector);
        } else {
            self.vcpus[vcpu].state.add_pending(vector);
        }
    }

    /// The running guest writes a register: trapped where the hypervisor would trap it. Guests' own operations take
    /// no time.
    fn write(&mut self, register: Register, value: u64) {
        let vcpu = &mut self.vcpus[self.current];
        vcpu.twin.set(register, value);
        let timer =
            matches!(register, Register::LvtTimer | Register::TimerInitial | Register::TimerDivide);
        if timer && vcpu.state.timer.shadow() != Shadow::None {
            vcpu.state.timer.write(&mut self.lapic, register, value);
        } else {
            self.lapic.set(register, value);
        }
        if register == Register::Svr && value >> 8 & 1 == 0 {
            vcpu.state.timer.software_disabled();
        }
    }

    fn run(&mut self, op: &Op) {
        let twin = self.current;
        match *op {
            Op::SelfIpi(vector) => {
                self.lapic.receive(vector);
                self.vcpus[twin].twin.receive(vector);
            }
            Op::Take => assert_eq!(self.lapic.take(), self.vcpus[twin].twin.take()),
            Op::Eoi => assert_eq!(self.lapic.end(), self.vcpus[twin].twin.end()),
            Op::Tpr(tpr) => self.write(Register::Tpr, tpr.into()),
            Op::Svr(enabled, vector) => {
                self.write(Register::Svr, u64::from(enabled) << 8 | u64::from(vector));
            }
            Op::LvtError(vector, mask) => {
                self.write(Register::LvtError, u64::from(mask) << 16 | u64::from(vector));
            }
            Op::LvtTimer(mode, vector, mask) => self.write(
                Register::LvtTimer,
                u64::from(mode) << 17 | u64::from(mask) << 16 | u64::from(vector),
            ),
            Op::Divide(divide) => {
                // A running timer may be late by the switch, and a new divider would make more of that.
                if self.expiries() == [None, None] {
                    self.write(Register::TimerDivide, divide.into());
                }
            }
            Op::Initial(count) => self.write(Register::TimerInitial, count.into()),
            Op::Deadline(from_now) => {
                let deadline = from_now.map_or(0, |by| self.lapic.now.saturating_add_signed(by));
                self.write(Register::TscDeadline, deadline);
            }
            Op::ReadInitial => {
                let ours =
                    self.vcpus[twin].state.timer.read(&mut self.lapic, Register::TimerInitial);
                assert_eq!(ours, self.vcpus[twin].twin.get(Register::TimerInitial));
            }
            Op::Advance(ticks) => self.advance(ticks),
            Op::Arrive(vector) => self.arrive(twin, vector),
        }
        self.advance(0);
        self.compare();
    }

    /// Everything that the running guest can see is its twin's.
    fn compare(&mut self) {
        let now = self.lapic.now;
        let vcpu = &mut self.vcpus[self.current];
        vcpu.twin.run_to(now);
        let (ours, twin, timer) = (&mut self.lapic, &vcpu.twin, &vcpu.state.timer);
        assert_eq!(ours.isr, twin.isr, "ISR");
        assert_eq!(ours.irr, twin.irr, "IRR");
        if !ours.kind.class_nests {
            let classes: Vec<u8> = ours.isr.ascending().map(|vector| vector >> 4).collect();
            assert!(classes.is_sorted_by(|low, high| low < high), "two of a class in service");
        }
        for register in [Register::Tpr, Register::Svr, Register::LvtError, Register::TimerDivide] {
            assert_eq!(ours.get(register), twin.get(register), "{register:?}");
        }
        assert!(!vcpu.state.has_pending(), "pending beside IRR");
        // A read that traps takes time; the model's clone takes it.
        let mut probe = ours.clone();
        for register in [Register::LvtTimer, Register::TimerInitial] {
            assert_eq!(timer.read(&mut probe, register), twin.get(register), "{register:?}");
        }
        let [ours, twins] = self.expiries();
        assert_eq!(ours.is_some(), twins.is_some(), "timer armed");
        if let (Some(ours), Some(twins)) = (ours, twins) {
            assert!(ours.abs_diff(twins) < TOLERANCE, "expiry {ours}, twin's {twins}");
        }
    }

    /// The guest takes and ends all it has, in the order of its twin.
    fn drain(&mut self) {
        for op in [Op::Svr(true, 0xF0), Op::Tpr(0), Op::LvtTimer(0, 0x40, true)] {
            self.run(&op);
        }
        for _ in 0..600 {
            self.run(&Op::Take);
            let spurious = if self.lapic.isr.highest() == Some(0xF0) { 0xF1 } else { 0xF0 };
            self.run(&Op::Svr(true, spurious));
            self.run(&Op::Eoi);
        }
        assert!(self.lapic.irr.is_empty());
    }
}
