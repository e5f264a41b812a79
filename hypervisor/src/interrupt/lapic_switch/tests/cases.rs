//! States that have a name.

use super::*;

const KIND: Kind = Kind {
    class_nests: false,
    keeps_spurious: false,
    stale_deadline: false,
    disabled_delivers: false,
    lag: 0,
    timer_per_1024: 1024,
};
/// As Bochs 2.7 has it.
const BOCHS: Kind = Kind { class_nests: true, keeps_spurious: true, stale_deadline: true, ..KIND };

const A: usize = 0;
const B: usize = 1;

/// Two vCPUs with their LAPICs on, the first one running.
fn core(kind: Kind) -> Core {
    let mut core = Core::new(kind, 2, 3);
    for vcpu in [B, A] {
        core.switch(vcpu, &[], &[]);
        core.run(&Op::Svr(true, 0xF0));
    }
    core
}

fn run(core: &mut Core, ops: &[Op]) {
    for op in ops {
        core.run(op);
    }
}

fn in_service(core: &Core) -> Vec<u8> {
    core.lapic.isr.ascending().collect()
}

#[test]
fn r_d5_vectors_in_service_nest_as_before() {
    let mut core = core(KIND);
    run(&mut core, &[Op::SelfIpi(0x31), Op::Take, Op::SelfIpi(0x55), Op::Take, Op::SelfIpi(0x52)]);
    core.switch(B, &[], &[]);
    assert!(core.lapic.isr.is_empty() && core.lapic.irr.is_empty());
    assert_eq!((core.lapic.tpr, core.lapic.deliverable()), (0, None));
    run(&mut core, &[Op::SelfIpi(0x20), Op::Take]);
    assert_eq!(in_service(&core), [0x20]);
    core.switch(A, &[], &[]);
    assert_eq!(in_service(&core), [0x31, 0x55]);
    assert_eq!(core.lapic.end(), Some(0x55));
    assert_eq!(core.lapic.take(), Some(0x52));
    assert_eq!([core.lapic.end(), core.lapic.end()], [Some(0x52), Some(0x31)]);
}

#[test]
fn r_d5_a_vector_in_service_and_requested_again_is_both_afterwards() {
    let mut core = core(KIND);
    run(&mut core, &[Op::SelfIpi(0x31), Op::Take, Op::SelfIpi(0x31)]);
    core.switch(B, &[(20, 0x31)], &[]);
    core.switch(A, &[], &[0x31]);
    assert!(core.lapic.isr.contains(0x31) && core.lapic.irr.contains(0x31));
    core.drain();
}

#[test]
fn r_d5_two_of_a_class_are_in_service_only_where_a_class_nests() {
    // By the manual the second one waits, whatever TPR does.
    let games =
        [Op::SelfIpi(0x31), Op::Take, Op::Tpr(0x20), Op::SelfIpi(0x3E), Op::Tpr(0), Op::Take];
    for (kind, expected) in [(KIND, &[0x31][..]), (BOCHS, &[0x31, 0x3E][..])] {
        let mut core = core(kind);
        run(&mut core, &games);
        assert_eq!(in_service(&core), expected);
        core.switch(B, &[], &[]);
        core.switch(A, &[], &[]);
        assert_eq!(in_service(&core), expected);
        core.compare();
        core.drain();
    }
}

#[test]
fn r_d5_tpr_above_what_is_in_service() {
    let mut core = core(KIND);
    run(&mut core, &[Op::SelfIpi(0x31), Op::Take, Op::Tpr(0xFF), Op::SelfIpi(0xFF)]);
    core.switch(B, &[], &[]);
    core.switch(A, &[], &[]);
    assert_eq!((in_service(&core), core.lapic.tpr), ([0x31].to_vec(), 0xFF));
    assert_eq!(core.lapic.take(), None);
    core.run(&Op::Tpr(0));
    assert_eq!(core.lapic.take(), Some(0xFF));
}

#[test]
fn r_d9_a_vector_in_service_that_equals_the_spurious_vector() {
    for kind in [KIND, BOCHS] {
        for spurious in [0xFF, 0xFE, 0x31] {
            let mut core = core(kind);
            run(&mut core, &[Op::Svr(true, spurious), Op::SelfIpi(spurious), Op::Take]);
            core.switch(B, &[], &[]);
            assert!(core.lapic.isr.is_empty());
            core.switch(A, &[], &[]);
            assert_eq!(in_service(&core), [spurious]);
        }
    }
}

#[test]
fn r_d9_a_software_disabled_lapic_holds_what_it_has_and_takes_nothing() {
    for disabled_delivers in [false, true] {
        let mut core = core(Kind { disabled_delivers, ..KIND });
        run(&mut core, &[Op::SelfIpi(0x31), Op::Take, Op::SelfIpi(0x42), Op::Svr(false, 0xF0)]);
        core.switch(B, &[(2, 0x51), (9, 0x52), (13, 0x53)], &[]);
        core.arrive(A, 0x54);
        core.switch(A, &[], &[0x55]);
        assert_eq!(in_service(&core), [0x31]);
        assert_eq!(core.lapic.irr.ascending().collect::<Vec<_>>(), [0x42]);
        assert_eq!(core.lapic.svr, 0xF0);
        core.compare();
        core.drain();
    }
}

