//! Which of the last updates were applied, and when: asked by a client that did not hear the end of its update.

use crate::ids::{Generation, RequestId};
use rpds::RedBlackTreeMapSync;

/// How many updates are remembered.
pub const OUTCOMES_MAX: usize = 4096;

/// The last updates by request id; persistent, as the database is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcomes {
    by_request: RedBlackTreeMapSync<RequestId, Generation>,
    /// The same the other way round, to forget the oldest first.
    by_generation: RedBlackTreeMapSync<Generation, RequestId>,
}

impl Outcomes {
    pub(super) fn generation(&self, request: RequestId) -> Option<Generation> {
        self.by_request.get(&request).copied()
    }

    /// Notes an update of a later generation than all before. The nil request is nobody's and is not remembered.
    pub(super) fn remember(&mut self, request: RequestId, generation: Generation) {
        if request == RequestId::default() {
            return;
        }
        self.by_request.insert_mut(request, generation);
        self.by_generation.insert_mut(generation, request);
        if self.by_generation.size() > OUTCOMES_MAX
            && let Some((oldest, forgotten)) = self.by_generation.first().map(|(oldest, id)| (*oldest, *id))
        {
            self.by_generation.remove_mut(&oldest);
            self.by_request.remove_mut(&forgotten);
        }
    }

    pub(super) fn count(&self) -> usize {
        self.by_generation.size()
    }

    /// Oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Generation, RequestId)> {
        self.by_generation
            .iter()
            .map(|(generation, request)| (*generation, *request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_4096_updates_are_remembered() {
        let request = |sequence| RequestId { client: 7, sequence };
        let mut outcomes = Outcomes::default();
        for number in 1..=5000 {
            outcomes.remember(request(number), Generation(number));
        }
        assert_eq!(outcomes.count(), OUTCOMES_MAX);
        assert_eq!(outcomes.by_request.size(), OUTCOMES_MAX);
        assert_eq!(outcomes.generation(request(904)), None);
        assert_eq!(outcomes.generation(request(905)), Some(Generation(905)));
        assert_eq!(outcomes.generation(request(5000)), Some(Generation(5000)));
    }
}
