//! The CPUID policy: the one table of what a guest may see. What is not in it reads as zero.
//!
//! Called by [`super::CpuidTable::new`] only, once per row. The bit lists of the rows are in
//! [`super::features`], the numbers that are computed in [`super::virtualised`].

use super::features as f;
use super::virtualised as v;
use super::{CpuidRow, Patch, Vendor};
pub(super) use v::Context;

/// What a guest sees of one register.
#[derive(Clone, Copy)]
pub(super) enum Show {
    /// Nothing.
    Zero,
    /// What the host shows: numbers and text that describe the silicon.
    Host,
    /// These bits of the host's.
    Bits(u32),
    /// This value on every host.
    Is(u32),
    /// Computed from the VM; the host's value and the subleaf are arguments.
    With(fn(&Context, u32, u32) -> u32),
}
use Show::{Bits, Host, Is, With, Zero};

/// One row of the policy.
pub(super) struct Rule {
    pub leaf: u32,
    /// First and last subleaf it speaks for.
    pub subleaves: (u32, u32),
    /// The vendor it holds for; none: both.
    pub vendor: Option<Vendor>,
    /// EAX, EBX, ECX, EDX.
    pub show: [Show; 4],
    pub patch: Patch,
}

const fn leaf(leaf: u32, show: [Show; 4]) -> Rule {
    Rule { leaf, subleaves: (0, 0), vendor: None, show, patch: Patch::NONE }
}

impl Rule {
    const fn sub(mut self, first: u32, last: u32) -> Self {
        self.subleaves = (first, last);
        self
    }

    const fn only(mut self, vendor: Vendor) -> Self {
        self.vendor = Some(vendor);
        self
    }

    const fn patch(mut self, patch: Patch) -> Self {
        self.patch = patch;
        self
    }
}

/// EBX, ECX and EDX of leaf 0x4000_0000: the signature under which Linux takes x2APIC without
/// interrupt remapping.
const SIGNATURE: [u32; 3] =
    [u32::from_le_bytes(*b"KVMK"), u32::from_le_bytes(*b"VMKV"), u32::from_le_bytes(*b"M\0\0\0")];

/// KVM_FEATURE_PV_UNHALT.
const KVM_FEATURES: u32 = 1 << 7;
/// KVM_FEATURE_CLOCKSOURCE2 and its STABLE bit, for AMD guests: they do not read leaf 0x15.
const KVM_CLOCK: u32 = 1 << 3 | 1 << 24;
/// KVM_HINTS_REALTIME: keeps Linux on its native spinlocks.
const KVM_HINTS: u32 = 1;

const INTEL: Vendor = Vendor::Intel;
const AMD: Vendor = Vendor::Amd;

