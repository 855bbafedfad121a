//! A queue that is fair to users: the next item is of the user that has spent least, and the trusted come before all others.
//!
//! Called by those who read for clients: `reads`, `watch/past.rs`, `history/turns.rs`. Pure: whoever works says what it cost.
//!
//! Always holds: items of one user come in the order in which they were pushed; a user that asks for one item at a time is charged for
//! each, also if nobody waits at its end; a user that comes back after a while has little credit; of a user with nothing to do nothing
//! is remembered that would matter.

use std::collections::{BTreeMap, VecDeque};

/// A user that comes back may be this far behind those who stayed, in nanoseconds of work. One that asks for an item at a time is away
/// after each: without credit it would be charged as much for a short item as others for a long one.
const CREDIT_NANOS: u64 = 20_000_000;
/// A user that is away for so many items of others has no credit any more, and is forgotten.
const AWAY_MAX: u64 = 256;

/// For whom something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    /// Root, or the daemon's own user.
    pub is_trusted: bool,
}

/// Waiting items, by user.
#[derive(Debug)]
pub struct Fair<T> {
    trusted: VecDeque<(u32, T)>,
    users: BTreeMap<u32, User<T>>,
    /// What the user had spent that was served last: nobody who waits has spent less.
    floor: u64,
    /// Orders users that have spent the same by when they were served last.
    served: u64,
}

#[derive(Debug)]
struct User<T> {
    items: VecDeque<T>,
    spent: u64,
    served: u64,
}

impl<T> Default for Fair<T> {
    fn default() -> Self {
        Self {
            trusted: VecDeque::new(),
            users: BTreeMap::new(),
            floor: 0,
            served: 0,
        }
    }
}

impl<T> Fair<T> {
    pub fn push(&mut self, owner: Owner, item: T) {
        if owner.is_trusted {
            self.trusted.push_back((owner.uid, item));
        } else {
            self.user(owner.uid).items.push_back(item);
        }
    }

    /// As [`push`](Self::push), but before the other items of this user: the rest of one that was begun.
    pub fn push_first(&mut self, owner: Owner, item: T) {
        if owner.is_trusted {
            self.trusted.push_front((owner.uid, item));
        } else {
            self.user(owner.uid).items.push_front(item);
        }
    }

    fn user(&mut self, uid: u32) -> &mut User<T> {
        let floor = self.floor;
        let user = self.users.entry(uid).or_insert_with(|| User {
            items: VecDeque::new(),
            spent: floor,
            served: 0,
        });
        if user.items.is_empty() {
            user.spent = user.spent.max(floor.saturating_sub(CREDIT_NANOS));
        }
        user
    }

    /// The next item of a trusted user, or else of the user that has spent least.
    pub fn pop(&mut self) -> Option<(Owner, T)> {
        self.pop_if(|_, _| true)
    }

    /// The next item of a trusted user.
    pub fn pop_trusted(&mut self) -> Option<(Owner, T)> {
        let (uid, item) = self.trusted.pop_front()?;
        let is_trusted = true;
        Some((Owner { uid, is_trusted }, item))
    }

    /// As [`pop`](Self::pop), but the trusted come last: for whom has another place where it is served.
    pub fn pop_others_first(&mut self) -> Option<(Owner, T)> {
        self.pop_if(|owner, _| !owner.is_trusted)
            .or_else(|| self.pop_trusted())
    }

    /// As [`pop`](Self::pop), of those only that may be served now: the first such item of the trusted, or else the first item of one
    /// of the users.
    pub fn pop_if(&mut self, may: impl Fn(Owner, &T) -> bool) -> Option<(Owner, T)> {
        let owner = |uid, is_trusted| Owner { uid, is_trusted };
        let of_trusted = self
            .trusted
            .iter()
            .position(|(uid, item)| may(owner(*uid, true), item));
        if let Some((uid, item)) = of_trusted.and_then(|at| self.trusted.remove(at)) {
            return Some((owner(uid, true), item));
        }
        let waiting = self.users.iter().filter(|(_, user)| !user.items.is_empty());
        let least = waiting.clone().map(|(_, user)| user.spent).min()?;
        self.floor = self.floor.max(least);
        let (uid, _) = waiting
            .filter(|(uid, user)| {
                user.items
                    .front()
                    .is_some_and(|item| may(owner(**uid, false), item))
            })
            .min_by_key(|(_, user)| (user.spent, user.served))?;
        let uid = *uid;
        self.served += 1;
        let user = self.users.get_mut(&uid)?;
        user.served = self.served;
        let item = user.items.pop_front()?;
        let is_trusted = false;
        Some((Owner { uid, is_trusted }, item))
    }

    /// Whether such an item waits.
    pub fn any(&self, is_such: impl Fn(Owner, &T) -> bool) -> bool {
        let owner = |uid, is_trusted| Owner { uid, is_trusted };
        let of_trusted = self
            .trusted
            .iter()
            .any(|(uid, item)| is_such(owner(*uid, true), item));
        of_trusted
            || (self.users.iter())
                .any(|(uid, user)| user.items.iter().any(|item| is_such(owner(*uid, false), item)))
    }

