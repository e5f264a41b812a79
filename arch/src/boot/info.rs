//! The Multiboot2 boot information, copied out before its memory is given away. Multiboot2
//! specification 2.0, section 3.6.

#![expect(unsafe_code, reason = "reads what the boot loader left in memory")]

use crate::acpi::RootTable;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;
use multiboot2::{BootInformation, BootInformationHeader, MAGIC, MemoryAreaType};

/// Bytes below 1 MiB belong to firmware, the trampoline and the boot loader's leftovers.
const LOW_MEMORY: u64 = 0x10_0000;

/// A file that the boot loader loaded beside the image.
#[derive(Clone, Debug)]
pub struct Module {
    /// First word of its command line.
    pub name: String,
    /// Contents.
    pub data: &'static [u8],
}

impl Module {
    /// Physical addresses.
    pub fn range(&self) -> Range<u64> {
        let start = self.data.as_ptr() as u64;
        start..start + self.data.len() as u64
    }
}

/// The image's own place in memory, from the linker.
#[derive(Clone, Debug)]
pub struct Image {
    /// Everything, stacks included.
    pub all: Range<u64>,
    /// Code.
    pub text: Range<u64>,
    /// Constants.
    pub rodata: Range<u64>,
    /// Variables.
    pub data: Range<u64>,
    /// The page below the boot stack, left unmapped.
    pub guard: Range<u64>,
}

/// What the boot loader said.
#[derive(Debug)]
pub struct BootInfo {
    /// Command line.
    pub cmdline: String,
    /// Modules, in order.
    pub modules: Vec<Module>,
    /// RAM, sorted; nothing of it is free before `free` says so.
    pub ram: Vec<Range<u64>>,
    /// ACPI root.
    pub acpi: RootTable,
    /// The boot information itself.
    pub info: Range<u64>,
}

#[cfg(target_os = "none")]
unsafe extern "C" {
    static __image_start: u8;
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __boot_stack_guard: u8;
    static __image_end: u8;
}

impl Image {
    /// Where the linker put the image; nowhere on a host.
    #[cfg(not(target_os = "none"))]
    pub const fn here() -> Self {
        Self { all: 0..0, text: 0..0, rodata: 0..0, data: 0..0, guard: 0..0 }
    }

    /// Where the linker put the image.
    #[cfg(target_os = "none")]
    pub fn here() -> Self {
        let at = |symbol: *const u8| symbol as u64;
        let guard = at(&raw const __boot_stack_guard);
        Self {
            all: at(&raw const __image_start)..at(&raw const __image_end),
            text: at(&raw const __text_start)..at(&raw const __text_end),
            rodata: at(&raw const __rodata_start)..at(&raw const __rodata_end),
            data: at(&raw const __data_start)..at(&raw const __image_end),
            guard: guard..guard + 4096,
        }
    }
}

/// RAM areas and reserved spans that a first heap can be cut from without allocating. Used
/// before there is a heap: finds the largest free span below 4 GiB.
///
/// # Errors
/// What is wrong with the boot information.
pub fn first_heap(
    magic: u32,
    address: u64,
    image: &Range<u64>,
) -> Result<Range<u64>, &'static str> {
    let info = load(magic, address)?;
    let map = info.memory_map_tag().ok_or("the boot loader gave no memory map (tag 6)")?;
    let mut best = 0..0;
    for area in map.memory_areas() {
        if area.typ() != MemoryAreaType::Available {
            continue;
        }
        let end = area.start_address().saturating_add(area.size()).min(4 << 30);
        let mut at = area.start_address().max(LOW_MEMORY);
        // Walk over the spans in use, lowest first.
        while at < end {
            let used = spans(&info, address, image).filter(|s| s.end > at).min_by_key(|s| s.start);
            let stop = used.as_ref().map_or(end, |s| s.start.clamp(at, end));
            if stop - at > best.end - best.start {
                best = at..stop;
            }
            at = used.map_or(end, |s| s.end).max(stop);
        }
    }
    if best.end - best.start < 16 << 20 {
        return Err("less than 16 MiB of free memory below 4 GiB");
    }
    Ok(best)
}

