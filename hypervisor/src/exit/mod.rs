//! VM exits, one file per kind.
//!
//! | file | what |
//! |---|---|
//! | [`cpuid_exit`], [`cpuid`] | CPUID, and its allow-list table |
//! | [`msr`], [`msr_policy`] | RDMSR and WRMSR, and their table |
//! | [`clock_page`] | KVM's clock, for AMD guests |
//! | [`io`] | ports |
//! | [`mmio`] | memory that is not RAM |
//! | [`hypercall`] | VMCALL and VMMCALL |
//! | [`cr`] | control registers and XCR0 |
//! | [`exception`] | #DB, #AC, #MC |
//! | [`fault`] | what ends a VM: decoded reports |

pub mod clock_page;
pub mod cpuid;
pub mod cpuid_exit;
pub mod cr;
pub mod exception;
pub mod fault;
pub mod hypercall;
pub mod io;
pub mod mmio;
pub mod msr;
pub mod msr_policy;
