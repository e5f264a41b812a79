//! IA32_APIC_BASE: illegal transitions fault, legal ones work, the ids are virtual, nothing pending is lost (A6, S4).

use crate::runtime::catch::{catch, expect_gp};
use crate::runtime::cpu::{self, IA32_APIC_BASE, rdmsr, wrmsr};
use crate::runtime::lapic::{self, *};
use crate::runtime::registry::tests;
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{boot, irq, time};

tests! { "up", Machine:
    a6_illegal_transitions_fault,
}
tests! { "up", Strict: s4_x2apic_read_only_registers_fault }
// Bochs 2.7 never comes back from "disabled", so the bare machine cannot show these.
tests! { "up", Beeline:
    a6_guest_starts_in_x2apic_mode,
    a6_through_disabled_to_xapic_and_back,
    a6_nothing_pending_is_lost_on_the_way,
    a6_x2apic_registers_fault_outside_x2apic_mode,
    a6_xapic_ids_and_reserved_offsets,
    s4_apic_base_cannot_be_moved,
}

const VECTOR: u8 = 0x66;
const TIMER: u8 = 0x67;
pub const MODE: u64 = BASE_ENABLE | BASE_X2APIC;

fn a6_guest_starts_in_x2apic_mode() -> Outcome {
    // The runtime only ever asks for x2APIC mode where it is off; under Beeline it must have been on.
    let base = rdmsr(IA32_APIC_BASE);
    ensure_eq!(base, 0xFEE0_0000 | MODE | 1 << 8, "APIC_BASE of the boot CPU");
    ensure!(lapic::was_x2apic_at_boot(), "the CPU was not in x2APIC mode at its first instruction");
    Ok(())
}

fn a6_illegal_transitions_fault() -> Outcome {
    let base = rdmsr(IA32_APIC_BASE);
    ensure_eq!(base & MODE, MODE, "mode");
    expect_gp("x2APIC to xAPIC", || wrmsr(IA32_APIC_BASE, base & !BASE_X2APIC))?;
    expect_gp("EXTD without EN", || wrmsr(IA32_APIC_BASE, base & !BASE_ENABLE))?;
    expect_gp("reserved bit 0", || wrmsr(IA32_APIC_BASE, base | 1))?;
    expect_gp("reserved bit 9", || wrmsr(IA32_APIC_BASE, base | 1 << 9))?;
    expect_gp("address bit 63", || wrmsr(IA32_APIC_BASE, base | 1 << 63))?;
    ensure_eq!(rdmsr(IA32_APIC_BASE), base, "APIC_BASE afterwards");
    wrmsr(IA32_APIC_BASE, base);
    let before = irq::count_here(VECTOR);
    lapic::self_ipi(VECTOR);
    cpu::take_pending();
    ensure_eq!(irq::count_here(VECTOR) - before, 1, "self-IPI afterwards");
    Ok(())
}

/// x2APIC, disabled, xAPIC.
fn to_xapic() {
    let base = rdmsr(IA32_APIC_BASE) & !MODE;
    wrmsr(IA32_APIC_BASE, base);
    wrmsr(IA32_APIC_BASE, base | BASE_ENABLE);
    lapic::note_mode();
}

/// xAPIC to x2APIC, which is legal without the detour.
pub fn to_x2apic() {
    wrmsr(IA32_APIC_BASE, rdmsr(IA32_APIC_BASE) | MODE);
    lapic::note_mode();
}

