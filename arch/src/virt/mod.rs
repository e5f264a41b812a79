//! The backend seam: what policy code needs of a CPU's virtualisation extension, in words that
//! belong to neither vendor.
//!
//! The run loop is generic over [`Backend`]; boot finds the vendor, in one place. A backend
//! turns its own exit numbers into [`Exit`], so that no policy code ever sees one.

pub mod svm;
pub mod vmx;

mod exit;
mod regs;
mod state;

pub use exit::{
    CrAccess, Event, EventExit, Exit, ExitInfo, IoAccess, SecondStageFault, SoftwareEvent, StringIo,
};
pub use regs::{GuestRegs, Reg};
pub use state::{CodeSegment, ControlRegisters, FetchState, Report, StartState};

use core::fmt;

/// What the delivery mode asks of each entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryControls {
    /// External interrupts exit. False in direct mode (requirement A2).
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

    /// The format of its second-stage tables.
    const STAGE2: crate::stage2::Format;

    /// NMIs wait in root mode while a vCPU is loaded, and exit right after the entry. Else the host's
    /// NMI handler takes them at once.
    const HOLDS_NMIS: bool;

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

    /// Asks for [`EventExit::NmiWindow`] (or withdraws the wish). False: the CPU cannot tell, and somebody
    /// must make this core exit a little later, to look again.
    #[must_use]
    fn set_nmi_window(&mut self, on: bool) -> bool;

    /// Asks for [`EventExit::InterruptWindow`] (or withdraws the wish).
    fn set_interrupt_window(&mut self, on: bool);

    /// Makes the next entry exit at once with [`EventExit::Quantum`]. Called by the host's NMI
    /// handler on the core in question, at any moment (requirement D2); does nothing while no
    /// vCPU is loaded there.
    fn request_immediate_exit();

    /// Withdraws [`Backend::request_immediate_exit`]. A look at the requests must follow before
    /// the next entry: an NMI that came before this call has left its request there, the wish of
    /// a later one stands.
    fn clear_immediate_exit(&mut self);

    /// What the entry controls say now, read back from the hardware's structure (audit A2).
    fn entry_controls(&self) -> EntryControls;

    /// Sets RSP (an MMIO instruction loaded it).
    fn set_rsp(&mut self, value: u64);

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

    /// Sets CR2, as a page fault that policy raises does.
    fn set_cr2(&mut self, value: u64);

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
    /// Its instructions, for a CPU that does not tell their length.
    pub code: &'static dyn ReadCode,
}

/// A guest's code.
pub trait ReadCode: Sync {
    /// Reads the instruction bytes at `state`'s address; returns how many could be read.
    fn read_code(&self, state: &FetchState, bytes: &mut [u8; 15]) -> usize;
}

/// The code of a guest whose instructions are never looked at.
pub struct NoCode;

impl ReadCode for NoCode {
    fn read_code(&self, _: &FetchState, _: &mut [u8; 15]) -> usize {
        0
    }
}

/// Which accesses to an MSR pass without an exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsrAccess {
    /// RDMSR passes.
    pub read: bool,
    /// WRMSR passes.
    pub write: bool,
}