    /// What was done for this user took so many nanoseconds. Never nothing: else one whose items are free would be served alone.
    pub fn spend(&mut self, owner: Owner, cost: u64) {
        if owner.is_trusted {
            return;
        }
        let user = self.user(owner.uid);
        user.spent = user.spent.saturating_add(cost.max(1));
        let spent = user.spent;
        let waiting = self.users.values().filter(|user| !user.items.is_empty());
        // Where nobody waits, all begin anew.
        let least = waiting.map(|user| user.spent).min().unwrap_or(spent);
        self.floor = self.floor.max(least);
        self.tidy();
    }

    /// A user that has spent no more than those who wait begins about where they are, remembered or not.
    fn tidy(&mut self) {
        let (floor, served) = (self.floor, self.served);
        self.users.retain(|_, user| {
            let has_credit = user.spent.saturating_add(CREDIT_NANOS) > floor
                && served.saturating_sub(user.served) <= AWAY_MAX;
            !user.items.is_empty() || user.spent > floor || has_credit
        });
    }

    /// Takes out the items for which nobody waits any more.
    pub fn forget(&mut self, is_gone: impl Fn(&T) -> bool) {
        self.trusted.retain(|(_, item)| !is_gone(item));
        for user in self.users.values_mut() {
            user.items.retain(|item| !is_gone(item));
        }
        self.tidy();
    }
}

#[cfg(test)]
impl Owner {
    /// A user whom tests call by number: 0 is trusted.
    pub const fn of(uid: u32) -> Self {
        Self {
            uid,
            is_trusted: uid == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(queue: &mut Fair<&'static str>, cost: u64) -> Vec<&'static str> {
        let mut names = Vec::new();
        while let Some((owner, name)) = queue.pop() {
            queue.spend(owner, cost);
            names.push(name);
        }
        names
    }

    #[test]
    fn users_take_turns_and_root_comes_first() {
        type Line = (
            &'static str,
            &'static [(u32, &'static str)],
            &'static [&'static str],
        );
        let table: [Line; 5] = [
            ("nothing", &[], &[]),
            ("one user", &[(1, "a"), (1, "b")], &["a", "b"]),
            (
                "one who has much",
                &[(1, "a"), (1, "b"), (1, "c"), (2, "d"), (3, "e")],
                &["a", "d", "e", "b", "c"],
            ),
            (
                "root is last",
                &[(1, "a"), (2, "b"), (0, "root")],
                &["root", "a", "b"],
            ),
            (
                "root twice",
                &[(0, "r1"), (1, "a"), (0, "r2"), (2, "b")],
                &["r1", "r2", "a", "b"],
            ),
        ];
        for (what, pushed, expected) in table {
            let mut queue = Fair::default();
            for (uid, name) in pushed {
                queue.push(Owner::of(*uid), *name);
            }
            assert_eq!(names(&mut queue, 10), expected, "{what}");
        }
    }

    #[test]
    fn a_user_whose_items_cost_more_is_served_less_often() {
        let mut queue = Fair::default();
        for _ in 0..100 {
            queue.push(Owner::of(1), 1);
            queue.push(Owner::of(2), 2);
        }
        let mut served = [0; 3];
        for _ in 0..55 {
            let (owner, item) = queue.pop().expect("it is full");
            queue.spend(owner, if item == 1 { 1_000 } else { 100 });
            served[item] += 1;
        }
        assert!((4..=6).contains(&served[1]) && served[2] >= 49, "{served:?}");
    }

    #[test]
    fn who_comes_late_or_back_has_no_credit_from_before() {
        let mut queue = Fair::default();
        for name in ["a", "b", "c", "d"] {
            queue.push(Owner::of(1), name);
        }
        for _ in 0..2 {
            let (owner, _) = queue.pop().expect("there are four");
            queue.spend(owner, 1_000);
        }
        // It had spent nothing while the other spent 2,000.
        for name in ["x", "y", "z"] {
            queue.push(Owner::of(2), name);
        }
        let next = names(&mut queue, 1_000);
        assert_eq!(next.len(), 5);
        assert!(next.iter().position(|name| *name == "c") <= Some(2), "{next:?}");
        assert!(next.iter().position(|name| *name == "x") <= Some(1), "{next:?}");
    }

