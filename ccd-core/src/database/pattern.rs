//! Patterns: what `query` and `remove` match, and how.
//!
//! A client fills in a [`Pattern`] without knowing the format; a database compiles it against the format into a
//! [`Matcher`]. Matching takes time linear in the value for every wildcard of the pattern, whatever the pattern.

use super::encoding::{decoded, push_encoded};
use super::error::{OpError, RowError};
use super::lines::Lines;
use super::row::{self, COLUMNS_DECODED_MAX, COLUMNS_MAX, Key, SEPARATOR};
use super::sizes::total;
use super::{Row, error::shortened};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// The wildcard unless the client sets another (`ccd_wildchar`).
pub const WILDCARD: char = '*';

/// What `query` and `remove` match: positional patterns, of which missing ones match anything, and patterns by
/// column name. A row matches if all of them do. Patterns are plain text, not encoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pattern {
    pub key: Key,
    #[serde(deserialize_with = "crate::bounded::at_most::<_, _, COLUMNS_DECODED_MAX>")]
    pub columns: Vec<Option<String>>,
    /// Column name and pattern. The server knows the format, and refuses an unknown name.
    #[serde(deserialize_with = "crate::bounded::at_most::<_, _, COLUMNS_DECODED_MAX>")]
    pub named: Vec<(String, String)>,
    /// Matches any run of characters, also none. `None`: everything is matched exactly.
    pub wildcard: Option<char>,
}

impl Pattern {
    /// All rows of a key.
    pub fn all(key: Key) -> Self {
        Self {
            key,
            columns: Vec::new(),
            named: Vec::new(),
            wildcard: Some(WILDCARD),
        }
    }

    /// Positional patterns, with the default wildcard.
    pub fn positional<V: Into<String>>(key: Key, columns: impl IntoIterator<Item = V>) -> Self {
        let columns = columns.into_iter().map(|column| Some(column.into())).collect();
        Self {
            columns,
            ..Self::all(key)
        }
    }

    /// This row and no other.
    pub fn exact(row: &Row) -> Self {
        Self {
            wildcard: None,
            ..Self::positional(row.key.clone(), row.values.iter().cloned())
        }
    }

    /// Adds a pattern for the column of this name.
    #[must_use]
    pub fn by_name(mut self, name: impl Into<String>, pattern: impl Into<String>) -> Self {
        self.named.push((name.into(), pattern.into()));
        self
    }

    #[must_use]
    pub fn with_wildcard(mut self, wildcard: Option<char>) -> Self {
        self.wildcard = wildcard;
        self
    }

    /// Patterns as a command line gives them: `NAME=PATTERN`, where NAME could be a column, goes by name; anything
    /// else is positional. A positional pattern that looks like that is written by its name: `NAME=a=b`.
    pub fn from_arguments<V: AsRef<str>>(key: Key, arguments: impl IntoIterator<Item = V>) -> Self {
        let mut pattern = Self::all(key);
        for argument in arguments {
            let argument = argument.as_ref();
            match argument.split_once('=') {
                Some((name, value)) if row::is_column_name(name) => {
                    pattern.named.push((name.into(), value.into()));
                }
                _ => pattern.columns.push(Some(argument.into())),
            }
        }
        pattern
    }
}

impl fmt::Display for Pattern {
    /// `KEY:clust*:*` and then ` column=pattern` for those by name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::from(self.key.as_str());
        for column in &self.columns {
            text.push(SEPARATOR);
            match column {
                Some(pattern) => push_encoded(&mut text, pattern),
                None => text.push(self.wildcard.unwrap_or(WILDCARD)),
            }
        }
        for (name, pattern) in &self.named {
            text.push(' ');
            text.push_str(name);
            text.push('=');
            push_encoded(&mut text, pattern);
        }
        f.write_str(&text)
    }
}

/// Costs of a line and of a search in it, beside their bytes.
const LINE_COST: usize = 32;
const PART_COST: usize = 16;

/// Most patterns by name of one column; one by position may come on top.
pub const NAMED_PATTERNS_PER_COLUMN_MAX: usize = 4;

