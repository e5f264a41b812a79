//! Guests' console output on its way to the serial port.
//!
//! A vCPU's OUT to its COM1 puts a byte into its VM's [`GuestOutput`]; the housekeeping core's
//! [`Pump`] takes bytes out. Locks: the ring's own, a leaf.

use super::LogRing;
use crate::sync::Mutex;
use alloc::collections::VecDeque;

/// Bytes of guest output that may wait. A guest that prints faster than the line finds its UART
/// busy, as on a real one.
const CAPACITY: usize = 16 * 1024;
/// How long a log line waits for a guest to finish its line, in TSC ticks per tsc_hz: 1/20 s.
const PATIENCE: u64 = 20;
/// Bytes after which a line gives way to others: a guest that never ends its line must not silence
/// them.
const LONG_LINE: usize = 1024;

/// What became of a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Put {
    /// There was no room.
    Full,
    /// It is the only one that waits: whoever prints may be asleep.
    First,
    /// Others wait before it, so whoever prints is at work or has a timer.
    Behind,
}

/// One VM's waiting output.
pub struct GuestOutput(Mutex<VecDeque<u8>>);

impl GuestOutput {
    /// An empty ring with all its memory.
    pub fn new() -> Self {
        Self(Mutex::new(VecDeque::with_capacity(CAPACITY)))
    }

    /// Appends a byte.
    pub fn put(&self, byte: u8) -> Put {
        let mut ring = self.0.lock();
        if ring.len() >= CAPACITY {
            return Put::Full;
        }
        ring.push_back(byte);
        if ring.len() == 1 { Put::First } else { Put::Behind }
    }

    /// Takes the oldest byte.
    pub fn take(&self) -> Option<u8> {
        self.0.lock().pop_front()
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

impl Default for GuestOutput {
    fn default() -> Self {
        Self::new()
    }
}

/// Who wrote last, so that lines are not mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writer {
    Log,
    Guest(usize),
}

/// The order in which waiting bytes leave: whole lines, the log and the guests in turn. Owned by the
/// housekeeping core.
pub struct Pump {
    /// Whose line is unfinished.
    open: Option<Writer>,
    /// Bytes of that line so far.
    length: usize,
    /// TSC of its last byte.
    last: u64,
    /// Where the search for the next writer begins: 0 the log, then the guests.
    turn: usize,
    tsc_hz: u64,
}

impl Pump {
    /// A pump with nothing under way.
    pub const fn new(tsc_hz: u64) -> Self {
        Self { open: None, length: 0, last: 0, turn: 0, tsc_hz }
    }

    /// The next byte for the serial port. A line under way goes on while its writer has bytes. It
    /// gives way, with a line end of ours, when it is long, or silent for a while, and others wait.
    pub fn next<'a>(
        &mut self,
        now: u64,
        guests: impl Iterator<Item = &'a GuestOutput> + Clone,
    ) -> Option<u8> {
        let ring = |n| guests.clone().nth(n);
        let take = |writer| match writer {
            Writer::Log => LogRing::take(),
            Writer::Guest(n) => ring(n).and_then(GuestOutput::take),
        };
        let waits = |writer| match writer {
            Writer::Log => LogRing::waiting(),
            Writer::Guest(n) => ring(n).is_some_and(|ring| !ring.is_empty()),
        };
        let count = 1 + guests.clone().count();
        let writer_at = |place: usize| match place % count {
            0 => Writer::Log,
            n => Writer::Guest(n - 1),
        };
        let turn = self.turn;
        let mut others = (turn..turn + count).filter(|&place| Some(writer_at(place)) != self.open);
        let next = others.find(|&place| waits(writer_at(place)));
        if let Some(writer) = self.open {
            let long = self.length >= LONG_LINE && next.is_some();
            if !long && let Some(byte) = take(writer) {
                return Some(self.sent(writer, byte, now));
            }
            if !long && (next.is_none() || now.wrapping_sub(self.last) < self.tsc_hz / PATIENCE) {
                return None;
            }
            self.open = None;
            self.length = 0;
            return Some(b'\n');
        }
        let place = next?;
        self.turn = (place + 1) % count;
        let writer = writer_at(place);
        take(writer).map(|byte| self.sent(writer, byte, now))
    }

    /// True while an unfinished line keeps others waiting: the caller must look again soon.
    pub const fn holding(&self) -> bool {
        self.open.is_some()
    }

    fn sent(&mut self, writer: Writer, byte: u8, now: u64) -> u8 {
        self.open = (byte != b'\n').then_some(writer);
        self.length = if self.open.is_some() { self.length + 1 } else { 0 };
        self.last = now;
        byte
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{string::String, vec};

    fn feed(ring: &GuestOutput, byte: u8) {
        assert_ne!(ring.put(byte), Put::Full);
    }

    fn drain(pump: &mut Pump, now: u64, guests: &[GuestOutput]) -> String {
        let bytes = core::iter::from_fn(|| pump.next(now, guests.iter()));
        bytes.map(char::from).collect()
    }

    #[test]
    fn a_guests_line_is_not_broken_by_another() {
        let guests = vec![GuestOutput::new(), GuestOutput::new()];
        let mut pump = Pump::new(1000);
        "one ".bytes().for_each(|b| feed(&guests[0], b));
        assert_eq!(drain(&mut pump, 10, &guests), "one ");
        "two\n".bytes().for_each(|b| feed(&guests[1], b));
        assert_eq!(drain(&mut pump, 20, &guests), "");
        "more\n".bytes().for_each(|b| feed(&guests[0], b));
        assert_eq!(drain(&mut pump, 30, &guests), "more\ntwo\n");
    }

    #[test]
    fn a_silent_guests_prompt_does_not_hold_others_up() {
        let guests = vec![GuestOutput::new(), GuestOutput::new()];
        let mut pump = Pump::new(1000);
        "$ ".bytes().for_each(|b| feed(&guests[0], b));
        assert_eq!(drain(&mut pump, 10, &guests), "$ ");
        "two\n".bytes().for_each(|b| feed(&guests[1], b));
        assert_eq!(drain(&mut pump, 10 + 50, &guests), "\ntwo\n");
    }

    #[test]
    fn r_s5_a_line_without_an_end_silences_nobody() {
        let guests = vec![GuestOutput::new(), GuestOutput::new()];
        let mut pump = Pump::new(1000);
        for _ in 0..4 * LONG_LINE {
            feed(&guests[0], b'x');
        }
        "one\ntwo\n".bytes().for_each(|b| feed(&guests[1], b));
        let text = drain(&mut pump, 10, &guests);
        let lines: std::vec::Vec<&str> = text.lines().collect();
        assert_eq!(lines.iter().position(|l| *l == "one"), Some(1));
        assert_eq!(lines.iter().position(|l| *l == "two"), Some(3));
        assert_eq!(text.bytes().filter(|&b| b == b'x').count(), 4 * LONG_LINE);
    }

    #[test]
    fn a_full_ring_refuses() {
        let ring = GuestOutput::new();
        assert_eq!(ring.put(b'x'), Put::First);
        assert!((1..CAPACITY).all(|_| ring.put(b'x') == Put::Behind));
        assert_eq!(ring.put(b'x'), Put::Full);
    }
}
