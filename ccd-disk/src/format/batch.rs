//! A batch: several records as one of the journal, so that one write and one flush make all of them durable, or none.
//!
//! What a node has missed comes to it as hundreds of records, and a disk may need 10 ms for a flush. The records are packed as in
//! a segment. A batch holds no rollback and no batch, and is never undone: what it holds was committed before it was written.

use super::journal::{Entry, Step};
use super::segment::{self, FRAME_BYTES};
use std::borrow::Cow;

/// These records as one.
///
/// # Panics
/// If there is none, or one that cannot be part of a batch ([`may_be_part`]).
pub fn batch(records: &[Entry]) -> Entry {
    let (Some(first), Some(last)) = (records.first(), records.last()) else {
        panic!("a batch holds a record");
    };
    let mut payload = Vec::with_capacity(len_bytes(records));
    for record in records {
        assert!(may_be_part(record), "no rollback and no batch in a batch");
        segment::pack(&mut payload, record);
    }
    Entry {
        step: Step::Batch,
        prev: first.prev,
        next: last.next,
        payload,
    }
}

/// Whether a record may be in a batch.
pub fn may_be_part(record: &Entry) -> bool {
    !matches!(record.step, Step::Rollback | Step::Batch)
}

/// The bytes that these records take in a batch.
pub fn len_bytes(records: &[Entry]) -> usize {
    (records.iter())
        .map(|record| record.payload.len().saturating_add(FRAME_BYTES))
        .fold(0, usize::saturating_add)
}

/// The records that an entry of the journal or of a segment stands for: itself, or those of the batch. A batch that does not hold
/// what its head says stands for itself, and decodes as no record.
pub fn records(entry: &Entry) -> Vec<Cow<'_, Entry>> {
    if entry.step == Step::Batch
        && let Some(records) = segment::unpack_all(&entry.payload, entry.prev, entry.next)
        && records.iter().all(may_be_part)
    {
        return records.into_iter().map(Cow::Owned).collect();
    }
    vec![Cow::Borrowed(entry)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::ids::{Epoch, Generation, Lineage, Position, Stamp};

    fn position(generation: u64) -> Position {
        let stamp = Stamp {
            epoch: Epoch(3),
            generation: Generation(generation),
        };
        Position {
            stamp,
            lineage: Lineage([generation as u8; 32]),
        }
    }

    fn entry(number: u64, step: Step) -> Entry {
        Entry {
            step,
            prev: position(number),
            next: position(number + 1),
            payload: vec![number as u8; number as usize * 700],
        }
    }

    #[test]
    fn a_batch_gives_back_the_records_it_was_made_of() {
        for count in [1, 2, 9] {
            let step = |number| if number == 4 { Step::Open } else { Step::Updates };
            let made: Vec<Entry> = (0..count).map(|number| entry(number, step(number))).collect();
            let batch = batch(&made);
            assert_eq!((batch.prev, batch.next), (position(0), position(count)));
            assert_eq!(batch.payload.len(), len_bytes(&made));
            let back: Vec<Entry> = records(&batch).into_iter().map(Cow::into_owned).collect();
            assert_eq!(back, made);
        }
        let alone = entry(2, Step::Rollback);
        assert_eq!(records(&alone), [Cow::Borrowed(&alone)]);
    }

    #[test]
    fn what_is_no_whole_batch_stands_for_itself() {
        let good = batch(&[entry(0, Step::Updates), entry(1, Step::Updates)]);
        let cut = Entry {
            payload: good.payload[..good.payload.len() - 1].to_vec(),
            ..good.clone()
        };
        let elsewhere = Entry {
            next: position(7),
            ..good.clone()
        };
        let nested = {
            let mut payload = Vec::new();
            segment::pack(&mut payload, &good);
            Entry { payload, ..good }
        };
        for bad in [cut, elsewhere, nested] {
            assert_eq!(records(&bad), [Cow::Borrowed(&bad)]);
        }
    }
}
