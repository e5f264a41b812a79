//! The CPUID numbers that are a VM's own: ids, topology, limits and clocks; used by the table in
//! [`super::policy`].
//!
//! Topology: every vCPU is one core, without sibling threads, of one package; its APIC id is its
//! number. SDM vol. 3A section "Detecting hardware multi-threading support and topology", APM vol.
//! 3 appendix E.5.

use super::features as f;
use super::{CpuidInputs, EXTENDED_BASE, Vendor};

/// What the functions of this file need to know.
pub(super) struct Context {
    pub vendor: Vendor,
    /// The guest's XCR0 bits, 0 without XSAVE.
    pub xcr0: u64,
    vcpu: u32,
    /// At least 1.
    vcpus: u32,
    max_phys_bits: u8,
    host_max_basic: u32,
    host_max_extended: u32,
    xsave_max: u32,
    clock: Clock,
}

impl Context {
    pub(super) fn new(
        inputs: &CpuidInputs,
        host_max_basic: u32,
        host_max_extended: u32,
        xcr0: u64,
        xsave_max: u32,
    ) -> Self {
        Self {
            vendor: inputs.vendor,
            xcr0,
            vcpu: inputs.vcpu,
            vcpus: inputs.vcpus.max(1),
            max_phys_bits: inputs.max_phys_bits,
            host_max_basic,
            host_max_extended,
            xsave_max,
            clock: Clock::new(inputs.tsc_hz, inputs.lapic_hz),
        }
    }

    /// Intel: up to 0x16, the clocks, on every host, and to 0x1F where the host has it (all between
    /// is hidden). AMD: up to 0xB, the APIC ids, or to 0xD.
    pub(super) fn guest_max_basic(&self) -> u32 {
        match self.vendor {
            Vendor::Intel if self.host_max_basic >= 0x1F => 0x1F,
            Vendor::Intel => 0x16,
            Vendor::Amd => self.host_max_basic.clamp(0xB, 0xD),
        }
    }

    /// At least up to invariant TSC and address sizes.
    pub(super) fn guest_max_extended(&self) -> u32 {
        let last = match self.vendor {
            Vendor::Intel => 8,
            Vendor::Amd => 0x21,
        };
        self.host_max_extended.clamp(EXTENDED_BASE + 8, EXTENDED_BASE + last)
    }

    /// Bits of an APIC id that number the cores of the package.
    fn id_bits(&self) -> u32 {
        self.vcpus.checked_next_power_of_two().map_or(31, u32::trailing_zeros)
    }

    /// Size of the id space minus 1, cut to a field of so many bits.
    fn ids_minus_1(&self, field_bits: u32) -> u32 {
        ((1 << self.id_bits()) - 1_u32).min((1 << field_bits) - 1)
    }
}

/// The XCR0 bits a guest may set: x87, SSE, AVX, AVX-512, where the host has them. 0 without XSAVE.
pub(super) fn allowed_xcr0(host: &impl Fn(u32, u32) -> [u32; 4]) -> u64 {
    let has = |value: u64, bits: u64| value & bits == bits;
    let features = u64::from(host(0xD, 0)[0]);
    if host(0x1, 0)[2] & f::XSAVE == 0 || !has(features, f::STATE_SSE) {
        return 0;
    }
    let mut allowed = f::STATE_SSE;
    if has(features, f::STATE_AVX) {
        allowed |= f::STATE_AVX;
        // All three parts or none, and never without AVX (SDM vol. 1, 13.3).
        if has(features, f::STATE_AVX512) {
            allowed |= f::STATE_AVX512;
        }
    }
    allowed
}

pub(super) fn max_basic(context: &Context, _: u32, _: u32) -> u32 {
    context.guest_max_basic()
}

pub(super) fn max_extended(context: &Context, _: u32, _: u32) -> u32 {
    context.guest_max_extended()
}

/// Leaf 7 EAX: subleaf 2 holds speculation controls only, and is hidden.
pub(super) fn max_leaf7(_: &Context, host: u32, _: u32) -> u32 {
    host.min(1)
}

/// Leaf 1 EBX: APIC id in 31:24, logical processors in 23:16, CLFLUSH line size and brand index as
/// they are.
pub(super) fn id_and_count(context: &Context, host: u32, _: u32) -> u32 {
    (context.vcpu & 0xFF) << 24 | context.vcpus.min(255) << 16 | host & 0xFFFF
}

pub(super) fn leaf1_ecx(_: &Context, host: u32, _: u32) -> u32 {
    host & f::LEAF1_ECX | f::X2APIC | f::HYPERVISOR_PRESENT
}

pub(super) fn leaf1_edx(context: &Context, host: u32, _: u32) -> u32 {
    host & f::LEAF1_EDX | f::APIC | if context.vcpus > 1 { f::HTT } else { 0 }
}

/// Leaf 8000_0001 ECX on AMD.
pub(super) fn ext1_ecx(context: &Context, host: u32, _: u32) -> u32 {
    host & f::EXT1_ECX_AMD | if context.vcpus > 1 { f::CMP_LEGACY } else { 0 }
}

