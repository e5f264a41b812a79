//! Linux bzImage: what is loaded where, and every field that can be wrong.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use guest_loader::entry::CpuEntry;
use guest_loader::image::{Format, GuestSpec, LoadError, Module, detect};
use guest_loader::layout::{self, LINUX_BOOT_PARAMS};
use guest_loader::memory::GuestMemory;
use support::*;

#[test]
fn places_the_kernel_at_its_preferred_address_and_enters_at_0x200() {
    let image = bzimage();
    assert_eq!(detect(&image), Ok(Format::Linux));
    let (entry, mem) = load_into(64 * M, &spec(&image)).unwrap();
    let CpuEntry::Long64 { rip, rsi, cr3, gdt_base, gdt_limit, .. } = entry else {
        panic!("{entry:?}");
    };
    assert_eq!((rip, rsi), (16 * M + 0x200, LINUX_BOOT_PARAMS));
    assert_eq!(bytes(&mem, 16 * M, PAYLOAD), &image[SETUP..]);
    // The GDT: 64-bit code at 0x10, data at 0x18.
    assert_eq!(gdt_limit, 31);
    assert_eq!(u64_at(&mem, gdt_base.0 + 0x10), 0x00AF_9B00_0000_FFFF);
    assert_eq!(u64_at(&mem, gdt_base.0 + 0x18), 0x00CF_9300_0000_FFFF);
    // The page tables map addresses all over the first 4 GiB to themselves.
    for address in [0, 0x1234, 16 * M + 0x200, 0x7FFF_FFFF, 0xFEE0_0000, 0xFFFF_FFFF] {
        let pdpt = u64_at(&mem, cr3.0 + (address >> 39) * 8);
        let directory = u64_at(&mem, (pdpt & !0xFFF) + (address >> 30) * 8);
        let page = u64_at(&mem, (directory & !0xFFF) + (address >> 21) % 512 * 8);
        assert_eq!((pdpt & 0xFFF, directory & 0xFFF, page & 0xFFF), (3, 3, 0x83));
        assert_eq!((page & !0xFFF) | (address & 0x1F_FFFF), address);
    }
    let state = entry.state();
    assert_eq!((state.cr0, state.cr4, state.efer), (0x8000_0011, 0x20, 0x500));
    assert_eq!((state.cs.selector, state.cs.rights), (0x10, 0xA09B));
    assert_eq!((state.data.selector, state.rflags), (0x18, 2));
}

#[test]
fn fills_the_zero_page() {
    let image = bzimage();
    let initrd = vec![0x5A; 0x12345];
    let spec = GuestSpec { initrd: Some(&initrd), cmdline: "root=/dev/ram0 quiet", ..spec(&image) };
    let (_, mem) = load_into(64 * M, &spec).unwrap();
    let zero = LINUX_BOOT_PARAMS;
    assert_eq!(u64_at(&mem, zero + 0x70), PLATFORM.rsdp.0);
    assert_eq!(bytes(&mem, zero + 0x1EF, 1), [0], "sentinel");
    assert_eq!(bytes(&mem, zero + 0x210, 1), [0xFF], "type_of_loader");
    assert_eq!(bytes(&mem, zero + 0x202, 4), b"HdrS");
    assert_eq!(u32_at(&mem, zero + 0x268), 0x1234_5678, "the header's tail is copied");
    assert_eq!(u32_at(&mem, zero + 0x26C), 0, "and nothing behind it");
    assert_eq!(text_at(&mem, u32_at(&mem, zero + 0x228).into()), spec.cmdline);
    let (at, size) = (u32_at(&mem, zero + 0x218), u32_at(&mem, zero + 0x21C));
    assert_eq!((u64::from(at), size), (64 * M - 0x13000, 0x12345), "high, on a page");
    assert_eq!(bytes(&mem, at.into(), initrd.len()), initrd);

    let map = layout::e820(mem.ram());
    assert_eq!(usize::from(bytes(&mem, zero + 0x1E8, 1)[0]), map.len());
    for (index, entry) in map.iter().enumerate() {
        let at = zero + 0x2D0 + 20 * index as u64;
        assert_eq!(u64_at(&mem, at), entry.start.0);
        assert_eq!(u64_at(&mem, at + 8), entry.size);
        assert_eq!(u32_at(&mem, at + 16), entry.kind as u32);
    }
}

