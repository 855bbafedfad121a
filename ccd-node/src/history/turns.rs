//! Questions to the history, each on a thread of its own, in turns: those of users that are not trusted share one processor, a slice
//! after the other, by what each user has spent; those of the trusted have another.
//!
//! Called by `mod.rs` with what is asked, and by those who read (`read.rs`, `between.rs`) after every few steps.
//!
//! Each question under way holds its answer in memory, so there are few places. A question begins in one of the places for short ones. It
//! leaves that after a while for one of the places for long ones; if they are taken and another user waits, it is given up and begun anew
//! when there is one. So long questions wait for long ones, and short ones for neither. While others wait for the places for
//! short ones, every other slice is of a question in one of these.
//!
//! Always holds: of one user that is not trusted one question is under way, of all of them a few; one that waits for a place for short
//! ones gets it in bounded time, and none is begun more than twice; a question whose asker has gone ends with its next slice; nothing
//! here waits for a disk.

use super::read::ReadError;
use super::writer::be_nice;
use crate::fair::{Fair, Owner};
use ccd_core::client::ClientToken;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a question goes on before others have their turn.
const SLICE: Duration = Duration::from_millis(5);
/// Questions under way at once of all who are not trusted, each with up to an answer in memory: short ones and long ones.
const SHORT_MAX: usize = 3;
const LONG_MAX: usize = 5;
/// Of the trusted.
const TRUSTED_MAX: usize = 8;
/// A question that was worked on for longer is a long one.
const SHORT_TIME: Duration = Duration::from_millis(100);

/// Does the work, and answers, unless it is given up; without a pace it cannot be done, which is to be answered as well.
type Question = Box<dyn Fn(Option<&Pace>) + Send>;

/// Which places a question of users that are not trusted may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Length {
    Short,
    Long,
}

enum Item {
    Begin(ClientToken, Length, Question),
    /// A question under way waits for its next slice.
    GoOn(ClientToken, Length),
}

/// Those who have the trusted's processor, or the others'.
#[derive(Debug, Default)]
struct Side {
    /// One has its slice.
    is_busy: bool,
    /// Under way.
    short: usize,
    /// Of the trusted, none: theirs all have the same places.
    long: usize,
}

impl Side {
    fn count(&mut self, length: Length) -> &mut usize {
        match length {
            Length::Short => &mut self.short,
            Length::Long => &mut self.long,
        }
    }
}

#[derive(Default)]
struct State {
    /// Whose questions are on their way.
    announced: BTreeSet<ClientToken>,
    waiting: Fair<Item>,
    trusted: Side,
    others: Side,
    /// The next slice is of one in a place for short ones, if others wait for these places.
    is_short_next: bool,
    /// May go on.
    granted: BTreeSet<ClientToken>,
    /// Under way; whether the asker has gone.
    under_way: BTreeMap<ClientToken, bool>,
    closed: bool,
}

impl State {
    fn side(&mut self, owner: Owner) -> &mut Side {
        if owner.is_trusted {
            &mut self.trusted
        } else {
            &mut self.others
        }
    }
}

/// All questions of this node.
#[derive(Clone, Default)]
pub struct Turns(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    bell: Condvar,
    short_time: Duration,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            bell: Condvar::default(),
            short_time: SHORT_TIME,
        }
    }
}

