//! The boot information area of Multiboot and PVH guests: structures and texts, one after the
//! other, each at an address known as soon as it is added.

use super::place::Places;
use super::{GuestSpec, LoadError, Module};
use crate::config::{MAX_CMDLINE, MAX_MODULES};
use crate::layout::{BOOT_INFO_END, BOOT_INFO_START, HIGH_MEMORY};
use crate::memory::{GuestMemory, GuestPhys};
use alloc::vec::Vec;

/// The area under construction. Its first structure is the one the kernel gets in EBX.
pub struct InfoArea {
    bytes: Vec<u8>,
}

impl InfoArea {
    /// An empty area that starts with `head` bytes for the information structure.
    pub fn new(head: usize) -> Self {
        Self { bytes: [0].repeat(head) }
    }

    /// Address of the information structure.
    pub const fn start() -> u32 {
        BOOT_INFO_START as u32
    }

    /// Appends `bytes` at the next multiple of 8 and returns its address.
    pub fn add(&mut self, bytes: &[u8]) -> u32 {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let at = Self::start().saturating_add(self.bytes.len() as u32);
        self.bytes.extend_from_slice(bytes);
        at
    }

    /// Appends a C string. `field` names it in errors.
    ///
    /// # Errors
    /// [`LoadError`] when it is too long or has a NUL inside.
    pub fn add_text(&mut self, field: &'static str, text: &str) -> Result<u32, LoadError> {
        check_cmdline(field, text, MAX_CMDLINE)?;
        let at = self.add(text.as_bytes());
        self.bytes.push(0);
        Ok(at)
    }

    /// Claims the area, puts `head` at its start and writes it.
    ///
    /// # Errors
    /// [`LoadError`] when it is too long or the kernel lies on it.
    pub fn write(
        mut self,
        mem: &mut impl GuestMemory,
        places: &mut Places,
        head: &[u8],
    ) -> Result<(), LoadError> {
        let length = self.bytes.len() as u64;
        let max = BOOT_INFO_END - BOOT_INFO_START;
        if length > max {
            return Err(LoadError::TooLong { field: "boot information", length, max });
        }
        places.claim("boot information", BOOT_INFO_START, length)?;
        self.bytes.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
        mem.write(GuestPhys(BOOT_INFO_START), &self.bytes)?;
        Ok(())
    }
}

/// A module in guest memory.
pub struct PlacedModule {
    /// First byte; all of it lies below 4 GiB.
    pub start: u32,
    /// Length in bytes.
    pub size: u32,
    /// Address of its text.
    pub cmdline: u32,
}

/// Writes the initial RAM disk, if there is one, and the modules to whole pages behind the
/// kernel, where kernels of these protocols expect them.
///
/// # Errors
/// [`LoadError`] when they do not fit.
pub fn place_modules(
    mem: &mut impl GuestMemory,
    places: &mut Places,
    info: &mut InfoArea,
    spec: &GuestSpec<'_>,
    kernel_end: u64,
) -> Result<Vec<PlacedModule>, LoadError> {
    if spec.modules.len() > MAX_MODULES {
        let length = spec.modules.len() as u64;
        return Err(LoadError::TooLong { field: "modules", length, max: MAX_MODULES as u64 });
    }
    let initrd = spec.initrd.map(|data| Module { data, cmdline: "" });
    let mut placed = Vec::new();
    let mut from = kernel_end.max(HIGH_MEMORY);
    for module in initrd.iter().chain(spec.modules) {
        let start = places.lowest("module", from, module.data.len() as u64)?;
        mem.write(start, module.data)?;
        from = start.0.saturating_add(module.data.len() as u64);
        placed.push(PlacedModule {
            // `lowest` stays below 4 GiB.
            start: start.0 as u32,
            size: module.data.len() as u32,
            cmdline: info.add_text("modules.cmdline", module.cmdline)?,
        });
    }
    Ok(placed)
}

/// Whether `text` can be passed as a C string of at most `max` bytes.
pub fn check_cmdline(field: &'static str, text: &str, max: usize) -> Result<(), LoadError> {
    if text.len() > max {
        return Err(LoadError::TooLong { field, length: text.len() as u64, max: max as u64 });
    }
    match text.find('\0') {
        Some(at) => Err(LoadError::BadField {
            field,
            value: at as u64,
            want: "the position of a NUL character; remove it",
        }),
        None => Ok(()),
    }
}
