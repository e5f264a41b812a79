//! The hypervisor's own command line: `exit=`, `log=`, `tsc-hz=`.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use arch::machine::ExitPort;

/// What it says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// How the machine ends.
    pub exit: ExitPort,
    /// Log level.
    pub log: Option<String>,
    /// TSC frequency in Hz.
    pub tsc_hz: Option<u64>,
    /// Words that mean nothing here.
    pub unknown: Vec<String>,
}

impl CommandLine {
    /// Reads it. Wrong words are kept for [`CommandLine::report`]: a typo must not stop a boot.
    pub fn parse(text: &str) -> Self {
        let mut line = Self::default();
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some(("exit", "bochs")) => line.exit = ExitPort::Bochs,
                Some(("exit", "debug-exit")) => line.exit = ExitPort::DebugExit,
                Some(("exit", "reboot")) => line.exit = ExitPort::Reboot,
                Some(("exit", "halt")) => line.exit = ExitPort::None,
                Some(("log", level)) => line.log = Some(level.to_string()),
                Some(("tsc-hz", hz)) => match hz.parse() {
                    Ok(hz) if hz > 0 => line.tsc_hz = Some(hz),
                    _ => line.unknown.push(word.to_string()),
                },
                _ => line.unknown.push(word.to_string()),
            }
        }
        line
    }

    /// Applies the log level and complains about the words that mean nothing.
    pub fn report(&self) {
        if let Some(level) = &self.log {
            crate::console::set_level(level);
        }
        for word in &self.unknown {
            log::warn!(
                "command line: \"{word}\" is ignored; known are exit=bochs|debug-exit|reboot|halt, \
                 log=LEVEL, tsc-hz=N"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_s10_unknown_words_are_kept_for_the_complaint() {
        let line = CommandLine::parse("exit=bochs log=debug tsc-hz=0 exit=later verbose");
        assert_eq!(line.exit, ExitPort::Bochs);
        assert_eq!(line.log.as_deref(), Some("debug"));
        assert_eq!(line.tsc_hz, None);
        assert_eq!(line.unknown, ["tsc-hz=0", "exit=later", "verbose"]);
    }
}
