//! The walk, the sizes, the resets, access control and SR-IOV on a model of a machine: a host bridge, a root port, and a
//! network card with virtual functions behind it.

mod reset;

use super::reset::Way;
use super::*;
use alloc::collections::BTreeMap;
use arch_defs::pci::header::Bridge;
use arch_defs::pci::{Bar, BarKind};
use std::cell::{Cell, RefCell};
use std::string::ToString;
use std::vec::Vec;

/// One function's registers and which of their bits can be written.
#[derive(Clone)]
struct Space {
    now: Vec<u32>,
    writable: Vec<u32>,
}

#[derive(Default)]
struct Model {
    functions: RefCell<BTreeMap<Bdf, Space>>,
    /// The PF whose VFs are the functions of the list, as long as VF Enable is set.
    vfs: Vec<Bdf>,
    /// A function that has just been reset answers after this time.
    silent: Cell<u64>,
    resets: Cell<u32>,
    reads_while_silent: Cell<u32>,
    waited: Cell<u64>,
}

const PORT: &str = "0000:00:01.0";
const PF: &str = "0000:01:00.0";
const SRIOV: u16 = 0x160;
const EXPRESS: u16 = 0xA0;

fn bdf(text: &str) -> Bdf {
    text.parse().unwrap()
}

fn space(values: &[(u16, u32, u32)]) -> Space {
    let mut space = Space { now: std::vec![0; 1024], writable: std::vec![0; 1024] };
    for &(at, now, writable) in values {
        space.now[usize::from(at / 4)] = now;
        space.writable[usize::from(at / 4)] = writable;
    }
    space
}

fn vf() -> Space {
    space(&[
        (0, u32::MAX, 0),
        (4, 0x0010_0000, 0x0406),
        (0x34, 0xA0, 0),
        (EXPRESS, 0x0002_0010, 0),
        (EXPRESS + 4, 0x1000_8000, 0),
        (EXPRESS + 8, 0, 0xFFFF),
    ])
}

/// The machine as firmware without an idea of SR-IOV leaves it.
fn machine() -> Model {
    let model = Model {
        vfs: (0..8).map(|n| Bdf::from_requester(0, 0x180 + 2 * n)).collect(),
        ..Model::default()
    };
    let bridge = space(&[(0, 0x0D57_8086, 0), (8, 0x0600_0000, 0)]);
    let port = space(&[
        (0, 0x000C_1B36, 0),
        (4, 0x0010_0007, 7),
        (0xC, 0x0001_0000, 0),
        (0x18, 0x0001_0100, 0),
        (0x20, 0xFEAF_FE80, 0),
        (0x24, 0x0001_FFF1, 0),
        (0x34, 0x40, 0),
        (0x40, 0x0142_0010, 0),
        (0x64, 1 << 5, 0),
        (0x68, 0, 1 << 5),
    ]);
    let pf = space(&[
        (0, 0x10C9_8086, 0),
        (4, 0x0010_0003, 0x0407),
        (0x10, 0xFE80_0000, 0xFFFE_0000),
        (0x14, 0, 0),
        (0x18, 0xC001, 0xFFE0),
        (0x1C, 0xFE82_0000, 0xFFFF_C000),
        (0x34, EXPRESS.into(), 0),
        (EXPRESS, 0x0002_0010, 0),
        (EXPRESS + 4, 0x1000_8000, 0),
        (EXPRESS + 8, 0x2810, 0xFFFF),
        (0x100, 0x1501_0001, 0),
        (0x150, 0x1601_000E, 0),
        (SRIOV, 0x0001_0010, 0),
        (SRIOV + 0x8, 0, 0x19),
        (SRIOV + 0xC, 0x0008_0008, 0),
        (SRIOV + 0x10, 0, 0xFFFF),
        (SRIOV + 0x14, 0x0002_0080, 0),
        (SRIOV + 0x18, 0x10CA_0000, 0),
        (SRIOV + 0x1C, 0x553, 0),
        (SRIOV + 0x20, 2, 0x553),
        (SRIOV + 0x24, 4, 0xFFFF_C000),
        (SRIOV + 0x28, 0, u32::MAX),
        (SRIOV + 0x30, 4, 0xFFFF_C000),
        (SRIOV + 0x34, 0, u32::MAX),
    ]);
    let mut functions = model.functions.borrow_mut();
    functions.insert(bdf("0000:00:00.0"), bridge);
    functions.insert(bdf(PORT), port);
    functions.insert(bdf(PF), pf);
    for &bdf in &model.vfs {
        functions.insert(bdf, vf());
    }
    drop(functions);
    model
}

