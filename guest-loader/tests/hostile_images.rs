//! Property tests: whatever the bytes, an image loads or gives an error that names a field.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use guest_loader::entry::CpuEntry;
use guest_loader::image::GuestSpec;
use guest_loader::memory::GuestMemory;
use proptest::prelude::*;
use support::*;

/// Loads `image`; what is accepted must start inside RAM, what is refused must be explained.
fn load_or_explain(image: &[u8]) {
    let spec = GuestSpec { initrd: Some(&[7; 4097]), ..spec(image) };
    match load_into(64 * M, &spec) {
        Ok((entry, mem)) => {
            let state = entry.state();
            assert!(mem.ram().iter().any(|ram| ram.contains(state.rip, 1)), "{entry:x?}");
            if let CpuEntry::Long64 { rip, .. } = entry {
                assert!((M..64 * M).contains(&rip));
            }
        }
        Err(error) => assert!(names_a_field(&error), "{error}"),
    }
}

fn any_image() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(bzimage()), Just(multiboot(false)), Just(multiboot(true)), Just(pvh())]
}

/// Values that sit on borders.
fn nasty() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        any::<u32>().prop_map(u64::from),
        (0u32..64, -2i64..3).prop_map(|(bit, near)| (1u64 << bit).wrapping_add_signed(near)),
        (0u64..65).prop_map(|mib| mib * M),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn r_s10_truncated_images(image in any_image(), at: prop::sample::Index) {
        load_or_explain(&image[..at.index(image.len())]);
    }

    #[test]
    fn r_s10_corrupted_images(
        mut image in any_image(),
        changes in prop::collection::vec((0usize..0x1000, any::<u8>()), 1..8),
    ) {
        for (at, value) in changes {
            if let Some(byte) = image.get_mut(at) {
                *byte = value;
            }
        }
        load_or_explain(&image);
    }

    #[test]
    fn r_s10_nasty_setup_fields(
        changes in prop::collection::vec((0x1F1usize..0x264, 1usize..9, nasty()), 1..4),
    ) {
        let mut image = bzimage();
        for (at, width, value) in changes {
            put(&mut image, at, &value.to_le_bytes()[..width]);
        }
        put(&mut image, 0x202, b"HdrS");
        load_or_explain(&image);
    }

    #[test]
    fn r_s10_nasty_elf_fields(
        mut image in prop_oneof![Just(multiboot(false)), Just(multiboot(true)), Just(pvh())],
        changes in prop::collection::vec((0usize..22, nasty()), 1..4),
    ) {
        // Every field of the file header's second half and of the first two program headers.
        for (field, value) in changes {
            put(&mut image, 16 + 8 * field, &value.to_le_bytes());
        }
        load_or_explain(&image);
    }

    #[test]
    fn r_s10_random_bytes(
        magic in prop::sample::select(vec![&b"\x7fELF\x02\x01\x01"[..], b"\x7fELF\x01\x01\x01", b""]),
        bytes in prop::collection::vec(any::<u8>(), 0..2048),
        linux: bool,
    ) {
        let mut image = [magic, &bytes].concat();
        if linux && image.len() > 0x206 {
            put(&mut image, 0x1FE, b"\x55\xAA\xEB\x6AHdrS");
        }
        load_or_explain(&image);
    }

    #[test]
    fn parts_of_an_accepted_kernel_never_share_a_byte(
        first in 0u64..64, second in 0u64..64, sizes in (1usize..0x3000, 1usize..0x3000),
    ) {
        let loads = [
            Load::at(0xF_8000 + first * 0x400, vec![0x11; sizes.0]),
            Load::at(0xF_8000 + second * 0x400, vec![0x22; sizes.1]),
        ];
        let note = pvh_note(&(loads[0].paddr as u32).to_le_bytes());
        let image = elf(true, 0, &loads, Some(&note));
        if let Ok((_, mem)) = load_into(64 * M, &spec(&image)) {
            for load in &loads {
                prop_assert!(load.paddr >= M);
                prop_assert_eq!(&bytes(&mem, load.paddr, load.data.len()), &load.data);
            }
        }
    }
}
