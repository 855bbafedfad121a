//! Records: the steps that journals hold and members receive, and the lineage that chains them.
//!
//! A round's record is encoded once, by the node that makes it: the same bytes are hashed into the lineage, travel to the
//! members and lie in every journal. They have no checksum of their own: what travels is sealed, and every block of a journal
//! ends doubt about what it holds.

use super::sizes::total;
use super::update::{RECORD_BYTES_LARGEST, RECORD_OVERHEAD_BYTES};
use super::{Database, ImageError, Record, RecordBody, Update};
use crate::configuration::Configuration;
use crate::ids::{Epoch, Lineage, NodeSet, Position, Stamp};
use alloc::borrow::Cow;
use alloc::format;
use alloc::vec::Vec;
use core::fmt;

/// Tells this use of BLAKE3 from others; not a secret.
const LINEAGE_KEY: &[u8; 32] = b"ccd lineage of updates, version1";

/// Longer records are encoded again when they are needed: the history keeps thousands.
const MADE_BYTES_MAX: usize = 16 << 10;

/// At least what a record has beside its updates: two positions, a variant, a count, the members.
const ENVELOPE_BYTES: usize = 128;

/// What [`RecordBody::Updates`] is encoded as.
const UPDATES_VARIANT: u32 = 0;

/// The bytes of a record beside it. They say nothing that the record does not.
#[derive(Clone, Default)]
pub struct Made(Option<Vec<u8>>);

impl PartialEq for Made {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Made {}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "made" } else { "not made" })
    }
}

impl From<Vec<u8>> for Made {
    fn from(bytes: Vec<u8>) -> Self {
        Self((bytes.len() <= MADE_BYTES_MAX).then_some(bytes))
    }
}

impl Record {
    /// The record of one round: `updates` (each admitted, in order) made `prev` into `next`. Returns the record and
    /// the database at `record.next` (generation advanced by the number of updates, lineage chained over the record).
    pub fn updates(
        prev: &Database,
        epoch: Epoch,
        admitted: Database,
        updates: Vec<Update>,
        members: NodeSet,
    ) -> (Self, Database) {
        let (position, encoded_updates) = after_updates(prev.position, epoch, &updates, members);
        debug_assert_eq!(
            admitted.position.stamp.generation, position.stamp.generation,
            "each update was admitted"
        );
        let bytes = if encoded_updates.len() <= MADE_BYTES_MAX {
            let mut bytes = Vec::with_capacity(total([encoded_updates.len(), ENVELOPE_BYTES]));
            bytes = appended(&(prev.position, position, UPDATES_VARIANT, updates.len()), bytes);
            bytes.extend_from_slice(&encoded_updates);
            Made::from(appended(&members, bytes))
        } else {
            Made::default()
        };
        let record = Self {
            prev: prev.position,
            next: position,
            body: RecordBody::Updates { updates, members },
            made: bytes,
        };
        (
            record,
            Database {
                position,
                members,
                ..admitted
            },
        )
    }

    /// The record that opens a configuration with this epoch on this content.
    pub fn open(at: Position, epoch: Epoch) -> Self {
        let next = Position {
            stamp: Stamp { epoch, ..at.stamp },
            ..at
        };
        Self {
            prev: at,
            next,
            body: RecordBody::Open,
            made: Made::default(),
        }
    }

    /// The record that opens this configuration on this content: with all nodes active it also resets the restore flag.
    pub fn opening(at: Position, configuration: &Configuration) -> Self {
        let mut record = Self::open(at, configuration.epoch);
        if configuration.all_active() {
            record.body = RecordBody::OpenAll;
        }
        record
    }

    /// The record that undoes the round that led from `back_to` to `undone`.
    pub fn rollback(undone: Position, back_to: Position) -> Self {
        Self {
            prev: undone,
            next: back_to,
            body: RecordBody::Rollback,
            made: Made::default(),
        }
    }

    /// How much of it is text to be loaded.
    pub fn loaded_bytes(&self) -> usize {
        match &self.body {
            RecordBody::Updates { updates, .. } => updates.iter().map(Update::loaded_bytes).sum(),
            RecordBody::Rollback | RecordBody::Open | RecordBody::OpenAll => 0,
        }
    }

    /// At least as many bytes as it takes.
    pub fn encoded_bytes_max(&self) -> usize {
        let updates = match &self.body {
            RecordBody::Updates { updates, .. } => updates.as_slice(),
            RecordBody::Rollback | RecordBody::Open | RecordBody::OpenAll => &[],
        };
        total(
            updates
                .iter()
                .map(Update::encoded_bytes_max)
                .chain([RECORD_OVERHEAD_BYTES]),
        )
    }

