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
