//! The file of `ccdadm apply`: a transaction as text.
//!
//! ```text
//! # One statement a line. Empty lines and lines like this are skipped.
//! if generation = 12               refuse unless the database is at this generation
//! if row present KEY:val:val       refuse unless the row is there
//! if row absent KEY:val:val        refuse if the row is there
//! format KEY:col:col               define a key
//! add KEY:val:val                  add a row
//! remove KEY:pat:pat               remove the matching rows; missing patterns match anything
//! wildcard ?                       the wildcard of the removes that follow; `wildcard none` for none
//! remove-format KEY                remove a key that has no rows
//! KEY_fmt:col:col                  as format
//! KEY:val:val                      as add
//! CCD_CHK:…                        if it is there it must be the last line and fit; so a checkpoint can be applied
//! ```
//!
//! Values and patterns are encoded as in the text form (`%3A`). All preconditions are checked before anything is
//! changed, wherever they stand; operations run in the order of the file, all or nothing.

use super::consistency::{ConsistencyRecord, IntegrityError, RecordError};
use super::error::{KeyError, PROBLEMS_NAMED_MAX, RowError, shortened};
use super::pattern::WILDCARD;
use super::row::{FORMAT_SUFFIX, RECORD_KEY, SEPARATOR, decoded_values};
use super::text::{parse_format, without_byte_order_mark, without_line_break};
use super::update::OPERATIONS_MAX;
use super::{Key, Op, Pattern, Precondition, Row};
use crate::ids::Generation;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// What an update does, without who asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    pub preconditions: Vec<Precondition>,
    pub ops: Vec<Op>,
}

/// A line that is no statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenLine {
    /// From 1.
    pub line: u64,
    /// Shortened to 80 characters.
    pub text: String,
    pub problem: LineError,
}

/// Why a line is no statement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    #[error(transparent)]
    Row(#[from] RowError),
    #[error("neither a row (KEY:value:value) nor add, remove, format, remove-format, if or wildcard")]
    NoStatement,
    #[error("a precondition is `if generation = NUMBER`, `if row present KEY:…` or `if row absent KEY:…`")]
    NoPrecondition,
    #[error("the wildcard is one character, or none: `wildcard ?`")]
    NoWildcard,
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Integrity(#[from] IntegrityError),
    #[error("a transaction has at most {limit} operations; split the file, or use ccdadm restore")]
    TooMany { limit: usize },
}

impl From<KeyError> for LineError {
    fn from(error: KeyError) -> Self {
        Self::Row(RowError::Key(error))
    }
}

/// All lines of a file that are no statements, at most [`PROBLEMS_NAMED_MAX`] of them by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct TransactionError {
    pub total: u64,
    pub first: Vec<BrokenLine>,
}

impl fmt::Display for TransactionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} line{} wrong; nothing was changed",
            self.total,
            if self.total == 1 { " is" } else { "s are" }
        )?;
        for BrokenLine { line, text, problem } in &self.first {
            write!(f, "\n  line {line}: {text}: {problem}")?;
        }
        let unnamed = self.total.saturating_sub(self.first.len() as u64);
        if unnamed > 0 {
            write!(f, "\n  and {unnamed} more")?;
        }
        Ok(())
    }
}

impl Transaction {
    /// Reads a file. Whether its rows fit their formats is for the database to say.
    pub fn parse(text: &[u8]) -> Result<Self, TransactionError> {
        let mut reader = Reader {
            transaction: Self::default(),
            wildcard: Some(WILDCARD),
            ended: false,
        };
        let mut errors = TransactionError::default();
        let text = without_byte_order_mark(text);
        let mut start = 0_usize;
        for (line, bytes) in (1..).zip(text.split_inclusive(|byte| *byte == b'\n')) {
            let before = text.get(..start).unwrap_or_default();
            if let Err(problem) = reader.line(without_line_break(bytes), before) {
                errors.total = errors.total.saturating_add(1);
                if errors.first.len() < PROBLEMS_NAMED_MAX {
                    let text = shortened(&String::from_utf8_lossy(without_line_break(bytes)));
                    errors.first.push(BrokenLine { line, text, problem });
                }
            }
            start = start.saturating_add(bytes.len());
        }
        if errors.total == 0 {
            Ok(reader.transaction)
        } else {
            Err(errors)
        }
    }
}

struct Reader {
    transaction: Transaction,
    wildcard: Option<char>,
    /// The consistency record was read.
    ended: bool,
}

