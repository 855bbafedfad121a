//! How an update changes a database: preconditions, then each operation in order, all or nothing.
//!
//! The master admits; every replica applies the record that came of it, by the same code but for the preconditions,
//! so that all copies come out equal.

use super::database::Table;
use super::error::{ApplyError, BrokenRow, BrokenRows, OpError, RowError};
use super::lines::{Lines, Measure};
use super::pattern::Matcher;
use super::row::{check_column_count, format_text};
use super::update::{OPERATIONS_MAX, RECORD_BATCH_BYTES_MAX};
use super::{Content, Database, Key, Op, Pattern, Precondition, Record, RecordBody, Row, Update};
use crate::configuration::RestoreFlag;
use crate::ids::{Position, RequestId, Stamp};
use crate::synchronization;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use rpds::RedBlackTreeMapSync;

/// Most values that the patterns of one update are compared with, unless it has a single pattern, which may examine each row of
/// its key. A removal is evaluated on every member, while updates wait.
pub const EXAMINED_MAX: u64 = 4_000_000;

/// Most rows that are named in place of patterns.
const NAMED_ROWS_MAX: usize = 256;
/// Between two looks at how many they are, as [`Scan::go_on`](super::Scan::go_on) counts.
const NAMED_STEP: u64 = 100_000;

/// The rows that say which synchronization commands there are, as they were in some version.
#[derive(Clone, Debug)]
pub(crate) struct SyncRows(Option<Lines>);

impl SyncRows {
    pub fn of(database: &Database) -> Self {
        let table = database.tables.get(synchronization::SYNC_KEY);
        Self(table.map(|table| table.lines.clone()))
    }

    /// They are the same in this version, too.
    pub fn are_those_of(&self, database: &Database) -> bool {
        match (&self.0, Self::of(database).0) {
            (None, None) => true,
            (Some(then), Some(now)) => then.is_same(&now),
            _ => false,
        }
    }
}

/// Of one operation, as [`Database::work_of`] counts.
const OP_WORK: u64 = 8;

impl Database {
    /// Checks an update against this version (preconditions, formats, uniqueness, limits) and applies it. The result has
    /// the next generation; `epoch` is not changed, the lineage not yet advanced: `Record::updates` does that. The
    /// number is how many rows were removed.
    pub fn admit(&self, update: &Update) -> Result<(Self, u64), OpError> {
        let got = update.ops.len().max(update.preconditions.len());
        if got > OPERATIONS_MAX {
            return Err(OpError::TooManyOperations {
                limit: OPERATIONS_MAX as u64,
                got: got as u64,
            });
        }
        // What is loaded is bounded by the room of the replicas, and travels in pieces.
        let got = update.encoded_bytes_max().saturating_sub(update.loaded_bytes());
        if got > RECORD_BATCH_BYTES_MAX {
            return Err(OpError::TransactionTooLarge {
                limit: RECORD_BATCH_BYTES_MAX as u64,
                got: got as u64,
            });
        }
        for precondition in &update.preconditions {
            self.check_precondition(precondition)?;
        }
        self.check_patterns(&update.ops)?;
        let admitted = self.with_update(update)?;
        if synchronization::touches_commands(&update.ops) {
            let refuse = |(row, why)| OpError::SyncRow { row, why };
            synchronization::check_commands(&admitted.0).map_err(refuse)?;
        }
        Ok(admitted)
    }

    /// Applies a record: `Updates` without checking preconditions again, `Open` by taking the new epoch. `Rollback` is
    /// not applied here: who keeps the shadow goes back to it.
    pub fn apply(&self, record: &Record) -> Result<Self, ApplyError> {
        if record.prev != self.position {
            return Err(ApplyError::NotNext {
                expected: record.prev,
                got: self.position,
            });
        }
        let mut next = self.clone();
        match &record.body {
            RecordBody::Updates { updates, members } => {
                for update in updates {
                    next = next.with_update(update).map_err(ApplyError::Op)?.0;
                }
                next.members = *members;
            }
            RecordBody::Open => {}
            RecordBody::OpenAll => next.restore = RestoreFlag::AllActive,
            RecordBody::Rollback => return Err(ApplyError::IsRollback),
        }
        let reached = Stamp {
            epoch: record.next.stamp.epoch,
            ..next.position.stamp
        };
        if reached != record.next.stamp {
            let got = Position {
                stamp: reached,
                lineage: record.next.lineage,
            };
            return Err(ApplyError::WrongEnd {
                expected: record.next,
                got,
            });
        }
        next.position = record.next;
        Ok(next)
    }

