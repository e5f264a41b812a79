//! A remapping unit for the tests of the driver: registers, the queue, and caches that keep what they read
//! until they are told to drop it. It answers late: a queue runs only after its status was asked for a few
//! times. Descriptors and tables are read where the driver put them.

#![expect(unsafe_code, reason = "reads the driver's tables at their addresses, as hardware does")]

use super::Registers;
use arch_defs::iommu::vtd::register::{EVENT_MASKED, FaultStatus, Global, offset};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// How often the status is asked for before the queue runs.
const LATE: u32 = 3;
/// QEMU 10's `intel-iommu,intremap=on,eim=on`.
pub const CAP: u64 = 0x00D2_008C_222F_0606;
pub const ECAP: u64 = 0x00F0_0F5A;

/// What the driver did, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A bit of GCMD changed, or a one-shot command was given.
    Command(Global, bool),
    /// A descriptor other than a wait was executed.
    Invalidated(u64),
    /// A wait descriptor was executed.
    Waited,
}

#[derive(Default)]
pub struct State {
    registers: HashMap<u32, u32>,
    pub events: Vec<Event>,
    /// Status reads left until the queue runs.
    due: u32,
    /// How often a register was read.
    pub reads: u64,
    /// The queue stands still for ever.
    pub dead: bool,
    /// It stops at the next descriptor with an error.
    pub fails: bool,
    /// Remapping entries as cached.
    interrupts: HashMap<u16, [u64; 2]>,
    /// Context entries as cached.
    contexts: HashMap<u16, [u64; 2]>,
}

/// A handle on a unit; the driver has another.
#[derive(Clone, Default)]
pub struct Model(pub Rc<RefCell<State>>);

fn memory(address: u64) -> u64 {
    assert!(address != 0 && address.is_multiple_of(8));
    // SAFETY: the driver gave the address of a block of its own, which is kept for good.
    unsafe { (address as *const u64).read_volatile() }
}

impl State {
    pub fn get(&self, offset: u32) -> u64 {
        let half = |at| u64::from(self.registers.get(&at).copied().unwrap_or(0));
        half(offset) | half(offset + 4) << 32
    }

    pub fn set(&mut self, offset: u32, value: u64) {
        self.registers.insert(offset, value as u32);
        self.registers.insert(offset + 4, (value >> 32) as u32);
    }

    /// Sets a register of 32 bits.
    pub fn set32(&mut self, offset: u32, value: u32) {
        self.registers.insert(offset, value);
    }

    pub fn status(&self) -> Global {
        Global::from_bits_truncate(self.get(offset::GSTS) as u32)
    }

    /// True while the driver has submitted something that is not done.
    pub fn busy(&self) -> bool {
        self.due > 0
    }

    fn command(&mut self, value: u32) {
        let (old, new) = (self.status(), Global::from_bits_retain(value));
        let sticky = old.difference(Global::ONE_SHOT);
        let changed = sticky.symmetric_difference(new.difference(Global::ONE_SHOT));
        let once = new.intersection(Global::ONE_SHOT);
        assert_eq!((changed | once).bits().count_ones(), 1, "one command at a time: {new:?}");
        self.events.push(Event::Command(changed | once, new.intersects(changed | once)));
        if changed == Global::QUEUED_INVALIDATION {
            self.set(offset::IQH, 0);
        }
        let done = old.intersection(Global::ONE_SHOT) | once;
        let status = new.difference(Global::ONE_SHOT) | done;
        self.set32(offset::GSTS, status.bits());
    }

    fn run_queue(&mut self) {
        let base = self.get(offset::IQA) & !0xFFF;
        while self.get(offset::IQH) != self.get(offset::IQT) {
            if self.fails {
                let status = self.get(offset::FSTS) as u32 | FaultStatus::QUEUE_ERROR.bits();
                self.set32(offset::FSTS, status);
                return;
            }
            let head = self.get(offset::IQH);
            let [low, high] = [memory(base + head), memory(base + head + 8)];
            self.execute(low, high);
            self.set(offset::IQH, (head + 16) % 0x1000);
        }
    }

