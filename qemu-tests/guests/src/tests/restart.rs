//! INIT to a running CPU resets it and its LAPIC, and SIPI starts it again (V5).

use crate::runtime::irq::{self, Frame};
use crate::runtime::lapic::{self, *};
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{cpu, smp, tables, time};
use core::sync::atomic::{AtomicU64, Ordering};

tests! { "smp", Machine:
    v5_init_in_a_handler_resets_cpu_and_lapic_100_times,
    v5_init_while_halted_and_while_if_0,
    s8_v5_init_with_illegal_vectors_in_the_lapic,
    v5_sipi_without_init_does_nothing,
    v5_second_sipi_does_nothing,
}

const HELD: u8 = 0x58;
const QUEUED: u8 = 0x48;
static IN_HANDLER: AtomicU64 = AtomicU64::new(0);

/// Never ends: the CPU stays in this handler, its vector in service and another one queued.
fn hold(_: &mut Frame) {
    lapic::self_ipi(QUEUED);
    IN_HANDLER.fetch_add(1, Ordering::SeqCst);
    loop {
        cpu::pause();
    }
}

/// Leaves everything in the LAPIC different from its reset state, then stays in a handler.
fn make_a_mess() -> Outcome {
    lapic::write(SVR, 0x1E0);
    for lvt in [LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_PMI, LVT_THERMAL] {
        lapic::write(lvt, 0x77);
    }
    lapic::count_timer(PERIODIC, 0x40, 100_000);
    lapic::write(TPR, 0x30);
    lapic::self_ipi(HELD);
    cpu::sti();
    time::delay(time::LONG);
    Ok(())
}

/// What a fresh CPU found in its LAPIC must be the state after INIT. SDM 11.4.7.3.
fn fresh(index: usize) -> Outcome {
    let state = smp::lapic_at_start(index);
    ensure_eq!(state.svr, 0xFF, "SVR after INIT");
    ensure_eq!(state.tpr, 0, "TPR after INIT");
    ensure_eq!(state.in_service, None, "in service after INIT");
    ensure_eq!(state.requested, None, "requested after INIT");
    ensure_eq!(state.timer_initial, 0, "timer's initial count after INIT");
    ensure_eq!(state.lvts, [MASKED; 6], "LVTs after INIT");
    Ok(())
}

fn v5_init_in_a_handler_resets_cpu_and_lapic_100_times() -> Outcome {
    const N: u64 = 100;
    irq::hook(HELD, hold);
    for round in 1..=N {
        for index in smp::others()? {
            let before = IN_HANDLER.load(Ordering::SeqCst);
            let mess = smp::spawn(index, &make_a_mess)?;
            let held = time::wait(time::LONG, || IN_HANDLER.load(Ordering::SeqCst) > before);
            ensure!(held, "cpu {index} did not reach its handler in round {round}");
            time::delay(round * 37 % 500);
            mess.abandon()?;
            fresh(index)?;
            // It works as before: a job, an interrupt, an EOI.
            let taken = irq::count(index, QUEUED);
            smp::on_cpu(index, || {
                lapic::self_ipi(QUEUED);
                cpu::take_pending();
                Ok(())
            })?;
            ensure_eq!(irq::count(index, QUEUED) - taken, 1, "self-IPI after restart {round}");
        }
    }
    detail(format_args!("restarts={}", N * (smp::count() as u64 - 1)));
    Ok(())
}

fn v5_init_while_halted_and_while_if_0() -> Outcome {
    let halted = || {
        IN_HANDLER.fetch_add(1, Ordering::SeqCst);
        loop {
            cpu::sti_hlt();
        }
    };
    let deaf = || {
        cpu::cli();
        lapic::write(TPR, 0xFF);
        IN_HANDLER.fetch_add(1, Ordering::SeqCst);
        loop {
            cpu::pause();
        }
    };
    let dead = || {
        cpu::cli();
        IN_HANDLER.fetch_add(1, Ordering::SeqCst);
        loop {
            cpu::hlt();
        }
    };
    let states: [(&str, &(dyn Fn() -> Outcome + Sync)); 3] =
        [("halted", &halted), ("IF=0, TPR=FF", &deaf), ("halted with IF=0", &dead)];
    for index in smp::others()? {
        for (what, job) in states {
            let before = IN_HANDLER.load(Ordering::SeqCst);
            let running = smp::spawn(index, job)?;
            let there = time::wait(time::LONG, || IN_HANDLER.load(Ordering::SeqCst) > before);
            ensure!(there, "cpu {index} did not get {what}");
            time::delay(1_000);
            running.abandon()?;
            fresh(index)?;
        }
    }
    Ok(())
}

/// Hardware has no vectors below 16 (SDM 11.5.2). QEMU's TCG takes them for interrupts, and what a CPU leaves in its LAPIC
/// there reaches whoever empties it.
fn s8_v5_init_with_illegal_vectors_in_the_lapic() -> Outcome {
    let mess = || {
        cpu::cli();
        // Not 0: TCG requests it and never delivers it.
        for vector in 1..16 {
            lapic::self_ipi(vector);
        }
        IN_HANDLER.fetch_add(1, Ordering::SeqCst);
        loop {
            cpu::pause();
        }
    };
    for index in smp::others()? {
        let before = IN_HANDLER.load(Ordering::SeqCst);
        let running = smp::spawn(index, &mess)?;
        let there = time::wait(time::LONG, || IN_HANDLER.load(Ordering::SeqCst) > before);
        ensure!(there, "cpu {index} sent nothing");
        running.abandon()?;
        fresh(index)?;
    }
    Ok(())
}

fn v5_sipi_without_init_does_nothing() -> Outcome {
    for index in smp::others()? {
        let starts = smp::starts(index);
        smp::startup(index);
        time::delay(20_000);
        ensure_eq!(smp::starts(index) - starts, 0, "starts of cpu {index} after a SIPI alone");
        smp::on_cpu(index, || {
            ensure!(tables::current() != 0, "on the wrong CPU");
            Ok(())
        })?;
    }
    Ok(())
}

fn v5_second_sipi_does_nothing() -> Outcome {
    for index in smp::others()? {
        let starts = smp::starts(index);
        smp::restart(index)?;
        smp::startup(index);
        smp::startup(index);
        time::delay(20_000);
        ensure_eq!(smp::starts(index) - starts, 1, "starts of cpu {index}");
    }
    Ok(())
}