#[test]
fn r_d9_every_vector_sent_and_every_class_in_service() {
    for kind in [KIND, BOCHS] {
        let mut core = core(kind);
        for class in 1..16u8 {
            run(&mut core, &[Op::SelfIpi(class << 4 | 3), Op::Take]);
        }
        assert_eq!(in_service(&core).len(), 15);
        for vector in 0..=255 {
            core.run(&Op::SelfIpi(vector));
        }
        core.run(&Op::Tpr(0xFF));
        core.switch(B, &[], &[]);
        core.drain();
        core.switch(A, &[], &[]);
        core.compare();
        core.drain();
    }
}

#[test]
fn r_c2_a_timer_that_expires_while_away_is_pending_once_and_never_the_others() {
    let arm = [
        [Op::LvtTimer(2, 0x41, false), Op::Deadline(Some(50_000))],
        [Op::LvtTimer(0, 0x41, false), Op::Initial(40_000)],
    ];
    for ops in &arm {
        let mut core = core(KIND);
        run(&mut core, ops);
        core.switch(B, &[], &[]);
        core.advance(200_000);
        assert_eq!(core.lapic.irr, VectorSet::EMPTY);
        let rates = core.lapic.rates();
        let now = core.lapic.now;
        assert!(core.vcpus[A].state.timer.expiry().is_some_and(|expiry| expiry <= now));
        assert!(core.vcpus[A].state.tick(now, rates));
        assert!(!core.vcpus[A].state.tick(now, rates));
        core.switch(A, &[], &[]);
        assert_eq!(core.lapic.irr.ascending().collect::<Vec<_>>(), [0x41]);
        run(&mut core, &[Op::Take, Op::Eoi, Op::Advance(500_000)]);
        assert_eq!(core.lapic.irr, VectorSet::EMPTY);
        core.switch(B, &[], &[]);
        core.switch(A, &[], &[]);
        assert_eq!(core.lapic.irr, VectorSet::EMPTY);
    }
}

/// Arms a one-shot or a deadline timer, switches away `before` ticks before its expiry and back at once; returns how
/// often it fires.
fn fires(kind: Kind, cost: u64, mode: u32, divide: u32, before: u64) -> usize {
    let mut lapic = Model::new(kind, 1_000_000);
    lapic.cost = cost;
    lapic.set(Register::Svr, 0x1F0);
    lapic.set(Register::TimerDivide, divide.into());
    lapic.set(Register::LvtTimer, u64::from(mode << 17 | 0x41));
    lapic.set(Register::TimerInitial, 100);
    lapic.set(Register::TscDeadline, 1_050_000);
    lapic.run_to(lapic.expiry.unwrap() - before);
    let mut state = LapicState::RESET;
    save(&mut lapic, &mut state).unwrap();
    restore(&mut lapic, &mut state).unwrap();
    // The guest takes what is there before more time goes by.
    (0..2000)
        .filter(|_| {
            let taken = lapic.take().is_some();
            lapic.end();
            lapic.run_to(lapic.now + 50);
            taken
        })
        .count()
}

#[test]
fn r_c3_an_expiry_at_any_step_of_the_switch_counts_once() {
    for kind in [KIND, Kind { lag: 200, ..BOCHS }, Kind { timer_per_1024: 37, ..KIND }] {
        for (cost, mode, divide) in [(1, 0, 0xB), (1, 0, 0xA), (7, 0, 3), (1, 2, 0), (9, 2, 0)] {
            for before in 0..400 {
                assert_eq!(
                    fires(kind, cost, mode, divide, before),
                    1,
                    "{kind:?}, cost {cost}, mode {mode}, TDCR {divide:#x}, {before} ticks before"
                );
            }
        }
    }
}

#[test]
fn r_c4_a_periodic_timer_keeps_its_phase_while_away_for_many_periods() {
    let mut core = core(KIND);
    run(&mut core, &[Op::LvtTimer(1, 0x41, false), Op::Divide(0xB), Op::Initial(100_000)]);
    let first = core.lapic.expiry.unwrap();
    core.switch(B, &[], &[]);
    core.advance(730_000);
    core.switch(A, &[], &[]);
    // Seven periods are one interrupt.
    run(&mut core, &[Op::Take, Op::Eoi]);
    assert_eq!(core.vcpus[A].state.timer.shadow(), Shadow::Whole);
    let due = core.vcpus[A].state.timer.expiry().unwrap();
    assert!(due.abs_diff(first + 700_000) <= core.lapic.cost);
    core.run_to(due - 1);
    assert_eq!(core.lapic.irr, VectorSet::EMPTY);
    core.run_to(due);
    assert_eq!(core.lapic.take(), Some(0x41));
    // From here on the hardware has it.
    assert_eq!(core.vcpus[A].state.timer.shadow(), Shadow::None);
    assert_eq!((core.lapic.initial, core.lapic.lvt_timer), (100_000, 1 << 17 | 0x41));
    assert!(core.lapic.expiry.unwrap().abs_diff(due + 100_000) < 20);
}

