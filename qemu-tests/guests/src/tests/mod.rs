//! The tests, by theme. Each file registers its own at its top.

mod apic_base;
mod flags;
mod icr;
mod ipi;
mod kick;
mod lvt;
mod nmi;
mod phases;
mod restart;
mod root_mode;
mod timer;
mod tsc;
mod vectors;