impl std::fmt::Debug for Turns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Turns").finish_non_exhaustive()
    }
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic is done under the lock.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This client's question is on its way here: it may go before that comes.
    pub fn announce(&self, client: ClientToken) {
        self.state().announced.insert(client);
    }

    /// Does this when its turn comes. Dropped undone if the asker, who was announced, goes before.
    pub fn push(&self, owner: Owner, client: ClientToken, work: impl Fn(Option<&Pace>) + Send + 'static) {
        let mut state = self.state();
        if !state.announced.remove(&client) {
            return;
        }
        let item = Item::Begin(client, Length::Short, Box::new(work));
        state.waiting.push(owner, item);
        self.dispatch(&mut state);
    }

    /// Nobody waits for these answers any more.
    pub fn forget(&self, client: ClientToken) {
        let mut state = self.state();
        state.announced.remove(&client);
        state
            .waiting
            .forget(|item| matches!(item, Item::Begin(of, ..) if *of == client));
        if let Some(is_gone) = state.under_way.get_mut(&client) {
            *is_gone = true;
        }
    }

    /// What is under way ends with its slice, and nothing is begun.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.waiting.forget(|item| matches!(item, Item::Begin(..)));
        self.0.bell.notify_all();
    }

    /// Gives the processors to those whose turn it is.
    fn dispatch(&self, state: &mut State) {
        while !state.closed {
            let may = |side: &Side, short_max: usize, item: &Item| match item {
                Item::GoOn(..) => !side.is_busy,
                Item::Begin(_, Length::Short, _) => !side.is_busy && side.short < short_max,
                Item::Begin(_, Length::Long, _) => !side.is_busy && side.long < LONG_MAX,
            };
            let (trusted, others) = (&state.trusted, &state.others);
            let hurries = state.is_short_next
                && !others.is_busy
                && state
                    .waiting
                    .any(|owner, item| !owner.is_trusted && matches!(item, Item::Begin(_, Length::Short, _)))
                && others.short == SHORT_MAX;
            let is_short =
                |owner: Owner, item: &Item| !owner.is_trusted && matches!(item, Item::GoOn(_, Length::Short));
            let next = hurries.then(|| state.waiting.pop_if(is_short)).flatten();
            let next = next.or_else(|| {
                state.waiting.pop_if(|owner, item| match owner.is_trusted {
                    true => may(trusted, TRUSTED_MAX, item),
                    false => may(others, SHORT_MAX, item),
                })
            });
            let Some((owner, item)) = next else {
                return;
            };
            state.side(owner).is_busy = true;
            if !owner.is_trusted {
                state.is_short_next = !state.is_short_next;
            }
            match item {
                Item::GoOn(client, _) => {
                    state.granted.insert(client);
                    self.0.bell.notify_all();
                }
                Item::Begin(client, length, work) => {
                    if let Err((error, work)) = self.begin(owner, client, length, work) {
                        tracing::warn!(%error, "a question to the history is refused: no thread");
                        state.side(owner).is_busy = false;
                        work(None);
                    } else {
                        *state.side(owner).count(length) += 1;
                        state.under_way.insert(client, false);
                    }
                }
            }
        }
    }

    /// The thread takes the lock before it does anything else of this.
    fn begin(
        &self,
        owner: Owner,
        client: ClientToken,
        length: Length,
        work: Question,
    ) -> Result<(), (io::Error, Question)> {
        let work = Arc::new(Mutex::new(Some(work)));
        let take =
            |work: &Mutex<Option<Question>>| work.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (turns, its_work) = (self.clone(), work.clone());
        let started = std::thread::Builder::new()
            .name("ccd-asks".into())
            .spawn(move || {
                // Only what is begun is taken back: the lock is held until that is noted.
                drop(turns.state());
                let pace = Pace {
                    turns: Some(turns),
                    owner,
                    client,
                    begun: Cell::new(Instant::now()),
                    worked: Cell::default(),
                    length: Cell::new(length),
                    is_given_up: Cell::default(),
                    again: Cell::default(),
                };
                if !owner.is_trusted {
                    be_nice();
                }
                if let Some(work) = take(&its_work) {
                    work(Some(&pace));
                    if pace.is_given_up.get() {
                        pace.again.set(Some(work));
                    }
                }
            });
        match started {
            Ok(_) => Ok(()),
            Err(error) => match take(&work) {
                Some(work) => Err((error, work)),
                // Nobody else can have taken it.
                None => Ok(()),
            },
        }
    }
}

/// Of one question: called often by whoever works on it.
pub struct Pace {
    turns: Option<Turns>,
    owner: Owner,
    client: ClientToken,
    /// When its slice began.
    begun: Cell<Instant>,
    /// In the slices before.
    worked: Cell<Duration>,
    length: Cell<Length>,
    /// It has left its place, and is begun anew later.
    is_given_up: Cell<bool>,
    again: Cell<Option<Question>>,
}

