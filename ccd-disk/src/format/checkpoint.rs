//! A checkpoint slot: a head block and the blocks of one database image.
//!
//! The head is written last, when all image blocks are durable; it names where in the journal the replay starts, so
//! writing it is also what trims the journal.

use super::RawPosition;
use super::header::{self, BlockFault, HEADER_BYTES, Identity, Kind, PAYLOAD_BYTES, Tag};
use crate::device::{BLOCK_BYTES, Buffer};
use ccd_core::ids::{NodeId, Position};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A place in the journal ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalPoint {
    /// Of the record that is or will be there.
    pub sequence: u64,
    /// Index in the ring.
    pub at: u32,
}

impl JournalPoint {
    /// Of an area that has no checkpoint.
    pub const FIRST: Self = Self { sequence: 1, at: 0 };
}

/// What a checkpoint's head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointHead {
    /// Counts the checkpoints of an area; the newest is the one with the highest.
    pub sequence: u64,
    /// Of the database in the image.
    pub position: Position,
    pub image_len_bytes: u64,
    /// Where the replay starts.
    pub replay_from: JournalPoint,
    /// The image replaced whatever the area held, rather than continuing it.
    pub replaces: bool,
    /// BLAKE3 of the checksums of the image blocks in order.
    pub digest: [u8; 32],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawCheckpointHead {
    position: RawPosition,
    image_len_bytes: U64,
    journal_sequence: U64,
    journal_at: U32,
    replaces: u8,
    reserved: [u8; 3],
    digest: [u8; 32],
}

const _: () = assert!(size_of::<RawCheckpointHead>() == 104);

/// What the head block of a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Never written.
    Empty,
    Head(CheckpointHead),
    /// What the slot held was replaced by the checkpoint of this sequence, in the other slot.
    Retired {
        by_sequence: u64,
    },
    /// Torn or damaged.
    Bad(BlockFault),
}

/// Where a slot lies and whose it is.
#[derive(Clone, Copy, Debug)]
pub struct SlotPlace {
    pub identity: Identity,
    pub node: NodeId,
    /// Block number of the head; the image blocks follow.
    pub head_block: u64,
    pub image_blocks: u32,
}

impl SlotPlace {
    /// The largest image that fits.
    pub fn image_bytes_max(&self) -> u64 {
        u64::from(self.image_blocks).saturating_mul(PAYLOAD_BYTES as u64)
    }

    /// The number of an image block.
    fn image_block(&self, index: u64) -> u64 {
        (self.head_block.saturating_add(1)).saturating_add(index)
    }

    fn tag(&self, kind: Kind, offset_blocks: u64, epoch: u64, sequence: u64) -> Tag {
        let part = u32::try_from(offset_blocks.saturating_sub(1)).unwrap_or(u32::MAX);
        Tag {
            kind,
            node: self.node,
            block: self.head_block.saturating_add(offset_blocks),
            epoch,
            sequence,
            part,
        }
    }

    /// The head block.
    pub fn encode_head(&self, head: &CheckpointHead) -> [u8; BLOCK_BYTES] {
        let raw = RawCheckpointHead {
            position: head.position.into(),
            image_len_bytes: head.image_len_bytes.into(),
            journal_sequence: head.replay_from.sequence.into(),
            journal_at: head.replay_from.at.into(),
            replaces: head.replaces.into(),
            reserved: [0; 3],
            digest: head.digest,
        };
        let mut block = [0; BLOCK_BYTES];
        header::put(&mut block, HEADER_BYTES, raw.as_bytes());
        let tag = self.tag(
            Kind::CheckpointHead,
            0,
            head.position.stamp.epoch.0,
            head.sequence,
        );
        header::seal(&mut block, &self.identity, tag, size_of::<RawCheckpointHead>());
        block
    }

