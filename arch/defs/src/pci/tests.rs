//! Capabilities and what they hold, on devices as they should be, broken ones and random ones.

extern crate std;

use super::capability::{extended_id, id};
use super::sriov::vf_bar;
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::string::ToString;
use std::vec::Vec;

/// A function with vendor and a list of capabilities that begins at 0x40.
fn function() -> Vec<u32> {
    let mut space = std::vec![0_u32; 1024];
    space[0] = 0x10C9_8086;
    space[1] = 0x0010_0000;
    space[13] = 0x40;
    space
}

fn put(space: &mut [u32], offset: usize, values: &[u32]) {
    space[offset / 4..offset / 4 + values.len()].copy_from_slice(values);
}

/// The list of an 82576: power, MSI, MSI-X, PCI Express; then AER, ARI and SR-IOV.
fn igb() -> Vec<u32> {
    let mut space = function();
    put(&mut space, 0x40, &[0xC823_5001, 0x2008]);
    put(&mut space, 0x50, &[0x0180_7005]);
    put(&mut space, 0x70, &[0x8009_A011, 3, 0x2003]);
    put(&mut space, 0xA0, &[0x0002_0010, 0x1000_8CC2]);
    put(&mut space, 0x100, &[0x1501_0001]);
    put(&mut space, 0x150, &[0x1601_000E]);
    put(&mut space, 0x160, &[0x0001_0010, 0, 0, 0x0008_0008, 0, 0x0002_0080, 0x10CA_0000, 0x553]);
    space
}

#[test]
fn both_lists_of_a_network_card() {
    let space = &igb()[..];
    let list: Vec<_> = capabilities(space).map(|c| c.map(|c| (c.id, c.offset, c.len))).collect();
    let expected = [(id::POWER, 0x40, 8), (id::MSI, 0x50, 24), (id::MSIX, 0x70, 12)];
    assert_eq!(list[..3], expected.map(Ok));
    assert_eq!(list[3..], [Ok((id::EXPRESS, 0xA0, 0x3C))]);
    let list: Vec<_> = extended_capabilities(space).map(|c| c.map(|c| (c.id, c.offset))).collect();
    assert_eq!(
        list,
        [Ok((1, 0x100)), Ok((extended_id::ARI, 0x150)), Ok((extended_id::SRIOV, 0x160))]
    );
    assert_eq!(find(space, id::MSIX).unwrap().unwrap().offset, 0x70);
    assert_eq!(find(space, id::ADVANCED), Ok(None));
    assert_eq!(find_extended(space, extended_id::ACS), Ok(None));
}

#[test]
fn where_nobody_answers_there_are_no_capabilities() {
    let nobody = std::vec![u32::MAX; 1024];
    assert_eq!(capabilities(&nobody[..]).count() + extended_capabilities(&nobody[..]).count(), 0);
    // A virtual function has no ids of its own.
    let mut space = igb();
    space[0] = u32::MAX;
    assert_eq!(capabilities(&space[..]).count(), 4);
}

#[test]
fn r_s10_a_broken_list_names_the_capability_and_its_offset() {
    let refused = |change: fn(&mut Vec<u32>)| {
        let mut space = igb();
        change(&mut space);
        capabilities(&space[..]).find_map(Result::err).unwrap().to_string()
    };
    let text = refused(|s| s[0x70 / 4] = 0x8009_4011);
    assert_eq!(text, "capability 0x1 at 0x40: the list comes back to it");
    let text = refused(|s| s[13] = 0x20);
    assert_eq!(text, "the first capability's pointer leads to 0x20, which is no place for one");
    let text = refused(|s| s[0x40 / 4] = 0xC823_0C01);
    assert_eq!(text, "capability 0x1: its next pointer leads to 0xc, which is no place for one");
    let text = refused(|s| put(s, 0x70, &[0x8009_5811]));
    assert_eq!(text, "capability 0x0 at 0x58 lies over another one");
    let text = refused(|s| {
        put(s, 0x70, &[0x8009_C811]);
        put(s, 0xC8, &[0x0002_0010]);
    });
    assert_eq!(text, "capability 0x10 at 0xc8 ends beyond the configuration space");
}

#[test]
fn r_s10_a_broken_extended_list_names_the_capability_and_its_offset() {
    let refused = |change: fn(&mut Vec<u32>)| {
        let mut space = igb();
        change(&mut space);
        extended_capabilities(&space[..]).find_map(Result::err).unwrap().to_string()
    };
    let text = refused(|s| s[0x160 / 4] = 0x1501_0010);
    assert_eq!(text, "extended capability 0xe at 0x150: the list comes back to it");
    let text = refused(|s| s[0x150 / 4] = 0x0FC1_000E);
    assert_eq!(
        text,
        "extended capability 0xe: its next pointer leads to 0xfc, which is no place for one"
    );
    let text = refused(|s| {
        s[0x150 / 4] = 0xFE01_000E;
        s[0xFE0 / 4] = 0x0001_0010;
    });
    assert_eq!(text, "extended capability 0x10 at 0xfe0 ends beyond the configuration space");
}

fn memory(index: u8, size: u64) -> Bar {
    Bar { index, kind: BarKind::Memory32 { prefetchable: false }, address: 0xFEB0_0000, size }
}

#[test]
fn an_msix_table_and_its_pending_bits() {
    let space = igb();
    let capability = find(&space[..], id::MSIX).unwrap().unwrap();
    let msix = Msix::read(&space[..], capability, &[memory(3, 0x4000)]).unwrap();
    assert_eq!(
        (msix.entries, msix.table_span(), msix.pending_span()),
        (10, 0..160, 0x2000..0x2008)
    );
}

