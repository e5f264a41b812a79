//! The kernel's modules that a guest with PCI functions loads: drivers, and what these depend on.
//! They are kept outside of the package's tree, uncompressed, with a list in the order of loading.
//!
//! A package has no `modules.dep`; what a module depends on stands in its section `.modinfo`
//! (the kernel's `Documentation/kbuild/modules.rst`).

use anyhow::{Context, Result};
use object::{Object, ObjectSection};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Drivers of the functions that the QEMU beds have: physical and virtual.
const DRIVERS: [&str; 3] = ["igb", "igbvf", "nvme"];
/// The list, one file name per line.
const ORDER: &str = "order";

/// Copies the drivers and their dependencies from a kernel's `tree` to `to`, unpacking those that
/// are compressed with `xz`, a command that reads and writes standard streams.
///
/// # Errors
/// When one is missing, or a file cannot be read or written.
pub fn keep(tree: &Path, to: &Path, xz: &[&str]) -> Result<()> {
    let mut files = BTreeMap::new();
    index(tree, &mut files)?;
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    let mut order = Vec::new();
    let mut take = |name: &str| {
        let file = files.get(name).with_context(|| {
            format!("the kernel's package has no module {name} in {}", tree.display())
        })?;
        let bytes = read(file, xz)?;
        let depends = depends(&bytes)
            .with_context(|| format!("{} is not a kernel module", file.display()))?;
        fs::write(to.join(format!("{name}.ko")), bytes)?;
        Ok(depends)
    };
    for driver in DRIVERS {
        visit(driver, &mut order, &mut take)?;
    }
    let list: String = order.iter().map(|name| format!("{name}.ko\n")).collect();
    fs::write(to.join(ORDER), list)?;
    Ok(())
}

/// The modules in `kept`, in the order of loading.
///
/// # Errors
/// When they were not kept there.
pub fn kept(kept: &Path) -> Result<Vec<PathBuf>> {
    let list = kept.join(ORDER);
    let list =
        fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    Ok(list.lines().map(|name| kept.join(name)).collect())
}

/// Puts `name` behind what it depends on; nothing appears twice.
fn visit(
    name: &str,
    order: &mut Vec<String>,
    take: &mut dyn FnMut(&str) -> Result<Vec<String>>,
) -> Result<()> {
    if order.iter().any(|known| known == name) {
        return Ok(());
    }
    for needed in take(name)? {
        visit(&needed, order, take)?;
    }
    order.push(name.to_string());
    Ok(())
}

/// Every module below `dir` by its name.
fn index(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            index(&path, files)?;
        } else if let Some(name) = path.file_name().and_then(|name| module(name.to_str()?)) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The module's name, as dependencies spell it.
fn module(file: &str) -> Option<String> {
    let name = file.strip_suffix(".xz").unwrap_or(file).strip_suffix(".ko")?;
    Some(spelt(name))
}

/// The kernel takes `-` for `_` in names.
fn spelt(name: &str) -> String {
    name.replace('_', "-")
}

fn read(file: &Path, xz: &[&str]) -> Result<Vec<u8>> {
    let cannot = || format!("cannot read {}", file.display());
    if file.extension().is_some_and(|extension| extension != "xz") {
        return fs::read(file).with_context(cannot);
    }
    let (program, words) = xz.split_first().context("no command to unpack modules")?;
    let done = Command::new(program)
        .args(words)
        .stdin(Stdio::from(fs::File::open(file).with_context(cannot)?))
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    anyhow::ensure!(done.status.success(), "{program} cannot unpack {}", file.display());
    Ok(done.stdout)
}

/// What the module needs, from its line `depends=a,b`.
fn depends(module: &[u8]) -> Result<Vec<String>> {
    let elf = object::File::parse(module)?;
    let section = elf.section_by_name(".modinfo").context("there is no .modinfo")?;
    depends_in(section.data()?).context("its .modinfo names no dependencies")
}

fn depends_in(modinfo: &[u8]) -> Option<Vec<String>> {
    let list = modinfo.split(|&byte| byte == 0).find_map(|line| line.strip_prefix(b"depends="))?;
    let names = std::str::from_utf8(list).ok()?.split(',');
    Some(names.filter(|name| !name.is_empty()).map(spelt).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_is_loaded_before_it() {
        let mut order = Vec::new();
        let needs = |name: &str| match name {
            "nvme" => Ok(vec!["nvme-core".into()]),
            "nvme-core" => Ok(vec!["crc".into(), "t10".into()]),
            "t10" => Ok(vec!["crc".into()]),
            "crc" | "igb" => Ok(Vec::new()),
            _ => anyhow::bail!("no {name}"),
        };
        for name in ["nvme", "igb"] {
            visit(name, &mut order, &mut { needs }).unwrap();
        }
        assert_eq!(order, ["crc", "t10", "nvme-core", "nvme", "igb"]);
        assert!(visit("xe", &mut order, &mut { needs }).is_err());
    }

    #[test]
    fn names_and_dependencies() {
        assert_eq!(module("nvme-core.ko.xz").as_deref(), Some("nvme-core"));
        assert_eq!(module("crc64_rocksoft.ko").as_deref(), Some("crc64-rocksoft"));
        assert_eq!(module("modules.builtin"), None);
        let modinfo = b"license=GPL\0depends=nvme_core,t10-pi\0name=nvme\0";
        assert_eq!(depends_in(modinfo).unwrap(), ["nvme-core", "t10-pi"]);
        assert_eq!(depends_in(b"depends=\0").unwrap(), [] as [&str; 0]);
        assert_eq!(depends_in(b"license=GPL\0"), None);
    }

    #[test]
    fn compressed_modules_are_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let (plain, packed) = (dir.path().join("a.ko"), dir.path().join("b.ko.xz"));
        fs::write(&plain, "as it is").unwrap();
        fs::write(&packed, "packed").unwrap();
        // Any filter does: here one that turns letters.
        let filter = ["tr", "a-z", "b-za"];
        assert_eq!(read(&plain, &filter).unwrap(), b"as it is");
        assert_eq!(read(&packed, &filter).unwrap(), b"qbdlfe");
        assert!(read(&packed, &["false"]).is_err());
    }
}
