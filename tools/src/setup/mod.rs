//! `cargo xtask setup`: everything the other commands need and the repository does not hold.
//!
//! Three parts, each idempotent: compiler targets, Debian packages on the host (emulator, GRUB),
//! and packages for the guest, which are downloaded and unpacked under `target/beeline` but never
//! installed. Debian 12 and 13 are known to have all of them.

mod apt;
mod guest;
mod host;
mod rust;

pub use guest::GuestFiles;

use crate::progress;
use crate::workspace::Workspace;
use anyhow::Result;

/// Makes sure that the compiler has all targets.
///
/// # Errors
/// When one is missing and cannot be added.
pub fn rust(workspace: &Workspace) -> Result<()> {
    rust::targets(workspace)
}

/// Sets up the host; `emulator` says whether Bochs is needed.
///
/// # Errors
/// When something is missing and cannot be installed; the message says what to do.
pub fn host(workspace: &Workspace, emulator: bool) -> Result<()> {
    progress::title("Set-up");
    rust::targets(workspace)?;
    host::packages(emulator)
}

/// Downloads and unpacks the guest's packages; with `refresh`, asks for newer ones.
///
/// # Errors
/// When a package is not there or cannot be downloaded.
pub fn guest(workspace: &Workspace, refresh: bool) -> Result<GuestFiles> {
    guest::packages(workspace, refresh)
}
