//! What the two checkpoint slots of an area hold: which image counts, and the segments that continue it.
//!
//! Called by `recovery.rs`, before it reads the journal. The newest head whose image is whole counts, and its segments in order
//! as far as they are whole. A segment that is missing is no damage by itself: the journal was trimmed only when it was
//! durable, so either the journal still holds its records, or a later record stands where they were and proves the loss.

use super::handle::Handle;
use crate::device::Buffer;
use crate::error::RegionError;
use crate::format::checkpoint::{CheckpointHead, ImageOpener, JournalPoint, SlotPlace, SlotState};
use crate::format::geometry::Slot;
use crate::format::header::BlockFault;
use crate::format::journal::Entry;
use crate::format::segment::{SEGMENTS_MAX, SegmentHead, SegmentRoom};
use crate::format::superblock::Superblock;
use ccd_core::ids::{NodeId, Position, Stamp};

/// Blocks of an image, or of a journal, that are read at once: 1 MiB.
pub(super) const READ_BLOCKS: usize = 256;

/// Where a slot lies.
pub fn slot_place(superblock: &Superblock, node: NodeId, slot: Slot) -> SlotPlace {
    SlotPlace {
        identity: superblock.identity,
        node,
        head_block: superblock.geometry.slot(node, slot),
        image_blocks: superblock.geometry.image_blocks,
    }
}

/// Where a slot's segments lie.
pub fn segment_room(superblock: &Superblock, node: NodeId, slot: Slot) -> SegmentRoom {
    SegmentRoom {
        identity: superblock.identity,
        node,
        first_block: superblock.geometry.segments(node, slot),
        blocks: superblock.geometry.segment_blocks(),
    }
}

/// The segments that continue a checkpoint.
#[derive(Clone, Debug)]
pub struct Segments {
    pub count: u32,
    /// Index in the room where the next one would go.
    pub next_at: u32,
    /// Their records, in order.
    pub entries: Vec<Entry>,
    /// Where they lead.
    pub position: Position,
    /// Where the journal goes on.
    pub replay_from: JournalPoint,
    /// The block behind them is neither whole nor zero: a head that was being written, or one that is gone. Nothing is written
    /// behind these segments any more, so that no leftover can ever continue another one.
    pub unusable: Option<(u64, BlockFault)>,
}

impl Segments {
    pub(super) fn none(position: Position, replay_from: JournalPoint) -> Self {
        Self {
            count: 0,
            next_at: 0,
            entries: Vec::new(),
            position,
            replay_from,
            unusable: None,
        }
    }
}

/// What the checkpoint slots hold and which of them counts.
#[derive(Debug)]
pub(super) struct Slots {
    pub states: [SlotState; 2],
    pub chosen: Option<(Slot, CheckpointHead, Vec<u8>)>,
    /// Those of the chosen one.
    pub segments: Segments,
    /// What is missing although it was whole once.
    pub damage: Vec<String>,
    /// Where a damaged segment led to, if its head says so.
    pub damage_newest: Stamp,
    /// There was a checkpoint and there is none.
    pub lost: bool,
}

impl Slots {
    pub fn read(handle: &mut Handle, superblock: &Superblock, node: NodeId) -> Result<Self, RegionError> {
        let mut states = [SlotState::Empty; 2];
        let mut heads = Vec::new();
        let mut retired_by = 0;
        for (state, slot) in states.iter_mut().zip(Slot::ALL) {
            let place = slot_place(superblock, node, slot);
            let (block, unreadable) = handle.read_readable(place.head_block, 1)?;
            *state = match unreadable.is_empty() {
                true => place.decode_head(block.block(0), superblock.geometry.journal_blocks),
                false => SlotState::Bad(BlockFault::Unreadable),
            };
            match *state {
                SlotState::Head(head) => heads.push((slot, head)),
                SlotState::Retired { by_sequence } => retired_by = by_sequence,
                SlotState::Empty | SlotState::Bad(_) => {}
            }
        }
        heads.sort_by_key(|(_, head)| std::cmp::Reverse(head.sequence));
        let newest_sequence = heads.first().map(|(_, head)| head.sequence);
        let mut damage = Vec::new();
        let mut chosen = None;
        for (slot, head) in heads {
            match read_image(handle, &slot_place(superblock, node, slot), &head)? {
                Ok(image) => {
                    chosen = Some((slot, head, image));
                    break;
                }
                // The image of an older head is being overwritten whenever a checkpoint is: no damage.
                Err((block, fault)) if Some(head.sequence) == newest_sequence => damage.push(format!(
                    "block {block} of checkpoint {} (slot {slot:?}) is damaged: {fault}",
                    head.sequence
                )),
                Err(_) => {}
            }
        }
        let bad = states
            .iter()
            .filter(|state| matches!(state, SlotState::Bad(_)))
            .count();
        let chosen_sequence = chosen.as_ref().map_or(0, |(_, head, _)| head.sequence);
        // A torn head spoils one slot at most, and never the only one that counted.
        let lost = match chosen {
            Some(_) => chosen_sequence < retired_by,
            None => bad == 2 || retired_by > 0 || newest_sequence.is_some(),
        };
        if lost {
            damage.push(match retired_by {
                0 => "neither checkpoint is whole".to_owned(),
                by => format!("checkpoint {by}, which replaced the one before, is damaged"),
            });
        }
        let chosen = chosen.filter(|_| !lost);
        let mut damage_newest = Stamp::default();
        let segments = match &chosen {
            Some((slot, head, _)) => {
                let room = segment_room(superblock, node, *slot);
                let mut chain = Chain::new(&room, head, superblock.geometry.journal_blocks);
                chain.follow(handle)?;
                if let Some((segment, block, fault)) = chain.damaged {
                    damage_newest = segment.to.stamp;
                    damage.push(format!(
                        "block {block} of segment {} of checkpoint {} (slot {slot:?}) is damaged: {fault}",
                        segment.number, head.sequence
                    ));
                }
                chain.found
            }
            None => Segments::none(Position::EMPTY, JournalPoint::FIRST),
        };
        Ok(Self {
            states,
            chosen,
            segments,
            damage,
            damage_newest,
            lost,
        })
    }
}

