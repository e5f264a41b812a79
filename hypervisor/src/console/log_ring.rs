//! The log: a ring of text that the housekeeping core prints, kept over a warm reset.
//!
//! Locks: [`LOG`], a leaf.

use crate::sync::{AtomicBool, Mutex, Ordering};
use alloc::collections::VecDeque;
use arch::log_memory::LogMemory;
use core::fmt::{self, Write};
use core::ops::Range;
use log::{LevelFilter, Log, Metadata, Record};

/// Bytes that wait for the serial port at most; then lines are dropped and counted.
const CAPACITY: usize = 128 * 1024;
/// Bytes beyond that for lines that programs read.
const RESERVE: usize = 32 * 1024;

/// A line while it is put together, on the stack: the log takes its lock for whole lines only.
type Line = arrayvec::ArrayString<1024>;

/// The ring.
pub struct LogRing {
    waiting: VecDeque<u8>,
    dropped: u32,
    kept: Option<LogMemory>,
}

static LOG: Mutex<LogRing> =
    Mutex::new(LogRing { waiting: VecDeque::new(), dropped: 0, kept: None });

/// False until the housekeeping core's loop prints the log: until then lines go out at once.
static DEFERRED: AtomicBool = AtomicBool::new(false);

impl LogRing {
    /// Appends one line, whole or not at all.
    fn push(&mut self, text: &str) {
        if let Some(kept) = &mut self.kept {
            kept.write(text.as_bytes());
        }
        if !DEFERRED.load(Ordering::Relaxed) {
            text.bytes().for_each(arch::serial::put);
            return;
        }
        // Lines for programs have room of their own, which a guest that fills the log cannot take.
        let room = if text.starts_with("BEELINE") { CAPACITY + RESERVE } else { CAPACITY };
        if self.waiting.len() + text.len() <= room {
            self.waiting.extend(text.bytes());
        } else {
            self.dropped += 1;
        }
    }

    /// Takes one waiting byte (housekeeping core).
    pub fn take() -> Option<u8> {
        let mut log = LOG.lock();
        if let Some(byte) = log.waiting.pop_front() {
            return Some(byte);
        }
        if log.dropped > 0 {
            let dropped = core::mem::take(&mut log.dropped);
            // The ring has room again: it is empty.
            let mut text = Line::new();
            let _ = write!(text, "[beeline] {dropped} lines of log were dropped\r\n");
            log.push(&text);
        }
        None
    }

    /// True if something waits.
    pub fn waiting() -> bool {
        !LOG.lock().waiting.is_empty()
    }
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            log::Level::Error => "error: ",
            log::Level::Warn => "warning: ",
            _ => "",
        };
        line(format_args!("[beeline] {level}{}", record.args()));
    }

    fn flush(&self) {}
}

/// Writes one line for people or programs.
pub fn line(text: fmt::Arguments<'_>) {
    let mut whole = Line::new();
    // A line that is too long loses its end, never its line break.
    let _ = write!(whole, "{text}");
    while whole.try_push_str("\r\n").is_err() {
        whole.pop();
    }
    LOG.lock().push(&whole);
    if DEFERRED.load(Ordering::Relaxed) {
        crate::housekeeping::wake();
    }
}

/// Starts logging, straight to the serial port.
pub fn init() {
    arch::serial::init();
    // A second call could only find the same logger in place.
    let _ = log::set_logger(&Logger);
    log::set_max_level(LevelFilter::Info);
}

/// Sets the log level by its name on the command line.
pub fn set_level(name: &str) {
    match name.parse() {
        Ok(level) => log::set_max_level(level),
        Err(_) => log::warn!("command line: log={name} is none of error, warn, info, debug"),
    }
}

/// Starts keeping the log in memory that survives a warm reset, and prints what it held.
/// `used` are the spans that the boot loader's files lie in.
pub fn preserve(ram: &[Range<u64>], used: &[Range<u64>]) {
    let mut old = VecDeque::new();
    let kept = LogMemory::take(ram, used, |byte| old.push_back(byte));
    if !old.is_empty() {
        line(format_args!("[beeline] log of the run before this reset:"));
        let mut start = true;
        for byte in old {
            if start {
                "  | ".bytes().for_each(arch::serial::put);
            }
            // Memory may have decayed: printable characters only.
            if matches!(byte, b'\n' | b'\r' | b' '..=b'~') {
                arch::serial::put(byte);
            }
            start = byte == b'\n';
        }
        line(format_args!("[beeline] end of that log"));
    }
    LOG.lock().kept = kept;
}

/// From now on the housekeeping core prints the log.
pub fn defer() {
    DEFERRED.store(true, Ordering::Relaxed);
}

/// Prints what waits and everything from now on at once: for panics, on any core.
pub fn flush_now() {
    DEFERRED.store(false, Ordering::Relaxed);
    // The panicking core may hold the lock itself: then what waits is lost, the report is not.
    if let Some(mut log) = LOG.try_lock() {
        while let Some(byte) = log.waiting.pop_front() {
            arch::serial::put(byte);
        }
    }
}

/// A writer that goes straight to the serial port and waits for no lock, for panics. The memory
/// that survives a reset gets the text too, unless the panicking core holds its lock.
pub struct Direct;

impl Write for Direct {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(mut log) = LOG.try_lock()
            && let Some(kept) = &mut log.kept
        {
            kept.write(text.as_bytes());
        }
        text.bytes().for_each(arch::serial::put);
        Ok(())
    }
}