impl Pattern {
    /// Checks what the format is not needed for. A query and an update are refused by it; the records of a journal are not.
    ///
    /// # Errors
    /// When a column has too many patterns: each of them is looked for in each row.
    pub(super) fn check(&self) -> Result<(), OpError> {
        row::check_column_count(&self.key, self.named.len())?;
        for (name, _) in &self.named {
            let got = self.named.iter().filter(|(other, _)| other == name).count();
            if got > NAMED_PATTERNS_PER_COLUMN_MAX {
                return Err(OpError::TooManyPatterns {
                    key: self.key.clone(),
                    name: shortened(name),
                    limit: NAMED_PATTERNS_PER_COLUMN_MAX as u64,
                    got: got as u64,
                });
            }
        }
        Ok(())
    }
}

/// A pattern resolved against the format of its key.
#[derive(Debug)]
pub(super) struct Matcher {
    /// Every matching line starts with this; lines are sorted, so only a stretch of them is looked at.
    prefix: String,
    /// No line but the prefix itself matches.
    whole: bool,
    /// What the columns must match; columns that may be anything are not listed.
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    index: usize,
    pattern: ColumnPattern,
    /// A line that begins with the prefix (is it, if `whole`) matches here.
    settled: bool,
}

impl Matcher {
    pub(super) fn new(pattern: &Pattern, format: &[String]) -> Result<Self, OpError> {
        let key = &pattern.key;
        let (expected, got) = (format.len() as u64, pattern.columns.len() as u64);
        if got > expected {
            return Err(RowError::ColumnCount {
                key: key.clone(),
                expected,
                got,
            }
            .into());
        }
        row::check_column_count(key, pattern.named.len())?;
        let mut columns = Vec::with_capacity(total([pattern.columns.len(), pattern.named.len()]));
        let mut add = |index, text: &str| {
            row::check_text_length(key, text)?;
            columns.push(Column {
                index,
                pattern: ColumnPattern::new(text, pattern.wildcard),
                settled: false,
            });
            Ok::<(), RowError>(())
        };
        for (index, column) in pattern.columns.iter().enumerate() {
            if let Some(text) = column {
                add(index, text)?;
            }
        }
        for (name, text) in &pattern.named {
            let index =
                format
                    .iter()
                    .position(|column| column == name)
                    .ok_or_else(|| OpError::UnknownColumn {
                        key: key.clone(),
                        name: shortened(name),
                        columns: format.to_vec(),
                    })?;
            add(index, text)?;
        }
        let (prefix, whole) = settle(key, &mut columns, format.len());
        columns.retain(|column| !column.pattern.matches_all());
        Ok(Self {
            prefix,
            whole,
            columns,
        })
    }

    /// The lines that match.
    pub(super) fn matching<'a>(&'a self, lines: &'a Lines) -> impl Iterator<Item = &'a str> {
        // What is the prefix itself comes before what only begins with it.
        let most = if self.whole { 1 } else { usize::MAX };
        lines
            .starting_with(&self.prefix)
            .take(most)
            .filter(|line| self.matches(line))
    }

    /// What every matching line starts with, and whether every match is this text.
    pub(super) fn prefix(&self) -> (&str, bool) {
        (&self.prefix, self.whole)
    }

    /// Every line that starts with the prefix matches.
    pub(super) fn takes_all(&self) -> bool {
        !self.whole && self.columns.iter().all(|column| column.settled)
    }

    /// How many patterns a line is compared with.
    pub(super) fn open_columns(&self) -> usize {
        self.columns.iter().filter(|column| !column.settled).count()
    }

    /// Roughly how much work it is to look at this line, in bytes that are read.
    pub(super) fn cost(&self, line: &str) -> u64 {
        let open = self.columns.iter().filter(|column| !column.settled);
        let compared = open.map(|column| {
            let parts = column.pattern.parts.min(line.len());
            line.len().saturating_add(parts.saturating_mul(PART_COST))
        });
        total(compared.chain([LINE_COST, line.len()])) as u64
    }

    /// Whether a row with these plain values matches.
    pub(super) fn matches_values(&self, values: &[String]) -> bool {
        self.columns.iter().all(|column| {
            values
                .get(column.index)
                .is_some_and(|value| column.pattern.matches(value))
        })
    }