    fn check_precondition(&self, precondition: &Precondition) -> Result<(), OpError> {
        let holds = match precondition {
            Precondition::Generation(generation) => *generation == self.position.stamp.generation,
            Precondition::RowPresent(row) => self.contains(row),
            Precondition::RowAbsent(row) => !self.contains(row),
        };
        if holds {
            return Ok(());
        }
        let generation = self.position.stamp.generation;
        Err(OpError::PreconditionFailed {
            precondition: Box::new(precondition.clone()),
            generation,
        })
    }

    /// The patterns of the operations, and how much they make the members examine.
    fn check_patterns(&self, ops: &[Op]) -> Result<(), OpError> {
        let mut patterns = 0_usize;
        for op in ops {
            if let Op::Remove(pattern) = op {
                pattern.check()?;
                patterns = patterns.saturating_add(1);
            }
        }
        if patterns > 1 {
            let got = self.examined_by(ops, EXAMINED_MAX);
            if got > EXAMINED_MAX {
                let limit = EXAMINED_MAX;
                return Err(OpError::TooMuchExamined { limit, got });
            }
        }
        Ok(())
    }

    /// About how many values the patterns of these operations are compared with; not counted further than a little beyond `enough`.
    pub(crate) fn examined_by(&self, ops: &[Op], enough: u64) -> u64 {
        let mut examined = 0_u64;
        let mut added = 0_u64;
        for op in ops {
            let pattern = match op {
                Op::Remove(pattern) => pattern,
                Op::Add(_) => {
                    added = added.saturating_add(1);
                    continue;
                }
                _ => continue,
            };
            // What the pattern is refused for costs nothing.
            let Some((key, table)) = self.tables.get_key_value(&pattern.key) else {
                examined = examined.saturating_add(added);
                continue;
            };
            let Ok(matcher) = Matcher::new(pattern, &table.columns) else {
                continue;
            };
            let (prefix, whole) = matcher.prefix();
            let rows = if whole {
                1
            } else if prefix.len() > key.as_str().len().saturating_add(1) {
                let most = (enough.saturating_sub(examined) as usize).saturating_add(1);
                added.saturating_add(table.lines.starting_with(prefix).take(most).count() as u64)
            } else if matcher.takes_all() {
                1
            } else {
                added.saturating_add(table.lines.measure().rows)
            };
            let compared = (matcher.open_columns() as u64).saturating_add(1);
            examined = examined.saturating_add(rows.saturating_mul(compared));
            if examined > enough {
                break;
            }
        }
        examined
    }

    /// About how much it is to run these operations, in values that are compared with a pattern; an operation counts as eight, as
    /// does a row that is loaded. Not counted further than a little beyond `enough`.
    pub(crate) fn work_of(&self, ops: &[Op], enough: u64) -> u64 {
        let mut work = OP_WORK.saturating_mul(ops.len() as u64);
        for op in ops {
            if work > enough {
                return work;
            }
            // What goes is compared with what comes, line by line.
            let compared = match op {
                Op::ReplaceKey { content, .. } | Op::ReplaceAll { content, .. } => {
                    let loaded = OP_WORK.saturating_mul(content.rows.len() as u64);
                    self.measure.rows.saturating_add(loaded)
                }
                Op::LoadKey { text, .. } | Op::LoadAll { text, .. } => {
                    self.measure.rows.saturating_add(text.row_count())
                }
                _ => 0,
            };
            work = work.saturating_add(compared);
        }
        work.saturating_add(self.examined_by(ops, enough.saturating_sub(work)))
    }

