//! ICR and SELF_IPI writes by class on one CPU: what is allowed arrives, everything else reaches nobody (V3, V4, S2).

use crate::runtime::catch::{catch, expect_gp};
use crate::runtime::irq::{self, Frame};
use crate::runtime::lapic::{self, *};
use crate::runtime::random::Random;
use crate::runtime::registry::{detail, tests};
use crate::runtime::text::{Outcome, ensure, ensure_eq};
use crate::runtime::{cpu, hypercall, time};

tests! { "up", Machine:
    v4_every_way_to_send_to_oneself,
    v4_icr_write_takes_one_exit,
}
tests! { "up", IllegalVectors: s2_self_ipi_with_vectors_0_to_15_raises_nothing }
tests! { "up", Strict: v3_icr_with_vectors_0_to_15_raises_nothing }
// Bochs 2.7 by itself ignores reserved bits of the ICR, and an SMI would run the BIOS.
tests! { "up", Beeline:
    s2_random_icr_writes_stay_inside,
    v3_icr_reserved_bits_fault,
    v3_smi_extint_and_remote_read_reach_nobody,
}

const VECTOR: u8 = 0x62;

fn accept(_: &mut Frame) {
    lapic::eoi();
}

/// Runs `f` and takes all that is pending: no trap of any kind may come of it.
fn raises_nothing(what: &str, f: impl FnOnce()) -> Outcome {
    let before = irq::count_range(0, 0..=255);
    f();
    time::delay(200);
    cpu::take_pending();
    ensure_eq!(irq::count_range(0, 0..=255) - before, 0, "traps after {what}");
    Ok(())
}

fn s2_self_ipi_with_vectors_0_to_15_raises_nothing() -> Outcome {
    for vector in 0..16 {
        raises_nothing("a self-IPI with a vector below 16", || lapic::self_ipi(vector))?;
    }
    lapic::write(ESR, 0);
    detail(format_args!("esr={:#x}", lapic::read(ESR)));
    Ok(())
}

fn v3_icr_with_vectors_0_to_15_raises_nothing() -> Outcome {
    for vector in 0..16 {
        for how in [TO_SELF, TO_ALL, 0] {
            raises_nothing("an ICR write with a vector below 16", || lapic::send(0, how | vector))?;
        }
    }
    lapic::write(ESR, 0);
    detail(format_args!("esr={:#x}", lapic::read(ESR)));
    Ok(())
}

fn v3_icr_reserved_bits_fault() -> Outcome {
    let before = irq::count_here(VECTOR);
    for bit in [13, 16, 17, 20, 25, 31] {
        expect_gp("ICR with a reserved bit", || {
            lapic::write(ICR, TO_SELF | u64::from(VECTOR) | 1 << bit);
        })?;
    }
    cpu::take_pending();
    ensure_eq!(irq::count_here(VECTOR) - before, 0, "IPIs sent by refused writes");
    Ok(())
}

fn v3_smi_extint_and_remote_read_reach_nobody() -> Outcome {
    for mode in [2, 3, 7] {
        for vector in [0, 0x20, 0xFE] {
            for how in [0, TO_SELF, TO_ALL, TO_OTHERS, LOGICAL, ASSERT] {
                // A refusal may be silent or #GP, as hardware has both; nothing may arrive.
                let before = irq::count_range(0, 14..=255) + irq::nmis(0);
                let _ = catch(|| lapic::write(ICR, mode << 8 | how | vector));
                time::delay(200);
                cpu::take_pending();
                let after = irq::count_range(0, 14..=255) + irq::nmis(0);
                ensure_eq!(after - before, 0, "arrivals after ICR mode {mode} {how:#x}");
            }
        }
    }
    Ok(())
}

