//! IPIs between CPUs: every destination mode, counts that match, and who pays an exit (V4).

#![expect(unsafe_code, reason = "a receiving loop in assembly")]

use crate::runtime::catch::catch;
use crate::runtime::lapic::*;
use crate::runtime::random::Random;
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{boot, cpu, hypercall, irq, lapic, smp, tables, time};
use core::arch::naked_asm;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

tests! { "hostile-smp", Beeline: s2_random_ipis_between_cpus_harm_nobody }
tests! { "smp", Machine:
    v4_100000_ipis_cross_without_an_exit_of_the_receiver,
    v4_every_destination_mode_reaches_exactly_its_cpus,
    v4_ipis_both_ways_at_once,
    v4_ipi_wakes_a_halted_cpu,
    v4_ipi_waits_for_a_cpu_with_if_0,
    v4_ids_and_logical_ids_per_cpu,
}

const VECTOR: u8 = 0x68;

static STOP: AtomicBool = AtomicBool::new(false);
static READY: AtomicU64 = AtomicU64::new(0);
static TAKEN: AtomicU64 = AtomicU64::new(0);

fn all_ready(cpus: u64) -> bool {
    time::wait(time::LONG, || READY.load(Ordering::SeqCst) == cpus)
}

fn reset() {
    STOP.store(false, Ordering::SeqCst);
    READY.store(0, Ordering::SeqCst);
    TAKEN.store(0, Ordering::SeqCst);
}

/// Spins with IF = 1 until told to stop. Under TCG it sleeps: each CPU is a thread of the host, which may have fewer.
fn stay_open() -> Outcome {
    READY.fetch_add(1, Ordering::SeqCst);
    if boot::options().tcg {
        while !STOP.load(Ordering::Relaxed) {
            cpu::sti_hlt();
            cpu::cli();
        }
        return Ok(());
    }
    cpu::sti();
    while !STOP.load(Ordering::Relaxed) {
        cpu::pause();
    }
    cpu::cli();
    Ok(())
}

fn v4_ids_and_logical_ids_per_cpu() -> Outcome {
    let check = || {
        let index = tables::current() as u32;
        let id = lapic::id();
        ensure_eq!(id, index, "x2APIC id");
        ensure_eq!(lapic::read(LDR) as u32, (id >> 4) << 16 | 1 << (id & 15), "LDR");
        ensure_eq!(cpu::cpuid(1, 0).ebx >> 24, id, "CPUID.1 initial id");
        for leaf in [0xB, 0x1F] {
            if cpu::cpuid(0, 0).eax >= leaf && cpu::cpuid(leaf, 0).ebx != 0 {
                ensure_eq!(cpu::cpuid(leaf, 0).edx, id, "x2APIC id in leaf {leaf:#x}");
            }
        }
        let base = cpu::rdmsr(cpu::IA32_APIC_BASE);
        ensure_eq!(base >> 8 & 1 != 0, index == 0, "BSP flag of cpu {index}");
        Ok(())
    };
    check()?;
    smp::others()?.try_for_each(|index| smp::on_cpu(index, check))
}