    /// The record as bytes; at most [`RECORD_BYTES_MAX`](super::RECORD_BYTES_MAX) beside the text that it loads, if its
    /// updates were batched within the limit.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match &self.made.0 {
            Some(bytes) => Cow::Borrowed(bytes),
            None => Cow::Owned(appended(self, Vec::new())),
        }
    }

    /// At least as many bytes as [`Record::bytes`] has, found without encoding anything.
    pub fn bytes_max(&self) -> usize {
        let updates = match (&self.made.0, &self.body) {
            (Some(bytes), _) => return bytes.len(),
            (None, RecordBody::Updates { updates, .. }) => updates.as_slice(),
            (None, _) => &[],
        };
        total(
            updates
                .iter()
                .map(Update::encoded_bytes_max)
                .chain([RECORD_OVERHEAD_BYTES]),
        )
    }

    /// Reads what a journal holds, and checks the lineage too: a record whose `next.lineage` does not follow from its content
    /// is an error.
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        let record = Self::parse(bytes)?;
        record.check_positions()?;
        Ok(record)
    }

    /// Reads what the node that made it sent, and keeps the bytes.
    pub fn received(bytes: Vec<u8>) -> Result<Self, ImageError> {
        let mut record = Self::parse(&bytes)?;
        record.made = bytes.into();
        Ok(record)
    }

    fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let len_bytes = bytes.len();
        if len_bytes > RECORD_BYTES_LARGEST {
            return Err(damaged(format!(
                "a record of {len_bytes} bytes, at most {RECORD_BYTES_LARGEST} are allowed"
            )));
        }
        match postcard::take_from_bytes::<Self>(bytes) {
            Ok((record, [])) => Ok(record),
            Ok((_, rest)) => Err(damaged(format!("{} bytes after the end of a record", rest.len()))),
            Err(error) => Err(damaged(format!(
                "a record of {len_bytes} bytes does not decode: {error}"
            ))),
        }
    }

    /// Whether `next` follows from `prev` and the body.
    fn check_positions(&self) -> Result<(), ImageError> {
        let (prev, next) = (self.prev, self.next);
        let follows = match &self.body {
            RecordBody::Updates { updates, members } => {
                !updates.is_empty()
                    && next.stamp.epoch >= prev.stamp.epoch
                    && next == after_updates(prev, next.stamp.epoch, updates, *members).0
            }
            RecordBody::Open | RecordBody::OpenAll => {
                next.stamp.epoch >= prev.stamp.epoch
                    && next.stamp.generation == prev.stamp.generation
                    && next.lineage == prev.lineage
            }
            RecordBody::Rollback => next.stamp <= prev.stamp,
        };
        if follows {
            Ok(())
        } else {
            Err(damaged(format!(
                "a record from {prev} to {next} does not lead there"
            )))
        }
    }
}

fn damaged(what: alloc::string::String) -> ImageError {
    ImageError(what)
}

#[expect(
    clippy::expect_used,
    reason = "writing to memory does not fail, and the types hold nothing that postcard cannot write"
)]
fn appended<T: serde::Serialize>(value: &T, bytes: Vec<u8>) -> Vec<u8> {
    postcard::to_extend(value, bytes).expect("a value of plain data encodes")
}

/// Where updates lead: generation and lineage advance by one step for each. And their bytes, one after the other.
fn after_updates(prev: Position, epoch: Epoch, updates: &[Update], members: NodeSet) -> (Position, Vec<u8>) {
    let mut generation = prev.stamp.generation;
    let mut lineage = prev.lineage;
    let mut encoded = Vec::with_capacity(updates.iter().map(Update::encoded_bytes_max).sum());
    for update in updates {
        generation = generation.next();
        let start = encoded.len();
        encoded = appended(update, encoded);
        let mut hasher = blake3::Hasher::new_keyed(LINEAGE_KEY);
        hasher.update(&lineage.0);
        hasher.update(encoded.get(start..).unwrap_or_default());
        hasher.update(&epoch.0.to_le_bytes());
        hasher.update(&generation.0.to_le_bytes());
        hasher.update(&members.bits().to_le_bytes());
        lineage = Lineage(*hasher.finalize().as_bytes());
    }
    let stamp = Stamp { epoch, generation };
    (Position { stamp, lineage }, encoded)
}

const _: () =
    assert!(ENVELOPE_BYTES > 2 * (33 + 10 + 10) + 5 + 5 + 1 && RECORD_OVERHEAD_BYTES > ENVELOPE_BYTES);

#[cfg(test)]
mod tests {
    use super::super::fixture::{any_history, commit, figure_6, key, members, row, update};
    use super::super::update::{RECORD_BATCH_BYTES_MAX, RECORD_BYTES_MAX};
    use super::super::{Op, Pattern, Precondition};
    use super::*;
    use crate::configuration::RestoreFlag;
    use crate::ids::Generation;
    use alloc::string::String;
    use alloc::vec;
    use proptest::prelude::*;

    fn a_record() -> Record {
        commit(&figure_6(), update(2, vec![Op::Add(row("MY_KEY:clust9:1::foo"))])).0
    }

    #[test]
    fn lineage_tells_behind_from_diverged() {
        let base = figure_6();
        let one = commit(&base, update(2, vec![Op::Add(row("MY_KEY:a:::"))])).1;
        let other = commit(&base, update(2, vec![Op::Add(row("MY_KEY:b:::"))])).1;
        assert_eq!(one.position().stamp, other.position().stamp);
        assert_ne!(one.position().lineage, other.position().lineage);
        let same = commit(&base, update(2, vec![Op::Add(row("MY_KEY:a:::"))])).1;
        assert_eq!(one.position(), same.position());
    }

