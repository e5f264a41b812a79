//! Registers that VM entry does not load are in their initial state at each start of a VM (S7). Memory cannot tell the
//! runs apart, as it is cleared: each run checks, leaves a pattern in all of them and restarts the VM. The host counts
//! the starts.

#![expect(unsafe_code, reason = "reads and writes registers that Rust does not use here")]

use crate::runtime::registry::tests;
use crate::runtime::serial::{self, println};
use crate::runtime::text::{Outcome, ensure, ensure_eq, fail};
use crate::runtime::{cpu, time};
use core::arch::asm;

tests! { "restart-state", Beeline: s7_registers_do_not_survive_a_restart }

/// A canonical address, so that it fits everywhere.
const PATTERN: u64 = 0x0000_5EC2_E7A5_5A70;
const MXCSR_INITIAL: u32 = 0x1F80;
/// FTZ, rounding to zero, no exception unmasked.
const MXCSR_PATTERN: u32 = 0xFF80;

/// CR0.MP, CR0.EM and CR0.TS.
const CR0_MP: u64 = 1 << 1;
const CR0_EM: u64 = 1 << 2;
const CR0_TS: u64 = 1 << 3;
/// CR4.OSFXSR, CR4.OSXMMEXCPT and CR4.OSXSAVE.
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_OSXSAVE: u64 = 1 << 18;

/// What FXSAVE64 writes. SDM 1 10.5.1.
#[repr(C, align(16))]
struct Legacy {
    /// FCW, FSW, FTW, FOP.
    words: [u16; 4],
    fip: u64,
    fdp: u64,
    mxcsr: u32,
    mxcsr_mask: u32,
    /// ST0 to ST7, which are MM0 to MM7.
    st: [[u64; 2]; 8],
    xmm: [[u64; 2]; 16],
    reserved: [u64; 12],
}

/// Lets SSE instructions run, and AVX ones if there are any.
fn open_extended_state() -> bool {
    let features = cpu::cpuid(1, 0).ecx;
    let avx = features >> 26 & 1 != 0 && features >> 28 & 1 != 0;
    cpu::set_cr0(cpu::cr0() & !(CR0_EM | CR0_TS) | CR0_MP);
    cpu::set_cr4(cpu::cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
    if avx {
        cpu::set_cr4(cpu::cr4() | CR4_OSXSAVE);
        cpu::xsetbv(0, 7);
    }
    avx
}

fn debug_addresses() -> [u64; 4] {
    let (a, b, c, d): (u64, u64, u64, u64);
    // SAFETY: reads registers.
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3",
             out(reg) a, out(reg) b, out(reg) c, out(reg) d, options(nostack));
    }
    [a, b, c, d]
}

fn legacy() -> Legacy {
    let mut area = core::mem::MaybeUninit::<Legacy>::zeroed();
    // SAFETY: FXSAVE64 writes 512 aligned bytes, which are all numbers.
    unsafe {
        asm!("fxsave64 [{}]", in(reg) area.as_mut_ptr(), options(nostack));
        area.assume_init()
    }
}

fn ymm9() -> [u64; 4] {
    let mut value = [0; 4];
    // SAFETY: writes 32 bytes of ours.
    unsafe { asm!("vmovups [{}], ymm9", in(reg) value.as_mut_ptr(), options(nostack)) };
    value
}

/// Everything that the check looks at gets a value that it would not accept.
fn leave_pattern(avx: bool) {
    let (wide, mxcsr) = ([PATTERN; 4], MXCSR_PATTERN);
    // SAFETY: no breakpoint is enabled, CR2 only reports, and the target's code uses no vector or x87 register.
    unsafe {
        asm!("mov dr0, {p}", "mov dr1, {p}", "mov dr2, {p}", "mov dr3, {p}", "mov cr2, {p}",
             "movq mm3, {p}", "movups xmm7, [{wide}]", "ldmxcsr [{mxcsr}]",
             p = in(reg) PATTERN, wide = in(reg) wide.as_ptr(), mxcsr = in(reg) &raw const mxcsr,
             options(nostack));
        if avx {
            asm!("vmovups ymm9, [{}]", in(reg) wide.as_ptr(), options(nostack));
        }
    }
}

fn check(avx: bool) -> Outcome {
    ensure_eq!(cpu::cr2(), 0, "CR2");
    for (i, address) in debug_addresses().into_iter().enumerate() {
        ensure_eq!(address, 0, "DR{i}");
    }
    let legacy = legacy();
    ensure_eq!(legacy.mxcsr, MXCSR_INITIAL, "MXCSR");
    ensure_eq!(legacy.words[1], 0, "FSW");
    ensure_eq!(legacy.words[3], 0, "FOP");
    ensure_eq!((legacy.fip, legacy.fdp), (0, 0), "FIP and FDP");
    for (i, value) in legacy.st.into_iter().enumerate() {
        ensure_eq!(value, [0; 2], "ST{i}");
    }
    for (i, value) in legacy.xmm.into_iter().enumerate() {
        ensure_eq!(value, [0; 2], "XMM{i}");
    }
    if avx {
        ensure_eq!(ymm9(), [0; 4], "YMM9");
    }
    Ok(())
}

fn s7_registers_do_not_survive_a_restart() -> Outcome {
    let avx = open_extended_state();
    check(avx)?;
    leave_pattern(avx);
    // Or the next run's check would show nothing.
    ensure_eq!((cpu::cr2(), debug_addresses()), (PATTERN, [PATTERN; 4]), "CR2 and DR0 to DR3");
    let legacy = legacy();
    ensure_eq!(legacy.mxcsr, MXCSR_PATTERN, "MXCSR of the pattern");
    ensure_eq!(legacy.st[3][0], PATTERN, "MM3 of the pattern");
    ensure_eq!(legacy.xmm[7], [PATTERN; 2], "XMM7 of the pattern");
    ensure!(!avx || ymm9() == [PATTERN; 4], "YMM9 does not hold the pattern");
    println!("TEST s7_registers_do_not_survive_a_restart ok avx={avx}");
    serial::drain();
    cpu::out8(0xCF9, 0x06);
    time::delay(time::LONG);
    fail!("survived a reset")
}
