//! CPUID as a guest sees it: one table per vCPU, filled once, read on every CPUID exit.
//!
//! The policy (what may be seen, and why) is the table in `cpuid/policy.rs`; this file turns it and
//! the host's answers into flat arrays. CPUID is nearly all that a busy Linux exits for, so the
//! lookup is an array access and one test; only the few rows marked [`Patch`] need the guest's
//! registers.
//!
//! Callers: the VM start builds a [`CpuidTable`] per vCPU; the CPUID exit calls
//! [`CpuidTable::lookup`] and, for a marked row, [`CpuidTable::patched`]. No locks. SDM vol. 2A
//! "CPUID", APM vol. 3 appendix E.

mod features;
mod policy;
#[cfg(test)]
mod tests;
mod virtualised;

use policy::{Context, GROUPS, Group};

/// Whose rules for CPUID apply: the maker of the host's processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel and those that follow the SDM.
    Intel,
    /// AMD and those that follow the APM.
    Amd,
}

/// What a vCPU's table depends on, besides the host's own CPUID.
#[derive(Clone, Copy, Debug)]
pub struct CpuidInputs {
    /// Id of the vCPU in its VM, which is also its APIC id.
    pub vcpu: u32,
    /// Number of vCPUs of the VM.
    pub vcpus: u32,
    /// Frequency of the TSC in Hz.
    pub tsc_hz: u64,
    /// Input frequency of the LAPIC timer in Hz.
    pub lapic_hz: u64,
    /// Maker of the host's processor.
    pub vendor: Vendor,
    /// Physical address bits that the second-stage tables can map.
    pub max_phys_bits: u8,
}

/// What of a row depends on the guest's registers at the time of the exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch(u8);

impl Patch {
    /// Nothing: the row is the answer.
    pub const NONE: Self = Self(0);
    /// ECX bit 27 follows CR4.OSXSAVE.
    pub const OSXSAVE: Self = Self(1);
    /// EDX bit 9 follows the enable bit of the guest's APIC_BASE.
    pub const APIC: Self = Self(2);
    /// EBX is the size of the XSAVE area for XCR0, standard form.
    pub const XSAVE_SIZE: Self = Self(4);
    /// EBX is the size of the XSAVE area for XCR0, compacted form.
    pub const XSAVE_COMPACT: Self = Self(8);
    /// ECX bits 7:0 repeat the subleaf asked for.
    pub const SUBLEAF: Self = Self(16);
    /// The ones that no guest asks for often.
    const RARE: Self = Self(4 | 8 | 16);

    const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// The guest's registers that [`Patch`] speaks of.
#[derive(Clone, Copy, Debug)]
pub struct GuestNow {
    /// CR4 as the guest reads it.
    pub cr4: u64,
    /// The guest's XCR0.
    pub xcr0: u64,
    /// Enable bit (11) of the guest's APIC_BASE.
    pub apic_enabled: bool,
    /// The subleaf asked for.
    pub subleaf: u32,
}

/// One answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(32))]
pub struct CpuidRow {
    /// EAX, EBX, ECX, EDX.
    pub regs: [u32; 4],
    /// What must still be patched; [`Patch::NONE`] for most rows.
    pub patch: Patch,
    /// Place of this leaf's first row in the subleaf array, when `last` is not 0.
    first: u8,
    /// Offset from `first` of the row that answers every higher subleaf; 0: no subleaves.
    last: u8,
}

const ZERO: CpuidRow = CpuidRow { regs: [0; 4], patch: Patch::NONE, first: 0, last: 0 };

impl CpuidRow {
    /// True when the row is the whole answer. One comparison: the three bytes lie side by side.
    #[inline(always)]
    const fn is_plain(&self) -> bool {
        u32::from_le_bytes([self.patch.0, self.first, self.last, 0]) == 0
    }

