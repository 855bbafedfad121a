//! How much memory unfinished replies may take: a share for each user of those that hold something, whoever came first.
//!
//! Always holds: a user that holds less than its share is never refused for what others hold. So those who are not trusted hold no
//! more than [`HELD_BYTES_MAX`] and what they held before their shares became smaller, besides one reply, which may be of any
//! length: else nobody could read a database that is larger. Nothing of the trusted is counted.

use crate::fair::Owner;
use ccd_core::client::ClientToken;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Most bytes of unfinished replies to users that are not trusted.
pub(super) const HELD_BYTES_MAX: usize = 256 << 20;

/// What is held for unfinished replies.
#[derive(Debug, Default)]
pub(super) struct HeldReplies(Mutex<HeldState>);

#[derive(Debug, Default)]
struct HeldState {
    by_user: BTreeMap<u32, BTreeMap<ClientToken, usize>>,
    /// The one reply that is not counted.
    uncounted: Option<ClientToken>,
}

impl HeldState {
    fn of_user(&self, uid: u32) -> usize {
        let replies = self.by_user.get(&uid).into_iter().flatten();
        let counted = replies.filter(|(client, _)| Some(**client) != self.uncounted);
        counted.map(|(_, bytes)| bytes).sum()
    }
}

impl HeldReplies {
    /// This reply takes so many bytes now; `false` if there is no room for it.
    pub fn hold(&self, owner: Owner, client: ClientToken, bytes: usize) -> bool {
        if owner.is_trusted {
            return true;
        }
        // Nothing that can panic is done under the lock.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let replies = state.by_user.entry(owner.uid).or_default();
        replies.insert(client, bytes);
        if state.uncounted == Some(client) {
            return true;
        }
        let all: usize = state.by_user.keys().map(|uid| state.of_user(*uid)).sum();
        let share = HELD_BYTES_MAX / state.by_user.len();
        if all <= HELD_BYTES_MAX || state.of_user(owner.uid) <= share {
            return true;
        }
        if state.uncounted.is_none() {
            state.uncounted = Some(client);
            return true;
        }
        false
    }

    /// It has ended.
    pub fn release(&self, owner: Owner, client: ClientToken) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.uncounted.take_if(|of| *of == client);
        if let Some(replies) = state.by_user.get_mut(&owner.uid) {
            replies.remove(&client);
            if replies.is_empty() {
                state.by_user.remove(&owner.uid);
            }
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.by_user.is_empty() && state.uncounted.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn one_user_that_holds_much_makes_no_other_fail_and_has_room_when_it_is_alone() {
        let held = HeldReplies::default();
        for token in 1..=4 {
            assert!(
                held.hold(Owner::of(1), ClientToken(token), 64 * MIB),
                "it is alone"
            );
        }
        assert!(
            held.hold(Owner::of(1), ClientToken(5), 600 * MIB),
            "one of any length"
        );
        assert!(!held.hold(Owner::of(1), ClientToken(6), 10 * MIB));
        held.release(Owner::of(1), ClientToken(6));
        // Another one grows up to its share.
        for mib in 1..=128 {
            assert!(held.hold(Owner::of(2), ClientToken(10), mib * MIB), "{mib}");
        }
        assert!(!held.hold(Owner::of(2), ClientToken(10), 129 * MIB));
        // And the first has to give up what is beyond its own.
        assert!(!held.hold(Owner::of(1), ClientToken(1), 64 * MIB));
        held.release(Owner::of(1), ClientToken(1));
        held.release(Owner::of(1), ClientToken(2));
        assert!(held.hold(Owner::of(1), ClientToken(3), 64 * MIB));
        assert!(
            held.hold(Owner::of(0), ClientToken(20), 4096 * MIB),
            "root's are not counted"
        );
        held.release(Owner::of(0), ClientToken(20));
        held.release(Owner::of(1), ClientToken(5));
        assert!(
            held.hold(Owner::of(2), ClientToken(10), 700 * MIB),
            "now this is the one"
        );
        for (uid, token) in [(1, 3), (1, 4), (2, 10)] {
            held.release(Owner::of(uid), ClientToken(token));
        }
        assert!(held.is_empty(), "{held:?}");
    }

    #[test]
    fn however_many_users_there_are_each_has_its_share_and_all_are_bounded() {
        let held = HeldReplies::default();
        let users = 64;
        let mut had: BTreeMap<u32, usize> = BTreeMap::new();
        for mib in 1..100 {
            for uid in 1..=users {
                let client = ClientToken(u64::from(uid));
                if held.hold(Owner::of(uid), client, mib * MIB) {
                    had.insert(uid, mib);
                } else {
                    held.release(Owner::of(uid), client);
                }
            }
        }
        assert!(had.values().all(|mib| *mib >= 4), "{had:?}");
    }
}
