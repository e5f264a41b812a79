//! The first 64 bytes of configuration space. PCI 3.0, section 6.1; PCI-to-PCI Bridge Architecture 1.2, section 3.2.

use super::ConfigSpace;
use bitfield_struct::bitfield;
use core::ops::RangeInclusive;

/// Byte offsets.
pub mod offset {
    /// Vendor id (16 bits) and device id.
    pub const ID: u16 = 0x00;
    /// Command (16 bits).
    pub const COMMAND: u16 = 0x04;
    /// Status (16 bits).
    pub const STATUS: u16 = 0x06;
    /// Revision (8 bits) and class code.
    pub const CLASS: u16 = 0x08;
    /// Header type (8 bits).
    pub const HEADER_TYPE: u16 = 0x0E;
    /// First BAR.
    pub const BARS: u16 = 0x10;
    /// Subsystem vendor id (16 bits) and subsystem id.
    pub const SUBSYSTEM: u16 = 0x2C;
    /// Expansion ROM of a type 0 header.
    pub const ROM: u16 = 0x30;
    /// Pointer to the first capability (8 bits).
    pub const CAPABILITIES: u16 = 0x34;
    /// Interrupt line and pin (8 bits each).
    pub const INTERRUPT: u16 = 0x3C;
    /// Bus numbers of a bridge: primary, secondary, subordinate, latency timer.
    pub const BUSES: u16 = 0x18;
    /// Memory window of a bridge: base and limit (16 bits each).
    pub const MEMORY_WINDOW: u16 = 0x20;
    /// Prefetchable window of a bridge: base and limit (16 bits each).
    pub const PREFETCHABLE_WINDOW: u16 = 0x24;
    /// Upper halves of the prefetchable window.
    pub const PREFETCHABLE_HIGH: u16 = 0x28;
}

/// Vendor id of nobody.
pub const NO_VENDOR: u16 = 0xFFFF;

/// The command register.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct Command {
    /// Answers at its I/O BARs.
    pub io: bool,
    /// Answers at its memory BARs.
    pub memory: bool,
    /// May master the bus: DMA and messages.
    pub bus_master: bool,
    #[bits(3)]
    __: u8,
    /// Reports parity errors.
    pub parity: bool,
    __: bool,
    /// Reports system errors.
    pub serr: bool,
    __: bool,
    /// Its interrupt pin is silent.
    pub no_intx: bool,
    #[bits(5)]
    __: u8,
}

/// Status: the function asks for an interrupt by its pin, whether the pin is silenced or not.
pub const STATUS_INTERRUPT: u16 = 1 << 3;
/// Status: there is a list of capabilities.
pub const STATUS_CAPABILITIES: u16 = 1 << 4;

/// The header type register.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct HeaderType {
    /// 0 a function, 1 a PCI bridge, 2 a CardBus bridge.
    #[bits(7)]
    pub layout: u8,
    /// The device has more functions than number 0.
    pub multifunction: bool,
}

/// Number of BARs in a layout.
pub const fn bar_count(layout: u8) -> u8 {
    match layout {
        0 => 6,
        1 => 2,
        _ => 0,
    }
}

/// What of a bridge matters to those behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// The bus behind it.
    pub secondary: u8,
    /// The last bus behind it.
    pub subordinate: u8,
    /// Memory that it passes on: first and last byte; `None` if closed.
    pub memory: Option<(u64, u64)>,
    /// Prefetchable memory that it passes on.
    pub prefetchable: Option<(u64, u64)>,
}

impl Bridge {
    /// Reads a bridge; `None` if the header is not a PCI bridge's.
    pub fn read(space: &(impl ConfigSpace + ?Sized)) -> Option<Self> {
        if HeaderType::from_bits(space.read_u8(offset::HEADER_TYPE)).layout() != 1 {
            return None;
        }
        let [_, secondary, subordinate, _] = space.read_u32(offset::BUSES).to_le_bytes();
        let window = space.read_u32(offset::MEMORY_WINDOW);
        let memory = open(megabyte(window as u16), megabyte((window >> 16) as u16) | 0xF_FFFF);
        let window = space.read_u32(offset::PREFETCHABLE_WINDOW);
        let high = |at: u16| match window & 0xF {
            1 => u64::from(space.read_u32(offset::PREFETCHABLE_HIGH + at)) << 32,
            _ => 0,
        };
        let base = high(0) | megabyte(window as u16);
        let limit = high(4) | megabyte((window >> 16) as u16) | 0xF_FFFF;
        Some(Self { secondary, subordinate, memory, prefetchable: open(base, limit) })
    }

    /// The buses that it passes configuration requests and DMA of.
    pub fn buses(&self) -> RangeInclusive<u8> {
        self.secondary..=self.subordinate
    }
}

/// Bits 15:4 of a window register are address bits 31:20.
const fn megabyte(register: u16) -> u64 {
    ((register & 0xFFF0) as u64) << 16
}

/// A window whose limit is below its base is closed. Address 0 is where a bridge comes out of reset.
fn open(base: u64, limit: u64) -> Option<(u64, u64)> {
    (base != 0 && base < limit).then_some((base, limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_as_firmware_leaves_it() {
        let mut space = [0_u32; 16];
        space[3] = 1 << 16;
        space[6] = 0x0004_0200;
        space[8] = 0xFE90_FE80;
        space[9] = 0x0011_0001;
        space[10] = 0x8;
        space[11] = 0x8;
        let bridge = Bridge::read(&space[..]).unwrap();
        assert_eq!(bridge.buses(), 2..=4);
        assert_eq!(bridge.memory, Some((0xFE80_0000, 0xFE9F_FFFF)));
        assert_eq!(bridge.prefetchable, Some((0x8_0000_0000, 0x8_001F_FFFF)));
        // Closed: the limit is below the base.
        space[8] = 0x0000_FFF0;
        assert_eq!(Bridge::read(&space[..]).unwrap().memory, None);
        space[3] = 0;
        assert_eq!(Bridge::read(&space[..]), None);
    }
}
