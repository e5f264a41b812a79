//! Both ways to configuration space, the host bridge, empty slots, places of BARs.

use super::*;
use guest_loader::layout::{PAGE, PCI_WINDOW_END, PCI_WINDOW_START};
use proptest::prelude::*;
use std::string::ToString;

fn select(bus: &mut Bus, address: u32) {
    bus.port_write(0xCF8, 4, address, &vcpus()).unwrap();
}

#[test]
fn r_s8_linux_finds_configuration_type_1_and_a_host_bridge() {
    let mut bus = Bus::empty();
    // Its probe: a byte at 0xCFB is nobody's, a dword at 0xCF8 comes back.
    assert_eq!(bus.port_write(0xCFB, 1, 1, &vcpus()), None);
    select(&mut bus, 0x8000_0000);
    assert_eq!(bus.port_read(0xCF8, 4), Some(0x8000_0000));
    assert_eq!(bus.port_read(0xCFC, 4), Some(0x0D57_8086));
    assert_eq!(bus.port_read(0xCFE, 2), Some(0x0D57));
    select(&mut bus, 0x8000_0008);
    assert_eq!(bus.port_read(0xCFE, 2), Some(0x0600), "class");
    assert_eq!(bus.port_read(0xCFF, 1), Some(0x06));
    assert_eq!(bus.ecam_read(8, Width::Dword), 0x0600_0000);
    assert_eq!(bus.ecam_read(0x100, Width::Dword), 0, "no extended capabilities");
}

#[test]
fn r_s8_nobody_answers_in_empty_slots_and_without_the_enable_bit() {
    let (mut bus, _) = bus();
    select(&mut bus, 0);
    assert_eq!(bus.port_read(0xCFC, 4), None);
    for address in [0x8000_1000_u32, 0x8000_0100, 0x8001_0000, 0x8000_0900, 0x80FF_FF00] {
        select(&mut bus, address);
        assert_eq!(bus.port_read(0xCFC, 4), Some(u32::MAX), "{address:#x}");
        let ecam = u64::from(address >> 8 & 0xFFFF) << 12;
        assert_eq!(bus.ecam_read(ecam, Width::Dword), 0xFFFF_FFFF, "{address:#x}");
    }
    assert_eq!(bus.ecam_read(0x10_0000, Width::Dword), 0xFFFF_FFFF);
    assert_eq!(bus.port_read(0xCF8, 2), None);
    assert_eq!(bus.port_read(0xCF9, 1), None);
}

#[test]
fn both_ways_lead_to_the_same_registers() {
    let (mut bus, recorder) = bus();
    select(&mut bus, 0x8000_0804);
    bus.port_write(0xCFC, 2, 6, &vcpus()).unwrap();
    assert_eq!(recorder.take(), [Action::BusMaster(true)]);
    assert_eq!(bus.ecam_read(0x8004, Width::Word), 6);
    bus.ecam_write(0x8004, Width::Byte, 2, &vcpus());
    assert_eq!(recorder.take(), [Action::BusMaster(false)]);
    assert_eq!(bus.port_read(0xCFC, 1), Some(2));
    // A qword is two dwords.
    assert_eq!(bus.ecam_read(0x8000, Width::Qword), 0x0010_0002_10CA_8086);
    // Not aligned: nothing.
    bus.ecam_write(0x8005, Width::Word, 0xFFFF, &vcpus());
    assert_eq!(bus.ecam_read(0x8004, Width::Word), 2);
}

#[test]
fn memory_of_functions_is_found_by_its_guest_address() {
    let (mut bus, recorder) = bus();
    // BAR 0 is the larger one, so it comes first.
    let table = PCI_WINDOW_START + 0x2_0000 + 0x1800;
    assert_eq!(bus.memory_read(table + 12, Width::Dword), Some(1), "masked");
    assert_eq!(bus.memory_read(table - 0x10, Width::Word), Some(3 << 32 | 0x17F0));
    bus.memory_write(table - 0x10, Width::Byte, 0x55, &vcpus()).unwrap();
    let forward = Action::Forward { bar: 3, offset: 0x17F0, width: Width::Byte, value: 0x55 };
    assert_eq!(recorder.take(), [forward]);
    assert_eq!(bus.memory_read(PCI_WINDOW_START + 0x2_4000, Width::Dword), None);
    assert_eq!(bus.memory_write(PCI_WINDOW_START - 1, Width::Byte, 0, &vcpus()), None);
}

#[test]
fn a_restart_resets_every_function() {
    let (mut bus, recorder) = bus();
    bus.ecam_write(0x8004, Width::Word, 6, &vcpus());
    select(&mut bus, 0x8000_0804);
    recorder.take();
    bus.reset();
    assert_eq!(recorder.take(), [Action::Reset]);
    assert_eq!((bus.ecam_read(0x8004, Width::Word), bus.port_read(0xCF8, 4)), (0, Some(0)));
}

