//! The shared libraries a program of a Debian package needs, found among the unpacked packages.

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};

/// Where Debian keeps libraries of this architecture, in the order they are tried. The last two
/// may be absolute links that lead out of the unpacked packages.
const FOLDERS: [&str; 4] =
    ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/lib64", "lib64"];
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;

/// A library: its place in the guest and the file that goes there.
pub struct Library {
    /// Path in the guest.
    pub path: String,
    /// File on the host.
    pub file: PathBuf,
}

/// All libraries `program` needs, directly or not, and its loader.
///
/// # Errors
/// When one is not among the unpacked packages in `root`.
pub fn of(program: &Path, root: &Path) -> Result<Vec<Library>> {
    let mut found = BTreeMap::new();
    let mut open = vec![program.to_path_buf()];
    while let Some(file) = open.pop() {
        let needs = needs(&file)?;
        let libraries = needs.libraries.iter().map(|name| format!("/lib/x86_64-linux-gnu/{name}"));
        for path in libraries.chain(needs.loader) {
            let name = path.rsplit('/').next().unwrap_or(&path).to_string();
            if let Entry::Vacant(place) = found.entry(name.clone()) {
                let file = find(&name, root)?;
                open.push(file.clone());
                place.insert(Library { path, file });
            }
        }
    }
    // The loader is also a needed library of libc, by its name alone; Linux wants its full path.
    if let Some(loader) = needs(program)?.loader
        && let Some(library) = loader.rsplit('/').next().and_then(|name| found.get_mut(name))
    {
        library.path = loader;
    }
    Ok(found.into_values().collect())
}

fn find(name: &str, root: &Path) -> Result<PathBuf> {
    for folder in FOLDERS {
        let file = root.join(folder).join(name);
        if file.is_file() {
            return Ok(file);
        }
    }
    bail!(
        "the library {name} is not in {}: its package is missing from the list in setup/guest.rs",
        root.display()
    )
}

struct Needs {
    libraries: Vec<String>,
    loader: Option<String>,
}

fn needs(file: &Path) -> Result<Needs> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let elf = object::File::parse(bytes.as_slice())
        .with_context(|| format!("{} is not an ELF file", file.display()))?;
    let section = |name: &str| elf.section_by_name(name).and_then(|s| s.data().ok());
    let loader = section(".interp").map(text_at_start);
    let names = section(".dynstr").unwrap_or_default();
    let mut libraries = Vec::new();
    for entry in section(".dynamic").unwrap_or_default().chunks_exact(16) {
        let (tag, value) = entry.split_at(8);
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).unwrap_or(DT_NULL);
        match number(tag) {
            DT_NULL => break,
            DT_NEEDED => {
                let at = usize::try_from(number(value))?;
                let name = names.get(at..).context("a library name is outside .dynstr")?;
                libraries.push(text_at_start(name));
            }
            _ => {}
        }
    }
    Ok(Needs { libraries, loader })
}

fn text_at_start(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or(bytes)).into_owned()
}
