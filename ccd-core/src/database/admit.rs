//! How an update changes a database: preconditions, then each operation in order, all or nothing.
//!
//! The master admits; every replica applies the record that came of it, by the same code but for the preconditions,
//! so that all copies come out equal.

use super::database::Table;
use super::error::{ApplyError, BrokenRow, BrokenRows, OpError, RowError};
use super::lines::Measure;
use super::pattern::Matcher;
use super::row::{check_column_count, format_text};
use super::update::{OPERATIONS_MAX, RECORD_BATCH_BYTES_MAX};
use super::{Content, Database, Key, Op, Pattern, Precondition, Record, RecordBody, Row, Update};
use crate::ids::{Position, RequestId, Stamp};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use rpds::RedBlackTreeMapSync;

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
        let got = update.encoded_bytes_max();
        if got > RECORD_BATCH_BYTES_MAX {
            return Err(OpError::TransactionTooLarge {
                limit: RECORD_BATCH_BYTES_MAX as u64,
                got: got as u64,
            });
        }
        for precondition in &update.preconditions {
            self.check_precondition(precondition)?;
        }
        self.with_update(update)
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

    /// All of an update but its preconditions.
    fn with_update(&self, update: &Update) -> Result<(Self, u64), OpError> {
        if let Some(generation) = self
            .outcome(update.request)
            .filter(|_| update.request != RequestId::default())
        {
            return Err(OpError::AlreadyApplied {
                request: update.request,
                generation,
            });
        }
        let mut next = self.clone();
        let mut removed = 0;
        for op in &update.ops {
            removed += next.run(op)?;
        }
        let generation = self.position.stamp.generation.next();
        next.position.stamp.generation = generation;
        next.date = update.date;
        next.outcomes.remember(update.request, generation);
        Ok((next, removed))
    }

    /// Runs one operation on a copy that nobody sees unless all operations succeed.
    fn run(&mut self, op: &Op) -> Result<u64, OpError> {
        match op {
            Op::Add(row) => self.add(row).map(|()| 0),
            Op::Remove(pattern) => self.remove(pattern),
            Op::Format { key, columns } => self.format(key, columns).map(|()| 0),
            Op::RemoveFormat(key) => self.remove_format(key).map(|()| 0),
            Op::ReplaceKey { key, content } => self.replace_key(key, content),
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
        let matching = table
            .lines
            .starting_with(&matcher.prefix)
            .filter(|line| matcher.matches(line));
        let gone: Vec<String> = matching.map(String::from).collect();
        if gone.is_empty() {
            return Err(OpError::NoSuchRow {
                pattern: Box::new(pattern.clone()),
            });
        }
        if let Some(table) = self.tables.get_mut(&pattern.key) {
            for line in &gone {
                table.lines.remove(line);
                self.measure.subtract(Measure::of_line(line));
            }
        }
        Ok(gone.len() as u64)
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
        let new = tables.get(key);
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
    old.lines
        .iter()
        .filter(|line| !new.is_some_and(|new| new.lines.contains(line)))
        .count() as u64
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
            Some((table, lines)) => checked_line(row, &table.columns).map(|line| lines.push(line + "\n")),
        };
        if let Err(problem) = fitting {
            broken.push(BrokenRow::new(None, &row.to_text(), problem));
        }
    }
    let mut built = RedBlackTreeMapSync::new_sync();
    for (key, (mut table, mut lines)) in tables {
        lines.sort_unstable();
        for twice in lines.windows(2).filter(|pair| pair[0] == pair[1]) {
            broken.push(BrokenRow::new(
                None,
                twice[0].trim_end(),
                RowError::RowTwice { key: key.clone() },
            ));
        }
        table.lines = super::lines::Lines::from_sorted_text(&lines.concat());
        built.insert_mut(key.clone(), table);
    }
    if broken.is_empty() { Ok(built) } else { Err(broken) }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{any_history, any_op, commit, figure_6, key, members, row, update};
    use super::*;
    use crate::configuration::RestoreFlag;
    use crate::ids::{Epoch, Generation};
    use alloc::vec;
    use proptest::prelude::*;

    fn admitted(database: &Database, ops: Vec<Op>) -> Result<(Database, u64), OpError> {
        database.admit(&update(1000 + database.position.stamp.generation.0, ops))
    }

    fn refused(ops: Vec<Op>) -> OpError {
        admitted(&figure_6(), ops).expect_err("must be refused")
    }

    fn content(text: &str) -> Content {
        let mut content = Content::default();
        for line in text.lines() {
            match line.split_once("_fmt:") {
                Some((name, columns)) => {
                    content
                        .formats
                        .push((key(name), columns.split(':').map(String::from).collect()));
                }
                None => content.rows.push(row(line)),
            }
        }
        content
    }

    #[test]
    fn add_unique_refuses_a_row_equal_to_an_existing_one() {
        let there = row("MY_KEY:clust1:2:either:foo,bar");
        assert_eq!(
            refused(vec![Op::Add(there.clone())]),
            OpError::RowExists { row: Box::new(there) }
        );
        let new = row("MY_KEY:clust1:2:either:foo,bar,moo");
        let expected = OpError::RowExists {
            row: Box::new(new.clone()),
        };
        assert_eq!(
            refused(vec![Op::Add(new.clone()), Op::Add(new)]),
            expected,
            "nor one of the same transaction"
        );
    }

    #[test]
    fn an_entry_has_exactly_the_columns_of_its_format_and_a_column_may_be_empty() {
        for (text, got) in [("MY_KEY:a:b:c", 3), ("MY_KEY:a:b:c:d:", 5), ("MY_KEY", 0)] {
            let expected = RowError::ColumnCount {
                key: key("MY_KEY"),
                expected: 4,
                got,
            };
            assert_eq!(
                refused(vec![Op::Add(row(text))]),
                OpError::Row(expected),
                "{text}"
            );
        }
        assert!(admitted(&figure_6(), vec![Op::Add(row("MY_KEY::::"))]).is_ok());
        assert_eq!(
            refused(vec![Op::Add(row("NONE:a"))]),
            OpError::NoSuchKey(key("NONE"))
        );
    }

    #[test]
    fn an_over_long_row_is_refused_even_if_it_was_not_made_by_its_constructor() {
        let mut long = row("MY_KEY:a:b:c:");
        long.values[3] = "x".repeat(1020);
        let expected = RowError::TooLong {
            key: key("MY_KEY"),
            limit: 1024,
            got: 1033,
        };
        assert_eq!(refused(vec![Op::Add(long)]), OpError::Row(expected));
        let wide = Row {
            key: key("MY_KEY"),
            values: vec!["x".into(); 40],
        };
        let expected = RowError::TooManyColumns {
            key: key("MY_KEY"),
            limit: 32,
            got: 40,
        };
        assert_eq!(refused(vec![Op::Add(wide)]), OpError::Row(expected));
    }

    #[test]
    fn remove_takes_all_matching_rows_and_refuses_if_there_are_none() {
        let pattern = Pattern::positional(key("MY_KEY"), ["*", "*", "sci"]);
        let (after, removed) = admitted(&figure_6(), vec![Op::Remove(pattern.clone())]).expect("admitted");
        assert_eq!((removed, after.row_count()), (2, 2));
        let again = admitted(&after, vec![Op::Remove(pattern.clone())]);
        assert_eq!(
            again.expect_err("gone"),
            OpError::NoSuchRow {
                pattern: Box::new(pattern)
            }
        );
        let exact = Pattern::exact(&row("MY_KEY:clust3:1::foo"));
        assert_eq!(
            admitted(&figure_6(), vec![Op::Remove(exact)])
                .expect("admitted")
                .1,
            1
        );
        assert_eq!(
            refused(vec![Op::Remove(Pattern::all(key("NONE")))]),
            OpError::NoSuchKey(key("NONE"))
        );
    }

    #[test]
    fn format_refuses_another_format_and_remove_format_a_key_with_rows() {
        let same = figure_6().columns(&key("MY_KEY")).expect("a format").to_vec();
        let other = vec![String::from("x")];
        assert!(
            admitted(
                &figure_6(),
                vec![Op::Format {
                    key: key("MY_KEY"),
                    columns: same.clone()
                }]
            )
            .is_ok()
        );
        let expected = OpError::KeyExists {
            key: key("MY_KEY"),
            expected: same,
            got: other.clone(),
        };
        assert_eq!(
            refused(vec![Op::Format {
                key: key("MY_KEY"),
                columns: other.clone()
            }]),
            expected
        );
        let expected = OpError::KeyNotEmpty {
            key: key("MY_KEY"),
            rows: 4,
        };
        assert_eq!(refused(vec![Op::RemoveFormat(key("MY_KEY"))]), expected);
        let emptied = vec![
            Op::Remove(Pattern::all(key("MY_KEY"))),
            Op::RemoveFormat(key("MY_KEY")),
        ];
        let (after, _) = admitted(&figure_6(), emptied).expect("admitted");
        assert!(after.keys().is_empty());
        assert_eq!((after.length_bytes(), after.checksum()), (0, 0));
        let missing = admitted(&after, vec![Op::RemoveFormat(key("MY_KEY"))]);
        assert_eq!(missing.expect_err("gone"), OpError::NoSuchKey(key("MY_KEY")));
    }

    #[test]
    fn a_transaction_is_applied_whole_or_not_at_all() {
        let before = figure_6();
        let ops = vec![
            Op::Add(row("MY_KEY:clust9:1::foo")),
            Op::Add(row("MY_KEY:clust9:1")),
        ];
        assert!(admitted(&before, ops).is_err());
        assert_eq!(before, figure_6());
    }

    #[test]
    fn preconditions_are_checked_before_anything_is_applied() {
        let there = row("MY_KEY:clust0:4:sci:foo,bar,moo,boo");
        let absent = row("MY_KEY:clust0:5:sci:foo");
        let no_key = row("NONE:a");
        let table = [
            (Precondition::Generation(Generation(1)), true),
            (Precondition::Generation(Generation(2)), false),
            (Precondition::RowPresent(there.clone()), true),
            (Precondition::RowPresent(absent.clone()), false),
            (Precondition::RowPresent(no_key.clone()), false),
            (Precondition::RowAbsent(there), false),
            (Precondition::RowAbsent(absent), true),
            (Precondition::RowAbsent(no_key), true),
        ];
        for (precondition, holds) in table {
            let update = Update {
                preconditions: vec![precondition.clone()],
                ..update(99, vec![Op::Purify])
            };
            let outcome = figure_6().admit(&update).map(|_| ());
            let generation = Generation(1);
            let failed = OpError::PreconditionFailed {
                precondition: Box::new(precondition),
                generation,
            };
            assert_eq!(outcome, if holds { Ok(()) } else { Err(failed) });
        }
    }

    #[test]
    fn restore_replaces_all_or_one_key() {
        let new = content("NEW_fmt:a\nMY_KEY_fmt:a:b\nMY_KEY:1:2\nNEW:x\n");
        let all = Op::ReplaceAll {
            content: new.clone(),
            restore: RestoreFlag::NotAllActive,
        };
        let (after, removed) = admitted(&figure_6(), vec![all]).expect("admitted");
        assert_eq!(
            (removed, after.row_count(), after.restore_flag()),
            (4, 2, RestoreFlag::NotAllActive)
        );
        assert_eq!(
            after.content(),
            content("MY_KEY_fmt:a:b\nNEW_fmt:a\nMY_KEY:1:2\nNEW:x\n")
        );

        let one = Op::ReplaceKey {
            key: key("NEW"),
            content: new.clone(),
        };
        let (after, removed) = admitted(&figure_6(), vec![one]).expect("admitted");
        assert_eq!((removed, after.row_count()), (0, 5));
        let gone = Op::ReplaceKey {
            key: key("MY_KEY"),
            content: Content::default(),
        };
        let (after, removed) = admitted(&after, vec![gone.clone()]).expect("admitted");
        assert_eq!((removed, after.row_count()), (4, 1));
        assert_eq!(
            admitted(&after, vec![gone]).expect_err("gone"),
            OpError::NoSuchKey(key("MY_KEY"))
        );
    }

    #[test]
    fn restore_refuses_rows_that_break_their_format_and_names_them() {
        let mut bad = content("K_fmt:a:b\nK_fmt:c\nK:1\nK:1:2\nNONE:1\nK:1:2\n");
        bad.rows.extend((0..50).map(|_| row("K:1:2:3")));
        let restore = Op::ReplaceAll {
            content: bad,
            restore: RestoreFlag::AllActive,
        };
        let OpError::BrokenContent(broken) = refused(vec![restore]) else {
            panic!("another error")
        };
        assert_eq!((broken.total, broken.first.len()), (54, 20));
        assert_eq!(broken.first[0].problem, RowError::FormatTwice { key: key("K") });
        assert_eq!(
            broken.first[1].problem,
            RowError::ColumnCount {
                key: key("K"),
                expected: 2,
                got: 1
            }
        );
        assert_eq!(broken.first[2].problem, RowError::NoFormat { key: key("NONE") });
    }

    #[test]
    fn a_row_that_stands_twice_is_refused_by_restore() {
        let restore = Op::ReplaceKey {
            key: key("K"),
            content: content("K_fmt:a\nK:1\nK:2\nK:1\n"),
        };
        let OpError::BrokenContent(broken) = refused(vec![restore]) else {
            panic!("another error")
        };
        assert_eq!((broken.total, &*broken.first[0].row), (1, "K:1"));
    }

    #[test]
    fn a_request_is_applied_once() {
        let again = figure_6().admit(&update(1, vec![Op::Purify]));
        let request = RequestId {
            client: 1,
            sequence: 1,
        };
        assert_eq!(
            again.expect_err("again"),
            OpError::AlreadyApplied {
                request,
                generation: Generation(1)
            }
        );
        assert_eq!(figure_6().outcome(request), Some(Generation(1)));
        assert_eq!(
            figure_6().outcome(RequestId {
                client: 1,
                sequence: 2
            }),
            None
        );
    }

    #[test]
    fn a_transaction_is_bounded_in_bytes_and_in_operations() {
        let reason = Some("x".repeat(RECORD_BATCH_BYTES_MAX));
        let large = Update {
            reason,
            ..update(99, vec![])
        };
        assert!(matches!(
            figure_6().admit(&large),
            Err(OpError::TransactionTooLarge { .. })
        ));
        let many = update(99, vec![Op::Purify; OPERATIONS_MAX + 1]);
        assert!(matches!(
            figure_6().admit(&many),
            Err(OpError::TooManyOperations { .. })
        ));
    }

    #[test]
    fn apply_refuses_a_record_of_another_position_and_a_rollback() {
        let (record, after) = commit(&figure_6(), update(2, vec![Op::Purify]));
        assert!(matches!(
            Database::default().apply(&record),
            Err(ApplyError::NotNext { .. })
        ));
        let rollback = Record::rollback(after.position(), figure_6().position());
        assert_eq!(after.apply(&rollback), Err(ApplyError::IsRollback));
    }

    #[test]
    fn opening_a_configuration_changes_only_the_epoch() {
        let before = figure_6();
        let after = before
            .apply(&Record::open(before.position(), Epoch(9)))
            .expect("applies");
        assert_eq!(
            after.position().stamp,
            Stamp {
                epoch: Epoch(9),
                generation: Generation(1)
            }
        );
        assert_eq!(after.position().lineage, before.position().lineage);
        assert_eq!(
            Database {
                position: before.position(),
                ..after
            },
            before
        );
    }

    #[test]
    fn a_round_of_several_updates_has_a_generation_for_each() {
        let before = figure_6();
        let updates = vec![
            update(2, vec![Op::Add(row("MY_KEY:a:::"))]),
            update(3, vec![Op::Add(row("MY_KEY:b:::"))]),
        ];
        let first = before.admit(&updates[0]).expect("admitted").0;
        let second = first.admit(&updates[1]).expect("admitted").0;
        let (record, after) = Record::updates(&before, Epoch(8), second, updates, members(2));
        assert_eq!(
            after.position().stamp,
            Stamp {
                epoch: Epoch(8),
                generation: Generation(3)
            }
        );
        assert_eq!(
            after.outcome(RequestId {
                client: 1,
                sequence: 2
            }),
            Some(Generation(2))
        );
        assert_eq!(
            after.outcome(RequestId {
                client: 1,
                sequence: 3
            }),
            Some(Generation(3))
        );
        assert_eq!(after.members(), members(2));
        assert_eq!(before.apply(&record), Ok(after));
    }

    proptest! {
        #[test]
        fn applying_the_records_gives_the_masters_database((database, records) in any_history()) {
            let mut replica = Database::default();
            for record in &records {
                let travelled = Record::decode(&record.encode()).expect("decodes");
                replica = replica.apply(&travelled).expect("applies");
            }
            prop_assert_eq!(replica.to_image(), database.to_image());
            prop_assert_eq!(&replica, &database);
        }

        #[test]
        fn length_and_checksum_kept_up_are_those_counted_anew((database, _) in any_history()) {
            prop_assert!(database.counts_agree());
            prop_assert_eq!(database.row_count(), database.rows().count() as u64);
        }

        #[test]
        fn a_refused_transaction_changes_nothing_and_an_admitted_one_all(
            (database, _) in any_history(),
            ops in proptest::collection::vec(any_op(), 1..6),
        ) {
            let before = database.to_image();
            let mut step_by_step = Ok(database.clone());
            for (sequence, op) in (1000..).zip(&ops) {
                let one = update(sequence, vec![op.clone()]);
                step_by_step = step_by_step.and_then(|database: Database| Ok(database.admit(&one)?.0));
            }
            match (database.admit(&update(999, ops)), step_by_step) {
                (Ok((whole, _)), Ok(steps)) => prop_assert_eq!(whole.content(), steps.content()),
                (Err(whole), Err(steps)) => prop_assert_eq!(whole, steps),
                (whole, steps) => prop_assert!(false, "{:?} but {:?}", whole, steps),
            }
            prop_assert_eq!(database.to_image(), before);
        }

        #[test]
        fn no_row_ever_stands_twice_or_breaks_its_format((database, _) in any_history()) {
            let rows: Vec<_> = database.rows().collect();
            for pair in rows.windows(2) {
                prop_assert!(pair[0] != pair[1]);
            }
            for row in rows {
                prop_assert_eq!(database.columns(&row.key).map(<[_]>::len), Some(row.values.len()));
            }
        }
    }
}