impl Reader {
    fn line(&mut self, bytes: &[u8], before: &[u8]) -> Result<(), LineError> {
        if bytes.trim_ascii().is_empty() || bytes.starts_with(b"#") {
            return Ok(());
        }
        if self.ended {
            return Err(RowError::AfterRecord.into());
        }
        let line = core::str::from_utf8(bytes).map_err(|_| RowError::NotUtf8)?;
        // A key has no space in it, and no verb a separator: whichever comes first tells rows from statements.
        let (Some(end), true) = (
            line.find([' ', SEPARATOR]),
            line.starts_with(|c: char| c.is_ascii_alphabetic()),
        ) else {
            return Err(LineError::NoStatement);
        };
        let (name, rest) = line.split_at(end);
        let Some(rest) = rest.strip_prefix(' ') else {
            return self.plain_row(name, line, before);
        };
        match name {
            "add" => self.op(Op::Add(Row::parse_text(rest)?)),
            "remove" => {
                let pattern = parse_pattern(rest, self.wildcard)?;
                self.op(Op::Remove(pattern))
            }
            "format" => {
                let (key, columns) = parse_format(rest.split(SEPARATOR).next().unwrap_or(""), rest)?;
                self.op(Op::Format { key, columns })
            }
            "remove-format" => self.op(Op::RemoveFormat(Key::new(rest.trim_end())?)),
            "wildcard" => {
                self.wildcard = parse_wildcard(rest)?;
                Ok(())
            }
            "if" => {
                let precondition = parse_precondition(rest)?;
                room_for_one_more(&self.transaction.preconditions)?;
                self.transaction.preconditions.push(precondition);
                Ok(())
            }
            _ => Err(LineError::NoStatement),
        }
    }

    fn plain_row(&mut self, name: &str, line: &str, before: &[u8]) -> Result<(), LineError> {
        if name == RECORD_KEY {
            self.ended = true;
            ConsistencyRecord::parse_text(line)?.verify(before)?;
            return Ok(());
        }
        match name.strip_suffix(FORMAT_SUFFIX) {
            Some(name) => {
                let (key, columns) = parse_format(name, line)?;
                self.op(Op::Format { key, columns })
            }
            None => self.op(Op::Add(Row::parse_text(line)?)),
        }
    }

    fn op(&mut self, op: Op) -> Result<(), LineError> {
        room_for_one_more(&self.transaction.ops)?;
        self.transaction.ops.push(op);
        Ok(())
    }
}

fn room_for_one_more<T>(list: &[T]) -> Result<(), LineError> {
    if list.len() < OPERATIONS_MAX {
        Ok(())
    } else {
        Err(LineError::TooMany {
            limit: OPERATIONS_MAX,
        })
    }
}

/// `KEY:pat:pat`
fn parse_pattern(text: &str, wildcard: Option<char>) -> Result<Pattern, LineError> {
    let mut parts = text.split(SEPARATOR);
    let key = Key::new(parts.next().unwrap_or(""))?;
    let columns = decoded_values(&key, parts)?;
    Ok(Pattern::positional(key, columns).with_wildcard(wildcard))
}

fn parse_wildcard(text: &str) -> Result<Option<char>, LineError> {
    let mut characters = text.chars();
    match (text, characters.next(), characters.next()) {
        ("none", _, _) => Ok(None),
        (_, Some(wildcard), None) => Ok(Some(wildcard)),
        _ => Err(LineError::NoWildcard),
    }
}

