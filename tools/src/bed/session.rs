//! One run of a machine: start it, stream its console, end it in time.

use super::lines::Lines;
use super::terminal::Raw;
use super::{Bed, Machine, Serial};
use crate::command;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(50);
/// Time for a machine to end by itself after its last line.
const GRACE: Duration = Duration::from_secs(20);
/// Ctrl-] ends an interactive run.
const LEAVE: u8 = 0x1D;

/// What happens with the console.
pub enum Console<'a> {
    /// Each finished line is handed over; the answer says how the run goes on.
    Lines(&'a mut dyn FnMut(&str) -> Then),
    /// It is joined with our terminal.
    Interactive,
}

/// How a run goes on after a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// More will come.
    GoOn,
    /// The machine should end by itself now.
    ShouldEnd,
    /// All has been seen: switch the machine off.
    Stop,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The machine ended; true when it reported success.
    Exited(bool),
    /// It printed its last line but did not end, so it was switched off.
    Stayed,
    /// Its watcher had seen enough.
    Stopped,
    /// The time limit passed.
    TimeLimit,
    /// The user left.
    Left,
}

/// What a run left behind.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// All lines of the console.
    pub lines: Vec<String>,
    /// Wall time.
    pub wall: Duration,
    /// What the emulator itself wrote.
    pub log: PathBuf,
}

/// Boots `machine` on `bed`.
///
/// # Errors
/// When the emulator cannot be started or its console not be read.
pub fn run(bed: Bed, machine: &Machine, console: Console<'_>) -> Result<Outcome> {
    let interactive = matches!(console, Console::Interactive);
    let prepared = bed.prepare(machine, interactive)?;
    let log = machine.dir.join("emulator.log");
    let mut output =
        File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    // For whoever wants to start it by hand.
    writeln!(output, "{}", command::text(&prepared.command))?;
    let errors = output.try_clone()?;
    let mut command = dying_with_us(&prepared.command);
    command.current_dir(&machine.dir).stdin(Stdio::null()).stdout(output).stderr(errors);
    let start = Instant::now();
    let child = command.spawn().with_context(|| {
        let program = prepared.command.get_program().to_string_lossy();
        format!("cannot start {program}: `cargo xtask setup` installs it")
    })?;
    let mut guard = Guard(child);
    let mut session = Session { lines: Vec::new(), seen_last: None, stop: false };
    let deadline = start + machine.time_limit;
    let end = match (&prepared.serial, console) {
        (Serial::File(file), Console::Lines(show)) => {
            session.follow(bed, file, &mut guard.0, deadline, show)?
        }
        (Serial::Socket(port), _) => session.join(bed, *port, &mut guard.0, deadline)?,
        (Serial::File(_), Console::Interactive) => {
            unreachable!("an interactive machine has a socket")
        }
    };
    Ok(Outcome { end, lines: session.lines, wall: start.elapsed(), log })
}

/// `command` in a form that the kernel ends when we are killed and can no longer do it.
fn dying_with_us(command: &Command) -> Command {
    // A program that is not there must fail at its start, not inside the wrapper.
    if !command::exists("setpriv") || !command::exists(command.get_program()) {
        let mut same = Command::new(command.get_program());
        same.args(command.get_args());
        return same;
    }
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "KILL", "--"]);
    wrapped.arg(command.get_program()).args(command.get_args());
    wrapped
}

/// Ends the emulator whatever happens to us.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Session {
    lines: Vec<String>,
    seen_last: Option<Instant>,
    stop: bool,
}

impl Session {
    fn follow(
        &mut self,
        bed: Bed,
        file: &Path,
        child: &mut Child,
        deadline: Instant,
        show: &mut dyn FnMut(&str) -> Then,
    ) -> Result<End> {
        let mut serial =
            File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        let (mut splitter, mut bytes) = (Lines::default(), Vec::new());
        loop {
            // Ask before reading: what it wrote until then is read below.
            let ended = child.try_wait()?;
            bytes.clear();
            serial.read_to_end(&mut bytes)?;
            splitter.push(&bytes, &mut |line| self.line(line, show));
            let end = match ended {
                Some(status) => End::Exited(bed.verdict(status)),
                None if self.stop => End::Stopped,
                None if self.seen_last.is_some_and(|seen| seen.elapsed() > GRACE) => End::Stayed,
                None if Instant::now() > deadline => End::TimeLimit,
                None => {
                    thread::sleep(POLL);
                    continue;
                }
            };
            splitter.end(&mut |line| self.line(line, show));
            return Ok(end);
        }
    }

    fn line(&mut self, line: &str, show: &mut dyn FnMut(&str) -> Then) {
        match show(line) {
            Then::GoOn => {}
            Then::ShouldEnd => {
                self.seen_last.get_or_insert_with(Instant::now);
            }
            Then::Stop => self.stop = true,
        }
        self.lines.push(line.to_string());
    }

    /// Joins the console with our terminal until the machine ends or the user leaves.
    fn join(&mut self, bed: Bed, port: u16, child: &mut Child, deadline: Instant) -> Result<End> {
        let mut socket = connect(port, child)?;
        eprintln!("      The console is yours; Ctrl-] switches the machine off.");
        let _raw = Raw::enter();
        socket.set_read_timeout(Some(POLL))?;
        let keys = forward_keys(socket.try_clone()?);
        let (mut splitter, mut buffer) = (Lines::default(), [0; 4096]);
        let mut quiet = |_: &str| Then::GoOn;
        loop {
            let ended = child.try_wait()?;
            let mut closed = false;
            match socket.read(&mut buffer) {
                Ok(0) => closed = true,
                Ok(count) => {
                    let bytes = buffer.get(..count).unwrap_or(&buffer);
                    let mut out = std::io::stdout().lock();
                    out.write_all(bytes)?;
                    out.flush()?;
                    splitter.push(bytes, &mut |line| self.line(line, &mut quiet));
                    continue;
                }
                Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => closed = true,
            }
            let end = match ended {
                Some(status) => End::Exited(bed.verdict(status)),
                None if keys.is_finished() => End::Left,
                None if Instant::now() > deadline => End::TimeLimit,
                None => {
                    if closed {
                        thread::sleep(POLL);
                    }
                    continue;
                }
            };
            splitter.end(&mut |line| self.line(line, &mut quiet));
            return Ok(end);
        }
    }
}

/// The emulator listens a moment after its start.
fn connect(port: u16, child: &mut Child) -> Result<TcpStream> {
    let patience = Instant::now() + Duration::from_secs(15);
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(socket) => return Ok(socket),
            Err(why) if Instant::now() > patience || child.try_wait()?.is_some() => {
                return Err(why).context("the emulator offers no console; see its emulator.log");
            }
            Err(_) => thread::sleep(POLL),
        }
    }
}

/// Copies our standard input to the console until Ctrl-]. At the end of a piped input the thread
/// stays, so that a script's last command may finish.
fn forward_keys(mut socket: TcpStream) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let (mut keys, mut stdin) = ([0; 64], std::io::stdin().lock());
        loop {
            let count = match stdin.read(&mut keys) {
                Ok(0) | Err(_) => loop {
                    thread::park();
                },
                Ok(count) => count,
            };
            let typed = keys.get(..count).unwrap_or(&keys);
            if typed.contains(&LEAVE) {
                return;
            }
            // A machine that ended is noticed by its exit status.
            let _ = socket.write_all(typed);
        }
    })
}