/// An alarm, a one-shot and both ways to send a self-IPI, each ended by an EOI, in the mode the LAPIC is in.
pub fn works(mode: &str) -> Outcome {
    lapic::write(SVR, 0x1FF);
    let (own, timer) = (irq::count_here(VECTOR), irq::count_here(TIMER));
    for i in 1..=50 {
        lapic::send(0, TO_SELF | ASSERT | u64::from(VECTOR));
        cpu::take_pending();
        lapic::send(lapic::id(), ASSERT | u64::from(VECTOR));
        cpu::take_pending();
        ensure_eq!(irq::count_here(VECTOR) - own, 2 * i, "{mode}: IPIs taken");
        lapic::alarm_timer(TIMER);
        lapic::alarm(200);
        let due = 2 * i - 1;
        cpu::sti();
        let fired = time::wait(time::LONG, || irq::count_here(TIMER) - timer >= due);
        ensure!(fired, "{mode}: alarm {i} lost");
        lapic::count_timer(ONE_SHOT, TIMER, 300);
        let fired = time::wait(time::LONG, || irq::count_here(TIMER) - timer > due);
        cpu::cli();
        ensure!(fired, "{mode}: one-shot {i} lost");
        ensure_eq!(lapic::read(TIMER_CURRENT), 0, "{mode}: current count after the expiry");
    }
    lapic::stop_timer();
    ensure_eq!(lapic::highest(ISR), None, "{mode}: left in service");
    ensure_eq!(irq::count_here(TIMER) - timer, 100, "{mode}: timer interrupts");
    Ok(())
}

fn a6_through_disabled_to_xapic_and_back() -> Outcome {
    let base = rdmsr(IA32_APIC_BASE);
    for _ in 0..3 {
        works("x2APIC")?;
        wrmsr(IA32_APIC_BASE, base & !MODE);
        ensure_eq!(rdmsr(IA32_APIC_BASE), base & !MODE, "APIC_BASE when disabled");
        ensure_eq!(cpu::cpuid(1, 0).edx >> 9 & 1, 0, "CPUID.1:EDX.APIC when disabled");
        expect_gp("disabled to x2APIC", || wrmsr(IA32_APIC_BASE, base))?;
        wrmsr(IA32_APIC_BASE, base & !BASE_X2APIC);
        lapic::note_mode();
        ensure_eq!(rdmsr(IA32_APIC_BASE), base & !BASE_X2APIC, "APIC_BASE in xAPIC mode");
        works("xAPIC")?;
        to_x2apic();
        ensure_eq!(rdmsr(IA32_APIC_BASE), base, "APIC_BASE back in x2APIC mode");
    }
    works("x2APIC again")?;
    // And off and on again by the long way.
    to_xapic();
    wrmsr(IA32_APIC_BASE, base & !MODE);
    wrmsr(IA32_APIC_BASE, base & !BASE_X2APIC);
    lapic::note_mode();
    works("xAPIC after disabled")?;
    to_x2apic();
    works("x2APIC at last")
}

fn a6_x2apic_registers_fault_outside_x2apic_mode() -> Outcome {
    let base = rdmsr(IA32_APIC_BASE);
    let version_faults = |mode: &str| {
        expect_gp(mode, || {
            rdmsr(0x800 + VERSION);
        })
    };
    wrmsr(IA32_APIC_BASE, base & !MODE);
    let disabled = version_faults("x2APIC register when disabled");
    wrmsr(IA32_APIC_BASE, base & !BASE_X2APIC);
    lapic::note_mode();
    let xapic = version_faults("x2APIC register in xAPIC mode");
    to_x2apic();
    disabled.and(xapic)
}

fn a6_nothing_pending_is_lost_on_the_way() -> Outcome {
    let before = irq::count_here(VECTOR);
    for i in 0..20 {
        lapic::self_ipi(VECTOR);
        ensure!(lapic::requested(VECTOR), "not requested in x2APIC mode");
        to_xapic();
        lapic::write(SVR, 0x1FF);
        ensure!(lapic::requested(VECTOR), "request lost between x2APIC and xAPIC");
        cpu::take_pending();
        ensure_eq!(irq::count_here(VECTOR) - before, 2 * i + 1, "taken in xAPIC mode");
        lapic::self_ipi(VECTOR);
        to_x2apic();
        lapic::write(SVR, 0x1FF);
        ensure!(lapic::requested(VECTOR), "request lost between xAPIC and x2APIC");
        cpu::take_pending();
        ensure_eq!(irq::count_here(VECTOR) - before, 2 * i + 2, "taken in x2APIC mode");
    }
    Ok(())
}

