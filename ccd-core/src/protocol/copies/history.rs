//! The last records of this copy: what a node that was away needs to catch up without a whole image.

use crate::database::{Record, RecordBody};
use crate::ids::{Generation, Position};
use crate::replica::RECORDS_LOADED_MAX;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// How many records are kept at most.
const RECORDS_MAX: usize = RECORDS_LOADED_MAX;

/// How many updates the kept records hold at most; bounds the memory together with the limit on a row.
const UPDATES_MAX: usize = 16384;

/// How much text to be loaded the kept records hold at most, but for the newest: each is as large as a database may be.
const LOADED_BYTES_MAX: usize = 128 << 20;

/// The records that led to a head, oldest first, without gaps.
#[derive(Debug, Default)]
pub(in crate::protocol) struct History {
    records: VecDeque<Arc<Record>>,
    updates_count: usize,
    loaded_bytes: usize,
}

/// Whether two positions have the same content: a configuration that opens changes the epoch alone.
pub(in crate::protocol) fn is_same(one: Position, other: Position) -> bool {
    one.lineage == other.lineage && one.stamp.generation == other.stamp.generation
}

fn updates_in(record: &Record) -> usize {
    match &record.body {
        RecordBody::Updates { updates, .. } => updates.iter().map(|update| update.ops.len().max(1)).sum(),
        RecordBody::Rollback | RecordBody::Open | RecordBody::OpenAll => 1,
    }
}

impl History {
    /// Adds the record that was appended. One that does not continue the newest starts the history anew.
    pub fn push(&mut self, record: Arc<Record>) {
        if self.records.back().is_some_and(|last| last.next != record.prev) {
            self.clear();
        }
        self.updates_count = self.updates_count.saturating_add(updates_in(&record));
        self.loaded_bytes = self.loaded_bytes.saturating_add(record.loaded_bytes());
        self.records.push_back(record);
        while self.records.len() > RECORDS_MAX || self.is_heavy() && self.records.len() > 1 {
            if let Some(oldest) = self.records.pop_front() {
                self.forget(&oldest);
            }
        }
    }

    fn is_heavy(&self) -> bool {
        self.updates_count > UPDATES_MAX || self.loaded_bytes > LOADED_BYTES_MAX
    }

    /// Takes back the newest record, which was rolled back.
    pub fn pop(&mut self) -> Option<Arc<Record>> {
        let record = self.records.pop_back()?;
        self.forget(&record);
        Some(record)
    }

    /// It is not counted any more.
    fn forget(&mut self, record: &Record) {
        self.updates_count = self.updates_count.saturating_sub(updates_in(record));
        self.loaded_bytes = self.loaded_bytes.saturating_sub(record.loaded_bytes());
    }

    /// Takes back what led on from `position`.
    pub fn return_to(&mut self, position: Position) {
        while self.records.back().is_some_and(|last| last.next != position) {
            self.pop();
        }
    }

    pub fn clear(&mut self) {
        self.records.clear();
        self.updates_count = 0;
        self.loaded_bytes = 0;
    }

    /// The records from `have` to `until`, or `None` if `have` is not known to lie on the way there.
    pub fn between(&self, have: Position, until: Position) -> Option<Vec<Arc<Record>>> {
        if have == until {
            return Some(Vec::new());
        }
        let start = self.records.iter().position(|record| record.prev == have)?;
        let mut tail = Vec::new();
        for record in self.records.iter().skip(start) {
            tail.push(Arc::clone(record));
            if record.next == until {
                return Some(tail);
            }
        }
        None
    }

    /// As [`History::between`], looked for from the newest, and whatever the epoch in which the content at `have` was opened.
    pub fn since(&self, have: Position, until: Position) -> Option<Vec<Arc<Record>>> {
        let end = self.records.iter().rposition(|record| record.next == until)?;
        // What opened a configuration on that content changes nothing: the last record that starts from it is enough.
        let up_to_end = self.records.range(..=end);
        let start = up_to_end
            .into_iter()
            .rposition(|record| is_same(record.prev, have))?;
        Some(self.records.range(start..=end).cloned().collect())
    }

    /// Whether at most so many records with so many bytes lead from `have` to `until`.
    pub fn is_near(&self, have: Position, until: Position, records_max: usize, bytes_max: usize) -> bool {
        if have == until {
            return true;
        }
        let mut bytes = 0_usize;
        (self.records.iter().rev())
            .skip_while(|record| record.next != until)
            .take(records_max)
            .take_while(|record| {
                bytes = bytes.saturating_add(record.bytes_max());
                bytes <= bytes_max
            })
            .any(|record| record.prev == have)
    }

    /// Whether this history went through the content at `position`, whatever the epoch in which it was opened.
    pub fn went_through(&self, position: Position) -> bool {
        self.records
            .iter()
            .any(|record| is_same(record.prev, position) || is_same(record.next, position))
    }

    /// Where the round led that made this generation, if it is one of those kept.
    pub fn round_of(&self, generation: Generation) -> Option<Position> {
        let round = self.records.iter().find(|record| {
            record.prev.stamp.generation < generation && generation <= record.next.stamp.generation
        })?;
        let end = round.next.stamp.generation;
        // A configuration that opened on it is what made it certain, if its own epoch ended with it.
        let last = self
            .records
            .iter()
            .rev()
            .find(|record| record.next.stamp.generation == end);
        last.map(|record| record.next)
    }

    /// Where the oldest record starts from.
    pub fn begins(&self) -> Option<Position> {
        self.records.front().map(|oldest| oldest.prev)
    }

    /// Oldest first.
    pub fn records(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.records.iter()
    }

    /// Whether `position` is one that this history went through.
    pub fn has(&self, position: Position) -> bool {
        self.records
            .iter()
            .any(|record| record.prev == position || record.next == position)
    }
}