    /// The block that takes the place of a head whose checkpoint must never be used again.
    pub fn encode_retired(&self, by_sequence: u64) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        header::seal(
            &mut block,
            &self.identity,
            self.tag(Kind::CheckpointRetired, 0, 0, by_sequence),
            0,
        );
        block
    }

    /// What a head block read from this place says.
    pub fn decode_head(&self, block: &[u8; BLOCK_BYTES], journal_blocks: u32) -> SlotState {
        match self.parse_head(block, journal_blocks) {
            Ok(state) => state,
            Err(BlockFault::Zero) => SlotState::Empty,
            Err(fault) => SlotState::Bad(fault),
        }
    }

    fn parse_head(&self, block: &[u8; BLOCK_BYTES], journal_blocks: u32) -> Result<SlotState, BlockFault> {
        let sealed = header::unseal(block, &self.identity, self.head_block)?;
        if sealed.tag.node != self.node {
            return Err(BlockFault::Foreign);
        }
        match sealed.tag.kind {
            Kind::CheckpointRetired => {
                return Ok(SlotState::Retired {
                    by_sequence: sealed.tag.sequence,
                });
            }
            Kind::CheckpointHead => {}
            _ => return Err(BlockFault::Kind),
        }
        let raw = RawCheckpointHead::read_from_bytes(sealed.payload).map_err(|_| BlockFault::Payload)?;
        let image_len_bytes = raw.image_len_bytes.get();
        let at = raw.journal_at.get();
        if image_len_bytes > self.image_bytes_max() || at >= journal_blocks {
            return Err(BlockFault::Payload);
        }
        Ok(SlotState::Head(CheckpointHead {
            sequence: sealed.tag.sequence,
            position: raw.position.into(),
            image_len_bytes,
            replay_from: JournalPoint {
                sequence: raw.journal_sequence.get(),
                at,
            },
            replaces: raw.replaces != 0,
            digest: raw.digest,
        }))
    }
}

/// Checks the blocks of an image as they are read, and puts the image together.
#[derive(Debug)]
pub struct ImageOpener<'a> {
    place: &'a SlotPlace,
    head: &'a CheckpointHead,
    next_block: u64,
    digest: blake3::Hasher,
    image: Vec<u8>,
}

impl<'a> ImageOpener<'a> {
    pub fn new(place: &'a SlotPlace, head: &'a CheckpointHead) -> Self {
        Self {
            place,
            head,
            next_block: 0,
            digest: blake3::Hasher::new(),
            image: Vec::with_capacity(head.image_len_bytes as usize),
        }
    }

    /// The number of the next block, and how many there are from it on.
    pub fn wanted(&self) -> (u64, usize) {
        let all = self.head.image_len_bytes.div_ceil(PAYLOAD_BYTES as u64);
        (
            self.place.image_block(self.next_block),
            all.saturating_sub(self.next_block) as usize,
        )
    }

    /// Takes the next so many blocks.
    ///
    /// # Errors
    /// With the number of the first that is wrong, and why.
    pub fn take(&mut self, blocks: &Buffer, count: usize) -> Result<(), (u64, BlockFault)> {
        for index in 0..count {
            let number = self.wanted().0;
            let fault = |fault| (number, fault);
            let sealed = header::unseal(blocks.block(index), &self.place.identity, number).map_err(fault)?;
            if sealed.tag.kind != Kind::Image || sealed.tag.sequence != self.head.sequence {
                return Err(fault(BlockFault::Kind));
            }
            self.digest.update(&sealed.checksum);
            self.image.extend_from_slice(sealed.payload);
            self.next_block = self.next_block.saturating_add(1);
        }
        Ok(())
    }

    /// The image, once all blocks have been taken.
    ///
    /// # Errors
    /// When they are not those that the head was written for.
    pub fn finish(self) -> Result<Vec<u8>, (u64, BlockFault)> {
        let is_whole = self.image.len() as u64 == self.head.image_len_bytes;
        if !is_whole || *self.digest.finalize().as_bytes() != self.head.digest {
            return Err((self.place.head_block, BlockFault::Checksum));
        }
        Ok(self.image)
    }
}

/// Puts an image that comes in pieces into sealed blocks.
#[derive(Debug)]
pub struct ImageSealer {
    place: SlotPlace,
    epoch: u64,
    sequence: u64,
    next_block: u64,
    len_bytes: u64,
    /// What does not fill a block yet.
    rest: Vec<u8>,
    digest: blake3::Hasher,
    blocks: Buffer,
}

