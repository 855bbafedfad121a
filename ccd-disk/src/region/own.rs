//! The area that this node writes: appends to its journal, checkpoints beside them, whole images over it.
//!
//! Holds in memory only where things lie, never content. Always holds: `position` is where checkpoint and journal on the
//! device lead, if every write so far succeeded; after a failed one the handle is poisoned and this is thrown away.

use super::handle::Handle;
use super::recovery::{RecoveredArea, slot_place};
use crate::device::Buffer;
use crate::error::RegionError;
use crate::format::checkpoint::{CheckpointHead, ImageBlocks, JournalPoint, SlotPlace, SlotState};
use crate::format::geometry::Slot;
use crate::format::journal::{Entry, Ring, Step, blocks_for};
use crate::format::superblock::Superblock;
use ccd_core::ids::{NodeId, Position};
use std::collections::VecDeque;

/// Image blocks written between two looks at what else is to be done: 256 KiB.
const CHECKPOINT_STEP_BLOCKS: usize = 64;

/// A record of the journal, without its content.
#[derive(Clone, Copy, Debug)]
struct Placed {
    point: JournalPoint,
    blocks: u32,
    step: Step,
    prev: Position,
    next: Position,
}

/// The writing side of a node's own area.
#[derive(Debug)]
pub struct OwnArea {
    node: NodeId,
    ring: Ring,
    places: [SlotPlace; 2],
    /// The slot of the newest checkpoint; `None`: there is none yet.
    slot: Option<Slot>,
    checkpoint_sequence: u64,
    /// What the newest checkpoint holds, and where the journal continues it.
    base: Position,
    replay_from: JournalPoint,
    journal: VecDeque<Placed>,
    next: JournalPoint,
    position: Position,
    restart_sequence: u64,
    /// Only a whole image can be written until one has been.
    damage: Option<String>,
    running: Option<Running>,
    /// Where records become blocks.
    blocks: Buffer,
    /// A crash left the old checkpoint beside the image that replaced it: it is retired before the next write.
    retire: Option<Slot>,
}

