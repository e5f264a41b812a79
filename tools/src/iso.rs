//! Boot images: a GRUB ISO with one entry, which starts at once. It is also the image of a bootable disk.

use crate::command;
use crate::workspace::{Profile, Workspace};
use crate::{config, image};
use anyhow::{Context, Result, bail};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// GRUB's modules for UEFI.
const EFI: &str = "/usr/lib/grub/x86_64-efi";

/// A file that GRUB loads beside the kernel.
#[derive(Clone, Debug)]
pub struct Module {
    /// Name under which the kernel knows it: the first word of its module command line.
    pub name: String,
    /// Its content.
    pub content: Content,
}

/// Where a module comes from.
#[derive(Clone, Debug)]
pub enum Content {
    /// A file of the host.
    File(PathBuf),
    /// These bytes.
    Bytes(Vec<u8>),
}

/// What the one entry boots.
#[derive(Clone, Debug)]
pub enum Entry {
    /// The hypervisor, by Multiboot2.
    Beeline {
        /// Its ELF file.
        image: PathBuf,
        /// Its command line.
        cmdline: String,
        /// The packed configuration and the files it names.
        modules: Vec<Module>,
    },
    /// A Linux kernel on the bare machine.
    Linux {
        /// A bzImage.
        kernel: PathBuf,
        /// Its first file system.
        initrd: Option<PathBuf>,
        /// Its command line.
        cmdline: String,
    },
    /// A Multiboot 1 kernel on the bare machine, such as the test guest.
    Multiboot {
        /// An ELF file.
        kernel: PathBuf,
        /// Its command line.
        cmdline: String,
    },
}

/// The firmware that an image boots by, from CD and from disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platforms {
    /// BIOS alone, which is made faster.
    Bios,
    /// BIOS and UEFI.
    All,
}

/// Makes the ISO in `dir` and returns its path.
///
/// # Errors
/// When a file cannot be read or grub-mkrescue fails.
pub fn make(dir: &Path, entry: &Entry, platforms: Platforms) -> Result<PathBuf> {
    let tree = dir.join("iso");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    let grub = tree.join("boot/grub");
    fs::create_dir_all(&grub).with_context(|| format!("cannot create {}", grub.display()))?;
    let mut files = Files { tree: tree.clone() };
    let commands = commands(entry, &mut files)?;
    fs::write(grub.join("grub.cfg"), menu(&commands))?;
    let iso = dir.join("boot.iso");
    let mut command = Command::new("grub-mkrescue");
    match platforms {
        Platforms::Bios => drop(command.arg("--directory=/usr/lib/grub/i386-pc")),
        // Without a folder it takes every platform of GRUB that is installed.
        Platforms::All if !Path::new(EFI).exists() => {
            bail!("no {EFI}: `cargo xtask setup` installs it")
        }
        Platforms::All => {}
    }
    command::output(command.args(["--compress=no", "-o"]).arg(&iso).arg(&tree))
        .context("grub-mkrescue failed: `cargo xtask setup` installs what it needs")?;
    fs::remove_dir_all(&tree)?;
    Ok(iso)
}

/// Makes the ISO of the configuration `file` and copies it to `output`.
///
/// # Errors
/// When the configuration is wrong, a file of it is missing, or the image does not build.
pub fn of_config(
    workspace: &Workspace,
    file: &Path,
    cmdline: String,
    profile: Profile,
    output: &Path,
) -> Result<()> {
    let modules = config::modules(&config::check(file)?, config::folder(file))?;
    let image = image::hypervisor(workspace, profile)?;
    let made = make(
        &workspace.beeline("iso")?,
        &Entry::Beeline { image, cmdline, modules },
        Platforms::All,
    )?;
    fs::copy(made, output).map(drop).with_context(|| format!("cannot write {}", output.display()))
}

/// The entry's GRUB commands; its files are copied into the tree.
fn commands(entry: &Entry, files: &mut Files) -> Result<String> {
    let mut text = String::new();
    match entry {
        Entry::Beeline { image, cmdline, modules } => {
            files.copy(image, "beeline.elf")?;
            writeln!(text, "multiboot2 /boot/beeline.elf {}", quote(cmdline))?;
            for (index, module) in modules.iter().enumerate() {
                // Names may hold slashes or clash; a number cannot.
                let file = format!("module{index}");
                match &module.content {
                    Content::File(path) => files.copy(path, &file)?,
                    Content::Bytes(bytes) => files.write(bytes, &file)?,
                }
                text += &module_line(&file, &module.name);
            }
        }
        Entry::Linux { kernel, initrd, cmdline } => {
            files.copy(kernel, "vmlinuz")?;
            writeln!(text, "linux /boot/vmlinuz {}", quote(cmdline))?;
            if let Some(initrd) = initrd {
                files.copy(initrd, "initrd")?;
                writeln!(text, "initrd /boot/initrd")?;
            }
        }
        Entry::Multiboot { kernel, cmdline } => {
            files.copy(kernel, "guest.elf")?;
            writeln!(text, "multiboot /boot/guest.elf {}", quote(cmdline))?;
        }
    }
    Ok(text)
}

/// The GRUB command that loads `/boot/FILE` as the module `name`.
pub(crate) fn module_line(file: &str, name: &str) -> String {
    format!("module2 {} {}\n", quote_word(&format!("/boot/{file}")), quote(name))
}

fn menu(commands: &str) -> String {
    let mut text = String::from("set timeout=0\nmenuentry beeline {\n");
    for line in commands.lines() {
        text.push_str("    ");
        text.push_str(line);
        text.push('\n');
    }
    text.push_str("}\n");
    text
}

/// Each word in quotes when GRUB would otherwise read something into it.
fn quote(words: &str) -> String {
    words.split_whitespace().map(quote_word).collect::<Vec<String>>().join(" ")
}

fn quote_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "=,._-/:+@%".contains(c);
    if word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// The files of an ISO under construction, all in `/boot`.
struct Files {
    tree: PathBuf,
}

impl Files {
    fn copy(&mut self, from: &Path, name: &str) -> Result<()> {
        let to = self.tree.join("boot").join(name);
        fs::copy(from, to).map(drop).with_context(|| format!("cannot read {}", from.display()))
    }

    fn write(&mut self, bytes: &[u8], name: &str) -> Result<()> {
        let to = self.tree.join("boot").join(name);
        fs::write(&to, bytes).with_context(|| format!("cannot write {}", to.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_grub_would_read_are_quoted() {
        assert_eq!(quote("console=ttyS0,115200 quiet"), "console=ttyS0,115200 quiet");
        assert_eq!(quote("a;b  $x"), "'a;b' '$x'");
        assert_eq!(quote("it's"), "'it'\\''s'");
    }

    #[test]
    fn modules_keep_their_names_and_their_order() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("boot")).unwrap();
        let image = dir.path().join("image");
        std::fs::write(&image, "x").unwrap();
        let module = |name: &str| Module { name: name.into(), content: Content::Bytes(vec![1]) };
        let entry = Entry::Beeline {
            image,
            cmdline: "exit=bochs".into(),
            modules: vec![module("config"), module("vm/kernel")],
        };
        let text = commands(&entry, &mut Files { tree: dir.path().into() }).unwrap();
        assert_eq!(
            text,
            "multiboot2 /boot/beeline.elf exit=bochs\nmodule2 /boot/module0 config\n\
             module2 /boot/module1 vm/kernel\n"
        );
        assert!(menu(&text).starts_with("set timeout=0\nmenuentry beeline {\n    multiboot2"));
    }
}
