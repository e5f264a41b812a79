//! The kick word: how one core makes another look at its requests (requirements D1-D4).
//!
//! A core in direct mode listens to nothing but NMIs, and an NMI carries no information and merges with others in
//! one latch. So each core has a [`KickWord`]: a set of request bits that says *what*, and a word that says *whether
//! an NMI of ours is under way*. Callers: [`KickWord::post`] anyone on any core; the rest only the owning core, of
//! which [`KickWord::on_nmi`] runs in its NMI handler and at its NMI exit. No locks, and nothing here waits: the NMI
//! handler may interrupt the owner at any instruction of this module.
//!
//! # Why nothing is lost
//!
//! *A request is seen.* A sender sets its bits (A) and then swaps the word to SENT (B); the target swaps the word to
//! IDLE (C) and then reads the bits (D). B and C are read-modify-writes of one word, so they have an order.
//! - B before C: C reads what B wrote, or what a later sender wrote over it, which continues B's release sequence.
//!   Either way C acquires what B released, so A is visible at D. It does not matter whether B won: a loser relies on
//!   the winner's NMI, and C is the handling of it.
//! - C before B: B finds IDLE and its sender wins. A new NMI goes out, and its handler is a later C.
//!
//! For the same reason a plain load ([`KickWord::pending`]) after C in the owner's program order sees A. The owner's
//! sequence before entry is therefore: write the preemption-timer field, check `pending`, enter. A kick that is
//! handled before the timer field was written is seen by the check; one that is handled after that has set the field
//! to 0, and the entry exits at once.
//!
//! *B is a swap, not a compare-and-swap*, although the word means the same: a failed compare-and-swap writes
//! nothing and so releases nothing, and the loser's bits would need the total order of sequential consistency. On
//! x86 both are one locked instruction.
//!
//! *No stray NMI stays behind.* An NMI is sent once for each IDLE -> SENT, SENT -> IDLE happens once for each NMI
//! taken in SENT, and only [`KickWord::on_nmi`] does it. [`KickWord::take`] must not touch the word: a word put back
//! to IDLE while its NMI is in flight would let that NMI pass for a real one, and the guest would see it.
//!
//! *Real NMIs.* One that arrives in SENT is indistinguishable from the kick. If the latch was empty, the kick itself
//! follows and is taken for the real one: the count is right. If both merged in the latch, one is lost here: so
//! after [`NmiOrigin::Kick`] the caller also asks the real sources.

use core::fmt;
use core::ops::{BitOr, BitOrAssign};

use crate::sync::{AtomicU32, Ordering};

/// What a core is asked to do. A set; each bit is idempotent, so merging loses nothing.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests(u32);

impl Requests {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Exit and acknowledge; no other effect.
    pub const PING: Self = Self(1 << 0);
    /// Raise an NMI in the guest.
    pub const NMI: Self = Self(1 << 1);
    /// Reset the vCPU into wait-for-SIPI. Served before `SIPI` when both are set.
    pub const INIT: Self = Self(1 << 2);
    /// Start the vCPU at the page its mailbox names, if it waits for that.
    pub const SIPI: Self = Self(1 << 3);
    /// Take the vCPU that was assigned to this core and run it.
    pub const START: Self = Self(1 << 4);
    /// Take the vCPU off this core and park.
    pub const STOP: Self = Self(1 << 5);
    /// The quantum is over, or another vCPU of this core became ready.
    pub const RESCHEDULE: Self = Self(1 << 6);
    /// End the vCPU's HLT.
    pub const WAKE: Self = Self(1 << 7);
    /// Look again at what waits to enter the vCPU.
    pub const LOOK_AGAIN: Self = Self(1 << 8);

    /// Whether nothing is asked.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether everything in `other` is asked.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The set as bits, for the log.
    #[inline]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl BitOr for Requests {
    type Output = Self;

    #[inline]
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Requests {
    #[inline]
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(Requests, &str); 9] = [
            (Requests::PING, "ping"),
            (Requests::NMI, "nmi"),
            (Requests::INIT, "init"),
            (Requests::SIPI, "sipi"),
            (Requests::START, "start"),
            (Requests::STOP, "stop"),
            (Requests::RESCHEDULE, "reschedule"),
            (Requests::WAKE, "wake"),
            (Requests::LOOK_AGAIN, "look again"),
        ];
        let set = NAMES.iter().filter(|(bit, _)| self.contains(*bit)).map(|(_, name)| *name);
        f.debug_set().entries(set).finish()
    }
}