#[test]
fn keeps_the_initrd_below_its_limit() {
    let mut image = bzimage();
    put(&mut image, 0x22C, &(0x1FF_FFFFu32).to_le_bytes());
    let initrd = [1; 4096];
    let spec = GuestSpec { initrd: Some(&initrd), ..spec(&image) };
    let (_, mem) = load_into(64 * M, &spec).unwrap();
    assert_eq!(u32_at(&mem, LINUX_BOOT_PARAMS + 0x218), 0x1FF_F000);
    // In a VM of 4 GiB it stays below the device hole.
    put(&mut image, 0x22C, &u32::MAX.to_le_bytes());
    let spec = GuestSpec { initrd: Some(&initrd), ..support::spec(&image) };
    let (_, mem) = load_into(4096 * M, &spec).unwrap();
    assert_eq!(u32_at(&mem, LINUX_BOOT_PARAMS + 0x218), 0xBFFF_F000);
}

#[test]
fn the_initrd_stays_clear_of_a_kernel_larger_than_its_init_size() {
    let mut image = bzimage();
    put(&mut image, 0x260, &1u32.to_le_bytes());
    put(&mut image, 0x22C, &(16 * M as u32 + 0x2FFF).to_le_bytes());
    let load = |size| {
        let initrd = vec![1; size];
        load_into(64 * M, &GuestSpec { initrd: Some(&initrd), ..spec(&image) }).map(|_| ())
    };
    assert_eq!(load(0x1000), Ok(()));
    assert!(matches!(load(0x1001), Err(LoadError::NoRoom { what: "initrd", .. })));
}

#[test]
fn an_incomplete_last_paragraph_and_a_signature_are_no_errors() {
    let mut image = bzimage();
    image.extend([0xEE; 1000]);
    let (_, mem) = load_into(64 * M, &spec(&image)).unwrap();
    assert_eq!(bytes(&mem, 16 * M + PAYLOAD as u64, 4), [0; 4], "the signature is not loaded");
    image.truncate(SETUP + PAYLOAD - 15);
    assert!(load_into(64 * M, &spec(&image)).is_ok());
}

#[test]
fn r_s10_truncated_bzimage_names_the_field() {
    let image = bzimage();
    for length in 0..image.len() - 15 {
        let error = load_into(64 * M, &spec(&image[..length])).err().unwrap();
        match length {
            0..0x206 => assert_eq!(error, LoadError::UnknownFormat),
            0x206..0x26C => {
                let field = "setup header";
                assert!(matches!(error, LoadError::Truncated { field: f, .. } if f == field));
            }
            _ => assert!(matches!(error, LoadError::Truncated { field: "syssize", .. })),
        }
        assert!(names_a_field(&error), "{error}");
    }
}

#[test]
fn r_s10_every_bad_setup_field_is_named() {
    let cases: [(usize, &[u8], &str); 13] = [
        (0x1FE, &[0, 0], "boot_flag"),
        (0x206, &[0x0B, 0x02], "version"),
        (0x211, &[0], "loadflags"),
        (0x236, &[0, 0], "xloadflags"),
        (0x230, &[0, 0, 3, 0], "kernel_alignment"),
        (0x230, &[0, 0, 0, 0], "kernel_alignment"),
        (0x258, &[0, 0, 0, 0, 0, 0, 0, 1], "pref_address"),
        (0x258, &[0, 0x10, 0, 1], "pref_address"),
        (0x260, &[0, 0, 0, 0], "init_size"),
        (0x260, &[0xFF, 0xFF, 0xFF, 0xFF], "pref_address (kernel, init_size)"),
        (0x1F4, &[1, 0, 0, 0], "syssize"),
        (0x1F4, &[0xFF, 0xFF, 0xFF, 0xFF], "syssize"),
        (0x201, &[4], "jump (setup header length)"),
    ];
    for (at, value, field) in cases {
        let mut image = bzimage();
        put(&mut image, at, value);
        let text = load_into(64 * M, &spec(&image)).err().unwrap().to_string();
        assert!(text.starts_with(field), "{field}: {text}");
    }
}

#[test]
fn r_s10_every_bad_part_of_a_linux_vm_is_named() {
    let image = bzimage();
    let long = "x".repeat(2048);
    let module = [Module { data: &[1], cmdline: "" }];
    let large = vec![0; 41 << 20];
    let cases = [
        (GuestSpec { cmdline: &long, ..spec(&image) }, "cmdline"),
        (GuestSpec { cmdline: "a\0b", ..spec(&image) }, "cmdline"),
        (GuestSpec { modules: &module, ..spec(&image) }, "modules"),
        (GuestSpec { initrd: Some(&large), ..spec(&image) }, "initrd"),
    ];
    for (spec, field) in cases {
        let text = load_into(64 * M, &spec).err().unwrap().to_string();
        assert!(text.starts_with(field), "{field}: {text}");
    }
    let text = load_into(16 * M, &spec(&image)).err().unwrap().to_string();
    assert!(text.contains("give it more memory"), "{text}");
}
