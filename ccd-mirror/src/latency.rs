//! How long operations took, as a histogram: what monitoring asks of a disk. Owned by the [`Mirror`](crate::Mirror); a few
//! additions an operation.

use std::time::Duration;

/// Upper ends of the buckets, in microseconds: from what a fast disk takes to what a dying one does. What took longer is in one more.
pub const LATENCY_BOUNDS_MICROS: [u64; 12] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 250_000, 1_000_000, 2_500_000,
];

/// Spans that were measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// How many fell into each bucket, and not into one before it; the last is for the rest.
    pub counts: [u64; LATENCY_BOUNDS_MICROS.len() + 1],
    pub sum: Duration,
}

impl Latencies {
    pub fn note(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        self.counts[bucket] += 1;
        self.sum = self.sum.saturating_add(took);
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_span_is_in_the_first_bucket_that_is_not_shorter() {
        let mut latencies = Latencies::default();
        for micros in [0, 100, 101, 1_000, 2_500_000, 2_500_001] {
            latencies.note(Duration::from_micros(micros));
        }
        latencies.note(Duration::MAX);
        let mut expected = [0; 13];
        for (bucket, count) in [(0, 2), (1, 1), (3, 1), (11, 1), (12, 2)] {
            expected[bucket] = count;
        }
        assert_eq!(latencies.counts, expected);
        assert_eq!(latencies.count(), 7);
    }
}
