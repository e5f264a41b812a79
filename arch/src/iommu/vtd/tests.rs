//! The driver against the [`model`](super::model).

use super::super::{Error, Fault, Iommu, RemapIndex, Route};
use super::model::{CAP, ECAP, Event, Model};
use crate::apic::PhysicalApicId;
use crate::stage2::{Format, Stage2};
use arch_defs::iommu::RequesterId;
use arch_defs::iommu::dmar::{Dmar, Drhd};
use arch_defs::iommu::vtd::register::{Global, offset};

const EDU: RequesterId = RequesterId::new(0, 0, 4, 0);
const NIC: RequesterId = RequesterId::new(0, 1, 0x10, 1);

fn dmar(units: u64) -> Dmar {
    let unit = |n| Drhd {
        base: 0xFED9_0000 + n * 0x1000,
        segment: n as u16,
        include_pci_all: true,
        scopes: vec![],
    };
    Dmar {
        host_address_width: 39,
        interrupt_remapping: true,
        x2apic_opt_out: false,
        units: (0..units).map(unit).collect(),
        reserved: vec![],
    }
}

fn start_on(model: &Model) -> Result<Iommu<Model>, Error> {
    Iommu::start_with(&dmar(1), 256, |_| None, |_| model.clone())
}

fn started() -> (Model, Iommu<Model>) {
    let model = Model::new(CAP, ECAP);
    let iommu = start_on(&model).unwrap();
    (model, iommu)
}

fn to(vector: u8, destination: u32) -> Route {
    Route { vector, destination: PhysicalApicId(destination), level: false }
}

fn raise(model: &Model, from: RequesterId, index: RemapIndex) -> Result<(u8, u32), u8> {
    model.0.borrow_mut().interrupt(from.id, index.entry())
}

fn space() -> Stage2 {
    let mut space = Stage2::new(Format::Vtd, 1).unwrap();
    space.map(0..0x20_0000, 0x4000_0000).unwrap();
    space
}

#[test]
fn r_b2_no_interrupt_goes_by_the_old_route_once_the_call_is_back() {
    let (model, mut iommu) = started();
    let index = iommu.allocate_remapping(EDU).unwrap();
    iommu.route(index, to(0x70, 1)).unwrap();
    // Now the hardware has the entry in its cache.
    assert_eq!(raise(&model, EDU, index), Ok((0x70, 1)));
    iommu.route(index, to(0xF0, 0x1_0000)).unwrap();
    assert_eq!(raise(&model, EDU, index), Ok((0xF0, 0x1_0000)));
    assert_eq!(iommu.current(index), Some(to(0xF0, 0x1_0000)));
    iommu.block(index).unwrap();
    assert_eq!(raise(&model, EDU, index), Err(0x22));
    assert_eq!(iommu.current(index), None);
}

#[test]
fn r_b2_the_model_notices_a_missing_invalidation() {
    let (model, mut iommu) = started();
    let index = iommu.allocate_remapping(EDU).unwrap();
    iommu.route(index, to(0x70, 1)).unwrap();
    assert_eq!(raise(&model, EDU, index), Ok((0x70, 1)));
    iommu.units[0].set_route(index, Some(to(0x71, 2))).unwrap();
    assert_eq!(raise(&model, EDU, index), Ok((0x70, 1)), "the cached entry");
    iommu.units[0].begin_interrupt_flush();
    assert_eq!(raise(&model, EDU, index), Ok((0x70, 1)), "submitted, not done");
    assert!(model.0.borrow().busy());
    iommu.units[0].finish_interrupt_flush().unwrap();
    assert_eq!(raise(&model, EDU, index), Ok((0x71, 2)));
}

#[test]
fn r_b2_many_entries_cost_one_invalidation_and_one_wait() {
    let (model, mut iommu) = started();
    let all: Vec<_> = (0..40).map(|_| iommu.allocate_remapping(EDU).unwrap()).collect();
    let raises = |expected| all.iter().all(|i| raise(&model, EDU, *i) == Ok(expected));
    iommu.change(all.iter().map(|i| (*i, Some(to(0x40, 0))))).unwrap();
    assert!(raises((0x40, 0)));
    let upwards: Vec<_> = all.iter().map(|i| (*i, Some(to(0x41, 1)))).collect();
    let downwards: Vec<_> = all.iter().rev().map(|i| (*i, Some(to(0x42, 2)))).collect();
    for (changes, expected) in [(upwards, (0x41, 1)), (downwards, (0x42, 2))] {
        model.0.borrow_mut().events.clear();
        iommu.change(changes).unwrap();
        assert!(!model.0.borrow().busy());
        // Entries 0 to 39 are in the aligned block of 64 from 0.
        let expected_events = [Event::Invalidated(6 << 27 | 0x14), Event::Waited];
        assert_eq!(model.0.borrow().events, expected_events);
        assert!(raises(expected));
    }
}

