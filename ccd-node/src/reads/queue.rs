//! Whose long read is worked on next: a fair queue by user, pure.
//!
//! ```text
//! trusted users before the others, but not always: others that wait get one turn in eight
//! among users, the one who has cost least so far; among the reads of a user, the oldest
//! a user that has not waited for a while begins where the others are: nothing is saved up
//! ```
//!
//! A turn is a piece of a read, so a long one holds up nobody for longer than that; it is then given back to the front.

use std::collections::{BTreeMap, VecDeque};

/// After so many turns of trusted users in a row, others that wait have one.
const TURNS_IN_A_ROW_MAX: u32 = 7;

/// For whom a read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct User {
    pub uid: u32,
    pub trusted: bool,
}

#[derive(Debug)]
struct Account<T> {
    waiting: VecDeque<T>,
    /// What its reads have cost, beginning where the others were.
    spent: u64,
    /// Taken and neither ended nor given back.
    running: usize,
}

/// Reads that wait for a turn.
#[derive(Debug)]
pub struct FairQueue<T> {
    accounts: BTreeMap<User, Account<T>>,
    /// What the user had spent whose turn came last, of the trusted and of the others.
    reached: [u64; 2],
    in_a_row: u32,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self {
            accounts: BTreeMap::new(),
            reached: [0; 2],
            in_a_row: 0,
        }
    }
}

impl<T> FairQueue<T> {
    /// A new read, behind those of the same user.
    pub fn push(&mut self, user: User, read: T) {
        let reached = self.reached[usize::from(user.trusted)];
        let account = self.accounts.entry(user).or_insert(Account {
            waiting: VecDeque::new(),
            spent: 0,
            running: 0,
        });
        if account.waiting.is_empty() && account.running == 0 {
            account.spent = account.spent.max(reached);
        }
        account.waiting.push_back(read);
    }

    /// The read whose turn it is. It is to be [`given back`](Self::give_back) or [`ended`](Self::end).
    pub fn take(&mut self) -> Option<(User, T)> {
        let first = |trusted| {
            let waiting = (self.accounts.iter())
                .filter(|(user, account)| user.trusted == trusted && !account.waiting.is_empty());
            waiting
                .min_by_key(|(_, account)| account.spent)
                .map(|(user, _)| *user)
        };
        let user = match (first(true), first(false)) {
            (Some(_), Some(other)) if self.in_a_row >= TURNS_IN_A_ROW_MAX => other,
            (Some(trusted), _) => trusted,
            (None, other) => other?,
        };
        self.in_a_row = if user.trusted { self.in_a_row + 1 } else { 0 };
        let account = self.accounts.get_mut(&user)?;
        let read = account.waiting.pop_front()?;
        account.running += 1;
        let reached = &mut self.reached[usize::from(user.trusted)];
        *reached = (*reached).max(account.spent);
        Some((user, read))
    }

    /// A turn is over and has cost so much; the read is not done.
    pub fn give_back(&mut self, user: User, read: T, cost: u64) {
        if let Some(account) = self.accounts.get_mut(&user) {
            account.waiting.push_front(read);
        }
        self.end(user, cost);
    }

    /// A turn is over and has cost so much, and the read is done.
    pub fn end(&mut self, user: User, cost: u64) {
        if let Some(account) = self.accounts.get_mut(&user) {
            account.spent += cost.max(1);
            account.running -= 1;
        }
        // Users that have nothing here and owe nothing are forgotten; with nobody left, so is what was spent.
        let reached = self.reached;
        self.accounts.retain(|user, account| {
            let idle = account.waiting.is_empty() && account.running == 0;
            !idle || account.spent > reached[usize::from(user.trusted)]
        });
        if self
            .accounts
            .values()
            .all(|account| account.waiting.is_empty() && account.running == 0)
        {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: User = User {
        uid: 0,
        trusted: true,
    };
    const ANN: User = User {
        uid: 1,
        trusted: false,
    };
    const BOB: User = User {
        uid: 2,
        trusted: false,
    };

    /// Whose it is, how many turns it takes, and what each costs.
    type Read = (User, u32, u64);

    /// Which reads get turns, until nothing is left.
    fn turns(reads: &[Read]) -> String {
        let mut queue = FairQueue::default();
        for (index, (user, left, cost)) in reads.iter().enumerate() {
            queue.push(*user, (index, *left, *cost));
        }
        let mut order = String::new();
        while let Some((user, (index, left, cost))) = queue.take() {
            order += &index.to_string();
            if left > 1 {
                queue.give_back(user, (index, left - 1, cost), cost);
            } else {
                queue.end(user, cost);
            }
        }
        assert!(queue.accounts.is_empty());
        order
    }

    #[test]
    fn turns_go_to_the_user_who_has_cost_least_and_to_its_oldest_read() {
        let table: &[(&[Read], &str)] = &[
            (&[], ""),
            (&[(ANN, 2, 10), (ANN, 1, 10)], "001"),
            (&[(ANN, 3, 10), (BOB, 3, 10)], "010101"),
            (&[(ANN, 3, 10), (ANN, 3, 10), (BOB, 2, 10)], "02020111"),
            (&[(ANN, 3, 30), (BOB, 6, 10)], "011101110"),
            (&[(ANN, 2, 10), (ROOT, 3, 10), (BOB, 1, 10)], "111020"),
            (&[(ROOT, 9, 10), (ANN, 2, 10)], "00000001001"),
        ];
        for (reads, expected) in table {
            assert_eq!(turns(reads), *expected, "{reads:?}");
        }
    }

    #[test]
    fn whoever_comes_later_begins_where_the_others_are() {
        let mut queue = FairQueue::default();
        queue.push(ANN, "old");
        for _ in 0..10 {
            let (user, read) = queue.take().expect("it waits");
            queue.give_back(user, read, 10);
        }
        queue.push(BOB, "new");
        let mut of_bob = 0;
        for _ in 0..10 {
            let (user, read) = queue.take().expect("they wait");
            of_bob += usize::from(user == BOB);
            queue.give_back(user, read, 10);
        }
        assert_eq!(of_bob, 5, "nothing was saved up");
    }

    #[test]
    fn who_comes_back_at_once_still_owes_what_it_has_cost() {
        let mut queue = FairQueue::default();
        queue.push(BOB, 0);
        queue.push(ANN, 0);
        let mut costs = BTreeMap::from([(ANN, 0), (BOB, 0)]);
        // Ann asks for what costs ten times as much, each time anew.
        for _ in 0..220 {
            let (user, _) = queue.take().expect("both wait");
            let cost = if user == ANN { 100 } else { 10 };
            *costs.get_mut(&user).expect("one of them") += cost;
            queue.end(user, cost);
            queue.push(user, 0);
        }
        let (ann, bob) = (costs[&ANN], costs[&BOB]);
        assert!(u64::abs_diff(ann, bob) <= 200, "{ann} and {bob}");
    }
}
