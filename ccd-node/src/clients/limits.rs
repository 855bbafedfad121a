//! What one user may take of the daemon, so that nobody can keep it from the others, root above all.
//!
//! Every user that is connected has an account: connections, requests that wait, and bytes that are held for it (what came and
//! is no whole request yet, requests that wait, answers that were not read yet). Users that are not trusted share limits, too,
//! that leave room for root. Called by `serve.rs` and `mod.rs`; pure but for asking the kernel how many descriptors there are.

use crate::fair::Owner;
use crate::gauge::Gauge;
use ccd_client::wire::{Ask, Fault, Service};
use ccd_core::client::RequestBody;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at once, if there are descriptors for them.
const CONNECTIONS_MAX: usize = 16_384;
/// Descriptors for everything else: devices, files, peers, commands.
const DESCRIPTORS_RESERVED: usize = 512;
/// Most of these for one user that is not trusted.
const CONNECTIONS_PER_USER_MAX: usize = 1024;
/// What all who are not trusted leave to root, as a share of everything.
const SHARE_RESERVED: usize = 4;

/// Requests of one connection that may wait at once; more are answered `Overloaded`.
const WAITING_PER_CONNECTION_MAX: usize = 256;
/// Most requests of one user that may wait.
const WAITING_PER_USER_MAX: usize = 4096;
/// Most requests of all users that may wait.
const WAITING_MAX: usize = 16_384;

/// Questions of one user that is not trusted that are with the event loop at once; the next waits here, and its connection is
/// not read meanwhile. A question about a large database takes milliseconds, and whoever asks thousands must not make root wait
/// for all of them.
const QUESTIONS_PER_USER_MAX: usize = 16;
/// For all who are not trusted.
const QUESTIONS_OTHERS_MAX: usize = 64;

/// Questions to the history of one user that is not trusted, that wait or are under way. They take turns with those of others
/// (`history/turns.rs`), of whom a few have a question under way at once.
const PAST_PER_USER_MAX: usize = 8;

/// Dry runs of one user that is not trusted: their synchronization commands run on every node.
const DRY_RUNS_PER_USER_MAX: usize = 4;

/// Bytes held for one user that is not trusted. An answer goes out as long as less than this is held before it, so one
/// large answer more may be held.
pub const HELD_BYTES_PER_USER_MAX: usize = 64 << 20;
/// For one that is.
const HELD_BYTES_TRUSTED_MAX: usize = 512 << 20;
/// For all who are not trusted.
const HELD_BYTES_OTHERS_MAX: usize = 256 << 20;

/// Why a connection or a request is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("user {uid} has {got} connections, the most that one user may have; a new one is hung up on")]
    User { uid: u32, got: usize },
    #[error(
        "there are {got} connections of clients, the most that are taken from user {uid}; a new one is hung up on"
    )]
    Everybody { uid: u32, got: usize },
}

/// The accounts of all who are connected.
#[derive(Debug)]
pub struct Accounts {
    connections_max: usize,
    by_user: RefCell<BTreeMap<u32, Rc<Account>>>,
    connections: Cell<usize>,
    waiting: Cell<usize>,
    held_for_others: Gauge,
    questions_of_others: Arc<Semaphore>,
    /// By reason, since the daemon started.
    faults: RefCell<BTreeMap<&'static str, u64>>,
}

/// What one user has in use.
#[derive(Debug)]
pub struct Account {
    uid: u32,
    trusted: bool,
    connections: Cell<usize>,
    waiting: Cell<usize>,
    held: Gauge,
    questions: Arc<Semaphore>,
    past: Arc<Semaphore>,
    dry_runs: Arc<Semaphore>,
}

/// What a request waits for before it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Question,
    /// To the history.
    Past,
    DryRun,
    Other,
}

impl Kind {
    pub fn of(ask: &Ask) -> Self {
        match ask {
            Ask::History(_) | Ask::Changes(_) | Ask::Branches | Ask::Branch { .. } => Self::Past,
            Ask::Request(request) if matches!(&request.body, RequestBody::Update(update) if update.dry_run) => {
                Self::DryRun
            }
            other => match other.service() {
                Service::Read => Self::Question,
                Service::Write | Service::Control => Self::Other,
            },
        }
    }
}

/// The place of one connection. Given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    accounts: Rc<Accounts>,
    account: Rc<Account>,
    waiting: Cell<usize>,
}

/// A question's turn with the event loop. Given back when it is dropped.
#[derive(Debug, Default)]
pub struct Turn {
    of_user: Option<OwnedSemaphorePermit>,
    of_others: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// It is with the threads for long reads from now on, which are fair by user: the place that all others share is free.
    pub fn leave_loop(&mut self) {
        self.of_others = None;
    }
}

