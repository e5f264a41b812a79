//! COM1: a 16550A with its FIFOs, its loopback and its interrupt line.
//!
//! Called by the port I/O exit handler (ports 0x3F8-0x3FF) and by the console, on the housekeeping core, which feeds
//! it bytes and drains it. The caller holds the VM's device lock, and after every call passes the line on:
//! `if uart.take_dip() { ioapic.set_line(4, false) }` and `ioapic.set_line(4, uart.interrupt_line())`.
//!
//! Time does not exist here: a byte leaves as soon as the sink takes it, and the character timeout of the receive
//! FIFO strikes at once. Source: National Semiconductor PC16550D data sheet.

mod fifo;
#[cfg(test)]
mod tests;

use fifo::Fifo;

/// Bits of the interrupt enable register.
mod ier {
    pub const RECEIVED: u8 = 1 << 0;
    pub const THR_EMPTY: u8 = 1 << 1;
    pub const LINE_STATUS: u8 = 1 << 2;
    pub const MODEM_STATUS: u8 = 1 << 3;
    pub const ALL: u8 = 0x0F;
}

/// Values of the interrupt identification register, highest priority first.
mod iir {
    pub const LINE_STATUS: u8 = 0x06;
    pub const RECEIVED: u8 = 0x04;
    pub const TIMEOUT: u8 = 0x0C;
    pub const THR_EMPTY: u8 = 0x02;
    pub const MODEM_STATUS: u8 = 0x00;
    pub const NONE: u8 = 0x01;
    pub const FIFOS_ON: u8 = 0xC0;
}

/// Bits of the modem control register.
mod mcr {
    pub const DTR: u8 = 1 << 0;
    pub const RTS: u8 = 1 << 1;
    pub const OUT1: u8 = 1 << 2;
    pub const OUT2: u8 = 1 << 3;
    pub const LOOPBACK: u8 = 1 << 4;
    pub const ALL: u8 = 0x1F;
}

/// Bits of the line status register.
mod lsr {
    pub const DATA_READY: u8 = 1 << 0;
    pub const OVERRUN: u8 = 1 << 1;
    pub const THR_EMPTY: u8 = 1 << 5;
    pub const ALL_EMPTY: u8 = 1 << 6;
}

/// Bits of the modem status register; the low half says which of the high half changed.
mod msr {
    pub const CTS: u8 = 1 << 4;
    pub const DSR: u8 = 1 << 5;
    pub const RING: u8 = 1 << 6;
    pub const DCD: u8 = 1 << 7;
    pub const RING_ENDED: u8 = 1 << 2;
}

const DLAB: u8 = 1 << 7;

/// The UART.
#[derive(Debug)]
pub struct Uart {
    receive: Fifo,
    transmit: Fifo,
    fifos_on: bool,
    /// Receive trigger level, in bytes.
    trigger: u8,
    overrun: bool,
    /// The "transmitter empty" interrupt is latched: reading it from IIR, or a new byte, takes it back.
    thr_interrupt: bool,
    /// The line went low and high again inside one call.
    dipped: bool,
    ier: u8,
    lcr: u8,
    mcr: u8,
    modem_changes: u8,
    scratch: u8,
    divisor: [u8; 2],
}

impl Uart {
    /// As after a reset.
    pub const fn new() -> Self {
        Self {
            receive: Fifo::new(),
            transmit: Fifo::new(),
            fifos_on: false,
            trigger: 1,
            overrun: false,
            thr_interrupt: false,
            dipped: false,
            ier: 0,
            lcr: 0,
            mcr: 0,
            modem_changes: 0,
            scratch: 0,
            // 9600 baud, for software that reads it before it sets it.
            divisor: [12, 0],
        }
    }

    /// A guest's read of register `offset`, modulo 8.
    pub fn read(&mut self, offset: u16) -> u8 {
        match (offset & 7, self.lcr & DLAB != 0) {
            (0, true) => self.divisor[0],
            (1, true) => self.divisor[1],
            (0, _) => self.receive.pop().unwrap_or(0),
            (1, _) => self.ier,
            (2, _) => self.read_interrupt(),
            (3, _) => self.lcr,
            (4, _) => self.mcr,
            (5, _) => {
                let status = self.line_status();
                self.overrun = false;
                status
            }
            (6, _) => self.modem_lines() | core::mem::take(&mut self.modem_changes),
            _ => self.scratch,
        }
    }

    /// A guest's write of register `offset`, modulo 8. Bytes go to `sink` as long as it returns true; what it does
    /// not take is kept for [`Uart::tx_ready`].
    pub fn write(&mut self, offset: u16, value: u8, sink: &mut impl FnMut(u8) -> bool) {
        match (offset & 7, self.lcr & DLAB != 0) {
            (0, true) => self.divisor[0] = value,
            (1, true) => self.divisor[1] = value,
            (0, _) => self.transmit(value, sink),
            (1, _) => {
                let newly = value & !self.ier & ier::THR_EMPTY != 0;
                self.ier = value & ier::ALL;
                // Enabling the interrupt with nothing to send raises it; drivers start their output that way, and
                // Linux tests for it.
                if newly && self.transmit.is_empty() {
                    self.thr_interrupt = true;
                }
            }
            (2, _) => self.fifo_control(value),
            (3, _) => self.lcr = value,
            (4, _) => self.modem_control(value, sink),
            // LSR is for the factory, MSR is read only.
            (5 | 6, _) => {}
            _ => self.scratch = value,
        }
    }

    /// A byte from outside. False when it cannot be taken now (FIFO full, or loopback): keep it and come again
    /// after the guest's next read. So nothing is ever overrun from outside.
    #[must_use]
    pub fn receive(&mut self, byte: u8) -> bool {
        self.mcr & mcr::LOOPBACK == 0 && self.receive.push(byte, self.depth())
    }

