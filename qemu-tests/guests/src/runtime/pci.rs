//! PCI functions: configuration space, BARs, MSI and MSI-X. Configuration goes by ports 0xCF8 and 0xCFC, which one CPU at a
//! time may use; tests that compare read it by the window in memory as well.
//! PCI Local Bus Specification 3.0, 3.2.2.3 (ports), 6.2.5 (BARs), 6.8 (MSI and MSI-X); SDM 3A 11.11 (messages).

use super::cpu::{in32, mmio_read, mmio_write, out16, out32};
use super::text::{Outcome, Text, ensure};

/// The two ports, and the address's enable bit.
pub const ADDRESS: u16 = 0xCF8;
pub const DATA: u16 = 0xCFC;
pub const ENABLE: u32 = 1 << 31;

/// Offsets of the header.
pub const COMMAND: u16 = 0x04;
pub const BAR0: u16 = 0x10;
const CAPABILITIES: u16 = 0x34;

/// Bits of the command register.
pub const MEMORY: u16 = 1 << 1;
pub const BUS_MASTER: u16 = 1 << 2;
pub const NO_INTX: u16 = 1 << 10;

/// Capability ids.
const MSI: u8 = 0x05;
const MSIX: u8 = 0x11;
const EXPRESS: u8 = 0x10;

/// A function: bus, device and function number, as bits 23:8 of the address port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function(u32);

impl Function {
    /// The first function with these ids.
    pub fn find(vendor: u16, device: u16) -> Outcome<Self> {
        let id = u32::from(device) << 16 | u32::from(vendor);
        (0..=u16::MAX)
            .map(Self::at)
            .find(|function| function.read(0) == id)
            .ok_or_else(|| Text::format(format_args!("no PCI function {vendor:04x}:{device:04x}")))
    }

    /// The function with this requester id: bus, device and function number in one.
    pub fn at(number: u16) -> Self {
        Self(u32::from(number) << 8)
    }

    /// Its requester id.
    pub fn number(self) -> u16 {
        (self.0 >> 8) as u16
    }

    /// Reads an aligned dword.
    pub fn read(self, offset: u16) -> u32 {
        self.select(offset);
        in32(DATA)
    }

    /// Writes an aligned dword.
    pub fn write(self, offset: u16, value: u32) {
        self.select(offset);
        out32(DATA, value);
    }

    /// Writes an aligned word and nothing beside it.
    pub fn write16(self, offset: u16, value: u16) {
        self.select(offset);
        out16(DATA + offset % 4, value);
    }

    fn select(self, offset: u16) {
        out32(ADDRESS, ENABLE | self.0 | u32::from(offset) & 0xFC);
    }

    /// Where an aligned dword is in the configuration window at `window`.
    pub fn in_window(self, window: u64, offset: u16) -> u64 {
        window + (u64::from(self.0) << 4) + u64::from(offset)
    }

    /// Sets the command register.
    pub fn command(self, bits: u16) {
        self.write16(COMMAND, bits);
    }

    /// Offset of a capability.
    fn capability(self, id: u8) -> Option<u16> {
        let mut at = self.read(CAPABILITIES) as u16 & 0xFC;
        // A list has at most 48 members; one that is a ring has no such capability.
        for _ in 0..48 {
            let header = self.read(at);
            if at == 0 || header as u8 == id {
                break;
            }
            at = (header >> 8) as u16 & 0xFC;
        }
        (at != 0 && self.read(at) as u8 == id).then_some(at)
    }

    /// Offset of its PCI Express capability.
    pub fn express(self) -> Outcome<u16> {
        let at = self.capability(EXPRESS);
        at.ok_or_else(|| "the function has no PCI Express capability".into())
    }

    /// Address of the memory BAR at `index`, which must be below 4 GiB.
    pub fn bar(self, index: u16) -> Outcome<u64> {
        let low = self.read(BAR0 + 4 * index);
        let high = if low & 0b110 == 0b100 { self.read(BAR0 + 4 * index + 4) } else { 0 };
        ensure!(low & 1 == 0 && low & !0xF != 0, "BAR {index} is {low:#x}");
        ensure!(high == 0, "BAR {index} is above 4 GiB");
        Ok(u64::from(low & !0xF))
    }
}

/// What a device writes where to raise an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub address: u64,
    pub data: u32,
}

impl Message {
    /// Fixed, edge, physical: `vector` on CPU `cpu`.
    pub fn to(cpu: usize, vector: u8) -> Self {
        Self { address: 0xFEE0_0000 | (cpu as u64) << 12, data: u32::from(vector) }
    }
}

/// The MSI capability.
#[derive(Clone, Copy, Debug)]
pub struct Msi {
    function: Function,
    at: u16,
    /// Offset of the data: messages have 32 or 64 bits of address.
    data: u16,
}

impl Msi {
    /// The capability of `function`.
    pub fn of(function: Function) -> Outcome<Self> {
        let Some(at) = function.capability(MSI) else {
            return Err("the function has no MSI capability".into());
        };
        let wide = function.read(at) >> 23 & 1 != 0;
        Ok(Self { function, at, data: at + if wide { 12 } else { 8 } })
    }

