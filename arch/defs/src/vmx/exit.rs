//! Basic exit reasons and exit qualifications. SDM volume 3, appendix C and section 28.2.1.

use bitfield_struct::bitfield;
use core::fmt;

/// Basic exit reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct ExitReason(pub u16);

macro_rules! reasons {
    ($($value:literal $name:ident $text:literal,)*) => {
        #[allow(missing_docs, reason = "the names are the manual's")]
        impl ExitReason {
            $(pub const $name: Self = Self($value);)*

            /// The manual's words for this reason, for reports.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($value => $text,)*
                    _ => "reserved exit reason",
                }
            }
        }
    };
}

reasons! {
    0 EXCEPTION_OR_NMI "exception or NMI",
    1 EXTERNAL_INTERRUPT "external interrupt",
    2 TRIPLE_FAULT "triple fault",
    3 INIT "INIT signal",
    4 SIPI "start-up IPI",
    5 IO_SMI "I/O SMI",
    6 OTHER_SMI "SMI",
    7 INTERRUPT_WINDOW "interrupt window",
    8 NMI_WINDOW "NMI window",
    9 TASK_SWITCH "task switch",
    10 CPUID "CPUID",
    11 GETSEC "GETSEC",
    12 HLT "HLT",
    13 INVD "INVD",
    14 INVLPG "INVLPG",
    15 RDPMC "RDPMC",
    16 RDTSC "RDTSC",
    17 RSM "RSM",
    18 VMCALL "VMCALL",
    19 VMCLEAR "VMCLEAR",
    20 VMLAUNCH "VMLAUNCH",
    21 VMPTRLD "VMPTRLD",
    22 VMPTRST "VMPTRST",
    23 VMREAD "VMREAD",
    24 VMRESUME "VMRESUME",
    25 VMWRITE "VMWRITE",
    26 VMXOFF "VMXOFF",
    27 VMXON "VMXON",
    28 CR_ACCESS "control-register access",
    29 DR_ACCESS "debug-register access",
    30 IO "I/O instruction",
    31 RDMSR "RDMSR",
    32 WRMSR "WRMSR",
    33 INVALID_GUEST_STATE "VM-entry failure: invalid guest state",
    34 MSR_LOADING "VM-entry failure: MSR loading",
    36 MWAIT "MWAIT",
    37 MTF "monitor trap flag",
    39 MONITOR "MONITOR",
    40 PAUSE "PAUSE",
    41 MACHINE_CHECK "VM-entry failure: machine-check event",
    43 TPR_BELOW_THRESHOLD "TPR below threshold",
    44 APIC_ACCESS "APIC access",
    45 VIRTUALIZED_EOI "virtualized EOI",
    46 DESCRIPTOR_GDTR "GDTR or IDTR access",
    47 DESCRIPTOR_LDTR "LDTR or TR access",
    48 EPT_VIOLATION "EPT violation",
    49 EPT_MISCONFIGURATION "EPT misconfiguration",
    50 INVEPT "INVEPT",
    51 RDTSCP "RDTSCP",
    52 PREEMPTION_TIMER "VMX-preemption timer",
    53 INVVPID "INVVPID",
    54 WBINVD "WBINVD",
    55 XSETBV "XSETBV",
    56 APIC_WRITE "APIC write",
    57 RDRAND "RDRAND",
    58 INVPCID "INVPCID",
    59 VMFUNC "VMFUNC",
    60 ENCLS "ENCLS",
    61 RDSEED "RDSEED",
    62 PML_FULL "page-modification log full",
    63 XSAVES "XSAVES",
    64 XRSTORS "XRSTORS",
}

/// Exit qualification of an I/O instruction, SDM table 28-5.
#[bitfield(u64)]
pub struct IoQualification {
    /// Access size minus 1, in bytes.
    #[bits(3)]
    pub size_minus_one: u8,
    /// IN (true) or OUT.
    pub is_in: bool,
    /// INS or OUTS.
    pub string: bool,
    /// With a REP prefix.
    pub rep: bool,
    /// The port is an immediate operand.
    pub immediate: bool,
    #[bits(9)]
    __: u32,
    /// Port number.
    pub port: u16,
    __: u32,
}