fn parse_precondition(text: &str) -> Result<Precondition, LineError> {
    if let Some(row) = text.strip_prefix("row present ") {
        return Ok(Precondition::RowPresent(Row::parse_text(row)?));
    }
    if let Some(row) = text.strip_prefix("row absent ") {
        return Ok(Precondition::RowAbsent(Row::parse_text(row)?));
    }
    let number = text
        .strip_prefix("generation")
        .and_then(|rest| rest.trim_start().strip_prefix('='));
    let number = number.and_then(|number| number.trim().parse().ok());
    Ok(Precondition::Generation(Generation(
        number.ok_or(LineError::NoPrecondition)?,
    )))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{figure_6, key, row, update};
    use super::super::{Database, Update};
    use super::*;
    use alloc::format;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    fn problems(text: &str) -> Vec<(u64, LineError)> {
        let error = Transaction::parse(text.as_bytes()).expect_err("must be refused");
        error
            .first
            .into_iter()
            .map(|broken| (broken.line, broken.problem))
            .collect()
    }

    #[test]
    fn every_statement_is_read() {
        let text = "# a comment\n\nif generation = 12\nif generation=3\nif row present K:1:a b\nif row absent K:2:\n\
            format K:a:b\nadd K:1:a b \nremove K:x*\nremove K\nwildcard ?\nremove K:*:?\nwildcard none\nremove K:?\n\
            remove-format K\nL_fmt:c\nL:fe80%3A%3A1\nadd:x y\n";
        let transaction = Transaction::parse(text.as_bytes()).expect("reads");
        let preconditions = [
            Precondition::Generation(Generation(12)),
            Precondition::Generation(Generation(3)),
            Precondition::RowPresent(row("K:1:a b")),
            Precondition::RowAbsent(row("K:2:")),
        ];
        assert_eq!(transaction.preconditions, preconditions);
        let ops = [
            Op::Format {
                key: key("K"),
                columns: vec!["a".into(), "b".into()],
            },
            Op::Add(row("K:1:a b ")),
            Op::Remove(Pattern::positional(key("K"), ["x*"])),
            Op::Remove(Pattern::all(key("K"))),
            Op::Remove(Pattern::positional(key("K"), ["*", "?"]).with_wildcard(Some('?'))),
            Op::Remove(Pattern::positional(key("K"), ["?"]).with_wildcard(None)),
            Op::RemoveFormat(key("K")),
            Op::Format {
                key: key("L"),
                columns: vec!["c".into()],
            },
            Op::Add(row("L:fe80%3A%3A1")),
            Op::Add(row("add:x y")),
        ];
        assert_eq!(transaction.ops, ops);
    }

    #[test]
    fn preconditions_read_back_from_their_display() {
        for precondition in [
            Precondition::Generation(Generation(7)),
            Precondition::RowPresent(row("K:%3A:")),
            Precondition::RowAbsent(row("K:a b")),
        ] {
            let read = Transaction::parse(precondition.to_string().as_bytes()).expect("reads");
            assert_eq!(read.preconditions, [precondition]);
        }
    }

    #[test]
    fn all_wrong_lines_are_reported_with_number_and_reason() {
        let text = "add K:1\nadd 9:1\nfrobnicate K:1\nK\nif moon = full\nif generation = -1\nwildcard\nwildcard ab\n\
            format K\nremove K_fmt:x\nadd K:%zz\n K:1\nremove-format\n";
        let found = problems(text);
        assert_eq!(
            found.iter().map(|(line, _)| *line).collect::<Vec<_>>(),
            (2..=13).collect::<Vec<_>>()
        );
        assert_eq!(
            found[0].1,
            KeyError::Start {
                name: "9".into(),
                got: '9'
            }
            .into()
        );
        assert_eq!(found[1].1, LineError::NoStatement);
        assert_eq!(found[2].1, LineError::NoStatement);
        assert_eq!(found[3].1, LineError::NoPrecondition);
        assert_eq!(found[4].1, LineError::NoPrecondition);
        assert_eq!(found[6].1, LineError::NoWildcard);
        assert_eq!(found[7].1, RowError::NoColumns { key: key("K") }.into());
        let error = Transaction::parse(text.as_bytes())
            .expect_err("must be refused")
            .to_string();
        assert!(
            error.starts_with("12 lines are wrong; nothing was changed\n  line 2: add 9:1: key"),
            "{error}"
        );
    }

    #[test]
    fn at_most_20_wrong_lines_are_named() {
        let error = Transaction::parse("x\n".repeat(50).as_bytes()).expect_err("must be refused");
        assert_eq!((error.total, error.first.len()), (50, 20));
        assert!(error.to_string().ends_with("and 30 more"));
    }

    #[test]
    fn a_checkpoint_can_be_applied_and_its_record_is_verified() {
        let text = figure_6().to_text();
        let Transaction { preconditions, ops } = Transaction::parse(text.as_bytes()).expect("reads");
        let (loaded, _) = Database::default()
            .admit(&Update {
                preconditions,
                ..update(1, ops)
            })
            .expect("admitted");
        assert_eq!(loaded.content(), figure_6().content());

        let edited = text.replace("clust3", "clust4");
        assert!(matches!(problems(&edited)[..], [(6, LineError::Integrity(_))]));
        let longer = format!("{text}MY_KEY:a:b:c:d\n");
        assert_eq!(problems(&longer), [(7, RowError::AfterRecord.into())]);
    }

    #[test]
    fn a_transaction_file_has_a_bounded_number_of_operations() {
        let found = problems(&"K:1\n".repeat(OPERATIONS_MAX + 1));
        assert_eq!(
            found,
            [(
                OPERATIONS_MAX as u64 + 1,
                LineError::TooMany {
                    limit: OPERATIONS_MAX
                }
            )]
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic(text in "(((add|remove|format|if row|if|wildcard) )?(\\PC|:|K){0,20}\n){0,6}") {
            let _ = Transaction::parse(text.as_bytes());
        }
    }
}
