//! When cyclictest measures. With `--secaligned=OFFSET` its threads fall asleep until the next full
//! second of CLOCK_MONOTONIC and start OFFSET later, all at once: so the moments of all
//! measurements are known before the first, and everything else can be kept away from them.

use std::time::Duration;

/// cyclictest takes the second after the next when less than this is left of the current one.
const TOO_LATE: Duration = Duration::from_millis(900);
/// It is started when at least this much is left before that, for its set-up takes 50 ms.
const ENOUGH: Duration = Duration::from_millis(400);

/// The moments of one run, as times of CLOCK_MONOTONIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The first measurement is one interval after this.
    pub start: Duration,
    /// From one measurement to the next.
    pub interval: Duration,
    /// Measurements of each thread.
    pub loops: u32,
}

impl Schedule {
    /// The run whose threads fell asleep before `now`, in the same second; `None` when it is too
    /// late to tell which second they wait for.
    pub fn of(now: Duration, offset: Duration, interval: Duration, loops: u32) -> Option<Self> {
        let second = Duration::from_secs(now.as_secs());
        (now - second < TOO_LATE).then(|| Self {
            start: second + Duration::from_secs(1) + offset,
            interval,
            loops,
        })
    }

    /// The last measurement.
    pub fn last(&self) -> Duration {
        self.start + self.interval * self.loops
    }

    /// In the middle between the last two measurements, as far from both as can be.
    pub fn before_last(&self) -> Duration {
        self.last() - self.interval / 2
    }
}

/// When to start cyclictest: now, or at the next full second.
pub fn start(now: Duration) -> Duration {
    let second = Duration::from_secs(now.as_secs());
    if now - second + ENOUGH <= TOO_LATE { now } else { second + Duration::from_secs(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn measurements_lie_on_the_grid_of_the_next_second() {
        let run = Schedule::of(ms(3120), ms(0), ms(1), 1000).unwrap();
        assert_eq!((run.start, run.last()), (ms(4000), ms(5000)));
        let run = Schedule::of(ms(3899), Duration::from_micros(283), ms(2), 100).unwrap();
        assert_eq!(run.last(), Duration::from_micros(4_200_283));
        assert_eq!(run.before_last(), Duration::from_micros(4_199_283));
    }

    #[test]
    fn a_doubtful_second_is_refused_and_never_entered() {
        assert_eq!(Schedule::of(ms(3900), ms(0), ms(1), 1000), None);
        for now in (2000..4000).step_by(10).map(ms) {
            let start = start(now);
            assert!(start >= now && start - now < ms(500));
            assert!(Schedule::of(start + ENOUGH - ms(1), ms(0), ms(1), 1000).is_some());
        }
    }
}