impl Model {
    fn get(&self, function: &str, offset: u16) -> u32 {
        self.functions.borrow()[&bdf(function)].now[usize::from(offset / 4)]
    }

    fn set(&self, function: &str, offset: u16, value: u32) {
        self.functions.borrow_mut().get_mut(&bdf(function)).unwrap().now[usize::from(offset / 4)] =
            value;
    }

    fn is_there(&self, function: Bdf) -> bool {
        let number = self.vfs.iter().position(|&vf| vf == function);
        let control = self.functions.borrow()[&bdf(PF)].now[usize::from((SRIOV + 8) / 4)];
        let wanted = self.functions.borrow()[&bdf(PF)].now[usize::from((SRIOV + 0x10) / 4)];
        number.is_none_or(|n| control & 1 != 0 && n < wanted as usize)
    }
}

impl ConfigAccess for Model {
    fn read(&self, function: Bdf, offset: u16) -> u32 {
        if self.silent.get() > 0 || !self.is_there(function) {
            self.reads_while_silent.set(self.reads_while_silent.get() + 1);
            return u32::MAX;
        }
        let functions = self.functions.borrow();
        functions.get(&function).map_or(u32::MAX, |space| space.now[usize::from(offset / 4)])
    }

    fn write(&self, function: Bdf, offset: u16, width: Width, value: u32) {
        if self.silent.get() > 0 {
            return;
        }
        let shift = u32::from(offset % 4) * 8;
        let lanes = ((1_u64 << (width.bytes() * 8)) - 1) as u32;
        let mut functions = self.functions.borrow_mut();
        let Some(space) = functions.get_mut(&function) else { return };
        let index = usize::from(offset / 4);
        let writable = space.writable[index] & lanes << shift;
        let now = &mut space.now[index];
        *now = *now & !writable | value << shift & writable;
        if offset == EXPRESS + 8 && *now & 1 << 15 != 0 {
            // A reset: everything that can be written is 0 again.
            space.now.iter_mut().zip(&space.writable).for_each(|(now, writable)| *now &= !writable);
            self.resets.set(self.resets.get() + 1);
            self.silent.set(130_000);
        }
    }

    fn buses(&self) -> Vec<(u16, u8, u8)> {
        std::vec![(0, 0, 255)]
    }

    fn wait(&self, microseconds: u64) {
        self.waited.set(self.waited.get() + microseconds);
        self.silent.set(self.silent.get().saturating_sub(microseconds));
    }

    fn now(&self) -> u64 {
        self.waited.get()
    }
}

#[test]
fn the_walk_finds_functions_behind_bridges() {
    let model = machine();
    let topology = Topology::read(&model);
    let names: Vec<_> = topology.functions.iter().map(|f| f.bdf.to_string()).collect();
    assert_eq!(names, ["0000:00:00.0", PORT, PF]);
    assert_eq!(topology.find(bdf(PF)).unwrap().parent, Some(bdf(PORT)));
    let bridges: Vec<_> =
        topology.bridges(bdf(PF)).map(|(bdf, bridge)| (bdf, bridge.memory)).collect();
    assert_eq!(bridges, [(bdf(PORT), Some((0xFE80_0000, 0xFEAF_FFFF)))]);
    assert_eq!(topology.find(bdf("0000:02:00.0")), Err(Why::Absent));
}

#[test]
fn r_s10_a_bridge_that_leads_to_itself_ends_the_walk() {
    for buses in [0x0000_0000, 0x0001_0000, 0xFFFF_0000_u32] {
        let model = machine();
        model.set(PORT, 0x18, buses);
        let topology = Topology::read(&model);
        assert_eq!(topology.functions.len(), 3, "each function once");
    }
}

#[test]
fn sizes_are_read_with_decoding_off_and_addresses_stay() {
    let model = machine();
    let function = Function::new(&model, bdf(PF));
    let found = bars::read(function).unwrap();
    let sizes: Vec<_> = found.iter().map(|bar| (bar.index, bar.address, bar.size)).collect();
    assert_eq!(sizes, [(0, 0xFE80_0000, 0x2_0000), (2, 0xC000, 0x20), (3, 0xFE82_0000, 0x4000)]);
    assert_eq!((model.get(PF, 0x10), model.get(PF, 4)), (0xFE80_0000, 0x0010_0003));
}

