//! VT-d: registers, tables, descriptors and fault records as types. Used by `arch::iommu::vtd` alone.
//! VT-d specification 4.1, chapters 9 (tables), 6 (descriptors) and 11 (registers).

pub mod fault;
pub mod interrupt;
pub mod invalidation;
pub mod register;
pub mod translation;
