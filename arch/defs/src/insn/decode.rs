//! The decoder proper: prefixes, ModRM, opcodes.
//!
//! Called through [`super::decode`] by the MMIO exit handler. No locks.
//! Source: SDM volume 2, chapter 2 "Instruction Format" and appendix A "Opcode Map".

use super::{Alu, CodeSize, DecodeError, MmioInsn, MmioOp, Reg, Segment, Source, Width};

/// Longest instruction, in bytes.
pub const MAX_LEN: usize = 15;

/// The instruction's bytes, read front to back.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    #[inline]
    fn byte(&mut self) -> Result<u8, DecodeError> {
        if self.at >= MAX_LEN {
            return Err(DecodeError::TooLong);
        }
        let byte = *self.bytes.get(self.at).ok_or(DecodeError::Truncated)?;
        self.at += 1;
        Ok(byte)
    }

    /// Steps over address bytes that nobody needs.
    #[inline]
    fn skip(&mut self, count: usize) -> Result<(), DecodeError> {
        for _ in 0..count {
            self.byte()?;
        }
        Ok(())
    }

    /// An immediate of the operand's width, four bytes at most, sign-extended and cut to `width`.
    #[inline]
    fn immediate(&mut self, width: Width) -> Result<u64, DecodeError> {
        let value = match width {
            Width::Byte => i64::from(self.byte()? as i8),
            Width::Word => i64::from(i16::from_le_bytes([self.byte()?, self.byte()?])),
            Width::Double | Width::Quad => i64::from(i32::from_le_bytes([
                self.byte()?,
                self.byte()?,
                self.byte()?,
                self.byte()?,
            ])),
        };
        Ok(value as u64 & width.mask())
    }
}

/// What the prefixes say.
struct Prefixes {
    rex: u8,
    lock: bool,
    repeat: bool,
    segment: Segment,
    operand: Width,
    address: Width,
}

const REX_W: u8 = 8;
const REX_R: u8 = 4;

/// Reads the prefixes and returns them with the first opcode byte.
#[inline]
fn prefixes(cursor: &mut Cursor<'_>, mode: CodeSize) -> Result<(Prefixes, u8), DecodeError> {
    let long = mode == CodeSize::Bits64;
    let (mut rex, mut lock, mut repeat) = (0, false, false);
    let (mut other_operand, mut other_address) = (false, false);
    let mut segment = Segment::Ds;
    let opcode = loop {
        let byte = cursor.byte()?;
        match byte {
            0x66 => other_operand = true,
            0x67 => other_address = true,
            0xF0 => lock = true,
            0xF2 | 0xF3 => repeat = true,
            0x64 => segment = Segment::Fs,
            0x65 => segment = Segment::Gs,
            // 64-bit mode ignores these four.
            0x26 | 0x2E | 0x36 | 0x3E if long => {}
            0x26 => segment = Segment::Es,
            0x2E => segment = Segment::Cs,
            0x36 => segment = Segment::Ss,
            0x3E => segment = Segment::Ds,
            0x40..=0x4F if long => {
                rex = byte;
                continue;
            }
            opcode => break opcode,
        }
        // A REX counts only right before the opcode.
        rex = 0;
    };
    let operand = match (mode, other_operand) {
        (CodeSize::Bits64, _) if rex & REX_W != 0 => Width::Quad,
        (CodeSize::Bits16, false) | (CodeSize::Bits32 | CodeSize::Bits64, true) => Width::Word,
        _ => Width::Double,
    };
    let address = match (mode, other_address) {
        (CodeSize::Bits64, false) => Width::Quad,
        (CodeSize::Bits16, false) | (CodeSize::Bits32, true) => Width::Word,
        _ => Width::Double,
    };
    Ok((Prefixes { rex, lock, repeat, segment, operand, address }, opcode))
}

/// Steps over ModRM, SIB and displacement, and returns ModRM's three-bit reg field.
#[inline]
fn modrm(cursor: &mut Cursor<'_>, address: Width) -> Result<u8, DecodeError> {
    let byte = cursor.byte()?;
    let (mode, reg, rm) = (byte >> 6, byte >> 3 & 7, byte & 7);
    if mode == 3 {
        return Err(DecodeError::NotMemory);
    }
    let displacement = if address == Width::Word {
        match (mode, rm) {
            (0, 6) | (2, _) => 2,
            (1, _) => 1,
            _ => 0,
        }
    } else {
        let base = if rm == 4 { cursor.byte()? & 7 } else { rm };
        match (mode, base) {
            (0, 5) | (2, _) => 4,
            (1, _) => 1,
            _ => 0,
        }
    };
    cursor.skip(displacement)?;
    Ok(reg)
}