/// A checkpoint that is being written.
#[derive(Debug)]
struct Running {
    slot: Slot,
    position: Position,
    sequence: u64,
    replay_from: JournalPoint,
    blocks: ImageBlocks,
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
            slot: area.checkpoint.map(|(slot, _)| slot),
            checkpoint_sequence: area.slots.iter().map(highest).max().unwrap_or(0),
            base: area.base(),
            replay_from: area.replay_from,
            journal: area
                .journal
                .iter()
                .map(|placed| Placed {
                    point: placed.point,
                    blocks: placed.blocks,
                    step: placed.entry.step,
                    prev: placed.entry.prev,
                    next: placed.entry.next,
                })
                .collect(),
            next: area.next,
            position: area.position,
            restart_sequence: area.restart_sequence,
            damage: area.damage.clone(),
            running: None,
            blocks: Buffer::zeroed(1),
            retire,
        }
    }

    /// Where the area stands.
    pub fn position(&self) -> Position {
        self.position
    }

    pub fn is_checkpointing(&self) -> bool {
        self.running.is_some()
    }

    /// How much of the journal is in use, rounded up.
    pub fn journal_used_percent(&self) -> u8 {
        (u64::from(self.used_blocks()) * 100).div_ceil(u64::from(self.ring.blocks)) as u8
    }

    /// Appends one record, durable on return: one write.
    pub fn append(&mut self, handle: &mut Handle, entry: &Entry) -> Result<(), RegionError> {
        self.refuse_if_damaged(handle)?;
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
        let at = self.place(handle, blocks, entry.payload.len())?;
        self.retire_left_over(handle)?;
        self.ring
            .encode_into(&mut self.blocks, entry, at, self.next.sequence);
        handle.write(self.ring.first_block + u64::from(at), &self.blocks)?;
        if blocks > 1 {
            // Most records take one; a large one must not keep its memory.
            self.blocks = Buffer::zeroed(1);
        }
        let point = JournalPoint {
            sequence: self.next.sequence,
            at,
        };
        self.journal.push_back(Placed {
            point,
            blocks,
            step: entry.step,
            prev: entry.prev,
            next: entry.next,
        });
        self.next = after(&self.ring, point, blocks);
        self.position = entry.next;
        self.restart_sequence = self
            .restart_sequence
            .max(self.next.sequence.saturating_add(self.lap()));
        Ok(())
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
        self.refuse_if_too_large(handle, &image)?;
        self.running = None;
        let slot = self.slot.map_or(Slot::A, Slot::other);
        let replay_from = JournalPoint {
            sequence: self.restart_sequence,
            at: 0,
        };
        let mut running = self.start(slot, position, replay_from, image);
        while let Some((block, blocks)) = running.blocks.next(CHECKPOINT_STEP_BLOCKS * 4) {
            handle.write_unflushed(block, &blocks)?;
        }
        self.finish(handle, running, true)?;
        self.journal.clear();
        self.next = replay_from;
        self.position = position;
        self.restart_sequence = replay_from.sequence.saturating_add(self.lap());
        self.damage = None;
        Ok(())
    }

    /// Starts a checkpoint of `position`, which the journal has reached; [`OwnArea::checkpoint_step`] writes it. One that is
    /// still running is given up for it. Returns `false` if there is nothing to do: it is the newest checkpoint's own.
    pub fn begin_checkpoint(
        &mut self,
        handle: &mut Handle,
        position: Position,
        image: Vec<u8>,
    ) -> Result<bool, RegionError> {
        self.refuse_if_damaged(handle)?;
        self.refuse_if_too_large(handle, &image)?;
        let reached = self.journal.iter().rev().find(|placed| placed.next == position);
        let replay_from = match reached {
            Some(placed) => after(&self.ring, placed.point, placed.blocks),
            None if position == self.base && self.slot.is_some() => return Ok(false),
            None if position == self.base => self.replay_from,
            None => {
                let (expected, got) = (position.into(), self.position.into());
                return Err(RegionError::NotNext {
                    device: handle.name(),
                    what: "the checkpoint",
                    expected,
                    got,
                });
            }
        };
        self.retire_left_over(handle)?;
        let slot = self.slot.map_or(Slot::A, Slot::other);
        self.running = Some(self.start(slot, position, replay_from, image));
        Ok(true)
    }

    /// Writes a bounded part of the running checkpoint. `true`: it is done (or was given up, because a whole image or a
    /// rollback made it pointless), and the journal is trimmed.
    pub fn checkpoint_step(&mut self, handle: &mut Handle) -> Result<bool, RegionError> {
        let Some(mut running) = self.running.take() else {
            return Ok(true);
        };
        if let Some((block, blocks)) = running.blocks.next(CHECKPOINT_STEP_BLOCKS) {
            handle.write_unflushed(block, &blocks)?;
            self.running = Some(running);
            return Ok(false);
        }
        self.finish(handle, running, false)?;
        Ok(true)
    }

    fn start(&self, slot: Slot, position: Position, replay_from: JournalPoint, image: Vec<u8>) -> Running {
        let sequence = self.checkpoint_sequence.saturating_add(1);
        let blocks = ImageBlocks::new(self.places[slot as usize], image, position, sequence);
        Running {
            slot,
            position,
            sequence,
            replay_from,
            blocks,
        }
    }

    /// All image blocks are written: makes them durable, then the head, which is the moment the checkpoint counts.
    fn finish(&mut self, handle: &mut Handle, running: Running, replaces: bool) -> Result<(), RegionError> {
        handle.flush()?;
        let head = CheckpointHead {
            sequence: running.sequence,
            position: running.position,
            image_len_bytes: running.blocks.image_len_bytes(),
            replay_from: running.replay_from,
            replaces,
            digest: running.blocks.digest(),
        };
        let place = self.places[running.slot as usize];
        handle.write_block(place.head_block, &place.encode_head(&head))?;
        if replaces {
            let old = self.places[running.slot.other() as usize];
            handle.write_block(old.head_block, &old.encode_retired(head.sequence))?;
        }
        self.retire = None;
        self.slot = Some(running.slot);
        self.checkpoint_sequence = head.sequence;
        self.base = head.position;
        self.replay_from = head.replay_from;
        while self
            .journal
            .front()
            .is_some_and(|first| first.point.sequence < head.replay_from.sequence)
        {
            self.journal.pop_front();
        }
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
            for placed in self.journal.iter().filter(|placed| placed.point.sequence >= from) {
                if placed.step == Step::Rollback {
                    standing.pop();
                } else {
                    standing.push((placed.prev, placed.next));
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
            .is_some_and(|running| !undoes(standing(running.replay_from.sequence)))
        {
            self.running = None;
        }
        Ok(())
    }

    fn retire_left_over(&mut self, handle: &mut Handle) -> Result<(), RegionError> {
        let Some(slot) = self.retire else { return Ok(()) };
        let place = self.places[slot as usize];
        handle.write_block(place.head_block, &place.encode_retired(self.checkpoint_sequence))?;
        self.retire = None;
        Ok(())
    }

    fn refuse_if_damaged(&self, handle: &Handle) -> Result<(), RegionError> {
        match &self.damage {
            Some(what) => Err(RegionError::Damaged {
                device: handle.name(),
                node: self.node,
                what: what.clone(),
            }),
            None => Ok(()),
        }
    }

    fn refuse_if_too_large(&self, handle: &Handle, image: &[u8]) -> Result<(), RegionError> {
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

    fn lap(&self) -> u64 {
        u64::from(self.ring.blocks)
    }
}

fn after(ring: &Ring, point: JournalPoint, blocks: u32) -> JournalPoint {
    JournalPoint {
        sequence: point.sequence.saturating_add(1),
        at: (point.at + blocks) % ring.blocks,
    }
}
