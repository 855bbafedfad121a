//! Times, and their percentiles.

use std::fmt;
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub struct Samples {
    times: Vec<Duration>,
    pub p50: Duration,
    pub p99: Duration,
}

impl Samples {
    /// Does something, and notes how long it took.
    pub fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let done = work();
        self.times.push(started.elapsed());
        done
    }

    /// A time that was measured elsewhere.
    pub fn add(&mut self, time: Duration) {
        self.times.push(time);
    }

    pub fn sorted(mut self) -> Self {
        self.times.sort();
        let at = |share: f64| self.times[((self.times.len() - 1) as f64 * share) as usize];
        (self.p50, self.p99) = (at(0.5), at(0.99));
        self
    }
}

impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} us (p99 {})", self.p50.as_micros(), self.p99.as_micros())
    }
}