#[test]
fn r_b2_a_bad_item_leaves_no_changed_entry_uninvalidated() {
    let (model, mut iommu) = started();
    let index = iommu.allocate_remapping(EDU).unwrap();
    iommu.route(index, to(0x70, 1)).unwrap();
    assert_eq!(raise(&model, EDU, index), Ok((0x70, 1)));
    let bad = iommu.change([(index, None), (index, Some(to(15, 1)))]);
    assert_eq!(bad, Err(Error::Vector(15)));
    assert_eq!(raise(&model, EDU, index), Err(0x22));
    let stranger = index.nth(7);
    assert_eq!(iommu.block(stranger), Err(Error::NotAllocated(stranger)));
}

#[test]
fn r_b2_units_are_invalidated_each_by_its_own_queue() {
    let models = [Model::new(CAP, ECAP), Model::new(CAP, ECAP)];
    let of = |drhd: &Drhd| models[usize::from(drhd.segment)].clone();
    let mut iommu = Iommu::start_with(&dmar(2), 256, |_| None, of).unwrap();
    let far = RequesterId { segment: 1, ..EDU };
    let indices = [iommu.allocate_remapping(EDU).unwrap(), iommu.allocate_remapping(far).unwrap()];
    iommu.change(indices.map(|index| (index, Some(to(0x50, 1))))).unwrap();
    for (model, index) in models.iter().zip(indices) {
        assert_eq!(raise(model, EDU, index), Ok((0x50, 1)));
    }
    models.iter().for_each(|model| model.0.borrow_mut().events.clear());
    iommu.route(indices[1], to(0x51, 2)).unwrap();
    assert_eq!(models[0].0.borrow().events, []);
    assert_eq!(raise(&models[1], EDU, indices[1]), Ok((0x51, 2)));
}

#[test]
fn r_s3_only_its_own_device_raises_an_entry() {
    let (model, mut iommu) = started();
    let index = iommu.allocate_remapping(NIC).unwrap();
    assert_eq!(raise(&model, NIC, index), Err(0x22), "blocked until it is routed");
    iommu.route(index, to(0x70, 1)).unwrap();
    assert_eq!(raise(&model, NIC, index), Ok((0x70, 1)));
    assert_eq!(raise(&model, EDU, index), Err(0x26));
    iommu.free(index, 1).unwrap();
    assert_eq!(raise(&model, NIC, index), Err(0x22));
    // Who gets the entry next is the only one to raise it.
    assert_eq!(iommu.allocate_remapping(EDU), Ok(index));
    assert_eq!(raise(&model, EDU, index), Err(0x22));
    iommu.route(index, to(0x71, 2)).unwrap();
    assert_eq!((raise(&model, NIC, index), raise(&model, EDU, index)), (Err(0x26), Ok((0x71, 2))));
}

#[test]
fn blocks_are_aligned_and_come_back() {
    let (_, mut iommu) = started();
    let single = iommu.allocate_remapping(EDU).unwrap();
    let block = iommu.allocate_block(EDU, 3).unwrap();
    assert_eq!((single.entry(), block.entry()), (0, 4));
    assert_eq!(iommu.allocate_block(EDU, 2).map(RemapIndex::entry), Ok(2));
    assert_eq!(iommu.allocate_remapping(EDU).map(RemapIndex::entry), Ok(1));
    assert_eq!(iommu.allocate_block(EDU, 256), Err(Error::NoEntries { count: 256 }));
    iommu.free(block, 3).unwrap();
    assert_eq!(iommu.free(block, 3), Err(Error::NotAllocated(block)));
    assert_eq!(iommu.allocate_block(EDU, 4), Ok(block));
    let why = iommu.allocate_block(EDU, u16::MAX).unwrap_err();
    assert_eq!(why, Error::NoEntries { count: u16::MAX });
    assert!(why.to_string().contains("65535 free entries in a row"));
}

