//! A segment: the records that came after a checkpoint, or after the segment before, packed behind its image.
//!
//! A head block, which holds the first bytes of the records, and the parts that hold the rest. The head is written last, when all
//! parts are durable; it names where in the journal the replay goes on, so writing it is also what trims the journal. It
//! names the checkpoint that it continues, its number among that one's segments and the position it starts from: a segment
//! of an earlier lap, or of another history, continues nothing.

use super::RawPosition;
use super::checkpoint::JournalPoint;
use super::header::{self, BlockFault, HEADER_BYTES, Identity, Kind, PAYLOAD_BYTES, Tag};
use super::journal::{Entry, Step};
use crate::device::{BLOCK_BYTES, Buffer};
use ccd_core::ids::{NodeId, Position};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Most segments of one checkpoint. Bounds how far the journal of an area can have gone on behind damage.
pub const SEGMENTS_MAX: u32 = 64;

/// What a segment's head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHead {
    /// Sequence of the checkpoint that it continues.
    pub checkpoint: u64,
    /// Among that checkpoint's segments, from 0.
    pub number: u32,
    /// Where what comes before leads.
    pub from: Position,
    /// Where its records lead.
    pub to: Position,
    /// Where the replay of the journal goes on.
    pub replay_from: JournalPoint,
    /// The head included.
    pub blocks: u32,
    pub records: u32,
    /// Of the records with their frames.
    pub len_bytes: u32,
    /// BLAKE3 of the checksums of the parts in order.
    pub digest: [u8; 32],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSegmentHead {
    from: RawPosition,
    to: RawPosition,
    journal_sequence: U64,
    journal_at: U32,
    blocks: U32,
    records: U32,
    len_bytes: U32,
    digest: [u8; 32],
}

/// What comes before each record.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawFrame {
    record_len_bytes: U32,
    /// 1 updates, 3 open, 4 batch; what was rolled back is left out.
    step: u8,
    reserved: [u8; 3],
    next: RawPosition,
}

/// Bytes of the records that the head block holds.
const HEAD_RECORD_BYTES: usize = PAYLOAD_BYTES - size_of::<RawSegmentHead>();
/// Where they stand in the block.
const IN_HEAD_AT: usize = HEADER_BYTES + size_of::<RawSegmentHead>();
const _: () = assert!(size_of::<RawSegmentHead>() == 152 && HEAD_RECORD_BYTES == 3816);

/// Bytes before each record.
pub const FRAME_BYTES: usize = size_of::<RawFrame>();
const _: () = assert!(FRAME_BYTES == 56);

/// The blocks of a segment whose records take this many bytes, frames included.
pub fn blocks_for(len_bytes: usize) -> u32 {
    let rest = len_bytes.saturating_sub(HEAD_RECORD_BYTES);
    u32::try_from(rest.div_ceil(PAYLOAD_BYTES)).map_or(u32::MAX, |parts| parts.saturating_add(1))
}

/// How many of so many bytes go into the head.
pub fn bytes_in_head(len_bytes: usize) -> usize {
    len_bytes.min(HEAD_RECORD_BYTES)
}

/// Adds one record to others.
pub fn pack(bytes: &mut Vec<u8>, entry: &Entry) {
    let frame = RawFrame {
        record_len_bytes: (entry.payload.len() as u32).into(),
        step: entry.step as u8,
        reserved: [0; 3],
        next: entry.next.into(),
    };
    bytes.extend_from_slice(frame.as_bytes());
    bytes.extend_from_slice(&entry.payload);
}

/// The records that were packed one after the other; `None` if these bytes are not exactly so many, from and to there.
fn unpack(bytes: &[u8], head: &SegmentHead) -> Option<Vec<Entry>> {
    // Each takes a frame at least: what a head says allocates no more than what is there.
    if head.records as usize > bytes.len() / FRAME_BYTES {
        return None;
    }
    let entries = unpack_all(bytes, head.from, head.to)?;
    (entries.len() == head.records as usize).then_some(entries)
}