    /// True when [`CpuidTable::patched`] has something to do.
    #[inline]
    pub const fn needs_patch(&self) -> bool {
        self.patch.0 != 0
    }
}

const BASIC: usize = 0x20;
const EXTENDED: usize = 0x22;
const HYPERVISOR: usize = 2;
const SUBLEAVES: usize = policy::group_rows();

const EXTENDED_BASE: u32 = 0x8000_0000;
const HYPERVISOR_BASE: u32 = 0x4000_0000;
const HYPERVISOR_END: u32 = 0x5000_0000;

const CR4_OSXSAVE: u64 = 1 << 18;

/// The CPUID of one vCPU, about 2.5 KiB.
#[derive(Clone)]
pub struct CpuidTable {
    basic: [CpuidRow; BASIC],
    extended: [CpuidRow; EXTENDED],
    hypervisor: [CpuidRow; HYPERVISOR],
    subleaves: [CpuidRow; SUBLEAVES],
    out_of_range: CpuidRow,
    xcr0: u64,
    sizes: XsaveSizes,
}

impl CpuidTable {
    /// Builds the table of one vCPU. `host(leaf, subleaf)` executes CPUID on the core the vCPU will
    /// run on.
    pub fn new(inputs: &CpuidInputs, host: impl Fn(u32, u32) -> [u32; 4]) -> Self {
        // A leaf beyond the host's range answers with some other leaf's data: read it as zeros
        // instead.
        let max_basic = host(0, 0)[0];
        let max_extended = host(EXTENDED_BASE, 0)[0];
        let host = |leaf: u32, subleaf: u32| {
            let max = if leaf >= EXTENDED_BASE { max_extended } else { max_basic };
            if leaf <= max { host(leaf, subleaf) } else { [0; 4] }
        };
        let xcr0 = virtualised::allowed_xcr0(&host);
        let sizes = XsaveSizes::new(xcr0, &host);
        let context = Context::new(inputs, max_basic, max_extended, xcr0, sizes.largest(xcr0));
        let row = |leaf, subleaf| policy::row(&context, leaf, subleaf, host(leaf, subleaf));

        let mut subleaves = [ZERO; SUBLEAVES];
        for (place, slot) in subleaves.iter_mut().enumerate() {
            if let Some((group, subleaf)) = Group::at(place) {
                // The last row of a group answers everything beyond it; only topology leaves say
                // something there.
                *slot = row(group.leaf, subleaf);
            }
        }
        let flat = |leaf| {
            let mut flat = row(leaf, 0);
            if let Some(group) = GROUPS.iter().find(|group| group.leaf == leaf) {
                (flat.first, flat.last) = (group.first, group.last);
            }
            flat
        };
        // Out of range: Intel answers with the highest basic leaf, AMD with zeros.
        let out_of_range = match inputs.vendor {
            Vendor::Intel => flat(context.guest_max_basic()),
            Vendor::Amd => ZERO,
        };
        let fill = |base: u32, max: u32, place: usize| match u32::try_from(place) {
            Ok(offset) if base + offset <= max => flat(base + offset),
            _ => out_of_range,
        };
        Self {
            basic: core::array::from_fn(|place| fill(0, context.guest_max_basic(), place)),
            extended: core::array::from_fn(|place| {
                fill(EXTENDED_BASE, context.guest_max_extended(), place)
            }),
            hypervisor: [flat(HYPERVISOR_BASE), flat(HYPERVISOR_BASE + 1)],
            subleaves,
            out_of_range,
            xcr0,
            sizes,
        }
    }

    /// The answer for a basic leaf without subleaves that depends on nothing: the shortest way.
    #[inline(always)]
    pub fn plain(&self, leaf: u32) -> Option<[u32; 4]> {
        let row = self.basic.get(leaf as usize)?;
        row.is_plain().then_some(row.regs)
    }

    /// The answer to CPUID with EAX = `leaf` and ECX = `subleaf`.
    #[inline]
    pub fn lookup(&self, leaf: u32, subleaf: u32) -> &CpuidRow {
        let row = match self.basic.get(leaf as usize) {
            Some(row) => row,
            None => match self.extended.get(leaf.wrapping_sub(EXTENDED_BASE) as usize) {
                Some(row) => row,
                None => self.elsewhere(leaf),
            },
        };
        if row.last == 0 {
            return row;
        }
        // The group's last row stands for every higher subleaf.
        let place = usize::from(row.first) + subleaf.min(u32::from(row.last)) as usize;
        self.subleaves.get(place).unwrap_or(&ZERO)
    }

