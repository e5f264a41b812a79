//! VM exits: one file per kind.

pub mod cpuid;
