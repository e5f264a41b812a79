//! Programs the host needs: emulators and the tools that make a GRUB image.

use super::apt::{self, Apt};
use crate::bed::{Bed, pc, qemu};
use crate::command;
use crate::progress::{self, Step};
use crate::workspace::Workspace;
use anyhow::{Result, bail};
use std::env;
use std::path::Path;

/// A Debian package and the file that shows it is there, however it came there.
struct Wanted {
    package: &'static str,
    shown_by: &'static str,
}

const IMAGE: [Wanted; 5] = [
    Wanted { package: "grub-common", shown_by: "grub-mkrescue" },
    Wanted { package: "grub-pc-bin", shown_by: "/usr/lib/grub/i386-pc/multiboot2.mod" },
    Wanted { package: "grub-efi-amd64-bin", shown_by: "/usr/lib/grub/x86_64-efi/multiboot2.mod" },
    Wanted { package: "xorriso", shown_by: "xorriso" },
    Wanted { package: "mtools", shown_by: "mformat" },
];
const BOCHS: Wanted = Wanted { package: "bochs", shown_by: "bochs" };
const BOCHS_ROMS: [Wanted; 2] = [
    Wanted { package: "bochsbios", shown_by: "/usr/share/bochs/BIOS-bochs-latest" },
    Wanted { package: "vgabios", shown_by: "/usr/share/vgabios/vgabios.bin" },
];
const OVMF: Wanted = Wanted { package: "ovmf", shown_by: pc::OVMF[0] };
const QEMU: &str = "qemu-system-x86";
/// What must have QEMU's own age.
const WITH_QEMU: &str = "qemu-* seabios ipxe-qemu";

/// Makes sure that the host can make images and run `beds`.
///
/// # Errors
/// When a package is missing and cannot be installed; the message lists all that are missing.
pub fn packages(workspace: &Workspace, beds: &[Bed]) -> Result<()> {
    let mut wanted: Vec<&Wanted> = IMAGE.iter().collect();
    if beds.contains(&Bed::Bochs) {
        wanted.extend(&BOCHS_ROMS);
        if !named_by("BOCHS")? {
            wanted.push(&BOCHS);
        }
    }
    if beds.contains(&Bed::Qemu) {
        wanted.push(&OVMF);
    }
    install_missing(&wanted)?;
    if beds.iter().any(|bed| matches!(bed, Bed::Qemu | Bed::Kvm)) {
        // With KVM the CPU is the host's, and any QEMU will do.
        let oldest = if beds.contains(&Bed::Qemu) { qemu::OLDEST } else { 0 };
        install_qemu(workspace, oldest)?;
    }
    Ok(())
}

/// Does the environment variable `name` choose the emulator's binary?
fn named_by(name: &str) -> Result<bool> {
    match env::var_os(name) {
        Some(own) if !command::exists(&own) => {
            bail!("the environment variable {name} names {}, which is not there", own.display())
        }
        own => Ok(own.is_some()),
    }
}

fn install_missing(wanted: &[&Wanted]) -> Result<()> {
    let all: Vec<&str> = wanted.iter().map(|wanted| wanted.package).collect();
    let missing: Vec<&str> =
        wanted.iter().filter(|wanted| !wanted.is_there()).map(|wanted| wanted.package).collect();
    if missing.is_empty() {
        progress::already(&format!("Programs of {}", all.join(", ")));
        return Ok(());
    }
    need_apt(&missing.join(", "))?;
    let apt = Apt::default();
    if missing.iter().any(|package| apt.candidate(package).is_none()) {
        let step = Step::start("Read the package lists (apt-get update)");
        apt.update()?;
        step.done();
    }
    let step = Step::start(format!("Install {}", missing.join(", ")));
    apt.install(&missing)?;
    step.done();
    Ok(())
}

fn need_apt(missing: &str) -> Result<()> {
    if !apt::present() {
        bail!(
            "missing on this host: {missing}. It is not Debian (no apt-get), so install them by \
             hand"
        );
    }
    Ok(())
}

/// Makes sure that QEMU is there, and of major version `oldest` or newer: from the machine's own
/// suites, else from its release's backports.
fn install_qemu(workspace: &Workspace, oldest: u32) -> Result<()> {
    let own = named_by("QEMU")?;
    let here = qemu::version();
    if let Some(version) = here.filter(|version| *version >= oldest) {
        progress::already(&format!("QEMU {version}"));
        return Ok(());
    }
    let old = here.map(|version| format!("QEMU {version} is too old, {oldest} is needed"));
    let old = old.unwrap_or_else(|| "QEMU does not say its version".into());
    if own {
        bail!("{old}: the environment variable QEMU names {}", qemu::program().display());
    }
    need_apt(&format!("{QEMU}, version {oldest} or newer"))?;
    if here.is_some() {
        progress::note(&old);
    }
    let apt = source_of_qemu(workspace, oldest)?;
    let from = apt.suite().map(|suite| format!(" from {suite}")).unwrap_or_default();
    let step = Step::start(format!("Install {QEMU}{from}"));
    apt.install(&[QEMU])?;
    step.done();
    match qemu::version() {
        Some(version) if version >= oldest => Ok(()),
        // Another one comes first on the path.
        _ => bail!("{old}: {QEMU} was installed, but `{}` is another", qemu::program().display()),
    }
}

/// The suites whose QEMU is new enough.
fn source_of_qemu(workspace: &Workspace, oldest: u32) -> Result<Apt> {
    let good = |apt: &Apt| {
        apt.candidate(QEMU).is_some_and(|version| major(&version).is_some_and(|m| m >= oldest))
    };
    let machine = Apt::default();
    if good(&machine) {
        return Ok(machine);
    }
    let dir = workspace.beeline("apt")?;
    // A machine without any package lists does not even say what its suites are.
    let known = machine.candidate(QEMU).is_some();
    let step = Step::start("Read the package lists, those of the backports too (apt-get update)");
    if !known {
        machine.update()?;
    }
    if !known && good(&machine) {
        step.done();
        return Ok(machine);
    }
    let backports = Apt::backports(&dir, WITH_QEMU)?;
    backports.update()?;
    step.done();
    if !good(&backports) {
        bail!(
            "neither this release of Debian nor its backports have {QEMU} {oldest}: install it by \
             hand, or name one with the environment variable QEMU"
        );
    }
    Ok(backports)
}

/// The first number of a package version: 10 of `1:10.0.2+ds-2`.
fn major(version: &str) -> Option<u32> {
    let upstream = version.split_once(':').map_or(version, |(_, upstream)| upstream);
    upstream.split('.').next()?.parse().ok()
}

impl Wanted {
    fn is_there(&self) -> bool {
        if self.shown_by.starts_with('/') {
            Path::new(self.shown_by).exists()
        } else {
            command::exists(self.shown_by)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_versions() {
        assert_eq!(major("1:10.0.2+ds-2+deb13u1~bpo12+1"), Some(10));
        assert_eq!(major("1:7.2+dfsg-7+deb12u18"), Some(7));
        assert_eq!(major("10.1"), Some(10));
        assert_eq!(major("unknown"), None);
    }
}
