//! What the tests stand on: start-up, traps, CPUs, the local APIC, the console and the runner.

pub mod acpi;
pub mod arrivals;
pub mod boot;
pub mod catch;
pub mod cpu;
pub mod hypercall;
pub mod irq;
pub mod lapic;
pub mod pci;
pub mod pvh;
pub mod random;
pub mod registry;
pub mod serial;
pub mod smp;
mod start;
pub mod tables;
pub mod text;
pub mod time;
mod trap;
