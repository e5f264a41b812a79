//! Routes that cannot be programmed: their messages stay closed, whatever stood before (B2, S8).

use super::*;

/// Bus addresses of the card's table (the window's BARs lie at their sizes' order), and its registers.
fn table(bus: &mut Bus, entry: u64, field: u64, value: u32) {
    let gpa = bus.functions().next().unwrap().regions().find(|r| !r.mapped).unwrap().gpa.start;
    let at = gpa + 0x800 + 16 * entry + 4 * field;
    bus.memory_write(at, Width::Dword, value.into(), &vcpus()).unwrap();
}

fn config(bus: &mut Bus, offset: u64, width: Width, value: u32) {
    bus.ecam_write(1 << 15 | offset, width, value.into(), &vcpus());
}

/// Every opening of an entry of the table.
fn opened(actions: &[Action]) -> usize {
    actions.iter().filter(|a| matches!(a, Action::Mask { masked: false, .. })).count()
}

#[test]
fn r_b2_an_entry_whose_route_fails_stays_masked_and_comes_back_with_the_next_that_does_not() {
    let (mut bus, recorder) = bus();
    for (field, value) in [(0, 0xFEE0_0000), (2, 0x41), (3, 0)] {
        table(&mut bus, 2, field, value);
    }
    assert_eq!(opened(&recorder.take()), 1);
    // Behind its mask, as Linux does it.
    recorder.fail(true);
    table(&mut bus, 2, 3, 1);
    table(&mut bus, 2, 0, 0xFEE0_1000);
    recorder.take();
    table(&mut bus, 2, 3, 0);
    let failed = recorder.take();
    assert!(matches!(failed[0], Action::Route(_)));
    assert_eq!(
        failed[1..],
        [Action::Mask { entry: 2, masked: true }, Action::Block(Source::Msix(2)),]
    );
    // Masked and unmasked without a change: still no route, so still closed.
    table(&mut bus, 2, 3, 1);
    table(&mut bus, 2, 3, 0);
    assert_eq!(opened(&recorder.take()), 0);
    // It works again.
    recorder.fail(false);
    table(&mut bus, 2, 3, 0);
    let good = recorder.take();
    assert!(matches!(good[0], Action::Route(MsiRoute { entry: 2, vcpu: 1, .. })));
    assert_eq!(good[1..], [Action::Mask { entry: 2, masked: false }]);
}

#[test]
fn r_b2_an_open_entry_that_cannot_be_moved_is_closed() {
    let (mut bus, recorder) = bus();
    for (field, value) in [(0, 0xFEE0_0000), (2, 0x41), (3, 0)] {
        table(&mut bus, 1, field, value);
    }
    recorder.take();
    recorder.fail(true);
    table(&mut bus, 1, 2, 0x42);
    let failed = recorder.take();
    assert_eq!(
        failed[1..],
        [Action::Mask { entry: 1, masked: true }, Action::Block(Source::Msix(1)),]
    );
}

#[test]
fn r_b2_msi_whose_routes_fail_is_switched_off() {
    let (mut bus, recorder) = bus();
    config(&mut bus, 0x54, Width::Dword, 0xFEE0_0000);
    config(&mut bus, 0x5C, Width::Word, 0x41);
    recorder.fail(true);
    config(&mut bus, 0x52, Width::Word, 1);
    let off = [Action::MsiControl { enable: false, order: 0 }, Action::Block(Source::Msi)];
    assert_eq!(recorder.take()[1..], off);
    recorder.fail(false);
    config(&mut bus, 0x52, Width::Word, 1);
    assert_eq!(recorder.take()[1..], [Action::MsiControl { enable: true, order: 0 }]);
    // Moved while it is on.
    recorder.fail(true);
    config(&mut bus, 0x5C, Width::Word, 0x42);
    assert_eq!(recorder.take()[1..], off);
}
