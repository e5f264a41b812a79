//! ELF executables: the part that Multiboot 1 and PVH kernels have in common.
//!
//! Only the file header and the program headers count. The `elf` crate's byte-level parsers are
//! used and not its whole-file one, which would refuse a kernel for a damaged section table that
//! no loader reads, and whose errors do not say which field is wrong.

use super::LoadError;
use super::place::Places;
use crate::memory::{GuestMemory, GuestPhys};
use elf::abi;
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader, parse_ident};
use elf::note::{Note, NoteIterator};
use elf::segment::{ProgramHeader, SegmentTable};

const IDENT: usize = abi::EI_NIDENT;
/// Physical addresses of a kernel entered in 32-bit mode end here.
const LIMIT: u64 = 1 << 32;

/// Whether `image` has the ELF magic.
pub fn is_elf(image: &[u8]) -> bool {
    image.starts_with(&abi::ELFMAGIC)
}

/// An ELF executable whose file header was checked.
pub struct ElfFile<'a> {
    image: &'a [u8],
    header: FileHeader<LittleEndian>,
    segments: SegmentTable<'a, LittleEndian>,
}

impl<'a> ElfFile<'a> {
    /// Checks the file header and finds the program headers.
    ///
    /// # Errors
    /// [`LoadError`] names the header field.
    pub fn parse(image: &'a [u8]) -> Result<Self, LoadError> {
        let have = image.len() as u64;
        let truncated =
            |need: usize| LoadError::Truncated { field: "ELF header", need: need as u64, have };
        // The crate indexes this part, so it must be there.
        let ident = image.first_chunk::<IDENT>().ok_or(truncated(IDENT))?;
        check_ident(ident)?;
        let ident = parse_ident::<LittleEndian>(ident).map_err(|_| LoadError::UnknownFormat)?;
        let (header_size, entry_size) = match ident.1 {
            Class::ELF32 => (52, 32),
            Class::ELF64 => (64, 56),
        };
        let tail = image.get(IDENT..header_size).ok_or(truncated(header_size))?;
        let header = FileHeader::parse_tail(ident, tail).map_err(|_| truncated(header_size))?;
        check_header(&header, entry_size)?;
        let table = u64::from(header.e_phnum) * u64::from(entry_size);
        let bytes = slice(image, "e_phoff (program headers)", header.e_phoff, table)?;
        let segments = SegmentTable::new(LittleEndian, header.class, bytes);
        Ok(Self { image, header, segments })
    }

    /// Claims, writes and zero-fills every loadable segment. Returns the end of the highest.
    ///
    /// # Errors
    /// [`LoadError`] names the program-header field, or what the segment collides with.
    pub fn load(&self, mem: &mut impl GuestMemory, places: &mut Places) -> Result<u64, LoadError> {
        let mut highest = None;
        for segment in self.loadable() {
            let file = slice(self.image, "p_offset (segment)", segment.p_offset, segment.p_filesz)?;
            if segment.p_filesz > segment.p_memsz {
                return Err(LoadError::BadField {
                    field: "p_filesz",
                    value: segment.p_filesz,
                    want: "it must not be above p_memsz; link the kernel again",
                });
            }
            let end = segment.p_paddr.checked_add(segment.p_memsz).filter(|&end| end <= LIMIT);
            let end = end.ok_or(LoadError::BadField {
                field: "p_paddr",
                value: segment.p_paddr,
                want: "the segment must end below 4 GiB; link the kernel lower",
            })?;
            places.claim("p_paddr (segment)", segment.p_paddr, segment.p_memsz)?;
            mem.write(GuestPhys(segment.p_paddr), file)?;
            // The sum was checked above, and the file part is not longer than the memory part.
            let bss = GuestPhys(segment.p_paddr + segment.p_filesz);
            mem.zero(bss, segment.p_memsz - segment.p_filesz)?;
            highest = highest.max(Some(end));
        }
        highest.ok_or(LoadError::BadField {
            field: "e_phnum",
            value: u64::from(self.header.e_phnum),
            want: "no loadable segment among them; link the kernel as an executable",
        })
    }

