//! Which of the last updates were applied, and when: asked by a client that did not hear the end of its update.
//!
//! A hash table of two levels, persistent as the database is: a clone shares it, an update copies one bucket of
//! some 64 and the table of buckets. An update is forgotten by its generation alone, so nothing has to be taken out.

use crate::ids::{Generation, RequestId};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// For how many generations an update is remembered, its own included.
pub const OUTCOMES_MAX: usize = 4096;

const BUCKETS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) generation: Generation,
    pub(super) request: RequestId,
}

/// The last updates by request id. Entries that are too old stay until their bucket is next written.
#[derive(Clone, Debug)]
pub(super) struct Outcomes {
    buckets: Arc<[Arc<[Outcome]>; BUCKETS]>,
}

impl Default for Outcomes {
    fn default() -> Self {
        let empty: Arc<[Outcome]> = Arc::new([]);
        Self {
            buckets: Arc::new(core::array::from_fn(|_| empty.clone())),
        }
    }
}

impl Outcomes {
    /// When a request was applied, seen from the database at generation `now`.
    pub(super) fn generation(&self, request: RequestId, now: Generation) -> Option<Generation> {
        let bucket = self.buckets[bucket_of(request)].iter();
        let mut found =
            bucket.filter(|outcome| outcome.request == request && is_remembered(outcome.generation, now));
        found.next().map(|outcome| outcome.generation)
    }

    /// Notes an update that makes generation `now`. The nil request is nobody's and is not remembered.
    pub(super) fn remember(&mut self, request: RequestId, now: Generation) {
        if request == RequestId::default() {
            return;
        }
        let bucket = &mut Arc::make_mut(&mut self.buckets)[bucket_of(request)];
        let mut entries = Vec::with_capacity(bucket.len() + 1);
        entries.extend(
            bucket
                .iter()
                .filter(|outcome| is_remembered(outcome.generation, now)),
        );
        entries.push(Outcome {
            generation: now,
            request,
        });
        *bucket = entries.into();
    }

    /// What is remembered at generation `now`, oldest first.
    pub(super) fn remembered(&self, now: Generation) -> Vec<Outcome> {
        let mut all: Vec<_> = self.valid(now).copied().collect();
        all.sort_unstable_by_key(|outcome| outcome.generation);
        all
    }

    pub(super) fn count(&self, now: Generation) -> usize {
        self.valid(now).count()
    }

    fn valid(&self, now: Generation) -> impl Iterator<Item = &Outcome> {
        let all = self.buckets.iter().flat_map(|bucket| bucket.iter());
        all.filter(move |outcome| is_remembered(outcome.generation, now))
    }
}

fn is_remembered(generation: Generation, now: Generation) -> bool {
    now.0.saturating_sub(generation.0) < OUTCOMES_MAX as u64
}

/// Spreads ids, which are random or counted up; the multiplier is 2⁶⁴ divided by the golden ratio.
fn bucket_of(request: RequestId) -> usize {
    let folded = (request.client as u64) ^ ((request.client >> 64) as u64) ^ request.sequence.rotate_left(32);
    let mixed = (folded ^ (folded >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (64 - BUCKETS.ilog2())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_of_the_last_4096_generations_are_remembered() {
        let request = |sequence| RequestId { client: 7, sequence };
        let mut outcomes = Outcomes::default();
        let now = Generation(5000);
        for number in 1..=now.0 {
            outcomes.remember(request(number), Generation(number));
        }
        assert_eq!(outcomes.generation(request(904), now), None);
        for number in 905..=5000 {
            assert_eq!(
                outcomes.generation(request(number), now),
                Some(Generation(number))
            );
        }
        let remembered = outcomes.remembered(now);
        assert_eq!(remembered.len(), OUTCOMES_MAX);
        assert_eq!(outcomes.count(now), OUTCOMES_MAX);
        assert!(remembered.is_sorted_by(|one, next| one.generation < next.generation));
        assert!(
            outcomes.generation(request(905), Generation(5001)).is_none(),
            "forgotten as time goes on"
        );
    }

    #[test]
    fn requests_spread_over_the_buckets() {
        let mut outcomes = Outcomes::default();
        for number in 1..=OUTCOMES_MAX as u64 {
            outcomes.remember(
                RequestId {
                    client: 0x1234_5678 << 64,
                    sequence: number,
                },
                Generation(number),
            );
        }
        let longest = outcomes.buckets.iter().map(|bucket| bucket.len()).max();
        assert!(longest < Some(4 * OUTCOMES_MAX / BUCKETS), "{longest:?}");
    }

    #[test]
    fn the_request_of_nobody_is_not_remembered() {
        let mut outcomes = Outcomes::default();
        outcomes.remember(RequestId::default(), Generation(1));
        assert_eq!(outcomes.generation(RequestId::default(), Generation(1)), None);
    }
}
