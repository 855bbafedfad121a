//! The threads that tell watchers what is past: rows as they stood at their start, and the history on disk. They work in short
//! pieces, one for a watcher in turn, of the user that has cost least so far; one thread has nothing to do but the trusted's, and on
//! the other one all others come before these.
//!
//! Always holds: a piece is asked for when the watcher's socket has taken the one before, so no more than one waits for anyone; of
//! a watcher that has gone none is read.

use super::group::{Sight, encoded, seen};
use super::inlet::{Inlet, Word};
use crate::fair::{Fair, Owner};
use crate::history::trail::{Footing, Found, Step, Trail};
use crate::history::{Effects, Kept, Which};
use ccd_client::wire::{WatchChange, WatchFrom, WatchItem, WatchPlace};
use ccd_core::database::{Database, Difference, Key, Row, View};
use ccd_core::ids::{Generation, Position};
use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A piece ends with the item that makes it so large.
const PIECE_BYTES: usize = 128 << 10;
/// Or after the step that ends behind this time, if few of those that were looked at are seen.
const PIECE_TIME: Duration = Duration::from_millis(5);
/// Rows that are looked at in one piece.
const PIECE_ROWS: usize = 5_000;

/// What was told last: a key, and a row of it.
type LastRow = (Key, Option<Row>);

/// What a watcher still has to be told of the past; goes between the hub and this thread.
#[derive(Debug)]
pub struct Past {
    sight: Sight,
    view: View,
    /// Rows of this version come first, from behind this place.
    rows: Option<(Database, Option<LastRow>)>,
    from: WatchFrom,
    /// Where on the disk it is; not looked for yet.
    footing: Option<Footing>,
    /// Where the node is, and the formats of the watched keys there: as far as they matter.
    head: Position,
    present: BTreeMap<Key, Vec<String>>,
    /// Those where the footing is; not looked for yet.
    formats: Option<BTreeMap<Key, Vec<String>>>,
}

impl Past {
    /// From the rows of a version on.
    pub fn rows(sight: &Sight, version: &Database) -> Self {
        let place = WatchPlace::at(version.position());
        let rows = Some((version.clone(), None));
        Self {
            rows,
            ..Self::since(sight, WatchFrom::Place(place), version)
        }
    }

    /// From some place in the history on. `version` is the present one.
    pub fn since(sight: &Sight, from: WatchFrom, version: &Database) -> Self {
        let view = sight.view();
        let mut present = BTreeMap::new();
        if view.depends_on_formats() {
            let keys = view.keys().into_iter().flatten();
            let formats = keys.filter_map(|key| Some((key.clone(), version.columns(key)?.to_vec())));
            present = formats.collect();
        }
        Self {
            sight: sight.clone(),
            view,
            rows: None,
            from,
            footing: None,
            head: version.position(),
            present,
            formats: None,
        }
    }
}

/// A watcher, as its hub knows it.
pub type Name = u64;

#[derive(Debug)]
struct Ask {
    name: Name,
    past: Box<Past>,
}

/// A piece for a watcher.
#[derive(Debug)]
pub struct Answer {
    pub name: Name,
    pub past: Box<Past>,
    pub bytes: Vec<u8>,
    pub outcome: Outcome,
}

#[derive(Debug)]
pub enum Outcome {
    /// There is more.
    More,
    /// All rows were told; this is where they stood.
    Rows(Position),
    /// What is on the disk was told, up to here.
    End(WatchPlace),
    /// It has to begin again from somewhere that there is.
    NotReached(Generation),
    Failed(io::Error),
}

