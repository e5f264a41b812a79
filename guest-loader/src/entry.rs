//! The processor state a loaded image starts in, in architectural terms of no vendor.
//!
//! [`crate::image::load`] returns a [`CpuEntry`]; [`CpuEntry::state`] spells it out as registers
//! and segments for the backend that fills a VMCS or a VMCB. Other vCPUs wait for SIPI.

use crate::memory::GuestPhys;

/// How the first vCPU enters a loaded image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuEntry {
    /// 64-bit mode on identity page tables (Linux boot.rst, "64-bit Boot Protocol").
    Long64 {
        /// First instruction.
        rip: u64,
        /// The zero page.
        rsi: u64,
        /// Top of a small stack.
        rsp: u64,
        /// Page tables.
        cr3: GuestPhys,
        /// GDT with flat 64-bit code at 0x10 and flat data at 0x18.
        gdt_base: GuestPhys,
        /// Limit of the GDT, in bytes less one.
        gdt_limit: u16,
    },
    /// Protected mode without paging, flat segments (Multiboot 0.6.96 section 3.2, PVH).
    Protected32 {
        /// First instruction.
        eip: u32,
        /// Multiboot: the loader's magic.
        eax: u32,
        /// The information structure.
        ebx: u32,
    },
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes, granularity already applied.
    pub limit: u32,
    /// Access rights in the layout of a VMCS (SDM vol. 3, "Guest Register State"): type 3:0, S 4, DPL 6:5, P 7,
    /// AVL 12, L 13, D/B 14, G 15, unusable 16. SVM packs the same bits closer together
    /// (APM vol. 2, 15.5.1): bits 7:0 stay, 15:12 go to 11:8.
    pub rights: u32,
}

impl Segment {
    /// Not loaded.
    pub const UNUSABLE: Self = Self { selector: 0, base: 0, limit: 0, rights: 1 << 16 };

    const fn flat(selector: u16, rights: u32) -> Self {
        Self { selector, base: 0, limit: u32::MAX, rights }
    }
}

/// Registers of a vCPU that is about to run its first instruction. General registers not named
/// here, CR2, LDTR and IDTR (base and limit) are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are the registers of the same names")]
pub struct CpuState {
    pub rip: u64,
    pub rsp: u64,
    pub rax: u64,
    pub rbx: u64,
    pub rsi: u64,
    pub rflags: u64,
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub cs: Segment,
    /// DS, ES, SS, FS and GS.
    pub data: Segment,
    pub tr: Segment,
    pub gdt_base: u64,
    pub gdt_limit: u16,
}

/// RFLAGS at entry: interrupts off, only the bit that is always one.
pub const RFLAGS: u64 = 1 << 1;
/// CR0 of a 32-bit entry: PE, ET (always one on today's processors).
pub const CR0_PROTECTED: u64 = 1 | 1 << 4;
/// CR0 of a 64-bit entry: PE, ET, PG.
pub const CR0_LONG: u64 = CR0_PROTECTED | 1 << 31;
/// CR4 of a 64-bit entry: PAE.
pub const CR4_LONG: u64 = 1 << 5;
/// EFER of a 64-bit entry: LME, LMA.
pub const EFER_LONG: u64 = 1 << 8 | 1 << 10;

/// Selector of the 64-bit code segment (Linux `__BOOT_CS`).
pub const BOOT_CS: u16 = 0x10;
/// Selector of the data segment (Linux `__BOOT_DS`).
pub const BOOT_DS: u16 = 0x18;

// Accessed type bits: both vendors check them on entry.
const CODE64: u32 = 0xA09B;
const CODE32: u32 = 0xC09B;
const DATA: u32 = 0xC093;
const BUSY_TSS: u32 = 0x008B;

impl CpuEntry {
    /// The registers to load.
    pub const fn state(&self) -> CpuState {
        // A TSS of the smallest legal size, busy: VM entry demands one, no guest uses it.
        let tr = Segment { selector: 0, base: 0, limit: 0x67, rights: BUSY_TSS };
        let data = Segment::flat(BOOT_DS, DATA);
        match *self {
            Self::Long64 { rip, rsi, rsp, cr3, gdt_base, gdt_limit } => CpuState {
                rip,
                rsp,
                rax: 0,
                rbx: 0,
                rsi,
                rflags: RFLAGS,
                cr0: CR0_LONG,
                cr3: cr3.0,
                cr4: CR4_LONG,
                efer: EFER_LONG,
                cs: Segment::flat(BOOT_CS, CODE64),
                data,
                tr,
                gdt_base: gdt_base.0,
                gdt_limit,
            },
            Self::Protected32 { eip, eax, ebx } => CpuState {
                rip: eip as u64,
                rsp: 0,
                rax: eax as u64,
                rbx: ebx as u64,
                rsi: 0,
                rflags: RFLAGS,
                cr0: CR0_PROTECTED,
                cr3: 0,
                cr4: 0,
                efer: 0,
                cs: Segment::flat(BOOT_CS, CODE32),
                data,
                tr,
                gdt_base: 0,
                gdt_limit: 0,
            },
        }
    }
}
