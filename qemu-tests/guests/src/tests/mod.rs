//! The tests, by theme. Each file registers its own at its top.

mod apic_base;
mod flags;
mod icr;
mod lvt;
mod root_mode;
mod timer;
mod tsc;
mod vectors;
