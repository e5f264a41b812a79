//! The tests, by theme. Each file registers its own at its top.

mod apic_base;
mod control;
mod cpuid;
mod fatal;
mod flags;
mod icr;
mod ioapic;
mod ipi;
mod kick;
mod loops;
mod lvt;
mod memory;
mod modes;
mod msr;
mod nmi;
mod phases;
mod ports;
mod restart;
mod root_mode;
mod timer;
mod tsc;
mod uart;
mod user;
mod vectors;
mod xapic;
