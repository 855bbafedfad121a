//! What one database has that another has not: for `ccdadm diff`, for kept branches, and for watchers.

use super::{Content, Database, Key, Row};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::fmt;
use serde::{Deserialize, Serialize};

/// What has to be done to the first to get the second. A changed row is removed and added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub formats_removed: Vec<(Key, Vec<String>)>,
    pub formats_added: Vec<(Key, Vec<String>)>,
    pub formats_changed: Vec<FormatChange>,
    pub rows_removed: Vec<Row>,
    pub rows_added: Vec<Row>,
}

/// A key that both have, with other columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormatChange {
    pub key: Key,
    pub from: Vec<String>,
    pub to: Vec<String>,
}

impl Difference {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn format(&mut self, key: &Key, from: Option<&[String]>, to: Option<&[String]>) {
        match (from, to) {
            (Some(from), None) => self.formats_removed.push((key.clone(), from.to_vec())),
            (None, Some(to)) => self.formats_added.push((key.clone(), to.to_vec())),
            (Some(from), Some(to)) if from != to => {
                let (from, to) = (from.to_vec(), to.to_vec());
                self.formats_changed.push(FormatChange {
                    key: key.clone(),
                    from,
                    to,
                });
            }
            _ => {}
        }
    }
}

impl fmt::Display for Difference {
    /// One line for each format and row, with `-` or `+` before it; the rows are in text form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = super::format_text;
        for (key, columns) in &self.formats_removed {
            writeln!(f, "-{}", line(key, columns))?;
        }
        for (key, columns) in &self.formats_added {
            writeln!(f, "+{}", line(key, columns))?;
        }
        for FormatChange { key, from, to } in &self.formats_changed {
            writeln!(f, "-{}\n+{}", line(key, from), line(key, to))?;
        }
        self.rows_removed
            .iter()
            .try_for_each(|row| writeln!(f, "-{row}"))?;
        self.rows_added.iter().try_for_each(|row| writeln!(f, "+{row}"))
    }
}

impl Database {
    /// What leads from this version to `other`. Keys that the two share in memory cost nothing.
    pub fn difference(&self, other: &Self) -> Difference {
        let mut difference = Difference::default();
        let keys: BTreeSet<&Key> = self.tables.keys().chain(other.tables.keys()).collect();
        for key in keys {
            let (from, to) = (self.tables.get(key), other.tables.get(key));
            difference.format(
                key,
                from.map(|table| &*table.columns),
                to.map(|table| &*table.columns),
            );
            let shared = from.zip(to).is_some_and(|(from, to)| from.lines == to.lines);
            if !shared {
                let old = from.into_iter().flat_map(|table| table.lines.iter());
                let new = to.into_iter().flat_map(|table| table.lines.iter());
                let row = |line: &str| Row::from_stored(key, line);
                compare(
                    old,
                    new,
                    |line| difference.rows_removed.push(row(line)),
                    |line| difference.rows_added.push(row(line)),
                );
            }
        }
        difference
    }
}

impl Content {
    /// What leads from `old` to `new`, whatever the order of their rows.
    pub fn diff(old: &Self, new: &Self) -> Difference {
        let formats =
            |content: &'_ Self| -> BTreeMap<Key, Vec<String>> { content.formats.iter().cloned().collect() };
        let (old_formats, new_formats) = (formats(old), formats(new));
        let mut difference = Difference::default();
        let keys: BTreeSet<&Key> = old_formats.keys().chain(new_formats.keys()).collect();
        for key in keys {
            difference.format(
                key,
                old_formats.get(key).map(Vec::as_slice),
                new_formats.get(key).map(Vec::as_slice),
            );
        }
        let (old_rows, new_rows): (BTreeSet<&Row>, BTreeSet<&Row>) =
            (old.rows.iter().collect(), new.rows.iter().collect());
        difference.rows_removed = old_rows.difference(&new_rows).map(|row| (*row).clone()).collect();
        difference.rows_added = new_rows.difference(&old_rows).map(|row| (*row).clone()).collect();
        difference
    }
}

/// Walks two ascending sequences side by side.
fn compare<'a>(
    old: impl Iterator<Item = &'a str>,
    new: impl Iterator<Item = &'a str>,
    mut removed: impl FnMut(&'a str),
    mut added: impl FnMut(&'a str),
) {
    let (mut old, mut new) = (old.peekable(), new.peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some(old), Some(new)) => old.cmp(new),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        if order != Ordering::Greater {
            let line = old.next();
            line.filter(|_| order == Ordering::Less)
                .into_iter()
                .for_each(&mut removed);
        }
        if order != Ordering::Less {
            let line = new.next();
            line.filter(|_| order == Ordering::Greater)
                .into_iter()
                .for_each(&mut added);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{any_history, commit, figure_6, key, row, update};
    use super::super::{Op, Pattern};
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    #[test]
    fn a_difference_shows_as_lines_to_remove_and_to_add() {
        let ops = vec![
            Op::Remove(Pattern::positional(key("MY_KEY"), ["clust1"])),
            Op::Add(row("MY_KEY:clust9:1::foo")),
            Op::Format {
                key: key("NEW"),
                columns: vec!["a".into()],
            },
        ];
        let after = commit(&figure_6(), update(2, ops)).1;
        let difference = figure_6().difference(&after);
        let expected = "+NEW_fmt:a\n-MY_KEY:clust1:2:either:foo,bar\n+MY_KEY:clust9:1::foo\n";
        assert_eq!(difference.to_string(), expected);
        assert_eq!(after.difference(&after.clone()), Difference::default());
    }

    #[test]
    fn a_changed_format_shows_both_ways() {
        let content = |columns: &[&str]| Content {
            formats: vec![(key("K"), columns.iter().map(ToString::to_string).collect())],
            rows: vec![],
        };
        let difference = Content::diff(&content(&["a"]), &content(&["b"]));
        assert_eq!(difference.to_string(), "-K_fmt:a\n+K_fmt:b\n");
    }

    proptest! {
        #[test]
        fn databases_and_their_contents_differ_alike((one, _) in any_history(), (other, _) in any_history()) {
            let by_version = one.difference(&other);
            let mut by_content = Content::diff(&one.content(), &other.content());
            // The content's rows come in the order of their values, the database's in that of their text.
            by_content.rows_added.sort_by_key(|row| (row.key.clone(), row.to_text()));
            by_content.rows_removed.sort_by_key(|row| (row.key.clone(), row.to_text()));
            prop_assert_eq!(&by_version, &by_content);
            prop_assert_eq!(by_version.is_empty(), one.content() == other.content());
            let back = other.difference(&one);
            prop_assert_eq!(&back.rows_added, &by_version.rows_removed);
            prop_assert_eq!(&back.rows_removed, &by_version.rows_added);
        }
    }
}
