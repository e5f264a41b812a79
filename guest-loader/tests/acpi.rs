//! The ACPI tables, found and read the way a guest does it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use arch_defs::aml::{Aml, Table, wires};
use guest_loader::acpi::{PciRoute, build};
use guest_loader::layout::{ACPI_END, ACPI_START, IOAPIC, LAPIC};
use guest_loader::memory::{GuestMemory, SparseMemory};
use guest_loader::{MAX_VCPUS, image::LoadError};
use support::*;

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The whole table at `at`, its checksum verified.
fn table(mem: &SparseMemory, at: u64) -> Vec<u8> {
    let table = bytes(mem, at, u32_at(mem, at + 4) as usize);
    assert_eq!(sum(&table), 0, "checksum of {}", String::from_utf8_lossy(&table[..4]));
    assert!((ACPI_START..ACPI_END).contains(&at) && at + table.len() as u64 <= ACPI_END);
    table
}

/// Finds the RSDP by scanning, follows it, and returns FADT, MADT, DSDT and MCFG.
fn tables(vcpus: u32) -> [Vec<u8>; 4] {
    tables_with(vcpus, &[])
}

fn tables_with(vcpus: u32, routing: &[PciRoute]) -> [Vec<u8>; 4] {
    let mut mem = SparseMemory::new(16 << 20);
    let rsdp = build(&mut mem, vcpus, routing).unwrap().0;
    let scanned =
        (0xE_0000..0x10_0000).step_by(16).find(|&at| bytes(&mem, at, 8) == b"RSD PTR ").unwrap();
    assert_eq!(rsdp, scanned);
    let root = bytes(&mem, rsdp, 36);
    assert_eq!((sum(&root[..20]), sum(&root), root[15]), (0, 0, 2));
    let xsdt = table(&mem, u64_at(&mem, rsdp + 24));
    assert_eq!(&xsdt[..4], b"XSDT");
    let found: Vec<_> = xsdt[36..]
        .as_chunks::<8>()
        .0
        .iter()
        .map(|entry| table(&mem, u64::from_le_bytes(*entry)))
        .collect();
    let by_name = |name: &[u8]| found.iter().find(|table| &table[..4] == name).unwrap().clone();
    let fadt = by_name(b"FACP");
    let dsdt = table(&mem, u64::from_le_bytes(fadt[140..148].try_into().unwrap()));
    [fadt, by_name(b"APIC"), dsdt, by_name(b"MCFG")]
}

#[test]
fn the_fadt_is_hardware_reduced_and_has_reset_and_sleep_ports() {
    let [fadt, ..] = tables(1);
    assert_eq!((fadt.len(), fadt[8]), (276, 6));
    let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
    assert_ne!(flags & 1 << 20, 0, "HW_REDUCED_ACPI");
    assert_ne!(flags & 1 << 10, 0, "RESET_REG_SUP");
    assert_eq!(flags >> 4 & 7, 7, "no fixed power button, sleep button, RTC wake");
    let boot_arch = u16::from_le_bytes(fadt[109..111].try_into().unwrap());
    assert_eq!(boot_arch, 1 << 2 | 1 << 5, "no VGA, no CMOS RTC, no 8042");
    let port = |at: usize| {
        assert_eq!(fadt[at..at + 4], [1, 8, 0, 1], "an 8-bit I/O port");
        u64::from_le_bytes(fadt[at + 4..at + 12].try_into().unwrap())
    };
    assert_eq!((port(116), fadt[128]), (0xCF9, 0x06));
    assert_eq!((port(244), port(256)), (0xB004, 0xB005));
    assert_eq!(u16::from_le_bytes(fadt[46..48].try_into().unwrap()), 0, "no SCI");
    assert!(fadt[148..244].iter().all(|byte| *byte == 0), "no PM blocks");
}

#[test]
fn r_e4_the_dsdt_wires_each_line_to_its_pin() {
    let wired = |routing: &[PciRoute]| {
        let [_, _, dsdt, _] = tables_with(1, routing);
        let code = dsdt[36..].to_vec();
        let mut aml = Aml::new(vec![Table { name: "DSDT", code }], &|_, _| None);
        let found = wires(&mut aml, &|_, _, _, _| None).unwrap();
        assert_eq!(found.left_out, None);
        let simple = |w: &arch_defs::aml::Wire| {
            assert_eq!((w.segment, w.bus, w.level, w.active_low), (0, 0, true, true));
            (w.device, w.pin, w.gsi)
        };
        found.wires.iter().map(simple).collect::<Vec<_>>()
    };
    assert_eq!(wired(&[]), []);
    // As many as a bus has devices, on the pins that lines have.
    let all: Vec<_> =
        (1..32).map(|device| PciRoute { device, gsi: 16 + u32::from(device) % 8 }).collect();
    let expected: Vec<_> = all.iter().map(|route| (route.device, 0, route.gsi)).collect();
    assert_eq!(wired(&all), expected);
}

