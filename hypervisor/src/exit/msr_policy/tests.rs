//! The MSR policy against lists written from the design and the manuals, not from the table.

extern crate std;

use super::*;
use proptest::prelude::*;
use std::vec::Vec;

const VENDORS: [Vendor; 2] = [Vendor::Intel, Vendor::Amd];

/// Every register that a bitmap of either vendor can speak of.
fn bitmap_registers() -> impl Iterator<Item = u32> {
    (0..0x2000).chain(0xC000_0000..0xC000_2000).chain(0xC001_0000..0xC001_2000)
}

#[test]
fn r_s2_h3_x2apic_writes_that_reach_hardware() {
    let writes: Vec<u32> = (0x800..0x900).filter(|&msr| passes(msr).1).collect();
    // TPR, EOI, ESR, timer entry, initial count, divider, self-IPI. Not ICR, SVR or another LVT.
    assert_eq!(writes, [0x808, 0x80B, 0x828, 0x832, 0x838, 0x83E, 0x83F]);
    for vendor in VENDORS {
        for msr in [0x1B, 0x80F, 0x82F, 0x830, 0x833, 0x834, 0x835, 0x836, 0x837] {
            let row = lookup(vendor, msr).unwrap();
            assert!(matches!(row.write, Write::Emulated(_)), "{msr:#x}");
        }
        for msr in (0x840..0x900).chain([0x802, 0x803, 0x80A, 0x80D, 0x831, 0x839]) {
            let write = lookup(vendor, msr).map_or(Write::Gp, |row| row.write);
            assert_eq!(write, Write::Gp, "{msr:#x}");
        }
    }
}

#[test]
fn ids_are_never_read_from_hardware() {
    let reads: Vec<u32> = (0x800..0x900).filter(|&msr| passes(msr).0).collect();
    let mut expected = std::vec![0x808, 0x80A];
    expected.extend(0x810..=0x828);
    expected.extend([0x832, 0x838, 0x839, 0x83E]);
    assert_eq!(reads, expected);
    for vendor in VENDORS {
        let kind = |msr| lookup(vendor, msr).map(|row| row.read);
        assert_eq!(kind(0x802), Some(Read::Emulated(Kind::ApicId)));
        assert_eq!(kind(0x80D), Some(Read::Emulated(Kind::Ldr)));
        assert_eq!(kind(0x830), Some(Read::Emulated(Kind::Icr)));
        assert_eq!(kind(0x836), Some(Read::Emulated(Kind::Lvt(LvtRegister::Lint1))));
    }
}

#[test]
fn what_passes_is_for_the_switch_to_carry() {
    let outside: Vec<u32> = bitmap_registers()
        .filter(|msr| !(0x800..0x900).contains(msr))
        .filter(|&msr| passes(msr) != (false, false))
        .collect();
    // The vCPU switch must carry each of these (or, for the two clocks, only reads pass).
    let mut expected = std::vec![0x10, 0x3B, 0x174, 0x175, 0x176, 0x277, 0x6E0];
    expected.extend(0xC000_0081..=0xC000_0084);
    expected.extend(0xC000_0100..=0xC000_0103);
    assert_eq!(outside, expected);
    assert_eq!((passes(0x10), passes(0x3B)), ((true, false), (true, false)));
}

#[test]
fn table_is_sorted_and_in_reach_of_the_bitmaps() {
    for pair in TABLE.windows(2) {
        let [a, b] = pair else { continue };
        let twins = (a.first, a.last) == (b.first, b.last)
            && a.vendor.is_some()
            && b.vendor.is_some()
            && a.vendor != b.vendor;
        assert!(a.last < b.first || twins, "{a:?} {b:?}");
    }
    let reach: std::collections::BTreeSet<u32> = bitmap_registers().collect();
    for row in TABLE {
        assert!(row.first <= row.last);
        // VMX's bitmap ends before 0xC0010000: nothing up there may pass.
        let passing = row.read == Read::Pass || row.write == Write::Pass;
        // Beyond the bitmaps everything exits: KVM's own.
        let kvm = (0x4B56_4D00..=0x4B56_4DFF).contains(&row.first);
        assert!(kvm || reach.contains(&row.first) && reach.contains(&row.last));
        assert!(!passing || (row.last < 0xC000_2000 && row.vendor.is_none()), "{row:?}");
    }
}

