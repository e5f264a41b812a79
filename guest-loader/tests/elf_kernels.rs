//! Multiboot 1 and PVH kernels: what is loaded where, and every field that can be wrong.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use guest_loader::entry::CpuEntry;
use guest_loader::image::{Format, GuestSpec, LoadError, Module, detect};
use guest_loader::layout::{self, BOOT_INFO_START};
use guest_loader::memory::GuestMemory;
use support::*;

const MODULES: [Module<'_>; 2] =
    [Module { data: &[0xA1; 5000], cmdline: "first" }, Module { data: b"", cmdline: "" }];

#[test]
fn multiboot_kernels_of_both_classes_load() {
    for wide in [false, true] {
        let image = multiboot(wide);
        assert_eq!(detect(&image), Ok(Format::Multiboot1));
        let spec = GuestSpec { initrd: Some(&[0xB2; 100]), modules: &MODULES, ..spec(&image) };
        let (entry, mem) = load_into(32 * M, &spec).unwrap();
        let (eip, info) = (M as u32 + 0x10, BOOT_INFO_START);
        assert_eq!(entry, CpuEntry::Protected32 { eip, eax: 0x2BAD_B002, ebx: info as u32 });
        assert_eq!(bytes(&mem, M, 0x80C), multiboot_code(0b11));

        assert_eq!(u32_at(&mem, info), 0b10_0100_1101, "flags");
        assert_eq!(u32_at(&mem, info + 4), 640, "mem_lower");
        assert_eq!(u32_at(&mem, info + 8), 31 << 10, "mem_upper");
        assert_eq!(text_at(&mem, u32_at(&mem, info + 16).into()), spec.cmdline);
        assert_eq!(text_at(&mem, u32_at(&mem, info + 64).into()), "Beeline");

        let expected: [(&[u8], &str); 3] =
            [(&[0xB2; 100], ""), (&[0xA1; 5000], "first"), (b"", "")];
        assert_eq!(u32_at(&mem, info + 20), 3);
        let list = u64::from(u32_at(&mem, info + 24));
        for (index, (data, text)) in expected.into_iter().enumerate() {
            let entry = list + 16 * index as u64;
            let (start, end) = (u32_at(&mem, entry), u32_at(&mem, entry + 4));
            assert_eq!((start % 4096, (end - start) as usize), (0, data.len()));
            assert!(u64::from(start) >= M + 0x90C, "behind the kernel's last byte");
            assert_eq!(bytes(&mem, start.into(), data.len()), data);
            assert_eq!(text_at(&mem, u32_at(&mem, entry + 8).into()), text);
        }

        let map = layout::e820(mem.ram());
        assert_eq!(u32_at(&mem, info + 44) as usize, map.len() * 24);
        let mut at = u64::from(u32_at(&mem, info + 48));
        for entry in &map {
            assert_eq!(u32_at(&mem, at), 20);
            assert_eq!((u64_at(&mem, at + 4), u64_at(&mem, at + 12)), (entry.start.0, entry.size));
            assert_eq!(u32_at(&mem, at + 20), entry.kind as u32);
            at += 24;
        }
    }
}

#[test]
fn a_pvh_kernel_loads() {
    let image = pvh();
    assert_eq!(detect(&image), Ok(Format::Pvh));
    let (entry, mem) = load_into(32 * M, &GuestSpec { modules: &MODULES, ..spec(&image) }).unwrap();
    let info = BOOT_INFO_START;
    assert_eq!(entry, CpuEntry::Protected32 { eip: M as u32 + 0x40, eax: 0, ebx: info as u32 });
    assert_eq!((u32_at(&mem, info), u32_at(&mem, info + 4)), (0x336E_C578, 1));
    assert_eq!(u32_at(&mem, info + 12), 2, "nr_modules");
    let list = u64_at(&mem, info + 16);
    assert_eq!(bytes(&mem, u64_at(&mem, list), 5000), [0xA1; 5000]);
    assert_eq!(u64_at(&mem, list + 8), 5000);
    assert_eq!(text_at(&mem, u64_at(&mem, list + 16)), "first");
    assert_eq!(text_at(&mem, u64_at(&mem, info + 24)), "console=ttyS0");
    assert_eq!(u64_at(&mem, info + 32), PLATFORM.rsdp.0);
    let map = layout::e820(mem.ram());
    assert_eq!(u32_at(&mem, info + 48) as usize, map.len());
    for (index, entry) in map.iter().enumerate() {
        let at = u64_at(&mem, info + 40) + 24 * index as u64;
        assert_eq!((u64_at(&mem, at), u64_at(&mem, at + 8)), (entry.start.0, entry.size));
        assert_eq!(u32_at(&mem, at + 16), entry.kind as u32);
    }
    let state = entry.state();
    assert_eq!((state.cr0, state.cr3, state.cr4, state.efer), (0x11, 0, 0, 0));
    assert_eq!((state.cs.rights, state.data.rights, state.tr.rights), (0xC09B, 0xC093, 0x8B));
}

#[test]
fn a_kernel_linked_high_is_entered_at_its_physical_address() {
    let high = 0xFFFF_FFFF_8000_0000;
    let load = Load { vaddr: high, ..Load::at(2 * M, multiboot_code(0)) };
    let image = elf(true, high + 0x20, &[load], None);
    let spec = GuestSpec { modules: &MODULES, ..spec(&image) };
    let (entry, mem) = load_into(32 * M, &spec).unwrap();
    assert!(matches!(entry, CpuEntry::Protected32 { eip: 0x20_0020, .. }), "{entry:?}");
    // The free RAM below the kernel is not for modules: small kernels look behind themselves.
    let list = u64::from(u32_at(&mem, BOOT_INFO_START + 24));
    assert_eq!(u32_at(&mem, list), 0x20_1000);
}

#[test]
fn bss_is_zero_even_in_memory_used_before() {
    let image = multiboot(false);
    let mut mem = guest_loader::memory::SparseMemory::new(32 * M);
    mem.write(guest_loader::memory::GuestPhys(M), &[0xEE; 0x2000]).unwrap();
    guest_loader::image::load(&mut mem, &spec(&image)).unwrap();
    assert_eq!(bytes(&mem, M + 0x80C, 0x100), [0; 0x100]);
    assert_eq!(bytes(&mem, M + 0x90C, 1), [0xEE]);
}

#[test]
fn a_broken_multiboot_header_does_not_hide_a_pvh_note() {
    let mut code = multiboot_code(0);
    code[8] ^= 1;
    let note = pvh_note(&(M as u32).to_le_bytes());
    let image = elf(false, M, &[Load::at(M, code)], Some(&note));
    assert_eq!(detect(&image), Ok(Format::Pvh));
}

#[test]
fn r_s10_multiboot_flags_and_checksum_are_named() {
    let with_flags = |flags| elf(false, M, &[Load::at(M, multiboot_code(flags))], None);
    for flags in [0, 0b111, 1 << 17, 1 << 31] {
        assert!(load_into(32 * M, &spec(&with_flags(flags))).is_ok(), "{flags:#x}");
    }
    for bit in 3..16 {
        let error = load_into(32 * M, &spec(&with_flags(1 << bit))).err().unwrap();
        assert_eq!(error, LoadError::UnknownFlag { field: "Multiboot flags", bit });
    }
    let text = load_into(32 * M, &spec(&with_flags(1 << 16))).err().unwrap().to_string();
    assert!(text.starts_with("Multiboot flags") && text.contains("a.out"), "{text}");
    let mut image = multiboot(false);
    image[phdr_at(false, 1) + 8] ^= 1;
    let text = load_into(32 * M, &spec(&image)).err().unwrap().to_string();
    assert!(text.starts_with("Multiboot checksum"), "{text}");
}

#[test]
fn the_multiboot_header_must_lie_in_the_first_8192_bytes() {
    let at = |offset: usize| {
        let mut code = vec![0; offset - phdr_at(false, 1)];
        code.extend(multiboot_code(0));
        elf(false, M, &[Load::at(M, code)], None)
    };
    assert_eq!(detect(&at(8192 - 12)), Ok(Format::Multiboot1));
    assert_eq!(detect(&at(8192 - 8)), Err(LoadError::NoEntry));
    assert_eq!(detect(&at(8192)), Err(LoadError::NoEntry));
}

#[test]
fn r_s10_every_bad_elf_field_is_named() {
    let cases: [(usize, &[u8], &str); 13] = [
        (4, &[3], "EI_CLASS"),
        (5, &[2], "EI_DATA"),
        (6, &[0], "EI_VERSION"),
        (16, &[3, 0], "e_type"),
        (18, &[40, 0], "e_machine"),
        (24, &[0, 0, 0, 0], "e_entry"),
        (28, &[0xFF, 0xFF, 0xFF, 0xFF], "e_phoff"),
        (42, &[31, 0], "e_phentsize"),
        (44, &[0, 0], "e_phnum"),
        (52, &[2], "e_phnum"),
        (52 + 4, &[0xFF, 0xFF, 0xFF, 0xFF], "p_offset"),
        (52 + 12, &[0, 0xFF, 0xFF, 0xFF], "p_paddr"),
        (52 + 20, &[1, 0, 0, 0], "p_filesz"),
    ];
    for (at, value, field) in cases {
        let mut image = multiboot(false);
        put(&mut image, at, value);
        let text = load_into(32 * M, &spec(&image)).err().unwrap().to_string();
        assert!(text.starts_with(field), "{field}: {text}");
    }
}

#[test]
fn r_s10_every_collision_is_named() {
    let kernel = |loads: &[Load]| elf(false, loads[0].paddr, loads, None);
    let code = || multiboot_code(0);
    let cases = [
        (vec![Load::at(M, code()), Load::at(M + 0x90B, code())], "p_paddr (segment)"),
        (vec![Load::at(BOOT_INFO_START, code())], "boot information"),
        (vec![Load::at(0xF_0000, code())], "ACPI"),
        (vec![Load::at(0xA_0000, code())], "RAM"),
        (vec![Load::at(32 * M - 16, code())], "RAM"),
    ];
    for (loads, part) in cases {
        let text = load_into(32 * M, &spec(&kernel(&loads))).err().unwrap().to_string();
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn r_s10_every_bad_part_of_a_module_list_is_named() {
    let image = multiboot(true);
    let many = vec![Module { data: &[], cmdline: "" }; 33];
    let long = "x".repeat(2048);
    let long = [Module { data: &[], cmdline: &long }];
    let nul = [Module { data: &[], cmdline: "\0" }];
    let data = vec![0; 32 << 20];
    let large = [Module { data: &data, cmdline: "" }];
    for (modules, field) in [
        (&many[..], "modules"),
        (&long[..], "modules.cmdline"),
        (&nul[..], "modules.cmdline"),
        (&large[..], "module"),
    ] {
        let error = load_into(32 * M, &GuestSpec { modules, ..spec(&image) }).err().unwrap();
        assert!(error.to_string().starts_with(field), "{field}: {error}");
    }
}

#[test]
fn r_s10_bad_pvh_notes_are_named() {
    let kernel = |desc: &[u8]| elf(true, M, &[Load::at(M, vec![0; 64])], Some(&pvh_note(desc)));
    for (desc, field) in [
        (&[0u8; 2][..], "PHYS32_ENTRY note size"),
        (&[0, 0, 0, 0, 1, 0, 0, 0], "PHYS32_ENTRY note"),
        (&[0, 0, 0, 1], "PHYS32_ENTRY note"),
    ] {
        let error = load_into(32 * M, &spec(&kernel(desc))).err().unwrap();
        assert!(error.to_string().starts_with(field), "{field}: {error}");
    }
}
