//! What an update did: the rows it removed and added, and the formats it made, removed or changed.
//!
//! An update says what it asks for (`remove KEY clust*`); its effects say what came of it, so that a history can be read
//! and undone without the database it was made on. They cost what the operations touch, not the database; a restore may
//! cost the database. Called by whoever is told of a committed record, after the clients have heard of it.
//!
//! Always holds: effects are net (a row that one operation adds and a later one removes is in neither list), and
//! `a.then(b)` of neighbours is what [`Database::difference`] finds between the ends.

use super::difference::FormatChange;
use super::{Content, Database, Difference, ImageError, Key, Op, OpError, Pattern, Record, RecordBody, Row};
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// How much of a key changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEffects<'a> {
    pub key: &'a Key,
    pub rows_removed: u64,
    pub rows_added: u64,
    pub format: FormatEffect,
}

/// What became of a key's format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FormatEffect {
    #[default]
    None,
    Made,
    Removed,
    Changed,
}

impl Database {
    /// What each update of a record changes when it is applied to the rows of this version, in order (nothing for a record
    /// that opens), and the formats and rows after it, for the record that follows. An error means that the record was not
    /// made on this version.
    pub fn effects(&self, record: &Record) -> Result<(Vec<Difference>, Self), OpError> {
        let (effects, mut now) = self.noted(record)?;
        now.catch_up()?;
        Ok((effects, now.database))
    }

    /// As [`effects`](Self::effects), where no record follows: what nothing looks at is not worked out.
    pub fn last_effects(&self, record: &Record) -> Result<Vec<Difference>, OpError> {
        Ok(self.noted(record)?.0)
    }

    fn noted<'a>(&self, record: &'a Record) -> Result<(Vec<Difference>, Noted<'a>), OpError> {
        let mut now = Noted {
            database: self.clone(),
            due: Vec::new(),
        };
        now.database.position = record.next;
        let RecordBody::Updates { updates, .. } = &record.body else {
            return Ok((Vec::new(), now));
        };
        let mut effects = Vec::with_capacity(updates.len());
        for update in updates {
            let mut net = Net::default();
            for op in &update.ops {
                now.note(op, &mut net)?;
            }
            effects.push(net.finish());
        }
        Ok((effects, now))
    }
}

/// A version, and what is still to be done to it: only what looks at rows needs them up to date.
struct Noted<'a> {
    database: Database,
    due: Vec<&'a Op>,
}

impl<'a> Noted<'a> {
    fn catch_up(&mut self) -> Result<&mut Database, OpError> {
        for op in self.due.drain(..) {
            self.database.run(op)?;
        }
        Ok(&mut self.database)
    }

    fn note(&mut self, op: &'a Op, net: &mut Net) -> Result<(), OpError> {
        match op {
            Op::Add(row) => net.add(row.clone()),
            Op::Remove(pattern) => {
                let gone = self.catch_up()?.query(pattern)?;
                gone.into_iter().for_each(|row| net.remove(row));
            }
            Op::Format { key, columns } => net.format(key, self.catch_up()?.columns(key), Some(columns)),
            Op::RemoveFormat(key) => net.format(key, self.catch_up()?.columns(key), None),
            Op::ReplaceKey { .. } | Op::ReplaceAll { .. } | Op::LoadKey { .. } | Op::LoadAll { .. } => {
                let now = self.catch_up()?;
                let before = now.clone();
                now.run(op)?;
                // Whatever the two versions still share in memory costs nothing here.
                net.then(before.difference(now));
                return Ok(());
            }
            Op::Purify => return Ok(()),
        }
        self.due.push(op);
        Ok(())
    }
}

