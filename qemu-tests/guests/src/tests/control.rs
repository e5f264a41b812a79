//! Control registers and XCR0: legal writes work, illegal ones fault and change nothing (S6, S8).

#![expect(unsafe_code, reason = "instructions without a wrapper")]

use crate::runtime::catch::{expect_fine, expect_gp};
use crate::runtime::cpu::{self, IA32_EFER, cpuid, rdmsr, wrmsr};
use crate::runtime::registry::tests;
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{boot, hypercall, irq, lapic};

tests! { "up", Machine:
    s8_cr0_legal_toggles_read_back,
    s6_cr4_mce_is_the_guests_to_read,
    s8_xsetbv_illegal_values_fault,
    s8_clts_and_lmsw,
    s8_wbinvd_and_friends_return,
}
tests! { "up", Strict:
    s8_cr0_illegal_values_fault,
    s8_cr4_reserved_bits_fault,
    s8_efer_keeps_its_rules,
}
tests! { "up", Beeline: s8_cr4_vmxe_faults }
tests! { "kick", Hooks: s6_hardware_cr4_mce_stays_on }

const PE: u64 = 1;
const MP: u64 = 2;
const TS: u64 = 8;
const NE: u64 = 1 << 5;
const WP: u64 = 1 << 16;
const AM: u64 = 1 << 18;
const NW: u64 = 1 << 29;
const CD: u64 = 1 << 30;
const PG: u64 = 1 << 31;
/// CR4.MCE.
const MCE: u64 = 1 << 6;

fn s8_cr0_illegal_values_fault() -> Outcome {
    let cr0 = cpu::cr0();
    for (what, value) in [
        ("PG without PE", cr0 & !PE),
        ("NW without CD", cr0 & !CD | NW),
        ("bit 32", cr0 | 1 << 32),
        ("bit 63", cr0 | 1 << 63),
        ("PG=0 in 64-bit mode", cr0 & !PG),
    ] {
        // TCG does not look at the upper half, not even to ask for an exit.
        if value >> 32 != 0 && boot::options().tcg {
            continue;
        }
        expect_gp(what, || cpu::set_cr0(value))?;
        ensure_eq!(cpu::cr0(), cr0, "CR0 after {what}");
    }
    Ok(())
}

fn s8_cr0_legal_toggles_read_back() -> Outcome {
    let cr0 = cpu::cr0();
    for value in [cr0 ^ WP, cr0 ^ AM, cr0 | TS, cr0 ^ MP, cr0 | CD, cr0 | CD | NW, cr0 ^ NE, cr0] {
        expect_fine("legal CR0", || cpu::set_cr0(value))?;
        ensure_eq!(cpu::cr0(), value, "CR0");
    }
    cpu::set_cr0(cr0);
    Ok(())
}

/// CLTS and LMSW change CR0 by ways of their own.
fn s8_clts_and_lmsw() -> Outcome {
    let cr0 = cpu::cr0();
    cpu::set_cr0(cr0 | TS);
    // SAFETY: changes CR0.TS only; the guest uses no FPU.
    unsafe { core::arch::asm!("clts", options(nostack)) };
    ensure_eq!(cpu::cr0(), cr0 & !TS, "CR0 after CLTS");
    // LMSW cannot clear PE, and touches the low four bits only.
    let word = ((cr0 & 0xF | TS) & !PE) as u16;
    // SAFETY: as above.
    unsafe { core::arch::asm!("lmsw {:x}", in(reg) word, options(nostack)) };
    ensure_eq!(cpu::cr0(), cr0 | TS, "CR0 after LMSW");
    cpu::set_cr0(cr0);
    Ok(())
}

fn s8_cr4_reserved_bits_fault() -> Outcome {
    let cr4 = cpu::cr4();
    for bit in [15, 19, 26, 30, 31, 32, 63] {
        // Bits that newer processors define are judged by CPUID; the rest is reserved everywhere.
        if bit == 19 && cpuid(7, 0).ecx >> 23 & 1 != 0 {
            continue;
        }
        expect_gp("reserved CR4 bit", || cpu::set_cr4(cr4 | 1 << bit))?;
        ensure_eq!(cpu::cr4(), cr4, "CR4 after bit {bit}");
    }
    expect_gp("PAE off in long mode", || cpu::set_cr4(cr4 & !(1 << 5)))?;
    for bit in [2, 3, 7, 9, 10] {
        expect_fine("legal CR4 bit", || cpu::set_cr4(cr4 ^ 1 << bit))?;
        ensure_eq!(cpu::cr4(), cr4 ^ 1 << bit, "CR4");
        cpu::set_cr4(cr4);
    }
    Ok(())
}

fn s8_cr4_vmxe_faults() -> Outcome {
    let cr4 = cpu::cr4();
    ensure_eq!(cr4 >> 13 & 1, 0, "CR4.VMXE");
    expect_gp("CR4.VMXE", || cpu::set_cr4(cr4 | 1 << 13))?;
    ensure_eq!(cpu::cr4(), cr4, "CR4 afterwards");
    Ok(())
}

