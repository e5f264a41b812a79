//! What we ask of Debian's package tools.

use crate::command;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// Is there an apt at all?
#[must_use]
pub fn present() -> bool {
    command::exists("apt-get") && command::exists("dpkg-query") && command::exists("dpkg-deb")
}

/// The version of `package` that apt would take.
#[must_use]
pub fn candidate(package: &str) -> Option<String> {
    let text = command::output(Command::new("apt-cache").args(["policy", package])).ok()?;
    candidate_in(&text)
}

fn candidate_in(policy: &str) -> Option<String> {
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
    (version != "(none)").then(|| version.to_string())
}

/// The packages `package` depends on whose name starts with `prefix`.
///
/// # Errors
/// When apt does not know the package.
pub fn dependency(package: &str, prefix: &str) -> Result<String> {
    let text = command::output(Command::new("apt-cache").args(["depends", package]))?;
    dependency_in(&text, prefix)
        .with_context(|| format!("{package} depends on no package named {prefix}…"))
}

fn dependency_in(depends: &str, prefix: &str) -> Option<String> {
    depends
        .lines()
        .filter_map(|line| line.trim().trim_start_matches('|').strip_prefix("Depends:"))
        .map(str::trim)
        .find(|name| name.starts_with(prefix))
        .map(String::from)
}

/// Reads the package lists anew.
///
/// # Errors
/// When that fails or needs rights that we do not have.
pub fn update() -> Result<()> {
    command::output(privileged("apt-get")?.args(["-q", "update"])).map(drop).context(
        "cannot read the package lists: run `apt-get update` as root, check the network and \
         /etc/apt/sources.list",
    )
}

/// Installs `packages`.
///
/// # Errors
/// When that fails or needs rights that we do not have.
pub fn install(packages: &[&str]) -> Result<()> {
    let mut command = privileged("apt-get")?;
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-q", "-y", "--no-install-recommends", "install"])
        .args(packages);
    command::output(&mut command)
        .map(drop)
        .with_context(|| format!("run `apt-get install {}` as root", packages.join(" ")))
}

/// Downloads `packages` into `dir` without installing them; needs no rights.
///
/// # Errors
/// When that fails.
pub fn download(packages: &[&str], dir: &Path) -> Result<()> {
    let mut command = Command::new("apt-get");
    // The download user of apt has no access to our folder, and no need for one.
    command.args(["-q", "-o", "APT::Sandbox::User=root", "download"]).args(packages);
    command::output(command.current_dir(dir)).map(drop)
}

fn privileged(program: &str) -> Result<Command> {
    if command::output(Command::new("id").arg("-u"))?.trim() == "0" {
        return Ok(Command::new(program));
    }
    if !command::exists("sudo") {
        bail!("this needs root, and there is no sudo");
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates() {
        let policy = "bochs:\n  Installed: (none)\n  Candidate: 2.7+dfsg-4\n  Version table:\n";
        assert_eq!(candidate_in(policy).as_deref(), Some("2.7+dfsg-4"));
        assert_eq!(candidate_in("x:\n  Candidate: (none)\n"), None);
        assert_eq!(candidate_in(""), None);
    }

    #[test]
    fn the_kernel_behind_the_meta_package() {
        let text =
            "linux-image-rt-amd64\n |Depends: <x>\n  Depends: linux-image-6.1.0-9-rt-amd64\n";
        let found = dependency_in(text, "linux-image-");
        assert_eq!(found.as_deref(), Some("linux-image-6.1.0-9-rt-amd64"));
        assert_eq!(dependency_in("a\n  Suggests: linux-image-1\n", "linux-image-"), None);
    }
}
