//! What the cores know of each other: the shared half of each core's state. The private half is
//! the run loop's own [`crate::vcpu::Vcpu`].
//!
//! No locks; every field is atomic, and each says who writes it.

use crate::interrupt::kick::{KickWord, Requests};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use arch::apic::PhysicalApicId;

/// Cores that Beeline can use. More are left in wait-for-SIPI, with a warning.
pub const MAX_CORES: usize = 64;

/// One core as the others see it.
pub struct CoreShared {
    /// Requests to this core, and the kick that makes it look.
    pub kick: KickWord,
    apic_id: AtomicU32,
    online: AtomicBool,
    /// The TSC handshake of boot: 0 idle, 1 asked, else the answer.
    tsc: AtomicU64,
    /// It wants [`Requests::LOOK_AGAIN`] from the housekeeping core. Set by this core, cleared there.
    look_again: AtomicBool,
    /// Counters of the NMI protocol, written by this core.
    pub nmis: NmiCounters,
}

/// How the NMIs of a core were taken.
pub struct NmiCounters {
    /// As a VM exit.
    pub exits: AtomicU64,
    /// By the handler in root mode.
    pub in_root: AtomicU64,
    /// Of all: real ones, for the guest.
    pub real: AtomicU64,
}

impl CoreShared {
    const fn new() -> Self {
        Self {
            kick: KickWord::new(),
            apic_id: AtomicU32::new(0),
            online: AtomicBool::new(false),
            tsc: AtomicU64::new(0),
            look_again: AtomicBool::new(false),
            nmis: NmiCounters {
                exits: AtomicU64::new(0),
                in_root: AtomicU64::new(0),
                real: AtomicU64::new(0),
            },
        }
    }

    /// The core's physical APIC id.
    pub fn apic_id(&self) -> PhysicalApicId {
        PhysicalApicId(self.apic_id.load(Ordering::Relaxed))
    }

    /// Records the id, once, at boot.
    pub fn set_apic_id(&self, id: PhysicalApicId) {
        self.apic_id.store(id.0, Ordering::Relaxed);
    }

    /// Asks this core for its TSC and waits for the answer (boot core; the other one must be
    /// calling [`CoreShared::answer_tsc`]).
    pub fn ask_tsc(&self) -> u64 {
        self.tsc.store(1, Ordering::Release);
        loop {
            match self.tsc.load(Ordering::Acquire) {
                1 => arch::cpu::pause(),
                answer => return answer,
            }
        }
    }

    /// Answers such a question.
    pub fn answer_tsc(&self) {
        if self.tsc.load(Ordering::Acquire) == 1 {
            // A TSC below 2 is no TSC that has been running since reset.
            self.tsc.store(arch::cpu::rdtsc_ordered().max(2), Ordering::Release);
        }
    }

    /// Asks the housekeeping core for a kick of this core a little later.
    pub fn ask_to_look_again(&self) {
        self.look_again.store(true, Ordering::Release);
        crate::housekeeping::wake();
    }

    /// Does this core wait for that kick?
    pub fn wants_to_look_again(&self) -> bool {
        self.look_again.load(Ordering::Acquire)
    }

    /// Sends that kick, if the core waits for one (housekeeping core).
    pub fn look_again(&self) {
        if self.look_again.swap(false, Ordering::AcqRel) {
            self.kick.post(Requests::LOOK_AGAIN, || arch::apic::send_nmi(self.apic_id()));
        }
    }

    /// True once the core is in root mode and listens to kicks.
    pub fn online(&self) -> bool {
        self.online.load(Ordering::Acquire)
    }

    /// Says so.
    pub fn set_online(&self) {
        self.online.store(true, Ordering::Release);
    }
}

static CORES: [CoreShared; MAX_CORES] = [const { CoreShared::new() }; MAX_CORES];

/// A core by its index.
///
/// # Panics
/// On an index that is no core's: indices come from our own tables.
#[inline]
pub fn core(index: usize) -> &'static CoreShared {
    &CORES[index]
}

/// This core.
#[inline]
pub fn this() -> &'static CoreShared {
    core(arch::cpu::core_index())
}

/// All cores that are in root mode.
pub fn online() -> impl Iterator<Item = &'static CoreShared> {
    CORES.iter().filter(|core| core.online())
}

/// A core by its index, if there is one (numbers that come from outside).
pub fn get(index: usize) -> Option<&'static CoreShared> {
    CORES.get(index).filter(|core| core.online())
}
