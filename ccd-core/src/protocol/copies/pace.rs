//! Who follows what is committed here so closely that letting it in costs the others nothing they notice: a learner before it is
//! proposed as a member, a device before a solo owner takes it in. What either lacks then is written while nobody is served.
//!
//! Two bounds, both needed. *How much*: no more than one tail, which takes one flush. *How old*: it holds what was committed a few
//! heartbeats before it said so; one that is slower than updates come lags by the same few records for ever, and would be let in only
//! to hold up each update, or the configuration that takes it in.
//!
//! Owns `pace`. Nothing here is needed for safety.

use super::spread::{TAIL_BYTES_MAX, TAIL_RECORDS_MAX};
use crate::ids::{Position, Stamp};
use crate::protocol::Node;
use crate::time::Time;
use alloc::collections::VecDeque;
use core::time::Duration;

/// Whoever follows says where it is once in a heartbeat interval, and hears at the same pace that there is more.
const LAG_BEATS: u32 = 3;

/// So many heartbeats are remembered: those of the lag, and of what was said an interval before.
const MARKS_MAX: usize = 8;

/// What was committed at the last heartbeats, oldest first.
#[derive(Debug, Default)]
pub(in crate::protocol) struct Pace {
    marks: VecDeque<(Time, Stamp)>,
}

impl Pace {
    /// At every heartbeat.
    pub fn note(&mut self, now: Time, committed: Stamp) {
        if self.marks.len() == MARKS_MAX {
            self.marks.pop_front();
        }
        self.marks.push_back((now, committed));
    }

    /// Whether a copy that stood here at that time held all that had been committed so long before.
    fn is_kept(&self, stamp: Stamp, at: Time, lag: Duration) -> bool {
        let before = self.marks.iter().rev().find(|(marked, _)| *marked + lag <= at);
        before.is_none_or(|(_, committed)| stamp >= *committed)
    }
}

impl Node {
    /// Whether a copy that was here at that time can be brought to what is committed in no time.
    pub(in crate::protocol) fn is_near(&self, position: Position, at: Time) -> bool {
        let committed = self.committed.position();
        let lag = self.settings.heartbeat.saturating_mul(LAG_BEATS);
        // It may hold the round under way as well, or one that was prepared there only. Of one configuration there is one way.
        let is_on_the_way = self.history.has(position) || position.stamp.epoch == committed.stamp.epoch;
        let ahead = position.stamp > committed.stamp && is_on_the_way;
        ahead
            || self
                .history
                .is_near(position, committed, TAIL_RECORDS_MAX, TAIL_BYTES_MAX)
                && self.pace.is_kept(position.stamp, at, lag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, Generation};

    #[test]
    fn whoever_lags_by_more_than_a_few_heartbeats_does_not_keep_the_pace() {
        let beat = Duration::from_millis(100);
        let at = |ms: u64| Time::from_nanos(1_000_000_000 + ms * 1_000_000);
        let stamp = |generation| Stamp {
            epoch: Epoch(2),
            generation: Generation(generation),
        };
        let mut pace = Pace::default();
        // One update a millisecond.
        for ms in (0..3_000).step_by(100) {
            pace.note(at(ms), stamp(ms));
        }
        #[rustfmt::skip]
        let table = [
            ("as new as can be",              2_900, 2_900, true),
            ("as old as the last fetch",      2_800, 2_900, true),
            ("just",                          2_600, 2_900, true),
            ("too old",                       2_599, 2_900, false),
            ("said a heartbeat ago",          2_500, 2_800, true),
            ("too old then, too",             2_499, 2_800, false),
            ("before anything is remembered",     0,   100, true),
        ];
        for (what, generation, said_at, expected) in table {
            assert_eq!(
                pace.is_kept(stamp(generation), at(said_at), beat * LAG_BEATS),
                expected,
                "{what}"
            );
        }
    }
}
