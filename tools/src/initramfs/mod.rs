//! The first file system of the Linux guest: busybox, cyclictest with its libraries, the `window`
//! helper and an `/init` that does what the kernel command line says (see `init.sh`). A guest with PCI
//! functions also gets their drivers, one that starts another kernel gets that one.
//!
//! It is not compressed: reading 4 MiB through GRUB costs the emulator less than unpacking them.

mod cpio;
mod libraries;

use crate::command;
use crate::setup::{BUSYBOX, GuestFiles};
use crate::workspace::{MUSL, Profile, Workspace};
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const INIT: &str = include_str!("init.sh");
const FOLDERS: [&str; 8] =
    ["/bin", "/dev", "/proc", "/sys", "/tmp", "/lib", "/lib/x86_64-linux-gnu", "/lib64"];

/// Where the kernel's modules are, with a file `order` that lists them.
const MODULES: &str = "/lib/modules";

/// Builds the archive under `target/beeline/guest` and returns its path.
///
/// # Errors
/// When the helper does not build or a file of the guest packages is missing.
pub fn build(workspace: &Workspace, guest: &GuestFiles) -> Result<PathBuf> {
    let archive = files(workspace, guest)?;
    write(workspace, "initramfs.cpio", archive)
}

/// The same with the drivers for PCI functions.
///
/// # Errors
/// When the helper does not build or a file of the guest packages is missing.
pub fn build_with_drivers(workspace: &Workspace, guest: &GuestFiles) -> Result<PathBuf> {
    let mut archive = files(workspace, guest)?;
    archive.directory(MODULES);
    let mut order = String::new();
    for module in &guest.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.program(&format!("{MODULES}/{name}"), &read(module)?);
        order += &format!("{name}\n");
    }
    archive.program(&format!("{MODULES}/order"), order.as_bytes());
    write(workspace, "initramfs-drivers.cpio", archive)
}

/// The same as [`build`], with the kernel and that initramfs inside, to be started by kexec.
///
/// # Errors
/// When the helper does not build or a file of the guest packages is missing.
pub fn build_with_next(workspace: &Workspace, guest: &GuestFiles) -> Result<PathBuf> {
    let mut archive = files(workspace, guest)?;
    archive.directory("/next");
    archive.program("/next/vmlinuz", &read(&guest.kernel)?);
    archive.program("/next/initramfs", &files(workspace, guest)?.finish());
    write(workspace, "initramfs-next.cpio", archive)
}

fn files(workspace: &Workspace, guest: &GuestFiles) -> Result<cpio::Archive> {
    let window = window(workspace)?;
    let busybox = guest.file(&BUSYBOX)?;
    let cyclictest = guest.file(&["usr/bin/cyclictest"])?;

    let mut archive = cpio::Archive::default();
    let mut folders = BTreeSet::new();
    for folder in FOLDERS {
        folders.insert(folder.to_string());
        archive.directory(folder);
    }
    archive.program("/init", INIT.as_bytes());
    for (path, file) in
        [("/bin/busybox", &busybox), ("/bin/cyclictest", &cyclictest), ("/bin/window", &window)]
    {
        archive.program(path, &read(file)?);
    }
    for library in libraries::of(&cyclictest, &guest.root)? {
        let folder = library.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        if folders.insert(folder.to_string()) {
            archive.directory(folder);
        }
        archive.program(&library.path, &read(&library.file)?);
    }
    Ok(archive)
}

fn write(workspace: &Workspace, name: &str, archive: cpio::Archive) -> Result<PathBuf> {
    let path = workspace.beeline("guest")?.join(name);
    fs::write(&path, archive.finish())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn window(workspace: &Workspace) -> Result<PathBuf> {
    command::run(workspace.cargo().args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "window",
        "--target",
        MUSL,
    ]))?;
    Ok(workspace.program(MUSL, Profile::Release, "window"))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}
