//! Whether a link still carries: heartbeats that were sent over it and not answered. No clock of its own.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// More unanswered heartbeats than that need not be told apart.
const UNANSWERED_MAX: usize = 64;

/// The heartbeats of one connection. The first is number 1.
#[derive(Debug, Default)]
pub(super) struct Beats {
    sent: u64,
    answered: u64,
    unanswered: VecDeque<(u64, Instant)>,
}

impl Beats {
    pub fn on_sent(&mut self, now: Instant) {
        self.sent += 1;
        if self.unanswered.len() < UNANSWERED_MAX {
            self.unanswered.push_back((self.sent, now));
        }
    }

    /// Whether the next heartbeat is to prove that packets of full size pass: every so many.
    pub fn is_full_due(&self, every: u64) -> bool {
        (self.sent + 1).is_multiple_of(every)
    }

    /// An answer says how many came. One that says more than were sent is taken for all. Returns when the newest of those that it
    /// answers first was sent.
    pub fn on_answer(&mut self, count: u64) -> Option<Instant> {
        self.answered = self.answered.max(count.min(self.sent));
        let mut newest = None;
        while let Some((_, sent)) = self
            .unanswered
            .pop_front_if(|(number, _)| *number <= self.answered)
        {
            newest = Some(sent);
        }
        newest
    }

    /// A heartbeat has waited longer than that for its answer.
    pub fn is_silent(&self, now: Instant, patience: Duration) -> bool {
        self.unanswered
            .front()
            .is_some_and(|(_, sent)| now.duration_since(*sent) >= patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_silent_while_an_old_heartbeat_waits_for_its_answer() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let silent = |beats: &Beats, ms| beats.is_silent(at(ms), Duration::from_millis(175));
        let mut beats = Beats::default();
        assert!(!silent(&beats, 10_000), "nothing was sent");
        assert!(beats.is_full_due(1) && !beats.is_full_due(10));
        for ms in [0, 100, 200] {
            beats.on_sent(at(ms));
        }
        assert!(!silent(&beats, 150));
        assert!(silent(&beats, 200));
        beats.on_answer(1);
        assert!(!silent(&beats, 200));
        assert!(silent(&beats, 300));
        beats.on_answer(3);
        assert!(!silent(&beats, 10_000));
        // Late, repeated and made-up answers.
        beats.on_answer(1);
        beats.on_answer(u64::MAX);
        beats.on_sent(at(1_000));
        assert!(silent(&beats, 1_175), "an answer came before the heartbeat");
        for ms in 0..1_000 {
            beats.on_sent(at(2_000 + ms));
        }
        assert!(beats.unanswered.len() <= UNANSWERED_MAX);
        beats.on_answer(500);
        beats.on_sent(at(4_000));
        assert!(!silent(&beats, 4_100));
        assert!(silent(&beats, 4_200));
    }
}
