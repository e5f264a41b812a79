//! Rate limits for log lines that a guest can cause.

use crate::sync::{AtomicU64, Ordering};

/// Lets a number of lines through in each span of time.
pub struct RateLimit {
    /// TSC when the span began, low bits: lines so far.
    state: AtomicU64,
}

/// Lines in one span.
const LINES: u64 = 8;
/// Length of a span in TSC ticks: 2^32, one or two seconds.
const SPAN_SHIFT: u32 = 32;

/// RDMSR and WRMSR of unknown registers.
pub static UNKNOWN_MSR: RateLimit = RateLimit::new();

/// LAPICs that do not become empty.
pub static LAPIC: RateLimit = RateLimit::new();

/// What guests try with their PCI functions.
pub static PCI: RateLimit = RateLimit::new();

/// Faults that an IOMMU recorded.
pub static IOMMU: RateLimit = RateLimit::new();

/// How many of them no line told of.
pub static UNTOLD_FAULTS: RateLimit = RateLimit::new();

/// Reports of measured windows.
pub static WINDOW: RateLimit = RateLimit::new();

impl RateLimit {
    const fn new() -> Self {
        Self { state: AtomicU64::new(0) }
    }

    /// True if a line may be written now.
    pub fn allow(&self) -> bool {
        self.allow_at(arch::cpu::rdtsc())
    }

    fn allow_at(&self, now: u64) -> bool {
        let span = (now >> SPAN_SHIFT) << 8;
        let update = |state: u64| {
            if state & !0xFF != span {
                Some(span | 1)
            } else {
                (state & 0xFF < LINES).then_some(state + 1)
            }
        };
        self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_s8_a_guest_cannot_flood_the_log() {
        let limit = RateLimit::new();
        assert_eq!((0..1000).filter(|_| limit.allow_at(5 << 32)).count() as u64, LINES);
        assert!(limit.allow_at(6 << 32));
    }
}
