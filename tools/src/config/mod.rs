//! `beeline.toml`: read, checked with messages that name file, line and field, and packed.
//!
//! `beeline check` and `cargo xtask iso` call [`check`], which also loads the images that a configuration
//! names; `beeline pack` and `cargo xtask run` call [`read`].

mod images;
mod place;

use crate::iso::{self, Content, Module};
use anyhow::{Context, Result, bail};
use guest_loader::config::{self, Config, MachineFacts, VmConfig};
use std::fmt;
use std::fs;
use std::path::Path;

/// Name of the boot module that holds the packed configuration.
pub const MODULE: &str = "config";

/// What is wrong with a configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// Line in it, from 1; `None` if it could not be read at all.
    pub line: Option<usize>,
    /// The field, where one is to blame.
    pub field: Option<String>,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(field) = &self.field {
            write!(f, ": {field}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Problem {}

/// Reads and checks the file, but not the files that it names.
///
/// # Errors
/// When it cannot be read or something in it is wrong.
pub fn read(file: &Path) -> Result<Config, Problem> {
    parse(&text(file)?, &file.display().to_string())
}

/// Reads and checks the file, and loads each image that it names into memory of the VM's size.
///
/// # Errors
/// When it cannot be read, something in it is wrong, or an image is missing or cannot be loaded.
pub fn check(file: &Path) -> Result<Config, Problem> {
    let text = text(file)?;
    let name = file.display().to_string();
    let config = parse(&text, &name)?;
    images::check(&config, folder(file)).map_err(|fault| {
        let line = place::of_field(&text, Some(&fault.vm), Some(fault.field));
        located(&name, line, Some(fault.field), &fault.message)
    })?;
    Ok(config)
}

/// Where the files lie that the configuration `file` names: beside it.
#[must_use]
pub fn folder(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn text(file: &Path) -> Result<String, Problem> {
    fs::read_to_string(file).map_err(|why| Problem {
        file: file.display().to_string(),
        line: None,
        field: None,
        message: format!("cannot read it: {why}"),
    })
}

/// Checks `text`, which errors call `file`.
///
/// # Errors
/// The first thing wrong in it.
pub fn parse(text: &str, file: &str) -> Result<Config, Problem> {
    let config: Config = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| place::line(text, span.start));
        let field = error.span().and_then(|span| place::field(text, span.start));
        // Serde's messages span lines only to quote the input.
        let message = error.message().lines().collect::<Vec<_>>().join(" ");
        located(file, line, field.as_deref(), &message)
    })?;
    config::check(&config, &MachineFacts::default()).map_err(|error| {
        let (vm, field) = place::subject(&error);
        let line = place::of_field(text, vm, field);
        located(file, line, field, &error.to_string())
    })?;
    Ok(config)
}

fn located(file: &str, line: usize, field: Option<&str>, message: &str) -> Problem {
    Problem {
        file: file.into(),
        line: Some(line),
        field: field.map(String::from),
        message: message.into(),
    }
}

/// The files that `vm` names, each with the field that names it.
fn files(vm: &VmConfig) -> impl Iterator<Item = (&'static str, &String)> {
    let initrd = vm.initrd.as_ref().map(|name| ("initrd", name));
    let modules = vm.modules.iter().map(|module| ("modules.name", &module.name));
    [("kernel", &vm.kernel)].into_iter().chain(initrd).chain(modules)
}

fn missing(vm: &VmConfig, name: &str, dir: &Path) -> String {
    format!(
        "vm {:?} names the file {name:?}, which is not in {}: put it there or correct the name",
        vm.name,
        dir.display()
    )
}

/// The boot modules of `config`: itself, packed, and each file it names, found in `dir`.
///
/// # Errors
/// When a file is not there.
pub fn modules(config: &Config, dir: &Path) -> Result<Vec<Module>> {
    let mut modules =
        vec![Module { name: MODULE.into(), content: Content::Bytes(config::pack(config)) }];
    for vm in &config.vms {
        for (_, name) in files(vm) {
            if modules.iter().any(|module| module.name == *name) {
                continue;
            }
            let file = dir.join(name);
            if !file.is_file() {
                bail!("{}", missing(vm, name, dir));
            }
            modules.push(Module { name: name.clone(), content: Content::File(file) });
        }
    }
    Ok(modules)
}

