//! `cargo xtask check`: formatting and lints, for the host and for the bare-metal programs.

use crate::command;
use crate::progress::Step;
use crate::setup;
use crate::workspace::{BARE_METAL, Workspace};
use anyhow::Result;

/// Each line is one call of cargo.
const CALLS: [&str; 4] = [
    "fmt --all --check",
    "clippy --quiet --workspace --all-targets -- -D warnings",
    // The image as it is tested and as it is measured: debug assertions hide code.
    "clippy --quiet -p hypervisor -p test-guest --target BARE_METAL -- -D warnings",
    "clippy --quiet -p hypervisor -p test-guest --target BARE_METAL --release -- -D warnings",
];

/// Runs all checks and stops at the first that fails.
///
/// # Errors
/// When one fails.
pub fn run(workspace: &Workspace) -> Result<()> {
    setup::rust(workspace)?;
    for call in CALLS {
        let call = call.replace("BARE_METAL", BARE_METAL);
        let step = Step::noisy(format!("cargo {call}"));
        command::run(workspace.cargo().args(call.split_whitespace()))?;
        step.done();
    }
    Ok(())
}
