//! MSRs: unknown ones fault, and no value that a guest writes anywhere can hurt anybody but itself (S4, S8).

use crate::runtime::catch::{catch, expect_gp};
use crate::runtime::cpu::{rdmsr, wrmsr};
use crate::runtime::random::Random;
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{boot, cpu, hypercall, irq, lapic};

tests! { "up", Beeline:
    s6_unknown_msrs_fault,
    s8_msr_pass_through_takes_no_exit,
    s8_mtrrs_remember,
    s8_microcode_and_feature_control,
}
tests! { "hostile", Beeline:
    s8_every_msr_can_be_read,
    s8_kvm_clock_at_bad_addresses,
    s8_random_msr_writes_harm_nobody,
}
// The host counts the lines of the log.
tests! { "hostile-flood", Beeline: s8_unknown_msrs_do_not_flood_the_log }

fn s6_unknown_msrs_fault() -> Outcome {
    for msr in [0x480, 0x48F, 0xC80, 0x1234, 0x4000_0000, 0xC000_0200, 0xDEAD_BEEF, 0xFFFF_FFFF] {
        expect_gp("read of an unknown MSR", || {
            rdmsr(msr);
        })?;
        expect_gp("write of an unknown MSR", || wrmsr(msr, 0))?;
    }
    Ok(())
}

fn s8_msr_pass_through_takes_no_exit() -> Outcome {
    const KERNEL_GS: u32 = 0xC000_0102;
    const LSTAR: u32 = 0xC000_0082;
    let (exits, ()) = hypercall::exits_of(|| {
        for _ in 0..100 {
            for msr in [KERNEL_GS, LSTAR] {
                let old = rdmsr(msr);
                wrmsr(msr, old ^ 0x10);
                wrmsr(msr, old);
            }
        }
    });
    ensure_eq!(exits, 0, "exits");
    // What passes is checked by the CPU, and TCG does not.
    if boot::options().tcg {
        return Ok(());
    }
    expect_gp("non-canonical KERNEL_GS_BASE", || wrmsr(KERNEL_GS, 1 << 62))
}

fn s8_mtrrs_remember() -> Outcome {
    if cpu::cpuid(1, 0).edx >> 12 & 1 == 0 {
        return Ok(());
    }
    let variable = (rdmsr(0xFE) & 0xFF) as u32;
    for i in 0..variable {
        let (base, mask) = (0x200 + 2 * i, 0x201 + 2 * i);
        let old = (rdmsr(base), rdmsr(mask));
        wrmsr(base, 0x8000_0006);
        wrmsr(mask, 0x8000_0800);
        ensure_eq!((rdmsr(base), rdmsr(mask)), (0x8000_0006, 0x8000_0800), "MTRR {i}");
        wrmsr(base, old.0);
        wrmsr(mask, old.1);
    }
    ensure_eq!(rdmsr(0x2FF) & 0xFF, 6, "default memory type");
    expect_gp("memory type 2", || wrmsr(0x2FF, 0xC02))?;
    // PAT passes on AMD.
    if boot::options().tcg {
        return Ok(());
    }
    expect_gp("memory type 2 in PAT", || wrmsr(0x277, 2))
}

fn s8_microcode_and_feature_control() -> Outcome {
    // Linux does exactly this at boot.
    wrmsr(0x8B, 0);
    cpu::cpuid(1, 0);
    rdmsr(0x8B);
    if !hypercall::is_amd() {
        ensure_eq!(rdmsr(0x3A) & 1, 1, "FEATURE_CONTROL is locked");
        ensure_eq!(rdmsr(0x3A) & 6, 0, "VMX in FEATURE_CONTROL");
    }
    Ok(())
}

/// The ranges where MSRs live.
const RANGES: [(u32, u32); 6] = [
    (0, 0x0FFF),
    (0x1400, 0x14FF),
    (0x4000_0000, 0x4000_01FF),
    (0x4B56_4D00, 0x4B56_4D08),
    (0xC000_0000, 0xC000_05FF),
    (0xC001_0000, 0xC001_12FF),
];

fn s8_every_msr_can_be_read() -> Outcome {
    let (mut values, mut faults) = (0, 0);
    for (first, last) in RANGES {
        for msr in first..=last {
            match catch(|| rdmsr(msr)) {
                Ok(_) => values += 1,
                Err(_) => faults += 1,
            }
        }
    }
    ensure!(faults > 1_000, "only {faults} MSRs are hidden");
    detail(format_args!("values={values} faults={faults}"));
    Ok(())
}