#[test]
fn r_d1_a_function_under_reset_is_not_there_and_nobody_waits() {
    let (mut bus, recorder) = bus();
    let table = PCI_WINDOW_START + 0x2_0000 + 0x180C;
    bus.ecam_write(0x8004, Width::Word, 6, &vcpus());
    assert!(!bus.has_begun());
    bus.ecam_write(0x80A8, Width::Word, 0xA810, &vcpus());
    assert_eq!(recorder.take()[1..], [Action::Reset]);
    assert!(bus.has_begun() && !bus.has_begun(), "told once");
    for presence in [Presence::Resetting, Presence::Lost] {
        recorder.set_presence(presence);
        assert_eq!(bus.attend(), presence == Presence::Resetting);
        assert_eq!(bus.ecam_read(0x8000, Width::Dword), 0xFFFF_FFFF);
        assert_eq!(bus.memory_read(table, Width::Dword), Some(u64::MAX));
        bus.ecam_write(0x8004, Width::Word, 6, &vcpus());
        bus.ecam_write(0x80A8, Width::Word, 0xA810, &vcpus());
        assert_eq!(bus.memory_write(table, Width::Dword, 0, &vcpus()), Some(()));
        assert_eq!((recorder.take(), bus.has_begun()), (Vec::new(), false), "dropped");
        assert_eq!(bus.ecam_read(0, Width::Dword), 0x0D57_8086, "the host bridge is there");
    }
    recorder.set_presence(Presence::Ready);
    assert_eq!(bus.ecam_read(0x8000, Width::Dword), 0x10CA_8086);
    assert_eq!(bus.ecam_read(0x8004, Width::Word), 0, "what was written meanwhile had no effect");
    assert_eq!(bus.memory_read(table, Width::Dword), Some(1), "masked");
}

fn with_bars(bars: &[Bar]) -> Slot {
    let real = Description { bars: bars.to_vec(), msix: None, ..description() };
    Slot { function: Function::new(real), backing: Box::new(Recorder::default()) }
}

/// Where a machine could have BARs of any size.
const MMIO: u64 = 1 << 40;

#[test]
fn r_s10_what_does_not_fit_is_named() {
    let nowhere = Bus::new(std::vec![with_bars(&[bar(1, MMIO, 16), bar(4, 0, 4096)])]);
    let text = nowhere.err().unwrap().to_string();
    assert_eq!(text, "pci:0000:03:00.0: BAR 4 has no address on this machine");
    let half = (PCI_WINDOW_END - PCI_WINDOW_START) / 2;
    assert!(
        Bus::new(std::vec![with_bars(&[bar(0, MMIO, half)]), with_bars(&[bar(1, MMIO, half)])])
            .is_ok()
    );
    let small = bar(2, MMIO, 16);
    let full = Bus::new(std::vec![
        with_bars(&[bar(0, MMIO, half), small]),
        with_bars(&[bar(1, MMIO, half)])
    ]);
    let text = full.err().unwrap().to_string();
    assert_eq!(
        text,
        "pci:0000:03:00.0: BAR 2 of 0 KiB does not fit: the BARs of a VM's functions have 512 MiB together"
    );
    let many = (0..32).map(|_| with_bars(&[])).collect();
    assert!(Bus::new(many).err().unwrap().to_string().contains("one too many"));
}

proptest! {
    #[test]
    fn r_s9_places_are_aligned_and_apart(
        sizes in proptest::collection::vec(proptest::collection::vec(4_u32..24, 0..4), 0..8),
        offset in prop_oneof![Just(0_u64), Just(0x800)],
    ) {
        let slots = sizes.iter().map(|sizes| {
            let bars: Vec<Bar> = (0..).zip(sizes)
                .map(|(index, &bits)| bar(index, 0xFE00_0000 + offset, 1 << bits)).collect();
            with_bars(&bars)
        });
        let bus = Bus::new(slots.collect()).unwrap();
        let mut regions: Vec<Region> = bus.functions().flat_map(Function::regions).collect();
        regions.sort_by_key(|region| region.gpa.start);
        for region in &regions {
            prop_assert!(PCI_WINDOW_START <= region.gpa.start && region.gpa.end <= PCI_WINDOW_END);
            prop_assert!(region.gpa.start % PAGE == 0 && region.gpa.end % PAGE == 0);
            prop_assert!(!region.mapped || region.host % PAGE == 0);
        }
        for pair in regions.windows(2) {
            prop_assert!(pair[0].gpa.end <= pair[1].gpa.start);
        }
        for function in bus.functions() {
            for b in function.regions().filter(|r| r.offset == 0) {
                let size = 1_u64 << sizes.iter().flatten().max().unwrap();
                prop_assert!(b.gpa.start % (b.gpa.end - b.gpa.start).min(size).max(PAGE) == 0);
            }
        }
    }
}
