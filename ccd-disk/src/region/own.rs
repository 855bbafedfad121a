//! The area that this node writes: appends to its journal, checkpoints beside them, whole images over it. How an append is carried
//! out is `append.rs`'s.
//!
//! Holds in memory only where things lie, never content. Always holds: `position` is where checkpoint, segments and journal on
//! the device lead, if every write so far succeeded; after a failed one the handle is poisoned and this is thrown away.

use super::checkpoint::{CHECKPOINT_STEP_BLOCKS, ImagePlace, Running};
use super::handle::Handle;
use super::packing::Source;
use super::recovery::{RecoveredArea, restart_after};
use super::slots::{segment_room, slot_place};
use super::staging::Staged;
use crate::device::{BLOCK_BYTES, Buffer};
use crate::error::RegionError;
use crate::format::checkpoint::{ImageBlocks, ImageSealer, JournalPoint, SlotPlace, SlotState};
use crate::format::geometry::Slot;
use crate::format::header::PAYLOAD_BYTES;
use crate::format::journal::{Entry, Ring, Step, blocks_for};
use crate::format::segment::SegmentRoom;
use crate::format::superblock::Superblock;
use ccd_core::ids::{NodeId, Position};
use std::collections::VecDeque;

/// A record of the journal, without its content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Placed {
    pub source: Source,
    pub step: Step,
}

/// A record that has its place, and is not written yet.
#[derive(Debug)]
pub(super) struct PlacedRecord {
    placed: Placed,
    pub block: u64,
}

/// The writing side of a node's own area.
#[derive(Debug)]
pub struct OwnArea {
    pub(super) node: NodeId,
    pub(super) ring: Ring,
    pub(super) places: [SlotPlace; 2],
    pub(super) rooms: [SegmentRoom; 2],
    /// The slot of the newest image; `None`: there is none yet.
    pub(super) slot: Option<Slot>,
    pub(super) checkpoint_sequence: u64,
    pub(super) image_len_bytes: u64,
    /// How many segments continue it, where the next one goes in the room, and whether one may.
    pub(super) segments: u32,
    pub(super) segments_at: u32,
    pub(super) segments_closed: bool,
    /// What image and segments hold, and where the journal continues them.
    pub(super) base: Position,
    pub(super) replay_from: JournalPoint,
    pub(super) journal: VecDeque<Placed>,
    pub(super) next: JournalPoint,
    pub(super) position: Position,
    pub(super) restart_sequence: u64,
    /// Only a whole image can be written until one has been.
    pub(super) damage: Option<String>,
    pub(super) running: Option<Running>,
    /// An image that is to replace everything, as far as it has come.
    pub(super) staged: Option<Staged>,
    /// Where the last record would have led that found no room, until something else is written.
    pub(super) refused: Option<Position>,
    /// No record has been written from this block of the ring on, as far as is known.
    pub(super) reached: u32,
    /// Up to where the ring of a new region has been filled.
    pub(super) filled: u32,
    /// Where records become blocks.
    pub(super) blocks: Buffer,
    /// A crash left the old checkpoint beside the image that replaced it: it is retired before the next write.
    pub(super) retire: Option<Slot>,
}

impl OwnArea {
    /// Continues what recovery found.
    pub fn new(area: &RecoveredArea, superblock: &Superblock) -> Self {
        let highest = |state: &SlotState| match state {
            SlotState::Head(head) => head.sequence,
            SlotState::Retired { by_sequence } => *by_sequence,
            SlotState::Empty | SlotState::Bad(_) => 0,
        };
        let retire = area.checkpoint.and_then(|(slot, head)| {
            let other = area.slots[slot.other() as usize];
            let is_left = matches!(other, SlotState::Head(old) if old.sequence < head.sequence);
            (head.replaces && is_left).then_some(slot.other())
        });
        Self {
            node: area.node,
            ring: area.ring,
            places: Slot::ALL.map(|slot| slot_place(superblock, area.node, slot)),
            rooms: Slot::ALL.map(|slot| segment_room(superblock, area.node, slot)),
            slot: area.checkpoint.map(|(slot, _)| slot),
            checkpoint_sequence: area.slots.iter().map(highest).max().unwrap_or(0),
            image_len_bytes: area.checkpoint.map_or(0, |(_, head)| head.image_len_bytes),
            segments: area.segments.count,
            segments_at: area.segments.next_at,
            segments_closed: area.segments.unusable.is_some(),
            base: area.segments.position,
            replay_from: area.segments.replay_from,
            journal: area
                .journal
                .iter()
                .map(|placed| placed_of(&placed.entry, placed.point, placed.blocks))
                .collect(),
            next: area.next,
            position: area.position,
            restart_sequence: area.restart_sequence,
            damage: area.damage.clone(),
            running: None,
            staged: None,
            refused: None,
            reached: if area.has_state() {
                area.ring.blocks
            } else {
                area.next.at
            },
            filled: 0,
            blocks: Buffer::zeroed(1),
            retire,
        }
    }

