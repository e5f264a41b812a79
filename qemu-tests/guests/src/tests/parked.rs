//! A CPU that waits for its SIPI: its core is parked in guest mode, so a kick reaches it as an exit, and never waits (H4).
//!
//! A core that waited in root mode instead, in HLT or in a loop, would take its NMIs by the host's handler.

use super::kick::{
    ANY_MOMENT, NMIS_AS_EXIT, NMIS_IN_ROOT, NMIS_SENT, POSTED, RUNNING, TARGET, all_acknowledged,
    figures, patience,
};
use crate::runtime::random::Random;
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{boot, hypercall, irq, smp, time};

tests! { "kick", Hooks:
    h4_a_parked_core_takes_every_kick,
    h4_a_parked_core_is_started_inside_a_storm,
}

/// Starts a storm on the target, lets `meanwhile` act, and waits for the storm's end: every kick must have been served.
fn storm(kicks: u64, seed: u64, meanwhile: impl FnOnce() -> Outcome) -> Outcome {
    hypercall::storm_reset();
    ensure!(hypercall::kick_storm(kicks, seed, TARGET, ANY_MOMENT), "the storm was refused");
    meanwhile()?;
    let ended = time::wait(patience(), || hypercall::storm(RUNNING) == 0);
    ensure!(ended, "the storm did not end in time: {} kicks posted", hypercall::storm(POSTED));
    all_acknowledged()?;
    ensure_eq!(hypercall::storm(POSTED), kicks, "kicks posted");
    Ok(())
}

/// INIT to the target, and waits until its core is parked: a kick is served with the requests before it.
fn park() -> Outcome {
    smp::init(TARGET);
    storm(1, 1, || Ok(()))?;
    // The NMI of a request that was found without it is still under way.
    time::delay(20_000);
    Ok(())
}

/// The target does a job and takes no NMI that was none of its own.
fn works(nmis: u64) -> Outcome {
    smp::on_cpu(TARGET, || Ok(()))?;
    ensure_eq!(irq::nmis(TARGET) - nmis, 0, "NMIs that the guest saw");
    Ok(())
}

fn h4_a_parked_core_takes_every_kick() -> Outcome {
    const N: u64 = 3_000;
    smp::others()?;
    let (starts, nmis) = (smp::starts(TARGET), irq::nmis(TARGET));
    park()?;
    let exits = hypercall::exits(TARGET as u64, hypercall::ALL);
    let stormed = storm(N, boot::options().seed, || Ok(()));
    let sent = hypercall::storm(NMIS_SENT);
    let taken = || hypercall::storm(NMIS_AS_EXIT) + hypercall::storm(NMIS_IN_ROOT);
    time::wait(time::LONG, || taken() == sent);
    let (as_exit, in_root) = (hypercall::storm(NMIS_AS_EXIT), hypercall::storm(NMIS_IN_ROOT));
    // The vCPU did not run: what exited was the parked core.
    let exits = hypercall::exits(TARGET as u64, hypercall::ALL) - exits;
    let starts_in_storm = smp::starts(TARGET) - starts;
    // Before any judgement, so that the next test finds its CPU. The SIPI alone must do: no kick undid the INIT.
    smp::start(TARGET)?;
    stormed?;
    figures("kick_parked");
    ensure_eq!(exits, 0, "exits of the vCPU that waits");
    ensure_eq!(starts_in_storm, 0, "starts without a SIPI");
    // A request that the core found before its NMI came leaves the word as it was: the next kick may ride on that NMI.
    ensure!(sent > N / 2 && sent <= N, "{sent} NMIs were sent for {N} kicks");
    ensure_eq!(as_exit + in_root, sent, "NMIs taken as exit or in root mode");
    ensure!(as_exit > sent / 2, "only {as_exit} of {sent} NMIs ended the parked core's guest mode");
    works(nmis)?;
    detail(format_args!("kicks={N} as_exit={as_exit} in_root={in_root}"));
    Ok(())
}

fn h4_a_parked_core_is_started_inside_a_storm() -> Outcome {
    const ROUNDS: u64 = 20;
    const KICKS: u64 = 40;
    smp::others()?;
    let mut random = Random::new(boot::options().seed);
    let nmis = irq::nmis(TARGET);
    for round in 0..ROUNDS {
        smp::init(TARGET);
        let starts = smp::starts(TARGET);
        let delay = random.between(0, 30_000);
        let mut started = Ok(());
        let stormed = storm(KICKS, round + 1, || {
            time::delay(delay);
            started = smp::start(TARGET);
            Ok(())
        });
        started?;
        stormed?;
        ensure_eq!(smp::starts(TARGET) - starts, 1, "starts in round {round}");
        works(nmis)?;
    }
    detail(format_args!("starts={ROUNDS} kicks={}", ROUNDS * KICKS));
    Ok(())
}