    #[test]
    fn what_is_left_of_an_item_comes_before_the_others_of_its_user_and_one_that_may_not_waits() {
        let mut queue = Fair::default();
        queue.push(Owner::of(1), "a");
        queue.push(Owner::of(1), "b");
        queue.push(Owner::of(2), "c");
        let (owner, item) = queue.pop().expect("there are three");
        queue.spend(owner, 10);
        queue.push_first(owner, item);
        assert_eq!(queue.pop_if(|owner, _| owner.uid != 2), Some((Owner::of(1), "a")));
        assert_eq!(queue.pop_if(|_, item| *item == "b"), Some((Owner::of(1), "b")));
        assert_eq!(queue.pop_if(|owner, _| owner.uid == 9), None);
        assert_eq!(queue.pop_trusted(), None);
        queue.push(Owner::of(0), "first");
        queue.push(Owner::of(0), "second");
        assert_eq!(
            queue.pop_if(|_, item| *item == "second"),
            Some((Owner::of(0), "second"))
        );
        assert_eq!(
            queue.pop_if(|owner, _| !owner.is_trusted),
            Some((Owner::of(2), "c"))
        );
        assert_eq!(queue.pop_trusted(), Some((Owner::of(0), "first")));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn nothing_stays_of_those_who_have_gone() {
        let mut queue = Fair::default();
        for uid in 1..1_000 {
            queue.push(Owner::of(uid), uid);
        }
        queue.push(Owner::of(0), 0);
        queue.forget(|uid| *uid != 7);
        assert_eq!(queue.pop(), Some((Owner::of(7), 7)));
        assert_eq!(queue.pop(), None);
        queue.spend(Owner::of(7), 1);
        for uid in 1..10_000 {
            queue.push(Owner::of(uid), uid);
            let (owner, _) = queue.pop().expect("one was pushed");
            queue.spend(owner, 1);
        }
        let remembered = queue.users.len() as u64;
        assert!(remembered <= AWAY_MAX + 2, "{remembered} are remembered");
        // Those who cost much do not stay longer.
        for uid in 10_000..20_000 {
            queue.push(Owner::of(uid), uid);
            let (owner, _) = queue.pop().expect("one was pushed");
            queue.spend(owner, CREDIT_NANOS);
        }
        assert!(queue.users.len() < 3, "{} are remembered", queue.users.len());
    }

    #[test]
    fn a_user_that_asks_for_one_item_at_a_time_is_charged_for_each_of_them() {
        let mut queue = Fair::default();
        let mut serve = |asks: &[u32], cost_of_1: u64| {
            asks.iter().for_each(|uid| queue.push(Owner::of(*uid), ()));
            let (owner, ()) = queue.pop().expect("somebody asks");
            queue.spend(owner, if owner.uid == 1 { cost_of_1 } else { 100_000 });
            owner.uid
        };
        assert_eq!(serve(&[2], 0), 2);
        // Nobody waits at the end of this one.
        assert_eq!(serve(&[1], 5_000_000), 1);
        let mut next = serve(&[1, 2], 5_000_000);
        let mut count = 0;
        while next == 2 {
            count += 1;
            next = serve(&[2], 5_000_000);
        }
        assert!(
            (48..=50).contains(&count),
            "50 items of one are one of the other, and not {count}"
        );
        // A user who is away for long saves nothing up.
        let mut queue = Fair::default();
        let mut serve = |asks: &[u32]| {
            asks.iter().for_each(|uid| queue.push(Owner::of(*uid), ()));
            let (owner, ()) = queue.pop().expect("somebody asks");
            queue.spend(owner, 1_000_000);
            owner.uid
        };
        assert_eq!(serve(&[2]), 2);
        for _ in 0..100 {
            assert_eq!(serve(&[1]), 1);
        }
        let mut next = serve(&[1, 2]);
        let mut count = 0;
        while next == 2 {
            count += 1;
            next = serve(&[2]);
        }
        assert!(count <= 21, "{count}");
    }

    #[test]
    fn where_root_has_another_place_it_does_not_keep_others_waiting() {
        let mut queue = Fair::default();
        for name in ["r1", "r2", "r3"] {
            queue.push(Owner::of(0), name);
        }
        queue.push(Owner::of(1), "a");
        queue.push(Owner::of(2), "b");
        let mut order = Vec::new();
        while let Some((owner, name)) = queue.pop_others_first() {
            queue.spend(owner, 10);
            order.push(name);
            // There is always one more of root's.
            if order.len() < 4 {
                queue.push(Owner::of(0), "r");
            }
        }
        assert_eq!(order[..3], ["a", "b", "r1"]);
    }

    proptest! {
        /// Nothing is lost, each user's items keep their order, and nobody who always waits gets less than a share.
        #[test]
        fn every_item_comes_once_and_in_order(pushed in prop::collection::vec((0_u32..5, 1_u64..50), 0..200)) {
            let mut queue = Fair::default();
            for (index, (uid, cost)) in pushed.iter().enumerate() {
                queue.push(Owner::of(*uid), (index, *cost));
            }
            let mut last = BTreeMap::new();
            let mut spent = BTreeMap::<u32, u64>::new();
            let mut count = 0;
            while let Some((owner, (index, cost))) = queue.pop() {
                prop_assert!(last.insert(owner.uid, index) < Some(index));
                prop_assert_eq!(owner.is_trusted, pushed[index].0 == 0);
                let least = queue.users.iter().filter(|(_, user)| !user.items.is_empty());
                for (uid, _) in least {
                    let own = spent.get(uid).copied().unwrap_or(0);
                    let its = spent.get(&owner.uid).copied().unwrap_or(0);
                    prop_assert!(owner.is_trusted || its <= own, "{uid} waits and has spent less");
                }
                queue.spend(owner, cost);
                *spent.entry(owner.uid).or_default() += cost;
                count += 1;
            }
            prop_assert_eq!(count, pushed.len());
        }
    }
}