#[test]
fn r_s9_every_device_is_blocked_until_it_is_attached() {
    let (model, mut iommu) = started();
    let context = |device: RequesterId| model.0.borrow_mut().context(device.id);
    assert_eq!(context(NIC), Err(1));
    let space = space();
    iommu.attach(NIC, &space, 5).unwrap();
    assert_eq!(context(NIC), Ok((space.root(), 4, 5)));
    let neighbour = RequesterId { id: NIC.id ^ 1, ..NIC };
    assert_eq!((context(neighbour), context(EDU)), (Err(2), Err(1)));
    assert_eq!(iommu.attach(NIC, &space, 6), Err(Error::Attached(NIC)));
    model.0.borrow_mut().events.clear();
    iommu.detach(NIC).unwrap();
    assert_eq!(context(NIC), Err(2), "although the entry was cached");
    // All contexts, then domain 5's translations with both drains.
    let expected = [Event::Invalidated(0x11), Event::Invalidated(0x5_00E2), Event::Waited];
    assert_eq!(model.0.borrow().events, expected);
    assert_eq!(iommu.detach(NIC), Err(Error::NotAttached(NIC)));
    // The next run of its VM.
    iommu.attach(NIC, &space, 5).unwrap();
    assert_eq!(context(NIC), Ok((space.root(), 4, 5)));
}

#[test]
fn spaces_and_domains_that_the_unit_cannot_use_are_refused() {
    // 3 levels, 4 KiB pages, 16 domains.
    let model = Model::new(CAP & !(0x1F << 8 | 0xF << 34 | 7) | 2 << 8, ECAP);
    let mut iommu = start_on(&model).unwrap();
    assert_eq!(iommu.largest_page(), 0);
    assert!(matches!(iommu.attach(EDU, &space(), 1), Err(Error::AddressSpace(_))));
    let mut small = Stage2::new(Format::Vtd, 0).unwrap();
    small.map(0..0x1000, 0x5000).unwrap();
    assert_eq!(iommu.attach(EDU, &small, 0), Err(Error::Domain(0)));
    assert_eq!(iommu.attach(EDU, &small, 16), Err(Error::Domain(16)));
    iommu.attach(EDU, &small, 15).unwrap();
    let root = small.device_root(3, 0).unwrap();
    assert_eq!(model.0.borrow_mut().context(EDU.id), Ok((root, 3, 15)));
    let ept = Stage2::new(Format::Ept, 0).unwrap();
    assert!(matches!(iommu.attach(NIC, &ept, 1), Err(Error::AddressSpace(_))));
    let elsewhere = RequesterId { segment: 9, ..EDU };
    assert_eq!(iommu.attach(elsewhere, &small, 1), Err(Error::NotCovered(elsewhere)));
}

#[test]
fn r_s3_a_unit_that_firmware_left_on_is_taken_over() {
    let model = Model::new(CAP | 1 << 5, ECAP);
    let left_on = Global::TRANSLATION
        | Global::ROOT_TABLE
        | Global::INTERRUPT_REMAPPING
        | Global::REMAPPING_TABLE
        | Global::QUEUED_INVALIDATION
        | Global::COMPATIBILITY_FORMAT;
    {
        let mut state = model.0.borrow_mut();
        state.set32(offset::GSTS, left_on.bits());
        state.set32(offset::PMEN, 1 << 31 | 1);
        state.set32(offset::FSTS, 1);
        state.set(offset::IQH, 0x40);
        state.set(offset::IQT, 0x40);
    }
    let iommu = start_on(&model).unwrap();
    let on = |command| Event::Command(command, true);
    let off = |command| Event::Command(command, false);
    let state = model.0.borrow();
    assert_eq!(
        state.events,
        [
            off(Global::TRANSLATION),
            off(Global::INTERRUPT_REMAPPING),
            off(Global::QUEUED_INVALIDATION),
            off(Global::COMPATIBILITY_FORMAT),
            on(Global::ROOT_TABLE),
            on(Global::QUEUED_INVALIDATION),
            on(Global::REMAPPING_TABLE),
            Event::Invalidated(0x11),
            Event::Invalidated(0xD2),
            Event::Invalidated(0x04),
            Event::Waited,
            on(Global::INTERRUPT_REMAPPING),
            on(Global::TRANSLATION),
        ]
    );
    assert_eq!((state.get(offset::PMEN) as u32, state.get(offset::FSTS) as u32), (0, 0));
    assert_eq!(state.get(offset::IRTA) & 0xFFF, 0x807, "256 entries, 32-bit destinations");
    drop(state);
    let facts = iommu.facts().next().unwrap();
    assert!(!facts.compatibility_format());
    let text = facts.to_string();
    for part in ["0xfed90000", "VT-d 1.0", "256 remapping entries", "4 table levels", "CFIS 0"] {
        assert!(text.contains(part), "{part} is missing from {text}");
    }
}

