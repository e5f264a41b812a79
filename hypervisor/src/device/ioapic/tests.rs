//! The IOAPIC as Linux uses it, and against hostile register traffic.

extern crate std;

use std::vec::Vec;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn pin(number: u8) -> Pin {
    Pin::new(number).unwrap()
}

fn write_register(ioapic: &mut Ioapic, index: u8, value: u32) -> Written {
    let selected = ioapic.write(SELECT, index.into());
    assert_eq!(selected, Written::NOTHING);
    ioapic.write(WINDOW, value)
}

fn read_register(ioapic: &mut Ioapic, index: u8) -> u32 {
    let _ = ioapic.write(SELECT, index.into());
    ioapic.read(WINDOW)
}

/// Programs a pin the way Linux does: high half first, the half with the mask last.
fn program(ioapic: &mut Ioapic, number: u8, low: u32, destination: u8) -> Written {
    let _ = write_register(ioapic, 0x11 + 2 * number, u32::from(destination) << 24);
    write_register(ioapic, 0x10 + 2 * number, low)
}

fn fixed(vector: u8, destination: u8, logical: bool) -> Option<Message> {
    let delivery = Delivery::Fixed(GuestVector::new(vector).unwrap());
    Some(Message { delivery, destination, logical })
}

#[test]
fn r_v1_linux_sees_version_0x20_with_24_masked_pins() {
    let mut ioapic = Ioapic::new(0);
    assert_eq!(read_register(&mut ioapic, 1), 0x0017_0020);
    let _ = write_register(&mut ioapic, 0, 0xFFFF_FFFF);
    assert_eq!(read_register(&mut ioapic, 0), 0x0F00_0000);
    for number in 0..24 {
        assert_eq!(read_register(&mut ioapic, 0x10 + 2 * number), 0x0001_0000);
        assert_eq!(read_register(&mut ioapic, 0x11 + 2 * number), 0);
    }
    assert_eq!(read_register(&mut ioapic, 0x40), 0);
    assert_eq!(read_register(&mut ioapic, 0xFF), 0);
}

#[test]
fn r_v1_an_edge_is_one_message() {
    let mut ioapic = Ioapic::new(0);
    let _ = program(&mut ioapic, 4, 0x0000_0031, 2);
    assert_eq!(ioapic.set_line(pin(4), true), fixed(0x31, 2, false));
    assert_eq!(ioapic.set_line(pin(4), true), None);
    assert_eq!(ioapic.reassert(pin(4)), None);
    assert_eq!(ioapic.set_line(pin(4), false), None);
    assert_eq!(ioapic.set_line(pin(4), true), fixed(0x31, 2, false));
}

#[test]
fn r_v1_an_edge_under_the_mask_is_lost_and_the_next_one_is_not() {
    let mut ioapic = Ioapic::new(0);
    let _ = program(&mut ioapic, 4, 0x0001_0031, 0);
    assert_eq!(ioapic.set_line(pin(4), true), None);
    assert_eq!(program(&mut ioapic, 4, 0x0000_0031, 0), Written::NOTHING);
    assert_eq!(ioapic.set_line(pin(4), false), None);
    assert_eq!(ioapic.set_line(pin(4), true), fixed(0x31, 0, false));
}

#[test]
fn r_e4_a_level_comes_back_until_its_source_is_quiet() {
    let mut ioapic = Ioapic::new(0);
    let _ = program(&mut ioapic, 9, 0x0001_8041, 1);
    assert_eq!(ioapic.set_line(pin(9), true), None);
    // It rose under the mask; unmasking shows it.
    let written = program(&mut ioapic, 9, 0x0000_8041, 1);
    assert_eq!(written.reassert.collect::<Vec<_>>(), [pin(9)]);
    assert_eq!(ioapic.reassert(pin(9)), fixed(0x41, 1, false));
    // A directed EOI finds it by its vector.
    assert!(ioapic.write(EOI, 0x42).reassert.is_empty());
    assert_eq!(ioapic.write(EOI, 0x41).reassert.collect::<Vec<_>>(), [pin(9)]);
    assert_eq!(ioapic.set_line(pin(9), false), None);
    assert_eq!(ioapic.reassert(pin(9)), None);
    assert!(ioapic.write(EOI, 0x41).reassert.is_empty());
    // Remote IRR and delivery status cannot be set by writing.
    let _ = program(&mut ioapic, 9, 0xFFFF_FFFF, 0);
    assert_eq!(read_register(&mut ioapic, 0x10 + 18), 0x0001_AFFF);
}

#[test]
fn r_s2_modes_beyond_the_guest_stay_in_the_register() {
    let mut ioapic = Ioapic::new(0);
    for mode in [2u32, 3, 5, 6, 7] {
        let low = mode << 8 | 0x30;
        let _ = program(&mut ioapic, 1, low, 0);
        assert_eq!(read_register(&mut ioapic, 0x12), low);
        assert_eq!(ioapic.set_line(pin(1), true), None, "mode {mode}");
        assert_eq!(ioapic.set_line(pin(1), false), None);
    }
    // An NMI's vector field has no meaning.
    let _ = program(&mut ioapic, 1, 0x0400, 0);
    let nmi = Message { delivery: Delivery::Nmi, destination: 0, logical: false };
    assert_eq!(ioapic.set_line(pin(1), true), Some(nmi));
}

