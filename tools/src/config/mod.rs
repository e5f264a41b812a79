//! `beeline.toml`: read, checked with messages that name file, line and field, and packed.

mod place;

use crate::iso::{Content, Module};
use anyhow::{Context, Result, anyhow, bail};
use guest_loader::config::{self, Config, MachineFacts};
use std::fs;
use std::path::Path;

/// Name of the boot module that holds the packed configuration.
pub const MODULE: &str = "config";

/// Reads and checks the file.
///
/// # Errors
/// When it cannot be read or something in it is wrong.
pub fn read(file: &Path) -> Result<Config> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    parse(&text, &file.display().to_string())
}

/// Checks `text`, which errors call `file`.
///
/// # Errors
/// The first thing wrong in it.
pub fn parse(text: &str, file: &str) -> Result<Config> {
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

fn located(file: &str, line: usize, field: Option<&str>, message: &str) -> anyhow::Error {
    match field {
        Some(field) => anyhow!("{file}:{line}: {field}: {message}"),
        None => anyhow!("{file}:{line}: {message}"),
    }
}

/// The boot modules of `config`: itself, packed, and each file it names, found in `dir`.
///
/// # Errors
/// When a file is not there.
pub fn modules(config: &Config, dir: &Path) -> Result<Vec<Module>> {
    let mut modules =
        vec![Module { name: MODULE.into(), content: Content::Bytes(config::pack(config)) }];
    for vm in &config.vms {
        let files = [Some(&vm.kernel), vm.initrd.as_ref()];
        let further = vm.modules.iter().map(|module| &module.name);
        for name in files.into_iter().flatten().chain(further) {
            if modules.iter().any(|module| module.name == *name) {
                continue;
            }
            let file = dir.join(name);
            if !file.is_file() {
                bail!(
                    "vm {:?} names the file {name:?}, which is not in {}: put it there or correct the name",
                    vm.name,
                    dir.display()
                );
            }
            modules.push(Module { name: name.clone(), content: Content::File(file) });
        }
    }
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# machine\n[[vm]]\nname = \"rt\"\ncpus = [1, 2]\nmemory = \"256M\"\nkernel = \"vmlinuz\"\n";

    fn error(text: &str) -> String {
        format!("{:#}", parse(text, "b.toml").unwrap_err())
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
}
