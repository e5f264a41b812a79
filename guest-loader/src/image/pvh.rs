//! PVH kernels: ELF with the note XEN_ELFNOTE_PHYS32_ENTRY, as Linux `vmlinux` and many small
//! kernels have it (Xen, docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h).

use super::elf_file::ElfFile;
use super::info_area::{InfoArea, place_modules};
use super::place::Places;
use super::{GuestSpec, LoadError};
use crate::entry::CpuEntry;
use crate::layout;
use crate::memory::GuestMemory;
use alloc::vec::Vec;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes};

const NOTE_NAME: &str = "Xen";
/// XEN_ELFNOTE_PHYS32_ENTRY.
const NOTE_PHYS32_ENTRY: u64 = 18;
const START_MAGIC: u32 = 0x336E_C578;

/// `struct hvm_start_info`, version 1 (the first with a memory map).
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct StartInfo {
    magic: U32,
    version: U32,
    flags: U32,
    nr_modules: U32,
    modlist: U64,
    cmdline: U64,
    rsdp: U64,
    memmap: U64,
    memmap_entries: U32,
    reserved: U32,
}
const _: () = assert!(size_of::<StartInfo>() == 56);

/// `struct hvm_modlist_entry`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ModuleEntry {
    start: U64,
    size: U64,
    cmdline: U64,
    reserved: U64,
}

/// `struct hvm_memmap_table_entry`.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct MapEntry {
    start: U64,
    size: U64,
    kind: U32,
    reserved: U32,
}

/// The physical entry point that the note of `image` gives, `None` where it has no such note.
///
/// # Errors
/// [`LoadError`] for a broken ELF header or note.
pub fn find_entry(image: &[u8]) -> Result<Option<u32>, LoadError> {
    let Some(desc) = ElfFile::parse(image)?.note(NOTE_NAME, NOTE_PHYS32_ENTRY) else {
        return Ok(None);
    };
    // Four bytes, or eight in kernels that emit it as a pointer.
    let value = match (desc.as_array::<8>(), desc.as_array::<4>()) {
        (Some(long), _) => u64::from_le_bytes(*long),
        (_, Some(short)) => u64::from(u32::from_le_bytes(*short)),
        _ => {
            return Err(LoadError::BadField {
                field: "PHYS32_ENTRY note size",
                value: desc.len() as u64,
                want: "4 or 8 bytes are expected",
            });
        }
    };
    u32::try_from(value).map(Some).map_err(|_| LoadError::BadField {
        field: "PHYS32_ENTRY note",
        value,
        want: "it must be a physical address below 4 GiB",
    })
}

/// Loads a PVH kernel.
///
/// # Errors
/// [`LoadError`].
pub fn load(mem: &mut impl GuestMemory, spec: &GuestSpec<'_>) -> Result<CpuEntry, LoadError> {
    let eip = find_entry(spec.kernel)?.ok_or(LoadError::NoEntry)?;
    let elf = ElfFile::parse(spec.kernel)?;
    elf.check_physical("PHYS32_ENTRY note", eip)?;
    let mut places = Places::new(mem.ram());
    let kernel_end = elf.load(mem, &mut places)?;

    let mut area = InfoArea::new(size_of::<StartInfo>());
    let modules: Vec<ModuleEntry> = place_modules(mem, &mut places, &mut area, spec, kernel_end)?
        .into_iter()
        .map(|module| ModuleEntry {
            start: u64::from(module.start).into(),
            size: u64::from(module.size).into(),
            cmdline: u64::from(module.cmdline).into(),
            reserved: 0.into(),
        })
        .collect();
    let map: Vec<MapEntry> = layout::e820(mem.ram())
        .iter()
        .map(|entry| MapEntry {
            start: entry.start.0.into(),
            size: entry.size.into(),
            kind: (entry.kind as u32).into(),
            reserved: 0.into(),
        })
        .collect();
    let info = StartInfo {
        magic: START_MAGIC.into(),
        version: 1.into(),
        flags: 0.into(),
        nr_modules: (modules.len() as u32).into(),
        modlist: u64::from(area.add(modules.as_bytes())).into(),
        cmdline: u64::from(area.add_text("cmdline", spec.cmdline)?).into(),
        rsdp: spec.platform.rsdp.0.into(),
        memmap: u64::from(area.add(map.as_bytes())).into(),
        memmap_entries: (map.len() as u32).into(),
        reserved: 0.into(),
    };
    area.write(mem, &mut places, info.as_bytes())?;
    Ok(CpuEntry::Protected32 { eip, eax: 0, ebx: InfoArea::start() })
}