fn v4_every_destination_mode_reaches_exactly_its_cpus() -> Outcome {
    smp::others()?;
    let n = smp::count() as u32;
    let everybody = (1u32 << n) - 1;
    // Destination, low half, the CPUs that must get it. The sender is CPU 0, and the idle CPUs halt with IF = 1.
    let check = |what: &str, destination: u32, low: u64, expected: u32| {
        let count = |i: u32| irq::count(i as usize, VECTOR);
        let before: [u64; smp::MAX_CPUS] = core::array::from_fn(|i| count(i as u32));
        lapic::send(destination, low | ASSERT | u64::from(VECTOR));
        cpu::take_pending();
        let hit =
            || (0..n).filter(|&i| count(i) > before[i as usize]).fold(0, |set, i| set | 1 << i);
        time::wait(time::LONG, || hit() == expected);
        // Long enough for one that goes astray.
        time::delay(500);
        cpu::take_pending();
        ensure_eq!(hit(), expected, "{what} {destination:#x}: set of CPUs hit");
        let sum: u64 = (0..n).map(|i| count(i) - before[i as usize]).sum();
        ensure_eq!(sum, u64::from(expected.count_ones()), "{what} {destination:#x}: IPIs");
        Ok(())
    };
    for id in 0..n {
        check("physical", id, 0, 1 << id)?;
        check("logical", 1 << id, LOGICAL, 1 << id)?;
    }
    for members in 0..=everybody {
        check("cluster", members, LOGICAL, members)?;
    }
    check("cluster with absent members", 0xFFFF, LOGICAL, everybody)?;
    check("other cluster", 1 << 16 | 0xFFFF, LOGICAL, 0)?;
    check("absent id", n, 0, 0)?;
    check("absent id", 0x1234, 0, 0)?;
    check("self", 5, TO_SELF, 1)?;
    check("all", 0, TO_ALL, everybody)?;
    check("all but self", 0, TO_OTHERS, everybody & !1)?;
    check("broadcast", BROADCAST, 0, everybody)?;
    check("logical broadcast", BROADCAST, LOGICAL, everybody)?;
    // The same from another CPU.
    let from_other = || {
        lapic::send(0, TO_OTHERS | ASSERT | u64::from(VECTOR));
        cpu::take_pending();
        Ok(())
    };
    let before = (irq::count(0, VECTOR), irq::count(1, VECTOR));
    smp::on_cpu(1, from_other)?;
    cpu::take_pending();
    ensure_eq!(irq::count(0, VECTOR) - before.0, 1, "all but self from cpu 1: at cpu 0");
    ensure_eq!(irq::count(1, VECTOR) - before.1, 0, "all but self from cpu 1: at cpu 1");
    Ok(())
}

/// Counts in memory and ends the interrupt: a receiver that is ready for the next IPI at once.
#[unsafe(naked)]
unsafe extern "sysv64" fn count_and_end() {
    naked_asm!(
        "push rax",
        "push rcx",
        "push rdx",
        "mov ecx, 0x80B",
        "xor eax, eax",
        "xor edx, edx",
        "wrmsr",
        "lock inc qword ptr [rip + {taken}]",
        "pop rdx",
        "pop rcx",
        "pop rax",
        "iretq",
        taken = sym TAKEN,
    )
}

fn v4_100000_ipis_cross_without_an_exit_of_the_receiver() -> Outcome {
    const N: u64 = 100_000;
    let others = smp::others()?;
    reset();
    tables::set_gate(VECTOR, count_and_end as *const () as u64);
    let receivers: [Option<smp::Running>; smp::MAX_CPUS] = {
        let mut started = [const { None }; smp::MAX_CPUS];
        for index in others.clone() {
            started[index] = Some(smp::spawn(index, &stay_open)?);
        }
        started
    };
    ensure!(all_ready(others.len() as u64), "the receivers did not start");
    let exits_there = || -> u64 {
        if !hypercall::present() {
            return 0;
        }
        others.clone().map(|i| hypercall::exits(i as u64, hypercall::ALL)).sum()
    };
    let before = exits_there();
    let (exits, outcome) = hypercall::exits_of(|| {
        for i in 0..N {
            let target = 1 + (i as usize) % others.len();
            lapic::write(ICR, (target as u64) << 32 | ASSERT | u64::from(VECTOR));
            let taken = time::wait(time::LONG, || TAKEN.load(Ordering::Relaxed) > i);
            ensure!(taken, "IPI {i} to cpu {target} was lost");
        }
        Ok(())
    });
    let received = exits_there() - before;
    STOP.store(true, Ordering::SeqCst);
    for index in others.clone() {
        lapic::send(index as u32, ASSERT | u64::from(irq::WAKE));
    }
    outcome?;
    for receiver in receivers.into_iter().flatten() {
        receiver.wait(time::LONG)?;
    }
    ensure_eq!(TAKEN.load(Ordering::SeqCst), N, "IPIs taken");
    if hypercall::present() {
        ensure_eq!(received, 0, "exits of the receivers");
        ensure_eq!(exits, N, "exits of the sender");
    }
    detail(format_args!("sent={N} taken={N} sender_exits={exits} receiver_exits={received}"));
    Ok(())
}

