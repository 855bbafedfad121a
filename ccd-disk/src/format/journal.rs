//! One record of the journal ring: a head block and, if it needs them, parts, all written in one write.
//!
//! A record is taken only if every block of it is whole, in its place and has its sequence number, and the head's digest
//! covers exactly these parts: so parts that an earlier torn write left behind cannot complete a new record.

use super::RawPosition;
use super::header::{self, BlockFault, Checksum, HEADER_BYTES, Identity, Kind, PAYLOAD_BYTES, Tag};
use crate::device::{BLOCK_BYTES, Buffer};
use ccd_core::database::{Record, RecordBody};
use ccd_core::ids::{NodeId, Position};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawJournalHead {
    prev: RawPosition,
    next: RawPosition,
    /// 1 updates, 2 rollback, 3 open, 4 batch.
    step: u8,
    reserved: [u8; 7],
    record_len_bytes: U32,
    blocks: U32,
    /// BLAKE3 of the checksums of the parts in order, its first 16 bytes.
    parts_digest: Checksum,
}

/// Bytes of a record that the head block holds.
const HEAD_RECORD_BYTES: usize = PAYLOAD_BYTES - size_of::<RawJournalHead>();
/// Where they stand in the block.
const IN_HEAD_AT: usize = HEADER_BYTES + size_of::<RawJournalHead>();
const _: () = assert!(size_of::<RawJournalHead>() == 128 && HEAD_RECORD_BYTES == 3840);

/// What a record does: known without decoding it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    Updates = 1,
    Rollback = 2,
    Open = 3,
    /// Several records, one behind the other (`batch.rs`).
    Batch = 4,
}

impl Step {
    /// Which step a record is.
    pub fn of(record: &Record) -> Self {
        match record.body {
            RecordBody::Updates { .. } => Self::Updates,
            RecordBody::Rollback => Self::Rollback,
            RecordBody::Open | RecordBody::OpenAll => Self::Open,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        [Self::Updates, Self::Rollback, Self::Open, Self::Batch]
            .into_iter()
            .find(|step| *step as u8 == number)
    }
}

/// A record as the journal knows it; `payload` is the encoded [`Record`], or those of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub step: Step,
    pub prev: Position,
    pub next: Position,
    pub payload: Vec<u8>,
}

/// Where a node's ring lies and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    pub identity: Identity,
    pub node: NodeId,
    /// Block number of the ring's first block.
    pub first_block: u64,
    pub blocks: u32,
}

/// The head of a record, its parts not yet looked at.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub sequence: u64,
    pub blocks: u32,
    step: Step,
    prev: Position,
    /// Where the record leads.
    pub next: Position,
    record_len_bytes: usize,
    parts_digest: Checksum,
}

/// The blocks that a record of this many bytes takes.
pub fn blocks_for(record_len_bytes: usize) -> u32 {
    let rest = record_len_bytes.saturating_sub(HEAD_RECORD_BYTES);
    u32::try_from(rest.div_ceil(PAYLOAD_BYTES)).map_or(u32::MAX, |parts| parts.saturating_add(1))
}

impl Ring {
    /// The largest record that the ring takes: half of it.
    pub fn record_blocks_max(&self) -> u32 {
        self.blocks / 2
    }

    /// Bytes of the largest record that the ring takes.
    pub fn record_bytes_max(&self) -> usize {
        let parts = self.record_blocks_max().saturating_sub(1) as usize;
        parts
            .saturating_mul(PAYLOAD_BYTES)
            .saturating_add(HEAD_RECORD_BYTES)
    }

    /// The number of the block at ring index `at`.
    fn block(&self, at: u32) -> u64 {
        self.first_block.saturating_add(at.into())
    }

    /// So many blocks from ring index `at` on do not wrap around the end.
    fn has(&self, at: u32, blocks: u32) -> bool {
        at.checked_add(blocks).is_some_and(|end| end <= self.blocks)
    }

