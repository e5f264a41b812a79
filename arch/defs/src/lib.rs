//! Pure layouts and rules.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod apic;
