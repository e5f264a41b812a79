//! Tests that boot the image in an emulator.
//!
//! [`catalogue`] lists the boots: which machine, which guest, what must be seen. [`boot`] carries one out,
//! [`in_guest`] knows the tests inside the bare-metal test guest (one result each), [`runner`]
//! runs the boots side by side and prints. To add a test: write it in `guests/` when a guest can
//! see what it shows, else add a boot to the catalogue.

pub mod bench;
pub mod boot;
pub mod catalogue;
pub mod check;
pub mod in_guest;
pub mod payload;
pub mod runner;
