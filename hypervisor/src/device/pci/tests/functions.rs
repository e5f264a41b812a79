//! A function's registers: the allow-list, BARs, the command register, resets, the hole in its memory.

use super::*;
use arch_defs::pci::capability::id;
use arch_defs::pci::{ConfigSpace, MessageRefused, capabilities, extended_capabilities};
use proptest::prelude::*;
use std::string::ToString;

/// The configuration space as the guest reads it.
fn seen(function: &Function) -> Vec<u32> {
    (0..1024).map(|index| function.config_read(index * 4, Width::Dword)).collect()
}

fn write(function: &mut Function, at: u16, width: Width, value: u32) -> Vec<Action> {
    function.config_write(at, width, value, &vcpus()).into_iter().collect()
}

#[test]
fn r_s9_a_guest_sees_the_allowed_capabilities_and_nothing_else() {
    let space = seen(&function());
    let list: Vec<_> = capabilities(&space[..]).map(|c| c.map(|c| (c.id, c.offset))).collect();
    let expected = [(id::POWER, 0x40), (id::MSI, 0x50), (id::MSIX, 0x70), (id::EXPRESS, 0xA0)];
    assert_eq!(list, expected.map(Ok), "the vendor's is not in the list");
    assert_eq!(extended_capabilities(&space[..]).count(), 0);
    for at in [0x30_usize, 0x68, 0x6C, 0x90, 0xAC, 0x100, 0x104] {
        assert_eq!(space[at / 4], 0, "{at:#x}");
    }
    assert_eq!((space[0], space[2], space[0x2C / 4]), (0x10CA_8086, 0x0200_0001, 0xA03C_8086));
    assert_eq!(space[1], 0x0010_0000, "nothing is on yet");
    assert_eq!(space[0x3C / 4], 0, "no interrupt pin");
    assert_eq!(space[0x44 / 4], 8, "D0, no soft reset");
    assert_eq!(space[0x50 / 4] >> 16, 0x0180, "MSI: one message, 64 bits, maskable, off");
    assert_eq!(space[0x70 / 4..0x7C / 4], [0x0004_A011, 0x1803, 0x1853]);
    assert_eq!(space[0xA0 / 4], 0x0092_0010, "an endpoint of the root complex");
    assert_eq!(space[0xA4 / 4], 0x1000_8000, "it can be reset");
}

#[test]
fn a_virtual_function_has_the_ids_that_its_pf_says() {
    let mut space = card();
    space[0] = u32::MAX;
    let name = "0000:01:10.0".parse().unwrap();
    let real = Description::read(name, &space[..], &[], Some((0x8086, 0x10CA)), true);
    assert!(real.is_err(), "its table lies in no BAR");
    let bars = [bar(3, 0xFE80_0000, 0x4000)];
    // A VF's vendor id reads as ones: its capabilities are there all the same.
    let real = Description::read(name, &space[..], &bars, Some((0x8086, 0x10CA)), true).unwrap();
    assert!(real.msix.is_some() && real.express.is_some());
    assert_eq!(Function::new(real).config_read(0, Width::Dword), 0x10CA_8086);
}

#[test]
fn r_s10_a_capability_that_is_there_twice_is_named() {
    let mut space = card();
    space[0x68 / 4] = 0x0010_7001;
    let bars = [bar(3, 0xFE80_0000, 0x4000)];
    let name = "0000:03:00.0".parse().unwrap();
    let error = Description::read(name, &space[..], &bars, None, true).unwrap_err();
    assert!(error.to_string().starts_with("capability 0x1 at 0x68: a second one"), "{error}");
}

