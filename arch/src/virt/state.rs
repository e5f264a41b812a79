//! The processor state that policy sees: where a vCPU starts, where its instruction is, what a
//! report shows.

/// Segment register as the second stage and the decoder need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeSegment {
    /// Base address.
    pub base: u64,
    /// L bit: 64-bit code.
    pub long: bool,
    /// D bit: 32-bit code.
    pub default_32: bool,
}

/// The control registers that an instruction-fetch walk needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlRegisters {
    /// CR0 as the guest sees it.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4 as the guest sees it.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
}

/// Where the current instruction is, and how to get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchState {
    /// Its linear address.
    pub linear_rip: u64,
    /// Control registers; only the bits that paging depends on count.
    pub control: ControlRegisters,
    /// 64-bit code.
    pub long: bool,
    /// 32-bit rather than 16-bit code, outside 64-bit mode.
    pub default_32: bool,
}

/// The architectural state a vCPU starts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartState {
    /// After a start-up IPI or a reset: real mode, CS base = selector << 4, IP = 0, all else as
    /// after INIT (SDM volume 3, table 10-1).
    RealMode {
        /// Code segment selector.
        cs: u16,
        /// Instruction pointer.
        ip: u16,
    },
    /// 32-bit protected mode with flat segments and paging off (Multiboot 1 section 3.2, PVH).
    Protected32 {
        /// Entry point.
        eip: u32,
        /// EAX.
        eax: u32,
        /// EBX.
        ebx: u32,
    },
    /// 64-bit mode (Linux 64-bit boot protocol).
    Long64 {
        /// Entry point.
        rip: u64,
        /// Stack pointer.
        rsp: u64,
        /// RSI: the boot parameters.
        rsi: u64,
        /// Root of the page tables.
        cr3: u64,
        /// GDT base; CS is 0x10, the data segments are 0x18.
        gdt_base: u64,
        /// GDT limit in bytes.
        gdt_limit: u16,
    },
}

/// A decoded picture of a vCPU for failure reports.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// The vendor's entry-error number, 0 if none.
    pub entry_error: u64,
    /// What went wrong at entry, in words.
    pub entry_error_name: &'static str,
    /// RSP.
    pub rsp: u64,
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// Code segment selector.
    pub cs: u16,
    /// Control registers.
    pub control: ControlRegisters,
    /// Activity or interruptibility bits.
    pub interruptibility: u64,
}