/// The operation in bits 5:3 of an opcode or of ModRM's reg field; `None` for ADC, SBB and CMP.
#[inline]
const fn alu_of(field: u8) -> Option<Alu> {
    match field & 7 {
        0 => Some(Alu::Add),
        1 => Some(Alu::Or),
        4 => Some(Alu::And),
        5 => Some(Alu::Sub),
        6 => Some(Alu::Xor),
        _ => None,
    }
}

const CMP_FIELD: u8 = 7;

/// The forms that drivers use: a 32- or 64-bit MOV between a register and memory, or of a constant to
/// memory (an EOI), with at most a REX prefix. They take a fifth of the instructions of the general
/// way, which handles them as well.
#[inline(always)]
fn plain_mov(bytes: &[u8], mode: CodeSize) -> Option<MmioInsn> {
    const STORE: u8 = 0x89;
    const LOAD: u8 = 0x8B;
    const STORE_CONSTANT: u8 = 0xC7;
    // REX, opcode, ModRM, SIB.
    let first: &[u8; 4] = bytes.first_chunk()?;
    let has_rex = mode == CodeSize::Bits64 && first[0] & 0xF0 == 0x40;
    let rex = if has_rex { first[0] } else { 0 };
    let [opcode, modrm, sib] =
        if has_rex { [first[1], first[2], first[3]] } else { [first[0], first[1], first[2]] };
    let field = modrm >> 3 & 7;
    let constant = opcode == STORE_CONSTANT && field == 0;
    let register_form = modrm >> 6 == 3;
    if (opcode != STORE && opcode != LOAD && !constant) || register_form || mode == CodeSize::Bits16
    {
        return None;
    }
    let has_sib = modrm & 7 == 4;
    let base = if has_sib { sib & 7 } else { modrm & 7 };
    let displacement = match modrm >> 6 {
        0 if base != 5 => 0,
        1 => 1,
        _ => 4,
    };
    let end = 2 + u8::from(has_rex) + u8::from(has_sib) + displacement;
    let width = if rex & REX_W != 0 { Width::Quad } else { Width::Double };
    if constant {
        let value = *bytes.get(end.into()..)?.first_chunk()?;
        let value = i64::from(i32::from_le_bytes(value)) as u64 & width.mask();
        let op = MmioOp::Store { source: Source::Imm(value) };
        return Some(MmioInsn { len: end + 4, width, op });
    }
    if usize::from(end) > bytes.len() {
        return None;
    }
    let reg = Reg { index: (rex & REX_R) << 1 | field, high: false };
    let op = if opcode == LOAD {
        MmioOp::Load { reg, into: width, sign: false }
    } else {
        MmioOp::Store { source: Source::Reg(reg) }
    };
    Some(MmioInsn { len: end, width, op })
}

/// Decodes the instruction at the start of `bytes` (at most the first 15 are looked at).
///
/// # Errors
/// See [`DecodeError`].
#[inline(always)]
pub fn decode(bytes: &[u8], mode: CodeSize) -> Result<MmioInsn, DecodeError> {
    match plain_mov(bytes, mode) {
        Some(insn) => Ok(insn),
        None => decode_any(bytes, mode),
    }
}