/// Whose NMI was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NmiOrigin {
    /// Ours: read the requests now, then ask the real sources too.
    Kick,
    /// Somebody else's: it belongs to the guest, or to the machine.
    Real,
}

/// No NMI of ours is under way.
const IDLE: u32 = 0;
/// An NMI of ours is under way, or is about to be sent by the core that wrote this.
const SENT: u32 = 1;

/// One core's requests and the state of its kick; a cache line of its own, since every other core writes it.
#[repr(align(64))]
pub struct KickWord {
    word: AtomicU32,
    requests: AtomicU32,
}

impl KickWord {
    /// No requests, nothing under way.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { word: AtomicU32::new(IDLE), requests: AtomicU32::new(0) }
    }

    /// No requests, nothing under way.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { word: AtomicU32::new(IDLE), requests: AtomicU32::new(0) }
    }

    /// Asks the owning core for `requests`. Calls `send_nmi` when an NMI has to be sent to it, which must then be
    /// sent without fail. Any core, the owner too; not from an NMI handler (it could hold up the NMI it relies on).
    #[inline]
    pub fn post(&self, requests: Requests, send_nmi: impl FnOnce()) {
        // A: before the swap, so that whoever handles the NMI finds the bits.
        self.requests.fetch_or(requests.0, Ordering::AcqRel);
        // B: the one who turns IDLE into SENT sends; the others ride on that NMI.
        if self.word.swap(SENT, Ordering::AcqRel) == IDLE {
            send_nmi();
        }
    }

    /// Asks the owning core for `requests` without interrupting it: for requests that can wait for its next exit,
    /// or for a core that is known to poll.
    #[inline]
    pub fn leave(&self, requests: Requests) {
        self.requests.fetch_or(requests.0, Ordering::AcqRel);
    }

    /// Owner only, once for each NMI taken: whose was it? The requests must be read after this, not before: a sender
    /// that found SENT relies on it.
    #[inline]
    pub fn on_nmi(&self) -> NmiOrigin {
        // C
        match self.word.swap(IDLE, Ordering::AcqRel) {
            IDLE => NmiOrigin::Real,
            _ => NmiOrigin::Kick,
        }
    }

    /// Owner only: is anything asked? One load, for the last check before entry.
    #[inline]
    pub fn pending(&self) -> bool {
        self.requests.load(Ordering::Acquire) != 0
    }

    /// Owner only: takes all requests. Leaves the word alone; an NMI under way will come and find nothing to do.
    #[inline]
    pub fn take(&self) -> Requests {
        // D
        Requests(self.requests.swap(0, Ordering::AcqRel))
    }
}

impl Default for KickWord {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<KickWord>() == 64 && align_of::<KickWord>() == 64);

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;

    use std::format;

    use super::*;

    #[test]
    fn r_d3_only_the_first_of_merged_kicks_sends() {
        let kick = KickWord::new();
        let mut sent = 0;
        kick.post(Requests::PING, || sent += 1);
        kick.post(Requests::NMI | Requests::STOP, || sent += 1);
        assert_eq!(sent, 1);
        assert!(kick.pending());
        assert_eq!(kick.on_nmi(), NmiOrigin::Kick);
        assert_eq!(kick.take(), Requests::PING | Requests::NMI | Requests::STOP);
        assert!(!kick.pending());
        kick.post(Requests::PING, || sent += 1);
        assert_eq!(sent, 2);
    }

    #[test]
    fn r_d3_requests_taken_by_polling_leave_the_nmi_a_kick() {
        let kick = KickWord::new();
        kick.post(Requests::PING, || {});
        assert_eq!(kick.take(), Requests::PING);
        assert_eq!(kick.on_nmi(), NmiOrigin::Kick);
        assert_eq!(kick.take(), Requests::NONE);
    }

    #[test]
    fn r_d4_an_nmi_without_a_kick_is_real() {
        let kick = KickWord::new();
        assert_eq!(kick.on_nmi(), NmiOrigin::Real);
        kick.leave(Requests::RESCHEDULE);
        assert_eq!(kick.on_nmi(), NmiOrigin::Real);
        assert!(kick.pending());
        assert_eq!(format!("{:?}", kick.take()), "{\"reschedule\"}");
    }
}