#[test]
fn r_s9_a_bar_without_a_place_or_over_ram_is_refused() {
    let bar = |address| Bar {
        index: 3,
        kind: BarKind::Memory32 { prefetchable: false },
        address,
        size: 0x4000,
    };
    let ram = [0x10_0000..0x4000_0000, 0x1_0000_0000..0x2_0000_0000];
    assert_eq!(bars::check(&[bar(0xFEB0_0000), bar(0x4000_0000), bar(0xFFFF_C000)], &ram), Ok(()));
    for address in [0, 0x10_0000, 0xF_C000 + 0x4000, 0x3FFF_C000, 0x1_0000_0000] {
        let why = bars::check(&[bar(0xFEB0_0000), bar(address)], &ram);
        assert_eq!(why, Err(Why::Misplaced { index: 3, address }));
    }
    let ports = Bar { kind: BarKind::Io, ..bar(0) };
    assert_eq!(bars::check(&[ports], &ram), Ok(()));
}

#[test]
fn virtual_functions_come_up_with_places_and_names() {
    let model = machine();
    let topology = Topology::read(&model);
    let vfs = sriov::enable(&model, &topology, bdf(PF), 2).unwrap();
    let [first, second] = &vfs[..] else { panic!("two") };
    assert_eq!((first.vendor, first.device), (0x8086, 0x10CA));
    assert_eq!(first.bdf.to_string(), "0000:01:10.0");
    assert_eq!(second.bdf.to_string(), "0000:01:10.2");
    let kind = BarKind::Memory64 { prefetchable: false };
    let bar = |index, address| Bar { index, kind, address, size: 0x4000 };
    // In the port's window, behind the PF's own BARs, one behind the other.
    assert_eq!(first.bars, [bar(0, 0xFE82_4000), bar(3, 0xFE82_C000)]);
    assert_eq!(second.bars, [bar(0, 0xFE82_8000), bar(3, 0xFE83_0000)]);
    assert_eq!(model.get(PF, SRIOV + 0x24), 0xFE82_4004);
    assert_eq!(model.get(PF, SRIOV + 0x20), 1, "4 KiB pages");
    assert_eq!(model.get(PF, SRIOV + 8), 0x19, "enabled, memory, ARI");
    assert_eq!(model.get(PORT, 0x68), 1 << 5, "the port forwards ARI");
    assert!(model.waited.get() >= 100_000);
    assert_eq!(
        model.get("0000:01:10.0", 4),
        0x0010_0402,
        "memory on, no interrupt pin, no DMA yet"
    );
    // Its own vendor id reads as ones; it can be reset all the same.
    let vf = Function::new(&model, first.bdf);
    assert_eq!(super::reset::way(vf), Ok(Way::Express(EXPRESS)));
    // Again, with what the first time left: off for a second, and the same places.
    model.waited.set(0);
    assert_eq!(sriov::enable(&model, &topology, bdf(PF), 2).as_deref(), Ok(&vfs[..]));
    assert!(model.waited.get() >= 1_100_000);
}

#[test]
fn r_s10_vfs_that_cannot_be_are_refused_by_name() {
    let refused = |change: fn(&Model), count| {
        let model = machine();
        change(&model);
        let topology = Topology::read(&model);
        let why = sriov::enable(&model, &topology, bdf(PF), count).unwrap_err().to_string();
        assert_eq!(model.get(PF, SRIOV + 8) & 1, 0, "the VFs are off");
        why
    };
    assert_eq!(refused(|_| (), 9), "vf8 is not there: TotalVFs is 8");
    assert!(refused(|m| m.set(PORT, 0x64, 0), 1).contains("bridge 0000:00:01.0 cannot pass"));
    assert!(refused(|m| m.set(PF, 0x100, 0), 1).contains("no SR-IOV capability"));
    // Firmware left no bus behind the port.
    let far = |m: &Model| m.set(PF, SRIOV + 0x14, 0x0100_0100);
    assert!(
        refused(far, 1)
            .contains("vf0 would lie on bus 02, and the bridge 0000:00:01.0 passes buses up to 01")
    );
    // The VFs' BARs alone would fit the window; the PF's lie in it as well.
    let short = |m: &Model| {
        m.set(PORT, 0x20, 0xFE80_FE80);
        let mut functions = m.functions.borrow_mut();
        let pf = functions.get_mut(&bdf(PF)).unwrap();
        pf.writable[usize::from((SRIOV + 0x24) / 4)] = 0xFFFE_0000;
    };
    assert!(refused(short, 8).contains("VF BAR 0 needs 1024 KiB"));
    let narrow = |m: &Model| m.set(PORT, 0x20, 0x0000_FFF0);
    assert_eq!(
        refused(narrow, 8),
        "VF BAR 0 needs 128 KiB, which firmware left no room for: switch SR-IOV on in the firmware"
    );
    // VFs that do not answer.
    let dead = |m: &Model| m.functions.borrow_mut().retain(|bdf, _| bdf.requester() < 0x180);
    assert_eq!(refused(dead, 1), Why::Absent.to_string());
}

