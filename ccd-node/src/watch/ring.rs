//! What was told last, once for all watchers: as much as fits.

use crate::history::trail::{Step, is_same};
use crate::history::{Effects, Kept, Told};
use ccd_core::database::{Database, Key};
use ccd_core::ids::{Generation, Position};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What was told last and is kept for those who read slowly. More, and they read it from the disk.
const RING_BYTES_MAX: usize = 8 << 20;
const RING_ENTRIES_MAX: usize = 4_096;
/// Most bytes of the rows of one update; a larger one is told with their number alone, as the history keeps it.
const ROWS_BYTES_MAX: usize = 16 << 20;
/// What an update takes besides its rows.
const UPDATE_BYTES: usize = 256;

/// The columns that a key had.
pub type Columns = Option<Arc<[String]>>;

/// One thing that was told.
#[derive(Debug)]
pub struct Entry {
    pub what: What,
    /// Where it leads.
    pub next: Position,
    bytes: usize,
    /// For those groups that it was encoded for: nothing, if they see nothing of it.
    pub encoded: Vec<(usize, Option<Arc<[u8]>>)>,
}

#[derive(Debug)]
pub enum What {
    Round(Vec<Update>),
    Missed { after: Generation },
    Diverged { after: Generation },
    NotServing(String),
    Serving,
}

#[derive(Debug)]
pub struct Update {
    pub generation: Generation,
    pub kept: Kept,
    /// Columns of the keys that it changed, before it.
    pub before: BTreeMap<Key, Columns>,
}

#[derive(Debug, Default)]
pub struct Ring {
    entries: VecDeque<Entry>,
    /// Number of the first entry.
    first: u64,
    /// Where the first entry begins.
    base: Position,
    bytes: usize,
}

impl Ring {
    /// Empty, at this position. Numbers go on, so that no watcher takes a new entry for an old one.
    pub fn reset(&mut self, position: Position) {
        self.first += self.entries.len() as u64 + 1;
        self.entries.clear();
        self.bytes = 0;
        self.base = position;
    }

    pub fn first(&self) -> u64 {
        self.first
    }

    /// Where the first entry begins.
    pub fn base(&self) -> Position {
        self.base
    }

    /// The number that the next entry will have.
    pub fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    pub fn head(&self) -> Position {
        self.entries.back().map_or(self.base, |entry| entry.next)
    }

    pub fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(index)
    }

    /// The number of the entry that comes after this place; `None` if the ring does not reach back to it.
    pub fn after(&self, position: Position) -> Option<u64> {
        let steps = self.entries.iter().rev();
        let mut number = self.end();
        for entry in steps {
            if is_same(entry.next, position) {
                return Some(number);
            }
            number -= 1;
        }
        is_same(self.base, position).then_some(self.first)
    }

    /// Returns about how much memory it takes.
    pub fn push(&mut self, what: What, next: Position) -> usize {
        let bytes = match &what {
            What::Round(updates) => updates.iter().map(|update| weight(&update.kept)).sum(),
            _ => UPDATE_BYTES,
        };
        self.bytes += bytes;
        self.entries.push_back(Entry {
            what,
            next,
            bytes,
            encoded: Vec::new(),
        });
        bytes
    }

    /// Drops the oldest, as long as there is too much.
    pub fn trim(&mut self) {
        while self.bytes > RING_BYTES_MAX || self.entries.len() > RING_ENTRIES_MAX {
            let Some(oldest) = self.entries.pop_front() else {
                return;
            };
            self.bytes -= oldest.bytes;
            self.base = oldest.next;
            self.first += 1;
        }
    }

    /// Adds what led from one version to another; `version` is the one that was told last. Returns about how much memory it takes.
    pub fn tell(&mut self, told: Told, version: &Database) -> usize {
        let formats = told.before.as_ref().unwrap_or(version);
        let mut changed: BTreeMap<Key, Columns> = BTreeMap::new();
        let mut bytes = 0;
        for step in told.steps {
            bytes += match step {
                Step::Round { next, updates } => {
                    let updates = updates.into_iter().map(|(generation, mut kept)| {
                        bound(&mut kept);
                        let before = formats_before(&kept, formats, &mut changed);
                        Update {
                            generation,
                            kept,
                            before,
                        }
                    });
                    let updates = updates.collect();
                    self.push(What::Round(updates), next)
                }
                Step::Missed { after, up_to } => self.push(What::Missed { after }, up_to),
                Step::Diverged { after, up_to } => self.push(What::Diverged { after }, up_to),
            };
        }
        bytes
    }
}

/// The columns that each key of an update had before it. `changed`: what earlier updates made of them.
fn formats_before(
    kept: &Kept,
    formats: &Database,
    changed: &mut BTreeMap<Key, Columns>,
) -> BTreeMap<Key, Columns> {
    let Effects::Rows(effects) = &kept.effects else {
        return BTreeMap::new();
    };
    let rows = effects.rows_removed.iter().chain(&effects.rows_added);
    let mut before: BTreeMap<Key, Columns> = BTreeMap::new();
    for row in rows {
        if !before.contains_key(&row.key) {
            let known = changed.get(&row.key).cloned();
            let columns = known.unwrap_or_else(|| formats.shared_columns(&row.key));
            before.insert(row.key.clone(), columns);
        }
    }
    for change in &effects.formats_changed {
        changed.insert(change.key.clone(), Some(change.to.as_slice().into()));
    }
    for (key, columns) in &effects.formats_added {
        changed.insert(key.clone(), Some(columns.as_slice().into()));
    }
    for (key, _) in &effects.formats_removed {
        changed.insert(key.clone(), None);
    }
    before
}

/// About how much memory an update takes.
fn weight(kept: &Kept) -> usize {
    let Effects::Rows(effects) = &kept.effects else {
        return UPDATE_BYTES;
    };
    let rows = effects.rows_removed.iter().chain(&effects.rows_added);
    let values = rows.map(|row| 64 + row.values.iter().map(|value| 24 + value.len()).sum::<usize>());
    UPDATE_BYTES + values.sum::<usize>()
}

fn bound(kept: &mut Kept) {
    if weight(kept) > ROWS_BYTES_MAX {
        kept.effects = Effects::Counts(kept.effects.keys());
    }
}
