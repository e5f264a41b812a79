//! The image's own address space: identity-mapped, W^X, guard pages. SDM volume 3, chapter 4.
//!
//! Built once, on the boot core, before the others start; later changes are MMIO windows and
//! guard pages of new stacks, under the lock of [`TABLES`] (a leaf but for the heap's).

#![expect(unsafe_code, reason = "writes page tables and CR3")]

use crate::cpu;
use crate::heap::{self, FRAME};
use bitflags::bitflags;
use core::ops::Range;
use spin::Mutex;

bitflags! {
    /// What a mapping allows.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Access: u64 {
        /// Writes.
        const WRITE = 1 << 1;
        /// Uncached: device registers.
        const UNCACHED = 1 << 4 | 1 << 3;
        /// Instruction fetches.
        const EXECUTE = 1 << 63;
    }
}

const PRESENT: u64 = 1;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;
/// Page sizes by table level: 4 KiB, 2 MiB, 1 GiB.
const SIZE: [u64; 3] = [1 << 12, 1 << 21, 1 << 30];

static TABLES: Mutex<Option<Tables>> = Mutex::new(None);

/// A four-level tree of page tables.
struct Tables {
    root: u64,
    largest: usize,
}

fn new_table() -> u64 {
    // Out of memory while mapping our own image ends the boot; the heap has just been filled.
    #[expect(clippy::expect_used, reason = "boot cannot go on without its page tables")]
    let frame = heap::frame().expect("memory for page tables");
    frame.address()
}

fn entry(table: u64, level: usize, virt: u64) -> *mut u64 {
    let index = virt >> (12 + 9 * level) & 511;
    (table + index * 8) as *mut u64
}

impl Tables {
    fn new() -> Self {
        Self { root: new_table(), largest: if cpu::has_1g_pages() { 2 } else { 1 } }
    }

    /// The entry that maps `virt` at `level`, with the tables above it made or split.
    fn entry_at(&mut self, virt: u64, level: usize) -> *mut u64 {
        let mut table = self.root;
        for upper in (level + 1..=3).rev() {
            let slot = entry(table, upper, virt);
            // SAFETY: tables are frames of ours, identity-mapped.
            let old = unsafe { slot.read_volatile() };
            table = if old & PRESENT == 0 {
                let new = new_table();
                // SAFETY: as above.
                unsafe { slot.write_volatile(new | PRESENT | Access::WRITE.bits()) };
                new
            } else if old & LARGE != 0 && upper > 0 && upper < 3 {
                let new = split(old, upper);
                // SAFETY: the new table maps the same memory in the same way.
                unsafe { slot.write_volatile(new | PRESENT | Access::WRITE.bits()) };
                new
            } else {
                old & ADDRESS
            };
        }
        entry(table, level, virt)
    }

    fn map(&mut self, range: Range<u64>, access: Access) {
        let mut at = range.start & !(FRAME - 1);
        let end = range.end.next_multiple_of(FRAME);
        while at < end {
            let level = (0..=self.largest)
                .rev()
                .find(|&level| at.is_multiple_of(SIZE[level]) && end - at >= SIZE[level])
                .unwrap_or(0);
            let large = if level > 0 { LARGE } else { 0 };
            let value = at | PRESENT | large | (access.bits() ^ NO_EXECUTE);
            let slot = self.entry_at(at, level);
            // SAFETY: the slot is in a table of ours; who maps what is the callers' decision at
            // boot, before anything depends on it.
            unsafe { slot.write_volatile(value) };
            at += SIZE[level];
        }
    }

    fn unmap_page(&mut self, page: u64) {
        let slot = self.entry_at(page, 0);
        // SAFETY: as in `map`.
        unsafe { slot.write_volatile(0) };
    }
}

/// Replaces a large page by a table of the next smaller size.
fn split(old: u64, level: usize) -> u64 {
    let new = new_table();
    let large = if level > 1 { LARGE } else { 0 };
    let flags = old & !ADDRESS & !LARGE;
    let base = old & ADDRESS & !(SIZE[level] - 1);
    for index in 0..512 {
        let value = (base + index * SIZE[level - 1]) | flags | large;
        // SAFETY: the table is a fresh frame of ours.
        unsafe { ((new + index * 8) as *mut u64).write_volatile(value) };
    }
    new
}

/// Builds the final address space from `(range, access)` pairs and switches to it. Later pairs
/// override earlier ones.
pub fn activate(mappings: &[(Range<u64>, Access)]) {
    let mut tables = Tables::new();
    for (range, access) in mappings {
        tables.map(range.clone(), *access);
    }
    let root = tables.root;
    *TABLES.lock() = Some(tables);
    enter(root);
}

/// Switches an application processor to the final address space.
pub fn join() {
    if let Some(tables) = TABLES.lock().as_ref() {
        enter(tables.root);
    }
}

/// Root of the final address space, for the trampoline. 0 before [`activate`].
pub fn root() -> u64 {
    TABLES.lock().as_ref().map_or(0, |tables| tables.root)
}

fn enter(root: u64) {
    // SAFETY: the tree maps the image, its stacks and the heap at the addresses in use; NXE is on
    // since boot, and WP makes read-only pages so for us as well.
    unsafe {
        cpu::set_cr0(cpu::cr0() | cpu::CR0_WP);
        cpu::set_cr3(root);
    }
}

/// Unmaps the page below a stack. Other cores that touched it would keep a stale translation:
/// stacks are made before anybody runs on them.
pub fn guard_page(page: u64) {
    if let Some(tables) = TABLES.lock().as_mut() {
        tables.unmap_page(page);
        // SAFETY: reloading CR3 only drops translations.
        unsafe { cpu::set_cr3(tables.root) };
    }
}

/// Changes what a mapped range allows. Other cores may keep the old rights until they next drop
/// their translations.
pub fn set_access(range: Range<u64>, access: Access) {
    if let Some(tables) = TABLES.lock().as_mut() {
        tables.map(range, access);
        // SAFETY: reloading CR3 only drops translations.
        unsafe { cpu::set_cr3(tables.root) };
    }
}

/// Maps device registers, uncached and not executable.
pub fn map_mmio(range: Range<u64>) {
    if let Some(tables) = TABLES.lock().as_mut() {
        tables.map(range, Access::WRITE | Access::UNCACHED);
    }
}
