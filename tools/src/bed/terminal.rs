//! The user's terminal in raw mode, for an interactive console.

use std::io::IsTerminal;
use std::process::{Command, Stdio};

/// Raw mode until dropped. Does nothing when standard input is no terminal.
pub struct Raw {
    saved: Option<String>,
}

impl Raw {
    /// Passes each key on as it is struck, Ctrl-C included.
    #[must_use]
    pub fn enter() -> Self {
        if !std::io::stdin().is_terminal() {
            return Self { saved: None };
        }
        let saved = stty(&["-g"]);
        if saved.is_some() {
            let _ = stty(&["raw", "-echo"]);
        }
        Self { saved }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            let _ = stty(&[saved]);
        }
    }
}

fn stty(arguments: &[&str]) -> Option<String> {
    let done = Command::new("stty").args(arguments).stdin(Stdio::inherit()).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_string())
}
