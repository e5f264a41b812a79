//! Where things are: the sources, the build output and what Beeline keeps under `target/beeline`.
//!
//! Every command starts with [`Workspace::find`]. Nothing else builds a path from scratch, so
//! that the layout of the build directory is known in one place.

use crate::progress;
use anyhow::{Context, Result, bail};
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Target of the image and of the bare-metal test guest.
pub const BARE_METAL: &str = "x86_64-unknown-none";
/// Target of the helper that runs inside a Linux guest.
pub const MUSL: &str = "x86_64-unknown-linux-musl";

/// Debug images carry the audits and debug hooks; release images give the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// `cargo build`.
    Debug,
    /// `cargo build --release`.
    Release,
}

impl Profile {
    /// Name of the profile's folder in the build directory.
    #[must_use]
    pub fn folder(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }
}

/// The checked-out repository.
#[derive(Clone, Debug)]
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// Walks up from the current directory to the workspace's `Cargo.toml`.
    ///
    /// # Errors
    /// When no directory above the current one is Beeline's.
    pub fn find() -> Result<Self> {
        let here = env::current_dir().context("cannot read the current directory")?;
        for dir in here.ancestors() {
            let manifest = dir.join("Cargo.toml");
            if dir.join("guest-loader").is_dir() && is_workspace(&manifest) {
                return Ok(Self { root: dir.to_path_buf() });
            }
        }
        bail!("{} is not inside the Beeline repository: change into it first", here.display())
    }

    /// The folder of the workspace's `Cargo.toml`.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's build directory.
    #[must_use]
    pub fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// A folder of ours in the build directory, created when missing.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn beeline(&self, name: &str) -> Result<PathBuf> {
        let dir = self.target().join("beeline").join(name);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(dir)
    }

    /// Waits until no other command uses the folder `name` of ours; the result keeps it ours.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock(&self, name: &str) -> Result<File> {
        let path = self.beeline(name)?.join("lock");
        let file =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        if file.try_lock().is_err() {
            progress::note(format!("another command uses {}: waiting for it", path.display()));
            file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(file)
    }

    /// A program built for `target`.
    #[must_use]
    pub fn program(&self, target: &str, profile: Profile, name: &str) -> PathBuf {
        self.target().join(target).join(profile.folder()).join(name)
    }

    /// A cargo call in this workspace with its own build directory, whatever the environment says.
    #[must_use]
    pub fn cargo(&self) -> Command {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", self.target());
        // What cargo told us about our own package must not reach the build scripts of others.
        for (key, _) in env::vars_os() {
            let text = key.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                command.env_remove(&key);
            }
        }
        command
    }
}

fn is_workspace(manifest: &Path) -> bool {
    fs::read_to_string(manifest).is_ok_and(|text| text.contains("[workspace]"))
}
