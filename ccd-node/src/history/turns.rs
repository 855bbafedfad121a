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
/// Most questions of the trusted at a time.
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
    /// None for the trusted: theirs all have the same places.
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

/// The pace of one question: called often by the thread that works on it.
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
    /// The pace of work that takes no turns.
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
mod tests;