fn a6_xapic_ids_and_reserved_offsets() -> Outcome {
    let id = lapic::id();
    let version = lapic::read(VERSION);
    to_xapic();
    ensure_eq!(lapic::page_read(ID), id << 24, "id register of the page");
    lapic::page_write(ID, 0x5500_0000);
    ensure_eq!(lapic::page_read(ID), id << 24, "id after a write");
    ensure_eq!(u64::from(lapic::page_read(VERSION)), version, "version");
    lapic::page_write(LDR, 0x0400_0000);
    ensure_eq!(lapic::page_read(LDR), 0x0400_0000, "LDR is writable");
    lapic::page_write(SVR, 0x1FF);
    // Flat logical destination 4, as just set.
    let before = irq::count_here(VECTOR);
    lapic::send(4, LOGICAL | ASSERT | u64::from(VECTOR));
    cpu::take_pending();
    ensure_eq!(irq::count_here(VECTOR) - before, 1, "flat logical IPI to oneself");
    lapic::send(8, LOGICAL | ASSERT | u64::from(VECTOR));
    time::delay(100);
    cpu::take_pending();
    ensure_eq!(irq::count_here(VECTOR) - before, 1, "flat logical IPI to nobody");
    // Every offset of the page may be read and written by a hostile guest; only the timer and IPIs have an effect.
    for offset in (0..0x1000).step_by(4).filter(|o| !(0x300..0x320).contains(o)) {
        cpu::mmio_read(PAGE + offset);
    }
    for offset in
        [0x00, 0x04, 0x3C, 0x40, 0x90, 0xA0, 0xC0, 0x100, 0x2F4, 0x390, 0x3A0, 0x400, 0xFFC]
    {
        cpu::mmio_write(PAGE + offset, 0xFFFF_FFFF);
    }
    let caught = catch(to_x2apic);
    ensure!(caught.is_ok(), "no way back to x2APIC mode");
    lapic::write(SVR, 0x1FF);
    ensure_eq!(lapic::id(), id, "id afterwards");
    works("x2APIC afterwards")
}

fn s4_apic_base_cannot_be_moved() -> Outcome {
    let base = rdmsr(IA32_APIC_BASE);
    for moved in [0x1_0000, 0xFED0_0000, 0xFEE0_1000, 0x10_0000_0000] {
        // Whether the write faults or is dropped, the base stays.
        let _ = catch(|| wrmsr(IA32_APIC_BASE, moved | base & 0xFFF));
        ensure_eq!(rdmsr(IA32_APIC_BASE), base, "APIC_BASE after a move to {moved:#x}");
    }
    works("x2APIC afterwards")
}

fn s4_x2apic_read_only_registers_fault() -> Outcome {
    let id = lapic::read(ID);
    for register in [ID, VERSION, PPR, LDR, ISR, ISR + 7, TMR, IRR, IRR + 7, TIMER_CURRENT] {
        expect_gp("write of a read-only register", || lapic::write(register, 0))?;
    }
    for register in [EOI, SELF_IPI] {
        expect_gp("read of a write-only register", || {
            lapic::read(register);
        })?;
    }
    for register in [0x00, 0x04, 0x0C, 0x0E, 0x2E, 0x31, 0x3A, 0x3D, 0x40, 0x7F, 0xFF] {
        expect_gp("read of a reserved register", || {
            lapic::read(register);
        })?;
        expect_gp("write of a reserved register", || lapic::write(register, 0))?;
    }
    // EOI passes, and TCG takes any value.
    if !boot::options().tcg {
        expect_gp("EOI of something else than 0", || lapic::write(EOI, 1))?;
    }
    ensure_eq!(lapic::read(ID), id, "id afterwards");
    Ok(())
}
