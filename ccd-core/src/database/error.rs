//! Why a key, a row, an update, a record or an image is refused. Every caller of this module sees these.
//!
//! The texts are for people: what is wrong, on what, and what to try. Whoever adds a variant also gives it an
//! [`ErrorClass`], from which programs take their exit codes.

use super::{Key, Pattern, Precondition, Row};
use crate::ids::{Generation, Position, RequestId};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// Why a text is no key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum KeyError {
    #[error("a key must not be empty")]
    Empty,
    #[error("key {name:?} must start with a letter, not {got:?}")]
    Start { name: String, got: char },
    #[error("key {name:?} contains {got:?}; only letters, digits, _ . and - are allowed")]
    Character { name: String, got: char },
    #[error("key {name:?} ends in _fmt, which marks format rows; choose another name")]
    FormatSuffix { name: String },
    #[error("CCD_CHK is reserved for the consistency record; choose another name")]
    Reserved,
    #[error("the key has {got} characters, more than the {limit} of a row")]
    TooLong { limit: u64, got: u64 },
}

/// Why a row, format or pattern can be in no database, or not in one with this format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RowError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("key {key} has no format row; write one: {key}_fmt:COLUMN:COLUMN")]
    NoFormat { key: Key },
    #[error("key {key} has {expected} columns, got {got} values; see the columns with: ccdadm keys")]
    ColumnCount { key: Key, expected: u64, got: u64 },
    #[error("a row of {key} has {got} columns, at most {limit} are allowed")]
    TooManyColumns { key: Key, limit: u64, got: u64 },
    #[error("key {key} needs at least one column")]
    NoColumns { key: Key },
    #[error("a row of {key} has {got} characters in text form, at most {limit} are allowed")]
    TooLong { key: Key, limit: u64, got: u64 },
    #[error(
        "{name:?} is no column name for {key}: it starts with a letter or _, then letters, digits, _ . and -"
    )]
    ColumnName { key: Key, name: String },
    #[error("key {key} names the column {name} twice")]
    ColumnTwice { key: Key, name: String },
    #[error("key {key} has a second format row")]
    FormatTwice { key: Key },
    #[error("the same row of {key} is there already")]
    RowTwice { key: Key },
    #[error("in {text:?} a % is not followed by two hexadecimal digits of UTF-8 text; write % itself as %25")]
    Escape { text: String },
    #[error("the line is not UTF-8 text")]
    NotUtf8,
    #[error("the line stands after the consistency record, which must be the last")]
    AfterRecord,
}

/// A row that is refused, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct BrokenRow {
    /// Line of the file, from 1; `None` if the row did not come from a file.
    pub line: Option<u64>,
    /// The row in text form, shortened to 80 characters.
    pub row: String,
    pub problem: RowError,
}

impl BrokenRow {
    pub(super) fn new(line: Option<u64>, row: &str, problem: RowError) -> Self {
        Self {
            line,
            row: shortened(row),
            problem,
        }
    }
}

impl fmt::Display for BrokenRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{}: {}", self.row, self.problem)
    }
}

/// At most 80 characters of a text, for messages.
pub(super) fn shortened(text: &str) -> String {
    match text.char_indices().nth(80) {
        None => text.into(),
        Some((end, _)) => {
            let mut short = String::from(&text[..end]);
            short.push('…');
            short
        }
    }
}

/// How many problems of one file or content an error names; the rest is only counted.
pub const PROBLEMS_NAMED_MAX: usize = 20;

/// The rows that make a whole content unfit, at most [`PROBLEMS_NAMED_MAX`] of them by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokenRows {
    pub total: u64,
    pub first: Vec<BrokenRow>,
}

impl BrokenRows {
    pub(super) fn push(&mut self, broken: BrokenRow) {
        self.total = self.total.saturating_add(1);
        if self.first.len() < PROBLEMS_NAMED_MAX {
            self.first.push(broken);
        }
    }
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }
}

impl fmt::Display for BrokenRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} row{} not fit",
            self.total,
            if self.total == 1 { " is" } else { "s are" }
        )?;
        for broken in &self.first {
            write!(f, "\n  {broken}")?;
        }
        let unnamed = self.total.saturating_sub(self.first.len() as u64);
        if unnamed > 0 {
            write!(f, "\n  and {unnamed} more")?;
        }
        Ok(())
    }
}