impl ImageSealer {
    /// For checkpoint `sequence` at `place`; the image is known to fit.
    pub fn new(place: SlotPlace, position: Position, sequence: u64) -> Self {
        Self {
            place,
            epoch: position.stamp.epoch.0,
            sequence,
            next_block: 0,
            len_bytes: 0,
            rest: Vec::new(),
            digest: blake3::Hasher::new(),
            blocks: Buffer::zeroed(0),
        }
    }

    /// The blocks that these bytes make full, and the number of the first; `None`: none is full yet. With the last bytes, all that
    /// are left.
    pub fn seal(&mut self, bytes: &[u8], is_last: bool) -> Option<(u64, &Buffer)> {
        self.len_bytes = self.len_bytes.saturating_add(bytes.len() as u64);
        let len = self.rest.len().saturating_add(bytes.len());
        let count = if is_last {
            len.div_ceil(PAYLOAD_BYTES)
        } else {
            len / PAYLOAD_BYTES
        };
        if count == 0 {
            self.rest.extend_from_slice(bytes);
            return None;
        }
        let first = self.place.image_block(self.next_block);
        // Every block is written whole.
        self.blocks.resize_to(count);
        let mut bytes = bytes;
        for index in 0..count {
            let block = self.blocks.block_mut(index);
            let room = PAYLOAD_BYTES.saturating_sub(self.rest.len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            let now_at = self.rest.len().saturating_add(HEADER_BYTES);
            let end = now_at.saturating_add(now.len());
            header::put(block, HEADER_BYTES, &self.rest);
            header::put(block, now_at, now);
            block.get_mut(end..).unwrap_or_default().fill(0);
            self.rest.clear();
            bytes = later;
            let offset = (self.next_block.saturating_add(1)).saturating_add(index as u64);
            let tag = self.place.tag(Kind::Image, offset, self.epoch, self.sequence);
            let sealed = header::seal(block, &self.place.identity, tag, end.saturating_sub(HEADER_BYTES));
            self.digest.update(&sealed);
        }
        self.rest.extend_from_slice(bytes);
        self.next_block = self.next_block.saturating_add(count as u64);
        Some((first, &self.blocks))
    }

    /// The digest of all blocks returned, for the head.
    pub fn digest(&self) -> [u8; 32] {
        *self.digest.finalize().as_bytes()
    }

    /// Of all bytes that have come.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }
}

/// Cuts an image that is there into sealed blocks, some at a time.
#[derive(Debug)]
pub struct ImageBlocks {
    image: Vec<u8>,
    done_bytes: usize,
    sealer: ImageSealer,
}

impl ImageBlocks {
    /// The blocks of `image` for checkpoint `sequence` at `place`; the image is known to fit.
    pub fn new(place: SlotPlace, image: Vec<u8>, position: Position, sequence: u64) -> Self {
        Self {
            image,
            done_bytes: 0,
            sealer: ImageSealer::new(place, position, sequence),
        }
    }

    /// Up to `count_max` further blocks and the number of the first; `None` when all have been returned.
    pub fn next(&mut self, count_max: usize) -> Option<(u64, &Buffer)> {
        let left = self.image.get(self.done_bytes..).unwrap_or_default();
        let bytes = left
            .get(..count_max.saturating_mul(PAYLOAD_BYTES))
            .unwrap_or(left);
        self.done_bytes = self.done_bytes.saturating_add(bytes.len());
        self.sealer.seal(bytes, bytes.len() == left.len())
    }

    /// What has been sealed, for the head.
    pub fn sealer(&self) -> &ImageSealer {
        &self.sealer
    }

    pub fn image_len_bytes(&self) -> u64 {
        self.image.len() as u64
    }