#[test]
fn r_c4_a_deadline_of_0_stays_disarmed_and_a_mask_swallows_an_expiry() {
    let mut core = core(KIND);
    run(&mut core, &[Op::LvtTimer(2, 0x41, false), Op::Deadline(Some(50_000)), Op::Deadline(None)]);
    core.switch(B, &[], &[]);
    core.advance(100_000);
    core.switch(A, &[], &[]);
    assert_eq!((core.lapic.irr, core.lapic.expiry), (VectorSet::EMPTY, None));
    run(&mut core, &[Op::LvtTimer(2, 0x41, true), Op::Deadline(Some(50_000))]);
    core.switch(B, &[], &[]);
    core.advance(100_000);
    core.switch(A, &[], &[]);
    assert_eq!((core.lapic.irr, core.lapic.expiry), (VectorSet::EMPTY, None));
}

#[test]
fn r_c4_a_one_shot_count_reads_as_the_guest_wrote_it() {
    let mut core = core(KIND);
    run(&mut core, &[Op::LvtTimer(0, 0x41, false), Op::Initial(300_000), Op::Advance(100_000)]);
    for _ in 0..3 {
        core.switch(B, &[], &[]);
        core.switch(A, &[], &[]);
        assert!(core.lapic.initial < 300_000);
        core.run(&Op::ReadInitial);
    }
    core.run(&Op::Initial(200_000));
    assert_eq!(core.vcpus[A].state.timer.shadow(), Shadow::None);
    assert_eq!(core.lapic.initial, 200_000);
}

#[test]
fn r_c4_a_periodic_timer_before_its_first_expiry_is_read_and_written_as_without_a_switch() {
    let mut core = core(KIND);
    run(&mut core, &[Op::LvtTimer(1, 0x41, false), Op::Divide(0xB), Op::Initial(300_000)]);
    core.advance(100_000);
    core.switch(B, &[], &[]);
    core.switch(A, &[], &[]);
    let count = |core: &mut Core| {
        core.vcpus[A].state.timer.read(&mut core.lapic.clone(), Register::TimerCurrent)
    };
    let left = core.vcpus[A].twin.get(Register::TimerCurrent);
    assert!(count(&mut core).abs_diff(left) < 20);
    // Each count takes four times as long.
    core.write(Register::TimerDivide, 1);
    assert!(count(&mut core).abs_diff(left) < 20);
    let [ours, twins] = core.expiries().map(Option::unwrap);
    assert!(ours.abs_diff(twins) < 80 && ours > core.lapic.now + 3 * left);
    // As a one-shot timer it is the hardware's again.
    core.write(Register::LvtTimer, 0x42);
    assert_eq!(core.vcpus[A].state.timer.shadow(), Shadow::Initial);
    assert!(core.lapic.expiry.unwrap().abs_diff(twins) < 100);
    core.compare();
}

#[test]
fn r_d6_100000_switches_change_nothing() {
    let mut core = core(Kind { lag: 40, ..KIND });
    let mut random = 1u32;
    for _ in 0..50_000 {
        for vcpu in [B, A] {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let [vector, choice, ..] = random.to_be_bytes();
            core.run(&match choice % 8 {
                0 => Op::LvtTimer(choice >> 3 & 1, vector.max(16), false),
                1 => Op::Initial(100_000 + random % 100_000),
                2 | 3 => Op::Take,
                4 | 5 => Op::Eoi,
                6 => Op::Tpr(vector >> 2),
                _ => Op::SelfIpi(vector),
            });
            core.switch(vcpu, &[], &[]);
            core.compare();
        }
    }
}

#[test]
fn r_d9_what_cannot_be_emptied_is_said() {
    let mut lapic = Model::new(KIND, 0);
    let mut state = LapicState::RESET;
    // QEMU's TCG takes vector 0 and never delivers it.
    lapic.irr.insert(0);
    let left = save(&mut lapic, &mut state).unwrap_err();
    assert!(left.requested.contains(0) && left.in_service.is_empty());
}

#[test]
fn r_d5_a_lapic_that_does_not_accept_a_vector_anew_is_said() {
    let mut core = core(KIND);
    run(&mut core, &[Op::SelfIpi(0x31), Op::Take]);
    core.switch(B, &[], &[]);
    // Not emptied: something of a higher class is in service.
    core.lapic.isr.insert(0x90);
    let state = &mut core.vcpus[A].state;
    assert_eq!(restore(&mut core.lapic, state), Err(NotAccepted(0x31)));
}
