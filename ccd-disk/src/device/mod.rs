//! Block devices as a region sees them: the one interface, a real device, and one in memory.
//!
//! ```text
//! mod.rs      trait Blocks; transfers
//! buffer.rs   Buffer: page-aligned blocks in memory
//! holder.rs   who holds a device that cannot be opened
//! raw.rs      RawDevice: a file, a loop device, any block device (O_DIRECT, exclusive)
//! ring.rs     Ring: transfers to raw devices that nobody waits for (io_uring)
//! memory.rs   MemoryDevice: for tests and the simulator: volatile cache, torn writes, injected errors
//! ```

mod buffer;
mod holder;
mod memory;
mod raw;
mod ring;

pub use buffer::Buffer;
pub(crate) use holder::advice;
pub use memory::{LoggedWrite, MemoryDevice, MemoryHandle, Tear};
pub(crate) use raw::sync_folder_of;
pub use raw::{Access, RawDevice};
pub use ring::{Carrier, Landed, Landing, Ring, RingTarget};

use std::fmt;
use std::io;

/// The unit of everything on a region, in bytes. Also the largest sector that is accepted.
pub const BLOCK_BYTES: usize = 4096;

/// Blocks of zeros that are written at once: 256 KiB. More of them would be memory that is touched for nothing.
const ZEROS_BLOCKS: usize = 64;

/// A device of whole blocks. Offsets and lengths are multiples of [`BLOCK_BYTES`]; calls block until done.
///
/// A read returns what the last write wrote, durable or not: *a read proves content, only a flush proves durability*.
pub trait Blocks: Send + fmt::Debug {
    /// The size of the device.
    fn len_bytes(&self) -> u64;

    /// Fills `into` from `offset`.
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes `data` so that it is durable when this returns: data and flush in one. Says nothing about the
    /// durability of earlier writes by [`Blocks::write_unflushed_at`].
    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Writes `data`; a power cut may undo it, in any part, until [`Blocks::flush`] has returned.
    fn write_unflushed_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes everything written so far durable.
    fn flush(&mut self) -> io::Result<()>;

    /// Writes zeros, not yet flushed.
    fn zero_at(&mut self, offset: u64, len_bytes: u64) -> io::Result<()> {
        let zeros = Buffer::zeroed(ZEROS_BLOCKS.min(len_bytes.div_ceil(BLOCK_BYTES as u64) as usize));
        let mut done = 0;
        while done < len_bytes {
            let chunk = (len_bytes - done).min(zeros.len() as u64);
            self.write_unflushed_at(offset + done, &zeros[..chunk as usize])?;
            done += chunk;
        }
        Ok(())
    }

    /// Makes this read as zeros and belong to the device, not yet flushed; the first write there may take longer than later
    /// ones, and never fails for want of room.
    fn reserve_zeros_at(&mut self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.zero_at(offset, len_bytes)
    }

    /// The size of the device now: it may have changed since it was opened.
    ///
    /// # Errors
    /// When the device does not say.
    fn len_bytes_now(&mut self) -> io::Result<u64> {
        Ok(self.len_bytes())
    }

    /// Where the name of the device leads, by which it would be opened anew.
    ///
    /// # Errors
    /// When the device itself does not say what it is.
    fn look_at_place(&mut self) -> io::Result<Place> {
        Ok(Place::Here)
    }

    /// What to call the device in messages.
    fn name(&self) -> String;

    /// Where a [`Ring`] may carry transfers to, with the same effect as [`Blocks::read_at`] and [`Blocks::write_at`]; `None` where
    /// only those will do.
    fn ring_target(&self) -> Option<RingTarget> {
        None
    }
}

/// Where the name of an open device leads.
#[derive(Debug)]
pub enum Place {
    Here,
    /// Nothing is there, or it cannot be looked at.
    Nowhere(io::Error),
    /// Another file.
    OtherFile,
    /// Another device number. It may be another way to the same disk.
    OtherNumber,
}

/// Which way blocks go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As [`Blocks::read_at`].
    Read,
    /// As [`Blocks::write_at`]: durable when done.
    Write,
}

/// Blocks that are to be read or written.
#[derive(Debug)]
pub struct Transfer {
    pub way: Way,
    pub offset: u64,
    pub blocks: Buffer,
}

/// Whether every byte is zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |any, byte| any | byte) == 0
}
