//! The IOAPIC's registers, and the routes that other tests program (H3, S2, S8). 82093AA data sheet.

use crate::runtime::cpu::{self, mmio_read, mmio_write};
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{irq, time};

tests! { "up", Machine: s8_ioapic_registers, s8_ioapic_register_select }
tests! { "up", Beeline: s2_ioapic_pins_with_dangerous_delivery_modes, s8_ioapic_absent_registers, s8_ioapic_odd_accesses }

const BASE: u64 = 0xFEC0_0000;
const WINDOW: u64 = BASE + 0x10;
const MASK: u32 = 1 << 16;

/// Polarity, remote IRR (the CPU has the interrupt and no EOI came yet), trigger mode.
const ACTIVE_LOW: u32 = 1 << 13;
pub const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u32 = 1 << 15;

/// Delivery mode of a redirection entry; Fixed is 0.
const NMI: u32 = 4 << 8;

/// Where a pin's edge goes.
pub struct Route {
    pub vector: u8,
    pub destination: u8,
    pub masked: bool,
}

fn read(register: u32) -> u32 {
    mmio_write(BASE, register);
    mmio_read(WINDOW)
}

fn write(register: u32, value: u32) {
    mmio_write(BASE, register);
    mmio_write(WINDOW, value);
}

/// Programs an edge-triggered, active-high, fixed, physical redirection entry.
pub fn route(pin: u32, route: Route) {
    write(0x10 + 2 * pin, MASK);
    write(0x11 + 2 * pin, u32::from(route.destination) << 24);
    write(0x10 + 2 * pin, u32::from(route.vector) | if route.masked { MASK } else { 0 });
}

/// Programs a level-triggered, active-low entry, as PCI's lines want it.
pub fn route_level(pin: u32, route: Route) {
    write(0x10 + 2 * pin, MASK);
    write(0x11 + 2 * pin, u32::from(route.destination) << 24);
    let masked = if route.masked { MASK } else { 0 };
    write(0x10 + 2 * pin, LEVEL | ACTIVE_LOW | u32::from(route.vector) | masked);
}

/// Programs a pin to send an NMI for each edge.
pub fn route_nmi(pin: u32, destination: u8) {
    write(0x10 + 2 * pin, MASK);
    write(0x11 + 2 * pin, u32::from(destination) << 24);
    write(0x10 + 2 * pin, NMI);
}

/// Unmasks a pin, or masks it, and leaves the rest of its entry alone.
pub fn set_mask(pin: u32, masked: bool) {
    let entry = read(0x10 + 2 * pin) & !MASK;
    write(0x10 + 2 * pin, if masked { entry | MASK } else { entry });
}

/// A pin's entry: vector and mode in the low half, destination in the high one.
pub fn entry(pin: u32) -> u64 {
    u64::from(read(0x11 + 2 * pin)) << 32 | u64::from(read(0x10 + 2 * pin))
}

/// Masks a pin.
pub fn mask(pin: u32) {
    write(0x10 + 2 * pin, MASK);
}

/// Ends level interrupts with this vector by the register that version 0x20 has for it.
pub fn end(vector: u8) {
    mmio_write(BASE + 0x40, vector.into());
}

fn pins() -> u32 {
    (read(1) >> 16 & 0xFF) + 1
}

fn s8_ioapic_registers() -> Outcome {
    let version = read(1);
    ensure!((0x10..0x40).contains(&(version & 0xFF)), "version {:#x}", version & 0xFF);
    ensure!(pins() >= 24, "only {} pins", pins());
    write(1, 0);
    ensure_eq!(read(1), version, "version after a write");
    for pin in 0..pins() {
        let (low, high) = (0x10 + 2 * pin, 0x11 + 2 * pin);
        write(low, MASK | 0x30);
        ensure_eq!(read(low), MASK | 0x30, "low half of pin {pin}");
        for destination in [0xFF00_0000, 0x5500_0000, 0] {
            write(high, destination);
            ensure_eq!(read(high) & 0xFF00_0000, destination, "destination of pin {pin}");
        }
        // Delivery status (12) and remote IRR (14) are read only.
        write(low, MASK | 0x30 | 1 << 12 | 1 << 14);
        ensure_eq!(read(low), MASK | 0x30, "read-only bits of pin {pin}");
        write(low, MASK);
    }
    detail(format_args!("pins={} version={:#x}", pins(), version & 0xFF));
    Ok(())
}

fn s8_ioapic_register_select() -> Outcome {
    for register in [0, 1, 0x10, 0x3F] {
        mmio_write(BASE, register);
        ensure_eq!(mmio_read(BASE) & 0xFF, register, "register select");
    }
    Ok(())
}

/// Registers that do not exist answer something and change nothing; Bochs 2.7 by itself stops the machine there.
fn s8_ioapic_absent_registers() -> Outcome {
    let version = read(1);
    for register in [0x03, 0x0F, 0x40, 0x80, 0xFF] {
        read(register);
        write(register, 0xFFFF_FFFF);
    }
    ensure_eq!(read(1), version, "version afterwards");
    Ok(())
}

/// Routes COM1's pin with every delivery mode, edges coming: only Fixed and LowestPri may do anything.
fn s2_ioapic_pins_with_dangerous_delivery_modes() -> Outcome {
    for mode in [2, 3, 5, 6, 7] {
        for vector in [0u32, 8, 0x48] {
            let before = irq::count_range(0, 0..=255);
            write(0x10 + 2 * 4, MASK);
            write(0x11 + 2 * 4, 0);
            write(0x10 + 2 * 4, mode << 8 | vector);
            cpu::out8(0x3FC, 0xB);
            cpu::out8(0x3F9, 2);
            time::delay(500);
            cpu::take_pending();
            cpu::in8(0x3FA);
            cpu::out8(0x3F9, 0);
            cpu::out8(0x3FC, 3);
            mask(4);
            let traps = irq::count_range(0, 0..=255) - before;
            ensure_eq!(traps, 0, "traps from a pin with mode {mode}, vector {vector:#x}");
        }
    }
    Ok(())
}

/// Other widths, unaligned addresses, the rest of the page.
fn s8_ioapic_odd_accesses() -> Outcome {
    let version = read(1);
    for offset in (0..0x100).chain([0xFFC]) {
        if offset != 0 && offset != 0x10 {
            mmio_read(BASE + offset);
            if offset >= 0x20 {
                mmio_write(BASE + offset, 0xFFFF_FFFF);
            }
        }
    }
    for pin in 0..pins() {
        mask(pin);
    }
    ensure_eq!(read(1), version, "version afterwards");
    Ok(())
}
