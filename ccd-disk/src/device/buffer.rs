//! Whole blocks in memory, aligned as O_DIRECT wants them. Used by everything that reads or writes a device.
//!
//! Few blocks come from the allocator, which writes zeros into aligned memory itself. Many, such as a journal that is read whole, are
//! a mapping of their own, which is touched by the kernel alone, when it reads into it. (Not in large pages: where a hypervisor takes
//! back what is free, those are the ones that are not there, and clearing one takes milliseconds.)

use super::BLOCK_BYTES;
use memmap2::MmapMut;
use std::fmt;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// From so many blocks on a buffer is a mapping: 1 MiB.
const MAPPED_FROM_BLOCKS: usize = 256;

/// One block in memory.
#[derive(Clone, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C, align(4096))]
struct Page([u8; BLOCK_BYTES]);

const _: () = assert!(size_of::<Page>() == BLOCK_BYTES && align_of::<Page>() == BLOCK_BYTES);

/// Whole blocks in memory, page-aligned.
pub struct Buffer {
    memory: Memory,
}

enum Memory {
    Pages(Vec<Page>),
    Mapped(MmapMut),
}

impl Buffer {
    /// `blocks` blocks of zeros.
    pub fn zeroed(blocks: usize) -> Self {
        let memory = match mapped(blocks) {
            Some(map) => Memory::Mapped(map),
            None => {
                let pages = Page::new_vec_zeroed(blocks);
                Memory::Pages(pages.unwrap_or_else(|_| panic!("no memory for {blocks} blocks")))
            }
        };
        Self { memory }
    }

    /// So many blocks of zeros, in the same memory if they fit.
    pub fn clear_to(&mut self, blocks: usize) {
        self.resize_to(0);
        self.resize_to(blocks);
    }

    /// So many blocks, for whoever writes all of them: what was there before is there still, and what was not is zeros.
    pub fn resize_to(&mut self, blocks: usize) {
        if blocks == self.blocks() {
            return;
        }
        match &mut self.memory {
            Memory::Pages(pages) if blocks < MAPPED_FROM_BLOCKS => {
                pages.resize(blocks, Page([0; BLOCK_BYTES]));
            }
            _ => {
                let mut resized = Self::zeroed(blocks);
                let kept = self.len().min(resized.len());
                resized[..kept].copy_from_slice(&self[..kept]);
                *self = resized;
            }
        }
    }

    pub fn blocks(&self) -> usize {
        self.len() / BLOCK_BYTES
    }

    pub fn block(&self, index: usize) -> &[u8; BLOCK_BYTES] {
        &self.all()[index]
    }

    pub fn block_mut(&mut self, index: usize) -> &mut [u8; BLOCK_BYTES] {
        let (blocks, _) = self.as_chunks_mut();
        &mut blocks[index]
    }

    fn all(&self) -> &[[u8; BLOCK_BYTES]] {
        self.as_chunks().0
    }
}

/// `None`: too few, or the kernel refuses: then it is the allocator's.
fn mapped(blocks: usize) -> Option<MmapMut> {
    if blocks < MAPPED_FROM_BLOCKS {
        return None;
    }
    MmapMut::map_anon(blocks * BLOCK_BYTES).ok()
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut clone = Self::zeroed(self.blocks());
        clone.copy_from_slice(self);
        clone
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.memory {
            Memory::Pages(pages) => pages.as_slice().as_bytes(),
            Memory::Mapped(map) => map,
        }
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.memory {
            Memory::Pages(pages) => pages.as_mut_slice().as_mut_bytes(),
            Memory::Mapped(map) => map,
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} blocks)", self.blocks())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_every_size_are_aligned_and_zero_and_keep_what_is_written() {
        for blocks in [0, 1, 65, MAPPED_FROM_BLOCKS - 1, MAPPED_FROM_BLOCKS, 2048] {
            let mut buffer = Buffer::zeroed(blocks);
            assert_eq!((buffer.blocks(), buffer.len()), (blocks, blocks * BLOCK_BYTES));
            assert!(blocks == 0 || buffer.as_ptr().addr().is_multiple_of(BLOCK_BYTES));
            assert!(crate::device::is_zero(&buffer));
            for index in 0..blocks {
                buffer.block_mut(index).fill(index as u8);
            }
            let clone = buffer.clone();
            assert!((0..blocks).all(|index| clone.block(index) == &[index as u8; BLOCK_BYTES]));
        }
    }

    #[test]
    fn a_buffer_that_is_resized_keeps_its_blocks_and_one_that_is_cleared_does_not() {
        let sizes = [
            3,
            1,
            MAPPED_FROM_BLOCKS + 1,
            MAPPED_FROM_BLOCKS + 7,
            2,
            MAPPED_FROM_BLOCKS,
        ];
        let mut buffer = Buffer::zeroed(2);
        for blocks in sizes {
            let kept = blocks.min(buffer.blocks());
            buffer.fill(7);
            buffer.resize_to(blocks);
            assert_eq!(buffer.blocks(), blocks);
            assert!(
                (0..blocks)
                    .all(|index| buffer.block(index) == &[if index < kept { 7 } else { 0 }; BLOCK_BYTES])
            );
            buffer.fill(7);
            buffer.clear_to(blocks);
            assert!(
                buffer.blocks() == blocks && crate::device::is_zero(&buffer),
                "{blocks}"
            );
        }
    }
}
