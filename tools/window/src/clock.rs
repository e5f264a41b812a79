//! The clock that cyclictest measures with, CLOCK_MONOTONIC.

use rustix::thread::clock_nanosleep_absolute;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::error::Error;
use std::time::Duration;

/// The time now.
pub fn now() -> Result<Duration, Box<dyn Error>> {
    Ok(Duration::try_from(clock_gettime(ClockId::Monotonic))?)
}

/// Sleeps until `time`; not at all when it is past.
pub fn sleep_until(time: Duration) -> Result<(), Box<dyn Error>> {
    Ok(clock_nanosleep_absolute(ClockId::Monotonic, &Timespec::try_from(time)?)?)
}
