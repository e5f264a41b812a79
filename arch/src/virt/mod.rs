//! The backend seam: what policy code needs of a CPU's virtualisation extension, in words that
//! belong to neither vendor.
//!
//! The run loop is generic over [`Backend`]; boot finds the vendor, in one place. A backend
//! turns its own exit numbers into [`Exit`], so that no policy code ever sees one.

pub mod vmx;

mod regs;

pub use regs::{GuestRegs, Reg};

use core::fmt;

/// An event that enters a guest through its IDT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An external interrupt. In direct mode only ever the re-injection of a delivery that an
    /// exit cut short: its ISR bit is set already (REQUIREMENTS D8, E3).
    External {
        /// Vector.
        vector: u8,
    },
    /// A non-maskable interrupt.
    Nmi,
    /// A hardware exception.
    Exception {
        /// Vector, 0 to 31.
        vector: u8,
        /// Error code, where the vector has one.
        error_code: Option<u32>,
    },
    /// INT n, INT1, INT3 or INTO, re-injected after an exit cut its delivery short.
    Software {
        /// Vector.
        vector: u8,
        /// Which instruction it was.
        kind: SoftwareEvent,
        /// Length of that instruction in bytes.
        insn_len: u8,
    },
}

/// The instruction behind [`Event::Software`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftwareEvent {
    /// INT n.
    Int,
    /// INT1.
    Icebp,
    /// INT3 or INTO.
    Breakpoint,
}

impl Event {
    /// #DB.
    pub const DEBUG: Self = Self::Exception { vector: 1, error_code: None };
    /// #UD.
    pub const UNDEFINED_OPCODE: Self = Self::Exception { vector: 6, error_code: None };
    /// #GP(0).
    pub const GENERAL_PROTECTION: Self = Self::Exception { vector: 13, error_code: Some(0) };
}

/// Why a guest left its core: the common instructions by name, all else by [`Backend::event`].
///
/// An instruction that exits cannot cut the delivery of an event short (only events, and faults of
/// a delivery itself, can: SDM volume 3, section 28.2.4; APM volume 2, section 15.7.2). So these
/// need no look at the vectoring information, and the way from here to their handlers is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Exit {
    /// CPUID.
    Cpuid,
    /// RDMSR of a trapped MSR; the index is in RCX.
    MsrRead,
    /// WRMSR of a trapped MSR; index in RCX, value in EDX:EAX.
    MsrWrite,
    /// IN, OUT, INS or OUTS: [`Backend::io_access`] has the operands.
    Io,
    /// VMCALL or VMMCALL.
    Hypercall,
    /// Anything else: call [`Backend::event`] before the next entry.
    Event,
}

/// The exits that are not one of the common instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventExit {
    /// The second stage has no translation.
    SecondStageFault(SecondStageFault),
    /// An NMI arrived in the guest. NMIs are unblocked again when [`Backend::event`] returns.
    Nmi,
    /// The quantum is over, or an immediate exit was asked for.
    Quantum,
    /// HLT (only where the entry controls trap it).
    Halt,
    /// An external interrupt (never in direct mode).
    ExternalInterrupt,
    /// The guest can take an interrupt now.
    InterruptWindow,
    /// The guest can take an NMI now.
    NmiWindow,
    /// A MOV to a control register, CLTS or LMSW that touches a bit the hypervisor owns.
    ControlRegister(CrAccess),
    /// XSETBV; index in ECX, value in EDX:EAX.
    Xsetbv,
    /// An intercepted exception (#DB, #AC or #MC).
    Exception {
        /// Vector.
        vector: u8,
        /// Error code, where it has one.
        error_code: Option<u32>,
        /// #DB: the bits to merge into DR6.
        dr6: u64,
    },
    /// INVD or WBINVD.
    CacheFlush,
    /// An instruction that this guest's CPUID does not offer: it gets #UD.
    UndefinedInstruction,
    /// RDPMC, which faults without a performance-monitoring unit.
    Rdpmc,
    /// The guest shut down.
    TripleFault,
    /// The CPU refused to enter the guest; the report has the details.
    EntryFailure,
    /// Anything else; the report has the details.
    Other,
}