    /// The same update with the rows in place of its patterns, if they are few: whoever applies it later need not look for them.
    /// `None` if they are many, or the update is refused.
    pub(crate) fn with_rows_named(&self, update: &Update) -> Option<Update> {
        if update.ops.len() > NAMED_ROWS_MAX || self.check_patterns(&update.ops).is_err() {
            return None;
        }
        let mut at = self.clone();
        let mut ops = Vec::new();
        for op in &update.ops {
            let first = ops.len();
            match op {
                Op::Remove(pattern) => {
                    let mut scan = at.scan(pattern).ok()?;
                    while !scan.go_on(NAMED_STEP, |row| ops.push(Op::Remove(Pattern::exact(&row))))
                        && ops.len() <= NAMED_ROWS_MAX
                    {}
                }
                other => ops.push(other.clone()),
            }
            if ops.len() > NAMED_ROWS_MAX || ops.len() == first {
                return None;
            }
            for op in ops.iter().skip(first) {
                at.run(op).ok()?;
            }
        }
        let mut named = update.clone();
        named.ops = ops;
        Some(named)
    }

    /// This version with an update that was admitted to `base`, where it led to `after`: `None` if something that it depends on is
    /// not as it was there.
    pub(crate) fn with_moved(&self, base: &Self, after: &Self, update: &Update) -> Option<Self> {
        let mut keys: BTreeSet<&str> = BTreeSet::from([synchronization::SYNC_KEY]);
        let mut restores = false;
        for op in &update.ops {
            keys.insert(match op {
                Op::Add(row) => row.key.as_str(),
                Op::Remove(pattern) => pattern.key.as_str(),
                Op::Format { key, .. } | Op::RemoveFormat(key) => key.as_str(),
                Op::ReplaceKey { key, .. } | Op::LoadKey { key, .. } => {
                    restores = true;
                    key.as_str()
                }
                Op::Purify => continue,
                Op::ReplaceAll { .. } | Op::LoadAll { .. } => return None,
            });
        }
        for precondition in &update.preconditions {
            match precondition {
                Precondition::Generation(_) => return None,
                Precondition::RowPresent(row) | Precondition::RowAbsent(row) => {
                    keys.insert(row.key.as_str());
                }
            }
        }
        let is_as_it_was = |key: &&str| match (self.tables.get(*key), base.tables.get(*key)) {
            (None, None) => true,
            (Some(now), Some(then)) => now.columns == then.columns && now.lines.is_same(&then.lines),
            _ => false,
        };
        if !keys.iter().all(is_as_it_was) || self.applied(update.request).is_some() {
            return None;
        }
        let mut next = self.clone();
        for key in keys {
            let found = after
                .tables
                .get_key_value(key)
                .or_else(|| self.tables.get_key_value(key));
            if let Some((key, _)) = found {
                next.put_table(key, after.tables.get(key).cloned());
            }
        }
        if restores {
            next.restore = after.restore;
        }
        let generation = self.position.stamp.generation.next();
        next.position.stamp.generation = generation;
        next.date = update.date;
        next.outcomes.remember(update.request, generation);
        Some(next)
    }

    /// All of an update but its preconditions.
    fn with_update(&self, update: &Update) -> Result<(Self, u64), OpError> {
        let request = update.request;
        match self.applied(request).filter(|_| request != RequestId::default()) {
            None => {}
            Some(Ok(generation)) => return Err(OpError::AlreadyApplied { request, generation }),
            Some(Err(generation)) => return Err(OpError::OtherContent { request, generation }),
        }
        let mut next = self.clone();
        let mut removed = 0_u64;
        for op in &update.ops {
            removed = removed.saturating_add(next.run(op)?);
        }
        let generation = self.position.stamp.generation.next();
        next.position.stamp.generation = generation;
        next.date = update.date;
        next.outcomes.remember(update.request, generation);
        Ok((next, removed))
    }