/// Leaf 8000_001D EAX: cache type, level and flags are the host's; 25:14 counts the ids that share
/// it.
pub(super) fn cache_ids(context: &Context, host: u32, _: u32) -> u32 {
    if host & 0x1F == 0 {
        return 0;
    }
    // Levels 1 and 2 belong to a core, the rest to the package.
    let shared = if host >> 5 & 0b111 >= 3 { context.ids_minus_1(12) } else { 0 };
    host & 0x3FF | shared << 14
}

/// Leaf 4 EAX: the same with the cores of the package in 31:26.
pub(super) fn cache_cores(context: &Context, host: u32, subleaf: u32) -> u32 {
    let value = cache_ids(context, host, subleaf);
    if value == 0 { 0 } else { value | context.ids_minus_1(6) << 26 }
}

/// Leaves 0xB and 0x1F: subleaf 0 is the thread level, subleaf 1 the core level.
pub(super) fn level_shift(context: &Context, _: u32, subleaf: u32) -> u32 {
    if subleaf == 0 { 0 } else { context.id_bits() }
}

pub(super) fn level_count(context: &Context, _: u32, subleaf: u32) -> u32 {
    if subleaf == 0 { 1 } else { context.vcpus.min(0xFFFF) }
}

/// Type (1 thread, 2 core) in 15:8, the subleaf in 7:0.
pub(super) fn level_type(_: &Context, _: u32, subleaf: u32) -> u32 {
    (subleaf + 1) << 8 | subleaf
}

pub(super) fn apic_id(context: &Context, _: u32, _: u32) -> u32 {
    context.vcpu
}

/// Leaf 8000_001E EBX: core id in 7:0, threads of a core minus 1 (none) in 15:8. ECX, the node, is
/// 0 of 1.
pub(super) fn core_id(context: &Context, _: u32, _: u32) -> u32 {
    context.vcpu & 0xFF
}

/// Leaf 8000_0008 ECX: cores minus 1 in 7:0, bits of an APIC id that number them in 15:12.
pub(super) fn core_count(context: &Context, _: u32, _: u32) -> u32 {
    (context.vcpus - 1).min(255) | context.id_bits().min(15) << 12
}

/// Leaf 8000_0008 EAX: physical bits limited by what is mapped, linear bits by the hidden LA57.
pub(super) fn address_bits(context: &Context, host: u32, _: u32) -> u32 {
    let phys = if host & 0xFF == 0 { 36 } else { host & 0xFF };
    let linear = if host >> 8 & 0xFF == 0 { 48 } else { host >> 8 & 0xFF };
    phys.min(u32::from(context.max_phys_bits)) | linear.min(48) << 8
}

pub(super) fn xcr0(context: &Context, _: u32, _: u32) -> u32 {
    (context.xcr0 & 0xFFFF_FFFF) as u32
}

pub(super) fn xsave_max(context: &Context, _: u32, _: u32) -> u32 {
    context.xsave_max
}

pub(super) fn tsc_divisor(context: &Context, _: u32, _: u32) -> u32 {
    context.clock.divisor
}

pub(super) fn tsc_factor(context: &Context, _: u32, _: u32) -> u32 {
    context.clock.factor
}

pub(super) fn crystal_hz(context: &Context, _: u32, _: u32) -> u32 {
    context.clock.crystal_khz * 1000
}

pub(super) fn tsc_mhz(context: &Context, _: u32, _: u32) -> u32 {
    context.clock.tsc_mhz
}

/// Leaves 0x15 and 0x16: TSC = crystal * factor / divisor, where the crystal is the LAPIC timer's
/// input.
struct Clock {
    divisor: u32,
    factor: u32,
    crystal_khz: u32,
    tsc_mhz: u32,
}

impl Clock {
    /// Linux takes the crystal in whole kHz and multiplies it with the factor in 32 bits. So: a
    /// crystal of whole kHz, and of the fractions that do not overflow there the one nearest to the
    /// measured TSC (3 ppm or better for usual crystals; exact for a small ratio). All zero when
    /// the crystal is unknown or out of range: then a guest calibrates for itself.
    fn new(tsc_hz: u64, lapic_hz: u64) -> Self {
        const MOST: u64 = 4096;
        let tsc_mhz =
            u32::try_from((tsc_hz / 1000).saturating_add(500) / 1000).unwrap_or(0).min(0xFFFF);
        let mut clock = Self { divisor: 0, factor: 0, crystal_khz: 0, tsc_mhz };
        let khz = lapic_hz / 1000 + u64::from(lapic_hz % 1000 >= 500);
        let (Ok(crystal_khz), Some(crystal)) = (u32::try_from(khz), khz.checked_mul(1000)) else {
            return clock;
        };
        if crystal == 0 || crystal > u64::from(u32::MAX) || tsc_hz > 1 << 40 {
            return clock;
        }
        let mut best = u64::MAX;
        for divisor in 1..=MOST {
            let factor = (tsc_hz * divisor + crystal / 2) / crystal;
            if factor * khz > u64::from(u32::MAX) {
                break;
            }
            let error = (factor * crystal / divisor).abs_diff(tsc_hz);
            if error < best && factor > 0 {
                best = error;
                (clock.divisor, clock.factor) = (divisor as u32, factor as u32);
                clock.crystal_khz = crystal_khz;
            }
        }
        clock
    }
}
