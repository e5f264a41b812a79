//! A guest's own NMIs, sent by ICR: each arrives exactly once, and none inside the handler of another (D4, V3).

#![expect(unsafe_code, reason = "an IRET to unblock NMIs")]

use crate::runtime::irq::{self, Frame};
use crate::runtime::lapic::{self, ASSERT};
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{cpu, smp, tables, time};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

tests! { "up", Machine:
    d4_nmi_to_oneself_arrives_once,
    d4_nmi_is_blocked_in_its_handler_until_iret,
    d4_nmi_comes_through_if_0_and_tpr,
}
tests! { "smp", Machine:
    d4_nmis_across_arrive_once_each,
    d4_nmi_reaches_a_cpu_halted_with_if_0,
    d4_nmi_by_shorthand_and_logical,
}

fn send_nmi(index: usize) {
    lapic::send(index as u32, lapic::NMI | ASSERT);
}

fn d4_nmi_to_oneself_arrives_once() -> Outcome {
    const N: u64 = 1_000;
    let before = irq::nmis(0);
    for i in 1..=N {
        send_nmi(0);
        let taken = time::wait(time::LONG, || irq::nmis(0) - before >= i);
        ensure!(taken, "NMI {i} was lost");
    }
    time::delay(500);
    ensure_eq!(irq::nmis(0) - before, N, "NMIs taken");
    detail(format_args!("sent={N} taken={N}"));
    Ok(())
}

static DEPTH: AtomicU64 = AtomicU64::new(0);
static DEEPEST: AtomicU64 = AtomicU64::new(0);
static ROUNDS: AtomicU64 = AtomicU64::new(0);

/// Sends itself two NMIs in the first round: they merge into one that comes after the IRET.
fn nesting(_: &mut Frame) {
    let depth = DEPTH.fetch_add(1, Ordering::SeqCst) + 1;
    DEEPEST.fetch_max(depth, Ordering::SeqCst);
    if ROUNDS.fetch_add(1, Ordering::SeqCst) == 0 {
        send_nmi(tables::current());
        time::delay(300);
        send_nmi(tables::current());
        time::delay(300);
    }
    DEPTH.fetch_sub(1, Ordering::SeqCst);
}

/// Sends an NMI from its handler, then unblocks by an IRET of its own and waits: the NMI must come right there.
fn unblocking(_: &mut Frame) {
    if ROUNDS.fetch_add(1, Ordering::SeqCst) != 0 {
        return;
    }
    send_nmi(tables::current());
    time::delay(300);
    DEPTH.store(ROUNDS.load(Ordering::SeqCst), Ordering::SeqCst);
    // SAFETY: returns to the next instruction on the same stack; only RAX changes.
    unsafe {
        core::arch::asm!(
            "mov rax, rsp",
            "push 0x10",
            "push rax",
            "pushfq",
            "push 0x08",
            "lea rax, [rip + 2f]",
            "push rax",
            "iretq",
            "2:",
            out("rax") _,
        );
    }
    // At once, or where the hypervisor can only look again after a while, then.
    time::wait(time::LONG, || ROUNDS.load(Ordering::SeqCst) >= 2);
    DEEPEST.store(ROUNDS.load(Ordering::SeqCst), Ordering::SeqCst);
}

fn d4_nmi_is_blocked_in_its_handler_until_iret() -> Outcome {
    for counter in [&DEPTH, &DEEPEST, &ROUNDS] {
        counter.store(0, Ordering::SeqCst);
    }
    irq::hook(irq::NMI, nesting);
    send_nmi(0);
    let two = time::wait(time::LONG, || ROUNDS.load(Ordering::SeqCst) >= 2);
    time::delay(1_000);
    ensure!(two, "the NMI that waited for IRET was lost");
    ensure_eq!(ROUNDS.load(Ordering::SeqCst), 2, "handler runs for one NMI and two merged");
    ensure_eq!(DEEPEST.load(Ordering::SeqCst), 1, "depth of nesting");
    ROUNDS.store(0, Ordering::SeqCst);
    irq::hook(irq::NMI, unblocking);
    send_nmi(0);
    let two = time::wait(time::LONG, || ROUNDS.load(Ordering::SeqCst) >= 2);
    ensure!(two, "the NMI that waited for an inner IRET was lost");
    let seen = (DEPTH.load(Ordering::SeqCst), DEEPEST.load(Ordering::SeqCst));
    ensure_eq!(seen, (1, 2), "handler runs before and after the inner IRET");
    Ok(())
}

