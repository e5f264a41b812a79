//! Multiboot 1 kernels (Multiboot Specification 0.6.96), ELF only.
//!
//! The command line is passed as configured, without the file name that some loaders put first.

use super::elf_file::ElfFile;
use super::info_area::{InfoArea, place_modules};
use super::place::Places;
use super::{GuestSpec, LoadError};
use crate::entry::CpuEntry;
use crate::layout::{self, HIGH_MEMORY, HOLE_START};
use crate::memory::GuestMemory;
use alloc::vec::Vec;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes};

/// Section 3.1.1: the header lies within this many bytes.
const SEARCH: usize = 8192;
const HEADER_MAGIC: u32 = 0x1BAD_B002;
/// Section 3.2: EAX at entry.
const LOADER_MAGIC: u32 = 0x2BAD_B002;
const AOUT_KLUDGE: u32 = 1 << 16;
/// Section 3.1.2: bits 0 (aligned modules) and 1 (memory information) are always honoured; bit 2
/// only prefers a video mode, and there is no display to set one on.
const KNOWN_FLAGS: u32 = 0b111;
/// Bits 0 to 15 refuse to be ignored.
const REQUIRED_FLAGS: u32 = 0xFFFF;

/// Section 3.3. The fields behind `boot_loader_name` are announced by flags that stay zero.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct Info {
    flags: U32,
    mem_lower: U32,
    mem_upper: U32,
    boot_device: U32,
    cmdline: U32,
    mods_count: U32,
    mods_addr: U32,
    syms: [U32; 4],
    mmap_length: U32,
    mmap_addr: U32,
    drives_length: U32,
    drives_addr: U32,
    config_table: U32,
    boot_loader_name: U32,
    apm_table: U32,
    video: [U32; 11],
}
const _: () = assert!(size_of::<Info>() == 116);

/// `flags` of [`Info`]: memory sizes, command line, modules, memory map, loader name.
const INFO_FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;

#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ModuleEntry {
    start: U32,
    end: U32,
    string: U32,
    reserved: U32,
}

/// `size` does not count itself.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct MapEntry {
    size: U32,
    base: U64,
    length: U64,
    kind: U32,
}

/// The flags of the Multiboot header of `image`, `None` where it has none.
///
/// # Errors
/// A header whose checksum is wrong, when no good one follows.
pub fn find_header(image: &[u8]) -> Result<Option<u32>, LoadError> {
    let window = image.get(..SEARCH).unwrap_or(image);
    let (words, _) = window.as_chunks::<4>();
    let mut broken = None;
    for (index, word) in words.iter().enumerate() {
        if u32::from_le_bytes(*word) != HEADER_MAGIC {
            continue;
        }
        let field = |at: usize| words.get(index + at).map(|word| u32::from_le_bytes(*word));
        let (Some(flags), Some(checksum)) = (field(1), field(2)) else {
            continue;
        };
        if HEADER_MAGIC.wrapping_add(flags).wrapping_add(checksum) == 0 {
            return Ok(Some(flags));
        }
        broken = broken.or(Some(LoadError::BadField {
            field: "Multiboot checksum",
            value: checksum.into(),
            want: "magic, flags and checksum must add up to zero; correct the header",
        }));
    }
    broken.map_or(Ok(None), Err)
}

fn check_flags(flags: u32) -> Result<(), LoadError> {
    if flags & AOUT_KLUDGE != 0 {
        return Err(LoadError::BadField {
            field: "Multiboot flags",
            value: flags.into(),
            want: "bit 16 (a.out kludge) is not supported; clear it, the ELF headers are used",
        });
    }
    match flags & REQUIRED_FLAGS & !KNOWN_FLAGS {
        0 => Ok(()),
        unknown => {
            Err(LoadError::UnknownFlag { field: "Multiboot flags", bit: unknown.trailing_zeros() })
        }
    }
}

/// Loads a Multiboot 1 kernel: machine state of section 3.2, information of section 3.3.
///
/// # Errors
/// [`LoadError`].
pub fn load(mem: &mut impl GuestMemory, spec: &GuestSpec<'_>) -> Result<CpuEntry, LoadError> {
    check_flags(find_header(spec.kernel)?.ok_or(LoadError::NoEntry)?)?;
    let elf = ElfFile::parse(spec.kernel)?;
    let mut places = Places::new(mem.ram());
    let kernel_end = elf.load(mem, &mut places)?;
    let eip = elf.entry()?;

    let mut area = InfoArea::new(size_of::<Info>());
    let modules: Vec<ModuleEntry> = place_modules(mem, &mut places, &mut area, spec, kernel_end)?
        .into_iter()
        .map(|module| ModuleEntry {
            start: module.start.into(),
            end: module.start.saturating_add(module.size).into(),
            string: module.cmdline.into(),
            reserved: 0.into(),
        })
        .collect();
    let map: Vec<MapEntry> = layout::e820(mem.ram())
        .iter()
        .map(|entry| MapEntry {
            size: 20.into(),
            base: entry.start.0.into(),
            length: entry.size.into(),
            kind: (entry.kind as u32).into(),
        })
        .collect();
    let upper = places.low_end().saturating_sub(HIGH_MEMORY);
    let info = Info {
        flags: INFO_FLAGS.into(),
        mem_lower: ((HOLE_START >> 10) as u32).into(),
        mem_upper: ((upper >> 10) as u32).into(),
        cmdline: area.add_text("cmdline", spec.cmdline)?.into(),
        mods_count: (modules.len() as u32).into(),
        mods_addr: area.add(modules.as_bytes()).into(),
        mmap_length: (map.as_bytes().len() as u32).into(),
        mmap_addr: area.add(map.as_bytes()).into(),
        boot_loader_name: area.add_text("boot loader name", "Beeline")?.into(),
        ..Info::default()
    };
    area.write(mem, &mut places, info.as_bytes())?;
    Ok(CpuEntry::Protected32 { eip, eax: LOADER_MAGIC, ebx: InfoArea::start() })
}