    /// The blocks of a record that goes to ring index `at` with this sequence number.
    pub fn encode(&self, entry: &Entry, at: u32, sequence: u64) -> Buffer {
        let mut buffer = Buffer::zeroed(0);
        self.encode_into(&mut buffer, entry, at, sequence);
        buffer
    }

    /// As [`encode`](Self::encode), in place of whatever the buffer holds.
    pub fn encode_into(&self, buffer: &mut Buffer, entry: &Entry, at: u32, sequence: u64) {
        let (in_head, in_parts) = entry.payload.split_at(entry.payload.len().min(HEAD_RECORD_BYTES));
        let blocks = blocks_for(entry.payload.len());
        assert!(
            self.has(at, blocks),
            "a record does not wrap around the ring's end"
        );
        let tag = |kind, part| Tag {
            kind,
            node: self.node,
            block: self.block(at.saturating_add(part)),
            epoch: entry.next.stamp.epoch.0,
            sequence,
            part,
        };
        buffer.clear_to(blocks as usize);
        let mut digest = blake3::Hasher::new();
        for (part, bytes) in (1..).zip(in_parts.chunks(PAYLOAD_BYTES)) {
            let block = buffer.block_mut(part as usize);
            header::put(block, HEADER_BYTES, bytes);
            let checksum = header::seal(block, &self.identity, tag(Kind::JournalPart, part), bytes.len());
            digest.update(&checksum);
        }
        let raw = RawJournalHead {
            prev: entry.prev.into(),
            next: entry.next.into(),
            step: entry.step as u8,
            reserved: [0; 7],
            record_len_bytes: (entry.payload.len() as u32).into(),
            blocks: blocks.into(),
            parts_digest: shortened(&digest),
        };
        let block = buffer.block_mut(0);
        header::put(block, HEADER_BYTES, raw.as_bytes());
        header::put(block, IN_HEAD_AT, in_head);
        let payload_len_bytes = in_head.len().saturating_add(size_of::<RawJournalHead>());
        header::seal(block, &self.identity, tag(Kind::Journal, 0), payload_len_bytes);
    }

    /// What ring index `at` holds, if it is the head of a record.
    pub fn head(&self, ring: &Buffer, at: u32) -> Result<Head, BlockFault> {
        self.head_and_bytes(ring.block(at as usize), at)
            .map(|(head, _)| head)
    }

    /// Whether the block at ring index `at` is whole and in its place, whatever it belongs to.
    pub fn block_fault(&self, ring: &Buffer, at: u32) -> Option<BlockFault> {
        let number = self.block(at);
        header::unseal(ring.block(at as usize), &self.identity, number).err()
    }

    /// The whole record whose head is at ring index `at`.
    pub fn record(&self, ring: &Buffer, at: u32) -> Result<(Head, Entry), BlockFault> {
        self.record_in(ring, 0, at)
    }

    /// The same, of the blocks from ring index `first` on only.
    pub fn record_in(&self, window: &Buffer, first: u32, at: u32) -> Result<(Head, Entry), BlockFault> {
        let index = |at: u32| at.saturating_sub(first) as usize;
        let (head, in_head) = self.head_and_bytes(window.block(index(at)), at)?;
        if index(at.saturating_add(head.blocks)) > window.blocks() {
            return Err(BlockFault::Payload);
        }
        let mut payload = in_head.to_vec();
        let mut digest = blake3::Hasher::new();
        for part in 1..head.blocks {
            let at = at.saturating_add(part);
            let sealed = header::unseal(window.block(index(at)), &self.identity, self.block(at))?;
            let tag = sealed.tag;
            if tag.kind != Kind::JournalPart || tag.part != part || tag.sequence != head.sequence {
                return Err(BlockFault::Kind);
            }
            digest.update(&sealed.checksum);
            payload.extend_from_slice(sealed.payload);
        }
        if shortened(&digest) != head.parts_digest {
            return Err(BlockFault::Checksum);
        }
        if payload.len() != head.record_len_bytes {
            return Err(BlockFault::Payload);
        }
        Ok((
            head,
            Entry {
                step: head.step,
                prev: head.prev,
                next: head.next,
                payload,
            },
        ))
    }