#[test]
fn the_short_way_finds_the_same_rows() {
    let mut found = 0;
    for msr in (0..0x1000).chain(0xC000_0000..0xC000_2000) {
        if let Some(row) = common_row(msr) {
            found += 1;
            assert!(VENDORS.iter().all(|&vendor| lookup(vendor, msr) == Some(row)), "{msr:#x}");
        }
    }
    let rows = TABLE.iter().filter(|row| row.vendor.is_none() && row.last < 0x1000);
    assert_eq!(found, rows.map(|row| row.last - row.first + 1).sum::<u32>());
}

#[test]
fn bitmap_and_lookup_agree() {
    for msr in bitmap_registers() {
        for vendor in VENDORS {
            let (read, write) = passes(msr);
            let row = lookup(vendor, msr);
            assert!(row.is_none_or(|row| (row.first..=row.last).contains(&msr)), "{msr:#x}");
            assert_eq!(read, row.is_some_and(|row| row.read == Read::Pass), "{msr:#x}");
            assert_eq!(write, row.is_some_and(|row| row.write == Write::Pass), "{msr:#x}");
        }
    }
    for msr in [0x2000, 0x4000_0000, 0x4B56_4D02, 0xBFFF_FFFF, 0xC001_2000, u32::MAX] {
        assert!(
            VENDORS.iter().all(|&vendor| lookup(vendor, msr).is_none())
                && passes(msr) == (false, false)
        );
    }
}

/// What Linux 6.1 and 6.12 read or write at boot without a fix-up for #GP, CPUID being as we show
/// it.
#[test]
fn linux_boots_without_needless_faults() {
    let both = [0x1B, 0xFE, 0x179, 0x200, 0x20F, 0x250, 0x26F, 0x277, 0x2FF, 0xC000_0080];
    let intel = [0x17, 0x8B, 0x1A0, 0x3A, 0xCE];
    let amd = [0x8B, 0xC001_0010, 0xC001_0015, 0xC001_001F, 0xC001_1029];
    let readable = |vendor, msr| lookup(vendor, msr).is_some_and(|row| row.read != Read::Gp);
    for msr in both {
        assert!(VENDORS.iter().all(|&vendor| readable(vendor, msr)), "{msr:#x}");
    }
    assert!(intel.iter().all(|&msr| readable(Vendor::Intel, msr)));
    assert!(amd.iter().all(|&msr| readable(Vendor::Amd, msr)));
    // AMD's registers are not there on Intel, and MISC_ENABLE not on AMD.
    assert!(lookup(Vendor::Intel, 0xC001_0015).is_none());
    assert!(lookup(Vendor::Amd, 0x1A0).is_none());
    let revision = |vendor| lookup(vendor, 0x8B).map(|row| row.read);
    assert_ne!(revision(Vendor::Intel), revision(Vendor::Amd));
    for vendor in VENDORS {
        let write = |msr| lookup(vendor, msr).map(|row| row.write);
        assert_eq!(write(0x8B), Some(Write::Ignore));
        assert_eq!(write(0x10), Some(Write::IgnoreLogOnce(Once::Tsc)), "C5");
        assert_eq!(write(0x3B), Some(Write::IgnoreLogOnce(Once::TscAdjust)), "C5");
    }
}

const PHYS_BITS: u8 = 40;

/// The register's row says that it is held; read it through the table, as the exit does.
fn held(msr: u32) -> Held {
    match lookup(Vendor::Intel, msr).map(|row| (row.read, row.write)) {
        Some((Read::Emulated(Kind::Held(a)), Write::Emulated(Kind::Held(b)))) if a == b => a,
        other => panic!("{msr:#x} is not held: {other:?}"),
    }
}

fn mtrrs() -> Vec<u32> {
    (0x200..0x210).chain([0x250, 0x258, 0x259]).chain(0x268..0x270).chain([0x2FF]).collect()
}

