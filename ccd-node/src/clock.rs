//! The clocks of this machine, in the forms that the protocol takes.

use ccd_core::time::Time;
use nix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime};

/// Now, on a clock that keeps running while the machine sleeps: a lease must run out in a suspended node too.
pub fn now() -> Time {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had CLOCK_BOOTTIME since 2.6.39");
    let nanos = now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64;
    Time::from_nanos(nanos)
}

/// What the clock on the wall shows, in milliseconds since 1970; 0 if it shows an earlier time.
pub fn date_ms() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How long until `deadline`; never longer than an hour, so that it fits every timer.
pub fn until(now: Time, deadline: Time) -> Duration {
    deadline.since(now).min(Duration::from_secs(3600))
}