impl Accounts {
    /// For a process with so many descriptors.
    pub fn new(descriptors: usize) -> Self {
        Self {
            connections_max: descriptors
                .saturating_sub(DESCRIPTORS_RESERVED)
                .clamp(16, CONNECTIONS_MAX),
            by_user: RefCell::default(),
            connections: Cell::new(0),
            waiting: Cell::new(0),
            held_for_others: Gauge::default(),
            questions_of_others: Arc::new(Semaphore::new(QUESTIONS_OTHERS_MAX)),
            faults: RefCell::default(),
        }
    }

    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.connections.get()
    }

    /// What clients were told instead of an answer, by reason.
    pub fn faults(&self) -> BTreeMap<&'static str, u64> {
        self.faults.borrow().clone()
    }

    /// Takes a place for a connection of this user.
    ///
    /// # Errors
    /// When there is none.
    pub fn enter(self: &Rc<Self>, uid: u32, trusted: bool) -> Result<Seat, Full> {
        let got = self.connections.get();
        let reserved = if trusted {
            0
        } else {
            self.connections_max / SHARE_RESERVED
        };
        if got >= self.connections_max - reserved {
            return Err(Full::Everybody { uid, got });
        }
        let mut by_user = self.by_user.borrow_mut();
        by_user.retain(|_, account| !account.is_idle());
        let account = by_user
            .entry(uid)
            .or_insert_with(|| Rc::new(Account::new(uid, trusted)));
        let own = account.connections.get();
        if !trusted && own >= CONNECTIONS_PER_USER_MAX.min(self.connections_max / 2) {
            return Err(Full::User { uid, got: own });
        }
        account.connections.set(own + 1);
        self.connections.set(got + 1);
        Ok(Seat {
            accounts: self.clone(),
            account: account.clone(),
            waiting: Cell::new(0),
        })
    }
}

impl Account {
    fn new(uid: u32, trusted: bool) -> Self {
        Self {
            uid,
            trusted,
            connections: Cell::new(0),
            waiting: Cell::new(0),
            held: Gauge::default(),
            questions: Arc::new(Semaphore::new(QUESTIONS_PER_USER_MAX)),
            past: Arc::new(Semaphore::new(PAST_PER_USER_MAX)),
            dry_runs: Arc::new(Semaphore::new(DRY_RUNS_PER_USER_MAX)),
        }
    }

    /// Nobody is connected, and nothing is under way that was asked for: who hangs up and comes back has no more than before.
    fn is_idle(&self) -> bool {
        let limits = [
            (&self.questions, QUESTIONS_PER_USER_MAX),
            (&self.past, PAST_PER_USER_MAX),
            (&self.dry_runs, DRY_RUNS_PER_USER_MAX),
        ];
        self.connections.get() == 0 && limits.iter().all(|(free, max)| free.available_permits() == *max)
    }
}

impl Seat {
    /// Where bytes are counted that are held for this user.
    pub fn gauges(&self) -> [Gauge; 2] {
        let shared = if self.account.trusted {
            Gauge::default()
        } else {
            self.accounts.held_for_others.clone()
        };
        [self.account.held.clone(), shared]
    }

    /// Whether something large may be held for this user besides what is.
    pub fn has_room(&self) -> bool {
        let max = if self.account.trusted {
            HELD_BYTES_TRUSTED_MAX
        } else {
            HELD_BYTES_PER_USER_MAX
        };
        let own = self.account.held.bytes();
        if self.account.trusted || own >= max {
            return own < max;
        }
        // Those who came first have not taken the others' part: half of all may be held once more, in equal shares.
        let users = self.accounts.by_user.borrow().len().max(1);
        self.accounts.held_for_others.bytes() < HELD_BYTES_OTHERS_MAX
            || own < HELD_BYTES_OTHERS_MAX / 2 / users
    }

    /// Takes a place for a request that waits; `false` if there is none.
    pub fn begin_to_wait(&self) -> bool {
        let trusted = self.account.trusted;
        let reserved = if trusted { 0 } else { WAITING_MAX / SHARE_RESERVED };
        let full = self.waiting.get() >= WAITING_PER_CONNECTION_MAX
            || (!trusted && self.account.waiting.get() >= WAITING_PER_USER_MAX)
            || self.accounts.waiting.get() >= WAITING_MAX - reserved;
        if full {
            return false;
        }
        for count in [&self.waiting, &self.account.waiting, &self.accounts.waiting] {
            count.set(count.get() + 1);
        }
        true
    }

    pub fn end_to_wait(&self) {
        for count in [&self.waiting, &self.account.waiting, &self.accounts.waiting] {
            count.set(count.get() - 1);
        }
    }