    /// Where the area stands.
    pub fn position(&self) -> Position {
        self.position
    }

    /// How many segments continue the newest image.
    pub fn segments(&self) -> u32 {
        self.segments
    }

    pub fn is_checkpointing(&self) -> bool {
        self.running.is_some()
    }

    /// How much of the journal is in use, rounded up.
    pub fn journal_used_percent(&self) -> u8 {
        (u64::from(self.used_blocks()) * 100).div_ceil(u64::from(self.ring.blocks)) as u8
    }

    /// Checks that a record continues the area, finds its place and makes its blocks. Nothing is written, and nothing changed that
    /// doing it again would miss.
    pub(super) fn place_record(
        &mut self,
        handle: &Handle,
        entry: &Entry,
    ) -> Result<(PlacedRecord, Buffer), RegionError> {
        self.refuse_if_damaged(handle)?;
        let behind_refused = self.refused.take().is_some_and(|refused| refused == entry.prev);
        if behind_refused && entry.prev != self.position {
            // Asked for before it was known that the one before finds no room: neither is damage.
            self.refused = Some(entry.next);
            let device = handle.name();
            return Err(RegionError::BehindRefused { device });
        }
        if entry.prev != self.position {
            let (expected, got) = (entry.prev.into(), self.position.into());
            return Err(RegionError::NotNext {
                device: handle.name(),
                what: "the record",
                expected,
                got,
            });
        }
        if entry.step == Step::Rollback {
            self.check_rollback(handle, entry)?;
        }
        let blocks = blocks_for(entry.payload.len());
        let place = self.place(handle, blocks, entry.payload.len());
        let at = place.inspect_err(|_| self.refused = Some(entry.next))?;
        // Before it is written, for whoever fills the ring meanwhile.
        self.reached = self.reached.max(at + blocks);
        let sequence = self.next.sequence;
        let mut buffer = std::mem::replace(&mut self.blocks, Buffer::zeroed(0));
        self.ring.encode_into(&mut buffer, entry, at, sequence);
        let placed = placed_of(entry, JournalPoint { sequence, at }, blocks);
        let block = self.ring.first_block + u64::from(at);
        Ok((PlacedRecord { placed, block }, buffer))
    }

    /// The record is durable where it was placed: the area continues behind it. `buffer` is what it was written from.
    pub(super) fn note_written(&mut self, record: PlacedRecord, buffer: Buffer) {
        let PlacedRecord { placed, .. } = record;
        let Source {
            point,
            blocks,
            prev,
            next,
            ..
        } = placed.source;
        assert_eq!(prev, self.position, "nothing else was appended meanwhile");
        if blocks == 1 {
            // Most records take one; a large one must not keep its memory.
            self.blocks = buffer;
        }
        self.journal.push_back(placed);
        self.next = after(&self.ring, point, blocks);
        self.position = next;
        self.restart_sequence =
            (self.restart_sequence).max(restart_after(self.next.sequence, self.ring.blocks));
    }

    /// Whether something else must be written before the next record.
    pub(super) fn has_left_over(&self) -> bool {
        self.retire.is_some()
    }

    /// Writes a whole database over whatever the area holds, durable on return, and starts the journal anew.
    ///
    /// A power cut before the new head is durable leaves the old state, one after it the new state; the old checkpoint is
    /// then retired, so that damage to the new one can never bring the old state back unnoticed.
    pub fn write_image(
        &mut self,
        handle: &mut Handle,
        position: Position,
        image: Vec<u8>,
    ) -> Result<(), RegionError> {
        self.write_image_in_steps(handle, position, image, &mut |_, _| true)
            .map(drop)
    }