/// Writes `config`, packed, to `output`. Returns the lines of grub.cfg that load it and the files it names
/// from GRUB's folder `/boot`.
///
/// # Errors
/// When `output` cannot be written.
pub fn pack(config: &Config, output: &Path) -> Result<String> {
    fs::write(output, config::pack(config))
        .with_context(|| format!("cannot write {}", output.display()))?;
    let packed = output.file_name().unwrap_or(output.as_os_str()).to_string_lossy();
    let mut loaded = vec![(packed.as_ref(), MODULE)];
    for (_, name) in config.vms.iter().flat_map(files) {
        if !loaded.iter().any(|(_, module)| module == name) {
            loaded.push((name, name));
        }
    }
    Ok(loaded.iter().map(|(file, module)| iso::module_line(file, module)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# machine\n[[vm]]\nname = \"rt\"\ncpus = [1, 2]\nmemory = \"256M\"\nkernel = \"vmlinuz\"\n";

    fn error(text: &str) -> String {
        parse(text, "b.toml").unwrap_err().to_string()
    }

    #[test]
    fn a_small_configuration() {
        let config = parse(GOOD, "b.toml").unwrap();
        assert_eq!(config.vms[0].memory, 256 << 20);
        assert_eq!(config.vms[0].cpus, [1, 2]);
    }

    #[test]
    fn r_s10_errors_of_form_name_file_line_and_field() {
        let e = error(&GOOD.replace("[1, 2]", "\"all\""));
        assert!(e.starts_with("b.toml:4: cpus: "), "{e}");
        let e = error(&GOOD.replace("256M", "256X"));
        assert!(e.starts_with("b.toml:5: memory: ") && e.contains("suffix"), "{e}");
        let e = error(&format!("{GOOD}colour = \"red\"\n"));
        assert!(e.starts_with("b.toml:7: colour: "), "{e}");
        let e = error(&GOOD.replace("name = \"rt\"\n", ""));
        assert!(e.starts_with("b.toml:2: ") && e.contains("name"), "{e}");
        let e = error("[[vm]\n");
        assert!(e.starts_with("b.toml:1: "), "{e}");
    }

    #[test]
    fn r_s10_errors_of_content_name_the_right_table() {
        let second = GOOD.replace("\"rt\"", "\"b\"").replace("[1, 2]", "[3, 0]");
        let e = error(&format!("{GOOD}\n{second}"));
        assert!(e.starts_with("b.toml:11: cpus: ") && e.contains("housekeeping"), "{e}");
        let e = error(&format!("{GOOD}\n{GOOD}"));
        assert!(e.starts_with("b.toml:10: name: "), "{e}");
        assert!(error("").starts_with("b.toml:1: "));
        let device = format!("{GOOD}devices = [\"pci:0000:03:00.9\"]\n");
        let e = error(&device);
        assert!(e.starts_with("b.toml:7: devices: ") && e.contains("from 0 to 7"), "{e}");
        let e = error(&format!("{GOOD}devices = [\"pit\"]\ndma = \"identity-unprotected\"\n"));
        assert!(e.starts_with("b.toml:8: dma: ") && e.contains("no PCI function"), "{e}");
    }

    #[test]
    fn each_named_file_becomes_one_module() {
        let dir = tempfile::tempdir().unwrap();
        let config = parse(GOOD, "b.toml").unwrap();
        assert!(modules(&config, dir.path()).unwrap_err().to_string().contains("vmlinuz"));
        std::fs::write(dir.path().join("vmlinuz"), "k").unwrap();
        let modules = modules(&config, dir.path()).unwrap();
        let names: Vec<&str> = modules.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, [MODULE, "vmlinuz"]);
    }
    #[test]
    fn r_s10_images_that_cannot_be_loaded_name_file_line_and_field() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("b.toml");
        std::fs::write(&file, GOOD).unwrap();
        let why = || check(&file).unwrap_err();
        assert_eq!((why().line, why().field.as_deref()), (Some(6), Some("kernel")));
        assert!(why().message.contains("vmlinuz") && why().message.contains("put it there"));
        std::fs::write(dir.path().join("vmlinuz"), "no kernel").unwrap();
        assert!(
            why().to_string().contains("b.toml:6: kernel: vm \"rt\": \"vmlinuz\": "),
            "{}",
            why()
        );
        let absent = check(&dir.path().join("absent.toml")).unwrap_err();
        assert_eq!((absent.line, absent.field), (None, None));
        assert!(absent.message.starts_with("cannot read it: "), "{}", absent.message);
    }

    #[test]
    fn a_packed_configuration_is_what_the_image_reads() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("rt.cfg");
        let twice = GOOD.replace("\"rt\"", "\"b\"").replace("[1, 2]", "[3]");
        let config = parse(&format!("{GOOD}\ninitrd = \"a;b\"\n{twice}"), "b.toml").unwrap();
        let lines = pack(&config, &out).unwrap();
        assert_eq!(config::unpack(&std::fs::read(&out).unwrap()).unwrap(), config);
        assert_eq!(
            lines,
            "module2 /boot/rt.cfg config\nmodule2 /boot/vmlinuz vmlinuz\n\
             module2 '/boot/a;b' 'a;b'\n"
        );
        assert!(pack(&config, dir.path()).is_err());
    }
}
