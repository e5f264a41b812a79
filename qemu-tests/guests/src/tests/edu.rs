//! QEMU's `edu` device in the guest's hands: an interrupt for each write to a register, by MSI or by its line, and DMA when
//! told to. QEMU, docs/specs/edu.rst.

mod config;
mod dma;
mod hostile;
mod hostile_dma;
mod intx;
mod msi;
mod retarget;

use crate::runtime::cpu::{mmio_read, mmio_write};
use crate::runtime::irq::Frame;
use crate::runtime::pci::{self, Function, Message, Msi};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{lapic, time};
use core::sync::atomic::{AtomicU64, Ordering};

/// Registers.
const ID: u64 = 0x00;
const STATUS: u64 = 0x24;
const RAISE: u64 = 0x60;
const ACKNOWLEDGE: u64 = 0x64;
const DMA_FROM: u64 = 0x80;
const DMA_TO: u64 = 0x88;
const DMA_COUNT: u64 = 0x90;
const DMA_COMMAND: u64 = 0x98;
/// Its buffer, in the addresses of its own DMA only.
const BUFFER: u64 = 0x4_0000;
const BUFFER_SIZE: u64 = 4096;

/// Bits of the DMA command: go, from the buffer to memory, raise an interrupt at the end.
const RUN: u32 = 1;
const TO_MEMORY: u32 = 2;
const INTERRUPT: u32 = 4;
/// The status bit of the end of a DMA.
const DMA_DONE: u32 = 0x100;

/// Where `acknowledge` finds the registers.
static REGISTERS: AtomicU64 = AtomicU64::new(0);

/// The device.
#[derive(Clone, Copy)]
struct Edu {
    function: Function,
    msi: Msi,
    registers: u64,
}

impl Edu {
    /// Finds it and brings it to rest: memory and DMA on, no interrupt by either way.
    fn find() -> Outcome<Self> {
        let function = Function::find(0x1234, 0x11E8)?;
        let edu = Self { function, msi: Msi::of(function)?, registers: function.bar(0)? };
        REGISTERS.store(edu.registers, Ordering::SeqCst);
        edu.rest();
        ensure_eq!(edu.read(ID) & 0xFF, 0xED, "last byte of edu's id register");
        Ok(edu)
    }

    /// No interrupt by either way.
    fn rest(&self) {
        self.function.command(pci::MEMORY | pci::BUS_MASTER | pci::NO_INTX);
        self.msi.enable(false);
        self.acknowledge(!0);
    }

    /// Raises by MSI from now on, with this message.
    fn by_msi(&self, message: Message) {
        self.msi.enable(false);
        self.msi.program(message);
        self.msi.enable(true);
    }

    fn read(&self, register: u64) -> u32 {
        mmio_read(self.registers + register)
    }

    fn write(&self, register: u64, value: u32) {
        mmio_write(self.registers + register, value);
    }

    /// Sets bits of the status and raises an interrupt: an MSI each time, or the line until all bits are clear.
    fn raise(&self, bits: u32) {
        self.write(RAISE, bits);
    }

    fn status(&self) -> u32 {
        self.read(STATUS)
    }

    /// Clears bits of the status.
    fn acknowledge(&self, bits: u32) {
        self.write(ACKNOWLEDGE, bits);
    }

    /// Moves bytes between its buffer and memory and waits for the end.
    fn dma(&self, command: u32, memory: u64, offset: u64, count: u64) -> Outcome {
        let (from, to) = match command & TO_MEMORY {
            0 => (memory, BUFFER + offset),
            _ => (BUFFER + offset, memory),
        };
        self.write(DMA_FROM, from as u32);
        self.write(DMA_TO, to as u32);
        self.write(DMA_COUNT, count as u32);
        // What it shall read must have left the CPU; what it has written is read after the wait.
        core::sync::atomic::fence(Ordering::SeqCst);
        self.write(DMA_COMMAND, command | RUN);
        let done = time::wait(time::LONG, || self.read(DMA_COMMAND) & RUN == 0);
        ensure!(done, "DMA between buffer+{offset:#x} and {memory:#x} did not end");
        Ok(())
    }
}

/// A driver's handler: takes the cause away at the device, then ends the interrupt.
fn acknowledge(_: &mut Frame) {
    let registers = REGISTERS.load(Ordering::Relaxed);
    mmio_write(registers + ACKNOWLEDGE, mmio_read(registers + STATUS));
    lapic::eoi();
}