#[test]
fn r_s10_an_msix_table_outside_its_bar_is_named() {
    let space = igb();
    let capability = find(&space[..], id::MSIX).unwrap().unwrap();
    let read =
        |space: &[u32], bars: &[Bar]| Msix::read(space, capability, bars).unwrap_err().to_string();
    let table = "capability 0x11 at 0x70: the table's place has no meaning";
    let pending = "capability 0x11 at 0x70: the pending-bit array's place has no meaning";
    assert_eq!(read(&space, &[memory(0, 0x4000)]), table);
    assert_eq!(read(&space, &[memory(3, 128)]), table);
    assert_eq!(read(&space, &[memory(3, 0x2000)]), pending);
    let io = Bar { kind: BarKind::Io, ..memory(3, 0x4000) };
    assert_eq!(read(&space, &[io]), table);
    // Over each other.
    let mut over = space.clone();
    over[0x78 / 4] = 0x93;
    assert_eq!(read(&over, &[memory(3, 0x4000)]), pending);
}

#[test]
fn virtual_functions_of_an_82576() {
    let space = igb();
    let capability = find_extended(&space[..], extended_id::SRIOV).unwrap().unwrap();
    let sriov = Sriov::read(&space[..], capability).unwrap();
    assert_eq!((sriov.total, sriov.vf_device), (8, 0x10CA));
    let pf: Bdf = "0000:01:00.1".parse().unwrap();
    assert_eq!(sriov.vf(pf, 0).unwrap().to_string(), "0000:01:10.1");
    assert_eq!(sriov.vf(pf, 7).unwrap().to_string(), "0000:01:11.7");
    let first = Bar { address: 0xFE80_0000, ..memory(3, 0x4000) };
    assert_eq!(vf_bar(first, 7).unwrap().address, 0xFE81_C000);
}

#[test]
fn r_s10_a_vf_that_cannot_be_is_named() {
    let sriov = Sriov { offset: 0x160, total: 8, first: 0x80, stride: 2, vf_device: 0x10CA };
    let last: Bdf = "0000:ff:1f.0".parse().unwrap();
    let refused = |sriov: Sriov, pf, vf| sriov.vf(pf, vf).unwrap_err().to_string();
    assert_eq!(refused(sriov, last, 0), "vf0 would lie behind bus ff");
    assert_eq!(refused(sriov, last, 8), "vf8 is not there: TotalVFs is 8");
    let pf: Bdf = "0000:01:00.0".parse().unwrap();
    let none = Sriov { stride: 0, ..sriov };
    assert!(none.vf(pf, 0).is_ok());
    assert!(refused(none, pf, 1).contains("another function"));
    assert!(refused(Sriov { first: 0, ..sriov }, pf, 0).contains("another function"));
    let far = Bar {
        kind: BarKind::Memory64 { prefetchable: true },
        address: !0x3FFF,
        ..memory(0, 0x4000)
    };
    assert_eq!(vf_bar(far, 1), Err(VfError::Bar { index: 0 }));
    assert!(vf_bar(far, 0).is_ok());
}

proptest! {
    /// Whatever a device says, the lists end, and what they give lies inside without overlap.
    #[test]
    fn r_s10_no_configuration_space_panics_or_hangs(
        mut space in vec(prop_oneof![any::<u32>(), Just(0), 0x40_u32..0x100], 0..1024),
        ids in vec((0_usize..1024, 0_u32..0x20, 0_u32..0x1000), 0..40),
        first: u8,
    ) {
        // Headers that could be some, so that the walks get somewhere.
        for (at, id, next) in ids {
            if let Some(dword) = space.get_mut(at) {
                *dword = if at < 64 { id | (next & 0xFF) << 8 } else { id | 1 << 16 | next << 20 };
            }
        }
        for (at, value) in [(0, 0x1234_8086), (1, 0x10_0000), (13, first.into())] {
            if let Some(dword) = space.get_mut(at) {
                *dword = value;
            }
        }
        let space = &space[..];
        let mut owned = [false; 1024];
        for found in capabilities(space).flatten() {
            let from = usize::from(found.offset);
            for at in (from..from + usize::from(found.len)).step_by(4) {
                prop_assert!((0x40..0x100).contains(&at) && !owned[at / 4]);
                owned[at / 4] = true;
            }
            let _ = Msix::read(space, found, &[memory(0, 0x1000)]);
        }
        for found in extended_capabilities(space).flatten() {
            prop_assert!(found.offset >= 0x100 && !owned[usize::from(found.offset / 4)]);
            owned[usize::from(found.offset / 4)] = true;
            if let Ok(sriov) = Sriov::read(space, found) {
                let _ = sriov.vf(Bdf::from_requester(0, first.into()), 1);
            }
        }
        let _ = header::Bridge::read(space);
    }

    #[test]
    fn vfs_never_meet(pf: u16, total in 1_u16..300, first in 1_u16..600, stride in 1_u16..600) {
        let sriov = Sriov { offset: 0, total, first, stride, vf_device: 0 };
        let pf = Bdf::from_requester(0, pf);
        let mut before = pf.requester();
        for vf in 0..total {
            let Ok(found) = sriov.vf(pf, vf) else { break };
            prop_assert!(found.requester() > before);
            before = found.requester();
        }
    }
}
