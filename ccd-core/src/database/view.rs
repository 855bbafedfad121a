//! What one watcher sees of a change: the keys it may read and has asked for, and of those the rows that match.
//!
//! Called by the daemon for whoever watches, with changes of now and of the past. A pattern matches rows as a query with it
//! would have at that moment: columns are looked up in the format that the key had then.
//!
//! Always holds: nothing is seen of a key that the view does not name; formats of keys that it names are always seen; and
//! of a row that was changed, what left the view and what came into it are seen, each by itself.

use super::pattern::{ColumnPattern, Matcher};
use super::{Database, Difference, Key, OpError, Pattern, Row, WILDCARD};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::ControlFlow;

/// Which rows of which keys. Remembers what it compiled, so it is changed by being used.
#[derive(Debug)]
pub struct View(Kind);

#[derive(Debug)]
enum Kind {
    /// Every row of the keys that match one of these.
    Keys(Vec<ColumnPattern>),
    /// Rows that match one of the patterns of their key; all of them, if it has a pattern that matches anything.
    Patterns(BTreeMap<Key, Vec<Selector>>),
}

/// A pattern, and what it came to for a format.
#[derive(Debug)]
struct Selector {
    pattern: Pattern,
    compiled: Option<(Vec<String>, Option<Matcher>)>,
}

impl Selector {
    /// A format that the pattern does not fit (another number of columns, no column of that name) has no row that matches.
    fn matches(&mut self, columns: &[String], row: &Row) -> bool {
        if !matches!(&self.compiled, Some((known, _)) if known == columns) {
            self.compiled = Some((columns.to_vec(), Matcher::new(&self.pattern, columns).ok()));
        }
        let matcher = self.compiled.as_ref().and_then(|(_, matcher)| matcher.as_ref());
        matcher.is_some_and(|matcher| matcher.matches_values(&row.values))
    }

    fn matches_anything(&self) -> bool {
        let Pattern {
            columns,
            named,
            wildcard,
            ..
        } = &self.pattern;
        let mut texts = columns.iter().flatten().map(String::as_str);
        named.is_empty() && texts.all(|text| ColumnPattern::new(text, *wildcard).matches_all())
    }
}

