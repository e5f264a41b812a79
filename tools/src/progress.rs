//! What the tools say while they work: one line per step, with the time it took.

use std::io::{IsTerminal, Write};
use std::time::Instant;

/// A step under way. On a terminal its line is rewritten when it ends.
pub struct Step {
    what: String,
    start: Instant,
    rewrite: bool,
}

impl Step {
    /// Announces `what`.
    #[must_use]
    pub fn start(what: impl Into<String>) -> Self {
        let (what, rewrite) = (what.into(), std::io::stderr().is_terminal());
        if rewrite {
            eprint!("  ..  {what}");
            let _ = std::io::stderr().flush();
        }
        Self { what, start: Instant::now(), rewrite }
    }

    /// Announces `what`, whose program writes on the terminal itself.
    #[must_use]
    pub fn noisy(what: impl Into<String>) -> Self {
        let what = what.into();
        eprintln!("  ..  {what}");
        Self { what, start: Instant::now(), rewrite: false }
    }

    /// The step is done.
    pub fn done(self) {
        let lead = if self.rewrite { "\r" } else { "" };
        eprintln!("{lead}  ok  {} ({:.1} s)", self.what, self.start.elapsed().as_secs_f64());
    }
}

/// A step that needed no work.
pub fn already(what: &str) {
    eprintln!("  ok  {what} (already there)");
}

/// A remark.
pub fn note(what: impl AsRef<str>) {
    eprintln!("      {}", what.as_ref());
}

/// A title above several steps.
pub fn title(what: &str) {
    eprintln!("==> {what}");
}
