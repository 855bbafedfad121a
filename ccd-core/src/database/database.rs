//! The database itself: a persistent structure, so that a clone (the shadow) costs nothing.
//!
//! What always holds: every row fits the format of its key and the limits of every row; no row stands twice; length
//! and checksum are those of the text form. `admit.rs` changes a database, `image.rs` and `text.rs` write it down.

use super::error::OpError;
use super::lines::{Lines, Measure, byte_sum};
use super::outcomes::Outcomes;
use super::pattern::Matcher;
use super::row::{self, SEPARATOR, check_format};
use super::{Key, Pattern, Row};
use crate::configuration::RestoreFlag;
use crate::ids::{Generation, NodeSet, Position, RequestId};
use crate::time::Date;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Bound;
use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Serialize};

/// Formats and rows without their history: what a restore brings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    #[serde(deserialize_with = "formats")]
    pub formats: Vec<(Key, Vec<String>)>,
    #[serde(deserialize_with = "crate::bounded::at_most::<_, _, { usize::MAX }>")]
    pub rows: Vec<Row>,
}

/// The columns of a format, as they are decoded.
#[derive(Deserialize)]
struct Columns(
    #[serde(deserialize_with = "crate::bounded::at_most::<_, _, { super::row::COLUMNS_DECODED_MAX }>")]
    Vec<String>,
);

fn formats<'de, D: serde::Deserializer<'de>>(decoder: D) -> Result<Vec<(Key, Vec<String>)>, D::Error> {
    let plain = |(key, Columns(columns)): (Key, Columns)| (key, columns);
    crate::bounded::at_most_of::<_, _, _, { usize::MAX }>(decoder, plain)
}

/// How much text is gathered before it is hashed.
const DIGEST_STRETCH_BYTES: usize = 128 << 10;

/// The format and the rows of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) columns: Arc<[String]>,
    pub(super) lines: Lines,
}

impl Table {
    pub(super) fn new(key: &Key, columns: &[String]) -> Result<Self, super::RowError> {
        check_format(key, columns)?;
        Ok(Self {
            columns: columns.into(),
            lines: Lines::default(),
        })
    }

    /// Of the format row and all rows; the format row does not count as a row.
    pub(super) fn measure(&self, key: &Key) -> Measure {
        let mut measure = self.lines.measure();
        measure.add(Measure {
            rows: 0,
            ..Measure::of_line(&row::format_text(key, &self.columns))
        });
        measure
    }
}

/// One version of the database.
#[derive(Clone, Default)]
pub struct Database {
    pub(super) tables: RedBlackTreeMapSync<Key, Table>,
    /// Of the text form without the consistency record.
    pub(super) measure: Measure,
    pub(super) outcomes: Outcomes,
    pub(super) position: Position,
    pub(super) date: Date,
    pub(super) members: NodeSet,
    pub(super) restore: RestoreFlag,
}

impl Database {
    /// Stamp and lineage of this version.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Rows of the pattern's key that match, in byte order of their text.
    pub fn query(&self, pattern: &Pattern) -> Result<Vec<Row>, OpError> {
        pattern.check()?;
        let table = self.table(&pattern.key)?;
        let matcher = Matcher::new(pattern, &table.columns)?;
        let lines = matcher.matching(&table.lines);
        Ok(lines.map(|line| Row::from_stored(&pattern.key, line)).collect())
    }

    /// Whether the very row is there.
    pub fn contains(&self, row: &Row) -> bool {
        self.tables
            .get(&row.key)
            .is_some_and(|table| table.lines.contains(&row.to_text()))
    }

    /// Whether the key has any row.
    pub(crate) fn has_rows(&self, key: &str) -> bool {
        self.tables
            .get(key)
            .is_some_and(|table| table.lines.measure().rows > 0)
    }

    /// The rows of one key, in order; none if there is no such key.
    pub(crate) fn rows_of(&self, key: &str) -> impl Iterator<Item = Row> {
        self.rows_from(key, String::new())
    }

    /// The first row of the key whose first of several values is this one, written without escapes.
    pub(crate) fn first_row_of(&self, key: &str, first: &str) -> Option<Row> {
        let prefix = alloc::format!("{key}{SEPARATOR}{first}{SEPARATOR}");
        self.rows_from(key, prefix).next()
    }

    fn rows_from(&self, key: &str, prefix: String) -> impl Iterator<Item = Row> {
        self.tables
            .get_key_value(key)
            .into_iter()
            .flat_map(move |(key, table)| {
                let lines: Vec<Row> = table
                    .lines
                    .starting_with(&prefix)
                    .map(|line| Row::from_stored(key, line))
                    .collect();
                lines
            })
    }

    /// All keys with their columns and number of rows.
    pub fn keys(&self) -> Vec<(Key, Vec<String>, u64)> {
        let keys = self.tables.iter();
        keys.map(|(key, table)| (key.clone(), table.columns.to_vec(), table.lines.measure().rows))
            .collect()
    }

