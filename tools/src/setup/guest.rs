//! Packages for the Linux guest: a real-time kernel, busybox, cyclictest and its libraries.
//!
//! They are downloaded and unpacked under `target/beeline`; nothing is installed on the host. Of the
//! kernel's modules the drivers for PCI functions are kept.

use super::apt::{self, Apt};
use super::modules;
use crate::command;
use crate::progress::{self, Step};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Debian's name for "the current real-time kernel"; it depends on the versioned package.
const KERNEL: &str = "linux-image-rt-amd64";
const KERNEL_PREFIX: &str = "linux-image-";
/// Where busybox is, in older and in newer packages.
pub const BUSYBOX: [&str; 2] = ["bin/busybox", "usr/bin/busybox"];
const PROGRAMS: [&str; 4] = ["busybox-static", "rt-tests", "libnuma1", "libc6"];
/// Written last, so an interrupted set-up starts again. Holds one package name per line.
const STAMP: &str = "packages.txt";
/// Where kernel modules are kept, beside the folders of the packages.
const MODULES: &str = "modules";

/// The unpacked guest packages.
#[derive(Clone, Debug)]
pub struct GuestFiles {
    /// Their root folder.
    pub root: PathBuf,
    /// The kernel, a bzImage.
    pub kernel: PathBuf,
    /// Its drivers for PCI functions and what they depend on, in the order of loading.
    pub modules: Vec<PathBuf>,
}

impl GuestFiles {
    /// The first of `paths` that is there.
    ///
    /// # Errors
    /// When none is.
    pub fn file(&self, paths: &[&str]) -> Result<PathBuf> {
        first(&self.root, paths)
    }
}

fn first(root: &Path, paths: &[&str]) -> Result<PathBuf> {
    let found = paths.iter().map(|path| root.join(path)).find(|path| path.is_file());
    found.with_context(|| {
        let (root, first) = (root.display(), paths.first().unwrap_or(&""));
        format!("{root} has no {first}: remove that folder and try again")
    })
}

/// The guest packages, downloaded when they are not there yet or `refresh` is set.
///
/// # Errors
/// When a package is unknown or cannot be downloaded.
pub fn packages(workspace: &Workspace, refresh: bool) -> Result<GuestFiles> {
    let dir = workspace.beeline("guest")?;
    let root = dir.join("root");
    if !refresh && let Ok(list) = fs::read_to_string(dir.join(STAMP)) {
        let kernel = list.lines().next().unwrap_or(KERNEL);
        if let Ok(files) = files(&root) {
            progress::already(&format!("Guest packages {kernel}, {}", PROGRAMS.join(", ")));
            return Ok(files);
        }
    }
    if !apt::present() {
        bail!(
            "the Linux guest comes from Debian packages, and this host has no apt-get: give a \
             guest of your own with --kernel and --initrd"
        );
    }
    let apt = Apt::default();
    let wanted = |package: &&str| apt.candidate(package).is_none();
    if refresh || PROGRAMS.iter().chain([&KERNEL]).any(wanted) {
        let step = Step::start("Read the package lists (apt-get update)");
        apt.update()?;
        step.done();
    }
    let kernel = apt::dependency(KERNEL, KERNEL_PREFIX)?;
    let mut packages = vec![kernel.as_str()];
    packages.extend(PROGRAMS);

    let step = Step::start(format!("Download {}", packages.join(", ")));
    let (archives, _) = (fresh(&dir.join("deb"))?, fresh(&root)?);
    apt::download(&packages, &archives).context("cannot download the guest packages")?;
    step.done();
    let step = Step::start("Unpack them");
    unpack(&archives, &root)?;
    let files = files(&root)?;
    fs::write(dir.join(STAMP), packages.join("\n") + "\n")?;
    step.done();
    Ok(files)
}

fn unpack(archives: &Path, root: &Path) -> Result<()> {
    for archive in fs::read_dir(archives)? {
        let archive = archive?.path();
        command::output(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(root))?;
    }
    let modules = ["lib/modules", "usr/lib/modules"].map(|tree| root.join(tree));
    if let Some(tree) = modules.iter().find(|tree| tree.is_dir()) {
        // Not every host has xz; the guest's busybox runs here as well.
        let busybox = first(root, &BUSYBOX)?;
        let xz = [&*busybox.to_string_lossy(), "xz", "-d", "-c"];
        modules::keep(tree, &root.join(MODULES), &xz)?;
    }
    // What the initramfs never takes: 400 MB of modules and documentation.
    for unused in ["lib/modules", "usr/lib/modules", "usr/share"] {
        let unused = root.join(unused);
        if unused.exists() {
            fs::remove_dir_all(unused)?;
        }
    }
    fs::remove_dir_all(archives)?;
    Ok(())
}

fn fresh(dir: &Path) -> Result<PathBuf> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot empty {}", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir.to_path_buf())
}

fn files(root: &Path) -> Result<GuestFiles> {
    let boot = root.join("boot");
    let entries = fs::read_dir(&boot).with_context(|| format!("no folder {}", boot.display()))?;
    let kernel = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz-")))
        .with_context(|| format!("no kernel in {}", boot.display()))?;
    let modules = modules::kept(&root.join(MODULES))?;
    Ok(GuestFiles { root: root.to_path_buf(), kernel, modules })
}