/// The allow-list. Missing on purpose: 3 (serial number), 5 (MWAIT), 9 (DCA), 0xA (PMU), 0xF and
/// 0x10 (RDT), 0x12 (SGX), 0x14 (PT), 0x19 (key locker), 0x1A (hybrid), 0x1C (LBR), 0x1D and 0x1E
/// (AMX), 8000_000A (SVM), 8000_001B (IBS), 8000_001C (LWP), 8000_001F (SEV), 8000_0022 (PMU).
#[rustfmt::skip]
pub(super) const TABLE: &[Rule] = &[
    //   leaf         EAX                   EBX                   ECX                   EDX
    leaf(0x0,        [With(v::max_basic),   Host,                 Host,                 Host]),
    leaf(0x1,        [Host,                 With(v::id_and_count),With(v::leaf1_ecx),   With(v::leaf1_edx)])
        .patch(Patch::OSXSAVE.and(Patch::APIC)),
    leaf(0x2,        [Host,                 Host,                 Host,                 Host]).only(INTEL),
    leaf(0x4,        [With(v::cache_cores), Host,                 Host,                 Bits(0b111)])
        .sub(0, 7).only(INTEL),
    // ARAT on every host: MWAIT is hidden, and the timer runs on in HLT.
    leaf(0x6,        [Is(1 << 2),           Zero,                 Zero,                 Zero]),
    leaf(0x7,        [With(v::max_leaf7),   Bits(f::LEAF7_EBX),   Bits(f::LEAF7_ECX),   Bits(f::LEAF7_EDX)]),
    leaf(0x7,        [Bits(f::LEAF7_1_EAX), Zero,                 Zero,                 Bits(f::LEAF7_1_EDX)]).sub(1, 1),
    leaf(0xB,        [With(v::level_shift), With(v::level_count), With(v::level_type),  With(v::apic_id)]).sub(0, 1),
    leaf(0xB,        [Zero,                 Zero,                 Zero,                 With(v::apic_id)])
        .sub(2, 2).patch(Patch::SUBLEAF),
    leaf(0xD,        [With(v::xcr0),        Zero,                 With(v::xsave_max),   Zero])
        .patch(Patch::XSAVE_SIZE),
    // XSAVEOPT, XSAVEC, XGETBV with ECX = 1; no XSAVES, hence no XSS.
    leaf(0xD,        [Bits(0b111),          Zero,                 Zero,                 Zero])
        .sub(1, 1).patch(Patch::XSAVE_COMPACT),
    // Size, offset and alignment of each component of XCR0; which ones, is decided in `row`.
    leaf(0xD,        [Host,                 Host,                 Bits(1 << 1),         Zero]).sub(2, 7),
    leaf(0x15,       [With(v::tsc_divisor), With(v::tsc_factor),  With(v::crystal_hz),  Zero]).only(INTEL),
    // The specified frequencies, which are also all that a guest could learn: the TSC's.
    leaf(0x16,       [With(v::tsc_mhz),     With(v::tsc_mhz),     Zero,                 Zero]).only(INTEL),
    leaf(0x1F,       [With(v::level_shift), With(v::level_count), With(v::level_type),  With(v::apic_id)]).sub(0, 1),
    leaf(0x1F,       [Zero,                 Zero,                 Zero,                 With(v::apic_id)])
        .sub(2, 2).patch(Patch::SUBLEAF),

    leaf(0x4000_0000,[Is(0x4000_0001),      Is(SIGNATURE[0]),     Is(SIGNATURE[1]),     Is(SIGNATURE[2])]),
    leaf(0x4000_0001,[Is(KVM_FEATURES),     Zero,                 Zero,                 Is(KVM_HINTS)]).only(INTEL),
    leaf(0x4000_0001,[Is(KVM_FEATURES | KVM_CLOCK), Zero,         Zero,                 Is(KVM_HINTS)]).only(AMD),

    leaf(0x8000_0000,[With(v::max_extended),Zero,                 Zero,                 Zero]).only(INTEL),
    leaf(0x8000_0000,[With(v::max_extended),Host,                 Host,                 Host]).only(AMD),
    leaf(0x8000_0001,[Zero,                 Zero,                 Bits(f::EXT1_ECX_INTEL),Bits(f::EXT1_EDX_INTEL)]).only(INTEL),
    leaf(0x8000_0001,[Host,                 Bits(0xF000_FFFF),    With(v::ext1_ecx),    Bits(f::EXT1_EDX_AMD)])
        .only(AMD).patch(Patch::APIC),
    leaf(0x8000_0002,[Host,                 Host,                 Host,                 Host]),
    leaf(0x8000_0003,[Host,                 Host,                 Host,                 Host]),
    leaf(0x8000_0004,[Host,                 Host,                 Host,                 Host]),
    leaf(0x8000_0005,[Host,                 Host,                 Host,                 Host]).only(AMD),
    leaf(0x8000_0006,[Zero,                 Zero,                 Host,                 Zero]).only(INTEL),
    leaf(0x8000_0006,[Host,                 Host,                 Host,                 Host]).only(AMD),
    // Invariant TSC on every host: boot refuses a machine whose cores' TSCs are not in step.
    leaf(0x8000_0007,[Zero,                 Zero,                 Zero,                 Is(1 << 8)]),
    leaf(0x8000_0008,[With(v::address_bits),Zero,                 Zero,                 Zero]).only(INTEL),
    leaf(0x8000_0008,[With(v::address_bits),Bits(f::EXT8_EBX),    With(v::core_count),  Zero]).only(AMD),
    leaf(0x8000_0019,[Host,                 Host,                 Zero,                 Zero]).only(AMD),
    // FP128, MOVU, FP256: how wide the units are.
    leaf(0x8000_001A,[Bits(0b111),          Zero,                 Zero,                 Zero]).only(AMD),
    leaf(0x8000_001D,[With(v::cache_ids),   Host,                 Host,                 Bits(0b11)])
        .sub(0, 5).only(AMD),
    leaf(0x8000_001E,[With(v::apic_id),     With(v::core_id),     Zero,                 Zero]).only(AMD),
    leaf(0x8000_0021,[Bits(f::EXT21_EAX),   Zero,                 Zero,                 Zero]).only(AMD),
];

