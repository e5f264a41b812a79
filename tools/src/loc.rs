//! `cargo xtask loc`: lines of Rust per crate.

use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Folder of each crate; a crate inside another one's folder comes first, so it is counted once.
const CRATES: [(&str, &str); 8] = [
    ("arch-defs", "arch/defs"),
    ("arch", "arch"),
    ("guest-loader", "guest-loader"),
    ("hypervisor", "hypervisor"),
    ("test-guest", "qemu-tests/guests"),
    ("qemu-tests", "qemu-tests"),
    ("window", "tools/window"),
    ("tools", "tools"),
];

/// The line that our tests start with.
const TEST_HEAD: &str = "#[cfg(test)]";

/// Lines of one crate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// With something on them that is no comment.
    pub code: usize,
    /// Of the code, in `mod tests` or a `tests` folder.
    pub tests: usize,
    /// Comments alone on their line.
    pub comments: usize,
    /// Files.
    pub files: usize,
}

/// Prints the table.
///
/// # Errors
/// When a source file cannot be read.
pub fn print(workspace: &Workspace) -> Result<()> {
    println!("{:<14} {:>6} {:>7} {:>7} {:>9}", "crate", "files", "code", "tests", "comments");
    let mut all = Lines::default();
    for (name, folder) in CRATES {
        let mut lines = Lines::default();
        let root = workspace.root();
        let nested: Vec<_> = CRATES.iter().map(|(_, other)| root.join(other)).collect();
        walk(
            &root.join(folder),
            &mut |path| path == root.join(folder) || !nested.iter().any(|other| path == other),
            &mut |path| count(path, &mut lines),
        )?;
        row(name, lines);
        all.files += lines.files;
        all.code += lines.code;
        all.tests += lines.tests;
        all.comments += lines.comments;
    }
    row("all", all);
    println!("\ncode: without tests, blank lines and comments");
    Ok(())
}

fn row(name: &str, l: Lines) {
    println!("{name:<14} {:>6} {:>7} {:>7} {:>9}", l.files, l.code - l.tests, l.tests, l.comments);
}

fn walk(
    dir: &Path,
    enter: &mut dyn FnMut(&Path) -> bool,
    file: &mut dyn FnMut(&Path) -> Result<()>,
) -> Result<()> {
    if !enter(dir) {
        return Ok(());
    }
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                walk(&path, enter, file)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            file(&path)?;
        }
    }
    Ok(())
}

fn count(path: &Path, lines: &mut Lines) -> Result<()> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let in_tests = path.file_name().is_some_and(|name| name == "tests.rs")
        || path.ancestors().any(|dir| dir.ends_with("tests") && dir.join("../Cargo.toml").exists());
    lines.files += 1;
    add(&text, in_tests, lines);
    Ok(())
}

fn add(text: &str, mut in_tests: bool, lines: &mut Lines) {
    for line in text.lines().map(str::trim) {
        // By our own style the tests end a file.
        in_tests |= line == TEST_HEAD;
        if line.starts_with("//") {
            lines.comments += 1;
        } else if !line.is_empty() {
            lines.code += 1;
            lines.tests += usize::from(in_tests);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_tests_are_told_apart() {
        let mut lines = Lines::default();
        add("//! x\n\nfn a() {} // b\n/// c\n#[cfg(test)]\nmod tests {\n}\n", false, &mut lines);
        assert_eq!(lines, Lines { code: 4, tests: 3, comments: 2, files: 0 });
    }
}
