//! The walk against the model of `model.rs`, and against memory that makes no sense.

use super::model::{Bits32, Level4, Level5, Memory, Mode, Pae, Space};
use super::*;
use core::cell::Cell;
use proptest::prelude::*;
use std::vec::Vec;

extern crate std;

const GIB: u64 = 1 << 30;

fn modes() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Bits32), Just(Pae), Just(Level4), Just(Level5)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn translations_are_the_models(
        mode in modes(),
        pages in proptest::collection::vec((any::<u64>(), 0_usize..3, any::<u64>()), 1..8),
        near in proptest::collection::vec((any::<prop::sample::Index>(), any::<u32>()), 1..30),
        far: u64,
    ) {
        let mut space = Space::new(mode);
        for &(linear, size, frame) in &pages {
            let size = mode.sizes()[size % mode.sizes().len()];
            space.map(mode.linear(linear), size, frame);
            // A close neighbour, so that tables are shared.
            space.map(mode.linear(linear ^ 0x3000), 12, !frame);
        }
        for (page, offset) in near {
            let (first, size, _) = *page.get(&space.mapped);
            for linear in [first, first + ((1 << size) - 1), first.wrapping_add(offset.into())] {
                let linear = mode.linear(linear);
                space.memory.reads.set(0);
                prop_assert_eq!(space.walk(linear).ok(), space.model(linear), "{:#x}", linear);
                prop_assert!(space.memory.reads.get() <= mode.cuts().len());
            }
        }
        let far = mode.linear(far);
        prop_assert_eq!(space.walk(far).ok(), space.model(far));
    }

    #[test]
    fn r_s8_any_memory_ends_the_walk(
        cr0: u64, cr3: u64, cr4: u64, efer: u64, linear: u64, entry: u64, hole: u8,
    ) {
        /// Answers every read with one entry, which may point anywhere, also at itself.
        struct Endless(u64, u8, Cell<u32>);
        impl ReadPhys for Endless {
            fn read_u64(&self, gpa: u64) -> Option<u64> {
                self.2.set(self.2.get() + 1);
                ((gpa >> 12) as u8 != self.1).then_some(self.0)
            }
            fn read_u32(&self, gpa: u64) -> Option<u32> {
                self.read_u64(gpa).map(|value| value as u32)
            }
            fn read_bytes(&self, gpa: u64, _: &mut [u8]) -> bool {
                self.read_u64(gpa).is_some()
            }
        }
        for entry in [entry, entry | 1, (entry | 1) & !0x80 & !(0x7FF << 52) & !0x1E6] {
            let mem = Endless(entry, hole, Cell::new(0));
            let state = PagingState { cr0, cr3, cr4, efer };
            let mut buf = [0; 15];
            prop_assert!(fetch(&mem, &state, linear, &mut buf) <= 15);
            prop_assert!(mem.2.get() <= 12, "two walks of 5 and two pages of bytes");
        }
    }

    #[test]
    fn fetch_reads_on_across_pages(
        mode in modes(), page: u64, back in 0_u64..32, second in 0_u8..3, frames: [u16; 2],
    ) {
        let mut space = Space::new(mode);
        let first = mode.linear(page & !0xFFF & !GIB);
        let next = first + PAGE;
        // Frames far from the tables and not in order.
        let [even, odd] = frames.map(|frame| GIB + u64::from(frame) * 2 * PAGE);
        let frames = [even, odd + PAGE];
        prop_assert!(space.map(first, 12, frames[0]));
        let bytes: Vec<u8> = (0..8192_u32).map(|place| (place * 7 + place / 251) as u8).collect();
        space.memory.put(frames[0], &bytes[..4096]);
        // The second page: absent, mapped but not RAM, or there.
        if second > 0 {
            prop_assert!(space.map(next, 12, frames[1]));
        }
        if second == 2 {
            space.memory.put(frames[1], &bytes[4096..]);
        }
        let start = next - back;
        let mut buf = [0xEE; 15];
        space.memory.reads.set(0);
        let got = fetch(&space.memory, &space.state, start, &mut buf);
        let reads = space.memory.reads.get();
        if back == 0 {
            prop_assert_eq!(got, if second == 2 { 15 } else { 0 });
        } else {
            prop_assert_eq!(got, if second == 2 { 15 } else { 15.min(back as usize) });
        }
        let from = 4096 - back as usize;
        prop_assert_eq!(&buf[..got], &bytes[from..from + got]);
        // One page needs one walk and one read of bytes.
        let one = mode.cuts().len() + 1;
        prop_assert!(reads <= 2 * one && (back < 15 || reads == one), "{} reads", reads);
    }
}

#[test]
fn no_paging_is_the_address_itself() {
    let state = PagingState { cr0: 0x11, cr3: !0, cr4: 0, efer: 0 };
    let mut memory = Memory::default();
    assert_eq!(translate(&memory, &state, 0xFFFF_FFF0), Ok(0xFFFF_FFF0));
    // A real-mode CS base plus IP that runs past 4 GiB wraps.
    assert_eq!(translate(&memory, &state, 0x1_0000_0010), Ok(0x10));
    memory.put(0x7C00, &[0x90; 15]);
    assert_eq!(fetch(&memory, &state, 0x7C00, &mut [0; 15]), 15);
}

