//! Policy.
#![no_std]

pub mod exit;
pub mod interrupt;
pub mod sync;
