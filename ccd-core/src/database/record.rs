//! Records: the steps that journals hold and members receive, and the lineage that chains them.

use super::update::{RECORD_BYTES_MAX, RECORD_OVERHEAD_BYTES};
use super::{Database, ImageError, Record, RecordBody, Update};
use crate::configuration::Configuration;
use crate::ids::{Epoch, Generation, Lineage, NodeSet, Position, Stamp};
use alloc::format;
use alloc::vec::Vec;

/// Tells this use of BLAKE3 from others; not a secret.
const LINEAGE_KEY: &[u8; 32] = b"ccd lineage of updates, version1";

/// A record ends with this many bytes of the BLAKE3 of what comes before.
const CHECKSUM_BYTES: usize = 8;

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
        let position = after_updates(prev.position, epoch, &updates, members);
        debug_assert_eq!(
            admitted.position.stamp.generation, position.stamp.generation,
            "each update was admitted"
        );
        let record = Self {
            prev: prev.position,
            next: position,
            body: RecordBody::Updates { updates, members },
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
        }
    }

    /// The record as bytes; at most [`RECORD_BYTES_MAX`](super::RECORD_BYTES_MAX) if its updates were batched within
    /// the limit.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = encoded(self);
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(&checksum.as_bytes()[..CHECKSUM_BYTES]);
        bytes
    }

    /// Checks the lineage too: a record whose `next.lineage` does not follow from its content is an error.
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(damaged(format!(
                "a record of {} bytes, at most {RECORD_BYTES_MAX} are allowed",
                bytes.len()
            )));
        }
        let Some((body, checksum)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
            return Err(damaged(format!("a record of only {} bytes", bytes.len())));
        };
        if blake3::hash(body).as_bytes()[..CHECKSUM_BYTES] != checksum[..] {
            return Err(damaged(format!(
                "the checksum of a record of {} bytes is wrong",
                bytes.len()
            )));
        }
        let (record, rest) = postcard::take_from_bytes::<Self>(body).map_err(|error| {
            damaged(format!(
                "a record of {} bytes does not decode: {error}",
                bytes.len()
            ))
        })?;
        if !rest.is_empty() {
            return Err(damaged(format!("{} bytes after the end of a record", rest.len())));
        }
        record.check_positions()?;
        Ok(record)
    }

    /// Whether `next` follows from `prev` and the body.
    fn check_positions(&self) -> Result<(), ImageError> {
        let (prev, next) = (self.prev, self.next);
        let follows = match &self.body {
            RecordBody::Updates { updates, members } => {
                !updates.is_empty()
                    && next.stamp.epoch >= prev.stamp.epoch
                    && next == after_updates(prev, next.stamp.epoch, updates, *members)
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

fn encoded<T: serde::Serialize>(value: &T) -> Vec<u8> {
    // Writing to memory does not fail, and the types hold nothing that postcard cannot write.
    postcard::to_allocvec(value).expect("a value of plain data encodes")
}

/// Where updates lead: generation and lineage advance by one step for each.
fn after_updates(prev: Position, epoch: Epoch, updates: &[Update], members: NodeSet) -> Position {
    let mut generation = prev.stamp.generation;
    let mut lineage = prev.lineage;
    for update in updates {
        // Wraps only for a crafted record; no cluster lives for 2⁶⁴ updates.
        generation = Generation(generation.0.wrapping_add(1));
        let mut hasher = blake3::Hasher::new_keyed(LINEAGE_KEY);
        hasher.update(&lineage.0);
        hasher.update(&encoded(update));
        hasher.update(&epoch.0.to_le_bytes());
        hasher.update(&generation.0.to_le_bytes());
        hasher.update(&members.bits().to_le_bytes());
        lineage = Lineage(*hasher.finalize().as_bytes());
    }
    Position {
        stamp: Stamp { epoch, generation },
        lineage,
    }
}

const _: () = assert!(RECORD_OVERHEAD_BYTES > 2 * (32 + 10 + 10) + 5 + 5 + 1 + CHECKSUM_BYTES);

#[cfg(test)]
mod tests {
    use super::super::fixture::{any_history, commit, figure_6, key, members, row, update};
    use super::super::update::RECORD_BATCH_BYTES_MAX;
    use super::super::{Op, Pattern, Precondition};
    use super::*;
    use crate::configuration::RestoreFlag;
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
            assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
    }

    #[test]
    fn a_record_whose_lineage_does_not_follow_is_refused() {
        let mut record = a_record();
        record.next.lineage.0[0] ^= 1;
        assert!(Record::decode(&record.encode()).is_err());
        let mut record = a_record();
        record.next.stamp.generation = Generation(9);
        assert!(Record::decode(&record.encode()).is_err());
        let mut record = a_record();
        record.prev.stamp.epoch = Epoch(100);
        assert!(Record::decode(&record.encode()).is_err());
        let mut record = Record::open(figure_6().position(), Epoch(9));
        record.next.lineage.0[0] ^= 1;
        assert!(Record::decode(&record.encode()).is_err());
    }

    #[test]
    fn any_flipped_bit_or_cut_of_a_record_is_an_error() {
        let good = a_record().encode();
        for index in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[index] ^= 1 << bit;
                assert!(Record::decode(&bad).is_err(), "bit {bit} of byte {index}");
            }
            assert!(Record::decode(&good[..index]).is_err(), "cut at {index}");
        }
    }

    #[test]
    fn a_record_longer_than_the_limit_is_not_looked_at() {
        let error = Record::decode(&vec![0; RECORD_BYTES_MAX + 1]).expect_err("too long");
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
        assert!(encoded(&all).len() <= all.encoded_bytes_max());
    }

    #[test]
    fn the_largest_transaction_still_fits_a_record() {
        let mut update = update(2, vec![]);
        update.reason = Some("x".repeat(RECORD_BATCH_BYTES_MAX - update.encoded_bytes_max() - 5));
        assert!(commit(&figure_6(), update).0.encode().len() <= RECORD_BYTES_MAX);
    }

    proptest! {
        #[test]
        fn records_read_back((_, records) in any_history()) {
            for record in records {
                prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
            }
        }

        #[test]
        fn no_bytes_make_decoding_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = body.clone();
            bytes.extend_from_slice(&blake3::hash(&body).as_bytes()[..CHECKSUM_BYTES]);
            let _ = Record::decode(&body);
            let _ = Record::decode(&bytes);
        }
    }
}