    /// Waits until one more request of this kind may be asked by this user. Those of the trusted wait for nothing.
    pub async fn turn(&self, kind: Kind) -> Turn {
        let mut turn = Turn::default();
        let Account {
            questions,
            past,
            dry_runs,
            ..
        } = &*self.account;
        let of_user = match kind {
            _ if self.account.trusted => None,
            Kind::Question => Some(questions),
            Kind::Past => Some(past),
            Kind::DryRun => Some(dry_runs),
            Kind::Other => None,
        };
        if let Some(of_user) = of_user {
            // Nobody closes them.
            turn.of_user = of_user.clone().acquire_owned().await.ok();
        }
        if !self.account.trusted && kind == Kind::Question {
            let of_others = self.accounts.questions_of_others.clone();
            turn.of_others = of_others.acquire_owned().await.ok();
        }
        turn
    }

    /// The client is told this instead of an answer.
    pub fn note_fault(&self, fault: &Fault) {
        let mut faults = self.accounts.faults.borrow_mut();
        *faults.entry(reason(fault)).or_default() += 1;
    }

    pub fn owner(&self) -> Owner {
        Owner {
            uid: self.account.uid,
            is_trusted: self.account.trusted,
        }
    }

    pub fn uid(&self) -> u32 {
        self.account.uid
    }
}

