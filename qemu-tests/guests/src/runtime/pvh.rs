//! The PVH boot protocol, seen from the kernel: the state at entry and `hvm_start_info`. Xen, docs/misc/pvh.pandoc and
//! public/arch-x86/hvm/start_info.h.

#![expect(unsafe_code, reason = "reads what the boot loader left in memory")]

use super::boot::{BootInfo, MAX_MODULES, Module};
use core::cell::UnsafeCell;

/// First word of the structure.
pub const MAGIC: u64 = 0x336E_C578;
/// A line of the memory map that is free RAM.
pub const RAM: u32 = 1;

/// Registers at the PVH entry, written by the start-up code in this order.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct EntryState {
    pub eflags: u32,
    pub cr0: u32,
    pub cr4: u32,
    pub efer: u32,
    pub ebx: u32,
}

#[repr(transparent)]
pub struct Entry(UnsafeCell<EntryState>);
// SAFETY: written before any Rust code runs, read-only afterwards.
unsafe impl Sync for Entry {}

/// Where the start-up code leaves them.
pub static ENTRY: Entry =
    Entry(UnsafeCell::new(EntryState { eflags: 0, cr0: 0, cr4: 0, efer: 0, ebx: 0 }));

/// The registers at the PVH entry; `None` after another protocol's.
pub fn entry_state() -> Option<EntryState> {
    // SAFETY: read-only by now.
    let state = unsafe { *ENTRY.0.get() };
    (state.ebx != 0).then_some(state)
}

/// `struct hvm_start_info`, version 1.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct StartInfo {
    pub magic: u32,
    pub version: u32,
    pub flags: u32,
    nr_modules: u32,
    modlist: u64,
    cmdline: u64,
    pub rsdp: u64,
    memmap: u64,
    memmap_entries: u32,
    reserved: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct ModuleEntry {
    start: u64,
    size: u64,
    line: u64,
    reserved: u64,
}

/// `struct hvm_memmap_table_entry`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MapEntry {
    pub start: u64,
    pub size: u64,
    pub kind: u32,
    reserved: u32,
}

impl StartInfo {
    /// Reads the structure at `address`.
    ///
    /// # Safety
    /// `address` is what a PVH loader passed in EBX.
    pub unsafe fn read(address: u64) -> Self {
        // SAFETY: the loader's structures are in identity-mapped memory.
        unsafe { (address as *const Self).read_unaligned() }
    }

    /// The lines of the memory map.
    pub fn map(&self) -> impl Iterator<Item = MapEntry> {
        let (base, count) = (self.memmap as *const MapEntry, self.memmap_entries as usize);
        // SAFETY: as for `read`, which alone makes a `StartInfo`.
        (0..count).map(move |index| unsafe { base.add(index).read_unaligned() })
    }

    fn modules(&self) -> impl Iterator<Item = ModuleEntry> {
        let (base, count) = (self.modlist as *const ModuleEntry, self.nr_modules as usize);
        // SAFETY: as above.
        (0..count).map(move |index| unsafe { base.add(index).read_unaligned() })
    }
}

/// Copies what the structure at `address` says.
///
/// # Safety
/// `address` is what a PVH loader passed in EBX.
pub unsafe fn copy_info(address: u64, info: &mut BootInfo) {
    // SAFETY: the caller's promise; the command line is a C string in identity-mapped memory.
    let start = unsafe {
        let start = StartInfo::read(address);
        if start.cmdline != 0 {
            info.copy_line(start.cmdline);
        }
        start
    };
    info.module_count = start.nr_modules as usize;
    for (kept, found) in info.modules[..MAX_MODULES].iter_mut().zip(start.modules()) {
        *kept = Module { start: found.start, end: found.start + found.size, line: found.line };
    }
    for entry in start.map().filter(|entry| entry.kind == RAM) {
        info.add_ram(entry.start, entry.size);
    }
}