/// As many records as were packed, which must lead from here to there.
pub(super) fn unpack_all(mut bytes: &[u8], from: Position, to: Position) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut prev = from;
    while !bytes.is_empty() {
        let (frame, rest) = RawFrame::read_from_prefix(bytes).ok()?;
        let step = Step::from_number(frame.step).filter(|step| *step != Step::Rollback)?;
        let len_bytes = frame.record_len_bytes.get() as usize;
        let (payload, after) = rest
            .split_at_checked(len_bytes)
            .filter(|_| frame.reserved == [0; 3])?;
        let next = frame.next.into();
        entries.push(Entry {
            step,
            prev,
            next,
            payload: payload.to_vec(),
        });
        prev = next;
        bytes = after;
    }
    (prev == to).then_some(entries)
}

/// Where a slot's segments lie, and whose they are.
#[derive(Clone, Copy, Debug)]
pub struct SegmentRoom {
    pub identity: Identity,
    pub node: NodeId,
    pub first_block: u64,
    pub blocks: u32,
}

impl SegmentRoom {
    /// The number of the block at index `at` of the room.
    pub fn block(&self, at: u32) -> u64 {
        self.first_block.saturating_add(at.into())
    }

    fn tag(&self, kind: Kind, at: u32, head: &SegmentHead, part: u32) -> Tag {
        Tag {
            kind,
            node: self.node,
            block: self.block(at),
            epoch: head.to.stamp.epoch.0,
            sequence: head.checkpoint,
            part,
        }
    }

    /// The head block of a segment that begins at index `at`, with the first bytes of its records.
    pub fn encode_head(&self, at: u32, head: &SegmentHead, in_head: &[u8]) -> [u8; BLOCK_BYTES] {
        let raw = RawSegmentHead {
            from: head.from.into(),
            to: head.to.into(),
            journal_sequence: head.replay_from.sequence.into(),
            journal_at: head.replay_from.at.into(),
            blocks: head.blocks.into(),
            records: head.records.into(),
            len_bytes: head.len_bytes.into(),
            digest: head.digest,
        };
        let mut block = [0; BLOCK_BYTES];
        header::put(&mut block, HEADER_BYTES, raw.as_bytes());
        header::put(&mut block, IN_HEAD_AT, in_head);
        let tag = self.tag(Kind::Segment, at, head, head.number);
        header::seal(
            &mut block,
            &self.identity,
            tag,
            in_head.len().saturating_add(size_of::<RawSegmentHead>()),
        );
        block
    }

    /// The parts, from part `first_part` (1: the first) on, that hold `bytes`; all but the last are full. `digest` goes on over
    /// their checksums.
    pub fn encode_parts(
        &self,
        at: u32,
        head: &SegmentHead,
        first_part: u32,
        bytes: &[u8],
        digest: &mut blake3::Hasher,
    ) -> Buffer {
        let mut buffer = Buffer::zeroed(bytes.len().div_ceil(PAYLOAD_BYTES));
        for (index, bytes) in bytes.chunks(PAYLOAD_BYTES).enumerate() {
            let part = first_part.saturating_add(index as u32);
            let block = buffer.block_mut(index);
            header::put(block, HEADER_BYTES, bytes);
            let tag = self.tag(Kind::SegmentPart, at.saturating_add(part), head, part);
            digest.update(&header::seal(block, &self.identity, tag, bytes.len()));
        }
        buffer
    }

