//! The interrupt pin (E4): the guest's registers, and when the hardware's may speak.

use super::*;
use crate::device::ioapic;

const COMMAND: u16 = 0x04;
const NO_INTX: u32 = 1 << 10;

fn wired() -> Function {
    Function::new(Description { line: ioapic::Pin::new(17), ..description() })
}

fn write(function: &mut Function, at: u16, width: Width, value: u32) -> Vec<Action> {
    function.config_write(at, width, value, &vcpus()).into_iter().collect()
}

#[test]
fn r_e4_a_function_with_a_line_has_inta() {
    let mut function = wired();
    let _ = function.reset();
    assert_eq!(function.config_read(0x3C, Width::Dword), 0x0100, "not the machine's line, 0x0B");
    assert_eq!(write(&mut function, 0x3C, Width::Dword, !0), []);
    assert_eq!(function.config_read(0x3C, Width::Dword), 0x01FF, "the line is a byte of RAM");
    assert_eq!(function.line(), ioapic::Pin::new(17));
}

#[test]
fn r_e4_the_pin_speaks_after_a_reset_and_not_against_the_command_register() {
    let mut function = wired();
    let reset: Vec<Action> = function.reset().into_iter().collect();
    assert_eq!(reset, [Action::Reset, Action::Intx(true)]);
    assert_eq!(write(&mut function, COMMAND, Width::Word, NO_INTX), [Action::Intx(false)]);
    assert_eq!(write(&mut function, COMMAND, Width::Word, NO_INTX | 2), []);
    assert_eq!(write(&mut function, COMMAND, Width::Word, 2), [Action::Intx(true)]);
    // A function-level reset by its guest.
    assert_eq!(write(&mut function, COMMAND, Width::Word, NO_INTX), [Action::Intx(false)]);
    let reset = write(&mut function, 0xA8, Width::Word, 1 << 15);
    assert_eq!(reset, [Action::Reset, Action::Intx(true)]);
}

#[test]
fn r_e4_the_pin_is_silent_while_messages_are_on() {
    let mut function = wired();
    let _ = function.reset();
    // MSI, with a message that may be sent, and one that may not.
    for (address, sent) in [(0xFEE0_0000_u32, true), (0xFEE5_5000, false)] {
        write(&mut function, 0x54, Width::Dword, address);
        write(&mut function, 0x5C, Width::Word, 0x41);
        let on = write(&mut function, 0x52, Width::Word, 1);
        assert_eq!(on.last(), Some(&Action::Intx(false)));
        let enabled = on.iter().any(|a| matches!(a, Action::MsiControl { enable: true, .. }));
        assert_eq!(enabled, sent);
        let off = write(&mut function, 0x52, Width::Word, 0);
        assert_eq!(off.last(), Some(&Action::Intx(true)));
    }
    let on = write(&mut function, 0x72, Width::Word, 1 << 15);
    assert_eq!(on.last(), Some(&Action::Intx(false)));
    // Still off by the command register when the messages go.
    write(&mut function, COMMAND, Width::Word, NO_INTX);
    let off = write(&mut function, 0x72, Width::Word, 0);
    assert!(!off.iter().any(|action| matches!(action, Action::Intx(_))), "{off:?}");
    assert_eq!(write(&mut function, COMMAND, Width::Word, 0), [Action::Intx(true)]);
}

#[test]
fn r_e4_a_function_without_a_line_never_speaks() {
    let mut function = function();
    let reset: Vec<Action> = function.reset().into_iter().collect();
    assert_eq!(reset, [Action::Reset]);
    assert_eq!(write(&mut function, COMMAND, Width::Word, NO_INTX), []);
    assert_eq!(write(&mut function, COMMAND, Width::Word, 0), []);
}

#[test]
fn r_e4_the_status_register_shows_what_the_function_asks_for() {
    let slot = |function| Slot { function, backing: Box::new(Recorder::default()) };
    let mut bus = Bus::new(std::vec![slot(wired()), slot(function())]).unwrap();
    let mut read = |device: u64, at: u64, width| bus.ecam_read(device << 15 | at, width);
    assert_eq!(read(1, 4, Width::Dword), 0x0018_0000);
    assert_eq!((read(1, 6, Width::Word), read(1, 6, Width::Byte)), (0x18, 0x18));
    assert_eq!((read(1, 4, Width::Word), read(1, 7, Width::Byte)), (0, 0));
    assert_eq!(read(2, 4, Width::Dword), 0x0010_0000, "no pin, nothing to ask with");
}