#[test]
fn bars_are_sized_and_stay() {
    let (mut bus, _) = bus();
    let function = &mut bus.slots[0].function;
    let place = function.config_read(0x10, Width::Dword);
    assert_eq!(u64::from(place), guest_loader::layout::PCI_WINDOW_START);
    assert_eq!(write(function, 0x10, Width::Dword, u32::MAX), []);
    assert_eq!(function.config_read(0x10, Width::Dword), 0xFFFE_0000);
    assert_eq!(write(function, 0x10, Width::Dword, place), []);
    assert_eq!(function.config_read(0x10, Width::Dword), place);
    // Moved: said once, and read back.
    let moved = Action::Report(Report::BarMoved { bar: 0, to: 0xD000_0000 });
    assert_eq!(write(function, 0x10, Width::Dword, 0xD000_0000), [moved]);
    assert_eq!(function.config_read(0x10, Width::Dword), place);
    assert_eq!(write(function, 0x10, Width::Dword, 0xD800_0000), []);
    // Registers without a BAR, and the ROM's.
    for at in [0x14, 0x18, 0x30] {
        assert_eq!(write(function, at, Width::Dword, u32::MAX), []);
        assert_eq!(function.config_read(at, Width::Dword), 0, "{at:#x}");
    }
}

#[test]
fn a_64_bit_bar_is_sized_in_two_halves() {
    let kind = BarKind::Memory64 { prefetchable: true };
    let wide = Bar { index: 2, kind, address: 0x38_0000_0000, size: 1 << 20 };
    let real = Description { bars: std::vec![wide], msix: None, ..description() };
    let slot = Slot { function: Function::new(real), backing: Box::new(Recorder::default()) };
    let mut bus = Bus::new(std::vec![slot]).unwrap();
    let function = &mut bus.slots[0].function;
    assert_eq!(function.config_read(0x18, Width::Dword), 0xC000_000C);
    assert_eq!(function.config_read(0x1C, Width::Dword), 0);
    for at in [0x18, 0x1C] {
        assert_eq!(write(function, at, Width::Dword, u32::MAX), []);
    }
    assert_eq!(function.config_read(0x18, Width::Dword), 0xFFF0_000C);
    assert_eq!(function.config_read(0x1C, Width::Dword), 0xFFFF_FFFF);
    write(function, 0x18, Width::Dword, 0xC000_0000);
    write(function, 0x1C, Width::Dword, 0);
    assert_eq!(function.config_read(0x1C, Width::Dword), 0);
}

#[test]
fn of_the_command_register_bus_mastering_reaches_the_hardware() {
    let mut function = function();
    assert_eq!(write(&mut function, 4, Width::Word, 0xFFFF), [Action::BusMaster(true)]);
    assert_eq!(function.config_read(4, Width::Word), 0x0546, "no I/O, no special bits");
    assert_eq!(write(&mut function, 4, Width::Word, 0x0404), []);
    assert_eq!(write(&mut function, 4, Width::Word, 0), [Action::BusMaster(false)]);
}

#[test]
fn what_is_remembered_reads_back() {
    let mut function = function();
    assert_eq!(write(&mut function, 0x0C, Width::Byte, 0x10), []);
    assert_eq!(write(&mut function, 0x3C, Width::Byte, 0x0B), []);
    assert_eq!(write(&mut function, 0x44, Width::Word, 3), []);
    assert_eq!(write(&mut function, 0xA8, Width::Word, 0x5937), []);
    let read = |at| function.config_read(at, Width::Word);
    assert_eq!([read(0x0C), read(0x3C), read(0x44), read(0xA8)], [0x10, 0x0B, 0xB, 0x5937]);
}

#[test]
fn r_s7_a_function_reset_leaves_nothing_of_the_guest() {
    let mut function = function();
    let fresh = seen(&function);
    for (at, value) in [(0x04, 6), (0x0C, 0x10), (0x10, u32::MAX), (0x44, 3), (0x54, 0xFEE0_0000)] {
        write(&mut function, at, Width::Dword, value);
    }
    write(&mut function, 0x5C, Width::Dword, 0x31);
    write(&mut function, 0x52, Width::Word, 1);
    write(&mut function, 0x72, Width::Word, 0xC000);
    let unmask = function.memory_write(3, 0x180C, Width::Dword, 0, &vcpus());
    let refused = MessageRefused::Address(0);
    assert_eq!(
        unmask[..],
        [Action::Report(Report::Message { source: Source::Msix(0), why: refused })]
    );
    assert_ne!(seen(&function), fresh);
    assert_eq!(write(&mut function, 0xA8, Width::Word, 0xA810), [Action::Reset]);
    assert_eq!(seen(&function), fresh);
    assert_eq!(function.memory_read(3, 0x180C, Width::Dword), MemoryRead::Value(1));
}

