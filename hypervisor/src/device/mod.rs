//! Virtual devices: pure state machines that the exit handlers drive and the host tests.
//!
//! A device knows neither vCPUs nor interrupts: it says what its line or message is, and the caller passes that
//! to `interrupt::post`. The caller holds the VM's device lock around every call. No unsafe, no panic on any input.
//!
//! | file | what |
//! |---|---|
//! | [`board`] | which device of a VM answers where |
//! | [`uart`] | COM1, a 16550A |
//! | [`ioapic`] | the virtual IOAPIC |
//! | [`pci`] | the PCI bus: host bridge, assigned functions |
//! | [`pit`] | the machine's interval timer, passed through |
//! | [`power`] | reset and power-off ports |

pub mod board;
pub mod ioapic;
pub mod pci;
pub mod pit;
pub mod power;
pub mod uart;

pub use board::{Devices, Effect};