    /// Its place in the function's configuration space.
    pub fn offset(&self) -> u16 {
        self.at
    }

    /// On with one message, or off.
    pub fn enable(&self, on: bool) {
        self.control(on, 0);
    }

    /// On or off, with 1 shifted by `order` messages.
    pub fn control(&self, on: bool, order: u8) {
        self.function.write16(self.at + 2, u16::from(on) | u16::from(order) << 4);
    }

    /// 1 shifted by this many messages are there, and in use.
    pub fn orders(&self) -> (u8, u8) {
        let word = self.function.read(self.at) >> 16;
        ((word >> 1 & 7) as u8, (word >> 4 & 7) as u8)
    }

    /// Writes the whole message.
    pub fn program(&self, message: Message) {
        self.set_address(message.address);
        self.set_data(message.data);
    }

    /// Writes the address; its upper half only where there is one.
    pub fn set_address(&self, address: u64) {
        self.function.write(self.at + 4, address as u32);
        if self.data == self.at + 12 {
            self.function.write(self.at + 8, (address >> 32) as u32);
        }
    }

    /// Offset of the masks and of the pending bits, if it has them.
    fn masks(&self) -> Option<u16> {
        (self.function.read(self.at) >> 24 & 1 != 0).then_some(self.data + 4)
    }

    /// Masks messages, one bit for each, and gives the masks that stand then.
    pub fn mask(&self, messages: u32) -> Outcome<u32> {
        let at = self.masks().ok_or("the function cannot mask its messages")?;
        self.function.write(at, messages);
        Ok(self.function.read(at))
    }

    /// Messages that wait for their mask, one bit for each.
    pub fn pending(&self) -> Outcome<u32> {
        let at = self.masks().ok_or("the function cannot mask its messages")?;
        Ok(self.function.read(at + 4))
    }

    /// Changes the destination by one write.
    pub fn set_cpu(&self, cpu: usize) {
        self.function.write(self.at + 4, Message::to(cpu, 0).address as u32);
    }

    /// Writes the data, by one write.
    pub fn set_data(&self, data: u32) {
        self.function.write16(self.data, data as u16);
    }

    /// What stands in the registers.
    pub fn message(&self) -> Message {
        let read = |at| u64::from(self.function.read(at));
        let wide = self.data == self.at + 12;
        let high = if wide { read(self.at + 8) << 32 } else { 0 };
        Message { address: high | read(self.at + 4), data: read(self.data) as u32 & 0xFFFF }
    }
}

/// The MSI-X capability with its table.
#[derive(Clone, Copy, Debug)]
pub struct Msix {
    function: Function,
    at: u16,
    /// Address of the table.
    table: u64,
    /// Address of the pending bits.
    pending: u64,
    /// Entries of the table.
    pub entries: usize,
}

impl Msix {
    /// The capability of `function`, whose BARs must be set.
    pub fn of(function: Function) -> Outcome<Self> {
        let Some(at) = function.capability(MSIX) else {
            return Err("the function has no MSI-X capability".into());
        };
        let place = |offset| -> Outcome<u64> {
            let word = function.read(at + offset);
            Ok(function.bar(word as u16 & 7)? + u64::from(word & !7))
        };
        let entries = (function.read(at) >> 16 & 0x7FF) as usize + 1;
        Ok(Self { function, at, table: place(4)?, pending: place(8)?, entries })
    }

    /// On or off, all entries together masked or not.
    pub fn control(&self, on: bool, masked: bool) {
        self.function.write16(self.at + 2, u16::from(on) << 15 | u16::from(masked) << 14);
    }

    /// The control word.
    pub fn control_word(&self) -> u16 {
        (self.function.read(self.at) >> 16) as u16
    }

    /// Address of word `word` of an entry: address low and high, data, control.
    fn word(&self, entry: usize, word: u64) -> u64 {
        self.table + 16 * entry as u64 + 4 * word
    }

    /// Writes an entry's message; it should be masked.
    pub fn program(&self, entry: usize, message: Message) {
        mmio_write(self.word(entry, 0), message.address as u32);
        mmio_write(self.word(entry, 1), (message.address >> 32) as u32);
        mmio_write(self.word(entry, 2), message.data);
    }

    /// Masks an entry or unmasks it.
    pub fn mask(&self, entry: usize, masked: bool) {
        mmio_write(self.word(entry, 3), u32::from(masked));
    }

    /// The four words of an entry.
    pub fn entry(&self, entry: usize) -> [u32; 4] {
        [0, 1, 2, 3].map(|word| mmio_read(self.word(entry, word)))
    }

    /// Whether an entry's pending bit is set.
    pub fn is_pending(&self, entry: usize) -> bool {
        mmio_read(self.pending + entry as u64 / 32 * 4) >> (entry % 32) & 1 != 0
    }
}