/// As metrics spell it.
fn reason(fault: &Fault) -> &'static str {
    match fault {
        Fault::NotPermitted { .. } => "not_permitted",
        Fault::BadRequest { .. } => "bad_request",
        Fault::TooLarge { .. } => "answer_too_large",
        Fault::Overloaded => "overloaded",
        Fault::Stopping => "stopping",
        Fault::NotKept { .. } => "not_kept",
        Fault::Internal { .. } => "internal",
        Fault::TooManyWatchers { .. } => "too_many_watchers",
        Fault::RequestTooLarge { .. } => "request_too_large",
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let count = &self.accounts.connections;
        count.set(count.get() - 1);
        let own = &self.account.connections;
        own.set(own.get() - 1);
        if self.account.is_idle() {
            self.accounts.by_user.borrow_mut().remove(&self.account.uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gauge::Held;

    #[test]
    fn one_user_cannot_take_the_places_of_another_and_all_others_not_those_of_root() {
        let accounts = Rc::new(Accounts::new(1 << 20));
        let mut seats: Vec<Seat> = (0..CONNECTIONS_PER_USER_MAX)
            .map(|_| accounts.enter(1000, false).expect("there is room"))
            .collect();
        let full = accounts.enter(1000, false).expect_err("it has enough");
        assert!(
            full.to_string().contains("user 1000 has 1024 connections"),
            "{full}"
        );
        seats.pop();
        seats.push(accounts.enter(1000, false).expect("one was given back"));
        for uid in 1001.. {
            match accounts.enter(uid, false) {
                Ok(seat) => seats.push(seat),
                Err(Full::Everybody { .. }) => break,
                Err(full) => panic!("{full}"),
            }
        }
        for _ in 0..CONNECTIONS_MAX / SHARE_RESERVED {
            seats.push(accounts.enter(0, true).expect("root has places of its own"));
        }
        assert!(accounts.enter(0, true).is_err(), "everything is bounded");
        assert_eq!(seats.len(), CONNECTIONS_MAX);
        drop(seats);
        assert_eq!(accounts.connections.get(), 0);
        assert!(
            accounts.by_user.borrow().is_empty(),
            "nothing is remembered of who is gone"
        );
    }

    #[test]
    fn users_that_hold_all_there_is_do_not_keep_another_from_its_answers() {
        let accounts = Rc::new(Accounts::new(1 << 20));
        let seats: Vec<Seat> = (1..=6)
            .map(|uid| accounts.enter(uid, false).expect("there is room"))
            .collect();
        let hold = |seat: &Seat, bytes| {
            let mut held = Held::new(seat.gauges());
            held.set(bytes);
            held
        };
        let mut all: Vec<Held> = (seats[..5].iter())
            .map(|seat| hold(seat, HELD_BYTES_PER_USER_MAX - 1))
            .collect();
        assert!(
            !seats[0].has_room(),
            "there is no more for those who have so much"
        );
        assert!(seats[5].has_room(), "it holds nothing");
        all.push(hold(&seats[5], HELD_BYTES_OTHERS_MAX / 2 / seats.len()));
        assert!(!seats[5].has_room(), "it has its share");
        assert!(accounts.enter(0, true).expect("there is room").has_room());
        all.clear();
        assert!(seats.iter().all(Seat::has_room));
    }

    #[test]
    fn few_descriptors_make_few_places_and_root_has_some_of_them() {
        let accounts = Rc::new(Accounts::new(1024));
        let mut seats = Vec::new();
        for uid in 1..10_000 {
            seats.extend(accounts.enter(uid % 7 + 1, false));
        }
        assert_eq!(seats.len(), 512 - 128);
        seats.push(accounts.enter(0, true).expect("for root there is one"));
    }

    #[test]
    fn questions_of_one_user_take_turns_and_leave_some_to_others_and_all_to_root() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let accounts = Rc::new(Accounts::new(1 << 20));
            let seat = accounts.enter(1000, false).expect("there is room");
            let mut turns = Vec::new();
            for _ in 0..QUESTIONS_PER_USER_MAX {
                turns.push(seat.turn(Kind::Question).await);
            }
            let full = tokio::task::unconstrained(seat.turn(Kind::Question));
            tokio::pin!(full);
            assert!(futures_ready(full.as_mut()).is_none(), "one more waits");
            let other = accounts.enter(1001, false).expect("there is room");
            turns.push(other.turn(Kind::Question).await);
            let root = accounts.enter(0, true).expect("there is room");
            for _ in 0..1000 {
                turns.push(root.turn(Kind::Question).await);
            }
            turns.clear();
            assert!(futures_ready(full).is_some(), "it was given back");
        });
    }

    #[test]
    fn questions_to_the_history_and_dry_runs_have_places_of_their_own_for_each_user() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let accounts = Rc::new(Accounts::new(1 << 20));
            let mut turns = Vec::new();
            let mut seats = Vec::new();
            // As many users as would take all places that others share.
            for uid in 1000..1100 {
                let seat = accounts.enter(uid, false).expect("there is room");
                for (kind, most) in [
                    (Kind::Past, PAST_PER_USER_MAX),
                    (Kind::DryRun, DRY_RUNS_PER_USER_MAX),
                ] {
                    for _ in 0..most {
                        let one = Box::pin(tokio::task::unconstrained(seat.turn(kind)));
                        turns.push(ready_now(one).expect("it waits for nobody"));
                    }
                    let one = Box::pin(tokio::task::unconstrained(seat.turn(kind)));
                    assert!(ready_now(one).is_none(), "one more of {kind:?} waits");
                }
                let other = Box::pin(tokio::task::unconstrained(seat.turn(Kind::Other)));
                assert!(ready_now(other).is_some());
                seats.push(seat);
            }
            let question = Box::pin(tokio::task::unconstrained(seats[0].turn(Kind::Question)));
            assert!(
                ready_now(question).is_some(),
                "they leave the other questions alone"
            );
        });
    }

    fn ready_now<F: Future>(mut future: std::pin::Pin<Box<F>>) -> Option<F::Output> {
        futures_ready(future.as_mut())
    }

    #[test]
    fn a_user_that_hangs_up_and_comes_back_has_no_more_than_before() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let accounts = Rc::new(Accounts::new(1 << 20));
            let seat = accounts.enter(1000, false).expect("there is room");
            let mut turns = Vec::new();
            for _ in 0..PAST_PER_USER_MAX {
                turns.push(seat.turn(Kind::Past).await);
            }
            drop(seat);
            let seat = accounts.enter(1000, false).expect("there is room");
            let ready = |seat: &Seat| {
                futures_ready(std::pin::pin!(tokio::task::unconstrained(seat.turn(Kind::Past))))
            };
            assert!(ready(&seat).is_none(), "they are under way still");
            turns.clear();
            assert!(ready(&seat).is_some(), "they were given back");
            drop(seat);
            let _other = accounts.enter(1001, false).expect("there is room");
            assert_eq!(accounts.by_user.borrow().len(), 1, "who is gone is forgotten");
        });
    }

    /// What a future gives at once, if it does.
    fn futures_ready<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn bytes_and_requests_are_bounded_for_each_user_and_for_all_others() {
        let accounts = Rc::new(Accounts::new(1 << 20));
        let seat = accounts.enter(1000, false).expect("there is room");
        let waiting = (0..).take_while(|_| seat.begin_to_wait()).count();
        assert_eq!(waiting, WAITING_PER_CONNECTION_MAX);
        seat.end_to_wait();
        assert!(seat.begin_to_wait());
        for gauge in seat.gauges() {
            gauge.add(HELD_BYTES_PER_USER_MAX);
        }
        assert!(!seat.has_room());
        let root = accounts.enter(0, true).expect("there is room");
        let other = accounts.enter(1001, false).expect("there is room");
        assert!(other.has_room() && root.has_room());
        other.gauges()[1].add(HELD_BYTES_OTHERS_MAX - HELD_BYTES_PER_USER_MAX);
        assert!(other.has_room(), "it holds nothing itself");
        other.gauges()[0].add(HELD_BYTES_OTHERS_MAX / 2 / 3);
        assert!(
            !other.has_room(),
            "all others together have enough, and it has its share"
        );
        assert!(root.has_room());
        for gauge in seat.gauges() {
            gauge.subtract(HELD_BYTES_PER_USER_MAX);
        }
        assert!(other.has_room());
    }
}