fn d4_nmi_comes_through_if_0_and_tpr() -> Outcome {
    let before = irq::nmis(0);
    cpu::cli();
    lapic::write(lapic::TPR, 0xFF);
    for _ in 0..10 {
        send_nmi(0);
        time::delay(500);
    }
    lapic::write(lapic::TPR, 0);
    ensure_eq!(irq::nmis(0) - before, 10, "NMIs taken");
    Ok(())
}

static STOP: AtomicBool = AtomicBool::new(false);
static READY: AtomicBool = AtomicBool::new(false);

fn d4_nmis_across_arrive_once_each() -> Outcome {
    const N: u64 = 2_000;
    for index in smp::others()? {
        STOP.store(false, Ordering::SeqCst);
        READY.store(false, Ordering::SeqCst);
        // The receiver does a bit of everything: spins, traps, opens and closes IF.
        let busy = || {
            READY.store(true, Ordering::SeqCst);
            while !STOP.load(Ordering::Relaxed) {
                cpu::cpuid(0, 0);
                time::delay(40);
                cpu::take_pending();
            }
            Ok(())
        };
        let before = irq::nmis(index);
        let running = smp::spawn(index, &busy)?;
        time::wait(time::LONG, || READY.load(Ordering::SeqCst));
        let mut lost = None;
        for i in 1..=N {
            time::delay(i % 53);
            send_nmi(index);
            if !time::wait(time::LONG, || irq::nmis(index) - before >= i) {
                lost = Some(i);
                break;
            }
        }
        time::delay(1_000);
        STOP.store(true, Ordering::SeqCst);
        running.wait(time::LONG)?;
        ensure_eq!(lost, None, "number of the NMI to cpu {index} that was lost");
        ensure_eq!(irq::nmis(index) - before, N, "NMIs taken by cpu {index}");
    }
    detail(format_args!("sent={N} per cpu"));
    Ok(())
}

fn d4_nmi_reaches_a_cpu_halted_with_if_0() -> Outcome {
    for index in smp::others()? {
        READY.store(false, Ordering::SeqCst);
        let before = irq::nmis(index);
        let asleep = || {
            cpu::cli();
            READY.store(true, Ordering::SeqCst);
            // A spurious wake-up is legal: look before sleeping on.
            while irq::nmis(index) == before {
                cpu::hlt();
            }
            Ok(())
        };
        let running = smp::spawn(index, &asleep)?;
        time::wait(time::LONG, || READY.load(Ordering::SeqCst));
        time::delay(2_000);
        send_nmi(index);
        running.wait(time::LONG)?;
        time::delay(500);
        ensure_eq!(irq::nmis(index) - before, 1, "NMIs taken by cpu {index}");
    }
    Ok(())
}

fn d4_nmi_by_shorthand_and_logical() -> Outcome {
    let others = smp::others()?;
    let n = others.len() as u64;
    let sum = || others.clone().map(irq::nmis).sum::<u64>();
    let (here, there) = (irq::nmis(0), sum());
    lapic::send(0, lapic::TO_OTHERS | lapic::NMI | ASSERT);
    time::wait(time::LONG, || sum() - there >= n);
    time::delay(500);
    ensure_eq!((sum() - there, irq::nmis(0) - here), (n, 0), "NMIs by 'all but self'");
    lapic::send(2, lapic::LOGICAL | lapic::NMI | ASSERT);
    time::wait(time::LONG, || sum() - there > n);
    time::delay(500);
    ensure_eq!((sum() - there, irq::nmis(0) - here), (n + 1, 0), "NMIs by logical id");
    Ok(())
}