    /// As [`keys`](Self::keys), those behind a key, at most so many.
    pub fn keys_after(&self, after: Option<&Key>, count: usize) -> Vec<(Key, Vec<String>, u64)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let keys = self.tables.range::<Key, _>((from, Bound::Unbounded)).take(count);
        keys.map(|(key, table)| (key.clone(), table.columns.to_vec(), table.lines.measure().rows))
            .collect()
    }

    pub fn key_count(&self) -> usize {
        self.tables.size()
    }

    /// The columns of a key, if it has a format.
    pub fn columns(&self, key: &Key) -> Option<&[String]> {
        self.tables.get(key).map(|table| &*table.columns)
    }

    /// The same, to be kept.
    pub fn shared_columns(&self, key: &Key) -> Option<Arc<[String]>> {
        self.tables.get(key).map(|table| table.columns.clone())
    }

    /// The generation at which an update was applied, if it is one of the last [`OUTCOMES_MAX`](super::OUTCOMES_MAX).
    /// What it held is not looked at.
    pub fn outcome(&self, request: RequestId) -> Option<Generation> {
        let found = self.outcomes.find(request, self.position.stamp.generation);
        found.map(|outcome| outcome.generation)
    }

    /// The same: `Ok` if it was applied with this content, `Err` if with another.
    pub fn applied(&self, request: RequestId) -> Option<Result<Generation, Generation>> {
        let found = self.outcomes.find(request, self.position.stamp.generation)?;
        let generation = found.generation;
        Some(if found.request == request {
            Ok(generation)
        } else {
            Err(generation)
        })
    }

    /// Date of the last update, by the clock of the node whose client made it.
    pub fn date(&self) -> Date {
        self.date
    }
    /// Members of the cluster at the last update.
    pub fn members(&self) -> NodeSet {
        self.members
    }
    pub fn restore_flag(&self) -> RestoreFlag {
        self.restore
    }
    /// Bytes of the text form without the consistency record.
    pub fn length_bytes(&self) -> u64 {
        self.measure.length_bytes
    }
    /// Sum of these bytes.
    pub fn checksum(&self) -> u64 {
        self.measure.checksum
    }
    /// Rows of all keys, without format rows.
    pub fn row_count(&self) -> u64 {
        self.measure.rows
    }

    /// Whether the rows are what length and checksum of the consistency record say, computed anew.
    pub fn is_whole(&self) -> bool {
        let (mut length_bytes, mut checksum) = (0_u64, 0_u64);
        self.write_text(|piece| {
            length_bytes = length_bytes.saturating_add(piece.len() as u64);
            checksum = checksum.saturating_add(byte_sum(piece.as_bytes()));
        });
        (length_bytes, checksum) == (self.measure.length_bytes, self.measure.checksum)
    }

    /// These rows under the position of another version: damage, for whoever tests what is made of it.
    #[doc(hidden)]
    #[must_use]
    pub fn misplaced_at(&self, position: Position) -> Self {
        Self {
            position,
            ..self.clone()
        }
    }

    /// BLAKE3 of the canonical text form without the consistency record, computed anew.
    pub fn content_digest(&self) -> [u8; 32] {
        // Pieces are a few KiB; BLAKE3 is fastest on inputs long enough for all its lanes.
        let mut hasher = blake3::Hasher::new();
        let mut gathered = String::with_capacity(DIGEST_STRETCH_BYTES);
        self.write_text(|piece| {
            if gathered.len().saturating_add(piece.len()) > DIGEST_STRETCH_BYTES {
                hasher.update(gathered.as_bytes());
                gathered.clear();
            }
            gathered.push_str(piece);
        });
        hasher.update(gathered.as_bytes());
        *hasher.finalize().as_bytes()
    }

    /// Formats and rows without their history.
    pub fn content(&self) -> Content {
        let formats = self
            .tables
            .iter()
            .map(|(key, table)| (key.clone(), table.columns.to_vec()));
        Content {
            formats: formats.collect(),
            rows: self.rows().collect(),
        }
    }

    /// All rows, in the order of the text form.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        self.tables
            .iter()
            .flat_map(|(key, table)| table.lines.iter().map(|line| Row::from_stored(key, line)))
    }

    /// Hands out the canonical text form without the consistency record, in pieces.
    pub(super) fn write_text(&self, mut write: impl FnMut(&str)) {
        for (key, table) in self.tables.iter() {
            write(&row::format_text(key, &table.columns));
            write("\n");
            table.lines.pieces().for_each(&mut write);
        }
    }

    pub(super) fn table(&self, key: &Key) -> Result<&Table, OpError> {
        self.tables
            .get(key)
            .ok_or_else(|| OpError::NoSuchKey(key.clone()))
    }
}

impl PartialEq for Database {
    /// Equal versions, whatever they share in memory: those that have equal images.
    fn eq(&self, other: &Self) -> bool {
        let now = self.position.stamp.generation;
        (self.position, self.date, self.members, self.restore, self.measure)
            == (
                other.position,
                other.date,
                other.members,
                other.restore,
                other.measure,
            )
            && self.tables == other.tables
            && self.outcomes.remembered(now) == other.outcomes.remembered(now)
    }
}

