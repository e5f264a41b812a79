//! The feature bits that a guest may see, leaf by leaf; used by the table in [`super::policy`].
//!
//! A bit is listed when its instructions work in a guest with no help, or when the state behind it
//! is switched with the vCPU. Absent, and why:
//! - VMX, SVM, SMX, SKINIT, SGX, PT, RDT, TME, SEV, key locker, PCONFIG: the hypervisor's, or
//!   shared between VMs.
//! - MONITOR, MWAITX, WAITPKG: deep idle states stop timers. EIST, thermal, ACPI, HWP: power
//!   belongs to the board.
//! - PDCM, DS, DTES64, PERFMON, LBR, IBS, AMD's counters: the PMU is not switched. MCE, MCA: root
//!   mode handles them.
//! - RTM, HLE and their helpers: broken by errata; MPX: withdrawn. PKU, PKS, LA57, LAM, LASS, CET,
//!   UINTR, FRED, AMX, XSAVES: extra state or control bits that the switch does not carry yet.
//! - SPEC_CTRL, PRED_CMD, STIBP, SSBD, L1D_FLUSH, ARCH_CAPABILITIES: their MSRs are not switched
//!   yet; a guest falls back to retpolines. Bits that only report immunity or that VERW clears
//!   buffers stay, since they need no MSR.
//! - OSVW, NodeId, ExtApicSpace, FFXSR, TCE: AMD MSRs or EFER bits that a guest does not get.

/// A mask with these bits set. A bit named twice does not compile.
const fn bits(list: &[u32]) -> u32 {
    let mut mask = 0;
    let mut next = 0;
    while next < list.len() {
        assert!(mask & (1 << list[next]) == 0);
        mask |= 1 << list[next];
        next += 1;
    }
    mask
}

/// Leaf 1 ECX: bit 31, a hypervisor is present.
pub(super) const HYPERVISOR_PRESENT: u32 = 1 << 31;
/// Leaf 1 ECX.
pub(super) const X2APIC: u32 = 1 << 21;
/// Leaf 1 ECX.
pub(super) const XSAVE: u32 = 1 << 26;
/// Leaf 1 ECX: follows CR4, see [`super::Patch`].
pub(super) const OSXSAVE: u32 = 1 << 27;
/// Leaf 1 EDX: follows APIC_BASE, see [`super::Patch`].
pub(super) const APIC: u32 = 1 << 9;
/// Leaf 1 EDX: EBX 23:16 is valid.
pub(super) const HTT: u32 = 1 << 28;
/// Leaf 0xD, subleaf 1, EAX.
pub(super) const XSAVEC: u32 = 1 << 1;
/// Leaf 8000_0001 ECX (AMD): HTT means cores, not threads.
pub(super) const CMP_LEGACY: u32 = 1 << 1;

#[rustfmt::skip]
pub(super) const LEAF1_ECX: u32 = bits(&[
    0, /* SSE3 */ 1, /* PCLMULQDQ */ 9, /* SSSE3 */ 12, /* FMA */ 13, /* CMPXCHG16B */ 17, /* PCID */
    19, /* SSE4.1 */ 20, /* SSE4.2 */ 22, /* MOVBE */ 23, /* POPCNT */ 24, /* TSC-deadline */ 25, /* AES */
    26, /* XSAVE */ 28, /* AVX */ 29, /* F16C */ 30, /* RDRAND */
]);

#[rustfmt::skip]
pub(super) const LEAF1_EDX: u32 = bits(&[
    0, /* FPU */ 1, /* VME */ 2, /* DE */ 3, /* PSE */ 4, /* TSC */ 5, /* MSR */ 6, /* PAE */ 8, /* CMPXCHG8B */
    9, /* APIC */ 11, /* SYSENTER */ 12, /* MTRR */ 13, /* PGE */ 15, /* CMOV */ 16, /* PAT */ 17, /* PSE-36 */
    19, /* CLFLUSH */ 23, /* MMX */ 24, /* FXSR */ 25, /* SSE */ 26, /* SSE2 */ 27, /* self-snoop */
]);

#[rustfmt::skip]
pub(super) const LEAF7_EBX: u32 = bits(&[
    0, /* FSGSBASE */ 1, /* TSC_ADJUST */ 3, /* BMI1 */ 5, /* AVX2 */ 6, /* FDP_EXCPTN_ONLY */ 7, /* SMEP */
    8, /* BMI2 */ 9, /* ERMS */ 10, /* INVPCID */ 13, /* FPU CS/DS deprecated */ 16, /* AVX512F */ 17, /* AVX512DQ */
    18, /* RDSEED */ 19, /* ADX */ 20, /* SMAP */ 21, /* AVX512_IFMA */ 23, /* CLFLUSHOPT */ 24, /* CLWB */
    26, /* AVX512PF */ 27, /* AVX512ER */ 28, /* AVX512CD */ 29, /* SHA */ 30, /* AVX512BW */ 31, /* AVX512VL */
]);

#[rustfmt::skip]
pub(super) const LEAF7_ECX: u32 = bits(&[
    0, /* PREFETCHWT1 */ 1, /* AVX512_VBMI */ 2, /* UMIP */ 6, /* AVX512_VBMI2 */ 8, /* GFNI */ 9, /* VAES */
    10, /* VPCLMULQDQ */ 11, /* AVX512_VNNI */ 12, /* AVX512_BITALG */ 14, /* AVX512_VPOPCNTDQ */ 22, /* RDPID */
    25, /* CLDEMOTE */ 27, /* MOVDIRI */ 28, /* MOVDIR64B */
]);

