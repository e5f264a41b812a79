//! Instructions. They are safe functions: a test guest owns its machine and exists to do wrong things to it, and none of
//! them touches memory that Rust knows of. What they break is what the test shows.

#![expect(unsafe_code, reason = "wrappers of single instructions")]

use core::arch::asm;

pub const IA32_APIC_BASE: u32 = 0x1B;
pub const IA32_TSC_ADJUST: u32 = 0x3B;
pub const IA32_TSC: u32 = 0x10;
pub const IA32_TSC_DEADLINE: u32 = 0x6E0;
pub const IA32_EFER: u32 = 0xC000_0080;
pub const IA32_GS_BASE: u32 = 0xC000_0101;

/// Reads an MSR.
pub fn rdmsr(msr: u32) -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: reads a register; a fault goes to `catch`.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") lo, out("edx") hi, options(nostack)) };
    u64::from(hi) << 32 | u64::from(lo)
}

/// Writes an MSR.
pub fn wrmsr(msr: u32, value: u64) {
    let (lo, hi) = (value as u32, (value >> 32) as u32);
    // SAFETY: see the module comment; the compiler takes it as a write to any memory.
    unsafe { asm!("wrmsr", in("ecx") msr, in("eax") lo, in("edx") hi, options(nostack)) };
}

/// The time-stamp counter.
pub fn rdtsc() -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("rdtsc", out("eax") lo, out("edx") hi, options(nomem, nostack)) };
    u64::from(hi) << 32 | u64::from(lo)
}

/// The four registers of a CPUID leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpuid {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// CPUID with a sub-leaf.
pub fn cpuid(leaf: u32, sub_leaf: u32) -> Cpuid {
    let (eax, ebx, ecx, edx): (u32, u64, u32, u32);
    // SAFETY: reads registers; RBX belongs to the compiler, so it is saved by hand.
    unsafe {
        asm!(
            "mov {b}, rbx",
            "cpuid",
            "xchg {b}, rbx",
            b = out(reg) ebx,
            inout("eax") leaf => eax,
            inout("ecx") sub_leaf => ecx,
            out("edx") edx,
            options(nostack)
        );
    }
    Cpuid { eax, ebx: ebx as u32, ecx, edx }
}

/// Defines a port read and a port write of one width.
macro_rules! port {
    ($read:ident, $write:ident, $type:ty, $register:tt) => {
        /// Reads a port.
        pub fn $read(port: u16) -> $type {
            let value: $type;
            // SAFETY: port I/O; see the module comment.
            unsafe {
                asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value,
                     options(nostack));
            }
            value
        }

        /// Writes a port.
        pub fn $write(port: u16, value: $type) {
            // SAFETY: port I/O; see the module comment.
            unsafe {
                asm!(concat!("out dx, ", $register), in("dx") port, in($register) value,
                     options(nostack));
            }
        }
    };
}
port!(in8, out8, u8, "al");
port!(in16, out16, u16, "ax");
port!(in32, out32, u32, "eax");

/// Defines a read of a control or debug register.
macro_rules! read_register {
    ($($read:ident = $name:literal),+ $(,)?) => { $(
        /// Reads the register.
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: reads a register; a fault goes to `catch`.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nostack)) };
            value
        }
    )+ };
}
read_register!(cr0 = "cr0", cr2 = "cr2", cr3 = "cr3", cr4 = "cr4", cr8 = "cr8");
read_register!(dr6 = "dr6", dr7 = "dr7");

/// Defines a write of a control or debug register.
macro_rules! write_register {
    ($($write:ident = $name:literal),+ $(,)?) => { $(
        /// Writes the register.
        pub fn $write(value: u64) {
            // SAFETY: see the module comment; a fault goes to `catch`.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack)) };
        }
    )+ };
}
write_register!(set_cr0 = "cr0", set_cr3 = "cr3", set_cr4 = "cr4", set_cr8 = "cr8");
write_register!(set_dr0 = "dr0", set_dr6 = "dr6", set_dr7 = "dr7");

/// IF = 0.
pub fn cli() {
    // SAFETY: memory accesses are not moved across (no `nomem`).
    unsafe { asm!("cli", options(nostack)) };
}

/// IF = 1.
pub fn sti() {
    // SAFETY: as for `cli`.
    unsafe { asm!("sti", options(nostack)) };
}

/// Opens IF and halts; an interrupt that is pending is taken after HLT has begun, never before.
pub fn sti_hlt() {
    // SAFETY: the STI shadow closes the race between a last check with IF = 0 and the halt.
    unsafe { asm!("sti", "hlt", options(nostack)) };
}

/// Halts with IF as it is.
pub fn hlt() {
    // SAFETY: waits.
    unsafe { asm!("hlt", options(nostack)) };
}

/// Spin-wait hint.
pub fn pause() {
    core::hint::spin_loop();
}

/// RFLAGS.
pub fn flags() -> u64 {
    let value: u64;
    // SAFETY: pushes and pops its own word.
    unsafe { asm!("pushfq", "pop {}", out(reg) value) };
    value
}

/// Whether IF is 1.
pub fn interrupts_enabled() -> bool {
    flags() & (1 << 9) != 0
}

/// Runs `f` with IF = 0 and restores IF.
pub fn without_interrupts<R>(f: impl FnOnce() -> R) -> R {
    let enabled = interrupts_enabled();
    cli();
    let result = f();
    if enabled {
        sti();
    }
    result
}

/// Opens IF for a few instructions, so that everything pending is taken.
pub fn take_pending() {
    // SAFETY: handlers restore every register.
    unsafe { asm!("sti", "nop", "nop", "nop", "cli", options(nostack)) };
}

/// XGETBV.
pub fn xgetbv(index: u32) -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: reads a register; a fault goes to `catch`.
    unsafe { asm!("xgetbv", in("ecx") index, out("eax") lo, out("edx") hi, options(nostack)) };
    u64::from(hi) << 32 | u64::from(lo)
}

/// XSETBV.
pub fn xsetbv(index: u32, value: u64) {
    let (lo, hi) = (value as u32, (value >> 32) as u32);
    // SAFETY: the guest uses no extended state; a fault goes to `catch`.
    unsafe { asm!("xsetbv", in("ecx") index, in("eax") lo, in("edx") hi, options(nostack)) };
}

/// Reads 32 bits of device memory at a physical address below 4 GiB (identity mapped).
pub fn mmio_read(address: u64) -> u32 {
    let value: u32;
    // SAFETY: the caller names a device register or a hole; all of 4 GiB is mapped.
    unsafe { asm!("mov {:e}, [{}]", out(reg) value, in(reg) address, options(nostack)) };
    value
}

/// Writes 32 bits of device memory at a physical address below 4 GiB (identity mapped).
pub fn mmio_write(address: u64, value: u32) {
    // SAFETY: as for `mmio_read`; the caller names no memory that Rust knows of.
    unsafe { asm!("mov [{}], {:e}", in(reg) address, in(reg) value, options(nostack)) };
}
