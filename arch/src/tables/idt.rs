//! Interrupt descriptor tables: the host's, and the one of the drain window. SDM volume 3,
//! chapter 6.

#![expect(unsafe_code, reason = "loads the IDT")]

use super::{CODE_SELECTOR, IST_DOUBLE_FAULT, IST_MACHINE_CHECK, IST_NMI, Pointer, trap, window};
use core::arch::asm;
use spin::Once;

/// Bytes that each stub takes up, here and in the stubs' own `.align`.
pub const STUB: u64 = 16;

/// A 64-bit interrupt gate, SDM volume 3 figure 6-8.
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    low: u64,
    high: u64,
}

impl Gate {
    const fn new(handler: u64, ist: u8) -> Self {
        Self {
            low: handler & 0xFFFF
                | (CODE_SELECTOR as u64) << 16
                | (ist as u64) << 32
                | 0x8E << 40
                | (handler >> 16 & 0xFFFF) << 48,
            high: handler >> 32,
        }
    }
}

#[repr(C, align(4096))]
struct Idt([Gate; 256]);

static HOST: Once<Idt> = Once::new();
static WINDOW: Once<Idt> = Once::new();

fn build(stubs: impl Fn(u64) -> u64) -> Idt {
    let mut gates = [Gate { low: 0, high: 0 }; 256];
    for (vector, gate) in (0_u64..).zip(gates.iter_mut()) {
        let ist = match vector {
            2 => IST_NMI,
            8 => IST_DOUBLE_FAULT,
            18 => IST_MACHINE_CHECK,
            _ => 0,
        };
        *gate = Gate::new(stubs(vector), ist);
    }
    Idt(gates)
}

fn host() -> &'static Idt {
    HOST.call_once(|| build(|vector| trap::stubs() + vector * STUB))
}

/// Base of the host's IDT.
pub fn host_idt_address() -> u64 {
    core::ptr::from_ref(host()) as u64
}

fn load(idt: &'static Idt) {
    let pointer = Pointer { limit: 0xFFF, base: core::ptr::from_ref(idt) as u64 };
    // SAFETY: the table has a handler for every vector and lives for good.
    unsafe { asm!("lidt [{}]", in(reg) &pointer, options(nostack, preserves_flags)) };
}

/// Makes the host's IDT current.
pub fn load_host() {
    load(host());
}

/// Makes the drain window's IDT current. NMIs keep the host's handler.
pub fn load_window() {
    const NMI: u64 = 2;
    load(WINDOW.call_once(|| {
        build(|vector| if vector == NMI { trap::stubs() } else { window::stubs() } + vector * STUB)
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_splits_its_handler() {
        let gate = Gate::new(0x1122_3344_5566_7788, 1);
        assert_eq!(gate.low, 0x5566_8E01_0008_7788);
        assert_eq!(gate.high, 0x1122_3344);
    }
}
