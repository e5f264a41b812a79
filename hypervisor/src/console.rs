//! The console: the log, the guests' output, and the serial line that carries both.
//!
//! Any core writes the log (`log::info!`) and any vCPU its COM1; both only fill rings. The
//! housekeeping core empties them into the serial port, guest lines never broken by log lines
//! while the guest is printing. Before its loop runs, and in a panic, the log goes out at once.
//!
//! Locks: [`LOG`], a leaf. The NMI handler must not log.

mod log_ring;
mod output;

pub use log_ring::{Direct, LogRing, defer, flush_now, init, line, preserve, set_level};
pub use output::{GuestOutput, Pump, Put};