/// Why an update cannot be part of the database, or a query not be answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum OpError {
    #[error("there is no key {0}; see the keys with: ccdadm keys")]
    NoSuchKey(Key),
    #[error("no row matches {pattern}; see the rows with: ccdadm query {key}", key = pattern.key)]
    NoSuchRow { pattern: Box<Pattern> },
    #[error("the row {row} is there already")]
    RowExists { row: Box<Row> },
    #[error(
        "key {key} exists with the columns {expected:?}, not {got:?}; remove it first: ccdadm remove-format {key}"
    )]
    KeyExists {
        key: Key,
        expected: Vec<String>,
        got: Vec<String>,
    },
    #[error("key {key} still has {rows} rows; remove them first: ccdadm remove {key}")]
    KeyNotEmpty { key: Key, rows: u64 },
    #[error(transparent)]
    Row(#[from] RowError),
    #[error("key {key} has no column {name:?}; its columns are {columns:?}")]
    UnknownColumn {
        key: Key,
        name: String,
        columns: Vec<String>,
    },
    #[error("the precondition `{precondition}` does not hold at generation {generation}")]
    PreconditionFailed {
        precondition: Box<Precondition>,
        generation: Generation,
    },
    #[error(
        "the transaction takes {got} bytes, at most {limit} are allowed; split it, or restore key by key"
    )]
    TransactionTooLarge { limit: u64, got: u64 },
    #[error(
        "the transaction has {got} operations, at most {limit} are allowed; split it, or use ccdadm restore"
    )]
    TooManyOperations { limit: u64, got: u64 },
    #[error("request {} was applied already, at generation {generation}", request.public())]
    AlreadyApplied {
        request: RequestId,
        generation: Generation,
    },
    #[error("the content to restore is refused: {0}\nclean the file first: ccdadm purify FILE")]
    BrokenContent(BrokenRows),
    /// A row of `CCD_SYNC` that sets no synchronization command.
    #[error("{row} sets no synchronization command: {why}")]
    SyncRow { row: String, why: String },
    #[error(
        "request {} was applied with other content, at generation {generation}; each update has an id of its own",
        request.public()
    )]
    OtherContent {
        request: RequestId,
        generation: Generation,
    },
    #[error(
        "the column {name:?} of {key} has {got} patterns by name, at most {limit} are allowed; join them with wildcards"
    )]
    TooManyPatterns {
        key: Key,
        name: String,
        limit: u64,
        got: u64,
    },
    /// See [`EXAMINED_MAX`](super::EXAMINED_MAX).
    #[error(
        "the patterns of the transaction compare about {got} values, at most {limit} are allowed; split it, or give leading columns \
         without wildcards"
    )]
    TooMuchExamined { limit: u64, got: u64 },
}

/// What kind of trouble an [`OpError`] is; exit codes and library error numbers follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// No such key, column or row.
    Missing,
    /// The row or key exists.
    Exists,
    /// A precondition does not hold, or the key still has rows.
    Conflict,
    /// The request itself breaks a rule or a limit.
    BadData,
}

impl OpError {
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NoSuchKey(_) | Self::NoSuchRow { .. } | Self::Row(RowError::NoFormat { .. }) => {
                ErrorClass::Missing
            }
            Self::RowExists { .. } | Self::KeyExists { .. } | Self::AlreadyApplied { .. } => {
                ErrorClass::Exists
            }
            Self::PreconditionFailed { .. } | Self::KeyNotEmpty { .. } => ErrorClass::Conflict,
            Self::Row(_)
            | Self::UnknownColumn { .. }
            | Self::TransactionTooLarge { .. }
            | Self::TooManyOperations { .. }
            | Self::BrokenContent(_)
            | Self::SyncRow { .. }
            | Self::OtherContent { .. }
            | Self::TooManyPatterns { .. }
            | Self::TooMuchExamined { .. } => ErrorClass::BadData,
        }
    }
}

impl From<KeyError> for OpError {
    fn from(error: KeyError) -> Self {
        Self::Row(RowError::Key(error))
    }
}