    /// Whether a stored line, `KEY:val:val` encoded, matches that begins with the prefix.
    pub(super) fn matches(&self, line: &str) -> bool {
        if self.whole && line != self.prefix {
            return false;
        }
        if self.columns.iter().all(|column| column.settled) {
            return true;
        }
        let mut values = [""; COLUMNS_MAX];
        for (slot, value) in values.iter_mut().zip(line.split(SEPARATOR).skip(1)) {
            *slot = value;
        }
        let mut open = self.columns.iter().filter(|column| !column.settled);
        open.all(|column| {
            values
                .get(column.index)
                .is_some_and(|value| decoded(value).is_ok_and(|value| column.pattern.matches(&value)))
        })
    }
}

/// The longest text that every match starts with: the key, leading columns without wildcard, and the beginning of
/// the next one. And whether every match is this text.
fn settle(key: &Key, columns: &mut [Column], column_count: usize) -> (String, bool) {
    let text_bytes = columns
        .iter()
        .map(|column| total([column.pattern.first.len(), 1]));
    let mut prefix = String::with_capacity(total(text_bytes.chain([key.as_str().len(), 1])));
    prefix.push_str(key.as_str());
    prefix.push(SEPARATOR);
    for wanted in 0..column_count {
        let Some(column) = columns.iter_mut().find(|column| column.index == wanted) else {
            return (prefix, false);
        };
        push_encoded(&mut prefix, &column.pattern.first);
        if column.pattern.after_first.is_some() {
            return (prefix, false);
        }
        // Text forms are canonical: equal text, equal value.
        column.settled = true;
        if wanted < column_count.saturating_sub(1) {
            prefix.push(SEPARATOR);
        }
    }
    (prefix, true)
}

/// A pattern cut at its wildcards.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ColumnPattern {
    /// Before the first wildcard: the value starts with it, or is it if there is no wildcard.
    first: String,
    /// Between wildcards, in order; and after the last one, with which the value ends.
    after_first: Option<(Vec<String>, String)>,
    /// Of all of these: a shorter value does not match.
    bytes_min: usize,
    /// How many searches it takes at most.
    parts: usize,
}

impl ColumnPattern {
    pub(super) fn new(text: &str, wildcard: Option<char>) -> Self {
        let Some((first, rest)) = wildcard.and_then(|wildcard| text.split_once(wildcard)) else {
            return Self {
                first: text.into(),
                after_first: None,
                bytes_min: text.len(),
                parts: 1,
            };
        };
        let mut middles: Vec<String> = wildcard.map_or_else(Vec::new, |wildcard| {
            rest.split(wildcard).map(String::from).collect()
        });
        let last = middles.pop().unwrap_or_default();
        middles.retain(|middle| !middle.is_empty());
        Self {
            bytes_min: total(middles.iter().map(String::len).chain([first.len(), last.len()])),
            parts: middles.len().saturating_add(1),
            first: first.into(),
            after_first: Some((middles, last)),
        }
    }

    pub(super) fn matches_all(&self) -> bool {
        self.first.is_empty()
            && self
                .after_first
                .as_ref()
                .is_some_and(|(middles, last)| middles.is_empty() && last.is_empty())
    }

