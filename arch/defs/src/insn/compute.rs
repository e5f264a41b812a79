//! What MMIO instructions do to registers and flags, as pure functions.
//!
//! Called by the MMIO exit handler after the device has answered. No locks.
//! Source: SDM volume 1, "EFLAGS Register" and "General-Purpose Registers in 64-Bit Mode".

use super::{Alu, Reg, Width};

/// CF, PF, AF, ZF, SF and OF: the bits of RFLAGS that [`Flags`] may change.
pub const ARITHMETIC_FLAGS: u64 = CF | PF | AF | ZF | SF | OF;

const CF: u64 = 1 << 0;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;

/// New values of some flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags {
    /// Which bits of RFLAGS the instruction writes.
    pub written: u64,
    /// Their values.
    pub value: u64,
}

impl Flags {
    /// RFLAGS after the instruction.
    #[inline]
    pub const fn apply(self, rflags: u64) -> u64 {
        rflags & !self.written | self.value
    }

    /// Flags of BT: CF is the bit, the rest stays. `bit` is taken modulo 64.
    #[inline]
    pub const fn of_bit(value: u64, bit: u8) -> Self {
        Self { written: CF, value: value >> (bit & 63) & 1 }
    }
}

impl Alu {
    /// `left` op `right` in `width` bits, and the flags. AF, undefined after logic operations, becomes 0.
    #[inline]
    pub const fn compute(self, left: u64, right: u64, width: Width) -> (u64, Flags) {
        let mask = width.mask();
        let (left, right) = (left & mask, right & mask);
        let (result, carry, overflow) = match self {
            Self::Add => {
                let sum = left.wrapping_add(right) & mask;
                (sum, sum < left, (left ^ sum) & (right ^ sum))
            }
            Self::Sub => {
                let difference = left.wrapping_sub(right) & mask;
                (difference, left < right, (left ^ right) & (left ^ difference))
            }
            Self::Or => (left | right, false, 0),
            Self::And => (left & right, false, 0),
            Self::Xor => (left ^ right, false, 0),
        };
        let arithmetic = matches!(self, Self::Add | Self::Sub);
        let sign = 1 << (width.bits() - 1);
        let mut value = 0;
        if carry {
            value |= CF;
        }
        if (result as u8).count_ones() & 1 == 0 {
            value |= PF;
        }
        // The carry out of bit 3 shows in bit 4 of the three values together.
        if arithmetic && (left ^ right ^ result) & 0x10 != 0 {
            value |= AF;
        }
        if result == 0 {
            value |= ZF;
        }
        if result & sign != 0 {
            value |= SF;
        }
        if overflow & sign != 0 {
            value |= OF;
        }
        (result, Flags { written: ARITHMETIC_FLAGS, value })
    }
}

/// The value of a register operand, from the full 64-bit register.
#[inline]
pub const fn read_register(full: u64, reg: Reg, width: Width) -> u64 {
    let shifted = if reg.high { full >> 8 } else { full };
    shifted & width.mask()
}

/// The full 64-bit register after `value` was written to the operand: 8- and 16-bit writes keep the rest, 32-bit
/// writes clear the upper half.
#[inline]
pub const fn merge_register(full: u64, value: u64, reg: Reg, width: Width) -> u64 {
    match width {
        Width::Byte if reg.high => full & !0xFF00 | (value & 0xFF) << 8,
        Width::Byte => full & !0xFF | value & 0xFF,
        Width::Word => full & !0xFFFF | value & 0xFFFF,
        Width::Double => value & 0xFFFF_FFFF,
        Width::Quad => value,
    }
}

