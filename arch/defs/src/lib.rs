//! Pure layouts and rules of x86-64 hardware, apart from the code that touches it: no unsafe, all
//! of it tested on the host.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod acpi;
pub mod aml;
pub mod apic;
pub mod insn;
pub mod iommu;
pub mod pci;
pub mod svm;
pub mod vmx;
