//! x86-64 mechanism.
#![no_std]