#[derive(Debug, Default)]
struct Waiting {
    asks: Fair<Ask>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    bell: Condvar,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Pushing and taking leave nothing half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose turn it is; `None` when it is closed.
    fn next(&self, trusted_only: bool) -> Option<(Owner, Ask)> {
        let mut waiting = self.waiting();
        loop {
            if waiting.closed {
                return None;
            }
            let next = match trusted_only {
                true => waiting.asks.pop_trusted(),
                false => waiting.asks.pop_others_first(),
            };
            if next.is_some() {
                return next;
            }
            waiting = self.bell.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The hub's way to the threads. They end when this is dropped.
#[derive(Debug)]
pub struct Desk(Arc<Shared>);

impl Desk {
    pub fn start(trail: Trail, inlet: Arc<Inlet>) -> io::Result<Self> {
        let desk = Self(Arc::default());
        for (name, trusted_only) in [("ccd-watch-past", false), ("ccd-watch-root", true)] {
            let (trail, inlet, shared) = (trail.clone(), inlet.clone(), desk.0.clone());
            std::thread::Builder::new()
                .name(name.into())
                .spawn(move || run(&trail, &shared, trusted_only, &inlet))?;
        }
        Ok(desk)
    }

    /// At most one for each watcher.
    pub fn ask(&self, owner: Owner, name: Name, past: Box<Past>) {
        self.0.waiting().asks.push(owner, Ask { name, past });
        // Either may be the one that serves it.
        self.0.bell.notify_all();
    }

    /// The watcher has gone.
    pub fn forget(&self, name: Name) {
        self.0.waiting().asks.forget(|ask| ask.name == name);
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.0.waiting().closed = true;
        self.0.bell.notify_all();
    }
}

fn run(trail: &Trail, shared: &Shared, trusted_only: bool, inlet: &Inlet) {
    crate::history::be_nice();
    while let Some((owner, Ask { name, mut past })) = shared.next(trusted_only) {
        let mut piece = Piece::default();
        let outcome = match past.piece(trail, &mut piece) {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Failed(error),
        };
        let cost = piece.begun.elapsed().as_nanos() as u64;
        shared.waiting().asks.spend(owner, cost);
        let bytes = piece.bytes;
        inlet.push(Word::Answer(Box::new(Answer {
            name,
            past,
            bytes,
            outcome,
        })));
    }
}

#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    begun: Instant,
}

impl Default for Piece {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            begun: Instant::now(),
        }
    }
}

impl Piece {
    fn tell(&mut self, item: WatchItem) {
        self.bytes.extend(encoded(item));
    }

    fn is_full(&self) -> bool {
        self.bytes.len() >= PIECE_BYTES || self.begun.elapsed() >= PIECE_TIME
    }
}