#[test]
fn r_s10_a_unit_without_what_is_needed_is_named_with_the_capability() {
    for (cap, ecap, field) in [
        (CAP, ECAP & !(1 << 1), "ECAP.QI"),
        (CAP, ECAP & !(1 << 3), "ECAP.IR"),
        (CAP, ECAP & !(1 << 4), "ECAP.EIM"),
        (CAP & !(0x1F << 8), ECAP, "CAP.SAGAW"),
        (CAP | 1 << 4, ECAP, "CAP.RWBF"),
    ] {
        let why = start_on(&Model::new(cap, ecap)).map(drop).unwrap_err().to_string();
        assert!(why.contains(field) && why.contains("0xfed90000"), "{field}: {why}");
    }
    let absent = Model::new(CAP, ECAP);
    absent.0.borrow_mut().set32(offset::VER, u32::MAX);
    assert!(matches!(start_on(&absent).map(drop), Err(Error::NoAnswer { .. })));
    let no_remapping = Dmar { interrupt_remapping: false, ..dmar(1) };
    let why = Iommu::start_with(&no_remapping, 256, |_| None, |_| Model::new(CAP, ECAP));
    assert!(why.map(drop).unwrap_err().to_string().contains("INTR_REMAP"));
}

#[test]
fn r_s10_units_are_all_started_or_all_off() {
    let on = Global::TRANSLATION | Global::INTERRUPT_REMAPPING | Global::QUEUED_INVALIDATION;
    // The second has too little, does not answer, or stops at its first invalidation.
    let broken: [fn(&Model); 3] = [
        |model| model.0.borrow_mut().set(offset::ECAP, ECAP & !(1 << 3)),
        |model| model.0.borrow_mut().dead = true,
        |model| model.0.borrow_mut().fails = true,
    ];
    for (number, damage) in (0..).zip(broken) {
        let models = [Model::new(CAP, ECAP), Model::new(CAP, ECAP)];
        damage(&models[1]);
        let of = |drhd: &Drhd| models[usize::from(drhd.segment)].clone();
        let why = Iommu::start_with(&dmar(2), 256, |_| None, of).map(drop).unwrap_err();
        assert!(why.to_string().contains("0xfed91000"), "{why}");
        let [first, second] = models.each_ref().map(|model| model.0.borrow().status());
        assert!(!first.intersects(on), "{number}: {first:?}");
        let passing = Global::TRANSLATION | Global::INTERRUPT_REMAPPING;
        assert!(!second.intersects(passing), "{number}: {second:?}");
        // It was on before.
        let did = models[0].0.borrow().events.clone();
        assert!(did.contains(&Event::Command(Global::TRANSLATION, true)), "{number}: {did:?}");
    }
}

#[test]
fn a_queue_that_stops_or_fails_is_an_error_and_not_a_hang() {
    let (model, mut iommu) = started();
    let index = iommu.allocate_remapping(EDU).unwrap();
    model.0.borrow_mut().fails = true;
    let stopped = iommu.route(index, to(0x70, 1));
    assert_eq!(stopped, Err(Error::Queue { unit: 0xFED9_0000, status: 0x10 }));
    let (model, mut iommu) = started();
    let index = iommu.allocate_remapping(EDU).unwrap();
    model.0.borrow_mut().dead = true;
    assert!(matches!(iommu.block(index), Err(Error::NoAnswer { unit: 0xFED9_0000, .. })));
}

