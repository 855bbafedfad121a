//! The text form of a whole database (Fig. 6): writing, reading, purifying and converting it.
//!
//! Read from checkpoint files, from files that people wrote, and from the init database. Reading takes rows in any
//! order, and skips empty lines and lines that start with `#`; writing is canonical: keys ascending, each format row
//! followed by its rows in byte order, and the consistency record.

use super::consistency::{ConsistencyRecord, FileOrigin, IntegrityError, RecordError};
use super::error::{BrokenRow, BrokenRows, RowError};
use super::row::{FORMAT_SUFFIX, RECORD_KEY, SEPARATOR, check_format, decoded_values};
use super::{Content, Database, Key, Row, admit};
use crate::ids::Generation;
use crate::time::Date;
use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// A text as a database: all of it fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedText {
    pub content: Content,
    /// Verified, unless the caller chose to ignore it.
    pub record: Option<ConsistencyRecord>,
    /// Which cluster saved it, if it says so.
    pub origin: Option<FileOrigin>,
}

/// What to do with a consistency record that a text ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordCheck {
    /// A record that does not fit the text is an error.
    Verify,
    /// The text may have been edited since: its record is read, but not compared.
    Ignore,
}

/// Why a text is no database.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    #[error("{0}\ndrop them from the file: ccdadm purify FILE")]
    Rows(BrokenRows),
    #[error("line {line}: {problem}")]
    Record { line: u64, problem: RecordError },
    #[error(transparent)]
    Integrity(#[from] IntegrityError),
}

/// A text without the rows that break their format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purified {
    pub content: Content,
    /// All rows that were dropped, in the order of the file.
    pub broken: Vec<BrokenRow>,
    /// The record as it stands in the text, if it does, and its line; it fits the text only by chance if rows were
    /// dropped.
    pub record: Option<(u64, Result<ConsistencyRecord, RecordError>)>,
    /// How the text differs from its record.
    pub integrity: Option<IntegrityError>,
    /// Which cluster saved it, if it says so.
    pub origin: Option<FileOrigin>,
}

impl Database {
    /// The canonical text form, ending with the consistency record.
    pub fn to_text(&self) -> String {
        let mut text = String::with_capacity(
            usize::try_from(self.length_bytes())
                .unwrap_or(0)
                .saturating_add(256),
        );
        self.write_text(|piece| text.push_str(piece));
        text.push_str(&self.consistency_record().to_string());
        text.push('\n');
        text
    }

    /// The same as a file, which says which cluster it is of. Every reader of the text form takes it.
    pub fn to_file_text(&self, origin: &FileOrigin) -> String {
        let mut text = String::with_capacity(
            usize::try_from(self.length_bytes())
                .unwrap_or(0)
                .saturating_add(512),
        );
        self.write_text(|piece| text.push_str(piece));
        let record = self.consistency_record();
        text.push_str(&origin.comment(&record));
        text.push('\n');
        let record = record.of_text(text.as_bytes());
        text.push_str(&record.to_string());
        text.push('\n');
        text
    }

    /// A database that was never part of a cluster: generation 1 of no epoch, or what its caller makes of it.
    pub fn from_content(content: &Content, date: Date) -> Result<Self, BrokenRows> {
        let mut database = Self {
            date,
            ..Self::default()
        };
        database.set_tables(admit::tables_of(content, None)?);
        database.position.stamp.generation = Generation(1);
        Ok(database)
    }
}

impl ParsedText {
    /// Reads a text of which every line must fit.
    pub fn parse(text: &[u8], check: RecordCheck) -> Result<Self, TextError> {
        let Purified {
            content,
            broken,
            record,
            integrity,
            origin,
        } = purify_text(text);
        let record = match record {
            None => None,
            Some((_, Ok(record))) => Some(record),
            Some((_, Err(_))) if check == RecordCheck::Ignore => None,
            Some((line, Err(problem))) => return Err(TextError::Record { line, problem }),
        };
        // A damaged file is called damaged, whatever its rows look like now.
        if let Some(error) = integrity.filter(|_| check == RecordCheck::Verify) {
            return Err(error.into());
        }
        if broken.is_empty() {
            return Ok(Self {
                content,
                record,
                origin,
            });
        }
        let mut named = BrokenRows::default();
        broken.into_iter().for_each(|row| named.push(row));
        Err(TextError::Rows(named))
    }
}

