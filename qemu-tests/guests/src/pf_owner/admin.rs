//! An NVMe controller with its admin queue, one command at a time, polled. NVMe base specification 1.4, 3.1 (registers), 4
//! (queues), 7.6.1 (initialisation).

#![expect(unsafe_code, reason = "memory that a device reads and writes")]

use crate::runtime::cpu::{mmio_read, mmio_write};
use crate::runtime::text::{Outcome, Text, ensure};
use crate::runtime::time;
use core::cell::UnsafeCell;
use core::sync::atomic::{Ordering, fence};

/// Registers.
const CAPABILITIES: u64 = 0x00;
const INTERRUPT_MASK: u64 = 0x0C;
const CONFIGURATION: u64 = 0x14;
const STATUS: u64 = 0x1C;
const QUEUE_SIZES: u64 = 0x24;
const SUBMISSIONS: u64 = 0x28;
const COMPLETIONS: u64 = 0x30;
const DOORBELLS: u64 = 0x1000;

/// Status bits: ready, failed.
const READY: u32 = 1 << 0;
const FAILED: u32 = 1 << 1;
/// Configuration: enabled, 4 KiB pages, entries of 64 and 16 bytes for the queues that are never made.
const ENABLED: u32 = 1 | 6 << 16 | 4 << 20;
/// Entries of either queue.
const ENTRIES: u16 = 16;

/// What the controller reads and writes: a page each.
#[repr(C, align(4096))]
struct Pages {
    submissions: [[u32; 16]; 64],
    completions: [[u32; 4]; 256],
    data: [u8; 4096],
}

struct Dma(UnsafeCell<Pages>);
// SAFETY: only the boot CPU and the controller that is spoken to touch it.
unsafe impl Sync for Dma {}
static DMA: Dma = Dma(UnsafeCell::new(Pages {
    submissions: [[0; 16]; 64],
    completions: [[0; 4]; 256],
    data: [0; 4096],
}));

/// A command; words that are not named are 0.
#[derive(Clone, Copy, Default)]
pub struct Command {
    pub opcode: u8,
    pub word10: u32,
    pub word11: u32,
}

/// An enabled controller.
pub struct Controller {
    registers: u64,
    /// Bytes between doorbells.
    stride: u64,
    /// Where the next command goes, and the next completion is expected with this phase.
    next: u16,
    phase: u32,
    /// How long anything may take.
    patience: u64,
}

impl Controller {
    /// Takes the controller at `registers` out of whatever state it is in.
    pub fn enable(registers: u64) -> Outcome<Self> {
        let (low, high) = (mmio_read(registers), mmio_read(registers + CAPABILITIES + 4));
        ensure!(low != u32::MAX, "it does not answer");
        ensure!(high >> 16 & 0xF == 0, "it has no pages of 4 KiB");
        let patience = u64::from(low >> 24).max(1) * time::UNITS / 2;
        let controller = Self { registers, stride: 4 << (high & 0xF), next: 0, phase: 1, patience };
        controller.write(CONFIGURATION, 0);
        let off = time::wait(patience, || controller.read(STATUS) & READY == 0);
        ensure!(off, "it cannot be disabled: CSTS {:#x}", controller.read(STATUS));
        controller.write(INTERRUPT_MASK, u32::MAX);
        let pages = DMA.0.get();
        // SAFETY: the disabled controller does not touch the pages.
        let (submissions, completions) = unsafe {
            (*pages).completions.fill([0; 4]);
            ((&raw const (*pages).submissions) as u64, (&raw const (*pages).completions) as u64)
        };
        let last = u32::from(ENTRIES - 1);
        controller.write(QUEUE_SIZES, last << 16 | last);
        for (register, value) in [(SUBMISSIONS, submissions), (COMPLETIONS, completions)] {
            controller.write(register, value as u32);
            controller.write(register + 4, (value >> 32) as u32);
        }
        controller.write(CONFIGURATION, ENABLED);
        let ready = time::wait(patience, || controller.read(STATUS) & (READY | FAILED) != 0)
            && controller.read(STATUS) & FAILED == 0;
        ensure!(ready, "it does not become ready: CSTS {:#x}", controller.read(STATUS));
        Ok(controller)
    }

    fn read(&self, register: u64) -> u32 {
        mmio_read(self.registers + register)
    }

    fn write(&self, register: u64, value: u32) {
        mmio_write(self.registers + register, value);
    }

    /// Has a command done. `Err` holds status code and type, or why there is none.
    pub fn run(&mut self, command: Command) -> Result<(), Failure> {
        let pages = DMA.0.get();
        let slot = usize::from(self.next);
        // SAFETY: all earlier commands are done, so the controller reads nothing before its doorbell.
        let data = unsafe { (&raw const (*pages).data) as u64 };
        let mut words = [0; 16];
        words[0] = u32::from(command.opcode) | u32::from(self.next) << 16;
        (words[6], words[7]) = (data as u32, (data >> 32) as u32);
        (words[10], words[11]) = (command.word10, command.word11);
        // SAFETY: as above; the slot is one of `ENTRIES`.
        unsafe { (&raw mut (*pages).submissions[slot]).write_volatile(words) };
        self.next = (self.next + 1) % ENTRIES;
        fence(Ordering::SeqCst);
        self.write(DOORBELLS, self.next.into());
        // SAFETY: the controller writes here by itself: read anew each time.
        let status = || unsafe { (&raw const (*pages).completions[slot][3]).read_volatile() };
        if !time::wait(self.patience, || status() >> 16 & 1 == self.phase) {
            return Err(Failure::Silent);
        }
        fence(Ordering::SeqCst);
        let status = status() >> 17;
        if self.next == 0 {
            self.phase ^= 1;
        }
        self.write(DOORBELLS + self.stride, self.next.into());
        if status & 0x7FF == 0 { Ok(()) } else { Err(Failure::Status(status & 0x7FF)) }
    }

    /// Data that the last command has fetched, little-endian, by byte offset.
    pub fn data16(&self, at: usize) -> u16 {
        self.data32(at) as u16
    }

    /// The same, four bytes.
    pub fn data32(&self, at: usize) -> u32 {
        // SAFETY: no command is under way.
        let data = unsafe { &(*DMA.0.get()).data };
        u32::from_le_bytes(core::array::from_fn(|i| data.get(at + i).copied().unwrap_or(0)))
    }
}

/// Why a command was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No completion came.
    Silent,
    /// Status code in bits 7:0, its type in bits 10:8.
    Status(u32),
}

impl Failure {
    /// The reason for a line, with what was tried.
    pub fn of(self, what: &str) -> Text {
        match self {
            Self::Silent => Text::format(format_args!("{what}: no answer")),
            Self::Status(status) => Text::format(format_args!("{what}: status {status:#x}")),
        }
    }
}