    /// The same; `goes_on` is told how many bytes of how many are written, the last time before the head is. If it says no, the old
    /// state stays, and the answer is `false`.
    pub fn write_image_in_steps(
        &mut self,
        handle: &mut Handle,
        position: Position,
        image: Vec<u8>,
        goes_on: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<bool, RegionError> {
        self.refuse_if_too_large(handle, &image)?;
        self.staged = None;
        let total_bytes = image.len() as u64;
        let place = self.next_place(position);
        let slot = self.places[place.slot as usize];
        let mut blocks = ImageBlocks::new(slot, image, position, place.sequence);
        while let Some((block, blocks)) = blocks.next(CHECKPOINT_STEP_BLOCKS) {
            handle.write_unflushed(block, blocks)?;
            let end = block - (slot.head_block + 1) + (blocks.len() / BLOCK_BYTES) as u64;
            let done_bytes = (end * PAYLOAD_BYTES as u64).min(total_bytes);
            if !goes_on(done_bytes, total_bytes) {
                return Ok(false);
            }
        }
        self.replace_by(handle, place, blocks.sealer())?;
        Ok(true)
    }

    /// The image is written: it takes the place of everything, and the journal begins anew.
    pub(super) fn replace_by(
        &mut self,
        handle: &mut Handle,
        place: ImagePlace,
        sealed: &ImageSealer,
    ) -> Result<(), RegionError> {
        (self.running, self.refused) = (None, None);
        let replay_from = JournalPoint {
            sequence: self.restart_sequence,
            at: 0,
        };
        self.finish_image(handle, place, replay_from, sealed, true)?;
        self.journal.clear();
        self.next = replay_from;
        self.position = place.position;
        self.restart_sequence = restart_after(replay_from.sequence, self.ring.blocks);
        self.damage = None;
        Ok(())
    }

    /// Ring index for a record of so many blocks: where the last one ended, or the ring's beginning if it would not fit
    /// before the ring's end. One block always stays free, so that a full ring is not an empty one.
    fn place(&self, handle: &Handle, blocks: u32, record_len_bytes: usize) -> Result<u32, RegionError> {
        if blocks > self.ring.record_blocks_max() {
            return Err(RegionError::RecordTooLarge {
                device: handle.name(),
                record_bytes: record_len_bytes as u64,
                max_bytes: self.ring.record_bytes_max() as u64,
            });
        }
        let to_end = self.ring.blocks - self.next.at;
        let (gap, at) = if blocks <= to_end {
            (0, self.next.at)
        } else {
            (to_end, 0)
        };
        let free_blocks = self.ring.blocks - 1 - self.used_blocks();
        let needed_blocks = gap + blocks;
        if needed_blocks > free_blocks {
            return Err(RegionError::JournalFull {
                device: handle.name(),
                needed_blocks,
                free_blocks,
            });
        }
        Ok(at)
    }

    fn used_blocks(&self) -> u32 {
        (self.next.at + self.ring.blocks - self.replay_from.at) % self.ring.blocks
    }

    /// A rollback undoes the last record that stands, which must be in the journal: what a checkpoint holds cannot be undone.
    fn check_rollback(&mut self, handle: &Handle, entry: &Entry) -> Result<(), RegionError> {
        let standing = |from: u64| {
            let mut standing = Vec::new();
            for placed in (self.journal.iter()).filter(|placed| placed.source.point.sequence >= from) {
                if placed.step == Step::Rollback {
                    standing.pop();
                } else {
                    standing.push((placed.source.prev, placed.source.next));
                }
            }
            standing.pop()
        };
        let undoes = |undone: Option<(Position, Position)>| undone == Some((entry.next, entry.prev));
        if !undoes(standing(0)) {
            let (expected, got) = (entry.next.into(), self.base.into());
            return Err(RegionError::NotNext {
                device: handle.name(),
                what: "the rollback",
                expected,
                got,
            });
        }
        // The running checkpoint holds the record that is undone: without it.
        if self
            .running
            .as_ref()
            .is_some_and(|running| !undoes(standing(running.replay_from().sequence)))
        {
            self.running = None;
        }
        Ok(())
    }

    pub(super) fn retire_left_over(&mut self, handle: &mut Handle) -> Result<(), RegionError> {
        let Some(slot) = self.retire else { return Ok(()) };
        let place = self.places[slot as usize];
        handle.write_block(place.head_block, &place.encode_retired(self.checkpoint_sequence))?;
        self.retire = None;
        Ok(())
    }

    pub(super) fn refuse_if_damaged(&self, handle: &Handle) -> Result<(), RegionError> {
        match &self.damage {
            Some(what) => Err(RegionError::Damaged {
                device: handle.name(),
                node: self.node,
                what: what.clone(),
            }),
            None => Ok(()),
        }
    }

    pub(super) fn refuse_if_too_large(&self, handle: &Handle, image: &[u8]) -> Result<(), RegionError> {
        let max_bytes = self.places[0].image_bytes_max();
        if image.len() as u64 > max_bytes {
            let device = handle.name();
            return Err(RegionError::ImageTooLarge {
                device,
                image_bytes: image.len() as u64,
                max_bytes,
            });
        }
        Ok(())
    }
}

fn placed_of(entry: &Entry, point: JournalPoint, blocks: u32) -> Placed {
    Placed {
        source: Source {
            point,
            blocks,
            len_bytes: entry.payload.len(),
            prev: entry.prev,
            next: entry.next,
        },
        step: entry.step,
    }
}

pub(super) fn after(ring: &Ring, point: JournalPoint, blocks: u32) -> JournalPoint {
    JournalPoint {
        sequence: point.sequence.saturating_add(1),
        at: (point.at + blocks) % ring.blocks,
    }
}