/// `value` of `from` bits, sign- or zero-extended to 64.
#[inline]
pub const fn extend(value: u64, from: Width, sign: bool) -> u64 {
    let spare = 64 - from.bits();
    if sign { ((value << spare) as i64 >> spare) as u64 } else { value & from.mask() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WIDTHS: [Width; 4] = [Width::Byte, Width::Word, Width::Double, Width::Quad];
    const LOW: Reg = Reg { index: 0, high: false };
    const HIGH: Reg = Reg { index: 0, high: true };

    fn flag(flags: Flags, bit: u64) -> bool {
        flags.value & bit != 0
    }

    proptest! {
        /// Against the definitions in wider integers: carry is an unsigned result out of range, overflow a signed one.
        #[test]
        fn r_s8_flags_of_add_and_sub(left: u64, right: u64, width in 0usize..4, add: bool) {
            let width = WIDTHS[width];
            let alu = if add { Alu::Add } else { Alu::Sub };
            let (result, flags) = alu.compute(left, right, width);
            let unsigned = |value: u64| i128::from(value & width.mask());
            let signed = |value: u64| i128::from(extend(value, width, true) as i64);
            let op = |a: i128, b: i128| if add { a + b } else { a - b };
            let exact = op(unsigned(left), unsigned(right));
            let exact_signed = op(signed(left), signed(right));
            prop_assert_eq!(result, exact as u64 & width.mask());
            prop_assert_eq!(flag(flags, CF), exact != i128::from(result));
            prop_assert_eq!(flag(flags, OF), exact_signed != signed(result));
            prop_assert_eq!(flag(flags, ZF), result == 0);
            prop_assert_eq!(flag(flags, SF), signed(result) < 0);
            let nibble = op(i128::from(left & 15), i128::from(right & 15));
            prop_assert_eq!(flag(flags, AF), !(0..16).contains(&nibble));
            prop_assert_eq!(flag(flags, PF), (result & 0xFF).count_ones() % 2 == 0);
        }

        #[test]
        fn r_s8_logic_clears_carry_and_overflow(left: u64, right: u64, width in 0usize..4) {
            let width = WIDTHS[width];
            for (alu, exact) in [(Alu::And, left & right), (Alu::Or, left | right), (Alu::Xor, left ^ right)] {
                let (result, flags) = alu.compute(left, right, width);
                prop_assert_eq!(result, exact & width.mask());
                prop_assert_eq!(flags.value & (CF | OF | AF), 0);
                prop_assert_eq!(flag(flags, ZF), result == 0);
            }
        }
    }

    #[test]
    fn r_s8_partial_register_writes_keep_the_rest() {
        let full = 0x1122_3344_5566_7788;
        let value = 0xA1A2_A3A4_A5A6_A7A8;
        assert_eq!(merge_register(full, value, LOW, Width::Byte), 0x1122_3344_5566_77A8);
        assert_eq!(merge_register(full, value, HIGH, Width::Byte), 0x1122_3344_5566_A888);
        assert_eq!(merge_register(full, value, LOW, Width::Word), 0x1122_3344_5566_A7A8);
        assert_eq!(merge_register(full, value, LOW, Width::Double), 0xA5A6_A7A8);
        assert_eq!(merge_register(full, value, LOW, Width::Quad), value);
        assert_eq!(read_register(full, HIGH, Width::Byte), 0x77);
        assert_eq!(read_register(full, LOW, Width::Double), 0x5566_7788);
    }

    #[test]
    fn r_s8_extension_and_flag_merge() {
        assert_eq!(extend(0xFF80, Width::Byte, true), 0xFFFF_FFFF_FFFF_FF80);
        assert_eq!(extend(0xFF80, Width::Byte, false), 0x80);
        assert_eq!(extend(0x8000_0000, Width::Double, true), 0xFFFF_FFFF_8000_0000);
        assert_eq!(extend(u64::MAX, Width::Quad, false), u64::MAX);
        // IF and DF are not the instruction's.
        let (_, flags) = Alu::Sub.compute(1, 2, Width::Double);
        assert_eq!(flags.apply(0x602 | ZF), 0x602 | CF | PF | AF | SF);
        assert_eq!(Flags::of_bit(0b100, 2).apply(ZF), ZF | CF);
    }
}
