//! Configuration access: ECAM windows (MCFG), mapped uncached, and the ports 0xCF8 and 0xCFC for what no window has.
//! PCIe 5.0, section 7.2.2; PCI 3.0, section 3.2.2.3.2.
//!
//! Locks: [`PORTS`], a leaf.

#![expect(unsafe_code, reason = "port I/O and device memory")]

use crate::{paging, time};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use arch_defs::acpi::EcamWindow;
use arch_defs::pci::{Bdf, CONFIG_SIZE, LEGACY_CONFIG_SIZE};
use core::ops::Range;
use spin::Mutex;

/// Bytes of a bus in an ECAM window.
const BUS: u64 = 1 << 20;
/// The address port; data follows at 0xCFC.
const ADDRESS: u16 = 0xCF8;
const DATA: u16 = 0xCFC;
const ENABLE: u32 = 1 << 31;

/// An address and its data belong together.
static PORTS: Mutex<()> = Mutex::new(());

/// Bytes of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// One.
    Byte,
    /// Two.
    Word,
    /// Four.
    Dword,
    /// Eight; device memory only.
    Qword,
}

impl Width {
    /// How many.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
            Self::Qword => 8,
        }
    }

    /// The part of it that one dword can hold.
    pub const fn min_dword(self) -> Self {
        if matches!(self, Self::Qword) { Self::Dword } else { self }
    }
}

/// Configuration space of all functions.
pub trait ConfigAccess {
    /// The dword at `offset` (aligned down); ones where nobody answers or that is not reachable.
    fn read(&self, function: Bdf, offset: u16) -> u32;

    /// Writes up to a dword, naturally aligned; without effect where nobody answers.
    fn write(&self, function: Bdf, offset: u16, width: Width, value: u32);

    /// Bus ranges where a walk begins: segment, first and last bus.
    fn buses(&self) -> Vec<(u16, u8, u8)>;

    /// Waits a number of microseconds.
    fn wait(&self, microseconds: u64);

    /// A clock that counts microseconds.
    fn now(&self) -> u64;
}

/// The machine's configuration space.
#[derive(Debug)]
pub struct Hardware {
    windows: Vec<EcamWindow>,
    tsc_hz: u64,
}

/// The memory of a window.
fn span(window: &EcamWindow) -> Option<Range<u64>> {
    // The base is that of bus 0, even if the window begins later.
    let start = window.base.checked_add(u64::from(window.first_bus) * BUS)?;
    let end = window.base.checked_add((u64::from(window.last_bus) + 1) * BUS)?;
    Some(start..end)
}

impl Hardware {
    /// Maps the windows of the MCFG. `ram`: a window over RAM would let configuration writes change it. Needs the
    /// final page tables.
    ///
    /// # Errors
    /// A window that cannot be one.
    pub fn new(windows: &[EcamWindow], ram: &[Range<u64>], tsc_hz: u64) -> Result<Self, String> {
        for window in windows {
            let limit = 1_u64 << crate::cpu::physical_bits();
            let span = span(window).filter(|s| window.base & (BUS - 1) == 0 && s.end <= limit);
            let base = window.base;
            let span = span.ok_or_else(|| {
                format!("ACPI MCFG table: base address {base:#x} is no place for a window")
            })?;
            if let Some(ram) = ram.iter().find(|ram| ram.start < span.end && span.start < ram.end) {
                return Err(format!(
                    "ACPI MCFG table: the window at {base:#x} lies over the RAM at {:#x}",
                    ram.start
                ));
            }
            paging::map_mmio(span);
        }
        Ok(Self { windows: windows.to_vec(), tsc_hz })
    }

    /// The memory of the windows.
    pub fn windows(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.windows.iter().filter_map(span)
    }

    /// The address of a register in its window.
    fn ecam(&self, function: Bdf, offset: u16) -> Option<u64> {
        let bus = function.bus();
        let window = self.windows.iter().find(|window| {
            window.segment == function.segment
                && (window.first_bus..=window.last_bus).contains(&bus)
        })?;
        let register = u64::from(function.requester()) << 12 | u64::from(offset);
        (offset < CONFIG_SIZE).then_some(window.base + register)
    }

