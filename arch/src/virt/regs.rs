//! The general registers of a guest, as the entry code stores them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, transmute_mut, transmute_ref};

/// General registers without RSP, which the backend keeps. The entry code addresses the fields by
/// their offsets, and [`Reg`] by their numbers: keep the order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
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
    #[inline(always)]
    pub fn get(&self, reg: Reg) -> u64 {
        let all: &[u64; 16] = transmute_ref!(self);
        all[usize::from(reg.0 & 15)]
    }

    /// Sets the register of an instruction encoding. RSP changes here only; see
    /// [`super::Backend::set_rsp`].
    #[inline(always)]
    pub fn set(&mut self, reg: Reg, value: u64) {
        let all: &mut [u64; 16] = transmute_mut!(self);
        all[usize::from(reg.0 & 15)] = value;
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