impl View {
    /// All rows of the keys that match one of these, `*` for any run of characters.
    pub fn of_keys<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        let keys = keys
            .into_iter()
            .map(|key| ColumnPattern::new(key, Some(WILDCARD)));
        Self(Kind::Keys(keys.collect()))
    }

    /// The rows that match one of these.
    pub fn of_patterns(patterns: impl IntoIterator<Item = Pattern>) -> Self {
        let mut keys: BTreeMap<Key, Vec<Selector>> = BTreeMap::new();
        for pattern in patterns {
            let key = pattern.key.clone();
            let compiled = None;
            keys.entry(key).or_default().push(Selector { pattern, compiled });
        }
        for selectors in keys.values_mut() {
            if selectors.iter().any(Selector::matches_anything) {
                selectors.clear();
            }
        }
        Self(Kind::Patterns(keys))
    }

    /// The keys that it names one by one; `None` if it names them by pattern.
    pub fn keys(&self) -> Option<impl Iterator<Item = &Key>> {
        match &self.0 {
            Kind::Keys(_) => None,
            Kind::Patterns(keys) => Some(keys.keys()),
        }
    }

    pub fn names(&self, key: &Key) -> bool {
        match &self.0 {
            Kind::Keys(patterns) => patterns.iter().any(|pattern| pattern.matches(key.as_str())),
            Kind::Patterns(keys) => keys.contains_key(key),
        }
    }

    /// Whether the format of any key matters for what is seen.
    pub fn depends_on_formats(&self) -> bool {
        match &self.0 {
            Kind::Keys(_) => false,
            Kind::Patterns(keys) => keys.values().any(|selectors| !selectors.is_empty()),
        }
    }

    /// Keys of this view that have no format yet. An error if one has a format that a pattern does not fit.
    pub fn check(&self, database: &Database) -> Result<Vec<Key>, OpError> {
        let mut absent = Vec::new();
        if let Kind::Patterns(keys) = &self.0 {
            for (key, selectors) in keys {
                match database.columns(key) {
                    None => {
                        selectors
                            .iter()
                            .try_for_each(|selector| selector.pattern.check())?;
                        absent.push(key.clone());
                    }
                    Some(columns) => selectors.iter().try_for_each(|Selector { pattern, .. }| {
                        pattern.check()?;
                        Matcher::new(pattern, columns).map(drop)
                    })?,
                }
            }
        }
        Ok(absent)
    }

    fn row(&mut self, row: &Row, columns: Option<&[String]>) -> bool {
        match &mut self.0 {
            Kind::Keys(patterns) => patterns.iter().any(|pattern| pattern.matches(row.key.as_str())),
            Kind::Patterns(keys) => keys.get_mut(&row.key).is_some_and(|selectors| {
                selectors.is_empty()
                    || columns
                        .is_some_and(|columns| selectors.iter_mut().any(|one| one.matches(columns, row)))
            }),
        }
    }

    /// What of an update's effects is seen. `before` knows the columns that a key had before it.
    pub fn seen<'a>(
        &mut self,
        effects: &'a Difference,
        before: impl Fn(&Key) -> Option<&'a [String]>,
    ) -> Difference {
        let mut seen = Difference::default();
        for (all, some) in [
            (&effects.formats_removed, &mut seen.formats_removed),
            (&effects.formats_added, &mut seen.formats_added),
        ] {
            some.extend(all.iter().filter(|(key, _)| self.names(key)).cloned());
        }
        let changed = effects.formats_changed.iter();
        seen.formats_changed = changed
            .filter(|change| self.names(&change.key))
            .cloned()
            .collect();
        for row in &effects.rows_removed {
            if self.names(&row.key) && self.row(row, before(&row.key)) {
                seen.rows_removed.push(row.clone());
            }
        }
        for row in &effects.rows_added {
            if self.names(&row.key) {
                let columns = effects
                    .columns_after(&row.key)
                    .unwrap_or_else(|| before(&row.key));
                if self.row(row, columns) {
                    seen.rows_added.push(row.clone());
                }
            }
        }
        seen
    }

    /// Hands out the formats and rows of a database that are seen, key by key and row by row in order, from behind a place
    /// (a key, and a row of it) on, until `take` has enough, or so many rows were looked at: then returns where to go on behind.
    pub fn walk(
        &mut self,
        database: &Database,
        after: Option<&(Key, Option<Row>)>,
        rows_max: usize,
        mut take: impl FnMut(&Key, &[String], Option<Row>) -> ControlFlow<()>,
    ) -> Option<(Key, Option<Row>)> {
        let mut looked_at = 0_usize;
        for (key, table) in database.tables.iter() {
            let columns: &[String] = &table.columns;
            let mut behind = None;
            match after {
                Some((last, _)) if key < last => continue,
                Some((last, row)) if key == last => behind = row.as_ref().map(Row::to_text),
                _ if !self.names(key) => continue,
                _ => {
                    if take(key, columns, None).is_break() {
                        return None;
                    }
                }
            }
            let from = behind.as_deref().unwrap_or("");
            for line in table.lines.from(from) {
                if line == from {
                    continue;
                }
                let row = Row::from_stored(key, line);
                looked_at = looked_at.saturating_add(1);
                let stop = (looked_at >= rows_max).then(|| (key.clone(), Some(row.clone())));
                if self.row(&row, Some(columns)) && take(key, columns, Some(row)).is_break() {
                    return None;
                }
                if stop.is_some() {
                    return stop;
                }
            }
        }
        None
    }
}

impl Difference {
    /// The columns that a key has after it, if it changes them.
    fn columns_after(&self, key: &Key) -> Option<Option<&[String]>> {
        let changed = self.formats_changed.iter().find(|change| change.key == *key);
        if let Some(change) = changed {
            return Some(Some(&change.to));
        }
        if let Some((_, columns)) = self.formats_added.iter().find(|(added, _)| added == key) {
            return Some(Some(columns));
        }
        let removed = self.formats_removed.iter().any(|(removed, _)| removed == key);
        removed.then_some(None)
    }

