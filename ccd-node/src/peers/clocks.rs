//! How far the clock of a peer is ahead of this node's, by the answers to heartbeats. For people only: no part of the protocol goes by dates.

use crate::clock::date_ms;
use std::cell::Cell;
use std::time::Duration;

/// An answer that took longer says nothing: this process, or the network, stood still meanwhile.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(2);

/// What is measured differs from time to time by less than that.
const JITTER_MS: u64 = 3_000;

/// The clock of one peer.
#[derive(Debug, Default)]
pub(super) struct PeerClock {
    ahead_ms: Cell<Option<i64>>,
}

impl PeerClock {
    /// The peer's clock showed this in an answer that took so long to come.
    pub fn on_answer(&self, took: Duration, their_date_ms: u64) {
        self.note(took, their_date_ms, date_ms());
    }

    fn note(&self, took: Duration, theirs_ms: u64, ours_ms: u64) {
        if took > ROUND_TRIP_MAX {
            return;
        }
        let measured = i64::try_from(i128::from(theirs_ms) - i128::from(ours_ms)).unwrap_or(i64::MAX);
        let is_news = |known: i64| known.abs_diff(measured) > JITTER_MS;
        if self.ahead_ms.get().is_none_or(is_news) {
            self.ahead_ms.set(Some(measured));
        }
    }

    /// In seconds; negative: it is behind.
    pub fn ahead_s(&self) -> Option<i64> {
        self.ahead_ms.get().map(|ahead_ms| ahead_ms / 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_compared_by_answers_that_come_at_once() {
        let clock = PeerClock::default();
        let at_once = Duration::from_millis(1);
        assert_eq!(clock.ahead_s(), None);
        clock.note(ROUND_TRIP_MAX * 2, 500_000, 100_000);
        assert_eq!(clock.ahead_s(), None, "this process stood still");
        clock.note(at_once, 195_000, 100_000);
        assert_eq!(clock.ahead_s(), Some(95));
        // A second more or less is no news: what people read stays.
        clock.note(at_once, 296_900, 200_000);
        assert_eq!(clock.ahead_s(), Some(95));
        clock.note(at_once, 100_000, 200_000);
        assert_eq!(clock.ahead_s(), Some(-100));
        clock.note(at_once, u64::MAX, 0);
        assert_eq!(clock.ahead_s(), Some(i64::MAX / 1_000));
        clock.note(at_once, 0, u64::MAX);
        assert!(clock.ahead_s().is_some());
    }
}