    /// Runs `access` with the port of `offset`'s data, for functions that the ports reach.
    fn by_ports<T>(function: Bdf, offset: u16, access: impl FnOnce(u16) -> T) -> Option<T> {
        if function.segment != 0 || offset >= LEGACY_CONFIG_SIZE {
            return None;
        }
        let address = ENABLE | u32::from(function.requester()) << 8 | u32::from(offset & 0xFC);
        let _guard = PORTS.lock();
        // SAFETY: these are the ports of the host bridge; what is done with the register is the caller's decision.
        unsafe { x86::io::outl(ADDRESS, address) };
        Some(access(DATA + offset % 4))
    }
}

impl ConfigAccess for Hardware {
    fn read(&self, function: Bdf, offset: u16) -> u32 {
        let offset = offset & !3;
        match self.ecam(function, offset) {
            // SAFETY: the address is in a window that `new` mapped; reading configuration space changes nothing
            // that the image depends on.
            Some(address) => unsafe { (address as *const u32).read_volatile() },
            // SAFETY: the data port, under the lock.
            None => Self::by_ports(function, offset, |port| unsafe { x86::io::inl(port) })
                .unwrap_or(u32::MAX),
        }
    }

    fn write(&self, function: Bdf, offset: u16, width: Width, value: u32) {
        if u64::from(offset) % width.bytes() != 0 {
            return;
        }
        if let Some(address) = self.ecam(function, offset) {
            // SAFETY: the address is in a window that `new` mapped, and aligned. A function's registers can move its
            // memory and start DMA: the callers in this folder place it where firmware or a free gap lets them, and
            // leave bus mastering off until the IOMMU knows the function.
            unsafe {
                match width {
                    Width::Byte => (address as *mut u8).write_volatile(value as u8),
                    Width::Word => (address as *mut u16).write_volatile(value as u16),
                    Width::Dword => (address as *mut u32).write_volatile(value),
                    Width::Qword => {}
                }
            }
            return;
        }
        // SAFETY: the data port, under the lock; else as above.
        Self::by_ports(function, offset, |port| unsafe {
            match width {
                Width::Byte => x86::io::outb(port, value as u8),
                Width::Word => x86::io::outw(port, value as u16),
                Width::Dword => x86::io::outl(port, value),
                Width::Qword => {}
            }
        });
    }

    fn buses(&self) -> Vec<(u16, u8, u8)> {
        if self.windows.is_empty() {
            // By ports a look at every bus is slow, and such machines have one root.
            return alloc::vec![(0, 0, 0)];
        }
        self.windows.iter().map(|w| (w.segment, w.first_bus, w.last_bus)).collect()
    }

    fn wait(&self, microseconds: u64) {
        time::delay(self.tsc_hz.saturating_mul(microseconds) / 1_000_000);
    }

    fn now(&self) -> u64 {
        (u128::from(crate::cpu::rdtsc()) * 1_000_000 / u128::from(self.tsc_hz.max(1))) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_begins_at_its_first_bus() {
        let window = EcamWindow { base: 0xE000_0000, segment: 0, first_bus: 0x40, last_bus: 0x7F };
        assert_eq!(span(&window), Some(0xE400_0000..0xE800_0000));
        let hardware = Hardware { windows: alloc::vec![window], tsc_hz: 0 };
        let at = |text: &str, offset| hardware.ecam(text.parse().unwrap(), offset);
        assert_eq!(at("0000:41:02.3", 0x104), Some(0xE411_3104));
        assert_eq!(at("0000:3f:00.0", 0), None);
        assert_eq!(at("0001:41:00.0", 0), None);
        assert_eq!(at("0000:41:00.0", 4096), None);
        let far = EcamWindow { base: u64::MAX - 0xF_FFFF, ..window };
        assert_eq!(span(&far), None);
    }

    #[test]
    fn the_ports_reach_segment_0_and_256_bytes() {
        let other = Bdf::from_requester(1, 0);
        assert_eq!(Hardware::by_ports(other, 0, |_| ()), None);
        assert_eq!(Hardware::by_ports(Bdf::from_requester(0, 0), 256, |_| ()), None);
    }
}
