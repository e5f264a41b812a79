//! Names for the addresses of a panic's backtrace: `  #0 0x0000000000201234` becomes the function
//! and the line of source behind it.

use addr2line::Loader;
use anyhow::{Context, Result, anyhow};
use std::fmt::Write;
use std::path::Path;

/// Resolves addresses of one ELF file.
pub struct Symbols {
    loader: Loader,
}

impl Symbols {
    /// Reads the debug information of `image`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn load(image: &Path) -> Result<Self> {
        let loader = Loader::new(image).map_err(|why| {
            anyhow!("cannot read {}: {why}; build it or name another with --image", image.display())
        })?;
        Ok(Self { loader })
    }

    /// `line` followed by the functions at its address, when it is a line of a backtrace.
    #[must_use]
    pub fn line(&self, line: &str) -> String {
        let mut out = line.trim_end().to_string();
        let Some(frame) = frame(line) else { return out };
        // A return address is behind the call; frame 0 is where it happened.
        let address = if frame.number == 0 { frame.address } else { frame.address - 1 };
        for (depth, place) in self.places(address).iter().enumerate() {
            let lead = if depth == 0 { "  " } else { "\n       inlined into " };
            let _ = write!(out, "{lead}{place}");
        }
        out
    }

    /// Innermost first.
    fn places(&self, address: u64) -> Vec<String> {
        let mut places = Vec::new();
        if let Ok(mut frames) = self.loader.find_frames(address) {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.as_ref().and_then(|f| f.demangle().ok());
                let name = name.map_or("?".into(), |name| short(&name));
                let place = frame.location.and_then(|l| Some((l.file?.to_string(), l.line?)));
                places.push(match place {
                    Some((file, line)) => format!("{name} at {}:{line}", relative(&file)),
                    None => name,
                });
            }
        }
        if places.is_empty()
            && let Some(symbol) = self.loader.find_symbol(address)
        {
            places.push(short(&format!("{:#}", rustc_demangle::demangle(symbol))));
        }
        places
    }
}

/// The backtraces in `lines` with names, if there are any and `image` can be read.
#[must_use]
pub fn backtrace(image: &Path, lines: &[String]) -> Option<String> {
    if !lines.iter().any(|line| frame(line).is_some()) {
        return None;
    }
    let symbols = Symbols::load(image).ok()?;
    let named = lines.iter().filter(|line| frame(line).is_some()).map(|line| symbols.line(line));
    Some(format!("backtrace:\n{}", named.collect::<Vec<_>>().join("\n")))
}

/// Prints `file`, or standard input, with names.
///
/// # Errors
/// When it or the image cannot be read.
pub fn print(image: &Path, file: Option<&Path>) -> Result<()> {
    let symbols = Symbols::load(image)?;
    let text = match file {
        Some(file) => std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?,
        None => std::io::read_to_string(std::io::stdin())?,
    };
    for line in text.lines() {
        println!("{}", symbols.line(line));
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Frame {
    number: u32,
    address: u64,
}

/// `#N 0xADDRESS`, after whatever a log puts in front.
fn frame(line: &str) -> Option<Frame> {
    let (_, rest) = line.split_once('#')?;
    let mut words = rest.split_whitespace();
    let number = words.next()?.trim_end_matches(':').parse().ok()?;
    let address = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    (address > 0).then_some(Frame { number, address })
}

/// Without the hash that ends a mangled name.
fn short(name: &str) -> String {
    match name.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
            path.into()
        }
        _ => name.into(),
    }
}

/// Paths of our sources from the repository's root.
fn relative(file: &str) -> &str {
    const FOLDERS: [&str; 4] = ["/hypervisor/src/", "/arch/", "/guest-loader/src/", "/qemu-tests/"];
    FOLDERS.iter().find_map(|dir| file.find(dir)).and_then(|at| file.get(at + 1..)).unwrap_or(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_backtrace() {
        let is = |line| frame(line).map(|f| (f.number, f.address));
        assert_eq!(is("  #0 0x0000000000201234"), Some((0, 0x0020_1234)));
        assert_eq!(is("bare 1 | #12: 0x2000ff extra"), Some((12, 0x2000ff)));
        assert_eq!(is("  #0 201234"), None);
        assert_eq!(is("vector #14 at 0x10"), None);
        assert_eq!(is("#1 0x0"), None);
    }

    #[test]
    fn names_lose_their_hash_and_paths_their_start() {
        assert_eq!(short("a::b::h0123456789abcdef"), "a::b");
        assert_eq!(short("a::hello"), "a::hello");
        assert_eq!(relative("/somewhere/hypervisor/src/main.rs"), "hypervisor/src/main.rs");
    }

    #[test]
    fn our_own_program_has_names() {
        let exe = std::env::current_exe().unwrap();
        let symbols = Symbols::load(&exe).unwrap();
        let base = symbols.loader.relative_address_base();
        assert_eq!(base, 0);
        let here = frame as *const () as u64;
        // Position-independent: the offset in the file is what the loader knows.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let start = u64::from_str_radix(maps.split('-').next().unwrap(), 16).unwrap();
        let text = symbols.line(&format!("  #0 {:#018x}", here - start));
        assert!(text.contains("frame") && text.contains("symbolise.rs"), "{text}");
    }
}
