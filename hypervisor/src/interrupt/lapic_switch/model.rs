//! A model of a LAPIC in x2APIC mode for the tests of the switch: priorities, ISR and IRR, software disable, LVT masks,
//! the three timer modes. Edge interrupts only. SDM volume 3, chapter 11.
//!
//! Time goes by at each operation of the switch, so that a timer may fire between any two of them, and vectors can be
//! scheduled to arrive there.

use super::{LapicOps, Rates, Register, VectorSet};
use std::vec::Vec;

const MASK: u32 = 1 << 16;
const ENABLED: u32 = 1 << 8;

/// How implementations differ. The switch must be right on each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kind {
    /// Bochs: a vector is delivered above a lower one of the same class.
    pub class_nests: bool,
    /// Bochs: EOI leaves a vector that equals the spurious vector.
    pub keeps_spurious: bool,
    /// Bochs: a deadline that has fired reads back.
    pub stale_deadline: bool,
    /// What a software-disabled LAPIC holds is delivered.
    pub disabled_delivers: bool,
    /// TSC ticks by which a deadline fires late.
    pub lag: u64,
    /// Input ticks of the timer in 1024 TSC ticks.
    pub timer_per_1024: u64,
}

/// The LAPIC and the clock of its core.
#[derive(Clone, Debug)]
pub struct Model {
    pub kind: Kind,
    pub irr: VectorSet,
    pub isr: VectorSet,
    pub tpr: u8,
    pub svr: u32,
    pub lvt_timer: u32,
    pub lvt_error: u32,
    pub divide: u32,
    pub initial: u32,
    pub deadline: u64,
    /// When the timer fires.
    pub expiry: Option<u64>,
    pub now: u64,
    /// TSC ticks per operation of the switch.
    pub cost: u64,
    /// Vectors that arrive at the operations of these numbers.
    pub arrivals: Vec<(u64, u8)>,
    /// What has arrived that way, and when.
    pub arrived: Vec<(u64, u8)>,
    operations: u64,
}

impl Model {
    pub fn new(kind: Kind, now: u64) -> Self {
        Self {
            kind,
            irr: VectorSet::EMPTY,
            isr: VectorSet::EMPTY,
            tpr: 0,
            svr: 0xFF,
            lvt_timer: MASK,
            lvt_error: MASK,
            divide: 0,
            initial: 0,
            deadline: 0,
            expiry: None,
            now,
            cost: 1,
            arrivals: Vec::new(),
            arrived: Vec::new(),
            operations: 0,
        }
    }

    /// Schedules vectors for the operations that follow.
    pub fn schedule(&mut self, arrivals: &[(u64, u8)]) {
        self.operations = 0;
        self.arrived.clear();
        self.arrivals = arrivals.to_vec();
    }

    fn mode(&self) -> u32 {
        self.lvt_timer >> 17 & 3
    }

    fn unit(&self) -> u64 {
        let code = self.divide >> 1 & 4 | self.divide & 3;
        1 << ((code + 1) & 7)
    }

    fn counts_to_tsc(&self, counts: u32) -> u64 {
        self.rates().to_tsc(u64::from(counts) * self.unit())
    }

    /// A vector arrives.
    pub fn receive(&mut self, vector: u8) {
        if self.svr & ENABLED != 0 && vector >= 16 {
            self.irr.insert(vector);
        }
    }

    /// Lets time go by.
    pub fn run_to(&mut self, time: u64) {
        while let Some(expiry) = self.expiry.filter(|&expiry| expiry <= time) {
            if self.lvt_timer & MASK == 0 {
                self.receive(self.lvt_timer as u8);
            }
            self.expiry = (self.mode() == 1).then(|| expiry + self.counts_to_tsc(self.initial));
            if self.mode() == 2 && !self.kind.stale_deadline {
                self.deadline = 0;
            }
        }
        self.now = self.now.max(time);
    }

    /// The vector that the CPU would take with IF open.
    pub fn deliverable(&self) -> Option<u8> {
        let vector = self.irr.highest()?;
        let class = vector >> 4;
        let above_isr = match self.isr.highest() {
            Some(top) if self.kind.class_nests => vector > top,
            Some(top) => class > top >> 4,
            None => true,
        };
        let enabled = self.svr & ENABLED != 0 || self.kind.disabled_delivers;
        (above_isr && class > self.tpr >> 4 && enabled).then_some(vector)
    }