#[test]
fn r_a3_a_block_of_messages_is_one_handle_and_the_devices_number() {
    let (model, mut iommu) = started();
    iommu.allocate_remapping(EDU).unwrap();
    let block = iommu.allocate_block(EDU, 16).unwrap();
    iommu.change((0..16).map(|n| (block.nth(n), Some(to(0x50 + n as u8, 1))))).unwrap();
    let message = block.msi_message(0);
    for number in 0..16_u16 {
        // What a device with 16 messages does: the low 4 bits of the data are the number (PCI 3.0, 6.8.1.6). The
        // handle with the data added is the entry (VT-d 5.1.3).
        let data = message.data as u16 & !15 | number;
        let handle = (message.address >> 5 & 0x7FFF | message.address >> 2 << 15 & 0x8000) as u16;
        let raised = model.0.borrow_mut().interrupt(EDU.id, handle + data);
        assert_eq!(raised, Ok((0x50 + number as u8, 1)));
    }
    // The neighbours of the block are nobody's.
    let behind = block.entry() + 16;
    assert_eq!(model.0.borrow_mut().interrupt(EDU.id, behind), Err(0x22));
}

#[test]
fn r_s8_a_unit_that_failed_is_waited_for_once() {
    let models = [Model::new(CAP, ECAP), Model::new(CAP, ECAP)];
    let of = |drhd: &Drhd| models[usize::from(drhd.segment)].clone();
    let mut iommu = Iommu::start_with(&dmar(2), 256, |_| None, of).unwrap();
    let far = RequesterId { segment: 1, ..EDU };
    let indices = [iommu.allocate_remapping(EDU).unwrap(), iommu.allocate_remapping(far).unwrap()];
    iommu.change(indices.map(|index| (index, Some(to(0x50, 1))))).unwrap();
    models[0].0.borrow_mut().dead = true;
    let first = iommu.route(indices[0], to(0x51, 1));
    assert!(matches!(first, Err(Error::NoAnswer { unit: 0xFED9_0000, .. })));
    let (tail, asked) = {
        let state = models[0].0.borrow();
        (state.get(offset::IQT), state.reads)
    };
    // More often than the queue has room.
    for _ in 0..300 {
        let again = iommu.route(indices[0], to(0x52, 1));
        assert_eq!(again, Err(Error::Dead { unit: 0xFED9_0000 }));
        assert_eq!(iommu.block(indices[0]), Err(Error::Dead { unit: 0xFED9_0000 }));
    }
    assert!(Error::Dead { unit: 0xFED9_0000 }.to_string().contains("0xfed90000"));
    assert_eq!(iommu.current(indices[0]), None, "the table says what was wanted last");
    assert_eq!(iommu.attach(EDU, &space(), 1), Err(Error::Dead { unit: 0xFED9_0000 }));
    let state = models[0].0.borrow();
    assert_eq!((state.get(offset::IQT), state.reads), (tail, asked), "nobody asked it again");
    drop(state);
    // The other one serves as before.
    iommu.route(indices[1], to(0x53, 2)).unwrap();
    assert_eq!(raise(&models[1], EDU, indices[1]), Ok((0x53, 2)));
}

#[test]
fn r_s3_recorded_faults_are_read_once_and_in_words() {
    let (model, mut iommu) = started();
    let mut texts = vec![];
    let mut poll = |iommu: &mut Iommu<Model>| {
        let lost = iommu.faults(&mut |fault: Fault| texts.push(fault.to_string()));
        (lost, core::mem::take(&mut texts))
    };
    assert_eq!(poll(&mut iommu), (false, vec![]));
    let record = |low: u64, high: u64, status: u32| {
        let mut state = model.0.borrow_mut();
        state.set(0x220, low);
        state.set(0x228, 1 << 63 | high);
        state.set32(offset::FSTS, status);
    };
    record(0x1234_5000, 0x5 << 32 | 0x20, 2);
    let expected = "device 0000:00:04.0: DMA write to page 0x12345000 blocked: write not permitted \
                    (reason 0x5)";
    assert_eq!(poll(&mut iommu), (false, vec![expected.to_string()]));
    assert_eq!(poll(&mut iommu), (false, vec![]), "freed");
    record(3 << 48, 0x26 << 32 | 0x181, 3);
    let expected = "device 0000:01:10.1: interrupt by remapping entry 3 blocked: source-id \
                    verification failed (reason 0x26)";
    assert_eq!(poll(&mut iommu), (true, vec![expected.to_string()]));
    assert_eq!(model.0.borrow().get(offset::FSTS) as u32 & 1, 0, "the overflow is cleared");
}
