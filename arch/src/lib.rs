//! x86-64 mechanism without policy: what the hardware can do, behind safe doors where that is
//! possible. The one crate of the image where unsafe code lives.
//!
//! Policy (who runs, what a guest may do) is in the `hypervisor` crate; layouts and pure rules
//! are in `arch_defs`.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod acpi;
pub mod apic;
pub mod backtrace;
pub mod boot;
pub mod cpu;
pub mod heap;
pub mod ioapic;
pub mod iommu;
pub mod log_memory;
pub mod machine;
pub mod paging;
pub mod pci;
pub mod rtc;
pub mod serial;
pub mod stage2;
pub mod tables;
pub mod time;
pub mod virt;