/// A port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoAccess {
    /// Port number.
    pub port: u16,
    /// 1, 2 or 4 bytes.
    pub size: u8,
    /// IN rather than OUT.
    pub is_in: bool,
    /// INS or OUTS, perhaps with REP.
    pub string: Option<StringIo>,
}

/// The memory side of INS or OUTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringIo {
    /// Linear address of the first element.
    pub linear: u64,
    /// With a REP prefix: the count is in RCX.
    pub rep: bool,
    /// Address size in bytes: 2, 4 or 8.
    pub address_size: u8,
}

/// An access that the second stage refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecondStageFault {
    /// Guest-physical address.
    pub gpa: u64,
    /// A write (else a read or a fetch).
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// The access was made while walking the guest's page tables.
    pub page_walk: bool,
}

/// A write to CR0 or CR4 that was trapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrAccess {
    /// Which register: 0 or 4 (other numbers are refused by policy).
    pub register: u8,
    /// The complete value that the guest wants to see there afterwards.
    pub value: u64,
}

/// What [`Backend::event`] brings back.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct ExitInfo {
    /// Why.
    pub exit: EventExit,
    /// The delivery of this event was cut short by the exit. Dropping it would wedge its
    /// priority class in the LAPIC (REQUIREMENTS D8): inject it again.
    pub cut_short: Option<Event>,
}

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

/// What the delivery mode asks of each entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryControls {
    /// External interrupts exit. False in direct mode (REQUIREMENTS A2).
    pub external_interrupts: bool,
    /// NMIs exit. Always true.
    pub nmis: bool,
    /// HLT exits.
    pub halt: bool,
}

/// Why this machine cannot carry guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// What is missing.
    pub missing: &'static str,
    /// What the user can do about it.
    pub hint: &'static str,
    /// Register bits that show it, 0 if none.
    pub bits: u64,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.missing, self.hint)?;
        if self.bits != 0 {
            write!(f, " (bits {:#x})", self.bits)?;
        }
        Ok(())
    }
}

