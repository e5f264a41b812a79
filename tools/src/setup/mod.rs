//! `cargo xtask setup`: everything the other commands need and the repository does not hold.
//!
//! Three parts, each idempotent: compiler targets, Debian packages on the host (emulators, GRUB),
//! and packages for the guest, which are downloaded and unpacked under `target/beeline` but never
//! installed. Debian 13 has all of them; Debian 12 too, with QEMU from its backports. The lists of
//! these are kept under `target/beeline/apt`, and the machine's own sources stay as they are.

mod apt;
mod guest;
mod host;
mod modules;
mod rust;

pub use guest::{BUSYBOX, GuestFiles};

use crate::bed::Bed;
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

/// Sets up the host for `beds`; without any, for making images.
///
/// # Errors
/// When something is missing and cannot be installed; the message says what to do.
pub fn host(workspace: &Workspace, beds: &[Bed]) -> Result<()> {
    progress::title("Set-up");
    rust::targets(workspace)?;
    host::packages(workspace, beds)
}

/// Downloads and unpacks the guest's packages; with `refresh`, asks for newer ones.
///
/// # Errors
/// When a package is not there or cannot be downloaded.
pub fn guest(workspace: &Workspace, refresh: bool) -> Result<GuestFiles> {
    guest::packages(workspace, refresh)
}