#[test]
fn a_function_without_a_reset_ignores_the_bit() {
    let mut function = Function::new(Description { resettable: false, ..description() });
    assert_eq!(function.config_read(0xA4, Width::Dword) >> 28, 0);
    assert_eq!(write(&mut function, 0xA8, Width::Word, 0x8000), []);
}

#[test]
fn r_s9_the_table_and_pages_of_others_are_not_mapped() {
    let (bus, _) = bus();
    let regions: Vec<_> = bus.slots[0].function.regions().collect();
    let base = guest_loader::layout::PCI_WINDOW_START;
    let region = |gpa: u64, len, host, bar, offset, mapped| Region {
        gpa: base + gpa..base + gpa + len,
        host,
        bar,
        offset,
        mapped,
    };
    assert_eq!(
        regions,
        [
            region(0, 0x2_0000, 0xFE80_0000, 0, 0, true),
            region(0x2_0000, 0x1000, 0xFE82_0000, 3, 0, true),
            region(0x2_1000, 0x1000, 0xFE82_1000, 3, 0x1000, false),
            region(0x2_2000, 0x2000, 0xFE82_2000, 3, 0x2000, true),
        ]
    );
    // Smaller than a page, and a page that begins in another's.
    let bars = std::vec![bar(0, 0xFE80_0100, 0x100), bar(1, 0xFE80_0800, 0x1000)];
    let real = Description { bars, msix: None, ..description() };
    let slot = Slot { function: Function::new(real), backing: Box::new(Recorder::default()) };
    let bus = Bus::new(std::vec![slot]).unwrap();
    assert!(bus.slots[0].function.regions().all(|region| !region.mapped));
}

#[test]
fn accesses_beside_the_table_are_forwarded_as_they_are() {
    let mut function = function();
    let table = 0x1800_u64;
    assert_eq!(function.memory_read(3, table - 8, Width::Qword), MemoryRead::Forward);
    assert_eq!(
        function.memory_read(3, table + 80, Width::Qword),
        MemoryRead::Forward,
        "pending bits"
    );
    assert_eq!(function.memory_read(3, table + 0x58, Width::Byte), MemoryRead::Forward);
    for (offset, width) in [
        // Not aligned, or beyond the BAR.
        (table - 2, Width::Dword),
        (0x3FFC, Width::Qword),
        (0x4000, Width::Byte),
        (u64::MAX, Width::Byte),
    ] {
        assert_eq!(
            function.memory_read(3, offset, width),
            MemoryRead::Value(u64::MAX),
            "{offset:#x}"
        );
        assert!(function.memory_write(3, offset, width, 0, &vcpus()).is_empty(), "{offset:#x}");
    }
    let written = function.memory_write(3, table + 0x58, Width::Word, 7, &vcpus());
    let forward = Action::Forward { bar: 3, offset: table + 0x58, width: Width::Word, value: 7 };
    assert_eq!(written[..], [forward]);
    assert!(
        function.memory_write(3, table + 80, Width::Dword, 7, &vcpus()).is_empty(),
        "pending bits"
    );
}

proptest! {
    /// Whatever a guest writes, ids and list stay, and only known things are asked of the hardware.
    #[test]
    fn r_s8_random_configuration_writes_change_nothing_that_matters(
        writes in proptest::collection::vec((0_u16..0x110, 0_u8..4, any::<u32>()), 0..100),
    ) {
        let mut function = function();
        let fresh = seen(&function);
        for (at, width, value) in writes {
            let width = [Width::Byte, Width::Word, Width::Dword, Width::Qword][usize::from(width)];
            let actions = function.config_write(at, width, value, &vcpus());
            let forwarded = actions.iter().any(|a| matches!(a, Action::Forward { .. }));
            prop_assert!(!forwarded);
        }
        let now = seen(&function);
        prop_assert!(capabilities(&now[..]).eq(capabilities(&fresh[..])));
        for at in [0_u16, 8, 0x2C, 0x34, 0x74, 0x78, 0xA4, 0x100] {
            prop_assert_eq!(now[..].read_u32(at), fresh[..].read_u32(at));
        }
    }
}
