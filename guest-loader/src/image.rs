//! Kernel images: which format one has, and how it is placed in guest memory.
//!
//! The hypervisor calls [`load`] when a VM starts; the tool calls it on
//! [`crate::memory::SparseMemory`] to judge an image before it is booted. Every number in an
//! image is the guest owner's and is checked; an image that cannot be loaded gives a
//! [`LoadError`] that names the field.

mod elf_file;
mod error;
mod info_area;
mod linux;
mod multiboot1;
mod place;
mod pvh;

pub use error::LoadError;

use crate::entry::CpuEntry;
use crate::memory::{GuestMemory, GuestPhys};
use core::fmt;

/// A format that can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Linux bzImage with a 64-bit entry.
    Linux,
    /// ELF with a Multiboot 1 header.
    Multiboot1,
    /// ELF with a PVH entry note.
    Pvh,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linux => "Linux bzImage",
            Self::Multiboot1 => "Multiboot 1 ELF",
            Self::Pvh => "PVH ELF",
        })
    }
}

/// All that is loaded into one VM.
#[derive(Clone, Copy, Debug)]
pub struct GuestSpec<'a> {
    /// The kernel file.
    pub kernel: &'a [u8],
    /// The initial RAM disk. Multiboot and PVH get it as the first module.
    pub initrd: Option<&'a [u8]>,
    /// Modules (Multiboot 1 and PVH).
    pub modules: &'a [Module<'a>],
    /// Kernel command line.
    pub cmdline: &'a str,
    /// What the boot tables say about the machine.
    pub platform: &'a Platform,
}

/// A module for the guest kernel.
#[derive(Clone, Copy, Debug)]
pub struct Module<'a> {
    /// Its content.
    pub data: &'a [u8],
    /// The text that accompanies it.
    pub cmdline: &'a str,
}

/// The virtual machine as boot tables describe it.
#[derive(Clone, Copy, Debug)]
pub struct Platform {
    /// Number of vCPUs.
    pub vcpus: u32,
    /// The ACPI root pointer, from [`crate::acpi::build`].
    pub rsdp: GuestPhys,
}

/// The format of `kernel`. bzImage is looked for first, then Multiboot 1, then PVH; an ELF with
/// both headers is a Multiboot kernel, as other loaders have it.
///
/// # Errors
/// [`LoadError::UnknownFormat`], or what is wrong with the only header found.
pub fn detect(kernel: &[u8]) -> Result<Format, LoadError> {
    if linux::is_bzimage(kernel) {
        return Ok(Format::Linux);
    }
    if !elf_file::is_elf(kernel) {
        return Err(LoadError::UnknownFormat);
    }
    match multiboot1::find_header(kernel) {
        Ok(Some(_)) => Ok(Format::Multiboot1),
        // Without a header at all it may be PVH; with a broken one and no note, report that one.
        Ok(None) => match pvh::find_entry(kernel)? {
            Some(_) => Ok(Format::Pvh),
            None => Err(LoadError::NoEntry),
        },
        Err(broken) => match pvh::find_entry(kernel) {
            Ok(Some(_)) => Ok(Format::Pvh),
            _ => Err(broken),
        },
    }
}

/// Places the kernel and all that goes with it in `mem` and builds its boot tables.
///
/// `mem` is expected to be zero where nothing was written before.
///
/// # Errors
/// [`LoadError`]; guest memory is then in an unspecified state.
pub fn load(mem: &mut impl GuestMemory, spec: &GuestSpec<'_>) -> Result<CpuEntry, LoadError> {
    match detect(spec.kernel)? {
        Format::Linux => linux::load(mem, spec),
        Format::Multiboot1 => multiboot1::load(mem, spec),
        Format::Pvh => pvh::load(mem, spec),
    }
}
