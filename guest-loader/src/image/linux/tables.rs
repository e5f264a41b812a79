//! The page tables and the GDT that a 64-bit Linux entry starts on. The kernel replaces both.

use super::super::LoadError;
use crate::layout::{IDENTITY_GIB, LINUX_GDT, LINUX_PAGE_TABLES, PAGE};
use crate::memory::{GuestMemory, GuestPhys};
use alloc::vec::Vec;

/// Null, null, flat 64-bit code at 0x10, flat data at 0x18: `__BOOT_CS` and `__BOOT_DS` of the
/// boot protocol.
const GDT: [u64; 4] = [0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF];
/// Limit of the GDT: its size in bytes less one.
pub const GDT_LIMIT: u16 = (size_of_val(&GDT) - 1) as u16;

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;
const ENTRIES: u64 = 512;

/// Writes the GDT, and page tables that map the first [`IDENTITY_GIB`] GiB to themselves in
/// 2 MiB pages (SDM vol. 3, 4.5.4).
///
/// # Errors
/// [`LoadError::Memory`] when the VM has no RAM there.
pub fn write(mem: &mut impl GuestMemory) -> Result<(), LoadError> {
    mem.write(GuestPhys(LINUX_GDT), &to_bytes(GDT))?;
    let pdpt = LINUX_PAGE_TABLES + PAGE;
    let directories = pdpt + PAGE;
    let mut tables = to_bytes([pdpt | PRESENT_WRITABLE]);
    tables.resize(PAGE as usize, 0);
    tables.extend(to_bytes(
        (0..IDENTITY_GIB).map(|gib| (directories + gib * PAGE) | PRESENT_WRITABLE),
    ));
    tables.resize(2 * PAGE as usize, 0);
    tables.extend(to_bytes(
        (0..IDENTITY_GIB * ENTRIES).map(|page| (page << 21) | PRESENT_WRITABLE | LARGE),
    ));
    mem.write(GuestPhys(LINUX_PAGE_TABLES), &tables)?;
    Ok(())
}

fn to_bytes(words: impl IntoIterator<Item = u64>) -> Vec<u8> {
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}
