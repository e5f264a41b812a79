//! The kick word under loom: every interleaving of two senders, a real NMI source and the core they interrupt.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release -p hypervisor --test loom_kick`.
//!
//! The target core is a small state machine that goes through root mode and the guest as the run loop does: write
//! the preemption-timer field, check for requests, enter, sleep in the guest. Its NMI latch holds one bit and is
//! looked at between any two of its steps; an NMI taken in root mode runs the handler, one taken in the guest exits.
//! An NMI still on the wires is a sender that has not run on. After the senders have ended, the target runs until it
//! sleeps in the guest with an empty latch: by then everything must have been seen.
#![cfg(loom)]

use hypervisor::interrupt::kick::{KickWord, NmiOrigin, Requests};
use hypervisor::sync::{AtomicBool, Ordering};
use loom::sync::Arc;
use loom::thread::{self, JoinHandle};

/// What the cores share: the word under test and the target's NMI latch.
struct Shared {
    kick: KickWord,
    latch: AtomicBool,
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self { kick: KickWord::new(), latch: AtomicBool::new(false) })
    }

    /// Any NMI at all: two that come together are one.
    fn raise_nmi(&self) {
        self.latch.swap(true, Ordering::AcqRel);
    }
}

fn sender(shared: &Arc<Shared>, requests: Requests) -> JoinHandle<()> {
    let shared = shared.clone();
    thread::spawn(move || shared.kick.post(requests, || shared.raise_nmi()))
}

fn real_source(shared: &Arc<Shared>) -> JoinHandle<()> {
    let shared = shared.clone();
    thread::spawn(move || shared.raise_nmi())
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    /// In root mode, about to write the preemption-timer field.
    Root,
    /// The field is written, about to check for requests.
    Armed,
    /// Checked, about to enter.
    Checked,
    /// In the guest, which never exits by itself.
    Guest,
}

/// Mistakes the model must notice.
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    /// The timer field is written after the check, over the handler's 0.
    CheckBeforeArming,
    /// The exit reads the requests before it puts the word back to IDLE.
    TakeBeforeIdle,
    /// Polling the requests puts the word back to IDLE.
    PollResetsWord,
}

struct Target {
    shared: Arc<Shared>,
    mistake: Mistake,
    /// An NMI exit re-enters the guest without another check, as the shortest path through the run loop may.
    quick: bool,
    phase: Phase,
    /// The preemption-timer field is 0.
    exit_at_once: bool,
    served: Requests,
    /// NMIs handed to the guest.
    real: u32,
}

impl Target {
    fn new(shared: &Arc<Shared>, mistake: Mistake) -> Self {
        Self {
            shared: shared.clone(),
            mistake,
            quick: false,
            phase: Phase::Root,
            exit_at_once: false,
            served: Requests::NONE,
            real: 0,
        }
    }

    fn take_requests(&mut self) {
        self.served |= self.shared.kick.take();
    }

    /// Takes a latched NMI; the steps of this function are the handler, so nothing interrupts it.
    fn take_nmi(&mut self) -> bool {
        if !self.shared.latch.swap(false, Ordering::AcqRel) {
            return false;
        }
        if self.mistake == Mistake::TakeBeforeIdle && self.phase == Phase::Guest {
            self.take_requests();
        }
        let origin = self.shared.kick.on_nmi();
        if origin == NmiOrigin::Real {
            self.real += 1;
        }
        if self.phase == Phase::Guest {
            if self.mistake != Mistake::TakeBeforeIdle {
                self.take_requests();
            }
            self.phase = if self.quick { Phase::Checked } else { Phase::Root };
        } else if origin == NmiOrigin::Kick {
            self.exit_at_once = true;
        }
        true
    }

    /// One step; false when the target sleeps in the guest and nothing wakes it.
    fn step(&mut self) -> bool {
        if self.take_nmi() {
            return true;
        }
        match self.phase {
            Phase::Root if self.mistake == Mistake::CheckBeforeArming => {
                self.check_requests(Phase::Armed)
            }
            Phase::Armed if self.mistake == Mistake::CheckBeforeArming => {
                self.exit_at_once = false;
                self.phase = Phase::Checked;
            }
            Phase::Root => {
                self.exit_at_once = false;
                self.phase = Phase::Armed;
            }
            Phase::Armed => self.check_requests(Phase::Checked),
            Phase::Checked if self.exit_at_once => {
                self.take_requests();
                self.phase = Phase::Root;
            }
            Phase::Checked => self.phase = Phase::Guest,
            Phase::Guest => return false,
        }
        true
    }

