//! What a virtual machine is and how it is loaded.
//!
//! - [`config`]: the configuration that the `beeline` tool packs and the image unpacks.
//! - [`layout`], [`memory`]: the guest-physical map, and the door through which guest memory is written.
//! - [`image`]: Linux bzImage, Multiboot 1 and PVH kernels, and their boot tables.
//! - [`acpi`]: the ACPI tables a guest finds.
//! - [`entry`]: the processor state a loaded image starts in.
//!
//! Starting a VM is three calls: [`acpi::build`], then [`image::load`], then
//! [`entry::CpuEntry::state`] for its first vCPU.
//! Everything here is pure computation: no unsafe code, no hardware, no locks.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod acpi;
pub mod config;
mod crc32;
pub mod entry;
pub mod image;
pub mod layout;
pub mod memory;

/// One name for "this many vCPUs at most", shared by the configuration check and the ACPI tables.
///
/// All APIC ids stay below 255, so xAPIC destinations and MADT type 0 entries reach every vCPU.
pub const MAX_VCPUS: usize = 64;