/// Turns a text of formats and rows into a database file with its record (patent: convert). A record that the text
/// has already is replaced.
pub fn convert_text(text: &[u8], date: Date) -> Result<String, TextError> {
    let parsed = ParsedText::parse(text, RecordCheck::Ignore)?;
    let database = Database::from_content(&parsed.content, date).map_err(TextError::Rows)?;
    Ok(database.to_text())
}

/// Keeps the rows that fit, and says of each of the others why it does not (patent: purify).
pub fn purify_text(text: &[u8]) -> Purified {
    let text = without_byte_order_mark(text);
    let mut scan = Scan::default();
    let mut start = 0_usize;
    for (number, bytes) in (1..).zip(text.split_inclusive(|byte| *byte == b'\n')) {
        scan.line(number, bytes, text.get(..start).unwrap_or_default());
        start = start.saturating_add(bytes.len());
    }
    scan.finish()
}

#[derive(Default)]
struct Scan<'a> {
    formats: BTreeMap<Key, Vec<String>>,
    rows: Vec<(u64, &'a str)>,
    broken: Vec<BrokenRow>,
    record: Option<(u64, Result<ConsistencyRecord, RecordError>)>,
    integrity: Option<IntegrityError>,
    /// Of the comment that came last, with the seal of the record that follows it.
    origin: Option<(FileOrigin, [u8; 32])>,
}