    /// The CPU takes one interrupt.
    pub fn take(&mut self) -> Option<u8> {
        let vector = self.deliverable()?;
        self.irr.remove(vector);
        self.isr.insert(vector);
        Some(vector)
    }

    /// EOI; returns the vector that it ended.
    pub fn end(&mut self) -> Option<u8> {
        let vector = self.isr.highest()?;
        if self.kind.keeps_spurious && vector == self.svr as u8 {
            return None;
        }
        self.isr.remove(vector);
        Some(vector)
    }

    /// A register write that takes no time.
    pub fn set(&mut self, register: Register, value: u64) {
        let low = value as u32;
        match register {
            Register::Tpr => self.tpr = value as u8,
            Register::Svr => {
                self.svr = low;
                if low & ENABLED == 0 {
                    self.lvt_timer |= MASK;
                    self.lvt_error |= MASK;
                }
            }
            Register::LvtError => self.lvt_error = self.masked(low),
            Register::LvtTimer => {
                if (self.mode() == 2) != (low >> 17 & 3 == 2) {
                    (self.initial, self.deadline, self.expiry) = (0, 0, None);
                }
                self.lvt_timer = self.masked(low);
            }
            Register::TimerInitial if self.mode() != 2 => {
                self.initial = low;
                self.expiry = (low != 0).then(|| self.now + self.counts_to_tsc(low));
            }
            Register::TimerDivide => {
                let count = self.count();
                self.divide = low;
                if self.mode() != 2 && count != 0 {
                    self.expiry = Some(self.now + self.counts_to_tsc(count));
                }
            }
            Register::TscDeadline if self.mode() == 2 => {
                self.deadline = value;
                self.expiry = (value != 0).then_some(value + self.kind.lag);
                self.run_to(self.now);
            }
            _ => {}
        }
    }

    fn masked(&self, entry: u32) -> u32 {
        if self.svr & ENABLED == 0 { entry | MASK } else { entry }
    }

    fn count(&self) -> u32 {
        let Some(expiry) = self.expiry.filter(|_| self.mode() != 2) else { return 0 };
        let ticks = ((expiry - self.now) * self.kind.timer_per_1024).div_ceil(1024);
        ticks.div_ceil(self.unit()).min(self.initial.into()) as u32
    }

    /// A register read that takes no time.
    pub fn get(&self, register: Register) -> u64 {
        match register {
            Register::Tpr => self.tpr.into(),
            Register::Svr => self.svr.into(),
            Register::Esr => 0,
            Register::LvtError => self.lvt_error.into(),
            Register::LvtTimer => self.lvt_timer.into(),
            Register::TimerInitial => self.initial.into(),
            Register::TimerCurrent => self.count().into(),
            Register::TimerDivide => self.divide.into(),
            Register::TscDeadline if self.mode() == 2 => self.deadline,
            Register::TscDeadline => 0,
        }
    }

    /// An operation of the switch begins: time goes by and what is scheduled arrives.
    fn step(&mut self) {
        self.run_to(self.now + self.cost);
        while let Some(at) = self.arrivals.iter().position(|&(at, _)| at <= self.operations) {
            let (_, vector) = self.arrivals.remove(at);
            self.arrived.push((self.now, vector));
            self.receive(vector);
        }
        self.operations += 1;
    }
}

impl LapicOps for Model {
    fn read(&mut self, register: Register) -> u64 {
        self.step();
        self.get(register)
    }
    fn write(&mut self, register: Register, value: u64) {
        self.step();
        self.set(register, value);
    }
    fn in_service(&mut self) -> VectorSet {
        self.step();
        self.isr
    }
    fn requested(&mut self) -> VectorSet {
        self.step();
        self.irr
    }
    fn self_ipi(&mut self, vector: u8) {
        self.step();
        self.receive(vector);
    }
    fn eoi(&mut self) {
        self.step();
        self.end();
    }
    fn open_window(&mut self) -> VectorSet {
        self.step();
        let mut taken = VectorSet::EMPTY;
        while let Some(vector) = self.take() {
            taken.insert(vector);
        }
        if taken.is_empty() {
            // The end of the drain: the caller has to have closed its sources by now.
            self.arrivals.retain(|_| self.isr != VectorSet::EMPTY);
        }
        taken
    }
    fn now(&mut self) -> u64 {
        self.step();
        self.now
    }
    fn rates(&self) -> Rates {
        Rates { tsc: 1024, timer: self.kind.timer_per_1024 }
    }
}
