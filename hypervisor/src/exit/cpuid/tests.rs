//! CPUID of guests on made-up hosts: nothing hidden shows, every vCPU has its own id, topology adds
//! up.

extern crate std;

use super::*;
use proptest::prelude::*;
use std::vec::Vec;

type Rows = &'static [(u32, u32, [u32; 4])];

/// Answers as a processor does: beyond the range, with the highest basic leaf (Intel) or zeros
/// (AMD).
fn host(rows: Rows, vendor: Vendor) -> impl Fn(u32, u32) -> [u32; 4] {
    let find = move |leaf, sub| {
        rows.iter().find(|row| (row.0, row.1) == (leaf, sub)).map_or([0; 4], |row| row.2)
    };
    move |leaf, sub| {
        let max = find(leaf & 0x8000_0000, 0)[0];
        match vendor {
            Vendor::Intel if leaf > max => find(find(0, 0)[0], sub),
            Vendor::Amd if leaf > max => [0; 4],
            _ => find(leaf, sub),
        }
    }
}

/// Resembles a Skylake-X with the features of a server part.
#[rustfmt::skip]
const SKYLAKE_X: Rows = &[
    (0x0, 0, [0x16, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
    (0x1, 0, [0x0005_0654, 0x0220_0800, 0x7ffe_fbff, 0xbfeb_fbff]),
    (0x2, 0, [0x7603_6301, 0x00f0_b5ff, 0, 0x00c3_0000]),
    (0x4, 0, [0x3c00_4121, 0x01c0_003f, 0x3f, 0]),
    (0x4, 1, [0x3c00_4122, 0x01c0_003f, 0x3f, 0]),
    (0x4, 2, [0x3c00_4143, 0x03c0_003f, 0x3ff, 0]),
    (0x4, 3, [0x3c07_c163, 0x0280_003f, 0x4fff, 4]),
    (0x5, 0, [0x40, 0x40, 3, 0x2020]),
    (0x6, 0, [0x77, 2, 9, 0]),
    (0x7, 0, [0, 0xd39f_fffb, 0x18, 0xbc00_0400]),
    (0xA, 0, [0x0730_0404, 0, 0, 0x603]),
    (0xB, 0, [1, 2, 0x100, 2]),
    (0xB, 1, [5, 20, 0x201, 2]),
    (0xD, 0, [0x2ff, 0xa88, 0xa88, 0]),
    (0xD, 1, [0xf, 0xa08, 0x100, 0]),
    (0xD, 2, [0x100, 0x240, 0, 0]),
    (0xD, 3, [0x40, 0x3c0, 0, 0]),
    (0xD, 4, [0x40, 0x400, 0, 0]),
    (0xD, 5, [0x40, 0x440, 0, 0]),
    (0xD, 6, [0x200, 0x480, 0, 0]),
    (0xD, 7, [0x400, 0x680, 0, 0]),
    (0xD, 9, [8, 0xa80, 0, 0]),
    (0x14, 0, [1, 0xf, 7, 0]),
    (0x15, 0, [2, 0x114, 0, 0]),
    (0x16, 0, [0xce4, 0x1194, 0x64, 0]),
    (0x8000_0000, 0, [0x8000_0008, 0, 0, 0]),
    (0x8000_0001, 0, [0, 0, 0x121, 0x2c10_0800]),
    (0x8000_0006, 0, [0, 0, 0x0100_6040, 0]),
    (0x8000_0008, 0, [0x302e, 0, 0, 0]),
];

/// Resembles Bochs' Cannon Lake: no frequencies, an old maximum, SGX and PKU.
#[rustfmt::skip]
const CANNON_LAKE: Rows = &[
    (0x0, 0, [0x14, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
    (0x1, 0, [0x0006_0663, 0x0110_0800, 0x7ffa_fbbf, 0xbfeb_fbff]),
    (0x4, 0, [0x1c00_4121, 0x01c0_003f, 0x3f, 0]),
    (0x4, 1, [0x1c03_c163, 0x03c0_003f, 0xfff, 6]),
    (0x7, 0, [0, 0xf2bf_67eb, 0x1f, 0]),
    (0xD, 0, [0xe7, 0xa80, 0xa80, 0]),
    (0xD, 1, [0xb, 0, 0, 0]),
    (0xD, 2, [0x100, 0x240, 0, 0]),
    (0xD, 5, [0x40, 0x440, 0, 0]),
    (0xD, 6, [0x200, 0x480, 2, 0]),
    (0xD, 7, [0x400, 0x680, 0, 0]),
    (0x14, 0, [0, 0, 0x55, 0]),
    (0x8000_0000, 0, [0x8000_0008, 0, 0, 0]),
    (0x8000_0001, 0, [0, 0, 0x121, 0x2c10_0800]),
    (0x8000_0008, 0, [0x3027, 0, 0, 0]),
];

/// Resembles EPYC Rome.
#[rustfmt::skip]
const ROME: Rows = &[
    (0x0, 0, [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
    (0x1, 0, [0x0083_0f10, 0x0310_0800, 0x7ed8_320b, 0x178b_fbff]),
    (0x5, 0, [0x40, 0x40, 3, 0x11]),
    (0x6, 0, [4, 0, 1, 0]),
    (0x7, 0, [0, 0x219c_91a9, 0x0040_0004, 0]),
    (0xB, 0, [1, 2, 0x100, 3]),
    (0xB, 1, [7, 0x10, 0x201, 3]),
    (0xD, 0, [0x207, 0x380, 0x380, 0]),
    (0xD, 1, [0xf, 0x340, 0, 0]),
    (0xD, 2, [0x100, 0x240, 0, 0]),
    (0xD, 9, [8, 0x380, 0, 0]),
    (0x10, 0, [0, 2, 0, 0]),
    (0x8000_0000, 0, [0x8000_0020, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
    (0x8000_0001, 0, [0x0083_0f10, 0x4000_0000, 0x75c2_37ff, 0x2fd3_fbff]),
    (0x8000_0007, 0, [0, 0x1b, 0, 0x6799]),
    (0x8000_0008, 0, [0x3030, 0x010e_b757, 0x7017, 0x0001_0000]),
    (0x8000_000A, 0, [1, 0x8000, 0, 0x0013_bcff]),
    (0x8000_001D, 0, [0x4121, 0x01c0_003f, 0x3f, 0]),
    (0x8000_001D, 1, [0x4122, 0x01c0_003f, 0x3f, 0]),
    (0x8000_001D, 2, [0x4143, 0x01c0_003f, 0x3ff, 2]),
    (0x8000_001D, 3, [0x1_c163, 0x03c0_003f, 0x3fff, 1]),
    (0x8000_001E, 0, [3, 0x101, 0x300, 0]),
    (0x8000_001F, 0, [0x0001_000f, 0x16f, 0x1fd, 1]),
];

const HOSTS: [(Rows, Vendor); 3] =
    [(SKYLAKE_X, Vendor::Intel), (CANNON_LAKE, Vendor::Intel), (ROME, Vendor::Amd)];

fn inputs(vcpu: u32, vcpus: u32, vendor: Vendor) -> CpuidInputs {
    let (tsc_hz, lapic_hz) = (3_312_000_000, 24_000_000);
    CpuidInputs { vcpu, vcpus, tsc_hz, lapic_hz, vendor, max_phys_bits: 46 }
}

fn guest(rows: Rows, vendor: Vendor, vcpu: u32, vcpus: u32) -> CpuidTable {
    CpuidTable::new(&inputs(vcpu, vcpus, vendor), host(rows, vendor))
}

/// The registers with SSE and AVX on, APIC enabled.
fn regs(table: &CpuidTable, leaf: u32, subleaf: u32) -> [u32; 4] {
    let now = GuestNow { cr4: CR4_OSXSAVE, xcr0: 7, apic_enabled: true, subleaf };
    table.patched(table.lookup(leaf, subleaf), &now)
}

/// Written from the manuals, not from the policy: (leaf, subleaf, register, bits that no guest may
/// ever see).
const NEVER: &[(u32, u32, usize, &[u32])] = &[
    // DTES64, MONITOR, DS-CPL, VMX, SMX, EIST, TM2, SDBG, xTPR, PDCM, DCA
    (0x1, 0, 2, &[2, 3, 4, 5, 6, 7, 8, 11, 14, 15, 18]),
    // MCE, MCA, PSN, DS, ACPI, TM, PBE
    (0x1, 0, 3, &[7, 14, 18, 21, 22, 29, 31]),
    // SGX, HLE, RTM, RDT-M, MPX, RDT-A, PT
    (0x7, 0, 1, &[2, 4, 11, 12, 14, 15, 25]),
    // PKU, OSPKE, WAITPKG, CET_SS, TME, LA57, MAWAU, KL, bus lock, ENQCMD, SGX_LC, PKS
    (0x7, 0, 2, &[3, 4, 5, 7, 13, 16, 17, 18, 19, 20, 21, 23, 24, 29, 30, 31]),
    // UINTR, SRBDS_CTRL, RTM helpers, hybrid, TSXLDTRK, PCONFIG, LBR, CET_IBT, AMX, IBRS, STIBP,
    // L1D, ARCH_CAP, CORE_CAP, SSBD
    (0x7, 0, 3, &[5, 9, 11, 13, 15, 16, 18, 19, 20, 22, 24, 25, 26, 27, 28, 29, 30, 31]),
    // LASS, PERFMON, FRED, LKGS, WRMSRNS, AMX-FP16, HRESET, LAM, MSRLIST
    (0x7, 1, 0, &[6, 8, 17, 18, 19, 21, 22, 26, 27]),
    // UIRET_UIF, CET_SSS, AVX10
    (0x7, 1, 3, &[17, 18, 19]),
    // XSAVES, XFD
    (0xD, 1, 0, &[3, 4]),
    // SVM, ExtApicSpace, OSVW, IBS, SKINIT, WDT, LWP, NodeId, counters, DBX, PTSC, MONITORX
    (0x8000_0001, 0, 2, &[2, 3, 9, 10, 12, 13, 15, 19, 23, 24, 26, 27, 28, 29]),
    // MCE, MCA
    (0x8000_0001, 0, 3, &[7, 14]),
    // INVLPGB, IBPB, IBRS, STIBP, SSBD
    (0x8000_0008, 0, 1, &[3, 12, 14, 15, 24, 25]),
];

/// Leaves that say nothing, whatever the host: every register of every subleaf is zero.
const SILENT: &[u32] = &[0x3, 0x5, 0x8, 0x9, 0xA, 0xC, 0xE];
const SILENT_AMD: &[u32] = &[0x8000_0009, 0x8000_000A, 0x8000_001B, 0x8000_001C, 0x8000_001F];

fn assert_hidden(table: &CpuidTable, vendor: Vendor) {
    for &(leaf, sub, register, bits) in NEVER {
        if vendor == Vendor::Intel && (leaf, register) == (0x8000_0008, 1) {
            continue;
        }
        for &bit in bits {
            let value = regs(table, leaf, sub)[register];
            assert_eq!(value >> bit & 1, 0, "{leaf:#x}.{sub} register {register} bit {bit}");
        }
    }
    let amd = if vendor == Vendor::Amd { SILENT_AMD } else { &[] };
    for &leaf in SILENT.iter().chain(amd) {
        for sub in 0..40 {
            assert_eq!(regs(table, leaf, sub), [0; 4], "{leaf:#x}.{sub}");
        }
    }
    // Leaf 6 tells nothing but ARAT, the hypervisor leaves nothing but the signature.
    assert_eq!(regs(table, 6, 0), [4, 0, 0, 0]);
    assert_eq!(regs(table, 0x4000_0100, 0), [0; 4]);
    assert_eq!(regs(table, 0x4000_0010, 0), [0; 4]);
}

/// XSAVE components: only x87, SSE, AVX and AVX-512, whole or not at all.
fn assert_xsave(table: &CpuidTable) {
    let [features, _, _, high] = regs(table, 0xD, 0);
    assert!([0, 3, 7, 0xE7].contains(&features) && high == 0, "{features:#x}");
    assert_eq!(u64::from(features), table.allowed_xcr0());
    let avx512 = regs(table, 7, 0)[1] & 1 << 16 != 0;
    let avx = regs(table, 1, 0)[2] & 1 << 28 != 0;
    assert!(!avx512 || features == 0xE7);
    assert!(!avx || features & 4 != 0);
    for sub in 2..64 {
        let shown = sub < 32 && features & 1 << sub != 0;
        assert!(shown || regs(table, 0xD, sub) == [0; 4], "0xD.{sub}");
    }
}

fn assert_topology(tables: &[CpuidTable], vendor: Vendor) {
    let count = tables.len() as u32;
    for (id, table) in (0..).zip(tables) {
        let leaf1 = regs(table, 1, 0);
        assert_eq!((leaf1[1] >> 24, leaf1[1] >> 16 & 0xFF), (id & 0xFF, count.min(255)));
        assert_eq!(leaf1[3] >> 28 & 1 == 1, count > 1, "HTT");
        // Shifting the id right by the shift of the core level leaves the one package, by the
        // thread level the core.
        let [shift0, count0, type0, id0] = regs(table, 0xB, 0);
        let [shift1, count1, type1, id1] = regs(table, 0xB, 1);
        assert_eq!((type0, type1), (0x100, 0x201));
        assert_eq!((id0, id1), (id, id));
        assert_eq!((count0, count1), (1, count));
        assert_eq!((id0 >> shift0, id1 >> shift1), (id, 0));
        assert!(shift1 == 0 || (count - 1) >> (shift1 - 1) == 1, "no wider than needed");
        for sub in [2, 3, 200, u32::MAX] {
            assert_eq!(regs(table, 0xB, sub), [0, 0, sub & 0xFF, id]);
        }
        let caches = if vendor == Vendor::Intel { 4 } else { 0x8000_001D };
        let mut seen = 0;
        for sub in 0..10 {
            let eax = regs(table, caches, sub)[0];
            if eax & 0x1F == 0 {
                assert_eq!(regs(table, caches, sub), [0; 4]);
                continue;
            }
            seen += 1;
            let sharing = (eax >> 14 & 0xFFF) + 1;
            match eax >> 5 & 7 {
                1 | 2 => assert_eq!(sharing, 1),
                _ => assert_eq!(sharing, 1 << shift1),
            }
            if vendor == Vendor::Intel {
                assert_eq!((eax >> 26) + 1, (1 << shift1).min(64));
            }
        }
        assert!(seen >= 2);
        if vendor == Vendor::Amd {
            assert_eq!(regs(table, 0x8000_001E, 0), [id, id & 0xFF, 0, 0]);
            let ecx = regs(table, 0x8000_0008, 0)[2];
            assert_eq!((ecx & 0xFF, ecx >> 12), ((count - 1).min(255), shift1));
        }
    }
}

#[test]
fn ids_and_topology_are_the_vms_own() {
    for (rows, vendor) in HOSTS {
        for count in [1, 2, 3, 4, 5, 8, 17, 64, 100, 256, 300] {
            let tables: Vec<_> = (0..count).map(|id| guest(rows, vendor, id, count)).collect();
            assert_topology(&tables, vendor);
        }
    }
}

#[test]
fn hidden_features_stay_hidden_on_known_hosts() {
    for (rows, vendor) in HOSTS {
        let table = guest(rows, vendor, 1, 4);
        assert_hidden(&table, vendor);
        assert_xsave(&table);
    }
}

#[test]
fn useful_features_show() {
    let skylake = guest(SKYLAKE_X, Vendor::Intel, 0, 2);
    // SSE3 up to RDRAND with x2APIC, TSC-deadline, XSAVE, OSXSAVE, AVX, hypervisor; what is missing
    // is in `NEVER`.
    assert_eq!(regs(&skylake, 1, 0)[2], 0xfffa_3203);
    // TSC_ADJUST, AVX2, INVPCID and the AVX-512 group.
    assert_eq!(regs(&skylake, 7, 0)[1], 0xd19f_27eb);
    assert_eq!(regs(&skylake, 0x8000_0001, 0), [0, 0, 0x121, 0x2c10_0800]);
    assert_eq!(regs(&skylake, 0x8000_0007, 0), [0, 0, 0, 0x100]);
    assert_eq!(regs(&skylake, 0x8000_0008, 0), [0x302e, 0, 0, 0]);
    let rome = guest(ROME, Vendor::Amd, 0, 2);
    assert_eq!(regs(&rome, 0, 0), [0xD, 0x6874_7541, 0x444d_4163, 0x6974_6e65]);
    assert_eq!(regs(&rome, 0x8000_0001, 0)[2], 0x0040_01f3);
    assert_eq!(regs(&rome, 0x8000_0008, 0)[0], 0x302e, "limited to the mapped 46 bits");
}

#[test]
fn signature_and_hints() {
    for (rows, vendor) in HOSTS {
        let table = guest(rows, vendor, 0, 1);
        let [max, rest @ ..] = regs(&table, 0x4000_0000, 0);
        assert_eq!(max, 0x4000_0001);
        let text: Vec<u8> = rest.iter().flat_map(|part| part.to_le_bytes()).collect();
        assert_eq!(text, b"KVMKVMKVM\0\0\0");
        // The clock page is for AMD guests only.
        let features = if vendor == Vendor::Amd { 0x0100_0088 } else { 0x80 };
        assert_eq!(regs(&table, 0x4000_0001, 0), [features, 0, 0, 1]);
    }
}

#[test]
fn out_of_range_as_the_vendor_does_it() {
    let intel = guest(CANNON_LAKE, Vendor::Intel, 0, 1);
    let highest = regs(&intel, 0x16, 0);
    assert_eq!(highest, [3312, 3312, 0, 0]);
    for leaf in [0x17, 0x1F, 0x20, 0x3FFF_FFFF, 0x5000_0000, 0x8000_0009, 0xC000_0000, u32::MAX] {
        assert_eq!(regs(&intel, leaf, 7), highest, "{leaf:#x}");
    }
    // The host ends at 0x14: what it would answer for 0x15 must not be taken for frequencies.
    assert_eq!(regs(&intel, 0x14, 0), [0; 4]);
    let amd = guest(ROME, Vendor::Amd, 0, 1);
    for leaf in [0xE, 0x1F, 0x20, 0x8000_0021, 0x8000_0022, 0xC000_0000, u32::MAX] {
        assert_eq!(regs(&amd, leaf, 0), [0; 4], "{leaf:#x}");
    }
}

#[test]
fn clocks_multiply_out_in_linux_arithmetic() {
    let pairs = [
        (10_000_000, 10_000_000),
        (200_000_000, 200_000_000),
        (3_312_000_000, 24_000_000),
        (2_599_998_765, 24_999_870),
        (3_900_012_345, 38_400_123),
        (5_200_000_000, 99_999_999),
        (1_000_000_001, 1_000_000_000),
    ];
    for (tsc_hz, lapic_hz) in pairs {
        let inputs = CpuidInputs { tsc_hz, lapic_hz, ..inputs(0, 1, Vendor::Intel) };
        let table = CpuidTable::new(&inputs, host(CANNON_LAKE, Vendor::Intel));
        let [divisor, factor, crystal, _] = regs(&table, 0x15, 0);
        assert!(u64::from(crystal).abs_diff(lapic_hz) <= 500);
        let khz = (crystal / 1000).checked_mul(factor).unwrap() / divisor;
        // 3 parts per million, and the kHz that Linux cuts off.
        let error = u64::from(khz).abs_diff(tsc_hz / 1000);
        assert!(error <= 1 + tsc_hz * 3 / 1_000_000_000, "{tsc_hz}: {factor}/{divisor}");
        assert_eq!(u64::from(regs(&table, 0x16, 0)[0]), (tsc_hz + 500_000) / 1_000_000);
    }
    let bochs =
        CpuidInputs { tsc_hz: 10_000_000, lapic_hz: 10_000_000, ..inputs(0, 1, Vendor::Intel) };
    let table = CpuidTable::new(&bochs, host(CANNON_LAKE, Vendor::Intel));
    assert_eq!(regs(&table, 0x15, 0), [1, 1, 10_000_000, 0]);
    let unknown = CpuidInputs { lapic_hz: 0, ..bochs };
    let table = CpuidTable::new(&unknown, host(CANNON_LAKE, Vendor::Intel));
    assert_eq!(regs(&table, 0x15, 0), [0; 4]);
}

#[test]
fn rows_follow_the_guests_registers() {
    let table = guest(CANNON_LAKE, Vendor::Intel, 0, 1);
    let now = GuestNow { cr4: 0, xcr0: 1, apic_enabled: false, subleaf: 0 };
    let leaf1 = table.lookup(1, 0);
    assert!(leaf1.needs_patch());
    let off = table.patched(leaf1, &now);
    let on = table.patched(leaf1, &GuestNow { cr4: CR4_OSXSAVE, apic_enabled: true, ..now });
    assert_eq!((on[2] ^ off[2], on[3] ^ off[3]), (1 << 27, 1 << 9));
    // SDM vol. 1, 13.4.2 and 13.4.3: the second component of AVX-512 is the aligned one here.
    let sizes = [(1, 576, 576), (3, 576, 576), (7, 0x340, 0x340), (0xE7, 0xA80, 0x980)];
    for (xcr0, standard, compacted) in sizes {
        let now = GuestNow { xcr0, ..now };
        assert_eq!(table.patched(table.lookup(0xD, 0), &now)[1], standard, "{xcr0:#x}");
        assert_eq!(table.patched(table.lookup(0xD, 1), &now)[1], compacted, "{xcr0:#x}");
    }
    assert_eq!(table.lookup(0xD, 0).regs[2], 0xA80);
    for leaf in [0, 2, 6, 7, 0x15, 0x8000_0001, 0x4000_0000] {
        assert!(!table.lookup(leaf, 0).needs_patch(), "{leaf:#x}");
    }
}

/// Scrambles leaf, subleaf, register and seed into a register's value.
fn noise(seed: u64, leaf: u32, subleaf: u32, register: u64) -> u32 {
    let mut x = seed ^ u64::from(leaf) << 32 ^ u64::from(subleaf) << 2 ^ register;
    for _ in 0..3 {
        x = (x ^ x >> 31).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    (x >> 32) as u32
}

proptest! {
    #[test]
    fn r_s8_nothing_hidden_leaks_from_any_host(
        seed: u64, amd: bool, vcpus in 1_u32..300, full: bool,
        max_basic in 0_u32..0x40, max_extended in 0_u32..0x40,
    ) {
        let vendor = if amd { Vendor::Amd } else { Vendor::Intel };
        let host = |leaf: u32, sub: u32| match leaf {
            0 => [max_basic, 1, 2, 3],
            0x8000_0000 => [0x8000_0000 + max_extended, 1, 2, 3],
            _ if full => [u32::MAX; 4],
            _ => [0, 1, 2, 3].map(|register| noise(seed, leaf, sub, register)),
        };
        let table = CpuidTable::new(&inputs(vcpus - 1, vcpus, vendor), host);
        assert_hidden(&table, vendor);
        assert_xsave(&table);
        for leaf in (0..0x40).chain(0x8000_0000..0x8000_0040) {
            for sub in [0, 1, 2, 9, u32::MAX] {
                let row = table.lookup(leaf, sub);
                let again = table.lookup(leaf, sub.max(9));
                prop_assert!(sub < 9 || row == again, "one answer beyond the last subleaf");
            }
        }
    }
}
