//! CPU registers and features: MSRs, control registers, CPUID, TSC, the per-core area behind GS.
//! SDM volume 3, chapter 2; volume 4 for MSRs.

#![expect(unsafe_code, reason = "reads and writes CPU registers")]

use core::arch::asm;
use core::arch::x86_64::__cpuid_count;

/// CR0.PE.
pub const CR0_PE: u64 = 1 << 0;
/// CR0.NE.
pub const CR0_NE: u64 = 1 << 5;
/// CR0.WP.
pub const CR0_WP: u64 = 1 << 16;
/// CR0.NW.
pub const CR0_NW: u64 = 1 << 29;
/// CR0.CD.
pub const CR0_CD: u64 = 1 << 30;
/// CR0.PG.
pub const CR0_PG: u64 = 1 << 31;
/// CR4.MCE.
pub const CR4_MCE: u64 = 1 << 6;
/// CR4.VMXE.
pub const CR4_VMXE: u64 = 1 << 13;
/// CR4.OSXSAVE.
pub const CR4_OSXSAVE: u64 = 1 << 18;
/// EFER.LME.
pub const EFER_LME: u64 = 1 << 8;
/// EFER.LMA.
pub const EFER_LMA: u64 = 1 << 10;

pub(crate) const MSR_EFER: u32 = 0xC000_0080;
pub(crate) const MSR_PAT: u32 = 0x277;
pub(crate) const MSR_FS_BASE: u32 = 0xC000_0100;
pub(crate) const MSR_GS_BASE: u32 = 0xC000_0101;