fn v4_ipis_both_ways_at_once() -> Outcome {
    const N: u64 = 5_000;
    const TO_0: u8 = 0x69;
    smp::others()?;
    reset();
    let there = irq::count(1, VECTOR);
    let here = irq::count(0, TO_0);
    // Each side sends when the other has taken the one before.
    let other = || {
        cpu::sti();
        for i in 0..N {
            lapic::send(0, ASSERT | u64::from(TO_0));
            let taken = time::wait(time::LONG, || irq::count(0, TO_0) - here > i);
            ensure!(taken, "IPI {i} from cpu 1 to cpu 0 was lost");
        }
        // Stay open until the boot CPU is through.
        let done = time::wait(time::LONG, || irq::count(1, VECTOR) - there >= N);
        cpu::cli();
        ensure!(done, "cpu 0 did not get through");
        Ok(())
    };
    let running = smp::spawn(1, &other)?;
    cpu::sti();
    for i in 0..N {
        lapic::send(1, ASSERT | u64::from(VECTOR));
        let taken = time::wait(time::LONG, || irq::count(1, VECTOR) - there > i);
        ensure!(taken, "IPI {i} from cpu 0 to cpu 1 was lost");
    }
    running.wait(10 * time::LONG)?;
    cpu::cli();
    ensure_eq!((irq::count(1, VECTOR) - there, irq::count(0, TO_0) - here), (N, N), "taken");
    Ok(())
}

fn v4_ipi_wakes_a_halted_cpu() -> Outcome {
    for i in 0..1_000u64 {
        for index in smp::others()? {
            let before = irq::count(index, VECTOR);
            // Sometimes in the middle of falling asleep, sometimes long after.
            time::delay(i % 61);
            lapic::send(index as u32, ASSERT | u64::from(VECTOR));
            let woken = time::wait(time::LONG, || irq::count(index, VECTOR) > before);
            ensure!(woken, "cpu {index} slept through IPI {i}");
        }
    }
    Ok(())
}

fn v4_ipi_waits_for_a_cpu_with_if_0() -> Outcome {
    smp::others()?;
    reset();
    let closed = || {
        let before = irq::count_here(VECTOR);
        READY.store(1, Ordering::SeqCst);
        let requested = time::wait(time::LONG, || lapic::requested(VECTOR));
        ensure!(requested, "the IPI did not arrive in IRR");
        time::delay(500);
        ensure_eq!(irq::count_here(VECTOR) - before, 0, "taken with IF=0");
        cpu::take_pending();
        ensure_eq!(irq::count_here(VECTOR) - before, 1, "taken with IF=1");
        Ok(())
    };
    let running = smp::spawn(1, &closed)?;
    ensure!(all_ready(1), "cpu 1 did not start");
    lapic::send(1, ASSERT | u64::from(VECTOR));
    running.wait(2 * time::LONG)
}

/// Random ICR values from CPU 0, with every delivery mode and destination. Afterwards each other CPU can be restarted and
/// works. Left out: INIT and SIPI to CPU 0 itself, and SIPIs, whose page would be random code.
fn s2_random_ipis_between_cpus_harm_nobody() -> Outcome {
    const N: u64 = 3_000;
    let others = smp::others()?;
    for vector in 32..=255 {
        irq::hook(vector, |_| lapic::eoi());
    }
    let mut random = Random::new(12);
    let (mut sent, mut refused) = (0, 0);
    for _ in 0..N {
        let low = random.next() & [0xCDFFF, 0xFFF, 0xFFFF_FFFF][random.below(3) as usize];
        let high = match random.below(3) {
            0 => random.next() & 0xFFFF_FFFF,
            1 => 0xFFFF_FFFF,
            _ => 1 + random.below(smp::count() as u64),
        };
        let (mode, shorthand, vector) = (low >> 8 & 7, low >> 18 & 3, low & 0xFF);
        let at_self = shorthand != 3 && (shorthand != 0 || high > 0xFFFF || low >> 11 & 1 == 1);
        if mode == 6 || mode == 5 && at_self || mode < 2 && (vector < 32 || vector == 255) {
            continue;
        }
        match catch(|| lapic::write(ICR, high << 32 | low)) {
            Ok(()) => sent += 1,
            Err(_) => refused += 1,
        }
        cpu::take_pending();
    }
    for index in others {
        smp::restart(index)?;
        let before = irq::count(index, VECTOR);
        lapic::send(index as u32, ASSERT | u64::from(VECTOR));
        let taken = time::wait(time::LONG, || irq::count(index, VECTOR) > before);
        ensure!(taken, "cpu {index} takes no IPI any more");
    }
    ensure!(sent > 500 && refused > 100, "sent {sent}, refused {refused}: the mix is wrong");
    detail(format_args!("sent={sent} refused={refused}"));
    Ok(())
}
