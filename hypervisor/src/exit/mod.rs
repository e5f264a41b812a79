//! VM exits: one file per kind.

pub mod cpuid;
pub mod msr_policy;
