//! Decoder for the system instructions that exit, where the CPU tells neither their length nor their operands: SVM
//! without next-RIP save and decode assists.
//!
//! Called by `arch::virt::svm` with the bytes at the guest's RIP. It knows the instructions that are intercepted and no
//! others. APM volume 3, "Instruction encoding" and appendix A.

use super::{CodeSize, MAX_LEN};

/// What a system instruction does with a control register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemOp {
    /// MOV to a control register.
    WriteControl {
        /// Its number.
        register: u8,
        /// The general register read, 0 to 15.
        gpr: u8,
    },
    /// MOV from a control register.
    ReadControl {
        /// Its number.
        register: u8,
        /// The general register written, 0 to 15.
        gpr: u8,
    },
    /// LMSW from a register.
    LoadStatusWord {
        /// The general register read.
        gpr: u8,
    },
    /// SMSW to a register.
    StoreStatusWord {
        /// The general register written.
        gpr: u8,
        /// It is written as 16 bits; else 32 or 64.
        word: bool,
    },
    /// CLTS.
    ClearTaskSwitched,
    /// Another one: only its length counts.
    Other,
}

/// A decoded system instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemInsn {
    /// Length in bytes.
    pub len: u8,
    /// What it does.
    pub op: SystemOp,
    /// The segment that a prefix names: ES 0, CS 1, SS 2, DS 3, FS 4, GS 5.
    pub segment: Option<u8>,
}