#[test]
fn r_v4_destinations_in_both_apic_states() {
    let to = |destination, logical| Message { delivery: Delivery::Nmi, destination, logical };
    assert_eq!(to(3, false).target(false), Destination::Physical(3));
    assert_eq!(to(3, true).target(false), Destination::Logical(3));
    assert_eq!(to(3, true).target(true), Destination::XapicLogical(3));
    assert_eq!(to(0xFF, true).target(true), Destination::All);
    assert_eq!(to(0xFF, false).target(false), Destination::All);
}

#[test]
fn r_h1_a_passed_through_pin_reports_and_stays_silent() {
    let mut ioapic = Ioapic::new(1 << 16);
    let written = program(&mut ioapic, 16, 0x0000_8051, 3);
    let changed = written.changed.unwrap();
    assert_eq!(changed.pin, pin(16));
    assert!(changed.entry.is_level() && !changed.entry.is_masked());
    assert_eq!(changed.entry.message(), fixed(0x51, 3, false));
    assert_eq!(program(&mut ioapic, 16, 0x0000_8051, 3), Written::NOTHING);
    assert_eq!(ioapic.set_line(pin(16), true), None);
    assert_eq!(ioapic.reassert(pin(16)), None);
}

#[test]
fn r_e4_a_passed_through_level_is_ended_and_shown_by_the_hardware() {
    let mut ioapic = Ioapic::new(1 << 16 | 1 << 17);
    let _ = program(&mut ioapic, 16, 0x0000_A051, 0);
    let _ = program(&mut ioapic, 17, 0x0001_A051, 0);
    let _ = program(&mut ioapic, 18, 0x0000_A051, 0);
    // The end of an interrupt whose pin is masked by now counts too; an edge has none.
    let ended = |ioapic: &mut Ioapic, vector| ioapic.write(EOI, vector).ended.collect::<Vec<_>>();
    assert_eq!(ended(&mut ioapic, 0x51), [pin(16), pin(17)]);
    assert_eq!(ended(&mut ioapic, 0x52), []);
    let _ = program(&mut ioapic, 16, 0x0000_2051, 0);
    assert_eq!(ended(&mut ioapic, 0x51), [pin(17)]);
    // Low half of a passed-through pin: its Remote IRR is the hardware's.
    let mut shown = |index: u32, offset| {
        let _ = ioapic.write(SELECT, index);
        ioapic.shown(offset)
    };
    assert_eq!(shown(0x30, WINDOW), Some(pin(16)));
    assert_eq!([shown(0x31, WINDOW), shown(0x34, WINDOW), shown(0x30, SELECT)], [None; 3]);
}

#[derive(Clone, Debug)]
enum Op {
    Write(u16, u32),
    Read(u16),
    Line(u8, bool),
    Reassert(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let offset = || prop_oneof![Just(SELECT), Just(WINDOW), Just(EOI), any::<u16>()];
    prop_oneof![
        (0u32..0x48).prop_map(|index| Op::Write(SELECT, index)),
        (offset(), any::<u32>()).prop_map(|(offset, value)| Op::Write(offset, value)),
        // Likely to be an unmasked entry.
        (0u32..0x1_0000).prop_map(|value| Op::Write(WINDOW, value)),
        offset().prop_map(Op::Read),
        (0u8..PINS, any::<bool>()).prop_map(|(pin, level)| Op::Line(pin, level)),
        (0u8..PINS).prop_map(Op::Reassert),
    ]
}

proptest! {
    #[test]
    fn r_s2_random_traffic_never_raises_a_vector_below_16(ops in vec(op(), 0..200)) {
        let mut ioapic = Ioapic::new(0x00F0_0000);
        for op in ops {
            let (number, message) = match op {
                Op::Write(offset, value) => {
                    for pin in ioapic.write(offset, value).reassert {
                        prop_assert!(ioapic.entry(pin).is_level());
                    }
                    continue;
                }
                Op::Read(offset) => {
                    ioapic.read(offset);
                    continue;
                }
                Op::Line(number, level) => (number, ioapic.set_line(pin(number), level)),
                Op::Reassert(number) => (number, ioapic.reassert(pin(number))),
            };
            let Some(message) = message else { continue };
            // Judged from the raw entry, not from the code's own reading of it.
            let raw = ioapic.entry(pin(number)).0;
            prop_assert!(number < 20 && raw >> 16 & 1 == 0);
            match message.delivery {
                Delivery::Fixed(vector) | Delivery::LowestPriority(vector) => {
                    prop_assert!(vector.get() >= 16 && u64::from(vector.get()) == raw & 0xFF);
                    prop_assert!(raw >> 8 & 7 <= 1);
                }
                Delivery::Nmi => prop_assert_eq!(raw >> 8 & 7, 4),
            }
        }
    }
}
