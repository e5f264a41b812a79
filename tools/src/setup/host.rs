//! Programs the host needs: an emulator and the tools that make a GRUB image.

use super::apt;
use crate::command;
use crate::progress::{self, Step};
use anyhow::{Result, bail};
use std::env;
use std::path::Path;

/// A Debian package and the file that shows it is there, however it came there.
struct Wanted {
    package: &'static str,
    shown_by: &'static str,
}

const IMAGE: [Wanted; 4] = [
    Wanted { package: "grub-common", shown_by: "grub-mkrescue" },
    Wanted { package: "grub-pc-bin", shown_by: "/usr/lib/grub/i386-pc/multiboot2.mod" },
    Wanted { package: "xorriso", shown_by: "xorriso" },
    Wanted { package: "mtools", shown_by: "mformat" },
];
const BOCHS: Wanted = Wanted { package: "bochs", shown_by: "bochs" };
const BOCHS_ROMS: [Wanted; 2] = [
    Wanted { package: "bochsbios", shown_by: "/usr/share/bochs/BIOS-bochs-latest" },
    Wanted { package: "vgabios", shown_by: "/usr/share/vgabios/vgabios.bin" },
];

/// Makes sure that the host can make images and, with `emulator`, run Bochs.
///
/// # Errors
/// When a package is missing and cannot be installed; the message lists all that are missing.
pub fn packages(emulator: bool) -> Result<()> {
    let mut wanted: Vec<&Wanted> = IMAGE.iter().collect();
    if emulator {
        wanted.extend(&BOCHS_ROMS);
        match env::var_os("BOCHS") {
            Some(own) if !command::exists(&own) => {
                bail!("the environment variable BOCHS names {}, which is not there", own.display())
            }
            Some(_) => {}
            None => wanted.push(&BOCHS),
        }
    }
    let all: Vec<&str> = wanted.iter().map(|wanted| wanted.package).collect();
    let missing: Vec<&str> =
        wanted.iter().filter(|wanted| !wanted.is_there()).map(|wanted| wanted.package).collect();
    if missing.is_empty() {
        progress::already(&format!("Programs of {}", all.join(", ")));
        return Ok(());
    }
    if !apt::present() {
        bail!(
            "missing on this host: {}. It is not Debian (no apt-get), so install them by hand",
            missing.join(", ")
        );
    }
    if missing.iter().any(|package| apt::candidate(package).is_none()) {
        let step = Step::start("Read the package lists (apt-get update)");
        apt::update()?;
        step.done();
    }
    let step = Step::start(format!("Install {}", missing.join(", ")));
    apt::install(&missing)?;
    step.done();
    Ok(())
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