impl Difference {
    /// What leads from the start of this one to the end of the next.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        let mut net = Net::default();
        net.then(self);
        net.then(next);
        net.finish()
    }

    /// What all of them come to, one after the other.
    pub fn composed(all: impl IntoIterator<Item = Self>) -> Self {
        let mut net = Net::default();
        all.into_iter().for_each(|one| net.then(one));
        net.finish()
    }

    /// What leads back.
    #[must_use]
    pub fn inverse(self) -> Self {
        Self {
            formats_removed: self.formats_added,
            formats_added: self.formats_removed,
            formats_changed: (self.formats_changed.into_iter())
                .map(|FormatChange { key, from, to }| FormatChange {
                    key,
                    from: to,
                    to: from,
                })
                .collect(),
            rows_removed: self.rows_added,
            rows_added: self.rows_removed,
        }
    }

    /// What of it is about one key.
    #[must_use]
    pub fn of_key(mut self, key: &Key) -> Self {
        self.formats_removed.retain(|(known, _)| known == key);
        self.formats_added.retain(|(known, _)| known == key);
        self.formats_changed.retain(|change| change.key == *key);
        self.rows_removed.retain(|row| row.key == *key);
        self.rows_added.retain(|row| row.key == *key);
        self
    }

    /// Every key that it touches, with how much.
    pub fn keys(&self) -> Vec<KeyEffects<'_>> {
        let mut keys: BTreeMap<&Key, (u64, u64, FormatEffect)> = BTreeMap::new();
        for row in &self.rows_removed {
            let (removed, _, _) = keys.entry(&row.key).or_default();
            *removed = removed.saturating_add(1);
        }
        for row in &self.rows_added {
            let (_, added, _) = keys.entry(&row.key).or_default();
            *added = added.saturating_add(1);
        }
        for (key, _) in &self.formats_added {
            keys.entry(key).or_default().2 = FormatEffect::Made;
        }
        for (key, _) in &self.formats_removed {
            keys.entry(key).or_default().2 = FormatEffect::Removed;
        }
        for change in &self.formats_changed {
            keys.entry(&change.key).or_default().2 = FormatEffect::Changed;
        }
        let effects = |(key, (rows_removed, rows_added, format))| KeyEffects {
            key,
            rows_removed,
            rows_added,
            format,
        };
        keys.into_iter().map(effects).collect()
    }

    /// The operations that make this change to `now`, which must be a version that it starts from.
    pub fn operations(&self, now: &Database) -> Vec<Op> {
        let changed = |key: &Key| self.formats_changed.iter().any(|change| change.key == *key);
        let mut ops = Vec::new();
        for row in self.rows_removed.iter().filter(|row| !changed(&row.key)) {
            ops.push(Op::Remove(Pattern::exact(row)));
        }
        for FormatChange { key, to, .. } in &self.formats_changed {
            // A key can only get other columns when it has no rows.
            let rows = now.query(&Pattern::all(key.clone())).unwrap_or_default();
            if !rows.is_empty() {
                ops.push(Op::Remove(Pattern::all(key.clone())));
            }
            ops.push(Op::RemoveFormat(key.clone()));
            let columns = to.clone();
            let key = key.clone();
            ops.push(Op::Format { key, columns });
            let gone: BTreeSet<&Row> = self.rows_removed.iter().collect();
            ops.extend(rows.into_iter().filter(|row| !gone.contains(row)).map(Op::Add));
        }
        for (key, _) in &self.formats_removed {
            ops.push(Op::RemoveFormat(key.clone()));
        }
        for (key, columns) in &self.formats_added {
            let (key, columns) = (key.clone(), columns.clone());
            ops.push(Op::Format { key, columns });
        }
        ops.extend(self.rows_added.iter().cloned().map(Op::Add));
        ops
    }

    /// What has the content `from` after this change.
    pub fn applied_to(&self, from: Content) -> Content {
        let gone: BTreeSet<&Row> = self.rows_removed.iter().collect();
        let mut formats: BTreeMap<Key, Vec<String>> = from.formats.into_iter().collect();
        for (key, _) in &self.formats_removed {
            formats.remove(key);
        }
        formats.extend(self.formats_added.iter().cloned());
        formats.extend((self.formats_changed.iter()).map(|change| (change.key.clone(), change.to.clone())));
        let mut rows = from.rows;
        rows.retain(|row| !gone.contains(row));
        rows.extend(self.rows_added.iter().cloned());
        Content {
            formats: formats.into_iter().collect(),
            rows,
        }
    }

    /// As bytes, for a history.
    #[expect(
        clippy::expect_used,
        reason = "writing to memory does not fail, and the types hold nothing that postcard cannot write"
    )]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("plain data encodes")
    }

    /// At most `bytes_max` bytes, to the last one.
    pub fn decode(bytes: &[u8], bytes_max: usize) -> Result<Self, ImageError> {
        if bytes.len() > bytes_max {
            return Err(ImageError(format!(
                "effects of {} bytes, at most {bytes_max} are allowed",
                bytes.len()
            )));
        }
        match postcard::take_from_bytes(bytes) {
            Ok((difference, [])) => Ok(difference),
            Ok((_, rest)) => Err(ImageError(format!(
                "{} bytes after the end of effects",
                rest.len()
            ))),
            Err(error) => Err(ImageError(format!("effects do not decode: {error}"))),
        }
    }
}

