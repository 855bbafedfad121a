//! A segment that is being written: reads records from the journal again, packs them, writes the parts; a bounded piece at a
//! time, so that appends go on in between.
//!
//! Driven by `own.rs`. What was appended is read back and checked before it is taken: a segment is never made of anything but
//! whole records. If they cannot be read, there is no segment, and the caller writes an image, which it has from memory.

use super::handle::Handle;
use crate::device::Buffer;
use crate::error::RegionError;
use crate::format::checkpoint::JournalPoint;
use crate::format::header::PAYLOAD_BYTES;
use crate::format::journal::{Entry, Ring};
use crate::format::segment::{self, FRAME_BYTES, SegmentHead, SegmentRoom};
use ccd_core::ids::Position;
use std::collections::VecDeque;

/// A record of the journal, without its content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub point: JournalPoint,
    pub blocks: u32,
    pub len_bytes: usize,
    pub prev: Position,
    pub next: Position,
}

/// What a step came to.
#[derive(Debug)]
pub(super) enum Packed {
    More,
    /// All parts are written, and not flushed.
    Whole,
    /// The journal does not hold what was written there; why.
    NotReadable(String),
}

#[derive(Debug)]
pub(super) struct Packing {
    room: SegmentRoom,
    ring: Ring,
    /// Index in the room of the segment's head.
    at: u32,
    head: SegmentHead,
    todo: VecDeque<Source>,
    in_head: Vec<u8>,
    /// Packed, and not written yet.
    bytes: Vec<u8>,
    next_part: u32,
    digest: blake3::Hasher,
}

/// The bytes that these records take in a segment.
pub(super) fn len_bytes(sources: &[Source]) -> usize {
    sources.iter().map(|source| FRAME_BYTES + source.len_bytes).sum()
}

impl Packing {
    /// `head` without its digest; `sources` are the records that lead from `head.from` to `head.to`.
    pub fn new(room: SegmentRoom, ring: Ring, at: u32, head: SegmentHead, sources: Vec<Source>) -> Self {
        Self {
            room,
            ring,
            at,
            head,
            todo: sources.into(),
            in_head: Vec::new(),
            bytes: Vec::new(),
            next_part: 1,
            digest: blake3::Hasher::new(),
        }
    }

    pub fn replay_from(&self) -> JournalPoint {
        self.head.replay_from
    }

    pub fn total_bytes(&self) -> u64 {
        u64::from(self.head.len_bytes)
    }

    pub fn done_bytes(&self) -> u64 {
        let todo: usize = self
            .todo
            .iter()
            .map(|source| FRAME_BYTES + source.len_bytes)
            .sum();
        self.total_bytes().saturating_sub(todo as u64)
    }

    /// Reads up to `blocks_max` blocks of the journal (one record at least), and writes the parts that they fill.
    pub fn step(&mut self, handle: &mut Handle, blocks_max: u32) -> Result<Packed, RegionError> {
        let batch = self.next_batch(blocks_max);
        if let Some((first, blocks)) = batch.first().map(|first| (first.point.at, span(&batch))) {
            // A device that cannot be read may take writes all the same.
            let read = handle.read(self.ring.first_block + u64::from(first), blocks as usize);
            let window = match read {
                Ok(window) => window,
                Err(error) => return Ok(Packed::NotReadable(error.to_string())),
            };
            for source in &batch {
                match self.entry(&window, first, source) {
                    Some(entry) => segment::pack(&mut self.bytes, &entry),
                    None => {
                        let block = self.ring.first_block + u64::from(source.point.at);
                        let sequence = source.point.sequence;
                        let text = format!("record {sequence} of the journal (block {block}) is damaged");
                        return Ok(Packed::NotReadable(text));
                    }
                }
            }
        }
        if self.next_part == 1 && self.in_head.is_empty() {
            let count = segment::bytes_in_head(self.head.len_bytes as usize);
            if self.bytes.len() < count {
                return Ok(Packed::More);
            }
            self.in_head = self.bytes.drain(..count).collect();
        }
        let whole = match self.todo.is_empty() {
            true => self.bytes.len(),
            false => self.bytes.len() / PAYLOAD_BYTES * PAYLOAD_BYTES,
        };
        if whole > 0 {
            let some = self.bytes.drain(..whole).collect::<Vec<u8>>();
            let parts = self
                .room
                .encode_parts(self.at, &self.head, self.next_part, &some, &mut self.digest);
            handle.write_unflushed(self.room.block(self.at + self.next_part), &parts)?;
            self.next_part += parts.blocks() as u32;
        }
        Ok(if self.todo.is_empty() {
            Packed::Whole
        } else {
            Packed::More
        })
    }

    /// Makes the parts durable, then the head, which is the moment the segment counts. Returns the head.
    pub fn finish(mut self, handle: &mut Handle) -> Result<SegmentHead, RegionError> {
        assert_eq!(self.next_part, self.head.blocks, "all parts are written");
        if self.head.blocks > 1 {
            handle.flush()?;
        }
        self.head.digest = *self.digest.finalize().as_bytes();
        let block = self.room.encode_head(self.at, &self.head, &self.in_head);
        handle.write_block(self.room.block(self.at), &block)?;
        Ok(self.head)
    }

    /// Records that lie one behind the other.
    fn next_batch(&mut self, blocks_max: u32) -> Vec<Source> {
        let mut batch: Vec<Source> = Vec::new();
        while let Some(source) = self.todo.front() {
            if let (Some(first), Some(last)) = (batch.first(), batch.last()) {
                let follows = source.point.at == last.point.at + last.blocks;
                if !follows || source.point.at + source.blocks - first.point.at > blocks_max {
                    break;
                }
            }
            batch.push(*source);
            self.todo.pop_front();
        }
        batch
    }

    fn entry(&self, window: &Buffer, first: u32, source: &Source) -> Option<Entry> {
        let (head, entry) = self.ring.record_in(window, first, source.point.at).ok()?;
        let is_it = head.sequence == source.point.sequence
            && (entry.prev, entry.next) == (source.prev, source.next)
            && entry.payload.len() == source.len_bytes;
        is_it.then_some(entry)
    }
}

/// The blocks from the first to the end of the last.
fn span(batch: &[Source]) -> u32 {
    let first = batch.first().map_or(0, |first| first.point.at);
    batch.last().map_or(0, |last| last.point.at + last.blocks - first)
}
