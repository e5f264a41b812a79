//! Linux bzImage, entered by the 64-bit boot protocol (Linux Documentation/arch/x86/boot.rst).
//!
//! The kernel goes to its preferred address: a lower one would be moved up by its decompressor, a
//! higher one gains nothing, unless the VM has no RAM there.

mod boot_params;
mod tables;

use self::boot_params::{BootParams, E820_MAX, E820Entry, HEADER_AT, SetupHeader};
use super::info_area::check_cmdline;
use super::place::Places;
use super::{GuestSpec, LoadError};
use crate::config::MAX_CMDLINE;
use crate::entry::CpuEntry;
use crate::layout::{
    self, HIGH_MEMORY, LINUX_BOOT_PARAMS, LINUX_CMDLINE, LINUX_GDT, LINUX_PAGE_TABLES,
    LINUX_STACK_TOP, LOW_RAM_END, PAGE,
};
use crate::memory::{GuestMemory, GuestPhys};
use alloc::vec::Vec;
use zerocopy::{FromBytes, IntoBytes};

const MAGIC_AT: usize = 0x202;
const MAGIC: &[u8] = b"HdrS";
const BOOT_FLAG: u16 = 0xAA55;
/// Protocol 2.12, Linux 3.8: the first with a 64-bit entry.
const OLDEST: u16 = 0x020C;
const LOADED_HIGH: u8 = 1 << 0;
const XLF_KERNEL_64: u16 = 1 << 0;
/// The 64-bit entry point, from where the protected-mode part is loaded.
const ENTRY_64: u64 = 0x200;
/// "No loader id assigned".
const LOADER_UNDEFINED: u8 = 0xFF;
const SECTOR: u64 = 512;

/// Whether `image` has the magic of a Linux boot sector.
pub fn is_bzimage(image: &[u8]) -> bool {
    image.get(MAGIC_AT..).is_some_and(|tail| tail.starts_with(MAGIC))
}

/// A bzImage whose header was checked.
struct Kernel<'a> {
    header: &'a SetupHeader,
    /// The setup header as it is in the file, to be copied to the zero page.
    header_bytes: &'a [u8],
    /// The protected-mode part.
    payload: &'a [u8],
    /// Bytes it needs from its load address until it manages its own memory.
    init_size: u64,
}

impl<'a> Kernel<'a> {
    fn parse(image: &'a [u8]) -> Result<Self, LoadError> {
        let have = image.len() as u64;
        let need = (HEADER_AT + size_of::<SetupHeader>()) as u64;
        let (header, _) = image
            .get(HEADER_AT..)
            .and_then(|tail| SetupHeader::ref_from_prefix(tail).ok())
            .ok_or(LoadError::Truncated { field: "setup header", need, have })?;
        check_header(header)?;

        // The header's length is the distance of the jump over it (boot.rst, section on the
        // 64-bit protocol); newer kernels have a longer one than the fields named here.
        let header_end = MAGIC_AT + usize::from(header.jump_offset);
        if !(HEADER_AT + size_of::<SetupHeader>()..=boot_params::HEADER_LIMIT).contains(&header_end)
        {
            return bad("jump (setup header length)", header.jump_offset.into(), "0x66 to 0x8e");
        }
        let field = "setup header";
        let header_bytes = image.get(HEADER_AT..header_end).ok_or(LoadError::Truncated {
            field,
            need: header_end as u64,
            have,
        })?;

        // Zero means four, for very old kernels; the boot sector itself is not counted.
        let sectors = if header.setup_sects == 0 { 4 } else { u64::from(header.setup_sects) };
        let setup = (sectors + 1) * SECTOR;
        // The size counts units of 16 bytes, and the last one may be incomplete. Bytes beyond it
        // are no part of the kernel (a signature, for example).
        let size = u64::from(header.syssize.get()) * 16;
        if size <= ENTRY_64 + 16 {
            return bad("syssize", header.syssize.get().into(), "too small for a kernel");
        }
        let least = setup + size - 15;
        if have < least {
            return Err(LoadError::Truncated { field: "syssize", need: least, have });
        }
        let end = (setup + size).min(have);
        let payload = image.get(setup as usize..end as usize).ok_or(LoadError::Truncated {
            field: "setup_sects",
            need: setup,
            have,
        })?;
        let init_size = u64::from(header.init_size.get()).max(payload.len() as u64);
        Ok(Self { header, header_bytes, payload, init_size })
    }

    /// Claims the kernel's place: its preferred address, or the next one above that will do.
    fn place(&self, places: &mut Places) -> Result<u64, LoadError> {
        let what = "pref_address (kernel, init_size)";
        let wanted = self.header.pref_address.get();
        match places.claim(what, wanted, self.init_size) {
            Err(LoadError::NoRoom { .. }) if self.header.relocatable_kernel != 0 => {
                // boot.rst: a relocatable kernel may be anywhere at a multiple of this.
                let align = u64::from(self.header.kernel_alignment.get()).max(PAGE);
                Ok(places.lowest_aligned(what, wanted, self.init_size, align)?.0)
            }
            claimed => claimed.map(|()| wanted),
        }
    }
}

fn bad<T>(field: &'static str, value: u64, want: &'static str) -> Result<T, LoadError> {
    Err(LoadError::BadField { field, value, want })
}