    /// The sink has room again: sends what was kept.
    pub fn tx_ready(&mut self, sink: &mut impl FnMut(u8) -> bool) {
        if !self.transmit.is_empty() {
            self.drain(sink);
        }
    }

    /// Whether bytes wait for [`Uart::tx_ready`].
    pub const fn tx_waiting(&self) -> bool {
        !self.transmit.is_empty()
    }

    /// The interrupt line behind the OUT2 gate of a PC; loopback holds the OUT2 pin inactive.
    pub fn interrupt_line(&self) -> bool {
        self.mcr & (mcr::OUT2 | mcr::LOOPBACK) == mcr::OUT2 && self.cause() != iir::NONE
    }

    /// Whether the line fell and rose again inside a call since the last question. A byte written while the
    /// "transmitter empty" interrupt stands takes it back and, sent at once, raises it anew: a driver that never
    /// reads IIR waits for that edge.
    #[must_use]
    pub fn take_dip(&mut self) -> bool {
        core::mem::take(&mut self.dipped)
    }

    const fn depth(&self) -> u8 {
        if self.fifos_on { fifo::SIZE } else { 1 }
    }

    /// The cause with the highest priority, as IIR names it.
    fn cause(&self) -> u8 {
        let received = self.receive.len();
        if self.ier & ier::LINE_STATUS != 0 && self.overrun {
            iir::LINE_STATUS
        } else if self.ier & ier::RECEIVED != 0 && received >= self.trigger {
            iir::RECEIVED
        } else if self.ier & ier::RECEIVED != 0 && received > 0 {
            iir::TIMEOUT
        } else if self.ier & ier::THR_EMPTY != 0 && self.thr_interrupt {
            iir::THR_EMPTY
        } else if self.ier & ier::MODEM_STATUS != 0 && self.modem_changes != 0 {
            iir::MODEM_STATUS
        } else {
            iir::NONE
        }
    }

    fn read_interrupt(&mut self) -> u8 {
        let cause = self.cause();
        if cause == iir::THR_EMPTY {
            self.thr_interrupt = false;
        }
        if self.fifos_on { cause | iir::FIFOS_ON } else { cause }
    }

    fn line_status(&self) -> u8 {
        let mut status = 0;
        if !self.receive.is_empty() {
            status |= lsr::DATA_READY;
        }
        if self.overrun {
            status |= lsr::OVERRUN;
        }
        if self.transmit.is_empty() {
            status |= lsr::THR_EMPTY | lsr::ALL_EMPTY;
        }
        status
    }

    /// The high half of MSR: a cable with somebody at the other end, or in loopback our own outputs.
    const fn modem_lines(&self) -> u8 {
        if self.mcr & mcr::LOOPBACK == 0 {
            return msr::CTS | msr::DSR | msr::DCD;
        }
        let mut lines = 0;
        if self.mcr & mcr::RTS != 0 {
            lines |= msr::CTS;
        }
        if self.mcr & mcr::DTR != 0 {
            lines |= msr::DSR;
        }
        if self.mcr & mcr::OUT1 != 0 {
            lines |= msr::RING;
        }
        if self.mcr & mcr::OUT2 != 0 {
            lines |= msr::DCD;
        }
        lines
    }

    fn modem_control(&mut self, value: u8, sink: &mut impl FnMut(u8) -> bool) {
        let before = self.modem_lines();
        self.mcr = value & mcr::ALL;
        let after = self.modem_lines();
        // RING counts only when it ends; the others at every change.
        let mut changes = (before ^ after) >> 4 & !msr::RING_ENDED;
        if before & !after & msr::RING != 0 {
            changes |= msr::RING_ENDED;
        }
        self.modem_changes |= changes;
        // Bytes that waited go where the transmitter is connected now.
        self.tx_ready(sink);
    }

    fn fifo_control(&mut self, value: u8) {
        const ENABLE: u8 = 1 << 0;
        const CLEAR_RECEIVE: u8 = 1 << 1;
        const CLEAR_TRANSMIT: u8 = 1 << 2;
        let on = value & ENABLE != 0;
        // Switching the FIFOs on or off empties both; the other bits count only while they are on.
        let switched = on != self.fifos_on;
        self.fifos_on = on;
        if switched || on && value & CLEAR_RECEIVE != 0 {
            self.receive.clear();
        }
        if (switched || on && value & CLEAR_TRANSMIT != 0) && !self.transmit.is_empty() {
            self.transmit.clear();
            self.thr_interrupt = true;
        }
        self.trigger = match (on, value >> 6) {
            (false, _) | (_, 0) => 1,
            (_, 1) => 4,
            (_, 2) => 8,
            _ => 14,
        };
    }

    fn transmit(&mut self, byte: u8, sink: &mut impl FnMut(u8) -> bool) {
        let was_high = self.interrupt_line();
        self.thr_interrupt = false;
        let fell = was_high && !self.interrupt_line();
        // A driver that did not wait for room loses the byte, as on the chip.
        self.transmit.push(byte, self.depth());
        self.drain(sink);
        self.dipped |= fell && self.interrupt_line();
    }

    fn drain(&mut self, sink: &mut impl FnMut(u8) -> bool) {
        while let Some(byte) = self.transmit.front() {
            if self.mcr & mcr::LOOPBACK != 0 {
                self.overrun |= !self.receive.push(byte, self.depth());
            } else if !sink(byte) {
                return;
            }
            self.transmit.pop();
        }
        self.thr_interrupt = true;
    }
}

impl Default for Uart {
    fn default() -> Self {
        Self::new()
    }
}