    /// What the block at index `at` says, if it is the head of a segment.
    pub fn decode_head<'a>(
        &self,
        block: &'a [u8; BLOCK_BYTES],
        at: u32,
        journal_blocks: u32,
    ) -> Result<(SegmentHead, &'a [u8]), BlockFault> {
        let sealed = header::unseal(block, &self.identity, self.block(at))?;
        if sealed.tag.node != self.node {
            return Err(BlockFault::Foreign);
        }
        if sealed.tag.kind != Kind::Segment {
            return Err(BlockFault::Kind);
        }
        let (raw, in_head) =
            RawSegmentHead::read_from_prefix(sealed.payload).map_err(|_| BlockFault::Payload)?;
        let len_bytes = raw.len_bytes.get() as usize;
        let blocks = raw.blocks.get();
        let fits = at
            .checked_add(blocks)
            .is_some_and(|end| blocks > 0 && end <= self.blocks);
        let is_right = blocks == blocks_for(len_bytes)
            && in_head.len() == bytes_in_head(len_bytes)
            && raw.journal_at.get() < journal_blocks;
        if !fits || !is_right {
            return Err(BlockFault::Payload);
        }
        let head = SegmentHead {
            checkpoint: sealed.tag.sequence,
            number: sealed.tag.part,
            from: raw.from.into(),
            to: raw.to.into(),
            replay_from: JournalPoint {
                sequence: raw.journal_sequence.get(),
                at: raw.journal_at.get(),
            },
            blocks,
            records: raw.records.get(),
            len_bytes: raw.len_bytes.get(),
            digest: raw.digest,
        };
        Ok((head, in_head))
    }

    /// Checks the parts, `parts` being the blocks after the head at index `at`, and takes the records apart.
    pub fn decode_records(
        &self,
        at: u32,
        head: &SegmentHead,
        in_head: &[u8],
        parts: &Buffer,
    ) -> Result<Vec<Entry>, (u64, BlockFault)> {
        let mut bytes = Vec::with_capacity(head.len_bytes as usize);
        bytes.extend_from_slice(in_head);
        let mut digest = blake3::Hasher::new();
        for (index, part) in (1..head.blocks).enumerate() {
            let number = self.block(at.saturating_add(part));
            let fault = |fault| (number, fault);
            let sealed = header::unseal(parts.block(index), &self.identity, number);
            let sealed = sealed.map_err(fault)?;
            let tag = sealed.tag;
            if tag.kind != Kind::SegmentPart || tag.part != part || tag.sequence != head.checkpoint {
                return Err(fault(BlockFault::Kind));
            }
            digest.update(&sealed.checksum);
            bytes.extend_from_slice(sealed.payload);
        }
        let number = self.block(at);
        if bytes.len() != head.len_bytes as usize || *digest.finalize().as_bytes() != head.digest {
            return Err((number, BlockFault::Checksum));
        }
        unpack(&bytes, head).ok_or((number, BlockFault::Payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::header::RegionId;
    use ccd_core::ids::{ClusterId, Epoch, Generation, Lineage, Replica, Stamp};
    use proptest::prelude::*;

    const ROOM_BLOCKS: u32 = 16;
    const AT: u32 = 3;

    fn room() -> SegmentRoom {
        let identity = Identity {
            cluster: ClusterId([1; 16]),
            region: RegionId([2; 16]),
            replica: Replica::Local,
        };
        SegmentRoom {
            identity,
            node: NodeId::new(1).unwrap(),
            first_block: 700,
            blocks: ROOM_BLOCKS,
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

    fn entries(lengths: &[usize]) -> Vec<Entry> {
        let entry = |(index, len): (usize, &usize)| Entry {
            step: if index % 3 == 2 { Step::Open } else { Step::Updates },
            prev: position(index as u64),
            next: position(index as u64 + 1),
            payload: (0..*len).map(|byte| (byte * 7 + index) as u8).collect(),
        };
        lengths.iter().enumerate().map(entry).collect()
    }

    /// The segment of these records, at index `AT` of the room, and its head.
    fn written(entries: &[Entry]) -> (SegmentHead, Buffer) {
        let mut bytes = Vec::new();
        entries.iter().for_each(|entry| pack(&mut bytes, entry));
        let mut head = SegmentHead {
            checkpoint: 6,
            number: 2,
            from: position(0),
            to: position(entries.len() as u64),
            replay_from: JournalPoint { sequence: 40, at: 5 },
            blocks: blocks_for(bytes.len()),
            records: entries.len() as u32,
            len_bytes: bytes.len() as u32,
            digest: [0; 32],
        };
        let (in_head, in_parts) = bytes.split_at(bytes_in_head(bytes.len()));
        let mut digest = blake3::Hasher::new();
        let parts = room().encode_parts(AT, &head, 1, in_parts, &mut digest);
        head.digest = *digest.finalize().as_bytes();
        let mut all = Buffer::zeroed(head.blocks as usize);
        *all.block_mut(0) = room().encode_head(AT, &head, in_head);
        all[BLOCK_BYTES..].copy_from_slice(&parts);
        (head, all)
    }

    fn read(blocks: &Buffer) -> Result<(SegmentHead, Vec<Entry>), BlockFault> {
        let (head, in_head) = room().decode_head(blocks.block(0), AT, 16)?;
        let mut parts = Buffer::zeroed(blocks.blocks() - 1);
        parts.copy_from_slice(&blocks[BLOCK_BYTES..]);
        let entries = room().decode_records(AT, &head, in_head, &parts);
        Ok((head, entries.map_err(|(_, fault)| fault)?))
    }

    proptest! {
        #[test]
        fn segments_round_trip(lengths in proptest::collection::vec(0usize..3000, 0..12)) {
            let entries = entries(&lengths);
            let (head, blocks) = written(&entries);
            prop_assert_eq!(read(&blocks).unwrap(), (head, entries));
        }

        #[test]
        fn any_changed_byte_of_a_segment_is_noticed(at in any::<prop::sample::Index>(), change in 1u8..) {
            let (_, mut blocks) = written(&entries(&[300, 5000, 40, 2000]));
            let at = at.index(blocks.len());
            blocks[at] ^= change;
            prop_assert!(read(&blocks).is_err());
        }

        #[test]
        fn no_bytes_make_taking_records_apart_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..400), records in 0u32..6, len in 0u32..200,
        ) {
            let (mut head, _) = written(&entries(&[10]));
            head.records = records;
            let _ = unpack(&bytes, &head);
            let mut framed = len.to_le_bytes().to_vec();
            framed.extend_from_slice(&[1, 0, 0, 0]);
            framed.extend_from_slice(&bytes);
            let _ = unpack(&framed, &head);
        }
    }

    #[test]
    fn parts_of_an_attempt_that_was_cut_off_do_not_complete_another() {
        let (_, old) = written(&entries(&[9000, 9000]));
        let (_, mut new) = written(&entries(&[9000, 9001]));
        assert!(read(&old).is_ok() && read(&new).is_ok());
        *new.block_mut(2) = *old.block(2);
        assert_eq!(read(&new).unwrap_err(), BlockFault::Checksum);
    }

    #[test]
    fn what_does_not_fit_the_room_or_lies_elsewhere_is_refused() {
        let (head, blocks) = written(&entries(&[300, 5000]));
        let head_at = |at| room().decode_head(blocks.block(0), at, 16).unwrap_err();
        assert_eq!(head_at(AT + 1), BlockFault::Misplaced(u64::from(AT) + 700));
        let small = SegmentRoom {
            blocks: AT + head.blocks - 1,
            ..room()
        };
        let refused = small.decode_head(blocks.block(0), AT, 16).unwrap_err();
        assert_eq!(refused, BlockFault::Payload);
        let refused = room().decode_head(blocks.block(0), AT, 5).unwrap_err();
        assert_eq!(refused, BlockFault::Payload, "the journal has no such index");
        let undone = Entry {
            step: Step::Rollback,
            ..entries(&[10]).remove(0)
        };
        let (_, blocks) = written(&[undone]);
        assert_eq!(
            read(&blocks).unwrap_err(),
            BlockFault::Payload,
            "nothing is rolled back in a segment"
        );
    }

    #[test]
    fn a_few_small_records_take_the_head_alone() {
        assert_eq!((blocks_for(0), blocks_for(HEAD_RECORD_BYTES)), (1, 1));
        assert_eq!(blocks_for(HEAD_RECORD_BYTES + 1), 2);
        assert_eq!(blocks_for(HEAD_RECORD_BYTES + PAYLOAD_BYTES + 1), 3);
    }
}
