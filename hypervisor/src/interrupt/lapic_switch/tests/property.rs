//! Any guests, any interrupts at any step, any switches.

use super::*;
use proptest::prelude::*;

fn vector() -> impl Strategy<Value = u8> {
    prop_oneof![
        4 => any::<u8>(),
        // A few, so that they meet.
        4 => prop::sample::select(std::vec![0x20, 0x31, 0x3E, 0x41, 0x42, 0x80, 0xEC, 0xFE, 0xFF]),
    ]
}

/// A vector that a guest's checked write gives to the hardware.
fn legal_vector() -> impl Strategy<Value = u8> {
    vector().prop_map(|vector| vector.max(16))
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => vector().prop_map(Op::SelfIpi),
        6 => Just(Op::Take),
        3 => Just(Op::Eoi),
        2 => any::<u8>().prop_map(Op::Tpr),
        1 => Just(Op::Tpr(0)),
        2 => (prop::bool::weighted(0.8), legal_vector()).prop_map(|(on, vector)| Op::Svr(on, vector)),
        1 => (legal_vector(), any::<bool>()).prop_map(|(vector, mask)| Op::LvtError(vector, mask)),
        3 => (0..3u8, legal_vector(), prop::bool::weighted(0.2))
            .prop_map(|(mode, vector, mask)| Op::LvtTimer(mode, vector, mask)),
        1 => prop::sample::select(std::vec![0u8, 1, 2, 3, 8, 9, 0xB]).prop_map(Op::Divide),
        3 => (60_000..400_000u32).prop_map(Op::Initial),
        1 => Just(Op::Initial(0)),
        3 => (-20_000..400_000i64).prop_map(|by| Op::Deadline(Some(by))),
        1 => Just(Op::Deadline(None)),
        1 => Just(Op::ReadInitial),
        2 => (0..300_000u64).prop_map(Op::Advance),
        3 => vector().prop_map(Op::Arrive),
    ]
}

#[derive(Clone, Debug)]
struct Slice {
    ops: Vec<Op>,
    /// Where the switch falls, as ticks before the timer's expiry, if it is armed.
    before_expiry: Option<u64>,
    away: Vec<u8>,
    arrivals: Vec<(u64, u8)>,
    early: Vec<u8>,
    to: usize,
}

fn slice() -> impl Strategy<Value = Slice> {
    (
        prop::collection::vec(op(), 0..25),
        prop::option::of(0..80u64),
        prop::collection::vec(vector(), 0..3),
        prop::collection::vec((0..60u64, vector()), 0..4),
        prop::collection::vec(vector(), 0..3),
        0..2usize,
    )
        .prop_map(|(ops, before_expiry, away, arrivals, early, to)| Slice {
            ops,
            before_expiry,
            away,
            arrivals,
            early,
            to,
        })
}

fn kind() -> impl Strategy<Value = Kind> {
    (any::<[bool; 4]>(), 0..300u64, prop::sample::select(std::vec![1024u64, 512, 37, 1000]))
        .prop_map(
            |([class_nests, keeps_spurious, stale_deadline, disabled_delivers], lag, rate)| Kind {
                class_nests,
                keeps_spurious,
                stale_deadline,
                disabled_delivers,
                lag,
                timer_per_1024: rate,
            },
        )
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(3000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn r_d5_d6_d9_c2_c3_c4_e2_a_switched_lapic_is_one_that_was_never_switched(
        kind in kind(), cost in 1..12u64, slices in prop::collection::vec(slice(), 1..8),
    ) {
        let mut core = Core::new(kind, 2, cost);
        for slice in &slices {
            core.compare();
            for op in &slice.ops {
                core.run(op);
            }
            for &vector in &slice.away {
                core.arrive(1 - core.current, vector);
            }
            // Into the middle of an expiry.
            if let (Some(before), Some(expiry)) = (slice.before_expiry, core.lapic.expiry) {
                core.run_to(expiry.saturating_sub(before * cost).max(core.lapic.now));
            }
            core.switch(slice.to, &slice.arrivals, &slice.early);
        }
        for vcpu in 0..2 {
            core.switch(vcpu, &[], &[]);
            core.compare();
            core.drain();
        }
    }
}
