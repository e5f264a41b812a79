//! Policy.
#![no_std]

pub mod exit;