    fn execute(&mut self, low: u64, high: u64) {
        match low & 15 {
            1 => self.contexts.clear(),
            2 => (),
            4 if low & 16 == 0 => self.interrupts.clear(),
            4 => {
                let (mask, first) = (low >> 27 & 31, low >> 32 & 0xFFFF);
                self.interrupts.retain(|entry, _| u64::from(*entry) >> mask != first >> mask);
            }
            5 => {
                assert_eq!(low & 0x30, 0x20, "a status write");
                // SAFETY: as in `memory`; the status block is the driver's.
                unsafe { (high as *mut u32).write_volatile((low >> 32) as u32) };
                self.events.push(Event::Waited);
                return;
            }
            other => panic!("descriptor of type {other}"),
        }
        self.events.push(Event::Invalidated(low));
    }

    /// What becomes of an interrupt request: vector and destination, or the fault's reason.
    pub fn interrupt(&mut self, source: u16, index: u16) -> Result<(u8, u32), u8> {
        assert!(self.status().contains(Global::INTERRUPT_REMAPPING));
        let table = self.get(offset::IRTA);
        if u64::from(index) >> ((table & 15) + 1) != 0 {
            return Err(0x21);
        }
        let at = (table & !0xFFF) + u64::from(index) * 16;
        let read = || [memory(at), memory(at + 8)];
        let [low, high] = *self.interrupts.entry(index).or_insert_with(read);
        if low & 1 == 0 {
            // What is not present is not cached.
            self.interrupts.remove(&index);
            return Err(0x22);
        }
        if high >> 18 & 3 != 1 || high >> 16 & 3 != 0 || high as u16 != source {
            return Err(0x26);
        }
        Ok(((low >> 16) as u8, (low >> 32) as u32))
    }

    /// The second-stage root, levels and domain of a device, or the fault's reason.
    pub fn context(&mut self, source: u16) -> Result<(u64, u64, u64), u8> {
        assert!(self.status().contains(Global::TRANSLATION));
        if !self.contexts.contains_key(&source) {
            let root = memory((self.get(offset::RTADDR) & !0xFFF) + u64::from(source >> 8) * 16);
            if root & 1 == 0 {
                return Err(1);
            }
            let at = (root & !0xFFF) + u64::from(source & 0xFF) * 16;
            if memory(at) & 1 == 0 {
                return Err(2);
            }
            self.contexts.insert(source, [memory(at), memory(at + 8)]);
        }
        let [low, high] = self.contexts[&source];
        Ok((low & !0xFFF, (high & 7) + 2, high >> 8 & 0xFFFF))
    }
}

impl Model {
    /// A unit after a reset.
    pub fn new(cap: u64, ecap: u64) -> Self {
        let model = Self::default();
        let mut state = model.0.borrow_mut();
        state.set32(offset::VER, 0x10);
        state.set(offset::CAP, cap);
        state.set(offset::ECAP, ecap);
        drop(state);
        model
    }
}

impl Registers for Model {
    fn read32(&self, offset: u32) -> u32 {
        let mut state = self.0.borrow_mut();
        state.reads += 1;
        if offset == offset::FSTS && state.due > 0 && !state.dead {
            state.due -= 1;
            if state.due == 0 {
                state.run_queue();
            }
        }
        state.get(offset) as u32
    }

    fn read64(&self, offset: u32) -> u64 {
        self.0.borrow().get(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        let mut state = self.0.borrow_mut();
        match offset {
            offset::GCMD => state.command(value),
            offset::FSTS => {
                let left = state.get(offset) as u32 & !value;
                state.set32(offset, left);
            }
            // The status follows the enable bit.
            offset::PMEN => state.set32(offset, value & !1 | value >> 31),
            offset::FECTL | offset::IECTL => assert_eq!(value, EVENT_MASKED),
            // The top word of a fault record: 1 frees it.
            at if at >= 0x200 => {
                let left = state.registers.get(&at).copied().unwrap_or(0) & !value;
                state.set32(at, left);
            }
            other => panic!("write of register {other:#x}"),
        }
    }

    fn write64(&self, offset: u32, value: u64) {
        let mut state = self.0.borrow_mut();
        state.set(offset, value);
        if offset == offset::IQT && state.status().contains(Global::QUEUED_INVALIDATION) {
            state.due = LATE;
        }
    }
}
