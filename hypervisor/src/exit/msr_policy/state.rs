//! What a vCPU has written to the MSRs that have no effect here but must be remembered.
//!
//! Called by the MSR exit for the rows of kind [`Held`]. Memory types: SDM vol. 3A, "Memory Type
//! Range Registers"; a guest's MTRRs do not reach the hardware.

use super::{Held, Once};

/// The access raises #GP in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gp;

const VARIABLE_FIRST: u32 = 0x200;

/// MISC_ENABLE bit 0: fast strings.
const FAST_STRINGS: u64 = 1;
/// MISC_ENABLE bits 11 and 12: no branch trace storage, no PEBS.
const NO_BTS_NO_PEBS: u64 = 1 << 11 | 1 << 12;
/// MISC_ENABLE bits that some processor has: TM1, PMU, BTS, PEBS, EIST, MONITOR, CPUID limit, xTPR,
/// XD disable, turbo. Writes of them are dropped: what they switch is hidden or always on.
const KNOWN: u64 = FAST_STRINGS
    | NO_BTS_NO_PEBS
    | 1 << 3
    | 1 << 7
    | 1 << 16
    | 1 << 18
    | 1 << 22
    | 1 << 23
    | 1 << 34
    | 1 << 38;

const WRITE_BACK: u64 = 6;
/// Default type: MTRRs on (bit 11), fixed ranges on (bit 10), the type in 7:0.
const DEF_TYPE_BITS: u64 = 0xCFF;
const DEF_TYPE_RESET: u64 = 1 << 11 | 1 << 10 | WRITE_BACK;
const FIXED_RESET: u64 = 0x0101_0101_0101_0101 * WRITE_BACK;

/// The remembered MSRs of one vCPU.
#[derive(Clone, Debug)]
pub struct MsrState {
    misc_enable: u64,
    def_type: u64,
    /// PHYSBASE and PHYSMASK in turn.
    variable: [u64; 16],
    fixed: [u64; 11],
    /// Physical address bits from 12 on.
    frames: u64,
    logged: u8,
}

impl MsrState {
    /// The registers after power-on, as a firmware leaves them: all memory write-back.
    /// `phys_bits` is what the guest's CPUID says in leaf 8000_0008.
    pub const fn new(phys_bits: u8) -> Self {
        let bits = if phys_bits > 52 { 52 } else { phys_bits };
        Self {
            misc_enable: FAST_STRINGS | NO_BTS_NO_PEBS,
            def_type: DEF_TYPE_RESET,
            variable: [0; 16],
            fixed: [FIXED_RESET; 11],
            frames: ((1 << bits) - 1) & !0xFFF,
            logged: 0,
        }
    }

    /// RDMSR of a register whose row says `held`.
    pub fn read(&self, held: Held, msr: u32) -> Result<u64, Gp> {
        match held {
            Held::MiscEnable => Ok(self.misc_enable),
            Held::MtrrDefType => Ok(self.def_type),
            Held::MtrrVariable => self.variable.get(variable_index(msr)).copied().ok_or(Gp),
            Held::MtrrFixed => self.fixed.get(fixed_index(msr)?).copied().ok_or(Gp),
            Held::Zero => Ok(0),
        }
    }

    /// WRMSR of a register whose row says `held`. On [`Gp`] nothing has changed.
    pub fn write(&mut self, held: Held, msr: u32, value: u64) -> Result<(), Gp> {
        let (slot, value) = match held {
            Held::MiscEnable => {
                check(value & !KNOWN == 0)?;
                (&mut self.misc_enable, value & FAST_STRINGS | NO_BTS_NO_PEBS)
            }
            Held::MtrrDefType => {
                check(value & !DEF_TYPE_BITS == 0 && is_type(value))?;
                (&mut self.def_type, value)
            }
            Held::MtrrVariable => {
                // Even numbers: frame and type. Odd numbers: mask and, in bit 11, valid.
                if msr & 1 == 0 {
                    check(value & !(self.frames | 0xFF) == 0 && is_type(value))?;
                } else {
                    check(value & !(self.frames | 1 << 11) == 0)?;
                }
                (self.variable.get_mut(variable_index(msr)).ok_or(Gp)?, value)
            }
            Held::MtrrFixed => {
                check(value.to_le_bytes().into_iter().all(|kind| is_type(u64::from(kind))))?;
                (self.fixed.get_mut(fixed_index(msr)?).ok_or(Gp)?, value)
            }
            Held::Zero => return check(value == 0),
        };
        *slot = value;
        Ok(())
    }

    /// True the first time it is called for this dropped write.
    pub const fn log_now(&mut self, what: Once) -> bool {
        let bit = 1 << what as u8;
        let first = self.logged & bit == 0;
        self.logged |= bit;
        first
    }
}

const fn check(legal: bool) -> Result<(), Gp> {
    if legal { Ok(()) } else { Err(Gp) }
}

/// Bits 7:0 are a memory type: UC, WC, WT, WP, WB. 2 and 3 are reserved.
const fn is_type(value: u64) -> bool {
    matches!(value & 0xFF, 0 | 1 | 4..=6)
}

const fn variable_index(msr: u32) -> usize {
    msr.wrapping_sub(VARIABLE_FIRST) as usize
}

const fn fixed_index(msr: u32) -> Result<usize, Gp> {
    match msr {
        0x250 => Ok(0),
        0x258..=0x259 => Ok((msr - 0x258 + 1) as usize),
        0x268..=0x26F => Ok((msr - 0x268 + 3) as usize),
        _ => Err(Gp),
    }
}