/// The ways to name this CPU, whose id is 0.
fn ways() -> [(&'static str, u32, u64); 8] {
    let id = lapic::id();
    let logical = lapic::read(LDR) as u32;
    [
        ("physical", id, 0),
        ("logical", logical, LOGICAL),
        ("cluster", logical | 0xFFFF, LOGICAL),
        ("self", 0, TO_SELF),
        ("all", 0, TO_ALL),
        ("broadcast", BROADCAST, 0),
        ("logical broadcast", BROADCAST, LOGICAL),
        ("lowest priority", logical, LOWEST | LOGICAL),
    ]
}

fn v4_every_way_to_send_to_oneself() -> Outcome {
    let id = lapic::id();
    ensure_eq!(lapic::read(LDR), u64::from((id >> 4) << 16 | 1 << (id & 15)), "LDR");
    for (name, destination, low) in ways() {
        let before = irq::count_here(VECTOR);
        lapic::send(destination, ASSERT | low | u64::from(VECTOR));
        cpu::take_pending();
        ensure_eq!(irq::count_here(VECTOR) - before, 1, "{name}: IPIs taken");
    }
    if hypercall::present() {
        // Bochs 2.7 looks at the logical id even here.
        let before = irq::count_here(VECTOR);
        lapic::send(id, ASSERT | LOWEST | u64::from(VECTOR));
        cpu::take_pending();
        ensure_eq!(irq::count_here(VECTOR) - before, 1, "physical, lowest priority: IPIs taken");
    }
    let before = irq::count_here(VECTOR);
    for (destination, low) in [(0, TO_OTHERS), (id + 200, 0), (1 << 16 | 1, LOGICAL)] {
        lapic::send(destination, ASSERT | low | u64::from(VECTOR));
    }
    time::delay(200);
    cpu::take_pending();
    ensure_eq!(irq::count_here(VECTOR) - before, 0, "IPIs meant for others");
    Ok(())
}

fn v4_icr_write_takes_one_exit() -> Outcome {
    let before = irq::count_here(VECTOR);
    let msr_writes = || {
        if !hypercall::present() {
            return 0;
        }
        hypercall::exits(hypercall::ALL, hypercall::MSR_WRITE)
    };
    let writes = msr_writes();
    let (exits, ()) = hypercall::exits_of(|| {
        for _ in 0..1_000 {
            lapic::send(0, TO_SELF | ASSERT | u64::from(VECTOR));
            cpu::take_pending();
        }
    });
    ensure_eq!(irq::count_here(VECTOR) - before, 1_000, "IPIs taken");
    if hypercall::present() {
        ensure_eq!(exits, 1_000, "exits");
        ensure_eq!(msr_writes() - writes, 1_000, "of kind msr_write");
    }
    Ok(())
}

/// Random 64-bit values into the ICR, without INIT and SIPI towards ourselves.
fn s2_random_icr_writes_stay_inside() -> Outcome {
    const N: u64 = 5_000;
    for vector in 16..=255 {
        irq::hook(vector, accept);
    }
    // Exceptions go to `catch`, as ever; hooks above serve the vectors that self-IPIs may carry, but for these two.
    for vector in [17, 18] {
        irq::unhook(vector);
    }
    let mut random = Random::new(2);
    let (mut faults, mut sent) = (0, 0);
    for _ in 0..N {
        let mut value = random.next();
        match random.below(4) {
            0 => {}
            1 => value &= 0xCDFFF,
            2 => value &= 0x0000_000F_000C_DFFF,
            _ => value = value & 0x000C_DFFF | 0xFFFF_FFFF << 32,
        }
        // Bochs 2.7 never retires the spurious vector: leave it out too.
        let (mode, vector) = (value >> 8 & 7, (value & 0xFF) as u8);
        if mode == 5 || mode == 6 || mode < 2 && [17, 18, irq::SPURIOUS].contains(&vector) {
            continue;
        }
        match catch(|| lapic::write(ICR, value)) {
            Ok(()) => sent += 1,
            Err(_) => faults += 1,
        }
        if random.below(8) == 0 {
            cpu::take_pending();
        }
    }
    cpu::take_pending();
    ensure_eq!(lapic::highest(lapic::ISR), None, "left in service");
    ensure!(sent > 0 && faults > 0, "sent {sent}, refused {faults}: the mix is wrong");
    detail(format_args!("writes={sent} faults={faults} nmis={}", irq::nmis(0)));
    Ok(())
}
