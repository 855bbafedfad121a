//! Formats and rows as checked text: what a restore of any size brings, however many rows it has.
//!
//! A [`Content`] is a list of rows taken apart: some hundred bytes of memory for each, and each must be put together and
//! sorted before it is part of a database. This is the canonical text form instead, already cut into the tables that a database
//! consists of: taking it costs no more than counting keys, and a clone costs nothing. On the wire and in a journal it is the
//! text itself, as an image has it.
//!
//! Always holds: every row fits its format and the limits of every row, and no row stands twice.

use super::admit::tables_of;
use super::database::Table;
use super::error::BrokenRows;
use super::image::TextReader;
use super::lines::Measure;
use super::{Content, Database, Difference, Key, Op, format_text};
use crate::configuration::RestoreFlag;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use rpds::RedBlackTreeMapSync;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// See the top of this file.
#[derive(Clone, Default)]
pub struct ContentText {
    tables: RedBlackTreeMapSync<Key, Table>,
    measure: Measure,
}

impl ContentText {
    /// Of all keys of a content, or of one.
    ///
    /// # Errors
    /// With the formats and rows that do not fit.
    pub fn new(content: &Content, only: Option<&Key>) -> Result<Self, BrokenRows> {
        tables_of(content, only).map(Self::of_tables)
    }

    fn of_tables(tables: RedBlackTreeMapSync<Key, Table>) -> Self {
        let mut measure = Measure::default();
        tables
            .iter()
            .for_each(|(key, table)| measure.add(table.measure(key)));
        Self { tables, measure }
    }

    pub(super) fn tables(&self) -> &RedBlackTreeMapSync<Key, Table> {
        &self.tables
    }

    /// Bytes of the text.
    pub fn len_bytes(&self) -> u64 {
        self.measure.length_bytes
    }

    /// Rows of all keys; formats do not count.
    pub fn row_count(&self) -> u64 {
        self.measure.rows
    }

    /// Rows, bytes and their sum.
    pub(super) fn numbers(&self) -> (u64, u64, u64) {
        (
            self.measure.rows,
            self.measure.length_bytes,
            self.measure.checksum,
        )
    }

    fn text(&self) -> String {
        let mut text = String::with_capacity(usize::try_from(self.measure.length_bytes).unwrap_or_default());
        for (key, table) in &self.tables {
            text.push_str(&format_text(key, &table.columns));
            text.push('\n');
            table.lines.pieces().for_each(|piece| text.push_str(piece));
        }
        text
    }
}

impl Database {
    /// Formats and rows of this version, which costs nothing; of one key, if it is named.
    pub fn content_text(&self, only: Option<&Key>) -> ContentText {
        let Some(key) = only else {
            return ContentText {
                tables: self.tables.clone(),
                measure: self.measure,
            };
        };
        let mut tables = RedBlackTreeMapSync::new_sync();
        if let Some(table) = self.tables.get(key) {
            tables.insert_mut(key.clone(), table.clone());
        }
        ContentText::of_tables(tables)
    }
}

impl Difference {
    /// The operations that make this change to `now`, which must be a version that it starts from, however many rows it has: each
    /// key that it touches becomes what it is afterwards.
    ///
    /// # Errors
    /// If `now` is no such version.
    pub fn loads(&self, now: &Database, restore: RestoreFlag) -> Result<Vec<Op>, BrokenRows> {
        let touched: Vec<Key> = self
            .keys()
            .into_iter()
            .map(|effects| effects.key.clone())
            .collect();
        let after = self.applied_to(now.content_of(&touched));
        let loads = touched.into_iter().map(|key| {
            let text = ContentText::new(&after, Some(&key))?;
            Ok(Op::LoadKey { key, text, restore })
        });
        loads.collect()
    }
}

impl Database {
    fn content_of(&self, keys: &[Key]) -> Content {
        let mut content = self.content();
        content.formats.retain(|(key, _)| keys.contains(key));
        content.rows.retain(|row| keys.contains(&row.key));
        content
    }
}

impl PartialEq for ContentText {
    fn eq(&self, other: &Self) -> bool {
        self.measure == other.measure && self.tables.iter().eq(other.tables.iter())
    }
}

impl Eq for ContentText {}

impl fmt::Debug for ContentText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentText")
            .field("rows", &self.measure.rows)
            .field("bytes", &self.measure.length_bytes)
            .finish()
    }
}

impl Serialize for ContentText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.text().as_bytes())
    }
}

impl<'de> Deserialize<'de> for ContentText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(Text)
    }
}

struct Text;

