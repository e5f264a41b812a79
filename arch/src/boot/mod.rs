//! How the image gets control: the Multiboot2 entry of the boot core, the boot information, and
//! the trampoline of the other cores. Multiboot2 specification 2.0; SDM volume 3, section 9.4.

#[cfg(target_os = "none")]
mod entry;
mod info;
#[cfg(target_os = "none")]
mod trampoline;

pub use info::{BootInfo, Image, Module, first_heap, free, parse};
#[cfg(target_os = "none")]
pub use trampoline::start_core;

/// Page of conventional memory that the trampoline takes.
pub const TRAMPOLINE: u64 = 0x8000;

/// There are no cores to start on a host.
///
/// # Errors
/// Always.
#[cfg(not(target_os = "none"))]
pub fn start_core(
    _: u32,
    _: crate::apic::PhysicalApicId,
    _: u64,
    _: fn(u32) -> !,
) -> Result<(), &'static str> {
    Err("not on a bare machine")
}
