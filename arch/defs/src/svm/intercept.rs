//! Intercept bits. APM volume 2, table B-1.

#![allow(missing_docs, reason = "the names are the manual's")]

use bitflags::bitflags;

bitflags! {
    /// Intercepts at offset 0x0C.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct First: u32 {
        const INTR = 1 << 0;
        const NMI = 1 << 1;
        const SMI = 1 << 2;
        const INIT = 1 << 3;
        const VINTR = 1 << 4;
        /// CR0 writes that change more than TS and MP.
        const CR0_SELECTIVE = 1 << 5;
        const RDPMC = 1 << 15;
        const CPUID = 1 << 18;
        const IRET = 1 << 20;
        const INVD = 1 << 22;
        const HLT = 1 << 24;
        const INVLPGA = 1 << 26;
        /// Ports, by the permission map.
        const IOIO = 1 << 27;
        /// MSRs, by the permission map.
        const MSR = 1 << 28;
        const TASK_SWITCH = 1 << 29;
        const SHUTDOWN = 1 << 31;
    }
}

bitflags! {
    /// Intercepts at offset 0x10.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Second: u32 {
        const VMRUN = 1 << 0;
        const VMMCALL = 1 << 1;
        const VMLOAD = 1 << 2;
        const VMSAVE = 1 << 3;
        const STGI = 1 << 4;
        const CLGI = 1 << 5;
        const SKINIT = 1 << 6;
        const MONITOR = 1 << 10;
        const MWAIT = 1 << 11;
        const MWAIT_ARMED = 1 << 12;
        const XSETBV = 1 << 13;
        const RDPRU = 1 << 14;
    }
}

/// Intercepts reads of control register `n`.
#[must_use]
pub const fn cr_read(n: u8) -> u32 {
    1 << n
}

/// Intercepts writes of control register `n`.
#[must_use]
pub const fn cr_write(n: u8) -> u32 {
    1 << (16 + n)
}

/// Byte offset and bit of an MSR's read intercept in the permission map; its write intercept is the
/// next bit. `None`: the map does not cover it, and it always exits (APM section 15.11).
#[must_use]
pub const fn msr_bit(msr: u32) -> Option<(u64, u32)> {
    let (base, at) = match msr {
        0..=0x1FFF => (0, msr),
        0xC000_0000..=0xC000_1FFF => (0x800, msr - 0xC000_0000),
        0xC001_0000..=0xC001_1FFF => (0x1000, msr - 0xC001_0000),
        _ => return None,
    };
    Some((base + (at / 4) as u64, at % 4 * 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_permission_map_has_three_ranges() {
        assert_eq!(msr_bit(0), Some((0, 0)));
        assert_eq!(msr_bit(0x83F), Some((0x20F, 6)));
        assert_eq!(msr_bit(0xC000_0080), Some((0x820, 0)));
        assert_eq!(msr_bit(0xC001_1FFF), Some((0x17FF, 6)));
        assert_eq!(msr_bit(0x2000), None);
        assert_eq!(msr_bit(0x4B56_4D00), None);
    }
}