    /// Runs one operation on a copy that nobody sees unless all operations succeed.
    pub(super) fn run(&mut self, op: &Op) -> Result<u64, OpError> {
        match op {
            Op::Add(row) => self.add(row).map(|()| 0),
            Op::Remove(pattern) => self.remove(pattern),
            Op::Format { key, columns } => self.format(key, columns).map(|()| 0),
            Op::RemoveFormat(key) => self.remove_format(key).map(|()| 0),
            Op::ReplaceKey {
                key,
                content,
                restore,
            } => {
                let removed = self.replace_key(key, content)?;
                self.restore = *restore;
                Ok(removed)
            }
            Op::ReplaceAll { content, restore } => {
                let tables = tables_of(content, None).map_err(OpError::BrokenContent)?;
                let removed = self.rows_missing_in(&tables);
                self.set_tables(tables);
                self.restore = *restore;
                Ok(removed)
            }
            // No row that breaks its format ever gets in: adding, restoring and decoding refuse it. What is left
            // to drop is nothing; files are where broken rows live (see purify.rs).
            Op::Purify => Ok(0),
            Op::LoadAll { text, restore } => {
                let removed = self.rows_missing_in(text.tables());
                self.set_tables(text.tables().clone());
                self.restore = *restore;
                Ok(removed)
            }
            Op::LoadKey { key, text, restore } => {
                let removed = self.put_key(key, text.tables().get(key))?;
                self.restore = *restore;
                Ok(removed)
            }
        }
    }

    fn add(&mut self, row: &Row) -> Result<(), OpError> {
        let line = checked_line(row, &self.table(&row.key)?.columns)?;
        let table = self
            .tables
            .get_mut(&row.key)
            .ok_or_else(|| OpError::NoSuchKey(row.key.clone()))?;
        if !table.lines.insert(&line) {
            return Err(OpError::RowExists {
                row: Box::new(row.clone()),
            });
        }
        self.measure.add(Measure::of_line(&line));
        Ok(())
    }

    fn remove(&mut self, pattern: &Pattern) -> Result<u64, OpError> {
        let table = self.table(&pattern.key)?;
        let matcher = Matcher::new(pattern, &table.columns)?;
        let mut lines = table.lines.clone();
        let whole_key = pattern.key.as_str().len().saturating_add(1);
        let removed = if matcher.takes_all() && matcher.prefix().0.len() == whole_key {
            // Rows of a key have nothing else in common.
            core::mem::take(&mut lines).measure().rows
        } else {
            let (prefix, whole) = matcher.prefix();
            let most = if whole { 1 } else { usize::MAX };
            lines.remove_matching(prefix, most, |line| matcher.matches(line))
        };
        if removed == 0 {
            return Err(OpError::NoSuchRow {
                pattern: Box::new(pattern.clone()),
            });
        }
        self.measure.subtract(table.lines.measure());
        self.measure.add(lines.measure());
        if let Some(table) = self.tables.get_mut(&pattern.key) {
            table.lines = lines;
        }
        Ok(removed)
    }

    fn format(&mut self, key: &Key, columns: &[String]) -> Result<(), OpError> {
        if let Some(table) = self.tables.get(key) {
            if *table.columns == *columns {
                return Ok(());
            }
            check_column_count(key, columns.len())?;
            let (expected, got) = (table.columns.to_vec(), columns.to_vec());
            return Err(OpError::KeyExists {
                key: key.clone(),
                expected,
                got,
            });
        }
        let table = Table::new(key, columns)?;
        self.put_table(key, Some(table));
        Ok(())
    }

    fn remove_format(&mut self, key: &Key) -> Result<(), OpError> {
        let rows = self.table(key)?.lines.measure().rows;
        if rows > 0 {
            return Err(OpError::KeyNotEmpty {
                key: key.clone(),
                rows,
            });
        }
        self.put_table(key, None);
        Ok(())
    }

    /// What the content holds of other keys is not looked at.
    fn replace_key(&mut self, key: &Key, content: &Content) -> Result<u64, OpError> {
        let tables = tables_of(content, Some(key)).map_err(OpError::BrokenContent)?;
        self.put_key(key, tables.get(key))
    }