    fn elsewhere(&self, leaf: u32) -> &CpuidRow {
        if (HYPERVISOR_BASE..HYPERVISOR_END).contains(&leaf) {
            // Guests look for other hypervisors' signatures at higher bases: none there.
            return self.hypervisor.get((leaf - HYPERVISOR_BASE) as usize).unwrap_or(&ZERO);
        }
        &self.out_of_range
    }

    /// The registers of a row that needs the guest's state; other rows come back as they are.
    #[inline(always)]
    pub fn patched(&self, row: &CpuidRow, now: &GuestNow) -> [u32; 4] {
        let [eax, ebx, mut ecx, mut edx] = row.regs;
        if row.patch.has(Patch::OSXSAVE) && now.cr4 & CR4_OSXSAVE != 0 {
            ecx |= features::OSXSAVE;
        }
        if row.patch.has(Patch::APIC) && !now.apic_enabled {
            edx &= !features::APIC;
        }
        if row.patch.has(Patch::RARE) {
            return self.rarely_patched(row, now, [eax, ebx, ecx, edx]);
        }
        [eax, ebx, ecx, edx]
    }

    #[inline(never)]
    fn rarely_patched(&self, row: &CpuidRow, now: &GuestNow, regs: [u32; 4]) -> [u32; 4] {
        let [eax, mut ebx, mut ecx, edx] = regs;
        if row.patch.has(Patch::XSAVE_SIZE) {
            ebx = self.sizes.standard(now.xcr0);
        }
        if row.patch.has(Patch::XSAVE_COMPACT) {
            ebx = self.sizes.compacted(now.xcr0);
        }
        if row.patch.has(Patch::SUBLEAF) {
            ecx = (ecx & !0xFF) | (now.subleaf & 0xFF);
        }
        [eax, ebx, ecx, edx]
    }

    /// The XCR0 bits this guest may set: what its leaf 0xD shows. For the XSETBV exit.
    pub const fn allowed_xcr0(&self) -> u64 {
        self.xcr0
    }
}

/// Sizes in bytes of the XSAVE area for the four values that XCR0 can hold here: x87, SSE, AVX,
/// AVX-512.
#[derive(Clone, Copy, Debug)]
struct XsaveSizes {
    standard: [u32; 4],
    compacted: [u32; 4],
}

/// Legacy region and header (SDM vol. 1, 13.4).
const XSAVE_BASE: u32 = 512 + 64;

impl XsaveSizes {
    fn new(allowed: u64, host: &impl Fn(u32, u32) -> [u32; 4]) -> Self {
        let mut sizes = Self { standard: [XSAVE_BASE; 4], compacted: [XSAVE_BASE; 4] };
        // Component 2 (AVX) counts from class 2 on, components 5 to 7 (AVX-512) in class 3.
        for (component, class) in [(2, 2), (5, 3), (6, 3), (7, 3)] {
            if allowed & (1 << component) == 0 {
                continue;
            }
            let [size, offset, flags, _] = host(0xD, component);
            let end = offset.saturating_add(size);
            for standard in sizes.standard.iter_mut().skip(class) {
                *standard = end.max(*standard);
            }
            for compacted in sizes.compacted.iter_mut().skip(class) {
                let start = if flags & 2 == 0 {
                    *compacted
                } else {
                    compacted.checked_next_multiple_of(64).unwrap_or(*compacted)
                };
                *compacted = start.saturating_add(size);
            }
        }
        sizes
    }

    /// AVX-512 needs AVX and AVX needs SSE (XSETBV sees to it), so that counting bits 1, 2 and 5
    /// finds the class.
    const fn class(xcr0: u64) -> usize {
        ((xcr0 >> 1 & 1) + (xcr0 >> 2 & 1) + (xcr0 >> 5 & 1)) as usize
    }

    fn standard(&self, xcr0: u64) -> u32 {
        self.standard.get(Self::class(xcr0)).copied().unwrap_or(XSAVE_BASE)
    }

    fn compacted(&self, xcr0: u64) -> u32 {
        self.compacted.get(Self::class(xcr0)).copied().unwrap_or(XSAVE_BASE)
    }

    /// Size for everything the guest may enable; 0 without XSAVE.
    fn largest(&self, allowed: u64) -> u32 {
        if allowed == 0 { 0 } else { self.standard(allowed) }
    }
}