/// Exit qualification of a control-register access, SDM table 28-3.
#[bitfield(u64)]
pub struct CrQualification {
    /// Number of the control register (0 for CLTS and LMSW).
    #[bits(4)]
    pub register: u8,
    /// 0 MOV to CR, 1 MOV from CR, 2 CLTS, 3 LMSW.
    #[bits(2)]
    pub access: u8,
    /// LMSW: the operand is in memory.
    pub memory_operand: bool,
    __: bool,
    /// General register of a MOV, in instruction-encoding order.
    #[bits(4)]
    pub gpr: u8,
    #[bits(4)]
    __: u8,
    /// LMSW source data.
    pub lmsw: u16,
    __: u32,
}

/// Exit qualification of an EPT violation, SDM table 28-7.
#[bitfield(u64)]
pub struct EptQualification {
    /// Data read.
    pub read: bool,
    /// Data write.
    pub write: bool,
    /// Instruction fetch.
    pub fetch: bool,
    #[bits(4)]
    pub entry_permissions: u8,
    /// The guest linear-address field is valid.
    pub linear_valid: bool,
    /// The access was to the translated address, not to a paging-structure entry.
    pub final_translation: bool,
    #[bits(3)]
    __: u8,
    /// NMI unblocking due to IRET.
    pub nmi_unblocking: bool,
    #[bits(51)]
    __: u64,
}

/// An exit qualification in words, for reports: ` = ...`, or nothing where the number says it all.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// Basic exit reason.
    pub reason: ExitReason,
    /// Exit qualification.
    pub qualification: u64,
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let q = self.qualification;
        match self.reason {
            ExitReason::EPT_VIOLATION => {
                let e = EptQualification::from(q);
                let what = match (e.fetch(), e.write()) {
                    (true, _) => "instruction fetch",
                    (_, true) => "data write",
                    _ => "data read",
                };
                let walk = e.linear_valid() && !e.final_translation();
                write!(f, " = {what}{}", if walk { " while walking page tables" } else { "" })
            }
            ExitReason::IO => {
                let io = IoQualification::from(q);
                let way = if io.is_in() { "IN" } else { "OUT" };
                let string = if io.string() { "string " } else { "" };
                write!(
                    f,
                    " = {string}{way} of {} bytes at port {:#x}",
                    io.size_minus_one() + 1,
                    io.port()
                )
            }
            ExitReason::CR_ACCESS => {
                let cr = CrQualification::from(q);
                let what = ["MOV to CR", "MOV from CR", "CLTS, CR", "LMSW, CR"];
                write!(f, " = {}{}", what[usize::from(cr.access() & 3)], cr.register())
            }
            ExitReason::TASK_SWITCH => {
                let source = ["CALL", "IRET", "JMP", "a task gate in the IDT"];
                let by = source[(q >> 30 & 3) as usize];
                write!(f, " = to selector {:#x} by {by}", q & 0xFFFF)
            }
            ExitReason::INVALID_GUEST_STATE => match q {
                2 => write!(f, " = PAE page-directory pointers"),
                3 => write!(f, " = NMI injection under blocking"),
                4 => write!(f, " = VMCS link pointer"),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn an_io_qualification_is_taken_apart() {
        let q = IoQualification::from(0x03F8_0008);
        assert_eq!((q.port(), q.is_in(), q.size_minus_one()), (0x3F8, true, 0));
    }

    #[test]
    fn qualifications_have_words() {
        let words = |reason, qualification| Words { reason, qualification }.to_string();
        assert_eq!(words(ExitReason::EPT_VIOLATION, 0x182), " = data write");
        assert_eq!(
            words(ExitReason::EPT_VIOLATION, 0x81),
            " = data read while walking page tables"
        );
        assert_eq!(words(ExitReason::IO, 0x03F8_0008), " = IN of 1 bytes at port 0x3f8");
        assert_eq!(words(ExitReason::CR_ACCESS, 4), " = MOV to CR4");
        assert_eq!(
            words(ExitReason::TASK_SWITCH, 0xC000_0018),
            " = to selector 0x18 by a task gate in the IDT"
        );
        assert_eq!(words(ExitReason::TRIPLE_FAULT, 0), "");
    }

    #[test]
    fn reasons_have_names() {
        assert_eq!(ExitReason(48), ExitReason::EPT_VIOLATION);
        assert_eq!(ExitReason(48).name(), "EPT violation");
        assert_eq!(ExitReason(35).name(), "reserved exit reason");
    }
}