impl Visitor<'_> for Text {
    type Value = ContentText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("formats and rows in canonical text form")
    }

    fn visit_bytes<E: Error>(self, text: &[u8]) -> Result<ContentText, E> {
        let mut reader = TextReader::default();
        reader.take(text).map_err(E::custom)?;
        reader.finish().map(ContentText::of_tables).map_err(E::custom)
    }

    fn visit_byte_buf<E: Error>(self, text: Vec<u8>) -> Result<ContentText, E> {
        self.visit_bytes(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{any_history, commit, figure_6, key, row, update};
    use super::super::{OpError, Record, RowError};
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn load(text: ContentText) -> Op {
        Op::LoadAll {
            text,
            restore: RestoreFlag::AllActive,
        }
    }

    #[test]
    fn broken_rows_are_named_before_anything_travels() {
        let content = Content {
            formats: vec![(key("K"), vec!["a".into()])],
            rows: vec![row("K:1"), row("K:1:2"), row("L:1")],
        };
        let broken = ContentText::new(&content, None).expect_err("two rows do not fit");
        assert_eq!(broken.total, 2);
        let of_key = ContentText::new(&content, Some(&key("L"))).expect_err("it has no format");
        assert!(matches!(of_key.first[0].problem, RowError::NoFormat { .. }));
    }

    #[test]
    fn text_that_is_not_canonical_is_not_taken() {
        for text in [
            "K:1\n",
            "K_fmt:a\nK:2\nK:1\n",
            "K_fmt:a\nK:1",
            "K_fmt:a\nK:%41\n",
            "\n",
            "K_fmt:a\nK:1:2\n",
        ] {
            let bytes = postcard::to_allocvec(text.as_bytes()).expect("bytes encode");
            assert!(postcard::from_bytes::<ContentText>(&bytes).is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_the_named_key_is_loaded_and_one_that_is_absent_goes() {
        let base = figure_6();
        let other = key("OTHER");
        let content = Content {
            formats: vec![(other.clone(), vec!["a".into()])],
            rows: vec![row("OTHER:1")],
        };
        let text = ContentText::new(&content, None).expect("it fits");
        let load_key = |key: Key, text: ContentText| Op::LoadKey {
            key,
            text,
            restore: RestoreFlag::AllActive,
        };
        let with = commit(&base, update(2, vec![load_key(other.clone(), text.clone())])).1;
        assert_eq!(with.row_count(), base.row_count() + 1);
        let without = commit(
            &with,
            update(3, vec![load_key(other.clone(), ContentText::default())]),
        )
        .1;
        assert_eq!(without.content(), base.content());
        let nowhere = update(4, vec![load_key(other.clone(), ContentText::default())]);
        assert_eq!(without.admit(&nowhere).map(drop), Err(OpError::NoSuchKey(other)));
    }

    proptest! {
        #[test]
        fn loading_is_restoring((from, _) in any_history(), (to, _) in any_history()) {
            let text = ContentText::new(&to.content(), None).expect("a database's rows fit");
            prop_assert_eq!(&text, &to.content_text(None));
            let replace = Op::ReplaceAll { content: to.content(), restore: RestoreFlag::AllActive };
            let (restored, gone) = from.admit(&update(90, vec![replace])).expect("admitted");
            let (loaded, gone_too) = from.admit(&update(90, vec![load(text)])).expect("admitted");
            prop_assert_eq!(gone, gone_too);
            prop_assert_eq!(loaded.to_image(), restored.to_image());
        }

        #[test]
        fn a_record_with_text_reads_back_and_applies((from, _) in any_history(), (to, _) in any_history()) {
            let update = update(90, vec![load(to.content_text(None))]);
            let bytes_max = update.encoded_bytes_max();
            prop_assert!(postcard::to_allocvec(&update).expect("encodes").len() <= bytes_max);
            let (record, after) = commit(&from, update);
            let read = Record::decode(&record.bytes());
            prop_assert_eq!(read.as_ref(), Ok(&record));
            prop_assert_eq!(from.apply(&read.expect("it was just compared")), Ok(after));
        }

        #[test]
        fn a_difference_is_made_by_loading_the_keys_that_it_touches((from, _) in any_history(), (to, _) in any_history()) {
            let loads = from.difference(&to).loads(&from, RestoreFlag::AllActive).expect("it starts from there");
            let made = from.admit(&update(90, loads)).expect("admitted").0;
            prop_assert_eq!(made.content(), to.content());
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = postcard::from_bytes::<ContentText>(&bytes);
        }
    }
}
