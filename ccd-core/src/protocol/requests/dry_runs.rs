//! Dry runs that wait at the master: which is next, and how many of one user come from other nodes.
//!
//! Always holds: where one is worked on at a time, users take turns. A dry run that another node forwarded is kept as long as that
//! node repeats it, which it does at each heartbeat until its client is answered or gone.
//!
//! Owns `requests.dry_runs`.

use super::Requests;
use super::updates::{Origin, Pending};
use super::user_turns::UserTurns;
use crate::database::SyncRows;
use crate::ids::RequestId;
use crate::synchronization::Summons;
use alloc::collections::VecDeque;

/// Forwarded dry runs of one user that the master works on or keeps; root has no such limit. A node that has more asks again.
pub(super) const FORWARDED_PER_USER_MAX: usize = 8;
/// So many that were put off are remembered: they are not fetched again before there is a place.
const PUT_OFF_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct DryRuns {
    /// Not looked at yet.
    new: VecDeque<RequestId>,
    /// To be worked out beside the loop, one at a time.
    large: VecDeque<RequestId>,
    large_turns: UserTurns,
    /// They run commands, and wait until others do not.
    rehearsals: VecDeque<RequestId>,
    rehearsal_turns: UserTurns,
    /// Forwarded ones for which there was no place, with their users.
    put_off: VecDeque<(RequestId, u32)>,
}

/// How far the rehearsal of a dry run has come that takes long to work out.
#[derive(Clone, Debug, Default)]
pub(in crate::protocol) enum Agreement {
    /// Nobody knows yet whether it runs commands.
    #[default]
    Open,
    /// It runs these, unless the rows that say so have changed.
    Needed(Summons, SyncRows),
    /// All members have agreed: what is left is what it would do.
    Given,
}

impl DryRuns {
    pub fn push(&mut self, id: RequestId) {
        self.new.push_back(id);
    }

    pub fn clear(&mut self) {
        self.new.clear();
        self.large.clear();
        self.rehearsals.clear();
    }
}

impl Requests {
    pub fn has_dry_runs(&self) -> bool {
        let DryRuns { new, large, .. } = &self.dry_runs;
        !new.is_empty() || !large.is_empty() || self.has_rehearsals()
    }

    pub fn has_rehearsals(&self) -> bool {
        !self.dry_runs.rehearsals.is_empty()
    }

    pub fn next_dry_run(&mut self) -> Option<RequestId> {
        self.dry_runs.new.pop_front()
    }

    /// It is looked at anew, as the next.
    pub fn dry_run_first(&mut self, id: RequestId) {
        self.dry_runs.new.push_front(id);
    }

    /// It takes long to work out.
    pub fn dry_run_is_large(&mut self, id: RequestId) {
        self.dry_runs.large.push_back(id);
    }

    pub fn next_large_dry_run(&mut self) -> Option<RequestId> {
        let DryRuns {
            large, large_turns, ..
        } = &mut self.dry_runs;
        let updates = &self.updates;
        large.retain(|id| updates.contains_key(id));
        let uids = large
            .iter()
            .filter_map(|id| updates.get(id))
            .map(|pending| pending.uid());
        let id = large.remove(large_turns.next(uids)?)?;
        if let Some(pending) = updates.get(&id) {
            large_turns.note(pending.uid());
        }
        Some(id)
    }

    /// It runs commands.
    pub fn rehearse(&mut self, id: RequestId) {
        let updates = &self.updates;
        let rehearsals = &mut self.dry_runs.rehearsals;
        rehearsals.retain(|waiting| updates.contains_key(waiting));
        rehearsals.push_back(id);
    }

    pub fn next_rehearsal(&mut self) -> Option<RequestId> {
        let DryRuns {
            rehearsals,
            rehearsal_turns,
            ..
        } = &mut self.dry_runs;
        let updates = &self.updates;
        rehearsals.retain(|id| updates.contains_key(id));
        let uids = (rehearsals.iter())
            .filter_map(|id| updates.get(id))
            .map(|pending| pending.uid());
        let id = rehearsals.remove(rehearsal_turns.next(uids)?)?;
        if let Some(pending) = updates.get(&id) {
            rehearsal_turns.note(pending.uid());
        }
        Some(id)
    }

