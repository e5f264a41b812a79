//! Exits and events in words that belong to neither vendor.

/// An event that enters a guest through its IDT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An external interrupt. In direct mode only ever the re-injection of a delivery that an
    /// exit cut short: its ISR bit is set already (requirement D8, E3).
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

/// Why a guest left its core: the common instructions by name, all else by [`super::Backend::event`].
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
    /// IN, OUT, INS or OUTS: [`super::Backend::io_access`] has the operands.
    Io,
    /// VMCALL or VMMCALL.
    Hypercall,
    /// Anything else: call [`super::Backend::event`] before the next entry.
    Event,
}

/// The exits that are not one of the common instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventExit {
    /// The second stage has no translation.
    SecondStageFault(SecondStageFault),
    /// An NMI arrived in the guest. NMIs are unblocked again when [`super::Backend::event`] returns.
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
    /// A MOV from CR0 or CR4, or SMSW, where the hardware's value is not the guest's.
    ControlRegisterRead {
        /// Which register: 0 or 4.
        register: u8,
        /// Number of the general register that it goes to.
        gpr: u8,
        /// Only its low 16 bits (SMSW).
        word: bool,
    },
    /// An instruction that only an emulator lets exit; the backend has carried it out.
    Emulated,
    /// XSETBV; index in ECX, value in EDX:EAX.
    Xsetbv,
    /// An intercepted exception (#DB, #AC or #MC). DR6 and DR7 are as the handler of a #DB expects
    /// them.
    Exception {
        /// Vector.
        vector: u8,
        /// Error code, where it has one.
        error_code: Option<u32>,
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

/// What [`super::Backend::event`] brings back.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct ExitInfo {
    /// Why.
    pub exit: EventExit,
    /// The delivery of this event was cut short by the exit. Dropping it would wedge its
    /// priority class in the LAPIC (requirement D8): inject it again.
    pub cut_short: Option<Event>,
}