    /// How much of the image has been returned.
    pub fn done_bytes(&self) -> u64 {
        self.done_bytes as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::header::RegionId;
    use ccd_core::ids::{ClusterId, Replica};
    use proptest::prelude::*;

    fn place() -> SlotPlace {
        let identity = Identity {
            cluster: ClusterId([1; 16]),
            region: RegionId([2; 16]),
            replica: Replica::Local,
        };
        SlotPlace {
            identity,
            node: NodeId::new(0).unwrap(),
            head_block: 300,
            image_blocks: 4,
        }
    }

    fn written(image: &[u8]) -> (CheckpointHead, Buffer) {
        let mut blocks = ImageBlocks::new(place(), image.to_vec(), Position::EMPTY, 6);
        let mut all = Buffer::zeroed(4);
        while let Some((first, some)) = blocks.next(3) {
            let start = (first - 301) as usize * BLOCK_BYTES;
            all[start..start + some.len()].copy_from_slice(some);
        }
        let head = CheckpointHead {
            sequence: 6,
            position: Position::EMPTY,
            image_len_bytes: image.len() as u64,
            replay_from: JournalPoint { sequence: 40, at: 3 },
            replaces: true,
            digest: blocks.sealer().digest(),
        };
        (head, all)
    }

    /// Read with so many blocks at once.
    fn opened(head: &CheckpointHead, blocks: &Buffer, window: usize) -> Result<Vec<u8>, (u64, BlockFault)> {
        let place = place();
        let mut opener = ImageOpener::new(&place, head);
        let mut some = Buffer::zeroed(window);
        while let (first, left @ 1..) = opener.wanted() {
            let (from, count) = ((first - 301) as usize, left.min(window));
            for index in 0..count {
                *some.block_mut(index) = *blocks.block(from + index);
            }
            opener.take(&some, count)?;
        }
        opener.finish()
    }

    proptest! {
        #[test]
        fn images_round_trip_and_any_changed_byte_is_noticed(
            image in proptest::collection::vec(any::<u8>(), 0..4 * PAYLOAD_BYTES),
            at in 0..4 * BLOCK_BYTES, change in 1u8.., window in 1..5_usize,
        ) {
            let (head, mut blocks) = written(&image);
            let block = place().encode_head(&head);
            prop_assert_eq!(place().decode_head(&block, 16), SlotState::Head(head));
            prop_assert_eq!(opened(&head, &blocks, window).unwrap(), image.clone());
            blocks[at] ^= change;
            let used = image.len().div_ceil(PAYLOAD_BYTES) * BLOCK_BYTES;
            prop_assert_eq!(opened(&head, &blocks, window).is_err(), at < used);
        }
    }

    proptest! {
        #[test]
        fn an_image_that_comes_in_pieces_makes_the_same_blocks(
            image in proptest::collection::vec(any::<u8>(), 1..4 * PAYLOAD_BYTES),
            sizes in proptest::collection::vec(1..9000_usize, 1..5),
        ) {
            let (head, whole) = written(&image);
            let mut sealer = ImageSealer::new(place(), Position::EMPTY, 6);
            let mut all = Buffer::zeroed(4);
            let mut rest = image.as_slice();
            for size in sizes.iter().cycle() {
                let (piece, after) = rest.split_at(rest.len().min(*size));
                if let Some((first, some)) = sealer.seal(piece, after.is_empty()) {
                    let start = (first - 301) as usize * BLOCK_BYTES;
                    all[start..start + some.len()].copy_from_slice(some);
                }
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(all[..] == whole[..]);
            prop_assert_eq!((sealer.digest(), sealer.len_bytes()), (head.digest, head.image_len_bytes));
        }
    }

    #[test]
    fn a_head_is_empty_retired_bad_or_whole() {
        assert_eq!(place().decode_head(&[0; BLOCK_BYTES], 16), SlotState::Empty);
        let retired = place().encode_retired(8);
        assert_eq!(
            place().decode_head(&retired, 16),
            SlotState::Retired { by_sequence: 8 }
        );
        let (head, _) = written(b"x");
        let mut block = place().encode_head(&head);
        assert!(matches!(
            place().decode_head(&block, 3),
            SlotState::Bad(BlockFault::Payload)
        ));
        block[200] ^= 1;
        assert!(matches!(
            place().decode_head(&block, 16),
            SlotState::Bad(BlockFault::Checksum)
        ));
    }
}
