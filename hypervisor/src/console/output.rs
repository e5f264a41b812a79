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

/// The order in which waiting bytes leave. Owned by the housekeeping core.
pub struct Pump {
    /// Whose line is unfinished.
    open: Option<Writer>,
    /// TSC of the last byte of that line.
    last: u64,
    tsc_hz: u64,
}

impl Pump {
    /// A pump with nothing under way.
    pub const fn new(tsc_hz: u64) -> Self {
        Self { open: None, last: 0, tsc_hz }
    }

    /// The next byte for the serial port. A line under way goes on while its writer has bytes;
    /// when it is silent for a while, another line begins on a line of its own.
    pub fn next<'a>(
        &mut self,
        now: u64,
        guests: impl Iterator<Item = &'a GuestOutput> + Clone,
    ) -> Option<u8> {
        let take = |writer| match writer {
            Writer::Log => LogRing::take(),
            Writer::Guest(n) => guests.clone().nth(n).and_then(GuestOutput::take),
        };
        if let Some(writer) = self.open {
            if let Some(byte) = take(writer) {
                return Some(self.sent(writer, byte, now));
            }
            if now.wrapping_sub(self.last) < self.tsc_hz / PATIENCE {
                return None;
            }
        }
        let all = core::iter::once(Writer::Log)
            .chain(guests.clone().enumerate().map(|(n, _)| Writer::Guest(n)));
        for writer in all {
            if Some(writer) == self.open {
                continue;
            }
            let waiting = match writer {
                Writer::Log => LogRing::waiting(),
                Writer::Guest(n) => guests.clone().nth(n).is_some_and(|ring| !ring.is_empty()),
            };
            if !waiting {
                continue;
            }
            if self.open.take().is_some() {
                // The silent writer's line ends here.
                return Some(b'\n');
            }
            return take(writer).map(|byte| self.sent(writer, byte, now));
        }
        None
    }

    /// True while an unfinished line keeps others waiting: the caller must look again soon.
    pub const fn holding(&self) -> bool {
        self.open.is_some()
    }

    fn sent(&mut self, writer: Writer, byte: u8, now: u64) -> u8 {
        self.open = (byte != b'\n').then_some(writer);
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
    fn a_full_ring_refuses() {
        let ring = GuestOutput::new();
        assert_eq!(ring.put(b'x'), Put::First);
        assert!((1..CAPACITY).all(|_| ring.put(b'x') == Put::Behind));
        assert_eq!(ring.put(b'x'), Put::Full);
    }
}
