//! MSI-X the way Linux programs them, and messages that are refused.

use super::*;
use arch_defs::pci::MessageRefused;

const TABLE: u64 = 0x1800;

fn route(entry: u16, vector: u8, vcpu: u32) -> Action {
    Action::Route(MsiRoute { entry, vector: GuestVector::new(vector).unwrap(), vcpu })
}

const fn mask(entry: u16, masked: bool) -> Action {
    Action::Mask { entry, masked }
}

fn table(function: &mut Function, entry: u64, field: u64, value: u32) -> Vec<Action> {
    let at = TABLE + 16 * entry + 4 * field;
    let actions = function.memory_write(3, at, Width::Dword, value.into(), &vcpus());
    actions.into_iter().collect()
}

/// Linux's order: the message under the mask, then the mask.
fn program(function: &mut Function, entry: u64, address: u32, data: u32) -> Vec<Action> {
    let mut all = table(function, entry, 3, 1);
    all.extend(table(function, entry, 0, address));
    all.extend(table(function, entry, 1, 0));
    all.extend(table(function, entry, 2, data));
    all.extend(table(function, entry, 3, 0));
    all
}

#[test]
fn r_a3_an_entry_is_routed_before_it_is_opened() {
    let mut function = function();
    let actions = function.config_write(0x72, Width::Word, 0xC000, &vcpus());
    assert_eq!(actions[..], [Action::MsixControl { enable: true, function_mask: true }]);
    assert_eq!(program(&mut function, 2, 0xFEE0_1000, 0x41), [route(2, 0x41, 1), mask(2, false)]);
    assert_eq!(function.memory_read(3, TABLE + 40, Width::Dword), MemoryRead::Value(0x41));
    let actions = function.config_write(0x72, Width::Word, 0x8000, &vcpus());
    assert_eq!(actions[..], [Action::MsixControl { enable: true, function_mask: false }]);
    assert_eq!(function.config_read(0x72, Width::Word), 0x8004);
    // The same again is no news.
    assert!(function.config_write(0x72, Width::Word, 0x8000, &vcpus()).is_empty());
}

#[test]
fn r_a3_an_entry_programmed_anew_at_run_time() {
    let mut function = function();
    program(&mut function, 0, 0xFEE0_0000, 0x41);
    let again = program(&mut function, 0, 0xFEE0_1000, 0x52);
    assert_eq!(again, [mask(0, true), route(0, 0x52, 1), mask(0, false)]);
    // Masked and unmasked as it was: the route stands.
    assert_eq!(table(&mut function, 0, 3, 1), [mask(0, true)]);
    assert_eq!(table(&mut function, 0, 3, 0), [mask(0, false)]);
    // Changed without a mask: each step counts.
    assert_eq!(table(&mut function, 0, 0, 0xFEE0_0000), [route(0, 0x52, 0)]);
    assert_eq!(table(&mut function, 0, 2, 0x61), [route(0, 0x61, 0)]);
}

#[test]
fn a_qword_is_two_dwords_of_an_entry() {
    let mut function = function();
    let none = function.memory_write(3, TABLE + 16, Width::Qword, 0xFEE0_1000, &vcpus());
    assert!(none.is_empty());
    let both = function.memory_write(3, TABLE + 24, Width::Qword, 0x41, &vcpus());
    assert_eq!(both[..], [route(1, 0x41, 1), mask(1, false)]);
    assert_eq!(function.memory_read(3, TABLE + 24, Width::Qword), MemoryRead::Value(0x41));
    assert_eq!(function.memory_read(3, TABLE + 18, Width::Word), MemoryRead::Value(0xFEE0));
    // Narrower writes have no meaning, and no effect.
    assert!(function.memory_write(3, TABLE + 24, Width::Byte, 0x55, &vcpus()).is_empty());
    assert_eq!(function.memory_read(3, TABLE + 24, Width::Byte), MemoryRead::Value(0x41));
}

#[test]
fn r_s2_a_refused_message_closes_and_blocks_its_entry() {
    let cases = [
        (0xFEE0_0000, 0x0F, MessageRefused::Vector(15)),
        (0xFEE0_2000, 0x41, MessageRefused::Destination(2)),
        (0xFEEF_F000, 0x41, MessageRefused::Destination(0xFF)),
        (0xFEE0_0010, 0x41, MessageRefused::Format(0xFEE0_0010)),
        (0x0010_0000, 0x41, MessageRefused::Address(0x10_0000)),
        (0xFEE0_0000, 0x8041, MessageRefused::Level),
    ];
    for (address, data, why) in cases {
        let report = Action::Report(Report::Message { source: Source::Msix(3), why });
        let mut function = function();
        // From the beginning: it was never open.
        assert_eq!(program(&mut function, 3, address, data), [report]);
        // After a good one: closed first, then blocked.
        program(&mut function, 3, 0xFEE0_0000, 0x41);
        table(&mut function, 3, 3, 1);
        table(&mut function, 3, 0, address);
        table(&mut function, 3, 2, data);
        assert_eq!(table(&mut function, 3, 3, 0), [Action::Block(Source::Msix(3)), report]);
        // And a good one opens it again.
        let again = program(&mut function, 3, 0xFEE0_0000, 0x41);
        assert_eq!(again, [route(3, 0x41, 0), mask(3, false)]);
        // Made bad while it is open.
        let bad = table(&mut function, 3, 2, 0x0441);
        assert_eq!(bad[..2], [mask(3, true), Action::Block(Source::Msix(3))]);
    }
}

#[test]
fn destinations_in_xapic_state_are_the_guests_logical_ids() {
    let mut function = function();
    let ids = [1, 2].map(|id| XapicLogical { id, cluster: false });
    let vcpus = Vcpus { logical: ArrayVec::from_iter(ids), xapic: true };
    let mut write = |field: u64, value: u64| {
        function.memory_write(3, TABLE + 4 * field, Width::Dword, value, &vcpus)
    };
    assert!(write(0, 0xFEE0_2004).is_empty());
    assert!(write(2, 0x41).is_empty());
    assert_eq!(write(3, 0)[..], [route(0, 0x41, 1), mask(0, false)]);
    // Both, of which any may take it: the first does.
    assert_eq!(write(0, 0xFEE0_300C)[..], [route(0, 0x41, 0)]);
    // Both at once cannot be.
    let why = MessageRefused::Destination(3);
    let both = [
        mask(0, true),
        Action::Block(Source::Msix(0)),
        Action::Report(Report::Message { source: Source::Msix(0), why }),
    ];
    assert_eq!(write(0, 0xFEE0_3004)[..], both);
}
