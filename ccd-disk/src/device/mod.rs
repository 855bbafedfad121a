//! Block devices as a region sees them: the one interface, a real device, and one in memory.
//!
//! ```text
//! mod.rs      trait Blocks; page-aligned buffers; transfers
//! raw.rs      RawDevice: a file, a loop device, any block device (O_DIRECT, exclusive)
//! ring.rs     Ring: transfers to raw devices that nobody waits for (io_uring)
//! memory.rs   MemoryDevice: for tests and the simulator: volatile cache, torn writes, injected errors
//! ```

mod memory;
mod raw;
mod ring;

pub use memory::{LoggedWrite, MemoryDevice, MemoryHandle, Tear};
pub(crate) use raw::sync_folder_of;
pub use raw::{Access, RawDevice};
pub use ring::{Carrier, Landed, Landing, Ring, RingTarget};

use std::fmt;
use std::io;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The unit of everything on a region, in bytes. Also the largest sector that is accepted.
pub const BLOCK_BYTES: usize = 4096;

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
        let zeros = Buffer::zeroed(256);
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

    /// What to call the device in messages.
    fn name(&self) -> String;

    /// Where a [`Ring`] may carry transfers to, with the same effect as [`Blocks::read_at`] and [`Blocks::write_at`]; `None` where
    /// only those will do.
    fn ring_target(&self) -> Option<RingTarget> {
        None
    }
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

/// One block in memory, aligned as O_DIRECT wants it.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(4096))]
struct Page([u8; BLOCK_BYTES]);

const _: () = assert!(size_of::<Page>() == BLOCK_BYTES && align_of::<Page>() == BLOCK_BYTES);

/// Whole blocks in memory, page-aligned.
#[derive(Clone)]
pub struct Buffer {
    pages: Vec<Page>,
}

impl Buffer {
    /// `blocks` blocks of zeros.
    pub fn zeroed(blocks: usize) -> Self {
        // Not written here: memory that is to be read into is touched once only.
        let pages = Page::new_vec_zeroed(blocks);
        Self {
            pages: pages.unwrap_or_else(|_| panic!("no memory for {blocks} blocks")),
        }
    }

    /// So many blocks of zeros, in the same memory if they fit.
    pub fn clear_to(&mut self, blocks: usize) {
        self.pages.clear();
        self.pages.resize(blocks, Page([0; BLOCK_BYTES]));
    }

    pub fn blocks(&self) -> usize {
        self.pages.len()
    }

    pub fn block(&self, index: usize) -> &[u8; BLOCK_BYTES] {
        &self.pages[index].0
    }

    pub fn block_mut(&mut self, index: usize) -> &mut [u8; BLOCK_BYTES] {
        &mut self.pages[index].0
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.pages.as_slice().as_bytes()
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.pages.as_mut_slice().as_mut_bytes()
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} blocks)", self.pages.len())
    }
}

/// Whether every byte is zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0, |any, byte| any | byte) == 0
}