#[test]
fn reserved_bits_and_missing_entries_name_their_level() {
    let large = 1 << 7;
    let cases: &[(Mode, u32, u8, u64)] = &[
        // Bit 7 where no page can be.
        (Level4, 39, 4, large),
        (Level5, 48, 5, large),
        // Frame bits inside a large page.
        (Level4, 30, 3, large | 1 << 13),
        (Level4, 30, 3, large | 1 << 29),
        (Level4, 21, 2, large | 1 << 20),
        (Pae, 21, 2, large | 1 << 13),
        (Bits32, 22, 2, large | 1 << 21),
        // PAE: rights in a PDPTE, and bits above the frame.
        (Pae, 30, 3, 1 << 1),
        (Pae, 30, 3, 1 << 52),
        (Pae, 21, 2, 1 << 52),
        (Pae, 12, 1, 1 << 62),
    ];
    for &(mode, low, level, bits) in cases {
        let linear = 0x4567_8123;
        let mut space = Space::new(mode);
        assert!(space.map(linear, 12, 0x9000));
        assert_eq!(space.walk(linear), Ok(0x9123));
        let path = space.path(linear, low).unwrap();
        let place = *path.last().unwrap();
        let good = space.entry(place);
        space.set(place, good | bits);
        assert_eq!(space.walk(linear), Err(WalkError::Reserved(level)), "{mode:?} {bits:#x}");
        space.set(place, good & !1);
        assert_eq!(space.walk(linear), Err(WalkError::NotPresent(level)));
        if low > 12 {
            space.set(place, good & 0xFFF | 0x7FFF_F000);
            assert_eq!(space.walk(linear), Err(WalkError::Unreadable(level - 1)));
        }
    }
}

#[test]
fn pae_root_is_aligned_to_32_bytes_only() {
    let mut space = Space::new(Pae);
    assert!(space.map(0x4567_8123, 12, 0x9000));
    let root = space.state.cr3 & !0xFFF;
    let entry = space.entry(root + 8);
    let elsewhere = space.memory.table() + 0xFA0;
    space.set(elsewhere + 8, entry);
    space.state.cr3 = elsewhere | 0x18;
    assert_eq!(space.walk(0x4567_8123), Ok(0x9123));
}

#[test]
fn no_page_is_larger_than_1_gib() {
    // The entry would be a well-formed page of 512 GiB: no other bit tells.
    for (mode, low, level) in [(Level4, 39, 4), (Level5, 48, 5)] {
        let mut space = Space::new(mode);
        assert!(space.map(0x5000, 12, 0x9000));
        let place = *space.path(0x5000, low).unwrap().last().unwrap();
        space.set(place, 1 << 50 | 0x80 | 1);
        assert_eq!(space.walk(0x5000), Err(WalkError::Reserved(level)));
    }
}

#[test]
fn no_execute_is_reserved_without_nxe() {
    for mode in [Pae, Level4] {
        let mut space = Space::new(mode);
        assert!(space.map(0x5000, 12, 0x9000));
        let place = *space.path(0x5000, 12).unwrap().last().unwrap();
        let good = space.entry(place);
        space.set(place, good | 1 << 63);
        assert_eq!(space.walk(0x5000), Ok(0x9000));
        space.state.efer &= !0x800;
        assert_eq!(space.walk(0x5000), Err(WalkError::Reserved(1)));
    }
}

#[test]
fn bit_7_of_a_last_entry_is_pat_and_of_a_pde_without_pse_nothing() {
    let mut space = Space::new(Level4);
    assert!(space.map(0x5000, 12, 0x9000));
    let place = *space.path(0x5000, 12).unwrap().last().unwrap();
    let good = space.entry(place);
    space.set(place, good | 0x80);
    assert_eq!(space.walk(0x5000), Ok(0x9000));
    // In a large page it is bit 12, which is then no part of the frame.
    for (mode, size) in [(Bits32, 22), (Pae, 21), (Level4, 21), (Level5, 30)] {
        let mut space = Space::new(mode);
        let frame = 1 << 31;
        assert!(space.map(0x5000, size, frame));
        let place = *space.path(0x5000, size).unwrap().last().unwrap();
        let good = space.entry(place);
        space.set(place, good | 1 << 12);
        assert_eq!(space.walk(0x6678), Ok(frame + 0x6678), "{mode:?}");
    }
    let mut space = Space::new(Bits32);
    assert!(space.map(0x5000, 12, 0x9000));
    let place = *space.path(0x5000, 22).unwrap().last().unwrap();
    let good = space.entry(place);
    space.set(place, good | 0x80);
    space.state.cr4 = 0;
    assert_eq!(space.walk(0x5000), Ok(0x9000));
}

#[test]
fn addresses_must_be_canonical() {
    for (mode, first_bad) in [(Level4, 1_u64 << 47), (Level5, 1 << 56)] {
        let space = Space::new(mode);
        for linear in [first_bad, first_bad | 1 << 63, 1 << 63, first_bad - 1] {
            let error = space.walk(linear).unwrap_err();
            assert_eq!(error == WalkError::NonCanonical, linear >= first_bad, "{linear:#x}");
        }
    }
}