/// The general way.
#[inline(never)]
fn decode_any(bytes: &[u8], mode: CodeSize) -> Result<MmioInsn, DecodeError> {
    let mut cursor = Cursor { bytes, at: 0 };
    let (prefix, opcode) = prefixes(&mut cursor, mode)?;
    let Prefixes { rex, repeat, operand, address, .. } = prefix;
    // Bit 0 of nearly every opcode here: 0 for bytes, 1 for the operand size.
    let width = if opcode & 1 == 0 { Width::Byte } else { operand };
    let register = |field: u8, width: Width| {
        // Without REX, byte registers 4-7 are AH, CH, DH and BH.
        let high = width == Width::Byte && rex == 0 && field >= 4;
        let extension = (rex & REX_R) << 1;
        Reg { index: if high { field - 4 } else { field | extension }, high }
    };
    let accumulator = Reg { index: 0, high: false };
    let (width, op) = match opcode {
        0x88 | 0x89 => {
            let reg = register(modrm(&mut cursor, address)?, width);
            (width, MmioOp::Store { source: Source::Reg(reg) })
        }
        0x8A | 0x8B => {
            let reg = register(modrm(&mut cursor, address)?, width);
            (width, MmioOp::Load { reg, into: width, sign: false })
        }
        0x0F => {
            let second = cursor.byte()?;
            match second {
                0xB6 | 0xB7 | 0xBE | 0xBF => {
                    let from = if second & 1 == 0 { Width::Byte } else { Width::Word };
                    // The destination is never a byte, so never a high one.
                    let reg = register(modrm(&mut cursor, address)?, operand);
                    (from, MmioOp::Load { reg, into: operand, sign: second & 8 != 0 })
                }
                0xBA => {
                    if modrm(&mut cursor, address)? != 4 {
                        return Err(DecodeError::Unknown);
                    }
                    let bit = cursor.byte()? & (operand.bits() - 1) as u8;
                    (operand, MmioOp::BitTest { bit })
                }
                _ => return Err(DecodeError::Unknown),
            }
        }
        0xC6 | 0xC7 => {
            if modrm(&mut cursor, address)? != 0 {
                return Err(DecodeError::Unknown);
            }
            (width, MmioOp::Store { source: Source::Imm(cursor.immediate(width)?) })
        }
        0x63 if mode == CodeSize::Bits64 && operand != Width::Word => {
            let reg = register(modrm(&mut cursor, address)?, operand);
            (Width::Double, MmioOp::Load { reg, into: operand, sign: true })
        }
        0xA0 | 0xA1 => {
            cursor.skip(address.bytes().into())?;
            (width, MmioOp::Load { reg: accumulator, into: width, sign: false })
        }
        0xA2 | 0xA3 => {
            cursor.skip(address.bytes().into())?;
            (width, MmioOp::Store { source: Source::Reg(accumulator) })
        }
        0xAA | 0xAB => (width, MmioOp::StoreString { repeat, address }),
        0xA4 | 0xA5 => (width, MmioOp::MoveString { repeat, address, segment: prefix.segment }),
        0x84 | 0x85 => {
            let source = Source::Reg(register(modrm(&mut cursor, address)?, width));
            (width, MmioOp::Compare { alu: Alu::And, source })
        }
        0x86 | 0x87 => {
            (width, MmioOp::Exchange { reg: register(modrm(&mut cursor, address)?, width) })
        }
        0xF6 | 0xF7 => {
            if modrm(&mut cursor, address)? != 0 {
                return Err(DecodeError::Unknown);
            }
            let source = Source::Imm(cursor.immediate(width)?);
            (width, MmioOp::Compare { alu: Alu::And, source })
        }
        0x80 | 0x81 | 0x83 => {
            let field = modrm(&mut cursor, address)?;
            let source = Source::Imm(if opcode == 0x83 {
                // One byte, sign-extended to the operand.
                cursor.byte()? as i8 as i64 as u64 & width.mask()
            } else {
                cursor.immediate(width)?
            });
            (width, with_memory_first(field, source)?)
        }
        // ADD, OR, AND, SUB, XOR and CMP: eight opcodes each, of which 0-3 have a memory operand.
        0x00..=0x3F if opcode & 4 == 0 => {
            let field = opcode >> 3;
            let reg = register(modrm(&mut cursor, address)?, width);
            let op = if opcode & 2 == 0 {
                with_memory_first(field, Source::Reg(reg))?
            } else if field == CMP_FIELD {
                MmioOp::CompareWith { reg }
            } else {
                MmioOp::Combine { alu: alu_of(field).ok_or(DecodeError::Unknown)?, reg }
            };
            (width, op)
        }
        _ => return Err(DecodeError::Unknown),
    };
    if prefix.lock && !matches!(op, MmioOp::Modify { .. } | MmioOp::Exchange { .. }) {
        return Err(DecodeError::BadLock);
    }
    // At most 15, by the cursor.
    Ok(MmioInsn { len: cursor.at as u8, width, op })
}

/// `m alu source`, or the comparison of the two.
#[inline]
fn with_memory_first(field: u8, source: Source) -> Result<MmioOp, DecodeError> {
    if field == CMP_FIELD {
        return Ok(MmioOp::Compare { alu: Alu::Sub, source });
    }
    Ok(MmioOp::Modify { alu: alu_of(field).ok_or(DecodeError::Unknown)?, source })
}
