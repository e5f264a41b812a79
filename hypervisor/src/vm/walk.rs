//! Guest linear to guest-physical addresses, to read the instruction that caused an exit.
//!
//! Called by the MMIO exit, whose whole path has about 500 instructions; so the 4-level case is
//! four reads and a few tests each. No locks: another vCPU may change the tables meanwhile, and
//! then the bytes are those of some moment, as on hardware. SDM vol. 3A chapter "Paging", APM vol.
//! 2 chapter 5.
//!
//! Rights (user, write, no-execute) are not checked: the processor has just fetched through the
//! same entries. Neither are accessed bits set: it has set them.

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use arch::virt::ControlRegisters;

/// Guest memory by guest-physical address; anything that is not RAM of the VM is not readable.
pub trait ReadPhys {
    /// The eight bytes at `gpa`, which is a multiple of 8.
    fn read_u64(&self, gpa: u64) -> Option<u64>;
    /// The four bytes at `gpa`, which is a multiple of 4.
    fn read_u32(&self, gpa: u64) -> Option<u32>;
    /// Fills `into` from `gpa`, within one 4 KiB page; false: not all of it is readable.
    fn read_bytes(&self, gpa: u64, into: &mut [u8]) -> bool;
}

/// The guest's registers that paging depends on.
#[derive(Clone, Copy, Debug)]
pub struct PagingState {
    /// CR0 as the guest reads it: PG counts.
    pub cr0: u64,
    /// CR3: root of the tables.
    pub cr3: u64,
    /// CR4 as the guest reads it: PSE, PAE and LA57 count.
    pub cr4: u64,
    /// EFER: LMA and NXE count.
    pub efer: u64,
}

impl From<ControlRegisters> for PagingState {
    #[inline(always)]
    fn from(control: ControlRegisters) -> Self {
        Self { cr0: control.cr0, cr3: control.cr3, cr4: control.cr4, efer: control.efer }
    }
}

/// Why there is no translation. Levels count from 1, the last table, to 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    /// The entry of this level is not present.
    NotPresent(u8),
    /// The entry of this level has a reserved bit set.
    Reserved(u8),
    /// The table of this level is not in the VM's memory.
    Unreadable(u8),
    /// The linear address is not canonical.
    NonCanonical,
}

const CR0_PG: u64 = 1 << 31;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const FRAME: u64 = 0x000F_FFFF_FFFF_F000;
const PAGE: u64 = 0x1000;

/// PAE PDPTE: bits 2:1, 8:5 and 63:52. PAE entries below it: 62:52.
pub const PAE_PDPTE_RESERVED: u64 = 0xFFF0_0000_0000_01E6;
const PAE_RESERVED: u64 = 0x7FF0_0000_0000_0000;

/// The guest-physical address behind a linear one.
#[inline(always)]
pub fn translate(mem: &impl ReadPhys, state: &PagingState, linear: u64) -> Result<u64, WalkError> {
    if state.cr0 & CR0_PG == 0 {
        return Ok(linear & 0xFFFF_FFFF);
    }
    if state.efer & EFER_LMA != 0 {
        return long_mode(mem, state, linear);
    }
    let linear = linear & 0xFFFF_FFFF;
    if state.cr4 & CR4_PAE == 0 { bits32(mem, state, linear) } else { pae(mem, state, linear) }
}

/// 4-level and 5-level paging.
#[inline(always)]
fn long_mode(mem: &impl ReadPhys, state: &PagingState, linear: u64) -> Result<u64, WalkError> {
    let (root, reserved) = (state.cr3 & FRAME, reserved_nx(state));
    if state.cr4 & CR4_LA57 != 0 {
        return five_levels(mem, root, linear, reserved);
    }
    if !is_canonical(linear, 48) {
        return Err(WalkError::NonCanonical);
    }
    four_levels(mem, root, linear, reserved)
}

/// Shifting the unused bits out and, as a sign, in again changes nothing.
#[inline(always)]
const fn is_canonical(linear: u64, bits: u32) -> bool {
    let unused = 64 - bits;
    ((linear << unused) as i64 >> unused) as u64 == linear
}

/// Bit 63 of an entry is reserved while no-execute is off.
#[inline(always)]
const fn reserved_nx(state: &PagingState) -> u64 {
    if state.efer & EFER_NXE == 0 { NO_EXECUTE } else { 0 }
}

/// PAE paging: four PDPTEs at any multiple of 32 bytes, then two levels. The processor works with
/// the PDPTEs that it loaded with CR3; reading them from memory sees a later change of them, which
/// software may not rely on either.
#[inline(never)]
fn pae(mem: &impl ReadPhys, state: &PagingState, linear: u64) -> Result<u64, WalkError> {
    let root = state.cr3 & 0xFFFF_FFE0;
    let entry = mem.read_u64(root + (linear >> 30 & 3) * 8).ok_or(WalkError::Unreadable(3))?;
    if entry & PRESENT == 0 {
        return Err(WalkError::NotPresent(3));
    }
    if entry & PAE_PDPTE_RESERVED != 0 {
        return Err(WalkError::Reserved(3));
    }
    two_levels(mem, entry & FRAME, linear, PAE_RESERVED | reserved_nx(state))
}

// The levels of 512 entries each are written out, not looped over: every shift and mask is a
// constant then, and a level takes half the instructions.

#[inline(never)]
fn five_levels(
    mem: &impl ReadPhys,
    root: u64,
    linear: u64,
    reserved: u64,
) -> Result<u64, WalkError> {
    if !is_canonical(linear, 57) {
        return Err(WalkError::NonCanonical);
    }
    let fifth = entry::<5>(mem, root, linear, reserved)?;
    if fifth & LARGE != 0 {
        return Err(WalkError::Reserved(5));
    }
    four_levels(mem, fifth & FRAME, linear, reserved)
}

