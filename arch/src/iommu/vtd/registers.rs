//! A unit's register block, and the one way to give it commands. VT-d specification 4.1, chapter 11. Used by
//! [`super::Unit`].

#![expect(unsafe_code, reason = "reads and writes device registers")]

use super::Error;
use crate::cpu;
use arch_defs::iommu::vtd::register::{Capability, Global, offset};
use core::ops::Range;

/// How often a register is read before a unit counts as dead: about a second, since such a read takes about
/// a microsecond.
pub const SPINS: u32 = 1_000_000;

/// A register block. Offsets are in bytes from its base.
pub trait Registers {
    /// Reads 32 bits.
    fn read32(&self, offset: u32) -> u32;
    /// Reads 64 bits.
    fn read64(&self, offset: u32) -> u64;
    /// Writes 32 bits.
    fn write32(&self, offset: u32, value: u32);
    /// Writes 64 bits.
    fn write64(&self, offset: u32, value: u64);
}

/// Registers in physical memory.
#[derive(Debug)]
pub struct Mmio {
    base: u64,
    len: u32,
}

impl Mmio {
    /// The block at `base`, mapped by `map`: first the page that every unit has, then as much as its fault
    /// records need.
    pub(crate) fn new(base: u64, map: impl Fn(Range<u64>)) -> Self {
        map(base..base + 0x1000);
        let first = Self { base, len: 0x1000 };
        let capability = Capability::from_bits(first.read64(offset::CAP));
        let len = capability.fault_records_end().next_multiple_of(0x1000);
        if len > first.len {
            map(base + 0x1000..base + u64::from(len));
        }
        Self { base, len: len.max(first.len) }
    }

    fn at<T>(&self, offset: u32) -> *mut T {
        let end = offset as usize + size_of::<T>();
        assert!(end <= self.len as usize, "register offset");
        (self.base + u64::from(offset)) as *mut T
    }
}

impl Registers for Mmio {
    fn read32(&self, offset: u32) -> u32 {
        // SAFETY: `at` checked the bounds; DMAR says that these are a unit's registers, and they are mapped
        // uncached. Reading one changes nothing.
        unsafe { self.at::<u32>(offset).read_volatile() }
    }

    fn read64(&self, offset: u32) -> u64 {
        // SAFETY: as for `read32`.
        unsafe { self.at::<u64>(offset).read_volatile() }
    }

    fn write32(&self, offset: u32, value: u32) {
        // SAFETY: as for `read32`; the tables that a unit is given are blocks kept for good, and it writes to
        // nothing but the queue's status word.
        unsafe { self.at::<u32>(offset).write_volatile(value) }
    }

    fn write64(&self, offset: u32, value: u64) {
        // SAFETY: as for `write32`.
        unsafe { self.at::<u64>(offset).write_volatile(value) }
    }
}

/// The registers of the unit at an address.
#[derive(Debug)]
pub struct Access<R> {
    /// Physical address, which names the unit in messages.
    pub unit: u64,
    /// The block.
    pub registers: R,
}

impl<R: Registers> Access<R> {
    /// GSTS.
    pub fn status(&self) -> Global {
        Global::from_bits_truncate(self.registers.read32(offset::GSTS))
    }

    /// Gives one command and waits until the status shows it. Only one bit may change by a write, and the
    /// commands that are done once must not be repeated (section 11.4.4.1).
    pub fn command(&self, command: Global, on: bool, what: &'static str) -> Result<(), Error> {
        let status = self.status();
        if !Global::ONE_SHOT.contains(command) && status.contains(command) == on {
            return Ok(());
        }
        let mut value = status.difference(Global::ONE_SHOT);
        value.set(command, on);
        self.registers.write32(offset::GCMD, value.bits());
        self.wait_until(what, |registers| {
            Global::from_bits_truncate(registers.read32(offset::GSTS)).contains(command) == on
        })
    }

    /// Waits until a condition of the registers holds.
    pub fn wait_until(&self, what: &'static str, done: impl Fn(&R) -> bool) -> Result<(), Error> {
        for _ in 0..SPINS {
            if done(&self.registers) {
                return Ok(());
            }
            cpu::pause();
        }
        Err(Error::NoAnswer { unit: self.unit, what })
    }
}