/// The hardware's bit is always 1 under Beeline; the guest sees its own.
fn s6_cr4_mce_is_the_guests_to_read() -> Outcome {
    let cr4 = cpu::cr4();
    for _ in 0..3 {
        for value in [cr4 & !MCE, cr4 | MCE] {
            cpu::set_cr4(value);
            ensure_eq!(read_cr4(), value & !hypercall::cr4_unshadowed(), "CR4 with MCE changed");
        }
    }
    cpu::set_cr4(cr4);
    // A change of the other bits must not disturb it.
    cpu::set_cr4(cr4 ^ 1 << 7);
    ensure_eq!(cpu::cr4(), cr4 ^ 1 << 7, "CR4");
    cpu::set_cr4(cr4);
    Ok(())
}

/// CR4 without the bit that an emulator shows wrong.
fn read_cr4() -> u64 {
    cpu::cr4() & !hypercall::cr4_unshadowed()
}

/// The bit itself, which the guest cannot read: it stays on whatever the guest writes. Debug images audit it before each
/// entry, so the exits here are audits with the guest's bit off and on.
fn s6_hardware_cr4_mce_stays_on() -> Outcome {
    const EXITS: u64 = 50;
    let cr4 = cpu::cr4();
    for value in [cr4 & !MCE, cr4 | MCE, cr4 & !MCE, cr4] {
        cpu::set_cr4(value);
        let (exits, ()) = hypercall::exits_of(|| {
            for _ in 0..EXITS {
                cpuid(0, 0);
            }
        });
        let hardware = hypercall::hardware_cr4();
        ensure_eq!(exits, EXITS, "exits");
        ensure_eq!(read_cr4(), value & !hypercall::cr4_unshadowed(), "CR4 as the guest sees it");
        ensure!(
            hardware & MCE != 0,
            "hardware CR4 is {hardware:#x} when the guest's is {value:#x}"
        );
        // No other bit of the guest's is lost on the way.
        ensure_eq!(value & !hardware, 0, "bits of the guest's CR4 that the hardware does not have");
    }
    Ok(())
}

fn s8_xsetbv_illegal_values_fault() -> Outcome {
    if cpuid(1, 0).ecx >> 26 & 1 == 0 {
        return Ok(());
    }
    let cr4 = cpu::cr4();
    cpu::set_cr4(cr4 | 1 << 18);
    let offered = u64::from(cpuid(0xD, 0).edx) << 32 | u64::from(cpuid(0xD, 0).eax);
    let before = cpu::xgetbv(0);
    let hidden = !offered & !(1 << 63);
    for (what, value) in [
        ("x87 off", 2),
        ("nothing", 0),
        ("AVX without SSE", 5),
        ("lowest bit not offered", 3 | hidden & hidden.wrapping_neg()),
        ("bit 63", 3 | 1 << 63),
        ("one half of MPX", 3 | 8),
        ("a part of AVX-512", 7 | 0x20),
    ] {
        expect_gp(what, || cpu::xsetbv(0, value))?;
        ensure_eq!(cpu::xgetbv(0), before, "XCR0 after {what}");
    }
    expect_gp("XCR1", || cpu::xsetbv(1, 1))?;
    for value in [1, 3, offered, before] {
        expect_fine("legal XCR0", || cpu::xsetbv(0, value))?;
        ensure_eq!(cpu::xgetbv(0), value, "XCR0");
    }
    cpu::set_cr4(cr4);
    Ok(())
}

fn s8_efer_keeps_its_rules() -> Outcome {
    let efer = rdmsr(IA32_EFER);
    ensure_eq!(efer & 0x500, 0x500, "LME and LMA");
    expect_gp("LME off with paging", || wrmsr(IA32_EFER, efer & !0x100))?;
    expect_gp("reserved EFER bit", || wrmsr(IA32_EFER, efer | 1 << 20))?;
    wrmsr(IA32_EFER, efer ^ 1);
    ensure_eq!(rdmsr(IA32_EFER), efer ^ 1, "EFER with SCE toggled");
    wrmsr(IA32_EFER, efer);
    if cpuid(0x8000_0001, 0).edx >> 20 & 1 != 0 {
        wrmsr(IA32_EFER, efer ^ 1 << 11);
        ensure_eq!(rdmsr(IA32_EFER), efer ^ 1 << 11, "EFER with NXE toggled");
        wrmsr(IA32_EFER, efer);
    }
    if hypercall::present() && !hypercall::is_amd() {
        expect_gp("SVME", || wrmsr(IA32_EFER, efer | 1 << 12))?;
    }
    Ok(())
}

/// Instructions that a hypervisor may trap and must let pass; none loses an interrupt.
fn s8_wbinvd_and_friends_return() -> Outcome {
    const VECTOR: u8 = 0x6E;
    let before = irq::count_here(VECTOR);
    lapic::self_ipi(VECTOR);
    // SAFETY: caches and translations only.
    unsafe {
        core::arch::asm!("wbinvd", "invlpg [{}]", in(reg) 0x10_0000u64, options(nostack));
        if hypercall::present() {
            // On a machine with real caches this would throw memory away; a hypervisor writes back.
            core::arch::asm!("invd", options(nostack));
        }
    }
    cpu::set_cr3(cpu::cr3());
    cpu::take_pending();
    ensure_eq!(irq::count_here(VECTOR) - before, 1, "self-IPI taken");
    Ok(())
}
