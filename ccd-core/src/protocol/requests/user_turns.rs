//! Whose turn it is where one of many requests is worked on at a time: the user that was served longest ago comes first, and of one user
//! the request that came first.
//!
//! Always holds: a request waits for one request of each other user at most, and for the earlier ones of its own.

use alloc::collections::VecDeque;

/// So many users are remembered. One that is forgotten was served longer ago than all of them.
const USERS_MAX: usize = 1024;

/// The users that were served, longest ago first.
#[derive(Debug, Default)]
pub(in crate::protocol) struct UserTurns {
    served: VecDeque<u32>,
}

impl UserTurns {
    /// Which of these is next: they are the users of the requests that wait, in the order in which those came.
    pub fn next(&self, uids: impl Iterator<Item = u32>) -> Option<usize> {
        let rank =
            |uid: u32| (self.served.iter().position(|of| *of == uid)).map_or(0, |at| at.saturating_add(1));
        let (index, _) = uids.enumerate().min_by_key(|(_, uid)| rank(*uid))?;
        Some(index)
    }

    pub fn note(&mut self, uid: u32) {
        self.served.retain(|of| *of != uid);
        self.served.push_back(uid);
        if self.served.len() > USERS_MAX {
            self.served.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn order(mut waiting: Vec<u32>) -> Vec<u32> {
        let mut turns = UserTurns::default();
        let mut order = Vec::new();
        while let Some(at) = turns.next(waiting.iter().copied()) {
            let uid = waiting.remove(at);
            turns.note(uid);
            order.push(uid);
        }
        order
    }

    #[test]
    fn users_take_turns_however_many_requests_each_of_them_has() {
        let table: [(&[u32], &[u32]); 5] = [
            (&[], &[]),
            (&[1, 1, 1], &[1, 1, 1]),
            (&[1, 1, 1, 2], &[1, 2, 1, 1]),
            // Not two of them in turn, and the third when they have no more.
            (&[1, 1, 1, 2, 2, 2, 3], &[1, 2, 3, 1, 2, 1, 2]),
            (&[3, 2, 1, 1, 2, 3], &[3, 2, 1, 3, 2, 1]),
        ];
        for (waiting, expected) in table {
            assert_eq!(order(waiting.to_vec()), expected, "{waiting:?}");
        }
    }

    #[test]
    fn a_user_waits_for_one_request_of_each_other_user_however_many_come_and_go() {
        let mut turns = UserTurns::default();
        // Always there is one of user 0, and beside it one that was never seen or not for long.
        turns.note(0);
        let mut since = 0;
        for uid in 1..10_000_u32 {
            let waiting = [0, uid];
            let at = turns.next(waiting.into_iter()).expect("two wait");
            turns.note(waiting[at]);
            since = if at == 0 { 0 } else { since + 1 };
            assert!(since <= USERS_MAX, "user 0 has had no turn for {since}");
        }
        assert!(turns.served.len() <= USERS_MAX);
    }
}
