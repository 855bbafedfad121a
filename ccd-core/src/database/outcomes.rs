//! Which of the last updates were applied, and when: asked by a client that did not hear the end of its update.
//!
//! A hash table of three levels, persistent as the database is: a clone shares it, an update copies one bucket of
//! some 16 entries and the two tables of 16 that lead there: every pointer copied is a count touched somewhere in
//! memory, now and when the older version is dropped. An update is forgotten by its generation alone, so nothing has to be taken out.

use crate::ids::{Generation, RequestId};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// For how many generations an update is remembered, its own included.
pub const OUTCOMES_MAX: usize = 4096;

/// Of each table.
const FANOUT: usize = 16;
const BUCKETS: usize = FANOUT * FANOUT;
/// Of a hash, what is left is the number of a bucket.
const HASH_SHIFT: u32 = u64::BITS - BUCKETS.ilog2();

type Bucket = Arc<[Outcome]>;
type Branch = Arc<[Bucket; FANOUT]>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) generation: Generation,
    pub(super) request: RequestId,
}

/// The last updates by request id. Entries that are too old stay until their bucket is next written.
#[derive(Clone, Debug)]
pub(super) struct Outcomes {
    branches: Arc<[Branch; FANOUT]>,
}

impl Default for Outcomes {
    fn default() -> Self {
        let empty: Bucket = Arc::new([]);
        let branch: Branch = Arc::new(core::array::from_fn(|_| empty.clone()));
        Self {
            branches: Arc::new(core::array::from_fn(|_| branch.clone())),
        }
    }
}

impl Outcomes {
    /// When a request was applied, seen from the database at generation `now`.
    /// The id tells what it held when it was applied.
    pub(super) fn find(&self, request: RequestId, now: Generation) -> Option<Outcome> {
        let (branch, bucket) = bucket_of(request);
        let mut bucket = self.branches.get(branch)?.get(bucket)?.iter();
        let is_found = |outcome: &&Outcome| {
            outcome.request.is_same_request(request) && is_remembered(outcome.generation, now)
        };
        bucket.find(is_found).copied()
    }

    /// Notes an update that makes generation `now`. The nil request is nobody's and is not remembered.
    pub(super) fn remember(&mut self, request: RequestId, now: Generation) {
        if request == RequestId::default() {
            return;
        }
        let (branch, bucket) = bucket_of(request);
        let branch = Arc::make_mut(&mut self.branches).get_mut(branch);
        let Some(bucket) = branch.and_then(|branch| Arc::make_mut(branch).get_mut(bucket)) else {
            return;
        };
        let mut entries = Vec::with_capacity(bucket.len().saturating_add(1));
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
        let all = self.buckets().flat_map(|bucket| bucket.iter());
        all.filter(move |outcome| is_remembered(outcome.generation, now))
    }

    fn buckets(&self) -> impl Iterator<Item = &Bucket> {
        self.branches.iter().flat_map(|branch| branch.iter())
    }
}

fn is_remembered(generation: Generation, now: Generation) -> bool {
    now.0.saturating_sub(generation.0) < OUTCOMES_MAX as u64
}

/// Spreads ids, which are random or counted up; the multiplier is 2⁶⁴ divided by the golden ratio. Which
/// branch, and which bucket there.
fn bucket_of(request: RequestId) -> (usize, usize) {
    // The low half of the sequence counts; the high half says what the request holds.
    let sequence = u64::from(request.sequence as u32);
    let folded = (request.client as u64) ^ ((request.client >> 64) as u64) ^ sequence.rotate_left(32);
    let mixed = (folded ^ (folded >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let index = (mixed >> HASH_SHIFT) as usize;
    (index / FANOUT, index % FANOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(outcomes: &Outcomes, request: RequestId, now: Generation) -> Option<Generation> {
        outcomes.find(request, now).map(|outcome| outcome.generation)
    }

    #[test]
    fn updates_of_the_last_4096_generations_are_remembered() {
        let request = |sequence| RequestId { client: 7, sequence };
        let mut outcomes = Outcomes::default();
        let now = Generation(5000);
        for number in 1..=now.0 {
            outcomes.remember(request(number), Generation(number));
        }
        assert_eq!(found(&outcomes, request(904), now), None);
        for number in 905..=5000 {
            assert_eq!(found(&outcomes, request(number), now), Some(Generation(number)));
        }
        let remembered = outcomes.remembered(now);
        assert_eq!(remembered.len(), OUTCOMES_MAX);
        assert_eq!(outcomes.count(now), OUTCOMES_MAX);
        assert!(remembered.is_sorted_by(|one, next| one.generation < next.generation));
        assert!(
            found(&outcomes, request(905), Generation(5001)).is_none(),
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
        let longest = outcomes.buckets().map(|bucket| bucket.len()).max();
        assert!(longest < Some(4 * OUTCOMES_MAX / BUCKETS), "{longest:?}");
    }

    #[test]
    fn the_request_of_nobody_is_not_remembered() {
        let mut outcomes = Outcomes::default();
        outcomes.remember(RequestId::default(), Generation(1));
        assert_eq!(found(&outcomes, RequestId::default(), Generation(1)), None);
    }
}