#[test]
fn the_madt_lists_every_vcpu_and_one_ioapic() {
    for vcpus in [1, 2, MAX_VCPUS as u32] {
        let [_, madt, ..] = tables(vcpus);
        assert_eq!(madt[36..40], (LAPIC as u32).to_le_bytes());
        assert_eq!(madt[40..44], [0; 4], "no 8259");
        let (mut cpus, mut ioapics) = (vec![], vec![]);
        let mut rest = &madt[44..];
        while let [kind, length, ..] = *rest {
            let (entry, tail) = rest.split_at(length.into());
            match kind {
                0 => {
                    assert_eq!(entry[4..], 1u32.to_le_bytes(), "enabled");
                    cpus.push((entry[2], entry[3]));
                }
                1 => ioapics.push(entry[2..].to_vec()),
                _ => panic!("entry of type {kind}"),
            }
            rest = tail;
        }
        assert_eq!(cpus, (0..vcpus as u8).map(|id| (id, id)).collect::<Vec<_>>());
        let ioapic = [&[0, 0], &(IOAPIC as u32).to_le_bytes()[..], &[0; 4]].concat();
        assert_eq!(ioapics, [ioapic]);
    }
}

#[test]
fn the_dsdt_has_soft_off_and_com1() {
    let [_, _, dsdt, _] = tables(1);
    let has = |bytes: &[u8]| dsdt.windows(bytes.len()).any(|window| window == bytes);
    assert!(has(b"\x08_S5_\x12\x06\x02\x0A\x05\x0A\x05"), "Name (_S5, Package () {{5, 5}})");
    assert!(has(b"\x5B\x82") && has(b"\\\x2E_SB_COM1"), "Device (\\_SB.COM1)");
    assert!(has(b"_HID\x0C\x41\xD0\x05\x01"), "PNP0501");
    assert!(has(b"\x47\x01\xF8\x03\xF8\x03\x01\x08"), "IO (Decode16, 0x3F8, 0x3F8, 1, 8)");
    // Extended interrupt: consumer, edge, active high, exclusive; one; GSI 4.
    assert!(has(b"\x89\x06\x00\x03\x01\x04\x00\x00\x00"), "Interrupt (Edge, ActiveHigh) {{4}}");
}

#[test]
fn the_mcfg_and_the_dsdt_have_one_pci_bus() {
    let [_, _, dsdt, mcfg] = tables(1);
    // Reserved (8 bytes), then one window: base, segment 0, buses 0 to 0.
    assert_eq!(mcfg[36..44], [0; 8]);
    assert_eq!(mcfg[44..], [&0xE000_0000_u64.to_le_bytes()[..], &[0; 8]].concat());
    let has = |bytes: &[u8]| dsdt.windows(bytes.len()).any(|window| window == bytes);
    assert!(has(b"\\\x2E_SB_PCI0") && has(b"_HID\x0C\x41\xD0\x0A\x08"), "PNP0A08");
    // WordBusNumber (min and max fixed, producer; 0 to 0, length 1).
    assert!(has(b"\x88\x0D\x00\x02\x0C\x00\0\0\0\0\0\0\0\0\x01\0"), "bus 0");
    // DWordMemory (not cacheable, read and write; 0xC0000000 to 0xDFFFFFFF).
    let window = b"\x87\x17\x00\x00\x0C\x01\0\0\0\0\0\0\0\xC0\xFF\xFF\xFF\xDF\0\0\0\0\0\0\0\x20";
    assert!(has(window), "the window");
    assert!(has(b"\x47\x01\xF8\x0C\xF8\x0C\x01\x08"), "IO (Decode16, 0xCF8, 0xCF8, 1, 8)");
    // Memory32Fixed (read and write, 0xE0000000, 1 MiB) of PNP0C02.
    assert!(has(b"_HID\x0C\x41\xD0\x0C\x02"), "PNP0C02");
    assert!(has(b"\x86\x09\x00\x01\0\0\0\xE0\0\0\x10\0"), "configuration space");
}

#[test]
fn r_s10_a_bad_number_of_vcpus_is_named() {
    for vcpus in [0, MAX_VCPUS as u32 + 1, u32::MAX] {
        let error = build(&mut SparseMemory::new(16 << 20), vcpus, &[]).unwrap_err();
        assert!(matches!(error, LoadError::BadField { field: "vcpus", .. }), "{error}");
    }
}

#[test]
fn a_vm_without_ram_for_the_tables_is_an_error() {
    let mut mem = SparseMemory::new(0x8_0000);
    assert!(build(&mut mem, 1, &[]).unwrap_err().to_string().starts_with("guest memory"));
    assert_eq!(mem.ram().len(), 1);
}