/// A format before and after, if there was one.
type Formats = (Option<Vec<String>>, Option<Vec<String>>);

/// Changes while they are added up.
#[derive(Default)]
struct Net {
    formats: BTreeMap<Key, Formats>,
    /// Whether the row was added; it was removed otherwise.
    rows: BTreeMap<Row, bool>,
}

impl Net {
    fn add(&mut self, row: Row) {
        if self.rows.get(&row) == Some(&false) {
            self.rows.remove(&row);
        } else {
            self.rows.insert(row, true);
        }
    }

    fn remove(&mut self, row: Row) {
        if self.rows.get(&row) == Some(&true) {
            self.rows.remove(&row);
        } else {
            self.rows.insert(row, false);
        }
    }

    fn format(&mut self, key: &Key, from: Option<&[String]>, to: Option<&[String]>) {
        let to = to.map(<[String]>::to_vec);
        match self.formats.get_mut(key) {
            Some((_, last)) => *last = to,
            None => {
                let from = from.map(<[String]>::to_vec);
                self.formats.insert(key.clone(), (from, to));
            }
        }
    }

    fn then(&mut self, next: Difference) {
        for (key, columns) in &next.formats_removed {
            self.format(key, Some(columns), None);
        }
        for (key, columns) in &next.formats_added {
            self.format(key, None, Some(columns));
        }
        for FormatChange { key, from, to } in &next.formats_changed {
            self.format(key, Some(from), Some(to));
        }
        next.rows_removed.into_iter().for_each(|row| self.remove(row));
        next.rows_added.into_iter().for_each(|row| self.add(row));
    }

    /// In the order of the text form, as [`Database::difference`] has it.
    fn finish(self) -> Difference {
        let mut difference = Difference::default();
        for (key, (from, to)) in &self.formats {
            difference.format(key, from.as_deref(), to.as_deref());
        }
        for (row, added) in self.rows {
            if added {
                difference.rows_added.push(row);
            } else {
                difference.rows_removed.push(row);
            }
        }
        for rows in [&mut difference.rows_removed, &mut difference.rows_added] {
            rows.sort_by_cached_key(|row| (row.key.clone(), row.to_text()));
        }
        difference
    }
}

#[cfg(test)]
mod tests {
    use super::super::Update;
    use super::super::fixture::{any_history, any_op, commit, figure_6, key, row, update};
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    #[test]
    fn effects_are_what_came_of_an_update() {
        let ops = vec![
            Op::Remove(Pattern::positional(key("MY_KEY"), ["*", "*", "sci"])),
            Op::Add(row("MY_KEY:clust9:1::foo")),
            Op::Add(row("MY_KEY:clust8:1::foo")),
            Op::Remove(Pattern::positional(key("MY_KEY"), ["clust8"])),
        ];
        let (record, _) = commit(&figure_6(), update(2, ops));
        let (effects, _) = figure_6().effects(&record).expect("it was made on it");
        let expected = "-MY_KEY:clust0:4:sci:foo,bar,moo,boo\n-MY_KEY:clust2:3:sci:foo,bar,moo\n\
            +MY_KEY:clust9:1::foo\n";
        assert_eq!(effects.len(), 1);
        assert_eq!(effects[0].to_string(), expected);
        let keys = effects[0].keys();
        assert_eq!((keys[0].rows_removed, keys[0].rows_added), (2, 1));
        assert_eq!(keys[0].format, FormatEffect::None);
        assert!(effects[0].clone().of_key(&key("OTHER")).is_empty());
    }