    /// The physical address of the entry point. `e_entry` is a virtual address in kernels linked
    /// high; where no segment is at that virtual address it is taken as physical.
    ///
    /// # Errors
    /// [`LoadError`] when it lies in no segment.
    pub fn entry(&self) -> Result<u32, LoadError> {
        let entry = self.header.e_entry;
        let inside = |start: u64, size: u64| entry.checked_sub(start).filter(|&at| at < size);
        let by_virtual =
            self.loadable().find_map(|s| s.p_paddr.checked_add(inside(s.p_vaddr, s.p_memsz)?));
        let by_physical =
            || self.loadable().find_map(|s| s.p_paddr.checked_add(inside(s.p_paddr, s.p_memsz)?));
        by_virtual.or_else(by_physical).and_then(|at| u32::try_from(at).ok()).ok_or(
            LoadError::BadField {
                field: "e_entry",
                value: entry,
                want: "it lies in no segment below 4 GiB; set the entry point in the linker script",
            },
        )
    }

    /// Checks that physical address `entry`, given by `field`, lies in a segment.
    ///
    /// # Errors
    /// [`LoadError::BadField`].
    pub fn check_physical(&self, field: &'static str, entry: u32) -> Result<(), LoadError> {
        let entry = u64::from(entry);
        let inside = |s: ProgramHeader| {
            entry.checked_sub(s.p_paddr).is_some_and(|offset| offset < s.p_memsz)
        };
        if self.loadable().any(inside) {
            return Ok(());
        }
        let want = "it lies in no segment; give the physical address of the entry point";
        Err(LoadError::BadField { field, value: entry, want })
    }

    /// The first note with this name (without its NUL) and type.
    pub fn note(&self, name: &str, kind: u64) -> Option<&'a [u8]> {
        self.segments.iter().filter(|segment| segment.p_type == abi::PT_NOTE).find_map(|segment| {
            let data =
                slice(self.image, "p_offset (notes)", segment.p_offset, segment.p_filesz).ok()?;
            let align = if segment.p_align == 8 { 8 } else { 4 };
            NoteIterator::new(LittleEndian, self.header.class, align, data).find_map(|note| {
                match note {
                    Note::Unknown(note)
                        if note.n_type == kind
                            && note.name_str().is_ok_and(|found| found == name) =>
                    {
                        Some(note.desc)
                    }
                    _ => None,
                }
            })
        })
    }

    fn loadable(&self) -> impl Iterator<Item = ProgramHeader> {
        self.segments.iter().filter(|s| s.p_type == abi::PT_LOAD && s.p_memsz > 0)
    }
}

fn check_ident(ident: &[u8; IDENT]) -> Result<(), LoadError> {
    let [_, _, _, _, class, data, version, ..] = *ident;
    let bad =
        |field, value: u8, want| Err(LoadError::BadField { field, value: value.into(), want });
    if !is_elf(ident) {
        return Err(LoadError::UnknownFormat);
    }
    if class != abi::ELFCLASS32 && class != abi::ELFCLASS64 {
        return bad("EI_CLASS", class, "1 (32-bit) or 2 (64-bit) is expected");
    }
    if data != abi::ELFDATA2LSB {
        return bad("EI_DATA", data, "1 (little-endian) is expected");
    }
    if version != abi::EV_CURRENT {
        return bad("EI_VERSION", version, "1 is expected");
    }
    Ok(())
}

fn check_header(header: &FileHeader<LittleEndian>, entry_size: u16) -> Result<(), LoadError> {
    let bad =
        |field, value: u16, want| Err(LoadError::BadField { field, value: value.into(), want });
    if header.e_type != abi::ET_EXEC {
        return bad("e_type", header.e_type, "2 (executable) is expected; link with --no-pie");
    }
    if header.e_machine != abi::EM_386 && header.e_machine != abi::EM_X86_64 {
        return bad("e_machine", header.e_machine, "3 (i386) or 62 (x86-64) is expected");
    }
    if header.e_phentsize != entry_size {
        return bad("e_phentsize", header.e_phentsize, "it does not fit the class of the file");
    }
    if header.e_phnum == 0 {
        return bad("e_phnum", 0, "a kernel has at least one program header");
    }
    Ok(())
}

fn slice<'a>(
    image: &'a [u8],
    field: &'static str,
    start: u64,
    size: u64,
) -> Result<&'a [u8], LoadError> {
    let end = start.saturating_add(size);
    let bytes = usize::try_from(start).ok().zip(usize::try_from(end).ok());
    bytes.and_then(|(start, end)| image.get(start..end)).ok_or(LoadError::Truncated {
        field,
        need: end,
        have: image.len() as u64,
    })
}