fn check_header(header: &SetupHeader) -> Result<(), LoadError> {
    if header.boot_flag.get() != BOOT_FLAG {
        return bad("boot_flag", header.boot_flag.get().into(), "0xaa55 is expected");
    }
    let version = header.version.get();
    if version < OLDEST {
        return bad("version", version.into(), "protocol 0x20c (Linux 3.8) or newer is needed");
    }
    if header.loadflags & LOADED_HIGH == 0 {
        return bad("loadflags", header.loadflags.into(), "a bzImage is needed (bit 0 set)");
    }
    if header.xloadflags.get() & XLF_KERNEL_64 == 0 {
        let value = header.xloadflags.get().into();
        return bad("xloadflags", value, "a 64-bit kernel is needed (bit 0 set)");
    }
    if header.init_size.get() == 0 {
        return bad("init_size", 0, "it must be the memory the kernel needs to start");
    }
    let alignment = u64::from(header.kernel_alignment.get());
    if !alignment.is_power_of_two() {
        return bad("kernel_alignment", alignment, "a power of two is expected");
    }
    let address = header.pref_address.get();
    if !(HIGH_MEMORY..LOW_RAM_END).contains(&address) {
        return bad("pref_address", address, "it must lie between 1 MiB and 3 GiB");
    }
    // A kernel that cannot be moved was linked to its address, whatever the alignment says.
    if header.relocatable_kernel != 0 && !address.is_multiple_of(alignment) {
        return bad("pref_address", address, "it must be a multiple of kernel_alignment");
    }
    Ok(())
}

/// Loads a bzImage with its RAM disk and builds the zero page, the page tables and the GDT.
///
/// # Errors
/// [`LoadError`].
pub fn load(mem: &mut impl GuestMemory, spec: &GuestSpec<'_>) -> Result<CpuEntry, LoadError> {
    let kernel = Kernel::parse(spec.kernel)?;
    let header = kernel.header;
    let cmdline_max = MAX_CMDLINE.min(header.cmdline_size.get() as usize);
    check_cmdline("cmdline", spec.cmdline, cmdline_max)?;
    if !spec.modules.is_empty() {
        let value = spec.modules.len() as u64;
        return bad("modules", value, "Linux takes no modules; pass them in the initrd");
    }

    let mut places = Places::new(mem.ram());
    let tables = (2 + layout::IDENTITY_GIB) * PAGE;
    for (what, start, size) in [
        ("boot GDT", LINUX_GDT, PAGE),
        ("zero page", LINUX_BOOT_PARAMS, PAGE),
        ("boot stack", LINUX_STACK_TOP - PAGE, PAGE),
        ("command line", LINUX_CMDLINE, PAGE),
        ("boot page tables", LINUX_PAGE_TABLES, tables),
    ] {
        places.claim(what, start, size)?;
    }
    let address = kernel.place(&mut places)?;
    mem.write(GuestPhys(address), kernel.payload)?;

    let initrd = spec.initrd.unwrap_or(&[]);
    let mut initrd_at = GuestPhys(0);
    if !initrd.is_empty() {
        // The field names the highest byte that may be used.
        let limit = u64::from(header.initrd_addr_max.get()) + 1;
        let floor = address.saturating_add(kernel.init_size);
        initrd_at = places.highest("initrd", floor, limit, initrd.len() as u64)?;
        mem.write(initrd_at, initrd)?;
    }

    let mut text = Vec::from(spec.cmdline);
    text.push(0);
    mem.write(GuestPhys(LINUX_CMDLINE), &text)?;
    write_zero_page(mem, spec, &kernel, address, initrd_at, initrd.len())?;
    tables::write(mem)?;
    Ok(CpuEntry::Long64 {
        // The sum stays below 3 GiB + 512.
        rip: address + ENTRY_64,
        rsi: LINUX_BOOT_PARAMS,
        rsp: LINUX_STACK_TOP,
        cr3: GuestPhys(LINUX_PAGE_TABLES),
        gdt_base: GuestPhys(LINUX_GDT),
        gdt_limit: tables::GDT_LIMIT,
    })
}

fn write_zero_page(
    mem: &mut impl GuestMemory,
    spec: &GuestSpec<'_>,
    kernel: &Kernel<'_>,
    address: u64,
    initrd: GuestPhys,
    initrd_size: usize,
) -> Result<(), LoadError> {
    let mut page = [0u8; size_of::<BootParams>()];
    // All but the setup header starts as zero, the sentinel included (boot.rst).
    let header_place = page.iter_mut().skip(HEADER_AT);
    header_place.zip(kernel.header_bytes).for_each(|(to, from)| *to = *from);
    let Ok(params) = BootParams::mut_from_bytes(&mut page) else {
        return bad("zero page", size_of::<BootParams>() as u64, "its size is 4096");
    };
    params.acpi_rsdp_addr = spec.platform.rsdp.0.into();
    params.header.type_of_loader = LOADER_UNDEFINED;
    // Both lie below 4 GiB: `highest` and the layout see to it.
    params.header.ramdisk_image = (initrd.0 as u32).into();
    params.header.ramdisk_size = (initrd_size as u32).into();
    params.header.cmd_line_ptr = (LINUX_CMDLINE as u32).into();
    params.header.code32_start = (address as u32).into();
    let map = layout::e820(mem.ram());
    params.e820_entries = map.len().min(E820_MAX) as u8;
    for (to, from) in params.e820_table.iter_mut().zip(&map) {
        *to = E820Entry {
            start: from.start.0.into(),
            size: from.size.into(),
            kind: (from.kind as u32).into(),
        };
    }
    mem.write(GuestPhys(LINUX_BOOT_PARAMS), params.as_bytes())?;
    Ok(())
}