fn read_image(
    handle: &mut Handle,
    place: &SlotPlace,
    head: &CheckpointHead,
) -> Result<Result<Vec<u8>, (u64, BlockFault)>, RegionError> {
    let mut opener = ImageOpener::new(place, head);
    // In the same memory again and again: memory that is touched for the first time costs more than reading into it.
    let mut blocks = Buffer::zeroed(0);
    while let (first, left @ 1..) = opener.wanted() {
        let count = left.min(READ_BLOCKS);
        blocks.resize_to(count);
        let unreadable = handle.read_readable_into(first, &mut blocks)?;
        if let Some(index) = unreadable.first() {
            return Ok(Err((first + u64::from(*index), BlockFault::Unreadable)));
        }
        if let Err(damaged) = opener.take(&blocks, count) {
            return Ok(Err(damaged));
        }
    }
    Ok(opener.finish())
}

/// Follows the segments behind an image.
struct Chain<'a> {
    room: &'a SegmentRoom,
    checkpoint: u64,
    journal_blocks: u32,
    found: Segments,
    /// A segment whose head is whole, so that it was whole once, and what is wrong with it now.
    damaged: Option<(SegmentHead, u64, BlockFault)>,
}

impl<'a> Chain<'a> {
    fn new(room: &'a SegmentRoom, head: &CheckpointHead, journal_blocks: u32) -> Self {
        Self {
            room,
            checkpoint: head.sequence,
            journal_blocks,
            found: Segments::none(head.position, head.replay_from),
            damaged: None,
        }
    }

    fn follow(&mut self, handle: &mut Handle) -> Result<(), RegionError> {
        while self.found.count < SEGMENTS_MAX && self.found.next_at < self.room.blocks {
            let at = self.found.next_at;
            let (block, unreadable) = handle.read_readable(self.room.block(at), 1)?;
            let unusable = |fault| Some((self.room.block(at), fault));
            if !unreadable.is_empty() {
                self.found.unusable = unusable(BlockFault::Unreadable);
                break;
            }
            let (head, in_head) = match self.room.decode_head(block.block(0), at, self.journal_blocks) {
                Ok(found) => found,
                // Never written, or left by the segments of an earlier checkpoint in this slot.
                Err(BlockFault::Zero | BlockFault::Kind) => break,
                Err(fault) => {
                    self.found.unusable = unusable(fault);
                    break;
                }
            };
            if (head.checkpoint, head.number) != (self.checkpoint, self.found.count) {
                break;
            }
            let parts = handle.read_readable(self.room.block(at + 1), head.blocks as usize - 1)?;
            match self.records(at, &head, in_head, &parts) {
                Ok(entries) => {
                    self.found.entries.extend(entries);
                    self.found.count += 1;
                    self.found.next_at += head.blocks;
                    self.found.position = head.to;
                    self.found.replay_from = head.replay_from;
                }
                Err((block, fault)) => {
                    self.found.unusable = Some((block, fault));
                    self.damaged = Some((head, block, fault));
                    break;
                }
            }
        }
        Ok(())
    }

    fn records(
        &self,
        at: u32,
        head: &SegmentHead,
        in_head: &[u8],
        (parts, unreadable): &(Buffer, std::collections::BTreeSet<u32>),
    ) -> Result<Vec<Entry>, (u64, BlockFault)> {
        if let Some(index) = unreadable.first() {
            return Err((self.room.block(at + 1 + index), BlockFault::Unreadable));
        }
        if head.from != self.found.position {
            return Err((self.room.block(at), BlockFault::Payload));
        }
        self.room.decode_records(at, head, in_head, parts)
    }
}