impl Past {
    fn piece(&mut self, trail: &Trail, piece: &mut Piece) -> io::Result<Outcome> {
        if let Some((version, after)) = self.rows.take() {
            return Ok(self.rows_of(version, after, piece));
        }
        let mut footing = match self.footing {
            Some(footing) => footing,
            None => match trail.locate(&self.from, self.head)? {
                Found::At(footing) => footing,
                Found::NotReached { newest } => return Ok(Outcome::NotReached(newest)),
                Found::Missed(after, footing) => {
                    let up_to = footing.position;
                    piece.tell(WatchItem::Missed { after, up_to });
                    footing
                }
                Found::Diverged(after, footing) => {
                    let up_to = footing.position;
                    piece.tell(WatchItem::Diverged { after, up_to });
                    footing
                }
            },
        };
        if self.formats.is_none() {
            self.formats = Some(self.formats_at(trail, footing)?);
        }
        // What says which keys are seen is used while the steps are: it is another view of the same.
        let sight = self.sight.view();
        let names = |key: &Key| sight.names(key);
        let at_end = trail.follow_which(&mut footing, Which::Keys(&names), |step| {
            self.step(step, piece);
            if piece.is_full() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        self.footing = Some(footing);
        if at_end {
            let round = footing.position;
            let seen = footing.seen;
            return Ok(Outcome::End(WatchPlace { seen, round }));
        }
        Ok(Outcome::More)
    }

    fn rows_of(&mut self, version: Database, mut after: Option<LastRow>, piece: &mut Piece) -> Outcome {
        let (mut formats, mut rows) = (Vec::new(), Vec::new());
        let (mut bytes, mut is_full) = (0, false);
        let before = after.clone();
        let stopped = self
            .view
            .walk(&version, before.as_ref(), PIECE_ROWS, |key, columns, row| {
                bytes += 64
                    + row
                        .as_ref()
                        .map_or(0, |row| row.values.iter().map(String::len).sum());
                after = Some((key.clone(), row.clone()));
                match row {
                    None => formats.push((key.clone(), columns.to_vec())),
                    Some(row) => rows.push(row),
                }
                is_full = bytes >= PIECE_BYTES;
                if is_full {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
        if !(formats.is_empty() && rows.is_empty()) {
            piece.tell(WatchItem::Rows { formats, rows });
        }
        if is_full || stopped.is_some() {
            self.rows = Some((version, stopped.or(after)));
            return Outcome::More;
        }
        let position = version.position();
        piece.tell(WatchItem::AllRows { position });
        Outcome::Rows(position)
    }

    fn step(&mut self, step: Step, piece: &mut Piece) {
        let item = match step {
            Step::Missed { after, up_to } => {
                // What became of the formats in between is not known; the present ones are the best guess.
                self.formats = Some(self.present.clone());
                Some(WatchItem::Missed { after, up_to })
            }
            Step::Diverged { after, up_to } => {
                self.formats = Some(self.present.clone());
                Some(WatchItem::Diverged { after, up_to })
            }
            Step::Round { next, updates } => {
                let changes = updates.iter();
                let changes: Vec<WatchChange> = changes
                    .filter_map(|(generation, kept)| self.change(*generation, kept))
                    .collect();
                let round = next;
                (!changes.is_empty()).then_some(WatchItem::Round { round, changes })
            }
        };
        if let Some(item) = item {
            piece.tell(item);
        }
    }

    fn change(&mut self, generation: Generation, kept: &Kept) -> Option<WatchChange> {
        let mut formats = self.formats.take().unwrap_or_default();
        let change = seen(&mut self.view, generation, kept, |key| {
            formats.get(key).map(Vec::as_slice)
        });
        if let Effects::Rows(effects) = &kept.effects
            && self.view.depends_on_formats()
        {
            note_formats(&mut formats, &self.view, effects);
        }
        self.formats = Some(formats);
        change
    }

    /// The formats of the watched keys at a place: what the first later change of one came from, or else what it is now.
    fn formats_at(&self, trail: &Trail, mut footing: Footing) -> io::Result<BTreeMap<Key, Vec<String>>> {
        let mut formats = self.present.clone();
        if !self.view.depends_on_formats() {
            return Ok(formats);
        }
        let mut known: Vec<Key> = Vec::new();
        let count = self.view.keys().into_iter().flatten().count();
        let names = |key: &Key| self.view.names(key);
        trail.follow_which(&mut footing, Which::Formats(&names), |step| {
            let updates = match step {
                Step::Round { updates, .. } => updates,
                // Beyond it nothing is known of what is before it.
                Step::Missed { .. } | Step::Diverged { .. } => return ControlFlow::Break(()),
            };
            for (_, kept) in updates {
                let Effects::Rows(effects) = &kept.effects else {
                    continue;
                };
                for key in self.view.keys().into_iter().flatten() {
                    if known.contains(key) {
                        continue;
                    }
                    match effects.columns_before(key) {
                        None => continue,
                        Some(Some(columns)) => {
                            formats.insert(key.clone(), columns.to_vec());
                        }
                        Some(None) => {
                            formats.remove(key);
                        }
                    }
                    known.push(key.clone());
                }
            }
            if known.len() < count {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        Ok(formats)
    }
}

fn note_formats(formats: &mut BTreeMap<Key, Vec<String>>, view: &View, effects: &Difference) {
    for (key, _) in &effects.formats_removed {
        formats.remove(key);
    }
    let added = effects.formats_added.iter().map(|(key, columns)| (key, columns));
    let changed = effects
        .formats_changed
        .iter()
        .map(|change| (&change.key, &change.to));
    for (key, columns) in added.chain(changed).filter(|(key, _)| view.names(key)) {
        formats.insert(key.clone(), columns.clone());
    }
}
