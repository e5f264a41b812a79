//! Its MSI: straight to the IDT of the CPU that the message names (A1, A3, E1).

use super::{Edu, acknowledge};
use crate::runtime::arrivals::{each_arrives, settle, traps};
use crate::runtime::lapic::{self, ASSERT};
use crate::runtime::pci::Message;
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{cpu, hypercall, irq, smp, time};
use crate::tests::messages::{ANY, LOGICAL};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

tests! { "edu", Machine:
    a1_e1_edu_100000_msis_take_no_exit,
    a1_e1_edu_msis_interrupt_a_busy_cpu_without_an_exit,
    a3_edu_msi_arrives_with_every_vector,
    a3_edu_msi_with_a_logical_destination,
    a4_a5_edu_msi_waits_for_a_cpu_with_if_0,
    e2_edu_msi_and_ipis_keep_one_order,
}

const VECTOR: u8 = 0x6D;

/// The CPU that takes the interrupts; CPU 0 raises them.
const RECEIVER: usize = 1;

/// Raises `n` MSIs into the receiver, each when the one before was taken and its handler has talked to the device. Each comes
/// once, as programmed, and costs nobody an exit.
fn without_an_exit(n: u64) -> Outcome {
    smp::others()?;
    let edu = Edu::find()?;
    edu.by_msi(Message::to(RECEIVER, VECTOR));
    irq::hook(VECTOR, acknowledge);
    let exits_there = |kind| match hypercall::present() {
        true => hypercall::exits(RECEIVER as u64, kind),
        false => 0,
    };
    let kinds = [hypercall::ALL, hypercall::EXTERNAL_INTERRUPT];
    let (first, all, there) = (irq::count(RECEIVER, VECTOR), traps(), kinds.map(exits_there));
    let (here, outcome) = hypercall::exits_of(|| {
        for i in 0..n {
            edu.raise(1 + (i as u32 & 0xFF));
            let taken = time::wait(time::LONG, || irq::count(RECEIVER, VECTOR) - first > i);
            ensure!(taken, "MSI {i} was lost");
        }
        Ok(())
    });
    let there = [exits_there(kinds[0]) - there[0], exits_there(kinds[1]) - there[1]];
    outcome?;
    settle();
    let seen = traps();
    ensure_eq!(irq::count(RECEIVER, VECTOR) - first, n, "interrupts taken");
    ensure_eq!(seen[RECEIVER] - all[RECEIVER], n, "traps of the receiver");
    ensure_eq!(seen[0] - all[0], 0, "traps of the other CPU");
    ensure_eq!(there, [0, 0], "exits of the receiver: all, external interrupts");
    ensure_eq!(here, 0, "exits of the CPU that writes to the device");
    edu.rest();
    detail(format_args!("raised={n} taken={n} receiver_exits={} sender_exits={here}", there[0]));
    Ok(())
}

/// The receiver idles: it is halted in between.
fn a1_e1_edu_100000_msis_take_no_exit() -> Outcome {
    without_an_exit(100_000)
}

fn a1_e1_edu_msis_interrupt_a_busy_cpu_without_an_exit() -> Outcome {
    let (stop, ready) = (AtomicBool::new(false), AtomicU64::new(0));
    let busy = || {
        cpu::sti();
        ready.store(1, Ordering::SeqCst);
        while !stop.load(Ordering::Relaxed) {
            cpu::pause();
        }
        cpu::cli();
        Ok(())
    };
    smp::others()?;
    let receiver = smp::spawn(RECEIVER, &busy)?;
    ensure!(time::wait(time::LONG, || ready.load(Ordering::SeqCst) == 1), "no receiver");
    let outcome = without_an_exit(2_000);
    stop.store(true, Ordering::SeqCst);
    outcome?;
    receiver.wait(time::LONG)
}

fn a3_edu_msi_arrives_with_every_vector() -> Outcome {
    smp::others()?;
    let edu = Edu::find()?;
    for vector in 32..=254 {
        for target in 0..2 {
            edu.by_msi(Message::to(target, vector));
            ensure_eq!(edu.msi.message(), Message::to(target, vector), "message read back");
            each_arrives(target, vector, 1, || edu.raise(1))?;
        }
    }
    edu.rest();
    Ok(())
}

fn a3_edu_msi_with_a_logical_destination() -> Outcome {
    smp::others()?;
    let edu = Edu::find()?;
    for target in 0..2 {
        // Cluster 0, as far as eight bits reach: one bit per CPU (SDM 10.12.10.2).
        for hint in [0, ANY] {
            let address = Message::to(1 << target, 0).address | LOGICAL | hint;
            edu.by_msi(Message { address, data: u32::from(VECTOR) });
            each_arrives(target, VECTOR, 3, || edu.raise(1))?;
        }
    }
    edu.rest();
    Ok(())
}

fn a4_a5_edu_msi_waits_for_a_cpu_with_if_0() -> Outcome {
    smp::others()?;
    let edu = Edu::find()?;
    edu.by_msi(Message::to(RECEIVER, VECTOR));
    let ready = AtomicU64::new(0);
    let closed = || {
        let before = irq::count_here(VECTOR);
        ready.store(1, Ordering::SeqCst);
        let requested = time::wait(time::LONG, || lapic::requested(VECTOR));
        ensure!(requested, "the MSI did not arrive in IRR");
        // Exits in between, if there is a hypervisor.
        for _ in 0..100 {
            cpu::cpuid(0, 0);
        }
        ensure_eq!(irq::count_here(VECTOR) - before, 0, "taken with IF=0");
        cpu::take_pending();
        ensure_eq!(irq::count_here(VECTOR) - before, 1, "taken with IF=1");
        Ok(())
    };
    for _ in 0..100 {
        ready.store(0, Ordering::SeqCst);
        let running = smp::spawn(RECEIVER, &closed)?;
        ensure!(time::wait(time::LONG, || ready.load(Ordering::SeqCst) == 1), "no receiver");
        edu.raise(1);
        running.wait(2 * time::LONG)?;
    }
    edu.rest();
    Ok(())
}

/// Order in which `note` was entered: the last eight vectors.
static ORDER: AtomicU64 = AtomicU64::new(0);

fn note(frame: &mut irq::Frame) {
    let _ = ORDER.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |order| {
        Some(order << 8 | frame.vector & 0xFF)
    });
    lapic::eoi();
}

fn e2_edu_msi_and_ipis_keep_one_order() -> Outcome {
    let edu = Edu::find()?;
    // One vector above and one below the device's, all of other classes.
    for (low, own, high) in [(0x31, 0x62, 0xE3), (0x42, 0x53, 0x64)] {
        for vector in [low, own, high] {
            irq::hook(vector, note);
        }
        edu.by_msi(Message::to(0, own));
        ORDER.store(0, Ordering::SeqCst);
        lapic::send(0, ASSERT | u64::from(low));
        edu.raise(1);
        lapic::send(0, ASSERT | u64::from(high));
        let requested = [low, own, high]
            .iter()
            .all(|vector| time::wait(time::LONG, || lapic::requested(*vector)));
        ensure!(requested, "an interrupt did not arrive in IRR");
        cpu::take_pending();
        let expected = u64::from(high) << 16 | u64::from(own) << 8 | u64::from(low);
        ensure_eq!(ORDER.load(Ordering::SeqCst), expected, "order of delivery");
    }
    edu.rest();
    Ok(())
}
