//! Beeline's hypercalls, as docs/src/guest-interface.md numbers them.

#![expect(unsafe_code, reason = "VMCALL and VMMCALL")]

use super::{boot, cpu};
use core::arch::asm;
use core::sync::atomic::{AtomicU8, Ordering};

/// Ask about all exit kinds, or about the calling vCPU.
pub const ALL: u64 = u64::MAX;
/// Exit kinds.
pub const CPUID: u64 = 0;
pub const MSR_WRITE: u64 = 2;
pub const IO: u64 = 3;
pub const MMIO: u64 = 4;
pub const EXTERNAL_INTERRUPT: u64 = 9;
pub const EXCEPTION: u64 = 14;

const PRESENCE: u64 = 0x4245_0000;
const EXITS: u64 = 0x4245_0001;
const ROOT_TICKS: u64 = 0x4245_0002;
const REDELIVERED: u64 = 0x4245_0003;
const KICK_STORM: u64 = 0x4245_0010;
const STORM_STATUS: u64 = 0x4245_0011;
const RAW_NMI: u64 = 0x4245_0012;
const STORM_RESET: u64 = 0x4245_0013;
const HIDE_PAGE: u64 = 0x4245_0014;
const PANIC: u64 = 0x4245_0015;
const HARDWARE_CR4: u64 = 0x4245_0016;

/// KVM's -KVM_ENOSYS.
pub const UNKNOWN: u64 = (-1000i64) as u64;

const ABSENT: u8 = 0;
const INTEL: u8 = 1;
const AMD: u8 = 2;
static VENDOR: AtomicU8 = AtomicU8::new(ABSENT);

/// Finds out whether Beeline is below: the KVM signature, then the answer to PRESENCE.
pub fn init() {
    let hypervisor_bit = cpu::cpuid(1, 0).ecx >> 31 != 0;
    let signature = cpu::cpuid(0x4000_0000, 0);
    let kvm = (signature.ebx, signature.ecx, signature.edx) == (0x4B4D_564B, 0x564B_4D56, 0x4D);
    if boot::options().bare || !hypervisor_bit || !kvm {
        return;
    }
    let amd = cpu::cpuid(0, 0).ebx == u32::from_le_bytes(*b"Auth");
    VENDOR.store(if amd { AMD } else { INTEL }, Ordering::Relaxed);
    if call(PRESENCE, 0, 0, 0, 0) >> 16 != 0x4245 {
        VENDOR.store(ABSENT, Ordering::Relaxed);
    }
}

/// Whether Beeline is below.
pub fn present() -> bool {
    VENDOR.load(Ordering::Relaxed) != ABSENT
}

/// Whether the CPU is AMD's (VMMCALL instead of VMCALL).
pub fn is_amd() -> bool {
    VENDOR.load(Ordering::Relaxed) == AMD
}

/// Whether the debug hooks are on.
pub fn has_debug_hooks() -> bool {
    present() && call(PRESENCE, 0, 0, 0, 0) & 1 != 0
}

/// A raw hypercall.
pub fn call(number: u64, a: u64, b: u64, c: u64, d: u64) -> u64 {
    let result: u64;
    // SAFETY: only RAX changes; RBX belongs to the compiler and is exchanged around the call.
    unsafe {
        if is_amd() {
            asm!("xchg rbx, {a}", "vmmcall", "xchg rbx, {a}", a = inout(reg) a => _,
                 inout("rax") number => result, in("rcx") b, in("rdx") c, in("rsi") d);
        } else {
            asm!("xchg rbx, {a}", "vmcall", "xchg rbx, {a}", a = inout(reg) a => _,
                 inout("rax") number => result, in("rcx") b, in("rdx") c, in("rsi") d);
        }
    }
    result
}

/// Exits of vCPU `cpu` (or `ALL` for the caller) of one kind (or `ALL`) so far.
pub fn exits(cpu: u64, kind: u64) -> u64 {
    call(EXITS, cpu, kind, 0, 0)
}

/// TSC ticks that vCPU `cpu` has spent in root mode so far.
pub fn root_ticks(cpu: u64) -> u64 {
    call(ROOT_TICKS, cpu, 0, 0, 0)
}

/// External interrupts of the calling vCPU that were injected because an exit had cut their delivery short.
pub fn redelivered() -> u64 {
    call(REDELIVERED, ALL, 0, 0, 0)
}

/// Takes the 2 MiB page that holds `address` out of the second stage until its next access; false if it is not RAM.
pub fn hide_page(address: u64) -> bool {
    call(HIDE_PAGE, address, 0, 0, 0) == 0
}

/// Makes the hypervisor panic.
pub fn panic() {
    call(PANIC, 0, 0, 0, 0);
}

/// CR4 of the calling vCPU as the CPU has it, not as the guest reads it.
pub fn hardware_cr4() -> u64 {
    call(HARDWARE_CR4, 0, 0, 0, 0)
}

/// Bits of CR4 that a guest may read wrong: QEMU 10's TCG asks CR0's intercept about reads of CR4, so a hypervisor cannot
/// show another MCE there than the hardware's.
pub fn cr4_unshadowed() -> u64 {
    if present() && boot::options().tcg { 1 << 6 } else { 0 }
}

/// Exits of the calling vCPU while `f` runs: all kinds, without those of counting. Without a hypervisor, 0.
pub fn exits_of<R>(f: impl FnOnce() -> R) -> (u64, R) {
    if !present() {
        return (0, f());
    }
    // Two reads in a row show what a read itself adds to the next one.
    let first = exits(ALL, ALL);
    let before = exits(ALL, ALL);
    let result = f();
    let after = exits(ALL, ALL);
    (after - before - (before - first), result)
}

/// Asks the housekeeping core to kick vCPU `target` `count` times; false when there are no debug hooks.
pub fn kick_storm(count: u64, seed: u64, target: usize, mode: u64) -> bool {
    call(KICK_STORM, count, seed, target as u64, mode) == 0
}

/// A figure of the storm.
pub fn storm(figure: u64) -> u64 {
    call(STORM_STATUS, figure, 0, 0, 0)
}

/// Clears the storm's figures.
pub fn storm_reset() {
    call(STORM_RESET, 0, 0, 0, 0);
}

/// Asks the housekeeping core for `count` NMIs outside the kick protocol.
pub fn raw_nmi(count: u64, distance: u64, target: usize) -> bool {
    call(RAW_NMI, count, distance, target as u64, 0) == 0
}