    /// The columns that a key had before it, if it changes them.
    pub fn columns_before(&self, key: &Key) -> Option<Option<&[String]>> {
        let changed = self.formats_changed.iter().find(|change| change.key == *key);
        if let Some(change) = changed {
            return Some(Some(&change.from));
        }
        if let Some((_, columns)) = self.formats_removed.iter().find(|(removed, _)| removed == key) {
            return Some(Some(columns));
        }
        let added = self.formats_added.iter().any(|(added, _)| added == key);
        added.then_some(None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::FormatChange;
    use super::super::fixture::{any_history, figure_6, key, row, update};
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    const COLUMNS: [&str; 4] = ["clustname", "number_nodes", "network_type", "node_names"];

    fn columns(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn matched(patterns: &[&[&str]], rows: &[&str]) -> String {
        let patterns = patterns.iter().map(|arguments| {
            let (name, rest) = arguments.split_first().expect("a key");
            Pattern::from_arguments(key(name), rest)
        });
        let mut view = View::of_patterns(patterns);
        let effects = Difference {
            rows_added: rows.iter().map(|text| row(text)).collect(),
            ..Difference::default()
        };
        let formats = columns(&COLUMNS);
        let seen = view.seen(&effects, |_| Some(&formats));
        let rows = seen.rows_added.iter();
        rows.map(|row| row.values[0].clone())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn rows_are_seen_as_a_query_would_find_them() {
        let rows = [
            "MY_KEY:c0:4:sci:a,b",
            "MY_KEY:c1:2:eth:a",
            "OTHER:o:1:sci:a",
            "MY_KEY:d:1:sci:",
        ];
        let table: [(&[&[&str]], &str); 9] = [
            (&[&["MY_KEY"]], "c0 c1 d"),
            (&[&["MY_KEY", "c*"]], "c0 c1"),
            (&[&["MY_KEY", "*", "*", "sci"]], "c0 d"),
            (&[&["MY_KEY", "network_type=sci"]], "c0 d"),
            (&[&["MY_KEY", "network_type=sci", "c*"]], "c0"),
            (&[&["MY_KEY", "c0"], &["MY_KEY", "d"], &["OTHER"]], "c0 o d"),
            (&[&["MY_KEY", "c0"], &["MY_KEY"]], "c0 c1 d"),
            (
                &[&["MY_KEY", "no_such=x"], &["MY_KEY", "a", "b", "c", "d", "e"]],
                "",
            ),
            (&[&["NONE"]], ""),
        ];
        for (patterns, expected) in table {
            assert_eq!(matched(patterns, &rows), expected, "{patterns:?}");
        }
    }

    #[test]
    fn keys_that_are_not_named_are_never_seen() {
        let effects = Difference {
            formats_removed: vec![(key("SECRET"), columns(&["a"]))],
            formats_added: vec![(key("SECRET2"), columns(&["a"])), (key("NET_A"), columns(&["a"]))],
            formats_changed: vec![FormatChange {
                key: key("SECRET3"),
                from: columns(&["a"]),
                to: columns(&["b"]),
            }],
            rows_removed: vec![row("SECRET:x")],
            rows_added: vec![row("NET_A:1"), row("NET_:2"), row("NETA:3"), row("SECRET:y")],
        };
        let mut view = View::of_keys(["NET_*"]);
        let seen = view.seen(&effects, |_| None);
        assert_eq!(seen.to_string(), "+NET_A_fmt:a\n+NET_A:1\n+NET_:2\n");
        assert!(View::of_keys([]).seen(&effects, |_| None).is_empty());
        assert_eq!(View::of_keys(["*"]).seen(&effects, |_| None), effects);
    }

    #[test]
    fn a_row_that_leaves_the_view_or_comes_in_is_seen_half() {
        let effects = Difference {
            rows_removed: vec![row("K:web:up")],
            rows_added: vec![row("K:web:down")],
            ..Difference::default()
        };
        let formats = columns(&["name", "state"]);
        let mut up = View::of_patterns([Pattern::from_arguments(key("K"), ["state=up"])]);
        assert_eq!(up.seen(&effects, |_| Some(&formats)).to_string(), "-K:web:up\n");
        let mut down = View::of_patterns([Pattern::from_arguments(key("K"), ["*", "down"])]);
        assert_eq!(
            down.seen(&effects, |_| Some(&formats)).to_string(),
            "+K:web:down\n"
        );
    }

    #[test]
    fn columns_are_looked_up_in_the_format_of_the_moment() {
        let effects = Difference {
            formats_changed: vec![FormatChange {
                key: key("K"),
                from: columns(&["name", "state"]),
                to: columns(&["state", "name"]),
            }],
            rows_removed: vec![row("K:web:up"), row("K:up:web")],
            rows_added: vec![row("K:web:up"), row("K:up:web")],
            ..Difference::default()
        };
        let formats = columns(&["name", "state"]);
        let mut view = View::of_patterns([Pattern::from_arguments(key("K"), ["state=up"])]);
        let seen = view.seen(&effects, |_| Some(&formats));
        let rows = |rows: &[Row]| rows.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(rows(&seen.rows_removed), ["K:web:up"]);
        assert_eq!(rows(&seen.rows_added), ["K:up:web"]);
        assert_eq!(seen.formats_changed.len(), 1, "formats are always seen");
    }

    #[test]
    fn a_pattern_that_does_not_fit_a_key_is_found_at_once_and_a_missing_key_is_named() {
        let view = View::of_patterns([Pattern::from_arguments(key("MY_KEY"), ["bad=1"])]);
        assert!(matches!(
            view.check(&figure_6()),
            Err(OpError::UnknownColumn { .. })
        ));
        let view = View::of_patterns([Pattern::all(key("LATER")), Pattern::all(key("MY_KEY"))]);
        assert_eq!(view.check(&figure_6()), Ok(vec![key("LATER")]));
    }

    /// Everything that a walk in steps of `step` items hands out.
    fn walked(view: &mut View, database: &Database, step: usize) -> Difference {
        let mut all = Difference::default();
        let mut after = None;
        loop {
            let mut count = 0;
            let before = after.clone();
            let rows_max = step.saturating_add(2);
            let stopped = view.walk(database, before.as_ref(), rows_max, |key, columns, row| {
                after = Some((key.clone(), row.clone()));
                match row {
                    None => all.formats_added.push((key.clone(), columns.to_vec())),
                    Some(row) => all.rows_added.push(row),
                }
                count += 1;
                if count == step {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            });
            match stopped {
                Some(place) => after = Some(place),
                None if count < step => return all,
                None => {}
            }
        }
    }

    proptest! {
        #[test]
        fn the_rows_of_the_start_and_what_is_seen_later_are_those_of_the_end(
            (_, records) in any_history(),
            cut in 0..8_usize,
            step in 1..5_usize,
            pattern in prop_oneof![Just(vec![]), Just(vec!["x=*a*"]), Just(vec!["*", "b*"]), Just(vec!["y="])],
            name in prop_oneof![Just("A"), Just("B"), Just("Ab")],
        ) {
            let view = || View::of_patterns([Pattern::from_arguments(key(name), &pattern)]);
            let mut watcher = view();
            let mut database = Database::default();
            for record in records.iter().take(cut) {
                database = database.apply(record).expect("it applies");
            }
            let mut seen = walked(&mut watcher, &database, step);
            prop_assert_eq!(&seen, &walked(&mut view(), &database, usize::MAX));
            let mut reformatted = false;
            for record in records.iter().skip(cut) {
                let (effects, _) = database.effects(record).expect("it applies");
                for effects in &effects {
                    reformatted |= !effects.formats_changed.is_empty();
                    seen = seen.then(watcher.seen(effects, |key| database.columns(key)));
                }
                database = database.apply(record).expect("it applies");
            }
            let expected = walked(&mut view(), &database, usize::MAX);
            // Where columns got other names, rows that stay may match from then on, or no longer: the format is seen instead.
            if !reformatted {
                let text = |rows: &[Row]| {
                    let mut all: Vec<String> = rows.iter().map(Row::to_text).collect();
                    all.sort();
                    all
                };
                prop_assert_eq!(text(&seen.rows_added), text(&expected.rows_added));
                prop_assert!(seen.rows_removed.is_empty());
            }
        }
    }

    #[test]
    fn a_walk_begins_behind_a_place() {
        let mut view = View::of_keys(["*"]);
        let mut rows = Vec::new();
        let after = (key("MY_KEY"), Some(row("MY_KEY:clust1:2:either:foo,bar")));
        let stopped = view.walk(&figure_6(), Some(&after), 100, |_, _, row| {
            rows.extend(row.map(|row| row.values[0].clone()));
            ControlFlow::Continue(())
        });
        assert_eq!(
            (rows.as_slice(), stopped),
            (["clust2", "clust3"].map(String::from).as_slice(), None)
        );
        // Rows that are not seen are looked at all the same.
        let mut none = View::of_patterns([Pattern::from_arguments(key("MY_KEY"), ["no such*"])]);
        let stopped = none.walk(&figure_6(), Some(&after), 1, |_, _, _| ControlFlow::Continue(()));
        assert!(matches!(stopped, Some((_, Some(row))) if row.values[0] == "clust2"));
        let (more, _) = figure_6().admit(&update(9, vec![])).expect("admitted");
        assert_eq!(walked(&mut view, &more, 2), walked(&mut view, &more, 100));
    }
}