#[rustfmt::skip]
pub(super) const LEAF7_EDX: u32 = bits(&[
    2, /* AVX512_4VNNIW */ 3, /* AVX512_4FMAPS */ 4, /* fast short REP MOV */ 8, /* AVX512_VP2INTERSECT */
    10, /* MD_CLEAR */ 14, /* SERIALIZE */ 23, /* AVX512_FP16 */
]);

#[rustfmt::skip]
pub(super) const LEAF7_1_EAX: u32 = bits(&[
    0, /* SHA512 */ 1, /* SM3 */ 2, /* SM4 */ 4, /* AVX-VNNI */ 5, /* AVX512_BF16 */ 7, /* CMPCCXADD */
    10, /* fast zero-length REP MOV */ 11, /* fast short REP STO */ 12, /* fast short REP CMP */ 23, /* AVX-IFMA */
]);

#[rustfmt::skip]
pub(super) const LEAF7_1_EDX: u32 = bits(&[
    4, /* AVX-VNNI-INT8 */ 5, /* AVX-NE-CONVERT */ 10, /* AVX-VNNI-INT16 */ 14, /* PREFETCHI */
]);

#[rustfmt::skip]
pub(super) const EXT1_ECX_INTEL: u32 = bits(&[0 /* LAHF */, 5 /* LZCNT */, 8 /* PREFETCHW */]);

#[rustfmt::skip]
pub(super) const EXT1_EDX_INTEL: u32 = bits(&[
    11, /* SYSCALL */ 20, /* NX */ 26, /* 1 GiB pages */ 27, /* RDTSCP */ 29, /* long mode */
]);

/// Without CMP_LEGACY, which follows the number of vCPUs.
#[rustfmt::skip]
pub(super) const EXT1_ECX_AMD: u32 = bits(&[
    0, /* LAHF */ 4, /* LOCK MOV CR0 */ 5, /* LZCNT */ 6, /* SSE4A */ 7, /* misaligned SSE */ 8, /* PREFETCHW */
    11, /* XOP */ 16, /* FMA4 */ 21, /* TBM */ 22, /* topology extensions: leaves 1D and 1E */
]);

#[rustfmt::skip]
pub(super) const EXT1_EDX_AMD: u32 = bits(&[
    0, /* FPU */ 1, /* VME */ 2, /* DE */ 3, /* PSE */ 4, /* TSC */ 5, /* MSR */ 6, /* PAE */ 8, /* CMPXCHG8B */
    9, /* APIC */ 11, /* SYSCALL */ 12, /* MTRR */ 13, /* PGE */ 15, /* CMOV */ 16, /* PAT */ 17, /* PSE-36 */
    20, /* NX */ 22, /* MMX extensions */ 23, /* MMX */ 24, /* FXSR */ 26, /* 1 GiB pages */ 27, /* RDTSCP */
    29, /* long mode */ 30, /* 3DNow extensions */ 31, /* 3DNow */
]);

#[rustfmt::skip]
pub(super) const EXT8_EBX: u32 = bits(&[
    0, /* CLZERO */ 2, /* FP error pointers are restored */ 20, /* no EFER.LMSLE */
    26, /* not open to SSB */ 29, /* not open to branch type confusion */
]);

#[rustfmt::skip]
pub(super) const EXT21_EAX: u32 = bits(&[
    0, /* no nested data breakpoints */ 2, /* LFENCE serialises */ 6, /* null selector clears base */
]);

/// XCR0: x87, SSE.
pub(super) const STATE_SSE: u64 = 0b11;
/// XCR0: the upper halves of YMM.
pub(super) const STATE_AVX: u64 = 1 << 2;
/// XCR0: opmask, ZMM_Hi256, Hi16_ZMM.
pub(super) const STATE_AVX512: u64 = 0b111 << 5;

/// Feature bits that are of no use without a component of XCR0.
pub(super) struct Need {
    pub leaf: u32,
    pub subleaf: u32,
    /// 0 to 3: EAX to EDX.
    pub register: usize,
    pub bits: u32,
    pub state: u64,
}

const fn need(leaf: u32, subleaf: u32, register: usize, list: &[u32], state: u64) -> Need {
    Need { leaf, subleaf, register, bits: bits(list), state }
}

/// What goes when the host cannot save the state behind it (a nested host may show such a mix).
pub(super) const NEEDS_STATE: &[Need] = &[
    need(0x1, 0, 2, &[26], STATE_SSE),
    need(0x1, 0, 2, &[12, 28, 29], STATE_AVX),
    need(0x7, 0, 1, &[5], STATE_AVX),
    need(0x7, 0, 1, &[16, 17, 21, 26, 27, 28, 30, 31], STATE_AVX512),
    need(0x7, 0, 2, &[9, 10], STATE_AVX),
    need(0x7, 0, 2, &[1, 6, 11, 12, 14], STATE_AVX512),
    need(0x7, 0, 3, &[2, 3, 8, 23], STATE_AVX512),
    need(0x7, 1, 0, &[0, 1, 2, 4, 23], STATE_AVX),
    need(0x7, 1, 0, &[5], STATE_AVX512),
    need(0x7, 1, 3, &[4, 5, 10], STATE_AVX),
    need(0x8000_0001, 0, 2, &[11, 16], STATE_AVX),
];