/// Decodes the instruction at the start of `bytes`; `None` if it is not one that is intercepted, or cut off.
#[must_use]
pub fn decode_system(bytes: &[u8], size: CodeSize) -> Option<SystemInsn> {
    let bytes = bytes.get(..bytes.len().min(MAX_LEN))?;
    let long = size == CodeSize::Bits64;
    let (mut at, mut rex, mut lock, mut word, mut segment) = (0, 0, false, false, None);
    loop {
        let byte = *bytes.get(at)?;
        match byte {
            0x26 | 0x2E | 0x36 | 0x3E => segment = Some(byte >> 3 & 3),
            0x64 | 0x65 => segment = Some(byte & 7),
            0x66 => word = true,
            0x67 | 0xF2 | 0xF3 => {}
            0xF0 => lock = true,
            0x40..=0x4F if long => {
                // A REX counts only right before the opcode.
                if !matches!(bytes.get(at + 1)?, 0x26 | 0x2E | 0x36 | 0x3E | 0x40..=0x4F | 0x64..=0x67 | 0xF0 | 0xF2 | 0xF3)
                {
                    rex = byte;
                }
            }
            _ => break,
        }
        at += 1;
    }
    let opcode = *bytes.get(at)?;
    let done = |len: usize, op| Some(SystemInsn { len: len as u8, op, segment });
    match opcode {
        // HLT; IN, OUT, INS, OUTS; IRET.
        0xF4 | 0xEC..=0xEF | 0x6C..=0x6F | 0xCF => done(at + 1, SystemOp::Other),
        0xE4..=0xE7 => bytes.get(at + 1).and_then(|_| done(at + 2, SystemOp::Other)),
        0x0F => {
            let second = *bytes.get(at + 1)?;
            let modrm = || bytes.get(at + 2).copied();
            match second {
                // CPUID, RDMSR, WRMSR, RDPMC, INVD, WBINVD.
                0xA2 | 0x30 | 0x32 | 0x33 | 0x08 | 0x09 => done(at + 2, SystemOp::Other),
                0x06 => done(at + 2, SystemOp::ClearTaskSwitched),
                0x20 | 0x22 => {
                    let modrm = modrm()?;
                    // LOCK MOV CR0 is CR8 on AMD CPUs.
                    let register = modrm >> 3 & 7 | rex << 1 & 8 | if lock { 8 } else { 0 };
                    let gpr = modrm & 7 | rex << 3 & 8;
                    let op = if second == 0x20 {
                        SystemOp::ReadControl { register, gpr }
                    } else {
                        SystemOp::WriteControl { register, gpr }
                    };
                    done(at + 3, op)
                }
                0x01 => {
                    let modrm = modrm()?;
                    if modrm >> 6 != 3 {
                        return None;
                    }
                    let gpr = modrm & 7 | rex << 3 & 8;
                    match modrm >> 3 & 7 {
                        4 => {
                            let wide = rex & 8 != 0 || word == (size == CodeSize::Bits16);
                            done(at + 3, SystemOp::StoreStatusWord { gpr, word: !wide })
                        }
                        6 => done(at + 3, SystemOp::LoadStatusWord { gpr }),
                        // VMMCALL, XSETBV, MONITOR, MWAIT, STGI, ….
                        _ => done(at + 3, SystemOp::Other),
                    }
                }
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn len(bytes: &[u8], size: CodeSize) -> Option<u8> {
        decode_system(bytes, size).map(|insn| insn.len)
    }

    #[test]
    fn control_registers_and_their_operands() {
        let op = |bytes: &[u8]| decode_system(bytes, CodeSize::Bits64).map(|insn| insn.op);
        assert_eq!(op(&[0x0F, 0x22, 0xC0]), Some(SystemOp::WriteControl { register: 0, gpr: 0 }));
        assert_eq!(
            op(&[0x41, 0x0F, 0x20, 0xE7]),
            Some(SystemOp::ReadControl { register: 4, gpr: 15 })
        );
        assert_eq!(
            op(&[0x44, 0x0F, 0x22, 0xC1]),
            Some(SystemOp::WriteControl { register: 8, gpr: 1 })
        );
        assert_eq!(
            op(&[0xF0, 0x0F, 0x22, 0xC1]),
            Some(SystemOp::WriteControl { register: 8, gpr: 1 })
        );
        assert_eq!(op(&[0x0F, 0x01, 0xF3]), Some(SystemOp::LoadStatusWord { gpr: 3 }));
        assert_eq!(
            op(&[0x0F, 0x01, 0xE3]),
            Some(SystemOp::StoreStatusWord { gpr: 3, word: false })
        );
        assert_eq!(
            op(&[0x66, 0x0F, 0x01, 0xE3]),
            Some(SystemOp::StoreStatusWord { gpr: 3, word: true })
        );
        assert_eq!(op(&[0x0F, 0x01, 0x33]), None, "LMSW from memory");
        assert_eq!(op(&[0x0F, 0x06]), Some(SystemOp::ClearTaskSwitched));
        assert_eq!(decode_system(&[0x65, 0x6E], CodeSize::Bits64).and_then(|i| i.segment), Some(5));
    }

    #[test]
    fn prefixes_count() {
        assert_eq!(len(&[0x0F, 0xA2], CodeSize::Bits64), Some(2));
        assert_eq!(len(&[0xF3, 0x48, 0x0F, 0xA2], CodeSize::Bits64), Some(4));
        assert_eq!(len(&[0x48, 0x0F, 0xA2], CodeSize::Bits32), None, "DEC EAX");
        assert_eq!(len(&[0x0F], CodeSize::Bits64), None);
        assert_eq!(len(&[0x66; 15], CodeSize::Bits64), None);
        assert_eq!(len(&[0xE5, 0x40], CodeSize::Bits16), Some(2));
    }

    proptest! {
        /// Whatever is decoded has the length that `iced-x86` says.
        #[test]
        fn r_s8_lengths_are_those_of_the_oracle(
            prefixes in prop::collection::vec(prop::sample::select(std::vec![0x26, 0x64, 0x65, 0x66, 0x67, 0xF2, 0xF3, 0x48, 0x41]), 0..4),
            opcode in prop::sample::select(std::vec![
                std::vec![0x0F, 0xA2], std::vec![0x0F, 0x30], std::vec![0x0F, 0x32], std::vec![0x0F, 0x33],
                std::vec![0x0F, 0x08], std::vec![0x0F, 0x01, 0xD9], std::vec![0x0F, 0x01, 0xD1], std::vec![0x0F, 0x06],
                std::vec![0x0F, 0x22, 0xC3], std::vec![0x0F, 0x20, 0xE1], std::vec![0xF4], std::vec![0xEC],
                std::vec![0xE6, 0x80], std::vec![0x6C], std::vec![0xCF],
            ]),
            bits in prop::sample::select(std::vec![16_u32, 32, 64]),
        ) {
            let bytes: Vec<u8> = prefixes.into_iter().chain(opcode).chain([0x90; 4]).collect();
            let size = match bits { 16 => CodeSize::Bits16, 32 => CodeSize::Bits32, _ => CodeSize::Bits64 };
            let oracle = iced_x86::Decoder::with_ip(bits, &bytes, 0, iced_x86::DecoderOptions::NONE).decode();
            if let Some(insn) = decode_system(&bytes, size) && !oracle.is_invalid() {
                prop_assert_eq!(usize::from(insn.len), oracle.len());
            }
        }

        #[test]
        fn r_s8_any_bytes_are_harmless(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            for size in [CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64] {
                if let Some(insn) = decode_system(&bytes, size) {
                    prop_assert!(usize::from(insn.len) <= bytes.len());
                }
            }
        }
    }
}
