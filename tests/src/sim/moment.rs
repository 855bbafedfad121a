//! Time of the simulated world, and the clocks that nodes have instead of it.
//!
//! Nodes only ever see their own clock, which runs a little fast or slow and started anywhere; the world's time is
//! known to the simulator alone.

use ccd_core::time::Time;
use core::fmt;
use core::ops::Add;
use core::time::Duration;

/// Nanoseconds since the simulated world began.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    pub const ZERO: Self = Self(0);

    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000_000)
    }
    /// Zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000_000, self.0 / 1_000 % 1_000_000)
    }
}

/// Most that a clock's rate is off, in parts per million. The protocol must bear about three times as much.
pub const DRIFT_PPM_MAX: i64 = 20_000;

/// One node's monotonic clock. A reboot would start it anew; a restart of the process does not.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start_nanos: u64,
    drift_ppm: i64,
    /// How much of the world's time it has missed, standing still.
    missed_nanos: u64,
}

impl Clock {
    pub fn new(start_nanos: u64, drift_ppm: i64) -> Self {
        assert!(drift_ppm.abs() <= DRIFT_PPM_MAX);
        Self {
            start_nanos,
            drift_ppm,
            missed_nanos: 0,
        }
    }

    /// What the clock shows at this moment of the world.
    pub fn show(&self, moment: Moment) -> Time {
        let elapsed = i128::from(moment.0.saturating_sub(self.missed_nanos))
            * i128::from(1_000_000 + self.drift_ppm)
            / 1_000_000;
        Time::from_nanos(self.start_nanos + elapsed as u64)
    }

    /// The first moment at which the clock shows at least this time.
    pub fn moment_of(&self, time: Time) -> Moment {
        let local = time.nanos().saturating_sub(self.start_nanos);
        let rate = i128::from(1_000_000 + self.drift_ppm);
        let nanos = (i128::from(local) * 1_000_000 + rate - 1) / rate;
        Moment((u64::try_from(nanos).unwrap_or(u64::MAX)).saturating_add(self.missed_nanos))
    }

    /// It has stood still for so long, until now.
    pub fn stood_still(&mut self, span: Duration) {
        self.missed_nanos += span.as_nanos() as u64;
    }

    /// How long the world takes for what this clock calls `span`.
    pub fn stretch(&self, span: Duration) -> Duration {
        let nanos = span.as_nanos() * 1_000_000 / (1_000_000 + self.drift_ppm) as u128;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_early_on_any_clock() {
        for drift_ppm in [-DRIFT_PPM_MAX, -1, 0, 1, 777, DRIFT_PPM_MAX] {
            let clock = Clock::new(123_456_789, drift_ppm);
            for local in [0, 1, 123_456_789, 123_456_790, 999_999_999, 77_000_000_001] {
                let time = Time::from_nanos(local);
                let moment = clock.moment_of(time);
                assert!(clock.show(moment) >= time, "{drift_ppm} {local}");
                if moment.0 > 0 {
                    assert!(clock.show(Moment(moment.0 - 1)) < time, "{drift_ppm} {local}");
                }
            }
        }
    }
}
