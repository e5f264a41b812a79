//! The guest's TSC is the machine's: offset 0, writes are dropped, reads are not trapped (C5).

use crate::runtime::cpu::{self, IA32_TSC, IA32_TSC_ADJUST, rdmsr, rdtsc, wrmsr};
use crate::runtime::registry::tests;
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{boot, hypercall, time};

tests! { "up", Beeline: c5_tsc_writes_are_dropped, c5_tsc_adjust_writes_are_dropped }
tests! { "up", Machine: c5_reading_the_tsc_takes_no_exit }

/// Longer than a test may take, and shorter than any of the jumps.
const SOON: u64 = time::LONG;

fn c5_tsc_writes_are_dropped() -> Outcome {
    let before = rdtsc();
    for value in [0, 1, u64::MAX, before << 8] {
        wrmsr(IA32_TSC, value);
        let passed = rdtsc().wrapping_sub(before);
        ensure!(passed < time::ticks(SOON), "TSC moved by {passed:#x} after a write of {value:#x}");
    }
    Ok(())
}

fn c5_tsc_adjust_writes_are_dropped() -> Outcome {
    let adjust = rdmsr(IA32_TSC_ADJUST);
    let before = rdtsc();
    for value in [1 << 44, u64::MAX << 44, 0] {
        wrmsr(IA32_TSC_ADJUST, value);
        let passed = rdtsc().wrapping_sub(before);
        ensure!(passed < time::ticks(SOON), "TSC moved by {passed:#x} after TSC_ADJUST={value:#x}");
        ensure_eq!(rdmsr(IA32_TSC_ADJUST), adjust, "TSC_ADJUST after a write of {value:#x}");
    }
    Ok(())
}

fn c5_reading_the_tsc_takes_no_exit() -> Outcome {
    // TCG reads the MSR as another number than the instruction.
    let tcg = boot::options().tcg;
    let has_adjust = cpu::cpuid(7, 0).ebx & 2 != 0;
    let (exits, steady) = hypercall::exits_of(|| {
        let mut last = rdtsc();
        (0..1_000).all(|_| {
            if has_adjust {
                rdmsr(IA32_TSC_ADJUST);
            }
            let now = rdtsc();
            let msr = if tcg { rdtsc() } else { rdmsr(IA32_TSC) };
            let steady = last <= now && now <= msr;
            last = msr;
            steady
        })
    });
    ensure!(steady, "the TSC went backwards");
    ensure_eq!(exits, 0, "exits");
    Ok(())
}
