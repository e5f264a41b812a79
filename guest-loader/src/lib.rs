//! What a virtual machine is and how it is loaded.
#![no_std]
