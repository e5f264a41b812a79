//! Several messages by plain MSI, and MSI-X beside it, by a USB controller (QEMU's `qemu-xhci`): 16 interrupters, each with a
//! message and an entry. Nothing is attached, and the controller never runs: an interrupter that is told that its event ring is
//! not empty, by a dequeue pointer that is not where the controller's own is, says so by its interrupt.
//! xHCI 1.2, 4.17 (interrupters), 5.5.2 (their registers); PCI 3.0, 6.8.1.

mod both;
mod delivery;
mod hostile;
mod retarget;

use crate::runtime::cpu::{mmio_read, mmio_write};
use crate::runtime::pci::{self, Function, Message, Msi, Msix};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::time;
use core::sync::atomic::{AtomicU64, Ordering};

/// Interrupters, messages and entries.
const MESSAGES: usize = 16;
const ORDER: u8 = 4;

/// Capability registers: length of these, place of the runtime registers.
const CAPLENGTH: u64 = 0x00;
const RTSOFF: u64 = 0x18;
/// Operational registers: command and status.
const USBCMD: u64 = 0x00;
const USBSTS: u64 = 0x04;
/// USBCMD: reset, interrupts on.
const HCRST: u32 = 1 << 1;
const INTE: u32 = 1 << 2;
/// USBSTS: not ready.
const CNR: u32 = 1 << 11;
/// Registers of an interrupter: management, moderation, size and place of its segment table, dequeue pointer.
const IMAN: u64 = 0x00;
const IMOD: u64 = 0x04;
const ERSTSZ: u64 = 0x08;
const ERSTBA: u64 = 0x10;
const ERDP: u64 = 0x18;
/// IMAN: pending (cleared by 1), enabled.
const PENDING: u32 = 1;
const ENABLED: u32 = 2;
/// ERDP: the handler was busy (cleared by 1).
const BUSY: u32 = 1 << 3;

/// Events of the ring that all interrupters share, as none is ever written. The least there may be.
const EVENTS: usize = 16;
const EVENT_SIZE: u32 = 16;

#[repr(C, align(64))]
struct Aligned<const N: usize>([AtomicU64; N]);
static RING: Aligned<{ 2 * EVENTS }> = Aligned([const { AtomicU64::new(0) }; 2 * EVENTS]);
/// Its one segment: address and events.
static SEGMENTS: Aligned<2> = Aligned([const { AtomicU64::new(0) }; 2]);

impl<const N: usize> Aligned<N> {
    /// Its physical address: memory is identity-mapped, and the test guest lies below 4 GiB.
    fn address(&self) -> u32 {
        self.0.as_ptr() as u32
    }
}

/// The device.
#[derive(Clone, Copy)]
struct Xhci {
    function: Function,
    msi: Msi,
    msix: Msix,
    operational: u64,
    runtime: u64,
}

impl Xhci {
    /// Finds it and resets it: all interrupters on, no interrupt by any way.
    fn find() -> Outcome<Self> {
        let function = Function::find(0x1B36, 0x000D)?;
        function.command(pci::MEMORY | pci::BUS_MASTER | pci::NO_INTX);
        let registers = function.bar(0)?;
        let xhci = Self {
            function,
            msi: Msi::of(function)?,
            msix: Msix::of(function)?,
            operational: registers + u64::from(mmio_read(registers + CAPLENGTH) & 0xFF),
            runtime: registers + u64::from(mmio_read(registers + RTSOFF) & !0x1F),
        };
        xhci.rest();
        ensure_eq!(xhci.msi.orders().0, ORDER, "order of its messages");
        ensure_eq!(xhci.msix.entries, MESSAGES, "entries");
        mmio_write(xhci.operational + USBCMD, HCRST);
        let ready = || {
            let busy = mmio_read(xhci.operational + USBCMD) & HCRST != 0;
            !busy && mmio_read(xhci.operational + USBSTS) & CNR == 0
        };
        ensure!(time::wait(time::LONG, ready), "the controller's reset does not end");
        SEGMENTS.0[0].store(RING.address().into(), Ordering::SeqCst);
        SEGMENTS.0[1].store(EVENTS as u64, Ordering::SeqCst);
        for interrupter in 0..MESSAGES {
            let at = xhci.interrupter(interrupter);
            mmio_write(at + IMOD, 0);
            mmio_write(at + ERSTSZ, 1);
            mmio_write(at + ERDP, RING.address());
            mmio_write(at + ERDP + 4, 0);
            mmio_write(at + ERSTBA, SEGMENTS.address());
            mmio_write(at + ERSTBA + 4, 0);
        }
        xhci.switch_on();
        mmio_write(xhci.operational + USBCMD, INTE);
        Ok(xhci)
    }

    fn interrupter(&self, interrupter: usize) -> u64 {
        self.runtime + 0x20 + 0x20 * interrupter as u64
    }

    /// All interrupters on. QEMU's must be told again once MSI-X is on.
    fn switch_on(&self) {
        for interrupter in 0..MESSAGES {
            mmio_write(self.interrupter(interrupter) + IMAN, PENDING);
            mmio_write(self.interrupter(interrupter) + IMAN, PENDING | ENABLED);
        }
    }

    /// No interrupt by any way.
    fn rest(&self) {
        self.function.command(pci::MEMORY | pci::BUS_MASTER | pci::NO_INTX);
        self.msi.control(false, 0);
        self.msix.control(false, false);
        (0..MESSAGES).for_each(|entry| self.msix.mask(entry, true));
    }

    /// Makes an interrupter raise its interrupt, by one write. Only one that has a message may: QEMU ends at others.
    fn raise(&self, interrupter: usize) {
        mmio_write(self.interrupter(interrupter) + ERDP, (RING.address() + EVENT_SIZE) | BUSY);
    }

    /// By MSI from now on, with 1 shifted by `order` messages; this one is message 0.
    fn by_msi(&self, message: Message, order: u8) {
        self.msi.enable(false);
        self.msi.program(message);
        self.msi.control(true, order);
    }
}