impl std::fmt::Debug for Pace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pace")
            .field("client", &self.client)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl Pace {
    /// Of work that takes no turns.
    pub fn free() -> Self {
        Self {
            turns: None,
            owner: Owner {
                uid: 0,
                is_trusted: true,
            },
            client: ClientToken(0),
            begun: Cell::new(Instant::now()),
            worked: Cell::default(),
            length: Cell::new(Length::Short),
            is_given_up: Cell::default(),
            again: Cell::default(),
        }
    }

    /// A step was done. When the slice is over, others have their turn first.
    ///
    /// # Errors
    /// When nobody waits for the answer any more, or it is to be begun anew later.
    pub fn step(&self) -> Result<(), ReadError> {
        let Some(turns) = &self.turns else {
            return Ok(());
        };
        let spent = self.begun.get().elapsed();
        if spent < SLICE {
            return Ok(());
        }
        let mut state = turns.state();
        if self.is_given_up.get() || state.closed || state.under_way.get(&self.client) != Some(&false) {
            return Err(ReadError::Gone);
        }
        self.worked.set(self.worked.get() + spent);
        if !self.keeps_a_place(&mut state, turns.0.short_time) {
            self.is_given_up.set(true);
            return Err(ReadError::Gone);
        }
        state.waiting.spend(self.owner, spent.as_nanos() as u64);
        let rest = Item::GoOn(self.client, self.length.get());
        if self.owner.is_trusted {
            state.waiting.push(self.owner, rest);
        } else {
            state.waiting.push_first(self.owner, rest);
        }
        state.side(self.owner).is_busy = false;
        turns.dispatch(&mut state);
        while !state.granted.remove(&self.client) {
            if state.closed {
                return Err(ReadError::Gone);
            }
            state = turns.0.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let is_gone = state.under_way.get(&self.client) != Some(&false);
        drop(state);
        self.begun.set(Instant::now());
        if is_gone { Err(ReadError::Gone) } else { Ok(()) }
    }
}

impl Pace {
    /// Whether there is a place for it now that it was worked on for so long.
    fn keeps_a_place(&self, state: &mut State, short_time: Duration) -> bool {
        let is_short = self.length.get() == Length::Short;
        if self.owner.is_trusted || !is_short || self.worked.get() <= short_time {
            return true;
        }
        let waits = |length: Length, of_others: bool| {
            state.waiting.any(|owner, item| {
                matches!(item, Item::Begin(_, of, _) if *of == length)
                    && !owner.is_trusted
                    && !(of_others && owner.uid == self.owner.uid)
            })
        };
        if state.others.long < LONG_MAX && !waits(Length::Long, false) {
            state.others.short -= 1;
            state.others.long += 1;
            self.length.set(Length::Long);
            return true;
        }
        state.others.short < SHORT_MAX || !waits(Length::Short, true)
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        let Some(turns) = self.turns.take() else {
            return;
        };
        let mut state = turns.state();
        let spent = self.begun.get().elapsed();
        let is_gone = state.under_way.remove(&self.client) != Some(false);
        state.waiting.spend(self.owner, spent.as_nanos() as u64);
        let side = state.side(self.owner);
        side.is_busy = false;
        *side.count(self.length.get()) -= 1;
        let again = self.again.take().filter(|_| !is_gone && !state.closed);
        if let Some(work) = again {
            let item = Item::Begin(self.client, Length::Long, work);
            state.waiting.push(self.owner, item);
        }
        turns.dispatch(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    const fn of(uid: u32) -> Owner {
        Owner {
            uid,
            is_trusted: uid == 0,
        }
    }

    /// Works for so long in steps, says when it is done, and how.
    fn work(
        took: Duration,
        name: &'static str,
        done: Sender<(&'static str, bool)>,
    ) -> impl Fn(Option<&Pace>) + Send {
        move |pace: Option<&Pace>| {
            let pace = pace.expect("there are threads");
            let mut left = took;
            let step = Duration::from_millis(1);
            let ended = loop {
                if left.is_zero() {
                    break Ok(());
                }
                let begun = Instant::now();
                while begun.elapsed() < step {
                    std::hint::spin_loop();
                }
                left = left.saturating_sub(step);
                if let Err(gone) = pace.step() {
                    break Err(gone);
                }
            };
            if !pace.is_given_up.get() {
                // The test may have ended.
                let _ = done.send((name, ended.is_ok()));
            }
        }
    }

    fn ask(turns: &Turns, owner: Owner, client: ClientToken, work: impl Fn(Option<&Pace>) + Send + 'static) {
        turns.announce(client);
        turns.push(owner, client, work);
    }

    /// Of those who are not trusted.
    fn under_way(turns: &Turns) -> usize {
        let state = turns.state();
        state.others.short + state.others.long
    }

    fn turns_with(short_time: Duration) -> Turns {
        Turns(Arc::new(Shared {
            short_time,
            ..Shared::default()
        }))
    }

    #[test]
    fn long_questions_of_more_users_than_there_are_places_do_not_keep_short_ones_waiting() {
        let turns = turns_with(SLICE * 2);
        let (done, ended) = channel();
        for uid in 1..=20 {
            let long = work(Duration::from_secs(600), "long", done.clone());
            ask(&turns, of(uid), ClientToken(u64::from(uid)), long);
        }
        for uid in 100..110 {
            let token = ClientToken(u64::from(uid));
            ask(&turns, of(uid), token, work(SLICE, "short", done.clone()));
            let first = ended.recv_timeout(Duration::from_secs(60));
            assert_eq!(first, Ok(("short", true)), "user {uid}");
            assert!(under_way(&turns) <= SHORT_MAX + LONG_MAX);
        }
        turns.close();
    }

    #[test]
    fn a_question_that_was_given_up_is_begun_anew_and_answered() {
        let turns = turns_with(SLICE * 2);
        let (done, ended) = channel();
        let users = 3 * (SHORT_MAX + LONG_MAX) as u32;
        for uid in 1..=users {
            let long = work(SLICE * 10, "long", done.clone());
            ask(&turns, of(uid), ClientToken(u64::from(uid)), long);
        }
        turns.forget(ClientToken(u64::from(users)));
        for _ in 1..users {
            assert_eq!(ended.recv_timeout(Duration::from_secs(60)), Ok(("long", true)));
        }
        drop(done);
        // The one that was forgotten was never begun, or ends without an answer.
        assert!(matches!(
            ended.recv_timeout(Duration::from_secs(60)),
            Err(_) | Ok(("long", false))
        ));
        // It is answered before it gives its place back.
        let until = Instant::now() + Duration::from_secs(60);
        while under_way(&turns) != 0 {
            assert!(Instant::now() < until, "a place is not given back");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_question_whose_asker_goes_before_it_comes_is_not_taken() {
        let turns = Turns::default();
        let (done, ended) = channel();
        turns.announce(ClientToken(1));
        turns.forget(ClientToken(1));
        turns.push(of(1), ClientToken(1), work(SLICE, "too late", done.clone()));
        ask(&turns, of(1), ClientToken(2), work(SLICE, "stays", done));
        assert_eq!(ended.recv().unwrap(), ("stays", true));
        assert!(ended.recv().is_err(), "nobody else works");
        assert!(turns.state().announced.is_empty());
    }

    #[test]
    fn a_short_question_of_another_user_and_of_root_does_not_wait_for_long_ones() {
        let turns = Turns::default();
        let (done, ended) = channel();
        let long = Duration::from_secs(20);
        for token in 0..50 {
            ask(
                &turns,
                of(1),
                ClientToken(token),
                work(long, "long", done.clone()),
            );
        }
        ask(
            &turns,
            of(2),
            ClientToken(100),
            work(SLICE * 4, "short", done.clone()),
        );
        ask(&turns, of(0), ClientToken(101), work(SLICE, "root", done.clone()));
        let mut first = [ended.recv().unwrap(), ended.recv().unwrap()];
        first.sort_unstable();
        assert_eq!(first, [("root", true), ("short", true)]);
        // It is answered before it gives its place back.
        let until = Instant::now() + Duration::from_secs(60);
        while under_way(&turns) != 1 {
            assert!(
                Instant::now() < until,
                "more than one of the first user is under way"
            );
            std::thread::yield_now();
        }
        turns.close();
    }

    #[test]
    fn a_question_whose_asker_has_gone_ends_and_one_that_waits_is_never_begun() {
        let turns = Turns::default();
        let (done, ended) = channel();
        let long = Duration::from_secs(60);
        ask(
            &turns,
            of(1),
            ClientToken(1),
            work(long, "under way", done.clone()),
        );
        ask(&turns, of(1), ClientToken(2), work(long, "waits", done.clone()));
        ask(&turns, of(1), ClientToken(3), work(SLICE, "stays", done.clone()));
        turns.forget(ClientToken(2));
        turns.forget(ClientToken(1));
        assert_eq!(ended.recv().unwrap(), ("under way", false));
        assert_eq!(ended.recv().unwrap(), ("stays", true));
        drop(done);
        assert!(ended.recv().is_err(), "nobody else works");
    }

    #[test]
    fn what_is_under_way_of_many_users_is_bounded_and_all_of_them_get_on() {
        let turns = Turns::default();
        let (done, ended) = channel();
        for uid in 1..=30 {
            ask(
                &turns,
                of(uid),
                ClientToken(u64::from(uid)),
                work(SLICE * 2, "done", done.clone()),
            );
            assert!(under_way(&turns) <= SHORT_MAX + LONG_MAX);
        }
        for _ in 0..30 {
            assert_eq!(ended.recv().unwrap(), ("done", true));
        }
        // Root's, too, and a question that is not begun holds up none that is.
        for token in 200..230 {
            ask(
                &turns,
                of(0),
                ClientToken(token),
                work(SLICE * 3, "root", done.clone()),
            );
            assert!(turns.state().trusted.short <= TRUSTED_MAX);
        }
        for _ in 0..30 {
            assert_eq!(ended.recv().unwrap(), ("root", true));
        }
        ask(
            &turns,
            of(1),
            ClientToken(99),
            work(Duration::from_secs(60), "closed", done),
        );
        turns.close();
        assert_eq!(ended.recv().unwrap(), ("closed", false));
    }
}
