//! What we ask of Debian's package tools.

use crate::command;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Debian's own keys; without the file apt uses those it trusts in general.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Is there an apt at all?
#[must_use]
pub fn present() -> bool {
    command::exists("apt-get") && command::exists("dpkg-query") && command::exists("dpkg-deb")
}

/// apt with the machine's own package lists, or with ours, which also have a suite that the machine
/// does not use. What is installed, and how, is the machine's knowledge in either case.
#[derive(Debug, Default)]
pub struct Apt {
    options: Vec<String>,
    suite: Option<String>,
}

impl Apt {
    /// apt with Debian's suite CODENAME and CODENAME-backports, where `packages` (names or globs)
    /// come from the latter and nothing else does. Lists and sources are kept in `dir`; the mirror
    /// is the one that the machine's own configuration names.
    ///
    /// # Errors
    /// When the machine names no mirror of Debian, or a file cannot be written.
    pub fn backports(dir: &Path, packages: &str) -> Result<Self> {
        let targets = command::output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(ORIGIN) $(LABEL) $(COMPONENT) $(CODENAME) $(SITE)",
            "Created-By: Packages",
        ]))?;
        let (codename, mirror) =
            mirror_in(&targets).context("apt's sources name no mirror of Debian")?;
        let suite = format!("{codename}-backports");
        let (lists, cache) = (dir.join("lists"), dir.join("cache"));
        let (empty, sources) = (dir.join("empty"), dir.join("sources.list"));
        // apt makes no folders outside its own.
        for dir in [&lists.join("partial"), &cache.join("archives/partial"), &empty] {
            fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        let signed = match Path::new(KEYRING).is_file() {
            true => format!("[signed-by={KEYRING}] "),
            false => String::new(),
        };
        let line = |suite: &str| format!("deb {signed}{mirror} {suite} main\n");
        fs::write(&sources, line(&codename) + &line(&suite))
            .with_context(|| format!("cannot write {}", sources.display()))?;
        // With `-t` the libraries that they need would come from there, too.
        let pins = dir.join("preferences");
        fs::write(
            &pins,
            format!("Package: {packages}\nPin: release n={suite}\nPin-Priority: 990\n"),
        )?;
        let options = [
            format!("Dir::Etc::sourcelist={}", sources.display()),
            format!("Dir::Etc::sourceparts={}", empty.display()),
            format!("Dir::Etc::preferences={}", pins.display()),
            format!("Dir::State::lists={}", lists.display()),
            format!("Dir::Cache={}", cache.display()),
            // The download user of apt has no access to our folder, and no need for one.
            "APT::Sandbox::User=root".into(),
        ];
        let options = options.into_iter().flat_map(|option| ["-o".into(), option]).collect();
        Ok(Self { options, suite: Some(suite) })
    }

    /// The name of the suite that packages are taken from, if it is not the machine's own.
    #[must_use]
    pub fn suite(&self) -> Option<&str> {
        self.suite.as_deref()
    }

    /// The version of `package` that would be installed.
    #[must_use]
    pub fn candidate(&self, package: &str) -> Option<String> {
        let mut command = Command::new("apt-cache");
        command.args(&self.options).args(["policy", package]);
        candidate_in(&command::output(&mut command).ok()?)
    }

    /// Reads the package lists anew.
    ///
    /// # Errors
    /// When that fails or needs rights that we do not have.
    pub fn update(&self) -> Result<()> {
        let mut command = privileged("apt-get")?;
        command.args(&self.options).args(["-q", "update"]);
        command::output(&mut command).map(drop).context(
            "cannot read the package lists: run `apt-get update` as root, check the network and \
             the sources in /etc/apt",
        )
    }

    /// Installs `packages`; nothing is ever removed for them.
    ///
    /// # Errors
    /// When that fails or needs rights that we do not have.
    pub fn install(&self, packages: &[&str]) -> Result<()> {
        let mut command = privileged("env")?;
        // `sudo` drops the environment.
        command
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
            .args(&self.options)
            .args(["-q", "-y", "--no-install-recommends", "--no-remove"])
            // Another apt may be at work.
            .args(["-o", "DPkg::Lock::Timeout=120"])
            .arg("install")
            .args(packages);
        let from = self.suite().map(|suite| format!(" from {suite}")).unwrap_or_default();
        command::output(&mut command)
            .map(drop)
            .with_context(|| format!("install {}{from} as root", packages.join(" ")))
    }
}

/// Codename and mirror of Debian itself among apt's index targets.
fn mirror_in(targets: &str) -> Option<(String, String)> {
    targets.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // Security and updates have the label or the codename of their own.
        let ["Debian", "Debian", "main", codename, site] = *words.as_slice() else { return None };
        (!codename.contains('-')).then(|| (codename.to_string(), site.to_string()))
    })
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
    fn the_mirror_is_the_machines_own() {
        let targets = "Debian Debian-Security main bookworm-security http://a/security\n\
                       Other Other main stable http://b\n\
                       Debian Debian main bookworm-updates http://c/debian\n\
                       Debian Debian contrib bookworm http://d/debian\n\
                       Debian Debian main bookworm http://c/debian\n";
        let found = mirror_in(targets);
        assert_eq!(found, Some(("bookworm".into(), "http://c/debian".into())));
        assert_eq!(mirror_in("$(ORIGIN) $(LABEL) main $(CODENAME) http://c/debian\n"), None);
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