    #[test]
    fn lineage_depends_on_epoch_and_members() {
        let base = figure_6();
        let round = |epoch, members| {
            let update = update(2, vec![Op::Purify]);
            let (admitted, _) = base.admit(&update).expect("admitted");
            Record::updates(&base, Epoch(epoch), admitted, vec![update], members)
                .1
                .position()
                .lineage
        };
        assert_eq!(round(7, members(2)), round(7, members(2)));
        assert_ne!(round(7, members(2)), round(8, members(2)));
        assert_ne!(round(7, members(2)), round(7, members(1)));
    }

    #[test]
    fn opening_and_rollback_records_travel() {
        let at = figure_6().position();
        let record = a_record();
        for record in [
            Record::open(at, Epoch(9)),
            Record::rollback(record.next, record.prev),
        ] {
            assert_eq!(Record::decode(&appended(&record, vec![])), Ok(record));
        }
    }

    #[test]
    fn a_record_whose_lineage_does_not_follow_is_refused() {
        let mut record = a_record();
        record.next.lineage.0[0] ^= 1;
        assert!(Record::decode(&appended(&record, vec![])).is_err());
        let mut record = a_record();
        record.next.stamp.generation = Generation(9);
        assert!(Record::decode(&appended(&record, vec![])).is_err());
        let mut record = a_record();
        record.prev.stamp.epoch = Epoch(100);
        assert!(Record::decode(&appended(&record, vec![])).is_err());
        let mut record = Record::open(figure_6().position(), Epoch(9));
        record.next.lineage.0[0] ^= 1;
        assert!(Record::decode(&appended(&record, vec![])).is_err());
    }

    #[test]
    fn any_flipped_bit_of_an_update_and_any_cut_is_an_error() {
        let record = a_record();
        let good = record.bytes();
        // What leads to it is the last record's affair, and the journal's that no bit of it flips.
        let start = appended(&record.prev, vec![]).len();
        for index in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.to_vec();
                bad[index] ^= 1 << bit;
                assert!(
                    index < start || Record::decode(&bad).is_err(),
                    "bit {bit} of byte {index}"
                );
            }
            assert!(Record::decode(&good[..index]).is_err(), "cut at {index}");
        }
    }

    #[test]
    fn a_record_is_the_same_bytes_where_it_was_made_and_where_it_came_to() {
        let made = a_record();
        assert_eq!(made.bytes(), appended(&made, vec![]));
        let bytes = made.bytes().into_owned();
        let received = Record::received(bytes.clone()).expect("it was just made");
        assert_eq!(received, made);
        assert_eq!(received.bytes(), bytes);
        assert!(Record::received([bytes.as_slice(), &[0]].concat()).is_err());
        let long = "x".repeat(MADE_BYTES_MAX);
        let mut update = update(2, vec![Op::Purify]);
        update.reason = Some(long);
        let long = commit(&figure_6(), update).0;
        assert_eq!(Record::decode(&long.bytes()), Ok(long));
    }

    #[test]
    fn a_record_longer_than_the_limit_is_not_looked_at() {
        // Pages of zeros that nobody touches cost nothing.
        let error = Record::decode(&vec![0; RECORD_BYTES_LARGEST + 1]).expect_err("too long");
        assert!(error.0.contains("at most"), "{error}");
    }

    #[test]
    fn the_estimate_of_an_update_is_never_less_than_it_takes() {
        let long = String::from("x").repeat(300);
        let mut all = update(u64::MAX, vec![Op::Purify; 300]);
        all.request.client = u128::MAX;
        all.date = crate::time::Date(u64::MAX);
        (all.who.uid, all.who.pid, all.who.program) = (u32::MAX, u32::MAX, long.clone());
        all.reason = Some(long.clone());
        all.preconditions = vec![
            Precondition::Generation(Generation(u64::MAX)),
            Precondition::RowAbsent(row("K:1")),
        ];
        let pattern = Pattern::positional(key("K"), [long.clone()]).by_name("a", long);
        all.ops
            .push(Op::Remove(pattern.with_wildcard(Some('\u{10ffff}'))));
        all.ops.push(Op::ReplaceKey {
            restore: RestoreFlag::AllActive,
            key: key("K"),
            content: figure_6().content(),
        });
        assert!(appended(&all, vec![]).len() <= all.encoded_bytes_max());
    }

    #[test]
    fn the_largest_transaction_still_fits_a_record() {
        let mut update = update(2, vec![]);
        update.reason = Some("x".repeat(RECORD_BATCH_BYTES_MAX - update.encoded_bytes_max() - 5));
        assert!(commit(&figure_6(), update).0.bytes().len() <= RECORD_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn records_read_back((_, records) in any_history()) {
            for record in records {
                prop_assert_eq!(Record::decode(&appended(&record, vec![])), Ok(record));
            }
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Record::decode(&bytes);
            let _ = Record::received(bytes);
        }
    }
}