/// A text without the mark that editors of other systems put in front of it; the record is about what follows.
pub(super) fn without_byte_order_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// A line of a text without its line break, which may be that of another system.
pub(super) fn without_line_break(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

impl<'a> Scan<'a> {
    fn line(&mut self, number: u64, bytes: &'a [u8], before: &[u8]) {
        let bytes = without_line_break(bytes);
        if bytes.trim_ascii().is_empty() || bytes.starts_with(b"#") {
            let comment = core::str::from_utf8(bytes).ok().filter(|_| self.record.is_none());
            self.origin = comment.and_then(FileOrigin::parse).or(self.origin.take());
            return;
        }
        let Ok(line) = core::str::from_utf8(bytes) else {
            let shown = String::from_utf8_lossy(bytes);
            return self
                .broken
                .push(BrokenRow::new(Some(number), &shown, RowError::NotUtf8));
        };
        let name = line.split(SEPARATOR).next().unwrap_or("");
        let refused = if self.record.is_some() {
            Some(RowError::AfterRecord)
        } else if name == RECORD_KEY {
            let record = ConsistencyRecord::parse_text(line);
            self.integrity = record.as_ref().ok().and_then(|record| {
                record
                    .verify_sealed(before, self.origin.as_ref().map(|(_, seal)| *seal))
                    .err()
            });
            self.record = Some((number, record));
            None
        } else if let Some(name) = name.strip_suffix(FORMAT_SUFFIX) {
            self.format(name, line).err()
        } else {
            self.rows.push((number, line));
            None
        };
        if let Some(problem) = refused {
            self.broken.push(BrokenRow::new(Some(number), line, problem));
        }
    }

    fn format(&mut self, name: &str, line: &str) -> Result<(), RowError> {
        let (key, columns) = parse_format(name, line)?;
        if self.formats.contains_key(&key) {
            return Err(RowError::FormatTwice { key });
        }
        self.formats.insert(key, columns);
        Ok(())
    }

    /// Rows are looked at last: their format may stand after them.
    fn finish(mut self) -> Purified {
        let mut fitting = Vec::with_capacity(self.rows.len());
        for (number, line) in core::mem::take(&mut self.rows) {
            match self.row(line) {
                Ok((row, text)) => fitting.push((row, text, number, line)),
                Err(problem) => self.broken.push(BrokenRow::new(Some(number), line, problem)),
            }
        }
        // Into the order of the text form; of equal rows the first of the file comes first.
        fitting.sort_by(|(one, one_text, ..), (other, other_text, ..)| {
            one.key.cmp(&other.key).then_with(|| one_text.cmp(other_text))
        });
        let mut rows: Vec<Row> = Vec::with_capacity(fitting.len());
        for (row, _, number, line) in fitting {
            if rows.last() == Some(&row) {
                self.broken.push(BrokenRow::new(
                    Some(number),
                    line,
                    RowError::RowTwice { key: row.key },
                ));
            } else {
                rows.push(row);
            }
        }
        self.broken.sort_by_key(|broken| broken.line);
        let content = Content {
            formats: self.formats.into_iter().collect(),
            rows,
        };
        Purified {
            content,
            broken: self.broken,
            record: self.record,
            integrity: self.integrity,
            origin: self.origin.map(|(origin, _)| origin),
        }
    }

    fn row(&self, line: &'a str) -> Result<(Row, Cow<'a, str>), RowError> {
        let (row, text) = Row::parse_canonical(line)?;
        let columns = self
            .formats
            .get(&row.key)
            .ok_or_else(|| RowError::NoFormat { key: row.key.clone() })?;
        let (expected, got) = (columns.len() as u64, row.values.len() as u64);
        if expected != got {
            return Err(RowError::ColumnCount {
                key: row.key,
                expected,
                got,
            });
        }
        Ok((row, text))
    }
}

/// Reads `KEY_fmt:col:col`; `name` is what stands before `_fmt`.
pub(super) fn parse_format(name: &str, line: &str) -> Result<(Key, Vec<String>), RowError> {
    let key = Key::new(name)?;
    let columns = decoded_values(&key, line.split(SEPARATOR).skip(1))?;
    check_format(&key, &columns)?;
    Ok((key, columns))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{FIGURE_6, FIGURE_6_DATE, any_history, figure_6, key, row};
    use super::*;
    use alloc::format;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<ParsedText, TextError> {
        ParsedText::parse(text.as_bytes(), RecordCheck::Verify)
    }

    /// Line and problem of each row that purify drops.
    fn problems(text: &str) -> Vec<(u64, RowError)> {
        let broken = purify_text(text.as_bytes()).broken;
        broken
            .into_iter()
            .map(|broken| (broken.line.unwrap_or(0), broken.problem))
            .collect()
    }

    #[test]
    fn figure_6_is_written_row_for_row() {
        let text = figure_6().to_text();
        let (rows, record) = text.split_at(FIGURE_6.len());
        assert_eq!(rows, FIGURE_6);
        let sum: u64 = FIGURE_6.bytes().map(u64::from).sum();
        let start = format!(
            "CCD_CHK:Apr 16 09h49m47 1997:1:{}:4:0,1,2,3:{sum}:",
            FIGURE_6.len()
        );
        assert!(record.starts_with(&start) && record.ends_with('\n'), "{record}");
        assert_eq!(record.lines().count(), 1);
    }

    #[test]
    fn figure_6_as_printed_is_read_if_its_record_is_ignored() {
        let printed = format!("{FIGURE_6}CCD_CHK:Apr 16 09h49m47 1997:2429:36:4:0,1,2,3:1757\n");
        let error = parse(&printed).expect_err("its length and checksum are of other rows");
        assert!(matches!(error, TextError::Integrity(_)), "{error}");
        let parsed = ParsedText::parse(printed.as_bytes(), RecordCheck::Ignore).expect("reads");
        assert_eq!(parsed.content, figure_6().content());
        assert_eq!(
            parsed.record.map(|record| record.generation),
            Some(Generation(2429))
        );
    }

    #[test]
    fn a_record_of_six_columns_is_verified_too() {
        let sum: u64 = FIGURE_6.bytes().map(u64::from).sum();
        let length = FIGURE_6.len();
        let good = format!("{FIGURE_6}CCD_CHK:Apr 16 09h49m47 1997:2429:{length}:3::{sum}");
        assert_eq!(parse(&good).expect("reads").content, figure_6().content());
        let bad = good.replace("clust3", "clust4");
        assert!(matches!(parse(&bad), Err(TextError::Integrity(_))));
    }

    #[test]
    fn rows_may_come_in_any_order_with_comments_and_empty_lines() {
        let text = "# mine\n\nB:2\nA:x:y\r\nB_fmt:b\nA_fmt:a:c\n  \nB:1\n";
        let parsed = parse(text).expect("reads");
        assert_eq!(parsed.record, None);
        let database = Database::from_content(&parsed.content, FIGURE_6_DATE).expect("fits");
        assert!(
            database
                .to_text()
                .starts_with("A_fmt:a:c\nA:x:y\nB_fmt:b\nB:1\nB:2\nCCD_CHK:")
        );
    }

    #[test]
    fn purify_reports_and_drops_rows_that_break_their_format() {
        let text = "K_fmt:a:b\nK:1:2\nK:1\nK:1:2:3\nK:1:2\nNONE:1\nK_fmt:c\n9:x\nK:%zz:1\nL_fmt:\nno separator\nK:3:4\n";
        let k = || key("K");
        let expected = [
            (
                3,
                RowError::ColumnCount {
                    key: k(),
                    expected: 2,
                    got: 1,
                },
            ),
            (
                4,
                RowError::ColumnCount {
                    key: k(),
                    expected: 2,
                    got: 3,
                },
            ),
            (5, RowError::RowTwice { key: k() }),
            (6, RowError::NoFormat { key: key("NONE") }),
            (7, RowError::FormatTwice { key: k() }),
        ];
        let found = problems(text);
        assert_eq!(found[..5], expected);
        assert_eq!(
            found[5..].iter().map(|(line, _)| *line).collect::<Vec<_>>(),
            [8, 9, 10, 11]
        );
        let purified = purify_text(text.as_bytes());
        assert_eq!(purified.content.rows, [row("K:1:2"), row("K:3:4")]);
        assert!(Database::from_content(&purified.content, FIGURE_6_DATE).is_ok());
        let TextError::Rows(named) = parse(text).expect_err("does not fit") else {
            panic!("another error")
        };
        assert_eq!(named.total, 9);
        assert!(
            format!("{named}").contains("line 3: K:1: key K has 2 columns, got 1"),
            "{named}"
        );
    }

    #[test]
    fn lines_that_are_too_long_or_no_text_are_reported() {
        let long = format!("K_fmt:a\nK:{}\n", "x".repeat(1023));
        assert_eq!(
            problems(&long),
            [(
                2,
                RowError::TooLong {
                    key: key("K"),
                    limit: 1024,
                    got: 1025
                }
            )]
        );
        let broken = purify_text(b"K_fmt:a\nK:\xff\n").broken;
        assert_eq!(broken.len(), 1);
        assert_eq!(broken[0].problem, RowError::NotUtf8);
        let after = format!("{}K:1\n", figure_6().to_text());
        assert_eq!(problems(&after), [(7, RowError::AfterRecord)]);
    }

    #[test]
    fn at_most_20_problems_are_named() {
        let text = "K:1\n".repeat(100);
        let TextError::Rows(named) = parse(&text).expect_err("does not fit") else {
            panic!("another error")
        };
        assert_eq!((named.total, named.first.len()), (100, 20));
        assert!(format!("{named}").ends_with("and 80 more"), "{named}");
    }

    #[test]
    fn a_record_that_does_not_parse_is_an_error_with_its_line() {
        let text = format!("{FIGURE_6}CCD_CHK:yesterday:1:2:4:0:3\n");
        let error = parse(&text).expect_err("no date");
        assert!(matches!(
            error,
            TextError::Record {
                line: 6,
                problem: RecordError::Column { name: "date", .. }
            }
        ));
    }

    #[test]
    fn convert_gives_a_text_file_its_record() {
        let converted = convert_text(FIGURE_6.as_bytes(), FIGURE_6_DATE).expect("converts");
        let parsed = parse(&converted).expect("reads");
        assert_eq!(parsed.content, figure_6().content());
        assert_eq!(parsed.record.map(|record| record.date), Some(FIGURE_6_DATE));
        let edited = converted.replace("clust3", "clust4");
        assert!(parse(&edited).is_err());
        let again = convert_text(edited.as_bytes(), FIGURE_6_DATE).expect("a stale record is replaced");
        assert!(parse(&again).is_ok());
        assert!(matches!(
            convert_text(b"K:1\n", FIGURE_6_DATE),
            Err(TextError::Rows(_))
        ));
    }

    fn origin() -> FileOrigin {
        FileOrigin {
            cluster: crate::ids::ClusterId([0xab; 16]),
            name: "prod: one".into(),
        }
    }

    #[test]
    fn a_saved_file_says_which_cluster_it_is_of_and_every_reader_takes_it() {
        let text = figure_6().to_file_text(&origin());
        let parsed = ParsedText::parse(text.as_bytes(), RecordCheck::Verify).expect("it was just saved");
        assert_eq!(parsed.content, figure_6().content());
        assert_eq!(parsed.origin, Some(origin()));
        let record = parsed.record.expect("it has one");
        assert_eq!(record.generation, figure_6().position().stamp.generation);
        // As a reader that knows nothing of the comment goes about it.
        let last = text.trim_end().rfind('\n').expect("several lines") + 1;
        let (before, line) = text.split_at(last);
        let read = ConsistencyRecord::parse_text(line.trim_end()).expect("it is the last line");
        assert_eq!(read.verify(before.as_bytes()), Ok(()));
        assert!(
            super::super::Transaction::parse(text.as_bytes()).is_ok(),
            "it can be applied"
        );
        let plain = figure_6().to_text();
        assert_eq!(
            ParsedText::parse(plain.as_bytes(), RecordCheck::Verify).map(|parsed| parsed.origin),
            Ok(None)
        );
    }

    #[test]
    fn no_column_of_the_record_of_a_saved_file_can_be_changed_unnoticed() {
        let text = figure_6().to_file_text(&origin());
        let last = text.trim_end().rfind('\n').expect("several lines") + 1;
        let columns: Vec<&str> = text[last..].trim_end().split(SEPARATOR).collect();
        let others = [
            "",
            "Apr 16 09h49m48 1997",
            "9999",
            "1",
            "3",
            "0,1",
            "1",
            &"0".repeat(64),
        ];
        let position = format!("9.{}", "0".repeat(64));
        for (index, other) in others
            .iter()
            .copied()
            .chain([position.as_str()])
            .enumerate()
            .skip(1)
        {
            let mut changed = columns.clone();
            assert_ne!(changed[index], other, "column {index}");
            changed[index] = other;
            let text = format!("{}{}\n", &text[..last], changed.join(":"));
            let error = ParsedText::parse(text.as_bytes(), RecordCheck::Verify).expect_err("it was changed");
            assert!(
                matches!(error, TextError::Integrity(_)),
                "column {index}: {error}"
            );
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_file() {
        for text in [figure_6().to_text(), figure_6().to_file_text(&origin())] {
            let marked = format!("\u{feff}{text}");
            let parsed = ParsedText::parse(marked.as_bytes(), RecordCheck::Verify);
            assert_eq!(parsed, ParsedText::parse(text.as_bytes(), RecordCheck::Verify));
            assert!(parsed.is_ok());
            assert!(super::super::Transaction::parse(marked.as_bytes()).is_ok());
        }
    }

    proptest! {
        #[test]
        fn a_database_reads_back_from_its_text((database, _) in any_history()) {
            let text = database.to_text();
            let parsed = parse(&text).expect("reads");
            prop_assert_eq!(&parsed.content, &database.content());
            prop_assert_eq!(parsed.record.as_ref().map(ToString::to_string), text.lines().last().map(String::from));
            let again = Database::from_content(&parsed.content, database.date()).expect("fits");
            prop_assert_eq!(again.content_digest(), database.content_digest());
        }

        #[test]
        fn any_changed_byte_before_the_record_is_an_error(index in 0..FIGURE_6.len(), change in 1..=255_u8) {
            let mut text = figure_6().to_text().into_bytes();
            text[index] ^= change;
            prop_assert!(ParsedText::parse(&text, RecordCheck::Verify).is_err());
        }

        #[test]
        fn no_bytes_make_reading_panic(text in "([AB](_fmt)?:[:a-c%]{0,5}\n|CCD_CHK(:[0-9]{0,3}){0,9}\n|\\PC{0,9}\n?){0,9}") {
            let _ = parse(&text);
            let purified = purify_text(text.as_bytes());
            prop_assert!(Database::from_content(&purified.content, FIGURE_6_DATE).is_ok());
        }
    }
}
