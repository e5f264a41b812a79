//! Policy: virtual machines, exits, interrupts, devices, the console. No unsafe code; what
//! hardware can do is behind the doors of `arch`.
//!
//! | room | what |
//! |---|---|
//! | [`boot`] | bring-up, read top to bottom |
//! | [`vm`], [`vcpu`] | a VM and its life; a vCPU and the run loop |
//! | [`exit`] | VM exits, one file per kind |
//! | [`interrupt`] | the one door for interrupts, IPIs, kicks, the virtual part of the LAPIC |
//! | [`device`] | what a guest finds on its board |
//! | [`housekeeping`], [`console`], [`monitor`] | core 0: log, guests' consoles, lives of VMs, questions |
//! | [`assignment`] | PCI functions for VMs, at boot |
//! | [`memory`], [`cores`], [`stats`], [`sync`] | RAM; cores; counters; atomics and locks |
//! | [`fatal`], [`audit`], [`debug_hooks`] | panics; checks before entry; kick storms |
//!
//! Under `cfg(loom)` only the pure protocols are built: loom models the code that runs.

#![cfg_attr(not(any(test, loom)), no_std)]

extern crate alloc;

#[cfg(not(loom))]
pub mod assignment;
#[cfg(not(loom))]
pub mod audit;
#[cfg(not(loom))]
pub mod boot;
#[cfg(not(loom))]
pub mod console;
#[cfg(not(loom))]
pub mod cores;
#[cfg(not(loom))]
pub mod debug_hooks;
#[cfg(not(loom))]
pub mod device;
#[cfg(not(loom))]
pub mod exit;
#[cfg(not(loom))]
pub mod fatal;
#[cfg(not(loom))]
pub mod housekeeping;
pub mod interrupt;
#[cfg(not(loom))]
pub mod memory;
#[cfg(not(loom))]
pub mod monitor;
#[cfg(not(loom))]
pub mod rate_limit;
#[cfg(not(loom))]
pub mod stats;
pub mod sync;
#[cfg(not(loom))]
pub mod vcpu;
#[cfg(not(loom))]
pub mod vm;