    /// Returns how many of the rows that the key had are gone.
    fn put_key(&mut self, key: &Key, new: Option<&Table>) -> Result<u64, OpError> {
        let removed = match (self.tables.get(key), new) {
            (None, None) => return Err(OpError::NoSuchKey(key.clone())),
            (None, Some(_)) => 0,
            (Some(old), new) => rows_missing(old, new),
        };
        self.put_table(key, new.cloned());
        Ok(removed)
    }

    fn put_table(&mut self, key: &Key, table: Option<Table>) {
        if let Some(old) = self.tables.get(key) {
            self.measure.subtract(old.measure(key));
        }
        match table {
            Some(table) => {
                self.measure.add(table.measure(key));
                self.tables.insert_mut(key.clone(), table);
            }
            None => {
                self.tables.remove_mut(key);
            }
        }
    }

    pub(super) fn set_tables(&mut self, tables: RedBlackTreeMapSync<Key, Table>) {
        self.measure = Measure::default();
        tables
            .iter()
            .for_each(|(key, table)| self.measure.add(table.measure(key)));
        self.tables = tables;
    }

    fn rows_missing_in(&self, tables: &RedBlackTreeMapSync<Key, Table>) -> u64 {
        self.tables
            .iter()
            .map(|(key, old)| rows_missing(old, tables.get(key)))
            .sum()
    }
}

/// How many rows of `old` are not in `new`.
fn rows_missing(old: &Table, new: Option<&Table>) -> u64 {
    match new {
        Some(new) => old.lines.count_missing_in(&new.lines),
        None => old.lines.measure().rows,
    }
}

/// The line a row is stored as, if it fits the format and the limits.
fn checked_line(row: &Row, columns: &[String]) -> Result<String, RowError> {
    check_column_count(&row.key, row.values.len())?;
    let (expected, got) = (columns.len() as u64, row.values.len() as u64);
    if expected != got {
        return Err(RowError::ColumnCount {
            key: row.key.clone(),
            expected,
            got,
        });
    }
    row.checked_text()
}

/// Builds the tables of a content, of all keys or one, or says which of its formats and rows do not fit.
pub(super) fn tables_of(
    content: &Content,
    only: Option<&Key>,
) -> Result<RedBlackTreeMapSync<Key, Table>, BrokenRows> {
    let wanted = |key: &Key| only.is_none_or(|only| only == key);
    let mut broken = BrokenRows::default();
    let mut tables: BTreeMap<&Key, (Table, Vec<String>)> = BTreeMap::new();
    for (key, columns) in content.formats.iter().filter(|(key, _)| wanted(key)) {
        let table = match Table::new(key, columns) {
            Ok(_) if tables.contains_key(key) => Err(RowError::FormatTwice { key: key.clone() }),
            made => made,
        };
        match table {
            Ok(table) => {
                tables.insert(key, (table, Vec::new()));
            }
            Err(problem) => broken.push(BrokenRow::new(None, &format_text(key, columns), problem)),
        }
    }
    for row in content.rows.iter().filter(|row| wanted(&row.key)) {
        let fitting = match tables.get_mut(&row.key) {
            None => Err(RowError::NoFormat { key: row.key.clone() }),
            Some((table, lines)) => checked_line(row, &table.columns).map(|mut line| {
                line.push('\n');
                lines.push(line);
            }),
        };
        if let Err(problem) = fitting {
            broken.push(BrokenRow::new(None, &row.to_text(), problem));
        }
    }
    let mut built = RedBlackTreeMapSync::new_sync();
    for (key, (mut table, mut lines)) in tables {
        lines.sort_unstable();
        for (line, _) in lines
            .iter()
            .zip(lines.iter().skip(1))
            .filter(|(line, next)| line == next)
        {
            broken.push(BrokenRow::new(
                None,
                line.trim_end(),
                RowError::RowTwice { key: key.clone() },
            ));
        }
        table.lines = super::lines::Lines::from_sorted_text(&lines.concat());
        built.insert_mut(key.clone(), table);
    }
    if broken.is_empty() { Ok(built) } else { Err(broken) }
}

#[cfg(test)]
mod tests;
