//! Checkpoints of the area that this node writes, in steps, beside its appends: a segment or a whole image, and the trim of the
//! journal that comes with either. The second half of `own.rs`.

use super::choice::{Choice, Costs, choose};
use super::handle::Handle;
use super::own::{OwnArea, after};
use super::packing::{self, Packed, Packing, Source};
use crate::error::RegionError;
use crate::format::checkpoint::{CheckpointHead, ImageBlocks, ImageSealer, JournalPoint};
use crate::format::geometry::Slot;
use crate::format::header::PAYLOAD_BYTES;
use crate::format::journal::Step;
use crate::format::segment::{self, SegmentHead};
use ccd_core::ids::Position;

/// Blocks written, or read again, between two looks at what else is to be done: 256 KiB.
pub(super) const CHECKPOINT_STEP_BLOCKS: usize = 64;

/// How a checkpoint was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointBegun {
    /// There is nothing to do: it is the newest checkpoint's own position.
    Nothing,
    /// A segment is being written: step on.
    Segment,
    /// A whole image is called for: make it, and begin with that.
    ImageWanted,
}

/// How far a checkpoint in steps has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointStep {
    More {
        done_bytes: u64,
        total_bytes: u64,
    },
    /// The segment cannot be made, because the journal cannot be read again: make an image, and begin with that.
    ImageWanted,
    Done,
}

/// A checkpoint that is being written.
#[derive(Debug)]
pub(super) enum Running {
    Image(RunningImage),
    Segment(Packing),
}

impl Running {
    pub(super) fn replay_from(&self) -> JournalPoint {
        match self {
            Self::Image(image) => image.replay_from,
            Self::Segment(packing) => packing.replay_from(),
        }
    }
}

#[derive(Debug)]
pub(super) struct RunningImage {
    place: ImagePlace,
    replay_from: JournalPoint,
    pub blocks: ImageBlocks,
}

/// Where an image goes that is to be the next checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ImagePlace {
    pub slot: Slot,
    pub position: Position,
    pub sequence: u64,
}

impl OwnArea {
    /// Starts a checkpoint of `position`, which the journal has reached; [`OwnArea::checkpoint_step`] writes it. One that is
    /// still running is given up for it. `image_len_bytes` is what an image of that position would take.
    pub fn begin_checkpoint(
        &mut self,
        handle: &mut Handle,
        position: Position,
        image_len_bytes: u64,
    ) -> Result<CheckpointBegun, RegionError> {
        let Some((count, replay_from)) = self.reached(handle, position)? else {
            return Ok(CheckpointBegun::Nothing);
        };
        (self.running, self.staged) = (None, None);
        let Some(slot) = self.slot else {
            return Ok(CheckpointBegun::ImageWanted);
        };
        let sources = self.standing_until(count);
        let len_bytes = packing::len_bytes(&sources);
        let blocks = segment::blocks_for(len_bytes);
        let room = self.rooms[slot as usize];
        let costs = Costs {
            base_blocks: Some(image_blocks(self.image_len_bytes)),
            image_blocks: image_blocks(image_len_bytes),
            segments: self.segments,
            segments_blocks: self.segments_at,
            segment_blocks: blocks,
            room_blocks: room.blocks,
            is_closed: self.segments_closed,
        };
        if choose(costs) == Choice::Image {
            return Ok(CheckpointBegun::ImageWanted);
        }
        self.retire_left_over(handle)?;
        let head = SegmentHead {
            checkpoint: self.checkpoint_sequence,
            number: self.segments,
            from: self.base,
            to: position,
            replay_from,
            blocks,
            records: sources.len() as u32,
            len_bytes: len_bytes as u32,
            digest: [0; 32],
        };
        self.running = Some(Running::Segment(Packing::new(
            room,
            self.ring,
            self.segments_at,
            head,
            sources,
        )));
        Ok(CheckpointBegun::Segment)
    }

    /// The same as a whole image, whatever it costs. Returns `false` if there is nothing to do.
    pub fn begin_image(
        &mut self,
        handle: &mut Handle,
        position: Position,
        image: Vec<u8>,
    ) -> Result<bool, RegionError> {
        self.refuse_if_too_large(handle, &image)?;
        let Some((_, replay_from)) = self.reached(handle, position)? else {
            return Ok(false);
        };
        self.retire_left_over(handle)?;
        self.staged = None;
        self.running = Some(Running::Image(self.start_image(position, replay_from, image)));
        Ok(true)
    }

    /// How many records of the journal lead to `position`, and where it goes on from there; `None` if nothing does.
    fn reached(
        &self,
        handle: &Handle,
        position: Position,
    ) -> Result<Option<(usize, JournalPoint)>, RegionError> {
        self.refuse_if_damaged(handle)?;
        let at = self
            .journal
            .iter()
            .rposition(|placed| placed.source.next == position);
        match at {
            Some(at) => {
                let Source { point, blocks, .. } = self.journal[at].source;
                Ok(Some((at + 1, after(&self.ring, point, blocks))))
            }
            None if position == self.base && self.slot.is_some() => Ok(None),
            None if position == self.base => Ok(Some((0, self.replay_from))),
            None => {
                let (expected, got) = (position.into(), self.position.into());
                Err(RegionError::NotNext {
                    device: handle.name(),
                    what: "the checkpoint",
                    expected,
                    got,
                })
            }
        }
    }

