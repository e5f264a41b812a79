//! The PCI bus by both ways to its configuration space: a host bridge and empty slots (S8, S9). PCI 3.0, section 3.2.2.3.

use crate::runtime::cpu::{in8, in16, in32, mmio_read, mmio_write, out8, out16, out32};
use crate::runtime::pci::{ADDRESS, DATA, ENABLE, Function};
use crate::runtime::random::Random;
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};

tests! { "up", Machine: s8_pci_host_bridge_by_ports, s8_pci_empty_slots_read_as_ones }
tests! { "up", Beeline: s8_pci_configuration_window, s8_pci_bus_is_empty, s9_pci_memory_window_is_nobodys }
tests! { "hostile", Beeline: s8_random_pci_configuration_writes_harm_nobody }

/// Configuration space of bus 0, as the MCFG says.
const ECAM: u64 = 0xE000_0000;
/// The host bridge's memory window.
const WINDOW: u64 = 0xC000_0000;

/// A register of a device and function on bus 0.
fn by_ports(slot: u16, offset: u16) -> u32 {
    Function::at(slot).read(offset)
}

fn s8_pci_host_bridge_by_ports() -> Outcome {
    // The way Linux probes: a byte in the middle of the address does not count, the dword reads back.
    out8(0xCFB, 1);
    out32(ADDRESS, ENABLE);
    ensure_eq!(in32(ADDRESS), ENABLE, "configuration address");
    let id = by_ports(0, 0);
    ensure!(id & 0xFFFF != 0xFFFF && id != 0, "nobody at 00:00.0");
    ensure_eq!(by_ports(0, 8) >> 16, 0x0600, "class of 00:00.0");
    // Narrow reads see their bytes.
    out32(ADDRESS, ENABLE);
    ensure_eq!(u32::from(in16(DATA + 2)), id >> 16, "device id");
    for byte in 0..4 {
        let expected = (id >> (8 * byte)) as u8;
        ensure_eq!(in8(DATA + byte), expected, "byte {byte} of the ids");
    }
    detail(format_args!("host={:04x}:{:04x}", id & 0xFFFF, id >> 16));
    Ok(())
}

fn s8_pci_empty_slots_read_as_ones() -> Outcome {
    // Device 16 is free on every bed's machine (31 is a bridge on q35), and so is bus 0x80.
    for address in [16 << 11, 0x80 << 16, 0x80 << 16 | 16 << 11] {
        for offset in [0, 4, 0x3C] {
            out32(ADDRESS, ENABLE | address | offset);
            ensure_eq!(in32(DATA), 0xFFFF_FFFF, "dword at {address:#x}+{offset:#x}");
            ensure_eq!(in16(DATA + 2), 0xFFFF, "word at {address:#x}+{offset:#x}");
            ensure_eq!(in8(DATA + 1), 0xFF, "byte at {address:#x}+{offset:#x}");
        }
    }
    // Without the enable bit these are ports like others.
    out32(ADDRESS, 0);
    ensure_eq!(in32(DATA), 0xFFFF_FFFF, "data without the enable bit");
    Ok(())
}

fn s8_pci_configuration_window() -> Outcome {
    for offset in (0..0x100).step_by(4) {
        let window = mmio_read(ECAM + u64::from(offset));
        ensure_eq!(window, by_ports(0, offset), "register {offset:#x} by both ways");
    }
    ensure_eq!(mmio_read(ECAM + 0x100), 0, "extended capabilities of the host bridge");
    ensure_eq!(mmio_read(ECAM + 0xFFC), 0, "its last register");
    ensure_eq!(mmio_read(ECAM + 0x1000), 0xFFFF_FFFF, "its other functions");
    ensure_eq!(mmio_read(ECAM + 0x10_0000), 0xFFFF_FFFF, "behind the window");
    Ok(())
}

fn s8_pci_bus_is_empty() -> Outcome {
    let mut found = 0;
    for slot in 0..256 {
        let there = by_ports(slot, 0) != 0xFFFF_FFFF;
        let window = mmio_read(ECAM + (u64::from(slot) << 12)) != 0xFFFF_FFFF;
        ensure_eq!(there, window, "presence of slot {slot:#x} by both ways");
        found += u32::from(there);
    }
    ensure_eq!(found, 1, "functions on the bus");
    Ok(())
}

fn s9_pci_memory_window_is_nobodys() -> Outcome {
    for offset in [0, 0x1000, 0x1234_5678 & !3, 0x1FFF_FFFC] {
        mmio_write(WINDOW + offset, 0x5A5A_5A5A);
        ensure_eq!(mmio_read(WINDOW + offset), 0xFFFF_FFFF, "window at {offset:#x}");
    }
    Ok(())
}

fn s8_random_pci_configuration_writes_harm_nobody() -> Outcome {
    const N: u64 = 5_000;
    let id = by_ports(0, 0);
    let mut random = Random::new(12);
    for _ in 0..N {
        let value = random.next() as u32;
        let at = random.next() as u32;
        match random.below(6) {
            0 => {
                // An address at random, then data of each width. 0xCF9 is the reset port.
                out32(ADDRESS, if random.below(4) == 0 { at } else { at & 0xFFFF | ENABLE });
                let byte = random.below(4) as u16;
                match random.below(3) {
                    0 => out8(DATA + byte, value as u8),
                    1 => out16(DATA + byte, value as u16),
                    _ => out32(DATA + byte, value),
                }
            }
            1 => drop((in8(DATA + (at & 3) as u16), in16(DATA + (at & 3) as u16))),
            2 => out16(ADDRESS + 2, value as u16),
            3 => drop(mmio_read(ECAM + u64::from(at & 0xF_FFFF))),
            4 => mmio_write(WINDOW + u64::from(at & 0x1FFF_FFFC), value),
            _ => mmio_write(ECAM + u64::from(at & 0xF_FFFF), value),
        }
    }
    ensure_eq!(by_ports(0, 0), id, "host bridge afterwards");
    ensure_eq!(by_ports(0, 8) >> 16, 0x0600, "its class afterwards");
    ensure_eq!(by_ports(8, 0), 0xFFFF_FFFF, "device 1 afterwards");
    detail(format_args!("accesses={N}"));
    Ok(())
}