/// One virtual CPU of one backend. All calls but [`Backend::new`] belong on the core that runs it,
/// with IF=0, between [`Backend::load`] and [`Backend::unload`].
pub trait Backend: Sized + 'static {
    /// The vendor's name for logs and reports.
    const NAME: &'static str;

    /// Turns the extension on for this core.
    ///
    /// # Errors
    /// What this core lacks, and what to do about it.
    fn enable_core() -> Result<(), Unusable>;

    /// Largest second-stage page: 1 for 2 MiB, 2 for 1 GiB.
    fn largest_page() -> usize;

    /// A new vCPU over a second-stage address space; `tag` keeps its TLB entries apart (VPID or
    /// ASID, not 0).
    ///
    /// # Errors
    /// What this core lacks or that memory ran out.
    fn new(config: &VcpuConfig<'_>) -> Result<Self, Unusable>;

    /// Makes this vCPU current on this core.
    fn load(&mut self);

    /// Drops cached translations of this vCPU's address space on this core.
    fn flush_stage2(&mut self);

    /// Takes it off the core again, so that it may be loaded elsewhere.
    fn unload(&mut self);

    /// Puts it into a start state; registers not named there are as after INIT.
    fn reset(&mut self, state: StartState);

    /// Enters the guest and returns at its next exit.
    fn run(&mut self) -> Exit;

    /// The details of [`Exit::Event`]. Must follow it before the next entry.
    fn event(&mut self) -> ExitInfo;

    /// The operands of [`Exit::Io`].
    fn io_access(&mut self) -> IoAccess;

    /// General registers; RSP and RIP have functions of their own.
    fn regs(&mut self) -> &mut GuestRegs;

    /// Steps over the instruction that exited, ending an STI or MOV-SS shadow.
    fn skip_instruction(&mut self);

    /// Steps over `len` bytes of instruction, where policy decoded it itself (second-stage
    /// faults report no length).
    fn advance(&mut self, len: u64);

    /// Delivers an event at the next entry.
    fn inject(&mut self, event: Event);

    /// Ends a HLT state.
    fn wake(&mut self);

    /// The event that is set up for the next entry, if any.
    fn injecting(&self) -> Option<Event>;

    /// True if the guest could take an NMI at the next entry.
    fn nmi_open(&self) -> bool;

    /// True if the guest could take an external interrupt at the next entry.
    fn interrupt_open(&self) -> bool;

    /// Asks for [`Exit::NmiWindow`] (or withdraws the wish).
    fn set_nmi_window(&mut self, on: bool);

    /// Asks for [`Exit::InterruptWindow`] (or withdraws the wish).
    fn set_interrupt_window(&mut self, on: bool);

    /// Makes the next entry exit at once with [`Exit::Quantum`]. Called by the host's NMI
    /// handler on the core in question, at any moment (REQUIREMENTS D2); does nothing while no
    /// vCPU is loaded there.
    fn request_immediate_exit();

    /// Withdraws [`Backend::request_immediate_exit`]. A look at the requests must follow before
    /// the next entry: an NMI that came before this call has left its request there, the wish of
    /// a later one stands.
    fn clear_immediate_exit(&mut self);

    /// What the entry controls say now, read back from the hardware's structure (audit A2).
    fn entry_controls(&self) -> EntryControls;

    /// Instruction pointer.
    fn rip(&self) -> u64;

    /// Linear address of the instruction: RIP plus the code-segment base.
    fn linear_rip(&self) -> u64;

    /// Privilege level.
    fn cpl(&self) -> u8;

    /// Code segment.
    fn code_segment(&self) -> CodeSegment;

    /// What reading the current instruction takes, with few reads of the hardware's structure: the
    /// control registers are the hardware's, whose paging bits are the guest's own.
    fn fetch_state(&self) -> FetchState;

    /// Control registers as the guest sees them.
    fn control_registers(&self) -> ControlRegisters;

    /// CR4 in hardware: for the bits that the guest owns.
    fn cr4(&self) -> u64;

    /// DR7.
    fn dr7(&self) -> u64;

    /// Sets DR7.
    fn set_dr7(&mut self, value: u64);

    /// RFLAGS.
    fn rflags(&self) -> u64;

    /// Sets RFLAGS (instruction emulation).
    fn set_rflags(&mut self, value: u64);

    /// Sets CR0 as the guest sees it; bits that the hypervisor owns are only shadowed.
    fn set_cr0(&mut self, value: u64);

    /// Sets CR4 as the guest sees it; bits that the hypervisor owns are only shadowed.
    fn set_cr4(&mut self, value: u64);

    /// Lets the x2APIC MSRs that policy passes (MSRs 0x800 to 0x8FF) through, or traps them all.
    fn set_x2apic_passthrough(&mut self, on: bool);

    /// Loads the four PAE page-directory-pointer entries, as a MOV to a control register does under
    /// PAE paging (SDM volume 3, section 4.4.1). A backend whose CPU reads them from memory does
    /// nothing.
    fn set_pdptes(&mut self, entries: [u64; 4]);

    /// Sets EFER; LMA is kept.
    fn set_efer(&mut self, value: u64);

    /// The last exit in the vendor's words: name, number, qualification spelt out.
    fn describe_exit(&self, out: &mut dyn fmt::Write) -> fmt::Result;

    /// Everything worth knowing after a refusal.
    fn report(&mut self) -> Report;
}

/// What a vCPU is made of.
pub struct VcpuConfig<'a> {
    /// Second-stage root.
    pub stage2: &'a crate::stage2::Stage2,
    /// MSRs that pass without an exit.
    pub msr_access: fn(u32) -> MsrAccess,
    /// TLB tag, not 0.
    pub tag: u16,
    /// CR4 bits that this guest may set.
    pub cr4_allowed: u64,
}

/// Which accesses to an MSR pass without an exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsrAccess {
    /// RDMSR passes.
    pub read: bool,
    /// WRMSR passes.
    pub write: bool,
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