    /// Writes a bounded part of the running checkpoint. `Done`: it is durable and the journal trimmed, or it was given up,
    /// because a whole image or a rollback made it pointless.
    pub fn checkpoint_step(&mut self, handle: &mut Handle) -> Result<CheckpointStep, RegionError> {
        match self.running.take() {
            None => Ok(CheckpointStep::Done),
            Some(Running::Image(mut running)) => {
                let Some((block, blocks)) = running.blocks.next(CHECKPOINT_STEP_BLOCKS) else {
                    let sealed = running.blocks.sealer();
                    self.finish_image(handle, running.place, running.replay_from, sealed, false)?;
                    return Ok(CheckpointStep::Done);
                };
                handle.write_unflushed(block, blocks)?;
                let step = CheckpointStep::More {
                    done_bytes: running.blocks.done_bytes(),
                    total_bytes: running.blocks.image_len_bytes(),
                };
                self.running = Some(Running::Image(running));
                Ok(step)
            }
            Some(Running::Segment(mut packing)) => {
                match packing.step(handle, CHECKPOINT_STEP_BLOCKS as u32)? {
                    Packed::More => {}
                    Packed::Whole => {
                        self.finish_segment(handle, packing)?;
                        return Ok(CheckpointStep::Done);
                    }
                    Packed::NotReadable(why) => {
                        let device = handle.name();
                        tracing::warn!("no segment is written on {device}, but an image: {why}");
                        return Ok(CheckpointStep::ImageWanted);
                    }
                }
                let step = CheckpointStep::More {
                    done_bytes: packing.done_bytes(),
                    total_bytes: packing.total_bytes(),
                };
                self.running = Some(Running::Segment(packing));
                Ok(step)
            }
        }
    }

    pub(super) fn start_image(
        &self,
        position: Position,
        replay_from: JournalPoint,
        image: Vec<u8>,
    ) -> RunningImage {
        let place = self.next_place(position);
        let blocks = ImageBlocks::new(self.places[place.slot as usize], image, position, place.sequence);
        RunningImage {
            place,
            replay_from,
            blocks,
        }
    }

    /// The slot that does not count.
    pub(super) fn next_place(&self, position: Position) -> ImagePlace {
        ImagePlace {
            slot: self.slot.map_or(Slot::A, Slot::other),
            position,
            sequence: self.checkpoint_sequence.saturating_add(1),
        }
    }

    /// All image blocks are written: makes them durable, then the head, which is the moment the checkpoint counts.
    pub(super) fn finish_image(
        &mut self,
        handle: &mut Handle,
        image: ImagePlace,
        replay_from: JournalPoint,
        sealed: &ImageSealer,
        replaces: bool,
    ) -> Result<(), RegionError> {
        handle.flush()?;
        let head = CheckpointHead {
            sequence: image.sequence,
            position: image.position,
            image_len_bytes: sealed.len_bytes(),
            replay_from,
            replaces,
            digest: sealed.digest(),
        };
        let place = self.places[image.slot as usize];
        handle.write_block(place.head_block, &place.encode_head(&head))?;
        if replaces {
            let old = self.places[image.slot.other() as usize];
            handle.write_block(old.head_block, &old.encode_retired(head.sequence))?;
        }
        self.retire = None;
        self.slot = Some(image.slot);
        self.checkpoint_sequence = head.sequence;
        self.image_len_bytes = head.image_len_bytes;
        (self.segments, self.segments_at, self.segments_closed) = (0, 0, false);
        self.trim(head.position, head.replay_from);
        Ok(())
    }

    fn finish_segment(&mut self, handle: &mut Handle, packing: Packing) -> Result<(), RegionError> {
        let head = packing.finish(handle)?;
        self.segments += 1;
        self.segments_at += head.blocks;
        self.trim(head.to, head.replay_from);
        Ok(())
    }

    /// What is durable now says that the journal goes on from here.
    fn trim(&mut self, base: Position, replay_from: JournalPoint) {
        self.base = base;
        self.replay_from = replay_from;
        while (self.journal.front()).is_some_and(|first| first.source.point.sequence < replay_from.sequence) {
            self.journal.pop_front();
        }
    }

    /// What stands of the first records of the journal.
    fn standing_until(&self, count: usize) -> Vec<Source> {
        let mut standing = Vec::new();
        for placed in self.journal.iter().take(count) {
            if placed.step == Step::Rollback {
                standing.pop();
            } else {
                standing.push(placed.source);
            }
        }
        standing
    }
}

/// What an image of so many bytes takes, its head included.
fn image_blocks(len_bytes: u64) -> u64 {
    1 + len_bytes.div_ceil(PAYLOAD_BYTES as u64)
}
