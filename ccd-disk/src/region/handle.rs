//! A device with its errors named and its poison remembered. Every access of a region goes through this.

use crate::device::{BLOCK_BYTES, Blocks, Buffer, Place, RingTarget, Transfer, Way};
use crate::error::RegionError;
use std::collections::BTreeSet;
use std::io;

/// Blocks in a row that may be unreadable before the whole device is taken for broken: on a dead path each costs a
/// time-out.
const UNREADABLE_BLOCKS_MAX: usize = 3;

/// An open device; after a failed write or flush it takes no more writes.
#[derive(Debug)]
pub struct Handle {
    blocks: Box<dyn Blocks>,
    poisoned: Option<String>,
    /// Where control blocks are read to, many times a second: memory that is there already.
    control: ControlBlocks,
}

/// Control blocks in memory.
#[derive(Debug)]
pub struct ControlBlocks {
    pub buffer: Buffer,
    /// Which of them hold bytes whose checksum has been found right. Most are as they were when they were last read, and to
    /// compare them costs a fraction of a checksum.
    pub sound: Vec<bool>,
    /// As they were read before, in the memory that the next read goes to.
    before: Buffer,
    /// Block number of the first.
    first: u64,
}

impl ControlBlocks {
    fn none() -> Self {
        Self {
            buffer: Buffer::zeroed(0),
            sound: Vec::new(),
            before: Buffer::zeroed(0),
            first: 0,
        }
    }

    /// Forgets what is known of blocks that are not as they were.
    fn compare(&mut self, first: u64) {
        let is_same_range = first == self.first && self.before.blocks() == self.buffer.blocks();
        self.first = first;
        self.sound.resize(self.buffer.blocks(), false);
        for (index, sound) in self.sound.iter_mut().enumerate() {
            *sound = *sound && is_same_range && self.before.block(index) == self.buffer.block(index);
        }
    }
}

impl Handle {
    pub fn new(blocks: Box<dyn Blocks>) -> Self {
        Self {
            blocks,
            poisoned: None,
            control: ControlBlocks::none(),
        }
    }

    pub fn name(&self) -> String {
        self.blocks.name()
    }

    pub fn len_blocks(&self) -> u64 {
        self.blocks.len_bytes() / BLOCK_BYTES as u64
    }

    /// The size of the device now.
    pub fn len_bytes_now(&mut self) -> Result<u64, RegionError> {
        let found = self.blocks.len_bytes_now();
        found.map_err(|source| RegionError::io("ask for the size of", self.blocks.name(), source))
    }

    /// Where the device's name leads.
    pub fn look_at_place(&mut self) -> Result<Place, RegionError> {
        let found = self.blocks.look_at_place();
        found.map_err(|source| RegionError::io("ask for the number of", self.blocks.name(), source))
    }

    pub fn is_poisoned(&self) -> bool {
        self.poisoned.is_some()
    }

    pub fn read(&mut self, block: u64, count: usize) -> Result<Buffer, RegionError> {
        let mut buffer = Buffer::zeroed(count);
        self.read_into(block, &mut buffer)?;
        Ok(buffer)
    }

    pub fn read_into(&mut self, block: u64, into: &mut Buffer) -> Result<(), RegionError> {
        let done = self.blocks.read_at(block * BLOCK_BYTES as u64, into);
        done.map_err(|source| RegionError::io("read", self.blocks.name(), source))
    }

    /// Reads control blocks into memory that is kept for them: [`Handle::keep_control`] takes it back.
    pub fn read_control(&mut self, block: u64, count: usize) -> Result<ControlBlocks, RegionError> {
        let mut control = std::mem::replace(&mut self.control, ControlBlocks::none());
        std::mem::swap(&mut control.buffer, &mut control.before);
        control.buffer.resize_to(count);
        self.read_into(block, &mut control.buffer)?;
        control.compare(block);
        Ok(control)
    }

    pub fn keep_control(&mut self, control: ControlBlocks) {
        self.control = control;
    }

    /// Reads what can be read; the other blocks, whose indexes are returned, are filled so that they are neither zero nor
    /// valid. Fails only if the device as a whole seems broken.
    pub fn read_readable(
        &mut self,
        block: u64,
        count: usize,
    ) -> Result<(Buffer, BTreeSet<u32>), RegionError> {
        let mut buffer = Buffer::zeroed(count);
        let unreadable = self.read_readable_into(block, &mut buffer)?;
        Ok((buffer, unreadable))
    }