    fn check_requests(&mut self, next: Phase) {
        if !self.shared.kick.pending() {
            self.phase = next;
            return;
        }
        if self.mistake == Mistake::PollResetsWord {
            self.shared.kick.on_nmi();
        }
        self.take_requests();
        self.phase = Phase::Root;
    }

    /// Some steps beside the senders, then on until sleep once they are done.
    fn run(&mut self, start: Phase, steps: usize, others: Vec<JoinHandle<()>>) {
        self.phase = start;
        for _ in 0..steps {
            self.step();
        }
        for other in others {
            other.join().unwrap();
        }
        let slept = (0..32).any(|_| !self.step());
        assert!(slept, "the target never comes to rest");
    }
}

const A: Requests = Requests::PING;
const B: Requests = Requests::STOP;

/// Two senders against a target that starts in `phase` and makes `steps` steps meanwhile.
fn two_senders(phase: Phase, steps: usize, quick: bool, mistake: Mistake) {
    loom::model(move || {
        let shared = Shared::new();
        let mut target = Target::new(&shared, mistake);
        target.quick = quick;
        target.run(phase, steps, vec![sender(&shared, A), sender(&shared, B)]);
        assert_eq!(target.served, A | B, "a request was lost");
        assert_eq!(target.real, 0, "a kick was taken for a real NMI");
        // Nothing is left over: the next NMI is real, the next post sends.
        assert_eq!(shared.kick.on_nmi(), NmiOrigin::Real, "the word stayed SENT");
    });
}

#[test]
fn r_d2_kicks_before_the_check_are_not_lost() {
    two_senders(Phase::Root, 3, false, Mistake::None);
}

#[test]
fn r_d2_kicks_between_check_and_entry_are_not_lost() {
    two_senders(Phase::Armed, 3, false, Mistake::None);
}

#[test]
fn r_d3_merged_kicks_in_the_guest_lose_nothing_and_leave_nothing() {
    two_senders(Phase::Guest, 3, false, Mistake::None);
}

#[test]
fn r_d3_merged_kicks_lose_nothing_when_the_exit_does_not_check_again() {
    two_senders(Phase::Guest, 3, true, Mistake::None);
}

#[test]
fn r_d3_one_sender_twice_while_another_merges() {
    loom::model(|| {
        let shared = Shared::new();
        let mut target = Target::new(&shared, Mistake::None);
        let twice = {
            let shared = shared.clone();
            thread::spawn(move || {
                shared.kick.post(A, || shared.raise_nmi());
                shared.kick.post(Requests::NMI, || shared.raise_nmi());
            })
        };
        target.run(Phase::Guest, 2, vec![twice, sender(&shared, B)]);
        assert_eq!(target.served, A | B | Requests::NMI);
        assert_eq!(target.real, 0);
    });
}

#[test]
fn r_d4_a_real_nmi_in_idle_reaches_the_guest() {
    for start in [Phase::Root, Phase::Armed, Phase::Guest] {
        loom::model(move || {
            let shared = Shared::new();
            let mut target = Target::new(&shared, Mistake::None);
            target.run(start, 4, vec![real_source(&shared)]);
            assert_eq!(target.real, 1);
            assert_eq!(target.served, Requests::NONE);
        });
    }
}

#[test]
fn r_d4_a_real_nmi_beside_a_kick_is_never_doubled_and_costs_no_request() {
    for start in [Phase::Root, Phase::Guest] {
        loom::model(move || {
            let shared = Shared::new();
            let mut target = Target::new(&shared, Mistake::None);
            target.run(start, 4, vec![sender(&shared, A), real_source(&shared)]);
            assert_eq!(target.served, A);
            // 0 when both merged in the latch: then the caller's look at the real sources finds it.
            assert!(target.real <= 1);
            assert_eq!(shared.kick.on_nmi(), NmiOrigin::Real, "the word stayed SENT");
        });
    }
}

#[test]
#[should_panic(expected = "a request was lost")]
fn r_d2_the_model_notices_a_check_before_arming() {
    two_senders(Phase::Root, 3, false, Mistake::CheckBeforeArming);
}

#[test]
#[should_panic(expected = "a request was lost")]
fn r_d3_the_model_notices_requests_read_before_the_word_is_idle() {
    two_senders(Phase::Guest, 3, true, Mistake::TakeBeforeIdle);
}

#[test]
#[should_panic(expected = "a kick was taken for a real NMI")]
fn r_d3_the_model_notices_polling_that_resets_the_word() {
    two_senders(Phase::Armed, 3, false, Mistake::PollResetsWord);
}
