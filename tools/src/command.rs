//! Running other programs, with errors that name the program and show what it said.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

/// `program arguments…` as a person would type it.
#[must_use]
pub fn text(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.join(" ")
}

/// Runs `command` with its output on ours.
///
/// # Errors
/// When it cannot be started or fails.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", text(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", text(command));
    }
    Ok(())
}

/// Runs `command` quietly and returns its standard output; a failure shows its last lines.
///
/// # Errors
/// When it cannot be started or fails.
pub fn output(command: &mut Command) -> Result<String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", text(command)))?;
    let stdout = String::from_utf8_lossy(&done.stdout).into_owned();
    if !done.status.success() {
        let said = format!("{stdout}{}", String::from_utf8_lossy(&done.stderr));
        let lines: Vec<&str> = said.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(15)..).unwrap_or(&[]).join("\n");
        bail!("`{}` failed ({})\n{tail}", text(command), done.status);
    }
    Ok(stdout)
}

/// Is `program` found on PATH (or there, when it is a path)?
#[must_use]
pub fn exists(program: impl AsRef<OsStr>) -> bool {
    let program = Path::new(program.as_ref());
    if program.components().count() > 1 {
        return program.is_file();
    }
    let Some(path) = std::env::var_os("PATH") else { return false };
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_what_the_program_said() {
        let error = output(Command::new("sh").args(["-c", "echo out; echo why >&2; exit 3"]));
        let text = format!("{:#}", error.unwrap_err());
        assert!(text.contains("why") && text.contains("out") && text.contains('3'), "{text}");
    }

    #[test]
    fn programs_are_found_on_the_path() {
        assert!(exists("sh") && exists("/bin/sh"));
        assert!(!exists("no-such-program-of-ours") && !exists("/bin"));
    }
}