    /// The same into this memory.
    pub fn read_readable_into(
        &mut self,
        block: u64,
        buffer: &mut Buffer,
    ) -> Result<BTreeSet<u32>, RegionError> {
        let mut unreadable = BTreeSet::new();
        let Err(failed) = self.read_into(block, buffer) else {
            return Ok(unreadable);
        };
        let mut in_a_row = 0;
        let mut failed = Some(failed);
        for index in 0..buffer.blocks() {
            match self.read(block + index as u64, 1) {
                Ok(one) => {
                    in_a_row = 0;
                    *buffer.block_mut(index) = *one.block(0);
                }
                Err(error) => {
                    in_a_row += 1;
                    if in_a_row > UNREADABLE_BLOCKS_MAX {
                        return Err(failed.take().unwrap_or(error));
                    }
                    buffer.block_mut(index).fill(0xEE);
                    unreadable.insert(index as u32);
                }
            }
        }
        Ok(unreadable)
    }

    /// Writes whole blocks, durable on return.
    pub fn write(&mut self, block: u64, data: &[u8]) -> Result<(), RegionError> {
        self.changing("write", |blocks| {
            blocks.write_at(block * BLOCK_BYTES as u64, data)
        })
    }

    /// Writes one block, durable on return; `data` need not be aligned in memory.
    pub fn write_block(&mut self, block: u64, data: &[u8; BLOCK_BYTES]) -> Result<(), RegionError> {
        let mut buffer = Buffer::zeroed(1);
        *buffer.block_mut(0) = *data;
        self.write(block, &buffer)
    }

    /// Writes whole blocks, durable only after [`Handle::flush`].
    pub fn write_unflushed(&mut self, block: u64, data: &[u8]) -> Result<(), RegionError> {
        self.changing("write", |blocks| {
            blocks.write_unflushed_at(block * BLOCK_BYTES as u64, data)
        })
    }

    /// Writes a block of zeros where zeros are, only to see what becomes of it: a failure poisons nothing.
    pub fn try_zeros(&mut self, block: u64) -> Result<(), RegionError> {
        let zeros = Buffer::zeroed(1);
        let done = self.blocks.write_at(block * BLOCK_BYTES as u64, &zeros);
        done.map_err(|source| RegionError::io("write", self.blocks.name(), source))
    }

    pub fn zero(&mut self, block: u64, count: u64) -> Result<(), RegionError> {
        let (offset, len_bytes) = (block * BLOCK_BYTES as u64, count * BLOCK_BYTES as u64);
        self.changing("zero", |blocks| blocks.zero_at(offset, len_bytes))
    }

    /// As [`Handle::zero`], for what may take longer to write the first time.
    pub fn reserve_zeros(&mut self, block: u64, count: u64) -> Result<(), RegionError> {
        let (offset, len_bytes) = (block * BLOCK_BYTES as u64, count * BLOCK_BYTES as u64);
        self.changing("zero", |blocks| blocks.reserve_zeros_at(offset, len_bytes))
    }

    pub fn flush(&mut self) -> Result<(), RegionError> {
        self.changing("flush", |blocks| blocks.flush())
    }

    /// Where others may carry transfers to.
    pub fn ring_target(&self) -> Option<RingTarget> {
        self.blocks.ring_target()
    }

    /// A transfer of these blocks, unless it is a write that the device takes no more.
    pub fn transfer(&self, way: Way, block: u64, blocks: Buffer) -> Result<Transfer, RegionError> {
        if way == Way::Write {
            self.refuse_if_poisoned()?;
        }
        let offset = block * BLOCK_BYTES as u64;
        Ok(Transfer { way, offset, blocks })
    }

    /// Does a transfer here and now; what became of it is for [`Handle::judge`].
    pub fn carry_out(&mut self, transfer: &mut Transfer) -> io::Result<()> {
        let Transfer { way, offset, blocks } = transfer;
        match way {
            Way::Read => self.blocks.read_at(*offset, blocks),
            Way::Write => self.blocks.write_at(*offset, blocks),
        }
    }

    /// What became of a transfer, whoever carried it out: its error named, and remembered if it was a write.
    pub fn judge(&mut self, way: Way, done: io::Result<()>) -> Result<(), RegionError> {
        match way {
            Way::Read => done.map_err(|source| RegionError::io("read", self.blocks.name(), source)),
            Way::Write => self.changing("write", |_| done),
        }
    }

    fn refuse_if_poisoned(&self) -> Result<(), RegionError> {
        match &self.poisoned {
            Some(why) => Err(RegionError::Poisoned {
                device: self.blocks.name(),
                why: why.clone(),
            }),
            None => Ok(()),
        }
    }

    fn changing(
        &mut self,
        doing: &'static str,
        change: impl FnOnce(&mut dyn Blocks) -> io::Result<()>,
    ) -> Result<(), RegionError> {
        self.refuse_if_poisoned()?;
        change(self.blocks.as_mut()).map_err(|source| {
            self.poisoned = Some(format!("{doing}: {source}"));
            RegionError::io(doing, self.blocks.name(), source)
        })
    }
}