/// Reads an MSR that is known to exist.
pub(crate) fn rdmsr(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading an MSR changes nothing; callers name MSRs that exist on this CPU.
    unsafe {
        asm!("rdmsr", in("ecx") index, out("eax") low, out("edx") high,
             options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an MSR.
///
/// # Safety
/// The MSR exists, the value is legal for it, and its effect breaks no assumption of the code.
#[inline(always)]
pub(crate) unsafe fn wrmsr(index: u32, value: u64) {
    // SAFETY: as the caller promises.
    unsafe {
        asm!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32,
             options(nostack, preserves_flags));
    }
}

macro_rules! control_register {
    ($get:ident, $set:ident, $name:literal) => {
        #[doc = concat!("Reads ", $name, ".")]
        pub(crate) fn $get() -> u64 {
            let value: u64;
            // SAFETY: reading a control register changes nothing.
            unsafe {
                asm!(concat!("mov {}, ", $name), out(reg) value,
                     options(nomem, nostack, preserves_flags));
            }
            value
        }

        #[doc = concat!("Writes ", $name, ".")]
        ///
        /// # Safety
        /// The value keeps the code and data in use mapped and the modes in use on.
        pub(crate) unsafe fn $set(value: u64) {
            // SAFETY: as the caller promises.
            unsafe {
                asm!(concat!("mov ", $name, ", {}"), in(reg) value,
                     options(nostack, preserves_flags));
            }
        }
    };
}

control_register!(cr0, set_cr0, "cr0");
control_register!(cr3, set_cr3, "cr3");
control_register!(cr4, set_cr4, "cr4");

/// CR8: the class in TPR bits 7:4.
pub(crate) fn cr8() -> u64 {
    let value: u64;
    // SAFETY: reading a control register changes nothing.
    unsafe { asm!("mov {}, cr8", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Sets CR8, for the guest whose TPR it is.
pub(crate) fn set_cr8(value: u64) {
    // SAFETY: root mode runs with IF=0 and does not care for TPR; the callers keep the value below 16.
    unsafe { asm!("mov cr8, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// CR2, the address of the last page fault.
pub(crate) fn cr2() -> u64 {
    let value: u64;
    // SAFETY: reading a control register changes nothing.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// DR6, the debug status.
pub(crate) fn dr6() -> u64 {
    let value: u64;
    // SAFETY: reading a debug register changes nothing while CR4.DE and DR7.GD are off in root
    // mode.
    unsafe { asm!("mov {}, dr6", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Sets DR6. It belongs to the guest: root mode uses no breakpoints.
pub(crate) fn set_dr6(value: u64) {
    // The upper half must be zero (SDM volume 3, section 18.2.3).
    let value = value & 0xFFFF_FFFF;
    // SAFETY: DR6 only reports; root mode has no debug exceptions on.
    unsafe { asm!("mov dr6, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}

/// CPUID.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let r = __cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// True if the CPU has VMX.
pub fn has_vmx() -> bool {
    cpuid(1, 0)[2] & (1 << 5) != 0
}

/// True if the CPU has SVM.
pub fn has_svm() -> bool {
    cpuid(0x8000_0000, 0)[0] >= 0x8000_0001 && cpuid(0x8000_0001, 0)[2] & (1 << 2) != 0
}

/// True if the CPU has an x2APIC.
pub fn has_x2apic() -> bool {
    cpuid(1, 0)[2] & (1 << 21) != 0
}

/// True if the CPU has XSAVE and XSETBV.
pub fn has_xsave() -> bool {
    cpuid(1, 0)[2] & (1 << 26) != 0
}

/// True if the CPU has RDTSCP and TSC_AUX.
pub fn has_rdtscp() -> bool {
    cpuid(0x8000_0000, 0)[0] >= 0x8000_0001 && cpuid(0x8000_0001, 0)[3] & (1 << 27) != 0
}

/// True if the CPU has 1 GiB pages.
pub fn has_1g_pages() -> bool {
    cpuid(0x8000_0000, 0)[0] >= 0x8000_0001 && cpuid(0x8000_0001, 0)[3] & (1 << 26) != 0
}

/// Physical address width in bits.
pub fn physical_bits() -> u8 {
    if cpuid(0x8000_0000, 0)[0] >= 0x8000_0008 { cpuid(0x8000_0008, 0)[0] as u8 } else { 36 }
}

/// Vendor string of CPUID leaf 0.
pub fn vendor() -> [u8; 12] {
    let [_, b, c, d] = cpuid(0, 0);
    let mut name = [0; 12];
    for (part, word) in name.chunks_exact_mut(4).zip([b, d, c]) {
        part.copy_from_slice(&word.to_le_bytes());
    }
    name
}

/// Time-stamp counter, ticks.
#[inline(always)]
pub fn rdtsc() -> u64 {
    // SAFETY: RDTSC is always there in long mode.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Time-stamp counter, not read before earlier loads nor after later ones.
pub fn rdtsc_ordered() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: fences only order; RDTSC is always there in long mode.
    unsafe {
        asm!("lfence", "rdtsc", "lfence", out("eax") low, out("edx") high,
             options(nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// The low half of the time-stamp counter: enough for the length of one exit, and four instructions
/// cheaper on the way through it.
#[inline(always)]
pub fn rdtsc_low() -> u32 {
    let low: u32;
    // SAFETY: RDTSC is always there in long mode.
    unsafe {
        asm!("rdtsc", out("eax") low, out("edx") _, options(nomem, nostack, preserves_flags))
    };
    low
}

/// Tells the CPU that this is a spin loop.
#[inline(always)]
pub fn pause() {
    core::hint::spin_loop();
}

/// Writes the cache line of an address back to memory, for hardware that does not snoop. Later stores and
/// write-backs come after it (SDM volume 2, CLFLUSH).
pub(crate) fn write_back_line(address: *const u8) {
    // SAFETY: every x86-64 CPU has CLFLUSH, and it changes no memory; the callers' addresses are mapped.
    unsafe { asm!("clflush [{}]", in(reg) address, options(nostack, preserves_flags)) };
}

/// Sleeps until the next interrupt with IF=1, then clears IF again. Only the housekeeping core
/// may: a guest core must not take interrupts in root mode, nor halt there (requirement H4).
pub fn halt_until_interrupt() {
    // SAFETY: the housekeeping core's IDT has handlers for all vectors that can arrive. STI
    // keeps interrupts off until HLT, so that no wake-up is lost.
    unsafe { asm!("sti", "hlt", "cli", options(nomem, nostack)) };
}

/// Lets pending interrupts in for a moment (housekeeping core).
pub fn take_interrupts() {
    // SAFETY: as above.
    unsafe { asm!("sti", "nop", "cli", options(nomem, nostack)) };
}

/// Stops this core for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: with IF=0 only an NMI ends HLT; the loop takes it back.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// XSETBV of XCR0, after the caller checked the value against CPUID leaf 0xD.
///
/// # Errors
/// The reason, if the value is one that the CPU must refuse (SDM volume 1, section 13.3).
pub fn set_xcr0(value: u64) -> Result<(), &'static str> {
    let [low, _, _, high] = cpuid(0xD, 0);
    check_xcr0(value, u64::from(high) << 32 | u64::from(low))?;
    // SAFETY: boot refuses a CPU without XSAVE, so CR4.OSXSAVE is set, and the value is legal. Root mode uses no vector
    // registers.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32,
             options(nomem, nostack));
    }
    Ok(())
}

/// The rules of XCR0, SDM volume 1 section 13.3.
fn check_xcr0(value: u64, supported: u64) -> Result<(), &'static str> {
    const X87: u64 = 1;
    const SSE: u64 = 1 << 1;
    const AVX: u64 = 1 << 2;
    const MPX: u64 = 0b11 << 3;
    const AVX512: u64 = 0b111 << 5;
    let all_or_none = |mask: u64| value & mask == 0 || value & mask == mask;
    if value & !supported != 0 {
        Err("a feature that the CPU lacks")
    } else if value & X87 == 0 {
        Err("x87 state off")
    } else if value & AVX != 0 && value & SSE == 0 {
        Err("AVX without SSE")
    } else if !all_or_none(MPX) || !all_or_none(AVX512) {
        Err("half of a feature")
    } else if value & AVX512 != 0 && value & AVX == 0 {
        Err("AVX-512 without AVX")
    } else {
        Ok(())
    }
}

/// CR2 as a page fault would leave it: the guest's, since root mode takes none that it survives.
pub(crate) fn set_cr2(value: u64) {
    // SAFETY: CR2 only reports.
    unsafe { asm!("mov cr2, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}

/// An XSAVE area whose header says that every component is in its initial state.
#[repr(C, align(64))]
struct XsaveArea([u8; 4096]);

/// Offset of MXCSR in the legacy region, and its initial value (SDM volume 1, section 10.2.3).
const MXCSR_OFFSET: usize = 24;
const MXCSR_INITIAL: u16 = 0x1F80;

static INITIAL_STATE: XsaveArea = {
    let mut area = [0; 4096];
    area[MXCSR_OFFSET] = MXCSR_INITIAL as u8;
    area[MXCSR_OFFSET + 1] = (MXCSR_INITIAL >> 8) as u8;
    XsaveArea(area)
};

/// Puts the registers that VM entry does not load into their initial state: x87, SSE, AVX and what
/// else XCR0 can hold, DR0 to DR3, CR2 (requirement S7). XCR0 is left at 1.
pub fn clear_unswitched_registers() {
    let [low, _, _, high] = cpuid(0xD, 0);
    // SAFETY: CR4.OSXSAVE is set, the bits are those that the CPU supports; XRSTOR reads an area of
    // ours whose header asks for initial state only, and root mode uses none of these registers.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") low, in("edx") high, options(nomem, nostack));
        asm!("clts", "xrstor64 [{area}]", area = in(reg) &INITIAL_STATE, in("eax") low,
             in("edx") high, options(nostack));
        asm!("xsetbv", in("ecx") 0, in("eax") 1, in("edx") 0, options(nomem, nostack));
        asm!("mov dr0, {z}", "mov dr1, {z}", "mov dr2, {z}", "mov dr3, {z}", z = in(reg) 0_u64,
             options(nomem, nostack, preserves_flags));
    }
    set_cr2(0);
}

/// Index of this core, 0 for the housekeeping core. Valid once `tables::install` has run.
#[inline(always)]
pub fn core_index() -> usize {
    let index: u32;
    // SAFETY: GS points at this core's area from `tables::install` on, and the exit path reloads
    // it, from the VMCS or by VMLOAD.
    unsafe {
        asm!("mov {:e}, gs:[0]", out(reg) index, options(nostack, readonly, preserves_flags));
    }
    index as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_s10_xcr0_rules_are_the_manuals() {
        let all = 0xFF;
        assert!(check_xcr0(0x1, all).is_ok());
        assert!(check_xcr0(0x7, all).is_ok());
        assert!(check_xcr0(0xE7, all).is_ok());
        assert!(check_xcr0(0x6, all).is_err());
        assert!(check_xcr0(0x5, all).is_err());
        assert!(check_xcr0(0x27, all).is_err());
        assert!(check_xcr0(0xE3, all).is_err());
        assert!(check_xcr0(0x107, all).is_err());
        assert!(check_xcr0(0x0F, all).is_err());
    }
}