impl Eq for Database {}

impl fmt::Debug for Database {
    /// Where it stands and how much it holds; a whole database would drown every log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Database({:?}, {} keys, {} rows)",
            self.position,
            self.tables.size(),
            self.measure.rows
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{figure_6, key, row, update};
    use super::*;
    use crate::database::Op;
    use alloc::string::ToString;
    use alloc::vec;

    fn texts(database: &Database, pattern: Pattern) -> Vec<String> {
        database
            .query(&pattern)
            .expect("a good pattern")
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn query_matches_one_or_several_columns_exactly_or_with_a_wildcard() {
        let database = figure_6();
        let table: &[(&[&str], &[usize])] = &[
            (&[], &[0, 1, 2, 3]),
            (&["clust0"], &[0]),
            (&["clust"], &[]),
            (&["clust*"], &[0, 1, 2, 3]),
            (&["*", "*", "sci"], &[0, 2]),
            (&["clust*", "*", "sci"], &[0, 2]),
            (&["*2", "*", "sci", "*bar*"], &[2]),
            (&["clust3", "1", ""], &[3]),
            (&["*", "*", "*", "foo,bar*"], &[0, 1, 2]),
            (&["*", "*", "*", "foo"], &[3]),
            (&["clust0", "4", "sci", "foo,bar,moo,boo"], &[0]),
        ];
        let all = texts(&database, Pattern::all(key("MY_KEY")));
        for (columns, expected) in table {
            let found = texts(
                &database,
                Pattern::positional(key("MY_KEY"), columns.iter().copied()),
            );
            assert_eq!(
                found,
                expected
                    .iter()
                    .map(|index| all[*index].clone())
                    .collect::<Vec<_>>(),
                "{columns:?}"
            );
        }
    }

    #[test]
    fn query_matches_by_column_name() {
        let database = figure_6();
        let by_name = Pattern::from_arguments(key("MY_KEY"), ["network_type=sci"]);
        assert_eq!(texts(&database, by_name.clone()).len(), 2);
        assert_eq!(
            texts(&database, by_name.by_name("number_nodes", "3")),
            ["MY_KEY:clust2:3:sci:foo,bar,moo"]
        );
        let positional_too = Pattern::positional(key("MY_KEY"), ["clust1"]).by_name("clustname", "clust2");
        assert!(
            texts(&database, positional_too).is_empty(),
            "all of them must match"
        );
        let unknown = database.query(&Pattern::all(key("MY_KEY")).by_name("color", "red"));
        assert!(matches!(unknown, Err(OpError::UnknownColumn { ref name, .. }) if name == "color"));
    }

    #[test]
    fn query_refuses_an_unknown_key_and_too_many_columns() {
        let database = figure_6();
        assert_eq!(
            database.query(&Pattern::all(key("OTHER"))),
            Err(OpError::NoSuchKey(key("OTHER")))
        );
        let many = database.query(&Pattern::positional(key("MY_KEY"), ["*"; 5]));
        let expected = super::super::RowError::ColumnCount {
            key: key("MY_KEY"),
            expected: 4,
            got: 5,
        };
        assert_eq!(many, Err(OpError::Row(expected)));
    }

    #[test]
    fn values_with_separators_are_matched_plain() {
        let columns = vec!["node".into(), "address".into()];
        let ops = vec![
            Op::Format {
                key: key("ADDRESS"),
                columns,
            },
            Op::Add(row("ADDRESS:0:fe80%3A%3A1")),
            Op::Add(row("ADDRESS:1:10.0.0.1")),
        ];
        let (database, _) = Database::default().admit(&update(1, ops)).expect("admitted");
        for pattern in ["fe80::1", "fe80:*", "*::*"] {
            let found = texts(&database, Pattern::positional(key("ADDRESS"), ["*", pattern]));
            assert_eq!(found, ["ADDRESS:0:fe80%3A%3A1"], "{pattern}");
        }
    }

    #[test]
    fn keys_lists_formats_and_row_counts() {
        let columns = ["clustname", "number_nodes", "network_type", "node_names"]
            .map(String::from)
            .to_vec();
        assert_eq!(figure_6().keys(), [(key("MY_KEY"), columns, 4)]);
        // In pieces they are the same.
        let ops = (0..25).map(|index| Op::Format {
            key: key(&alloc::format!("K{index}")),
            columns: vec![String::from("name")],
        });
        let (database, _) = figure_6().admit(&update(9, ops.collect())).expect("admitted");
        for count in [1, 7, 100] {
            let mut keys = Vec::new();
            loop {
                let last = keys.last().map(|(key, ..): &(Key, Vec<String>, u64)| key);
                let more = database.keys_after(last, count);
                if more.is_empty() {
                    break;
                }
                keys.extend(more);
            }
            assert_eq!(keys, database.keys());
        }
    }

    #[test]
    fn a_database_may_be_shared_between_threads() {
        fn shared<T: Send + Sync + Clone + 'static>() {}
        shared::<Database>();
    }
}
