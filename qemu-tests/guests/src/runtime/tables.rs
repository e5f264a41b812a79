//! GDT, TSS and IDT. One GDT and one IDT serve all CPUs; each CPU has its own TSS. SDM 3A chapters 3, 6, 8.

#![expect(unsafe_code, reason = "descriptor tables are read by the CPU")]

use super::cpu;
use super::smp::MAX_CPUS;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::ptr::{addr_of, addr_of_mut};

/// 64-bit code of ring 0.
pub const CODE64: u16 = 0x08;
/// Flat data of ring 0.
pub const DATA: u16 = 0x10;
/// Flat data of ring 3, with its privilege level.
pub const USER_DATA: u16 = 0x20 | 3;
/// 64-bit code of ring 3, with its privilege level.
pub const USER_CODE64: u16 = 0x28 | 3;
const FIRST_TSS: u16 = 0x30;

/// SDM 3A 8.7.
#[repr(C, packed(4))]
#[derive(Clone, Copy)]
struct Tss {
    reserved: u32,
    rsp: [u64; 3],
    reserved2: u64,
    ist: [u64; 7],
    reserved3: u64,
    reserved4: u16,
    io_map: u16,
}

#[repr(C, align(16))]
struct Tables {
    gdt: [u64; 6 + 2 * MAX_CPUS],
    tss: [Tss; MAX_CPUS],
    idt: [[u64; 2]; 256],
    fault_stacks: [[u8; 4096]; MAX_CPUS],
    ring0_stacks: [[u8; 8192]; MAX_CPUS],
    ids: [u64; MAX_CPUS],
}

struct Shared(UnsafeCell<Tables>);
// SAFETY: `init` runs alone before the other CPUs; `load` touches its own CPU's part; a gate changes while no CPU uses it.
unsafe impl Sync for Shared {}

static TABLES: Shared = Shared(UnsafeCell::new(Tables {
    gdt: [0; 6 + 2 * MAX_CPUS],
    tss: [Tss {
        reserved: 0,
        rsp: [0; 3],
        reserved2: 0,
        ist: [0; 7],
        reserved3: 0,
        reserved4: 0,
        io_map: 104,
    }; MAX_CPUS],
    idt: [[0; 2]; 256],
    fault_stacks: [[0; 4096]; MAX_CPUS],
    ring0_stacks: [[0; 8192]; MAX_CPUS],
    ids: [0; MAX_CPUS],
}));

/// Fills the tables; the boot CPU calls it once.
pub fn init() {
    let t = TABLES.0.get();
    // SAFETY: nobody else runs yet; only this function and `set_gate` write the shared part.
    unsafe {
        (*t).gdt[1] = 0x00AF_9B00_0000_FFFF;
        (*t).gdt[2] = 0x00CF_9300_0000_FFFF;
        (*t).gdt[3] = 0x00CF_9B00_0000_FFFF;
        (*t).gdt[4] = 0x00CF_F300_0000_FFFF;
        (*t).gdt[5] = 0x00AF_FB00_0000_FFFF;
        for i in 0..MAX_CPUS {
            let base = addr_of!((*t).tss[i]) as u64;
            (*t).tss[i].rsp[0] = addr_of!((*t).ring0_stacks[i]) as u64 + 8192;
            (*t).tss[i].ist[0] = addr_of!((*t).fault_stacks[i]) as u64 + 4096;
            let low = 103 | (base & 0xFF_FFFF) << 16 | 0x89 << 40 | (base >> 24 & 0xFF) << 56;
            let slot = usize::from(FIRST_TSS) / 8 + 2 * i;
            (*t).gdt[slot] = low;
            (*t).gdt[slot + 1] = base >> 32;
            (*t).ids[i] = i as u64;
        }
    }
    for vector in 0..=255 {
        reset_gate(vector);
    }
}

/// Loads the tables on the CPU with this index and makes `current` work there.
pub fn load(index: usize) {
    let t = TABLES.0.get();
    // SAFETY: the tables live for ever; the busy bit of this CPU's TSS is cleared first, as a restarted CPU loads it again.
    unsafe {
        let slot = usize::from(FIRST_TSS) / 8 + 2 * index;
        (*t).gdt[slot] &= !(2 << 40);
        let pointer = |base: u64, limit: u16| -> [u16; 5] {
            [limit, base as u16, (base >> 16) as u16, (base >> 32) as u16, (base >> 48) as u16]
        };
        let gdt = pointer(addr_of!((*t).gdt) as u64, (size_of_val(&(*t).gdt) - 1) as u16);
        let idt = pointer(addr_of!((*t).idt) as u64, 256 * 16 - 1);
        asm!("lgdt [{}]", in(reg) gdt.as_ptr(), options(nostack));
        asm!("lidt [{}]", in(reg) idt.as_ptr(), options(nostack));
        asm!("ltr {:x}", in(reg) FIRST_TSS + 16 * index as u16, options(nostack));
        cpu::wrmsr(cpu::IA32_GS_BASE, addr_of!((*t).ids[index]) as u64);
    }
}

/// Address of the IDT that all CPUs share.
pub fn idt() -> u64 {
    // SAFETY: takes an address only.
    unsafe { addr_of!((*TABLES.0.get()).idt) as u64 }
}

/// Makes this CPU use the 256 gates at `base`.
pub fn load_idt(base: u64) {
    let pointer =
        [256 * 16 - 1, base as u16, (base >> 16) as u16, (base >> 32) as u16, (base >> 48) as u16];
    // SAFETY: the caller has put gates there.
    unsafe { asm!("lidt [{}]", in(reg) pointer.as_ptr(), options(nostack)) };
}

/// Index of the CPU that asks.
pub fn current() -> usize {
    let index: usize;
    // SAFETY: GS points to this CPU's entry of `ids` since `load`.
    unsafe { asm!("mov {}, gs:[0]", out(reg) index, options(nostack, readonly)) };
    index
}

/// Lets `vector` enter the code at `handler` directly (an interrupt gate). #DF gets a stack of its own.
pub fn set_gate(vector: u8, handler: u64) {
    write_gate(vector, handler, vector == 8);
}

/// As `set_gate`, on the CPU's fault stack (see `fault_stack_top`).
pub fn set_gate_on_fault_stack(vector: u8, handler: u64) {
    write_gate(vector, handler, true);
}

/// Where the fault stack of a CPU begins: the first word pushed there is 8 below.
pub fn fault_stack_top(index: usize) -> u64 {
    // SAFETY: takes an address only.
    unsafe { addr_of!((*TABLES.0.get()).fault_stacks[index]) as u64 + 4096 }
}

fn write_gate(vector: u8, handler: u64, fault_stack: bool) {
    let ist = u64::from(fault_stack);
    let low = (handler & 0xFFFF)
        | u64::from(CODE64) << 16
        | ist << 32
        | 0x8E << 40
        | (handler >> 16 & 0xFFFF) << 48;
    // SAFETY: aligned stores of 8 bytes into a table that lives for ever; no CPU takes this vector meanwhile.
    unsafe {
        let gate = addr_of_mut!((*TABLES.0.get()).idt[usize::from(vector)]);
        gate.cast::<u64>().write_volatile(low);
        gate.cast::<u64>().add(1).write_volatile(handler >> 32);
    }
}

/// Where `vector` enters by default: the counting dispatcher of `trap`.
pub fn default_entry(vector: u8) -> u64 {
    super::trap::stub(vector)
}

/// Gives `vector` back to the counting dispatcher of `trap`.
pub fn reset_gate(vector: u8) {
    set_gate(vector, default_entry(vector));
}
