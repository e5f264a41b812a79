//! The invalidation queue. VT-d specification 4.1, section 6.5.2. Hardware reads and writes it coherently
//! whatever ECAP.C says (section 11.4.3).
//!
//! Every submission ends with a wait descriptor that writes a new number, and is waited for before the next:
//! so the queue never fills, and done means done.

use super::{Access, Error, Registers, SPINS};
use crate::cpu;
use crate::heap::{self, Block};
use arch_defs::iommu::vtd::invalidation::{Descriptor, QUEUE_ENTRIES, wait};
use arch_defs::iommu::vtd::register::{FaultStatus, Global, offset};
use core::sync::atomic::{Ordering, fence};

/// A unit's queue.
#[derive(Debug)]
pub struct Queue {
    descriptors: Block,
    /// Where wait descriptors write.
    status: Block,
    /// Index of the next free descriptor.
    tail: u64,
    /// Number of the last submission; its low 32 bits are written by the hardware.
    submitted: u32,
}

impl Queue {
    /// An empty queue that the hardware does not know yet.
    pub fn new() -> Result<Self, Error> {
        let frame = || heap::frame().ok_or(Error::OutOfMemory);
        Ok(Self { descriptors: frame()?, status: frame()?, tail: 0, submitted: 0 })
    }

    /// Gives the queue to the unit, whose queue is off.
    pub fn enable<R: Registers>(&self, access: &Access<R>) -> Result<(), Error> {
        access.registers.write64(offset::IQT, 0);
        // Size 0 is one frame, 256 descriptors of 128 bits.
        access.registers.write64(offset::IQA, self.descriptors.address());
        access.command(Global::QUEUED_INVALIDATION, true, "queued invalidation on")
    }

    /// Hands descriptors to the hardware, fewer than the queue has room for. [`Queue::wait`] comes next.
    pub fn submit<R: Registers>(&mut self, access: &Access<R>, descriptors: &[Descriptor]) {
        self.submitted = self.submitted.wrapping_add(1);
        let last = wait(self.status.address(), self.submitted);
        for [low, high] in descriptors.iter().chain([&last]) {
            self.descriptors.write_u64(self.tail * 16, *low);
            self.descriptors.write_u64(self.tail * 16 + 8, *high);
            self.tail = (self.tail + 1) % QUEUE_ENTRIES;
        }
        // Tables and descriptors first, then the tail. On x86 the stores keep this order, and write-backs by
        // CLFLUSH too; the fence keeps the compiler's.
        fence(Ordering::SeqCst);
        access.registers.write64(offset::IQT, self.tail * 16);
    }

    /// Waits until the hardware has done the last submission.
    pub fn wait<R: Registers>(&self, access: &Access<R>) -> Result<(), Error> {
        let unit = access.unit;
        for _ in 0..SPINS {
            if self.status.read_u64(0) as u32 == self.submitted {
                return Ok(());
            }
            let status = access.registers.read32(offset::FSTS);
            if FaultStatus::from_bits_truncate(status).intersects(FaultStatus::QUEUE) {
                return Err(Error::Queue { unit, status });
            }
            cpu::pause();
        }
        Err(Error::NoAnswer { unit, what: "an invalidation" })
    }
}
