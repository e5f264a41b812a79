//! Pure layouts and rules.
#![no_std]
