//! The measurements: rows of the peer tables (CPUID, hypercall, timer, IPIs, trapped accesses), in instructions as an emulator counts them.
//!
//! Each loop is assembly, so the number of its own instructions is fixed; an empty loop is measured in the same way and
//! subtracted. Loops that read the clock inside are of a length coprime to 5, the turn of Bochs with several CPUs.

mod cross;
pub mod frame;
mod interrupts;
mod traps;
mod xapic;