#[inline(always)]
fn four_levels(
    mem: &impl ReadPhys,
    root: u64,
    linear: u64,
    reserved: u64,
) -> Result<u64, WalkError> {
    let fourth = entry::<4>(mem, root, linear, reserved)?;
    if fourth & LARGE != 0 {
        return Err(WalkError::Reserved(4));
    }
    let third = entry::<3>(mem, fourth & FRAME, linear, reserved)?;
    if third & LARGE != 0 {
        return large_page::<3>(third, linear);
    }
    two_levels(mem, third & FRAME, linear, reserved)
}

#[inline(always)]
fn two_levels(
    mem: &impl ReadPhys,
    table: u64,
    linear: u64,
    reserved: u64,
) -> Result<u64, WalkError> {
    let second = entry::<2>(mem, table, linear, reserved)?;
    if second & LARGE != 0 {
        return large_page::<2>(second, linear);
    }
    // Bit 7 of a level-1 entry is PAT.
    let first = entry::<1>(mem, second & FRAME, linear, reserved)?;
    Ok(first & FRAME | linear & (PAGE - 1))
}

/// Bits of a linear address below the index into a table of this level.
const fn shift(level: u8) -> u32 {
    12 + 9 * (level as u32 - 1)
}

/// The entry for `linear` in the table of `LEVEL` at `table`, present and without reserved bits.
#[inline(always)]
fn entry<const LEVEL: u8>(
    mem: &impl ReadPhys,
    table: u64,
    linear: u64,
    reserved: u64,
) -> Result<u64, WalkError> {
    let place = table + (linear >> shift(LEVEL) & 0x1FF) * 8;
    let Some(entry) = mem.read_u64(place) else { return Err(WalkError::Unreadable(LEVEL)) };
    if entry & (PRESENT | reserved) == PRESENT {
        return Ok(entry);
    }
    Err(if entry & PRESENT == 0 {
        WalkError::NotPresent(LEVEL)
    } else {
        WalkError::Reserved(LEVEL)
    })
}

/// The address in a page of 2 MiB (level 2) or 1 GiB (level 3).
#[inline(always)]
fn large_page<const LEVEL: u8>(entry: u64, linear: u64) -> Result<u64, WalkError> {
    let within = (1 << shift(LEVEL)) - 1;
    // Bits 13 up to the page size are reserved; 12 is PAT.
    if entry & within & FRAME & !PAGE != 0 {
        return Err(WalkError::Reserved(LEVEL));
    }
    Ok(entry & FRAME & !within | linear & within)
}

/// 32-bit paging: two levels of 1024 entries, with 4 MiB pages and their 40-bit frames (PSE-36).
#[inline(never)]
fn bits32(mem: &impl ReadPhys, state: &PagingState, linear: u64) -> Result<u64, WalkError> {
    let root = state.cr3 & 0xFFFF_F000;
    let entry = mem.read_u32(root + (linear >> 22) * 4).ok_or(WalkError::Unreadable(2))?;
    let entry = u64::from(entry);
    if entry & PRESENT == 0 {
        return Err(WalkError::NotPresent(2));
    }
    if entry & LARGE != 0 && state.cr4 & CR4_PSE != 0 {
        if entry & 1 << 21 != 0 {
            return Err(WalkError::Reserved(2));
        }
        let high = (entry >> 13 & 0xFF) << 32;
        return Ok(high | entry & 0xFFC0_0000 | linear & 0x3F_FFFF);
    }
    let place = (entry & 0xFFFF_F000) + (linear >> 12 & 0x3FF) * 4;
    let entry = u64::from(mem.read_u32(place).ok_or(WalkError::Unreadable(1))?);
    if entry & PRESENT == 0 {
        return Err(WalkError::NotPresent(1));
    }
    Ok(entry & 0xFFFF_F000 | linear & 0xFFF)
}

/// Reads the instruction at the linear address CS base + RIP into `buf` and says how many bytes of
/// it are valid: 15, or fewer where the next page cannot be read; 0 where the first one cannot.
/// The caller has truncated the address to 32 bits outside 64-bit code.
#[inline(always)]
pub fn fetch(mem: &impl ReadPhys, state: &PagingState, linear: u64, buf: &mut [u8; 15]) -> usize {
    if linear % PAGE > PAGE - buf.len() as u64 {
        return fetch_across(mem, state, linear, buf);
    }
    let readable = translate(mem, state, linear).is_ok_and(|gpa| mem.read_bytes(gpa, buf));
    if readable { buf.len() } else { 0 }
}

/// [`fetch`] where fewer than 15 bytes of the page are left: page by page, since the next page's
/// frame need not be the next frame.
#[cold]
fn fetch_across(
    mem: &impl ReadPhys,
    state: &PagingState,
    linear: u64,
    buf: &mut [u8; 15],
) -> usize {
    let left = (PAGE - linear % PAGE) as usize;
    let (head, tail) = buf.split_at_mut(left.min(15));
    // At the top of the address space the next page is page 0, as the processor wraps.
    let next = linear.wrapping_add(left as u64);
    let read = |linear, part: &mut [u8]| {
        translate(mem, state, linear).is_ok_and(|gpa| mem.read_bytes(gpa, part))
    };
    if !read(linear, head) {
        return 0;
    }
    if read(next, tail) { head.len() + tail.len() } else { head.len() }
}
