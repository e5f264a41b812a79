//! Decoder for the instructions guests use on memory-mapped registers.
//!
//! Called by the MMIO exit handler with the bytes at the guest's RIP; the faulting guest-physical address is known
//! from the exit, so the address form matters only for the length. Hand written, no tables in memory, no
//! allocation: an exit has a budget of a few hundred instructions. [`compute`] holds what the instructions do to
//! registers and flags. No locks. Whatever is not in the list is refused and the caller stops the guest with a
//! report; `iced-x86` is the oracle of the tests.
//!
//! Source: SDM volume 2, chapter 2 "Instruction Format" and appendix A "Opcode Map".

pub mod compute;
mod decode;
#[cfg(test)]
mod oracle;
pub mod system;

pub use compute::{ARITHMETIC_FLAGS, Flags, extend, merge_register, read_register};
pub use decode::{MAX_LEN, decode};
pub use system::{SystemInsn, SystemOp, decode_system};

/// Default operand and address size of the code segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeSize {
    /// Real mode, virtual-8086 mode, or CS.D = 0.
    Bits16,
    /// CS.D = 1.
    Bits32,
    /// CS.L = 1.
    Bits64,
}

/// Size of an operand or an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Width {
    /// 8 bits.
    Byte = 1,
    /// 16 bits.
    Word = 2,
    /// 32 bits.
    Double = 4,
    /// 64 bits.
    Quad = 8,
}

impl Width {
    /// Size in bytes: 1, 2, 4 or 8.
    #[inline]
    pub const fn bytes(self) -> u8 {
        self as u8
    }

    /// Size in bits.
    #[inline]
    pub const fn bits(self) -> u32 {
        self as u32 * 8
    }

    /// All bits of this width set.
    #[inline]
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }
}

/// A general-purpose register operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reg {
    /// Number as in the manuals: 0 RAX, 1 RCX, 2 RDX, 3 RBX, 4 RSP, ... 15 R15. Below 16 always.
    pub index: u8,
    /// Bits 15:8 of it: AH, CH, DH or BH.
    pub high: bool,
}

/// Where the other operand comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A register.
    Reg(Reg),
    /// A constant, sign-extended and cut to the operand's width.
    Imm(u64),
}

/// Arithmetic and logic on two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alu {
    /// Sum.
    Add,
    /// Bitwise or.
    Or,
    /// Bitwise and.
    And,
    /// Difference.
    Sub,
    /// Bitwise exclusive or.
    Xor,
}

/// What the instruction does with the memory operand `m`, which is [`MmioInsn::width`] wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmioOp {
    /// `reg = m`, extended to `into` bits (see [`extend`] and [`merge_register`]).
    Load {
        /// Destination.
        reg: Reg,
        /// Width of the destination, at least that of the memory operand.
        into: Width,
        /// Sign-extended rather than zero-extended.
        sign: bool,
    },
    /// `m = source`.
    Store {
        /// What is stored.
        source: Source,
    },
    /// `m = m alu source`, with flags.
    Modify {
        /// The operation.
        alu: Alu,
        /// Right operand.
        source: Source,
    },
    /// `reg = reg alu m`, with flags.
    Combine {
        /// The operation.
        alu: Alu,
        /// Left operand and destination.
        reg: Reg,
    },
    /// Flags of `m alu source` (CMP is Sub, TEST is And); nothing is written.
    Compare {
        /// The operation.
        alu: Alu,
        /// Right operand.
        source: Source,
    },
    /// Flags of `reg - m`; nothing is written.
    CompareWith {
        /// Left operand.
        reg: Reg,
    },
    /// `m` and `reg` change places, always locked.
    Exchange {
        /// The register.
        reg: Reg,
    },
    /// CF = bit of `m`; no other flag changes.
    BitTest {
        /// Bit number, below the operand's width.
        bit: u8,
    },
    /// STOS: `m = AL/AX/EAX/RAX` at ES:rDI, which then moves by the width, up or down by RFLAGS.DF.
    StoreString {
        /// REP or REPNE: rCX times. The caller may do one step and let the guest run into the next.
        repeat: bool,
        /// Width of rDI and rCX.
        address: Width,
    },
    /// MOVS: from segment:rSI to ES:rDI, both then move. The caller finds out which of the two is the device.
    MoveString {
        /// REP or REPNE: rCX times.
        repeat: bool,
        /// Width of rSI, rDI and rCX.
        address: Width,
        /// Segment of rSI.
        segment: Segment,
    },
}

/// Segment registers, numbered as in the manuals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum Segment {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
}

/// A decoded instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioInsn {
    /// Length in bytes, 1..=15.
    pub len: u8,
    /// Width of the memory operand.
    pub width: Width,
    /// What it does.
    pub op: MmioOp,
}

/// Why an instruction was not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The bytes end before the instruction does.
    Truncated,
    /// More than 15 bytes: #GP on hardware.
    TooLong,
    /// Not one of the known forms.
    Unknown,
    /// The operand is a register: this instruction did not cause the exit (it was changed in the meantime).
    NotMemory,
    /// LOCK where it may not stand: #UD on hardware.
    BadLock,
}