    fn head_and_bytes<'a>(
        &self,
        block: &'a [u8; BLOCK_BYTES],
        at: u32,
    ) -> Result<(Head, &'a [u8]), BlockFault> {
        let number = self.block(at);
        let sealed = header::unseal(block, &self.identity, number)?;
        if sealed.tag.kind != Kind::Journal {
            return Err(BlockFault::Kind);
        }
        if sealed.tag.node != self.node {
            return Err(BlockFault::Foreign);
        }
        let (raw, in_head) =
            RawJournalHead::read_from_prefix(sealed.payload).map_err(|_| BlockFault::Payload)?;
        let record_len_bytes = raw.record_len_bytes.get() as usize;
        let blocks = raw.blocks.get();
        let fits = blocks <= self.record_blocks_max() && self.has(at, blocks);
        if blocks != blocks_for(record_len_bytes) || !fits {
            return Err(BlockFault::Payload);
        }
        let head = Head {
            sequence: sealed.tag.sequence,
            blocks,
            step: Step::from_number(raw.step).ok_or(BlockFault::Payload)?,
            prev: raw.prev.into(),
            next: raw.next.into(),
            record_len_bytes,
            parts_digest: raw.parts_digest,
        };
        Ok((head, in_head))
    }
}

fn shortened(digest: &blake3::Hasher) -> Checksum {
    header::shortened(digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::header::RegionId;
    use ccd_core::ids::{ClusterId, Epoch, Generation, Lineage, Replica, Stamp};
    use proptest::prelude::*;

    fn ring() -> Ring {
        let identity = Identity {
            cluster: ClusterId([1; 16]),
            region: RegionId([2; 16]),
            replica: Replica::Local,
        };
        Ring {
            identity,
            node: NodeId::new(1).unwrap(),
            first_block: 500,
            blocks: 16,
        }
    }

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

    fn entry(payload: Vec<u8>) -> Entry {
        Entry {
            step: Step::Updates,
            prev: position(4),
            next: position(5),
            payload,
        }
    }

    fn in_ring(record: &Buffer, at: usize) -> Buffer {
        let mut whole = Buffer::zeroed(16);
        let start = at * crate::device::BLOCK_BYTES;
        whole[start..start + record.len()].copy_from_slice(record);
        whole
    }

    proptest! {
        #[test]
        fn records_of_any_length_round_trip(
            payload in proptest::collection::vec(any::<u8>(), 0..5 * PAYLOAD_BYTES), at in 0u32..8,
        ) {
            let entry = entry(payload);
            let record = ring().encode(&entry, at, 77);
            let (head, back) = ring().record(&in_ring(&record, at as usize), at).unwrap();
            prop_assert_eq!(head.sequence, 77);
            prop_assert_eq!(back, entry);
        }

        #[test]
        fn any_changed_byte_of_a_record_is_noticed(at in 0..3 * 4096usize, change in 1u8..) {
            let record = ring().encode(&entry(vec![9; 9000]), 2, 77);
            let mut whole = in_ring(&record, 2);
            whole[2 * 4096 + at] ^= change;
            prop_assert!(ring().record(&whole, 2).is_err());
        }
    }

    #[test]
    fn parts_left_by_an_earlier_torn_record_do_not_complete_a_new_one() {
        let old = in_ring(&ring().encode(&entry(vec![1; 9000]), 0, 77), 0);
        let mut mixed = in_ring(&ring().encode(&entry(vec![2; 9000]), 0, 77), 0);
        *mixed.block_mut(2) = *old.block(2);
        assert!(
            ring().block_fault(&mixed, 2).is_none(),
            "the stale part is a whole block"
        );
        assert_eq!(ring().record(&mixed, 0).unwrap_err(), BlockFault::Checksum);
    }

    #[test]
    fn the_largest_record_is_half_the_ring() {
        assert_eq!(blocks_for(ring().record_bytes_max()), 8);
        assert_eq!(blocks_for(ring().record_bytes_max() + 1), 9);
        assert_eq!(blocks_for(0), 1);
    }
}
