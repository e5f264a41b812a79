//! The compiler targets of `rust-toolchain.toml`.

use crate::command;
use crate::progress::{self, Step};
use crate::workspace::{BARE_METAL, MUSL, Workspace};
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;

/// Makes sure that the toolchain of `workspace` can compile for all targets.
///
/// # Errors
/// When one is missing and rustup is not there or fails.
pub fn targets(workspace: &Workspace) -> Result<()> {
    let root = workspace.root();
    let print = Command::new("rustc").args(["--print", "sysroot"]).current_dir(root).output();
    let sysroot = print.map(|done| String::from_utf8_lossy(&done.stdout).trim().to_string())?;
    let present =
        |target: &&str| Path::new(&sysroot).join("lib/rustlib").join(target).join("lib").is_dir();
    let missing: Vec<&str> =
        [BARE_METAL, MUSL].into_iter().filter(|target| !present(target)).collect();
    if missing.is_empty() {
        progress::already(&format!("Rust targets {BARE_METAL}, {MUSL}"));
        return Ok(());
    }
    if !command::exists("rustup") {
        bail!(
            "the Rust targets {} are missing and there is no rustup to add them: install rustup",
            missing.join(", ")
        );
    }
    let step = Step::start(format!("Rust targets {}", missing.join(", ")));
    command::output(
        Command::new("rustup").args(["target", "add"]).args(&missing).current_dir(root),
    )?;
    step.done();
    Ok(())
}