    #[test]
    fn a_record_of_another_version_is_refused() {
        let (record, _) = commit(
            &figure_6(),
            update(2, vec![Op::Remove(Pattern::all(key("MY_KEY")))]),
        );
        assert!(Database::default().effects(&record).is_err());
    }

    #[test]
    fn effects_as_bytes_are_bounded() {
        let bytes = figure_6().difference(&Database::default()).encode();
        assert!(Difference::decode(&bytes, bytes.len()).is_ok());
        assert!(Difference::decode(&bytes, bytes.len() - 1).is_err());
        assert!(Difference::decode(&bytes[..bytes.len() - 1], bytes.len()).is_err());
        assert!(Difference::decode(&[bytes, vec![0]].concat(), 1 << 20).is_err());
    }

    proptest! {
        #[test]
        fn effects_are_the_difference_of_the_versions((_, records) in any_history()) {
            let mut before = Database::default();
            let mut all = Vec::new();
            for record in &records {
                let after = before.apply(record).expect("it applies");
                let (effects, rows) = before.effects(record).expect("it applies");
                prop_assert!(rows.difference(&after).is_empty());
                let last = before.last_effects(record);
                prop_assert_eq!(last.as_ref(), Ok(&effects));
                prop_assert_eq!(effects.len(), 1);
                prop_assert_eq!(&effects[0], &before.difference(&after));
                prop_assert_eq!(effects[0].clone().inverse(), after.difference(&before));
                let bytes = effects[0].encode();
                let decoded = Difference::decode(&bytes, bytes.len());
                prop_assert_eq!(decoded.as_ref(), Ok(&effects[0]));
                all.extend(effects);
                before = after;
            }
            let composed = Difference::composed(all.iter().cloned());
            prop_assert_eq!(&composed, &Database::default().difference(&before));
            let one_by_one = all.into_iter().fold(Difference::default(), Difference::then);
            prop_assert_eq!(&one_by_one, &composed);
        }

        #[test]
        fn a_difference_can_be_done_and_undone((one, _) in any_history(), (other, _) in any_history()) {
            let difference = one.difference(&other);
            let content = difference.applied_to(one.content());
            prop_assert!(Content::diff(&content, &other.content()).is_empty());
            let ops = difference.operations(&one);
            let (there, _) = one.admit(&update(1000, ops)).expect("admitted");
            prop_assert_eq!(there.content(), other.content());
            let ops = difference.inverse().operations(&there);
            let (back, _) = there.admit(&update(1001, ops)).expect("admitted");
            prop_assert_eq!(back.content(), one.content());
        }

        #[test]
        fn a_batch_has_effects_for_each_update(
            (database, _) in any_history(),
            batches in proptest::collection::vec(proptest::collection::vec(any_op(), 1..4), 1..6),
        ) {
            let mut admitted = database.clone();
            let mut updates: Vec<Update> = Vec::new();
            for (sequence, ops) in (1000..).zip(batches) {
                let update = update(sequence, ops);
                if let Ok((next, _)) = admitted.admit(&update) {
                    admitted = next;
                    updates.push(update);
                }
            }
            prop_assume!(!updates.is_empty());
            let count = updates.len();
            let members = super::super::fixture::members(2);
            let (record, after) = Record::updates(&database, crate::ids::Epoch(7), admitted, updates, members);
            let (effects, _) = database.effects(&record).expect("it applies");
            prop_assert_eq!(effects.len(), count);
            prop_assert_eq!(Difference::composed(effects), database.difference(&after));
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Difference::decode(&bytes, 64);
        }
    }
}