/// A record does not continue this database.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    #[error("the record continues {expected}, the database is at {got}")]
    NotNext { expected: Position, got: Position },
    #[error("the record leads to {expected}, its updates lead to {got}")]
    WrongEnd { expected: Position, got: Position },
    #[error("the record undoes a round; only the shadow of that round leads back")]
    IsRollback,
    #[error("an update of the record does not fit the database it was admitted to: {0}")]
    Op(OpError),
}

/// An image or record does not decode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged database image: {0}")]
pub struct ImageError(pub String);

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;

    fn key() -> Key {
        Key::new("MY_KEY").expect("a good key")
    }

    fn one_of_each() -> Vec<(OpError, ErrorClass, &'static str)> {
        use ErrorClass::{BadData, Conflict, Exists, Missing};
        let row = Row {
            key: key(),
            values: vec!["a".into(), "b:c".into()],
        };
        let generation = Generation(7);
        let mut broken = BrokenRows::default();
        broken.push(BrokenRow::new(
            Some(3),
            "MY_KEY:x",
            RowError::ColumnCount {
                key: key(),
                expected: 2,
                got: 1,
            },
        ));
        let columns = vec![String::from("x")];
        vec![
            (OpError::NoSuchKey(key()), Missing, "ccdadm keys"),
            (
                OpError::NoSuchRow {
                    pattern: Box::new(Pattern::exact(&row)),
                },
                Missing,
                "MY_KEY:a:b%3Ac",
            ),
            (
                OpError::RowExists {
                    row: Box::new(row.clone()),
                },
                Exists,
                "MY_KEY:a:b%3Ac",
            ),
            (
                OpError::KeyExists {
                    key: key(),
                    expected: columns.clone(),
                    got: vec![],
                },
                Exists,
                "remove-format",
            ),
            (OpError::KeyNotEmpty { key: key(), rows: 4 }, Conflict, "4 rows"),
            (
                RowError::TooLong {
                    key: key(),
                    limit: 1024,
                    got: 1025,
                }
                .into(),
                BadData,
                "1025",
            ),
            (
                RowError::TooManyColumns {
                    key: key(),
                    limit: 32,
                    got: 33,
                }
                .into(),
                BadData,
                "33",
            ),
            (
                KeyError::Character {
                    name: "a b".into(),
                    got: ' ',
                }
                .into(),
                BadData,
                "' '",
            ),
            (
                OpError::UnknownColumn {
                    key: key(),
                    name: "y".into(),
                    columns,
                },
                BadData,
                "[\"x\"]",
            ),
            (
                OpError::PreconditionFailed {
                    precondition: Box::new(Precondition::RowAbsent(row)),
                    generation,
                },
                Conflict,
                "if row absent MY_KEY:a:b%3Ac",
            ),
            (
                OpError::TransactionTooLarge { limit: 1, got: 2 },
                BadData,
                "split it",
            ),
            (
                OpError::TooManyOperations { limit: 1, got: 2 },
                BadData,
                "split it",
            ),
            (
                OpError::AlreadyApplied {
                    request: RequestId::default(),
                    generation,
                },
                Exists,
                "generation 7",
            ),
            (
                OpError::BrokenContent(broken),
                BadData,
                "line 3: MY_KEY:x: key MY_KEY has 2 columns, got 1",
            ),
            (
                OpError::SyncRow {
                    row: "CCD_SYNC:A:/x".into(),
                    why: "it is a path".into(),
                },
                BadData,
                "CCD_SYNC:A:/x",
            ),
            (
                OpError::TooManyPatterns {
                    key: key(),
                    name: "x".into(),
                    limit: 4,
                    got: 5,
                },
                BadData,
                "column \"x\" of MY_KEY has 5 patterns",
            ),
            (OpError::TooMuchExamined { limit: 1, got: 2 }, BadData, "split it"),
        ]
    }

    #[test]
    fn every_refusal_travels_names_what_it_is_about_and_has_a_class() {
        for (error, class, words) in one_of_each() {
            let bytes = postcard::to_allocvec(&error).expect("encodes");
            assert_eq!(postcard::from_bytes::<OpError>(&bytes).as_ref(), Ok(&error));
            assert_eq!(error.class(), class, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn long_rows_are_shortened_in_messages() {
        assert_eq!(shortened(&"é".repeat(80)), "é".repeat(80));
        assert_eq!(shortened(&"é".repeat(81)).chars().count(), 81);
        assert!(shortened(&"é".repeat(200)).ends_with("é…"));
    }
}