#[test]
fn r_s10_a_bus_that_another_bridge_has_is_not_taken() {
    let model = machine();
    model.set(PF, SRIOV + 0x14, 0x0100_0100);
    model.set(PORT, 0x18, 0x0003_0100);
    let mut topology = Topology::read(&model);
    let other = Bridge { secondary: 2, subordinate: 2, memory: None, prefetchable: None };
    topology.functions.push(Found {
        bdf: bdf("0000:01:01.0"),
        parent: Some(bdf(PORT)),
        bridge: Some(other),
    });
    let why = sriov::enable(&model, &topology, bdf(PF), 1).unwrap_err();
    assert_eq!(why, Why::BusTaken { vf: 0, bus: 2 });
}

#[test]
fn a_rom_that_firmware_left_on_is_switched_off() {
    let model = machine();
    model.functions.borrow_mut().get_mut(&bdf(PF)).unwrap().writable[0x30 / 4] = 0xFFFF_0001;
    let function = Function::new(&model, bdf(PF));
    for (before, after) in [(0xFEA0_0001, 0xFEA0_0000), (0xFEA0_0000, 0xFEA0_0000)] {
        model.set(PF, 0x30, before);
        function.disable_rom();
        assert_eq!(model.get(PF, 0x30), after);
    }
}

#[test]
fn r_s9_access_control_is_switched_on_where_it_is() {
    use super::acs::{self, Kind, Peer};
    let model = machine();
    // The port: everything but egress control can be switched, and firmware left direct translated requests on.
    {
        let mut functions = model.functions.borrow_mut();
        let port = functions.get_mut(&bdf(PORT)).unwrap();
        for (at, now, writable) in [(0x100, 0x0001_000D, 0), (0x104, 0x0040_005F, 0x005F_0000)] {
            (port.now[at / 4], port.writable[at / 4]) = (now, writable);
        }
    }
    let topology = Topology::read(&model);
    let found = acs::keep_apart(&model, &topology);
    let peer = |name: &str, parent: Option<&str>, kind, apart| Peer {
        bdf: bdf(name),
        parent: parent.map(bdf),
        kind,
        apart,
        device: bdf(name),
    };
    let expected = [
        peer("0000:00:00.0", None, Kind::Endpoint, false),
        peer(PORT, None, Kind::RootPort, true),
        peer(PF, Some(PORT), Kind::Endpoint, false),
    ];
    assert_eq!(found, expected);
    assert_eq!(model.get(PORT, 0x104), 0x001D_005F, "validation, both redirects, forwarding");
    // A port that does not do what it is told is not believed.
    model.functions.borrow_mut().get_mut(&bdf(PORT)).unwrap().writable[0x104 / 4] = 0x0011_0000;
    model.set(PORT, 0x104, 0x0000_005F);
    assert!(!acs::keep_apart(&model, &topology)[1].apart);
    // A bridge without PCI Express is one of conventional PCI.
    model.set(PORT, 0x34, 0);
    assert_eq!(acs::keep_apart(&model, &topology)[1].kind, Kind::Bridge);
}

#[test]
fn gaps_are_aligned_and_touch_nothing() {
    let window = (0x1000, 0x8FFF);
    assert_eq!(bars::gap(window, &[], 0x1000, 0x1000), Some(0x1000));
    assert_eq!(
        bars::gap(window, &[(0x1000, 0x10FF), (0x3000, 0x3FFF)], 0x2000, 0x1000),
        Some(0x4000)
    );
    assert_eq!(bars::gap(window, &[(0x4000, 0x4FFF)], 0x4000, 0x4000), None);
    assert_eq!(bars::gap((0, u64::MAX), &[(0, u64::MAX - 5)], 0x10, 0x10), None);
    assert_eq!(bars::gap(window, &[], 0x8000, 0x1000), Some(0x1000));
    assert_eq!(bars::gap(window, &[], 0x8001, 0x1000), None);
}
