//! Exit codes and exit information. APM volume 2, appendix C and sections 15.10, 15.25.6.

use bitfield_struct::bitfield;
use core::fmt;

/// Exit code. Negative ones are refused entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct ExitCode(pub u64);

macro_rules! codes {
    ($($value:literal $name:ident $text:literal,)*) => {
        #[allow(missing_docs, reason = "the names are the manual's")]
        impl ExitCode {
            $(pub const $name: Self = Self($value);)*

            /// The manual's words for this code, for reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self.0 {
                    0x00..=0x0F => "control-register read",
                    0x10..=0x1F => "control-register write",
                    0x20..=0x3F => "debug-register access",
                    0x40..=0x5F => "exception",
                    $($value => $text,)*
                    _ if self.is_invalid() => "VMEXIT_INVALID: the guest's state is illegal",
                    _ => "reserved exit code",
                }
            }
        }
    };
}

codes! {
    0x60 INTR "physical interrupt",
    0x61 NMI "NMI",
    0x62 SMI "SMI",
    0x63 INIT "INIT signal",
    0x64 VINTR "virtual interrupt window",
    0x65 CR0_SELECTIVE "selective CR0 write",
    0x6F RDPMC "RDPMC",
    0x72 CPUID "CPUID",
    0x74 IRET "IRET",
    0x76 INVD "INVD",
    0x78 HLT "HLT",
    0x7A INVLPGA "INVLPGA",
    0x7B IOIO "I/O instruction",
    0x7C MSR "RDMSR or WRMSR",
    0x7D TASK_SWITCH "task switch",
    0x7F SHUTDOWN "shutdown (triple fault)",
    0x80 VMRUN "VMRUN",
    0x81 VMMCALL "VMMCALL",
    0x82 VMLOAD "VMLOAD",
    0x83 VMSAVE "VMSAVE",
    0x84 STGI "STGI",
    0x85 CLGI "CLGI",
    0x86 SKINIT "SKINIT",
    0x8A MONITOR "MONITOR",
    0x8B MWAIT "MWAIT",
    0x8C MWAIT_ARMED "MWAIT, armed",
    0x8D XSETBV "XSETBV",
    0x8E RDPRU "RDPRU",
    0x400 NPF "nested page fault",
}

impl ExitCode {
    /// First of the 16 codes for reads of control registers.
    pub const CR_READ_FIRST: u64 = 0x00;
    /// First of the 16 codes for writes of control registers.
    pub const CR_WRITE_FIRST: u64 = 0x10;
    /// First of the 32 codes for exceptions.
    pub const EXCEPTION_FIRST: u64 = 0x40;

    /// VMRUN refused to enter. Hardware says -1; QEMU 10's TCG loses the upper half.
    #[must_use]
    pub const fn is_invalid(self) -> bool {
        self.0 as u32 == u32::MAX
    }
}

/// EXITINFO1 of an I/O instruction, APM figure 15-2.
#[bitfield(u64)]
pub struct IoInfo {
    /// IN (true) or OUT.
    pub is_in: bool,
    __: bool,
    /// INS or OUTS.
    pub string: bool,
    /// With a REP prefix.
    pub rep: bool,
    /// 1, 2 or 4: operand size in bytes, one bit each.
    #[bits(3)]
    pub size: u8,
    /// 1, 2 or 4: address size of 16, 32 or 64 bits, one bit each.
    #[bits(3)]
    pub address_size: u8,
    #[bits(6)]
    __: u8,
    /// Port number.
    pub port: u16,
    __: u32,
}

/// EXITINFO1 of a nested page fault, APM section 15.25.6.
#[bitfield(u64)]
pub struct NpfInfo {
    /// The page was present.
    pub present: bool,
    /// A write.
    pub write: bool,
    /// As a user: always.
    pub user: bool,
    /// A reserved bit was set in a nested table.
    pub reserved: bool,
    /// An instruction fetch.
    pub fetch: bool,
    #[bits(27)]
    __: u32,
    /// The fault was at the guest's final physical address.
    pub final_address: bool,
    /// The fault was in the walk of the guest's page tables.
    pub page_walk: bool,
    #[bits(30)]
    __: u32,
}

/// An exit's information in words, for reports.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// Why.
    pub code: ExitCode,
    /// EXITINFO1.
    pub info_1: u64,
    /// EXITINFO2.
    pub info_2: u64,
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            ExitCode::IOIO => {
                let io = IoInfo::from(self.info_1);
                let what = match (io.string(), io.is_in()) {
                    (true, true) => "INS",
                    (true, false) => "OUTS",
                    (false, true) => "IN",
                    (false, false) => "OUT",
                };
                write!(f, ": {what} of {} bytes, port {:#x}", io.size(), io.port())
            }
            ExitCode::NPF => {
                let npf = NpfInfo::from(self.info_1);
                let what = match (npf.fetch(), npf.write()) {
                    (true, _) => "fetch",
                    (_, true) => "write",
                    _ => "read",
                };
                let whose =
                    if npf.page_walk() { " while walking the guest's page tables" } else { "" };
                write!(f, ": {what}{whose}, guest-physical {:#x}", self.info_2)
            }
            ExitCode::MSR => f.write_str(if self.info_1 & 1 == 0 { ": RDMSR" } else { ": WRMSR" }),
            ExitCode(code @ 0x40..=0x5F) => write!(f, ": vector {}", code - 0x40),
            ExitCode(code @ 0x00..=0x1F) => write!(f, ": CR{}", code & 0xF),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn exits_are_told_in_words() {
        let io = Words { code: ExitCode::IOIO, info_1: 0x3F8 << 16 | 1 << 4 | 1, info_2: 0 };
        assert_eq!(format!("{}{io}", io.code.name()), "I/O instruction: IN of 1 bytes, port 0x3f8");
        let npf = Words { code: ExitCode::NPF, info_1: 1 << 33 | 1 << 1, info_2: 0xFEE0_0000 };
        assert!(format!("{npf}").ends_with("page tables, guest-physical 0xfee00000"));
        assert!(ExitCode(u64::MAX).is_invalid() && ExitCode(0xFFFF_FFFF).is_invalid());
        assert!(ExitCode(u64::MAX).name().starts_with("VMEXIT_INVALID"));
        assert_eq!(format!("{}", Words { code: ExitCode(0x14), info_1: 0, info_2: 0 }), ": CR4");
    }
}
