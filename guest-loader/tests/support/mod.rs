//! Builders of minimal images, and a reader of what was loaded. Used by the image tests.
#![allow(dead_code, reason = "each test program uses its part")]

use guest_loader::entry::CpuEntry;
use guest_loader::image::{GuestSpec, LoadError, Platform, load};
use guest_loader::memory::{GuestMemory, GuestPhys, SparseMemory};

pub const M: u64 = 1 << 20;
pub const PLATFORM: Platform = Platform { vcpus: 2, rsdp: GuestPhys(0xE_0000) };

pub fn spec(kernel: &[u8]) -> GuestSpec<'_> {
    GuestSpec { kernel, initrd: None, modules: &[], cmdline: "console=ttyS0", platform: &PLATFORM }
}

pub fn load_into(size: u64, spec: &GuestSpec<'_>) -> Result<(CpuEntry, SparseMemory), LoadError> {
    let mut mem = SparseMemory::new(size);
    load(&mut mem, spec).map(|entry| (entry, mem))
}

pub fn bytes(mem: &SparseMemory, at: u64, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    mem.read(GuestPhys(at), &mut bytes).unwrap();
    bytes
}

pub fn u32_at(mem: &SparseMemory, at: u64) -> u32 {
    u32::from_le_bytes(bytes(mem, at, 4).try_into().unwrap())
}

pub fn u64_at(mem: &SparseMemory, at: u64) -> u64 {
    u64::from_le_bytes(bytes(mem, at, 8).try_into().unwrap())
}

pub fn text_at(mem: &SparseMemory, at: u64) -> String {
    let end = (at..).find(|&at| bytes(mem, at, 1) == [0]).unwrap();
    String::from_utf8(bytes(mem, at, (end - at) as usize)).unwrap()
}

pub fn put(image: &mut [u8], at: usize, value: &[u8]) {
    image[at..at + value.len()].copy_from_slice(value);
}

pub const SETUP: usize = 5 * 512;
pub const PAYLOAD: usize = 0x2000;

/// A bzImage of protocol 2.15 for 16 MiB, whose payload is a recognisable pattern.
pub fn bzimage() -> Vec<u8> {
    let mut image = vec![0; SETUP];
    image[0x1EF] = 0xFF; // sentinel: must not reach the zero page
    image[0x1F1] = 4;
    put(&mut image, 0x1F4, &((PAYLOAD / 16) as u32).to_le_bytes());
    put(&mut image, 0x1FE, &0xAA55u16.to_le_bytes());
    put(&mut image, 0x200, &[0xEB, 0x6A]); // jump to 0x26c
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x020Fu16.to_le_bytes());
    image[0x211] = 1;
    put(&mut image, 0x22C, &0x7FFF_FFFFu32.to_le_bytes());
    put(&mut image, 0x230, &0x20_0000u32.to_le_bytes());
    image[0x234] = 1;
    put(&mut image, 0x236, &1u16.to_le_bytes());
    put(&mut image, 0x238, &2047u32.to_le_bytes());
    put(&mut image, 0x258, &(16 * M).to_le_bytes());
    put(&mut image, 0x260, &(8 * M as u32).to_le_bytes());
    put(&mut image, 0x268, &0x1234_5678u32.to_le_bytes()); // kernel_info_offset
    image.extend((0..PAYLOAD).map(|at| (at / 7) as u8));
    image
}

pub struct Load {
    pub paddr: u64,
    pub vaddr: u64,
    pub memsz: u64,
    pub data: Vec<u8>,
}

impl Load {
    pub fn at(paddr: u64, data: Vec<u8>) -> Self {
        Self { paddr, vaddr: paddr, memsz: data.len() as u64 + 0x100, data }
    }
}

/// Offset of program header `index`, and of the content behind `count` headers.
pub fn phdr_at(wide: bool, index: usize) -> usize {
    if wide { 64 + 56 * index } else { 52 + 32 * index }
}

/// An ELF executable: `wide` for ELF64. `note` becomes a PT_NOTE segment.
pub fn elf(wide: bool, entry: u64, loads: &[Load], note: Option<&[u8]>) -> Vec<u8> {
    let number = |value: u64| {
        if wide { value.to_le_bytes().to_vec() } else { (value as u32).to_le_bytes().to_vec() }
    };
    let count = loads.len() + usize::from(note.is_some());
    let content = phdr_at(wide, count);
    let mut image = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    image[4] = 1 + u8::from(wide);
    image.extend(2u16.to_le_bytes());
    image.extend(if wide { 62u16 } else { 3 }.to_le_bytes());
    image.extend(1u32.to_le_bytes());
    image.extend(number(entry));
    image.extend(number(phdr_at(wide, 0) as u64));
    image.extend(number(u64::MAX)); // no loader may care about sections
    image.extend(0u32.to_le_bytes());
    let entry_size = if wide { 56u16 } else { 32 };
    for half in [phdr_at(wide, 0) as u16, entry_size, count as u16, 0, 0, 0] {
        image.extend(half.to_le_bytes());
    }
    let mut offset = content as u64;
    let mut header = |kind: u32, vaddr, paddr, filesz: u64, memsz| {
        let flags = 7u32.to_le_bytes();
        image.extend(kind.to_le_bytes());
        if wide {
            image.extend(flags);
        }
        for value in [offset, vaddr, paddr, filesz, memsz] {
            image.extend(number(value));
        }
        if !wide {
            image.extend(flags);
        }
        image.extend(number(4));
        offset += filesz;
    };
    for load in loads {
        header(1, load.vaddr, load.paddr, load.data.len() as u64, load.memsz);
    }
    if let Some(note) = note {
        header(4, 0, 0, note.len() as u64, note.len() as u64);
    }
    assert_eq!(image.len(), content);
    loads.iter().for_each(|load| image.extend(&load.data));
    image.extend(note.unwrap_or_default());
    image
}

/// Code of a Multiboot kernel: its header with `flags`, then a pattern.
pub fn multiboot_code(flags: u32) -> Vec<u8> {
    let magic = 0x1BAD_B002u32;
    let checksum = 0u32.wrapping_sub(magic).wrapping_sub(flags);
    let mut code = Vec::new();
    [magic, flags, checksum].iter().for_each(|word| code.extend(word.to_le_bytes()));
    code.extend([0xF4; 0x800]);
    code
}

pub fn multiboot(wide: bool) -> Vec<u8> {
    elf(wide, M + 0x10, &[Load::at(M, multiboot_code(0b11))], None)
}

pub fn pvh_note(desc: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    [4u32, desc.len() as u32, 18].iter().for_each(|word| note.extend(word.to_le_bytes()));
    note.extend(b"Xen\0");
    note.extend(desc);
    note
}

pub fn pvh() -> Vec<u8> {
    let note = pvh_note(&(M + 0x40).to_le_bytes());
    elf(true, 0xFFFF_FFFF_8100_0000, &[Load::at(M, vec![0x90; 0x900])], Some(&note))
}

/// Every error says what is wrong and what to do: a field, then its trouble.
pub fn names_a_field(error: &LoadError) -> bool {
    let text = error.to_string();
    match error {
        LoadError::UnknownFormat | LoadError::NoEntry => text.starts_with("kernel: "),
        LoadError::Truncated { field, .. }
        | LoadError::BadField { field, .. }
        | LoadError::UnknownFlag { field, .. }
        | LoadError::TooLong { field, .. }
        | LoadError::NoRoom { what: field, .. }
        | LoadError::Overlap { what: field, .. } => !field.is_empty() && text.starts_with(field),
        LoadError::Memory(_) => text.starts_with("guest memory: "),
    }
}