/// Registers that Beeline lets a guest read, by any policy.
const KNOWN: [u32; 39] = [
    0x10,
    0x3A,
    0x3B,
    0x79,
    0x8B,
    0xFE,
    0x174,
    0x175,
    0x176,
    0x179,
    0x17A,
    0x1A0,
    0x1D9,
    0x200,
    0x201,
    0x20E,
    0x250,
    0x268,
    0x277,
    0x2FF,
    0x6E0,
    0x808,
    0x80B,
    0x80F,
    0x828,
    0x82F,
    0x832,
    0x833,
    0x834,
    0x835,
    0x836,
    0x837,
    0x838,
    0x83E,
    0x83F,
    0xC000_0081,
    0xC000_0082,
    0xC000_0084,
    0xC000_0102,
];

/// MSRs whose random contents would break this guest by right, or that other tests look after.
fn spared(msr: u32) -> bool {
    match msr {
        // APIC_BASE, the ICR (INIT to ourselves), GS (per-CPU data), EFER, the KVM clock pages.
        cpu::IA32_APIC_BASE | 0x830 | cpu::IA32_GS_BASE | cpu::IA32_EFER => true,
        0x11 | 0x12 | 0x4B56_4D00..=0x4B56_4D08 => true,
        _ => false,
    }
}

fn s8_random_msr_writes_harm_nobody() -> Outcome {
    const N: u64 = 4_000;
    let mut random = Random::new(9);
    let (mut taken, mut refused) = (0, 0);
    for vector in 16..=255 {
        if ![irq::GP, 17, 18].contains(&vector) {
            irq::hook(vector, |_| lapic::eoi());
        }
    }
    for _ in 0..N {
        // Half of them to registers that exist, where a write does more than fault.
        let msr = if random.below(2) == 0 {
            KNOWN[random.below(KNOWN.len() as u64) as usize]
        } else {
            let (first, last) = RANGES[random.below(RANGES.len() as u64) as usize];
            random.between(first.into(), last.into()) as u32
        };
        let value = random.next() >> random.below(64);
        // Vectors 17 and 18 would look like exceptions of ours; Bochs 2.7 never retires the spurious one.
        let vector = value & 0xFF;
        let mistaken = msr == 0x83F && [17, 18, 0xFF].contains(&vector);
        // TCG raises these as if they were exceptions.
        let illegal = [0x832, 0x83F].contains(&msr) && vector < 16 && boot::options().tcg;
        if spared(msr) || mistaken || illegal {
            continue;
        }
        let old = catch(|| rdmsr(msr));
        match catch(|| wrmsr(msr, value)) {
            Ok(()) => taken += 1,
            Err(_) => refused += 1,
        }
        if let Ok(old) = old {
            let _ = catch(|| wrmsr(msr, old));
        }
    }
    lapic::quiesce();
    cpu::take_pending();
    let known = (taken > 300, refused > 1_000);
    ensure_eq!(known, (true, true), "taken {taken}, refused {refused}: the mix is wrong");
    detail(format_args!("taken={taken} refused={refused}"));
    Ok(())
}

/// The KVM clock's MSRs take an address from the guest: one outside its RAM must hurt nobody.
fn s8_kvm_clock_at_bad_addresses() -> Outcome {
    for msr in [0x4B56_4D00, 0x4B56_4D01, 0x11, 0x12] {
        for address in [
            0xFFFF_FFFF_FFFF_F000u64,
            0x7FFF_FFFF_F000,
            0xFEE0_0000,
            0xFEC0_0000,
            0xC000_0000,
            crate::runtime::boot::ram_end() - 8,
            crate::runtime::boot::ram_end(),
            0xFFFF_FFFF,
        ] {
            let _ = catch(|| wrmsr(msr, address | 1));
            cpu::cpuid(0, 0);
        }
        let _ = catch(|| wrmsr(msr, 0));
    }
    ensure!(hypercall::present(), "gone");
    Ok(())
}

fn s8_unknown_msrs_do_not_flood_the_log() -> Outcome {
    const N: u32 = 5_000;
    for i in 0..N {
        expect_gp("read of an unknown MSR", || {
            rdmsr(0xDEAD_0000 + i);
        })?;
    }
    detail(format_args!("reads={N}"));
    Ok(())
}
