//! The general registers of a guest, as the entry code stores them.

/// General registers without RSP, which the backend keeps. The entry code addresses the fields by
/// their offsets: keep the order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are the registers")]
pub struct GuestRegs {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    /// RSP as it was at the last exit: for instruction emulation only, written back by nobody.
    pub rsp: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

/// A register number in instruction-encoding order: 0 RAX, 1 RCX, 2 RDX, 3 RBX, 4 RSP, 5 RBP,
/// 6 RSI, 7 RDI, 8 to 15 R8 to R15. Higher bits of the number are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg(pub u8);

impl GuestRegs {
    /// The register of an instruction encoding.
    pub const fn get(&self, reg: Reg) -> u64 {
        match reg.0 & 15 {
            0 => self.rax,
            1 => self.rcx,
            2 => self.rdx,
            3 => self.rbx,
            4 => self.rsp,
            5 => self.rbp,
            6 => self.rsi,
            7 => self.rdi,
            8 => self.r8,
            9 => self.r9,
            10 => self.r10,
            11 => self.r11,
            12 => self.r12,
            13 => self.r13,
            14 => self.r14,
            _ => self.r15,
        }
    }

    /// Sets the register of an instruction encoding. RSP changes here only; see
    /// [`super::Backend::set_rsp`].
    pub const fn set(&mut self, reg: Reg, value: u64) {
        match reg.0 & 15 {
            0 => self.rax = value,
            1 => self.rcx = value,
            2 => self.rdx = value,
            3 => self.rbx = value,
            4 => self.rsp = value,
            5 => self.rbp = value,
            6 => self.rsi = value,
            7 => self.rdi = value,
            8 => self.r8 = value,
            9 => self.r9 = value,
            10 => self.r10 = value,
            11 => self.r11 = value,
            12 => self.r12 = value,
            13 => self.r13 = value,
            14 => self.r14 = value,
            _ => self.r15 = value,
        }
    }

    /// EDX:EAX.
    pub const fn edx_eax(&self) -> u64 {
        (self.rdx << 32) | (self.rax & 0xFFFF_FFFF)
    }

    /// Sets EDX:EAX, clearing the upper halves as RDMSR does.
    pub const fn set_edx_eax(&mut self, value: u64) {
        self.rax = value & 0xFFFF_FFFF;
        self.rdx = value >> 32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_encoding_order() {
        let mut regs = GuestRegs::default();
        for n in 0..16 {
            regs.set(Reg(n), u64::from(n) + 100);
        }
        assert_eq!((regs.rsp, regs.rdi, regs.r15), (104, 107, 115));
        for n in 0..16 {
            assert_eq!(regs.get(Reg(n)), u64::from(n) + 100);
        }
    }
}