    pub fn agreement(&self, id: RequestId) -> Agreement {
        (self.updates.get(&id)).map_or_else(Agreement::default, |pending| pending.agreement.clone())
    }

    pub fn set_agreement(&mut self, id: RequestId, agreement: Agreement) {
        if let Some(pending) = self.updates.get_mut(&id) {
            pending.agreement = agreement;
        }
    }

    /// Whether other nodes have forwarded as many dry runs of this user as are kept.
    pub fn forwarded_are_many(&self, uid: u32) -> bool {
        let forwarded = |pending: &Pending| {
            (pending.origins.iter()).any(|waiter| matches!(waiter.origin, Origin::Node(..)))
        };
        let of_user = (self.updates.values())
            .filter(|pending| pending.is_dry_run() && pending.uid() == uid && forwarded(pending));
        uid != 0 && of_user.count() >= FORWARDED_PER_USER_MAX
    }

    /// There is no place for it now.
    pub fn put_off(&mut self, id: RequestId, uid: u32) {
        let put_off = &mut self.dry_runs.put_off;
        put_off.retain(|(of, _)| *of != id);
        put_off.push_back((id, uid));
        if put_off.len() > PUT_OFF_MAX {
            put_off.pop_front();
        }
    }

    /// Whether there is still no place for one that was put off.
    pub fn is_put_off(&self, id: RequestId) -> bool {
        let found = self.dry_runs.put_off.iter().find(|(of, _)| *of == id);
        found.is_some_and(|(_, uid)| self.forwarded_are_many(*uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientToken;
    use crate::ids::{Epoch, NodeId};
    use alloc::boxed::Box;

    const fn id(sequence: u64) -> RequestId {
        RequestId { client: 1, sequence }
    }

    fn add(requests: &mut Requests, sequence: u64, uid: u32, from: Option<u8>) {
        let origin = match from {
            Some(node) => Origin::Node(NodeId::new(node).expect("a number"), Epoch(1)),
            None => Origin::Client(ClientToken(sequence)),
        };
        let pending = Pending::dry_run(uid, id(sequence), origin);
        requests.updates.insert(id(sequence), Box::new(pending));
    }

    #[test]
    fn the_master_keeps_a_few_forwarded_dry_runs_of_a_user_however_many_nodes_forward_them() {
        let mut requests = Requests::default();
        // The clients of this node are bounded where they connect.
        (100..120).for_each(|sequence| add(&mut requests, sequence, 7, None));
        for sequence in 0..FORWARDED_PER_USER_MAX as u64 {
            assert!(!requests.forwarded_are_many(7));
            add(&mut requests, sequence, 7, Some(sequence as u8 % 5 + 1));
            add(&mut requests, 1000 + sequence, 0, Some(1));
        }
        assert!(requests.forwarded_are_many(7));
        assert!(
            !requests.forwarded_are_many(8),
            "another user has places of its own"
        );
        assert!(!requests.forwarded_are_many(0), "root has no such limit");
        requests.put_off(id(50), 7);
        assert!(requests.is_put_off(id(50)) && !requests.is_put_off(id(51)));
        requests.updates.remove(&id(3));
        assert!(!requests.is_put_off(id(50)), "there is a place for it");
        for sequence in 0..10_000 {
            requests.put_off(id(sequence), 7);
        }
        assert!(requests.dry_runs.put_off.len() <= PUT_OFF_MAX);
    }

    #[test]
    fn large_dry_runs_and_rehearsals_take_turns_by_user_and_skip_those_that_have_gone() {
        let mut requests = Requests::default();
        for (sequence, uid) in [(1, 7), (2, 7), (3, 8), (4, 8), (5, 9), (6, 7)] {
            add(&mut requests, sequence, uid, None);
            requests.dry_run_is_large(id(sequence));
            requests.rehearse(id(sequence));
        }
        requests.updates.remove(&id(2));
        for sequence in [1, 3, 5, 6, 4] {
            assert_eq!(requests.next_large_dry_run(), Some(id(sequence)));
            assert_eq!(requests.next_rehearsal(), Some(id(sequence)));
        }
        assert_eq!(requests.next_large_dry_run(), None);
        assert_eq!(requests.next_rehearsal(), None);
    }
}
