//! Building the bare-metal programs: the hypervisor's image and the test guest.

use crate::command;
use crate::workspace::{BARE_METAL, Profile, Workspace};
use anyhow::Result;
use std::path::PathBuf;

/// Builds the hypervisor and returns its ELF file.
///
/// # Errors
/// When it does not compile.
pub fn hypervisor(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    build(workspace, "hypervisor", profile)
}

/// Builds the bare-metal test guest, always optimised: it counts instructions.
///
/// # Errors
/// When it does not compile.
pub fn test_guest(workspace: &Workspace) -> Result<PathBuf> {
    build(workspace, "test-guest", Profile::Release)
}

fn build(workspace: &Workspace, package: &str, profile: Profile) -> Result<PathBuf> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--quiet", "--package", package, "--target", BARE_METAL]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    command::run(&mut cargo)?;
    Ok(workspace.program(BARE_METAL, profile, package))
}
