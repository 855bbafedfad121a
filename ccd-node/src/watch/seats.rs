//! How many watchers there may be: in total, and of a user that is not trusted. Taken when one asks, given back when it is gone.

use crate::fair::Owner;
use ccd_client::wire::Fault;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Watchers at once. Each costs a descriptor, what the kernel keeps for its socket, and some 300 bytes.
const WATCHERS_MAX: usize = 16_384;
/// Most watchers of one user, unless it is root or the daemon's own.
const WATCHERS_PER_USER_MAX: usize = 1_024;
/// Descriptors that are left for everything else: connections of clients and peers, files.
const DESCRIPTORS_RESERVED: u64 = 4_096 + 256;
/// What all who are not trusted leave to root, as a share of everything.
const SHARE_RESERVED: usize = 4;

const _: () = assert!(WATCHERS_PER_USER_MAX < WATCHERS_MAX);

#[derive(Debug)]
struct Taken {
    total: usize,
    total_max: usize,
    by_user: BTreeMap<u32, usize>,
}

/// All seats of this node.
#[derive(Clone, Debug)]
pub struct Seats(Arc<Mutex<Taken>>);

/// One that is taken.
#[derive(Debug)]
pub struct Seat {
    seats: Seats,
    owner: Owner,
}

impl Seats {
    pub fn new() -> Self {
        let descriptors = crate::descriptors::raise() as u64;
        // A machine that allows few descriptors has few watchers, but some.
        let room = descriptors
            .saturating_sub(DESCRIPTORS_RESERVED)
            .max(descriptors / 4);
        Self::with(WATCHERS_MAX.min(usize::try_from(room).unwrap_or(usize::MAX)))
    }

    fn with(total_max: usize) -> Self {
        Self(Arc::new(Mutex::new(Taken {
            total: 0,
            total_max,
            by_user: BTreeMap::new(),
        })))
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Counting does not panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are taken.
    pub fn taken_count(&self) -> usize {
        self.taken().total
    }

    /// A seat for a watcher of this user.
    pub fn take(&self, uid: u32, is_trusted: bool) -> Result<Seat, Fault> {
        let mut taken = self.taken();
        let reserved = if is_trusted {
            0
        } else {
            taken.total_max / SHARE_RESERVED
        };
        if taken.total >= taken.total_max - reserved {
            return Err(Fault::TooManyWatchers {
                why: format!(
                    "this node has {} watchers, as many as it takes from this user",
                    taken.total
                ),
            });
        }
        let own = taken.by_user.entry(uid).or_insert(0);
        if !is_trusted && *own >= WATCHERS_PER_USER_MAX {
            return Err(Fault::TooManyWatchers {
                why: format!("this user has {own} watchers on this node, as many as it may have"),
            });
        }
        *own += 1;
        taken.total += 1;
        Ok(Seat {
            seats: self.clone(),
            owner: Owner { uid, is_trusted },
        })
    }
}

impl Seat {
    /// The user who watches.
    pub fn owner(&self) -> Owner {
        self.owner
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        taken.total -= 1;
        let uid = self.owner.uid;
        let left = taken.by_user.get_mut(&uid).map(|own| {
            *own -= 1;
            *own
        });
        if left == Some(0) {
            taken.by_user.remove(&uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_bounded_in_total_and_for_each_user_and_come_back() {
        // A quarter is root's.
        let total_max = (WATCHERS_PER_USER_MAX + 10) * 4 / 3;
        let seats = Seats::with(total_max);
        let mut own: Vec<Seat> = (0..WATCHERS_PER_USER_MAX)
            .map(|_| seats.take(7, false).expect("there is room"))
            .collect();
        let refused = seats.take(7, false).expect_err("the user has enough");
        assert!(refused.to_string().contains("this user has 1024"), "{refused}");
        let others: Vec<Seat> = (0..10)
            .map(|_| seats.take(8, false).expect("there is room"))
            .collect();
        let refused = seats.take(9, false).expect_err("the others have theirs");
        assert!(refused.to_string().contains("this node has 1034"), "{refused}");
        let roots: Vec<Seat> = (0..total_max - 1034)
            .map(|_| seats.take(0, true).expect("root has seats of its own"))
            .collect();
        assert!(roots.len() > 300, "{}", roots.len());
        assert!(seats.take(0, true).is_err(), "everything is bounded");
        own.pop();
        drop(roots);
        seats.take(7, false).expect("some were given back");
        drop((own, others));
        assert_eq!(seats.taken().total, 0);
        assert!(seats.taken().by_user.is_empty());
        let _many: Vec<Seat> = (0..WATCHERS_PER_USER_MAX + 5)
            .map(|_| seats.take(0, true).expect("who is trusted has them all"))
            .collect();
    }
}
