//! Resets of a function, step by step.

use super::*;
use crate::pci::reset::{self, Progress, Reset, Way};

#[test]
fn a_reset_waits_and_puts_the_configuration_back() {
    let model = machine();
    let function = Function::new(&model, bdf(PF));
    function.set_bus_master(true);
    let way = reset::way(function).unwrap();
    assert_eq!(way, Way::Express(EXPRESS));
    reset::reset(function, way).unwrap();
    assert_eq!(model.resets.get(), 1);
    assert!(model.waited.get() >= 130_000, "{}", model.waited.get());
    assert_eq!(model.get(PF, 0x1C), 0xFE82_0000);
    assert_eq!(model.get(PF, EXPRESS + 8), 0x2810);
    assert_eq!(model.get(PF, 4), 0x0010_0003, "memory on, bus mastering off");
}

#[test]
fn r_d1_a_reset_under_way_waits_for_nothing() {
    let model = machine();
    let function = Function::new(&model, bdf(PF));
    function.set_bus_master(true);
    let mut reset = Reset::of(function, Some(Way::Express(EXPRESS)));
    assert_eq!(reset.advance(function), Progress::Idle);
    // A request waits for its answer: the reset waits for it, silent.
    model.set(PF, EXPRESS + 8, 0x0020_2810);
    reset.begin(function);
    assert_eq!(reset.advance(function), Progress::Waits);
    assert_eq!((model.get(PF, 4), model.resets.get()), (0x0010_0001, 0), "neither memory nor DMA");
    model.set(PF, EXPRESS + 8, 0x2810);
    assert_eq!(reset.advance(function), Progress::Waits);
    assert_eq!(model.resets.get(), 1);
    // Beginning anew changes nothing.
    reset.begin(function);
    for waited in [0, 50_000, 49_999] {
        model.wait(waited);
        assert_eq!(reset.advance(function), Progress::Waits);
    }
    assert_eq!(model.reads_while_silent.get(), 0, "not spoken to for 100 ms");
    model.wait(20_001);
    assert_eq!(reset.advance(function), Progress::Waits, "it does not answer yet");
    model.wait(10_000);
    assert_eq!(reset.advance(function), Progress::Done);
    assert_eq!(reset.advance(function), Progress::Idle);
    assert_eq!((model.get(PF, 0x10), model.get(PF, 4)), (0xFE80_0000, 0x0010_0003));
    assert_eq!((model.resets.get(), model.waited.get()), (1, 130_000));
}

#[test]
fn requests_that_pend_for_ever_hold_a_reset_for_a_tenth_of_a_second() {
    let model = machine();
    let function = Function::new(&model, bdf(PF));
    model.set(PF, EXPRESS + 8, 0x0020_2810);
    for way in [None, Some(Way::Express(EXPRESS))] {
        model.waited.set(0);
        let mut reset = Reset::of(function, way);
        reset.begin(function);
        assert_eq!(reset.advance(function), Progress::Waits);
        model.wait(99_999);
        assert_eq!((reset.advance(function), model.resets.get()), (Progress::Waits, 0));
        model.wait(1);
        let next = if way.is_some() { Progress::Waits } else { Progress::Done };
        assert_eq!(reset.advance(function), next);
        assert_eq!(model.get(PF, 4) & 2 != 0, way.is_none(), "memory stays without a reset");
    }
    assert_eq!(model.resets.get(), 1);
}

#[test]
fn r_s7_a_function_without_a_reset_is_refused() {
    let model = machine();
    model.set(PF, EXPRESS + 4, 0x8000);
    let function = Function::new(&model, bdf(PF));
    assert_eq!(reset::way(function), Err(Why::NoReset));
    // The other way: advanced features.
    model.set(PF, 0x34, 0x50);
    model.set(PF, 0x50, 0x0306_0013);
    assert_eq!(reset::way(function), Ok(Way::Advanced(0x50)));
}

#[test]
fn r_s10_a_function_that_stays_away_is_lost() {
    let model = machine();
    let function = Function::new(&model, bdf(PF));
    model.silent.set(u64::MAX);
    assert_eq!(reset::reset(function, Way::Express(EXPRESS)), Err(Why::Lost));
    assert!((1_000_000..2_000_000).contains(&model.waited.get()));
}