fn spans<'a>(
    info: &'a BootInformation<'a>,
    address: u64,
    image: &Range<u64>,
) -> impl Iterator<Item = Range<u64>> + 'a {
    let own = [image.clone(), address..info.end_address() as u64, crate::log_memory::RANGE];
    let modules =
        info.module_tags().map(|m| u64::from(m.start_address())..u64::from(m.end_address()));
    own.into_iter().chain(modules).map(|s| s.start & !4095..s.end.next_multiple_of(4096))
}

fn load<'a>(magic: u32, address: u64) -> Result<BootInformation<'a>, &'static str> {
    if magic != MAGIC {
        return Err("not started by a Multiboot2 boot loader (EAX is not 0x36d76289)");
    }
    // SAFETY: a Multiboot2 loader passes the address of its information, which the boot page
    // tables map; the crate checks size, alignment and end tag.
    unsafe { BootInformation::load(address as *const BootInformationHeader) }
        .map_err(|_| "the Multiboot2 information is malformed")
}

/// Copies the boot information out. Needs a heap.
///
/// # Errors
/// What is missing or malformed, and what to do about it.
pub fn parse(magic: u32, address: u64) -> Result<BootInfo, String> {
    let info = load(magic, address)?;
    let map = info.memory_map_tag().ok_or("the boot loader gave no memory map (tag 6)")?;
    let mut ram: Vec<Range<u64>> = map
        .memory_areas()
        .iter()
        .filter(|area| area.typ() == MemoryAreaType::Available)
        .map(|area| area.start_address()..area.start_address().saturating_add(area.size()))
        .collect();
    ram.sort_by_key(|range| range.start);
    let cmdline = match info.command_line_tag() {
        Some(tag) => tag.cmdline().map_err(|_| "the command line is not UTF-8")?.to_string(),
        None => String::new(),
    };
    let mut modules = Vec::new();
    for tag in info.module_tags() {
        let line = tag.cmdline().map_err(|_| "a module's command line is not UTF-8")?;
        let name = line.split_whitespace().next().unwrap_or_default().to_string();
        let (start, end) = (tag.start_address(), tag.end_address());
        let len = end.checked_sub(start).ok_or_else(|| {
            format!("module \"{name}\": its end {end:#x} lies before its start {start:#x}")
        })?;
        // SAFETY: the boot loader put the module there; its memory is kept out of the heap.
        let data = unsafe { core::slice::from_raw_parts(start as *const u8, len as usize) };
        modules.push(Module { name, data });
    }
    let acpi = acpi_root(&info).ok_or(
        "the boot loader found no ACPI root pointer with a good checksum (tags 14 and 15)",
    )?;
    Ok(BootInfo { cmdline, modules, ram, acpi, info: address..info.end_address() as u64 })
}

fn acpi_root(info: &BootInformation<'_>) -> Option<RootTable> {
    let v2 = info
        .rsdp_v2_tag()
        .filter(|tag| tag.checksum_is_valid())
        .map(|tag| RootTable { address: tag.xsdt_address() as u64, revision: 2 });
    let v1 = info
        .rsdp_v1_tag()
        .filter(|tag| tag.checksum_is_valid())
        .map(|tag| RootTable { address: tag.rsdt_address() as u64, revision: 0 });
    v2.or(v1)
}

/// What of `ram` is free once the `used` spans are cut out, in whole frames, above 1 MiB.
pub fn free(ram: &[Range<u64>], used: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut used: Vec<_> =
        used.iter().map(|s| s.start & !4095..s.end.next_multiple_of(4096)).collect();
    used.sort_by_key(|s| s.start);
    let mut free = Vec::new();
    for area in ram {
        let end = area.end & !4095;
        let mut at = area.start.next_multiple_of(4096).max(LOW_MEMORY);
        for span in &used {
            if span.end <= at || span.start >= end {
                continue;
            }
            if span.start > at {
                free.push(at..span.start);
            }
            at = span.end;
        }
        if at < end {
            free.push(at..end);
        }
    }
    free
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn used_spans_are_cut_out_of_ram() {
        let ram = [0..0x9_FC00, 0x10_0000..0x100_0000, 0x1_0000_0000..0x1_4000_0000];
        let used = [0x20_0000..0x2F_F001, 0x50_0000..0x60_0000, 0x10_0000..0x10_0800];
        assert_eq!(
            free(&ram, &used),
            vec![
                0x10_1000..0x20_0000,
                0x30_0000..0x50_0000,
                0x60_0000..0x100_0000,
                0x1_0000_0000..0x1_4000_0000
            ]
        );
    }
}