/// SDM vol. 3A, figures "IA32_MTRR_DEF_TYPE", "IA32_MTRR_PHYSBASEn" and on; spelt out bit by bit.
fn mtrr_legal(msr: u32, value: u64) -> bool {
    let types = [0, 1, 4, 5, 6];
    let is_type = |byte: u64| types.contains(&(byte & 0xFF));
    let reserved = |from: u32, to: u32| (from..=to).any(|bit| value >> bit & 1 == 1);
    let high = reserved(u32::from(PHYS_BITS), 63);
    match msr {
        0x2FF => is_type(value) && !reserved(8, 9) && !reserved(12, 63),
        0x200..0x210 if msr & 1 == 0 => is_type(value) && !reserved(8, 11) && !high,
        0x200..0x210 => !reserved(0, 10) && !high,
        _ => (0..8).all(|byte| is_type(value >> (byte * 8))),
    }
}

#[test]
fn mtrrs_start_enabled_and_write_back() {
    let state = MsrState::new(PHYS_BITS);
    assert_eq!(state.read(held(0x2FF), 0x2FF), Ok(0xC06));
    assert_eq!(state.read(held(0x250), 0x250), Ok(0x0606_0606_0606_0606));
    for msr in 0x200..0x210 {
        assert_eq!(state.read(held(msr), msr), Ok(0));
    }
    // As many variable ranges as the capabilities say.
    assert_eq!(lookup(Vendor::Intel, 0xFE).map(|row| row.read), Some(Read::Value(0x508)));
    assert!(lookup(Vendor::Intel, 0x210).is_none());
}

#[test]
fn misc_enable_keeps_only_fast_strings() {
    let mut state = MsrState::new(PHYS_BITS);
    let start = state.read(Held::MiscEnable, 0x1A0).unwrap();
    assert_eq!(start, 0x1801);
    // A CPUID limit, no XD, MONITOR: dropped. A bit that no processor has: refused.
    assert_eq!(state.write(Held::MiscEnable, 0x1A0, start | 1 << 22 | 1 << 34 | 1 << 18), Ok(()));
    assert_eq!(state.read(Held::MiscEnable, 0x1A0), Ok(start));
    assert_eq!(state.write(Held::MiscEnable, 0x1A0, 1 << 63), Err(Gp));
    assert_eq!(state.write(Held::MiscEnable, 0x1A0, 0), Ok(()));
    assert_eq!(state.read(Held::MiscEnable, 0x1A0), Ok(0x1800));
}

#[test]
fn dropped_writes_are_logged_once_each() {
    let mut state = MsrState::new(PHYS_BITS);
    for what in [Once::Tsc, Once::TscAdjust, Once::DebugCtl] {
        assert!(state.log_now(what) && !state.log_now(what) && !state.log_now(what));
    }
}

proptest! {
    #[test]
    fn r_s8_mtrr_writes_are_kept_or_refused_whole(
        place in 0_usize..28, raw: u64, tame in 0_u8..4,
    ) {
        let msr = mtrrs()[place % mtrrs().len()];
        // Mostly legal by construction, so that both outcomes are common.
        let value = match tame {
            0 => raw,
            1 => raw & 0x0101_0101_0101_0101,
            2 => raw & 0xFF_FFFF_F800 & !0x700 & if msr & 1 == 0 { !0xFFF } else { !0 },
            _ => raw & 0xC06,
        };
        let mut state = MsrState::new(PHYS_BITS);
        let before = state.clone();
        let written = state.write(held(msr), msr, value);
        prop_assert_eq!(written.is_ok(), mtrr_legal(msr, value), "{:#x} {:#x}", msr, value);
        for other in mtrrs() {
            let expected = if other == msr && written.is_ok() {
                Ok(value)
            } else {
                before.read(held(other), other)
            };
            prop_assert_eq!(state.read(held(other), other), expected);
        }
    }

    #[test]
    fn r_s8_a_wrong_number_is_gp(msr: u32, value: u64) {
        let mut state = MsrState::new(PHYS_BITS);
        let fixed = [0x250, 0x258, 0x259].contains(&msr) || (0x268..0x270).contains(&msr);
        prop_assert_eq!(state.read(Held::MtrrFixed, msr).is_ok(), fixed);
        let variable = (0x200..0x210).contains(&msr);
        prop_assert_eq!(state.read(Held::MtrrVariable, msr).is_ok(), variable);
        prop_assert!(variable || state.write(Held::MtrrVariable, msr, value).is_err());
        prop_assert_eq!(state.write(Held::Zero, msr, value).is_ok(), value == 0);
    }
}