    /// Each part is looked for once, at the first place it fits; taking a later one could never help. Every search goes on where
    /// the last one ended, so all of them together read the value once.
    pub(super) fn matches(&self, value: &str) -> bool {
        if value.len() < self.bytes_min {
            return false;
        }
        let Some((middles, last)) = &self.after_first else {
            return value == self.first;
        };
        let Some(rest) = value.strip_prefix(self.first.as_str()) else {
            return false;
        };
        let Some(mut rest) = rest.strip_suffix(last.as_str()) else {
            return false;
        };
        for middle in middles {
            match rest.split_once(middle.as_str()) {
                Some((_, after)) => rest = after,
                None => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, value: &str) -> bool {
        ColumnPattern::new(pattern, Some('*')).matches(value)
    }

    #[test]
    fn the_wildcard_matches_any_run_of_characters_also_none() {
        let table = [
            ("*", "", true),
            ("*", "sci", true),
            ("sci", "sci", true),
            ("sci", "scii", false),
            ("s*", "sci", true),
            ("*i", "sci", true),
            ("s*i", "si", true),
            ("s*i", "s", false),
            ("*c*", "sci", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("ab*ba", "aba", false),
            ("*foo*bar*", "xfoo,ybar", true),
            ("*foo*bar*", "xbar,yfoo", false),
            ("**", "x", true),
            ("", "", true),
            ("", "x", false),
            ("é*ü", "éxü", true),
            ("a.c", "abc", false),
        ];
        for (pattern, value, expected) in table {
            assert_eq!(matches(pattern, value), expected, "{pattern:?} on {value:?}");
        }
    }

    /// A pattern by position and one by name may be of the same column; columns may be settled by the prefix or not.
    #[test]
    fn a_line_matches_exactly_if_its_values_do() {
        let key = || Key::new("KEY").expect("a good key");
        let format = ["one", "two", "three"].map(String::from);
        let parts = ["a", "a*", "*", "b", "x:y", "*:*"];
        let values = ["a", "ab", "b", "x:y", ""];
        let mut compared = 0;
        for (one, two, three) in product(&parts) {
            for named in [
                None,
                Some(("one", "*b")),
                Some(("two", "a")),
                Some(("three", "b*")),
            ] {
                for cut in 0..=3 {
                    let columns = [one, two, three].into_iter().take(cut);
                    let mut pattern = Pattern::positional(key(), columns);
                    if let Some((name, text)) = named {
                        pattern = pattern.by_name(name, text);
                    }
                    let matcher = Matcher::new(&pattern, &format).expect("it fits the format");
                    for (one, two, three) in product(&values) {
                        let row = Row::new(key(), [one, two, three]).expect("a good row");
                        let line = row.to_text();
                        let found = line.starts_with(&matcher.prefix) && matcher.matches(&line);
                        assert_eq!(found, matcher.matches_values(&row.values), "{pattern} on {line}");
                        compared += usize::from(found);
                    }
                }
            }
        }
        assert!(compared > 1000, "{compared} matched");
    }

    fn product<'a>(parts: &'a [&'a str]) -> impl Iterator<Item = (&'a str, &'a str, &'a str)> {
        let two = move |one| parts.iter().map(move |two| (one, *two));
        let pairs = parts.iter().flat_map(move |one| two(*one));
        pairs.flat_map(move |(one, two)| parts.iter().map(move |three| (one, two, *three)))
    }

    #[test]
    fn the_client_may_set_another_wildcard_or_none() {
        assert!(ColumnPattern::new("a?c*", Some('?')).matches("abbc*"));
        assert!(!ColumnPattern::new("a?c*", Some('?')).matches("abbcd"));
        assert!(ColumnPattern::new("a*", None).matches("a*"));
        assert!(!ColumnPattern::new("a*", None).matches("ab"));
    }

    #[test]
    fn a_pattern_with_many_wildcards_takes_no_exponential_time() {
        let pattern = "a*".repeat(500);
        let value = "a".repeat(499) + "b";
        assert!(!matches(&(pattern + "c"), &value));
    }

    #[test]
    fn arguments_with_an_equals_sign_go_by_name() {
        let key = Key::new("MY_KEY").expect("a good key");
        let pattern = Pattern::from_arguments(
            key.clone(),
            ["clust*", "network_type=sci", "=x", "a b=c", "n=a=b"],
        );
        assert_eq!(
            pattern.columns,
            [Some("clust*".into()), Some("=x".into()), Some("a b=c".into())]
        );
        assert_eq!(
            pattern.named,
            [("network_type".into(), "sci".into()), ("n".into(), "a=b".into())]
        );
    }

    /// The obvious way, exponential at worst.
    fn slow(pattern: &[char], value: &[char]) -> bool {
        match pattern.split_first() {
            None => value.is_empty(),
            Some(('*', rest)) => (0..=value.len()).any(|skipped| slow(rest, &value[skipped..])),
            Some((c, rest)) => value.first() == Some(c) && slow(rest, &value[1..]),
        }
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_obvious_way(pattern in "[ab*]{0,8}", value in "[ab]{0,10}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(matches(&pattern, &value), slow(&chars(&pattern), &chars(&value)));
        }
    }
}