/// The rows of one leaf with subleaves inside the subleaf array.
pub(super) struct Group {
    pub leaf: u32,
    /// Place of subleaf 0.
    pub first: u8,
    /// Offset of the row that answers every higher subleaf.
    pub last: u8,
}

const fn group(leaf: u32, first: u8, last: u8) -> Group {
    Group { leaf, first, last }
}

/// The leaves with subleaves, packed one after the other.
pub(super) const GROUPS: [Group; 6] = [
    group(0x4, 0, 8),
    group(0x7, 9, 2),
    group(0xB, 12, 2),
    group(0xD, 15, 8),
    group(0x1F, 24, 2),
    group(0x8000_001D, 27, 6),
];

/// Rows in all groups. A gap or an overlap between two groups does not compile.
pub(super) const fn group_rows() -> usize {
    let mut rows = 0;
    let mut next = 0;
    while next < GROUPS.len() {
        assert!(GROUPS[next].first as usize == rows);
        rows += GROUPS[next].last as usize + 1;
        next += 1;
    }
    rows
}

impl Group {
    /// The group and subleaf of a place in the subleaf array.
    pub(super) fn at(place: usize) -> Option<(&'static Self, u32)> {
        GROUPS.iter().find_map(|group| {
            let subleaf = place.checked_sub(usize::from(group.first))?;
            let subleaf = u32::try_from(subleaf).ok()?;
            (subleaf <= u32::from(group.last)).then_some((group, subleaf))
        })
    }
}

/// What the guest gets for a leaf and subleaf where the host says `host`.
pub(super) fn row(context: &Context, leaf: u32, subleaf: u32, host: [u32; 4]) -> CpuidRow {
    let rule = TABLE.iter().find(|rule| {
        rule.leaf == leaf
            && (rule.subleaves.0..=rule.subleaves.1).contains(&subleaf)
            && rule.vendor.is_none_or(|vendor| vendor == context.vendor)
    });
    let mut row = super::ZERO;
    let Some(rule) = rule else { return row };
    // A leaf 0xD row of a component that is not in the guest's XCR0 stays empty, and so does all of
    // 0xD without XSAVE.
    if leaf == 0xD && (context.xcr0 == 0 || subleaf > 1 && context.xcr0 & (1 << subleaf) == 0) {
        return row;
    }
    for ((value, show), host) in row.regs.iter_mut().zip(rule.show).zip(host) {
        *value = match show {
            Zero => 0,
            Host => host,
            Bits(mask) => host & mask,
            Is(fixed) => fixed,
            With(compute) => compute(context, host, subleaf),
        };
    }
    for need in f::NEEDS_STATE {
        if (need.leaf, need.subleaf) == (leaf, subleaf)
            && context.xcr0 & need.state != need.state
            && let Some(value) = row.regs.get_mut(need.register)
        {
            *value &= !need.bits;
        }
    }
    row.patch = rule.patch;
    // No XSAVE: nothing follows CR4.OSXSAVE. No XSAVEC: no compacted form, whose size reads as zero
    // then.
    if leaf == 0x1 && context.xcr0 == 0 {
        row.patch = Patch::APIC;
    }
    if (leaf, subleaf) == (0xD, 1) && row.regs[0] & f::XSAVEC == 0 {
        row.patch = Patch::NONE;
    }
    row
}
