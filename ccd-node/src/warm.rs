//! Memory for a copy of the database that is on its way: touched for the first time on another thread.
//!
//! Used by the event loop when the first piece of an image has come. The kernel gives a process memory page by page, when it is
//! touched; where a hypervisor takes free memory back, that costs more than reading the rows that are put there. So blocks
//! are taken from the heap of the thread that will need them, and given back to it touched, while it waits for the next
//! pieces and reads them. Nothing depends on it: an allocator that does otherwise makes it useless, and no more.

use std::hint::black_box;
use std::thread::{self, JoinHandle};

/// Small enough that an allocator takes it from its heap, and does not map it for itself.
const BLOCK_BYTES: usize = 64 << 10;

/// Less is not worth a thread.
const WORTH_BYTES: u64 = 1 << 20;

/// What a wrong length can make this node touch.
const BYTES_MAX: u64 = 32 << 20;

/// To be kept until the memory is needed no more.
#[derive(Debug)]
pub struct Warming {
    /// Lies behind the blocks: the end of a heap goes back to the kernel as soon as it is free.
    _end: Vec<u8>,
    _touching: Option<JoinHandle<()>>,
}

/// Begins to warm memory for so many bytes, which this thread will soon allocate piece by piece. `None` if they are too few to be worth it.
pub fn begin(bytes: u64) -> Option<Warming> {
    if bytes < WORTH_BYTES {
        return None;
    }
    let count = usize::try_from(bytes.min(BYTES_MAX)).ok()? / BLOCK_BYTES;
    let blocks: Vec<Vec<u8>> = (0..count).map(|_| block()).collect();
    let end = block();
    let touch = move || {
        for mut block in blocks {
            block.resize(BLOCK_BYTES, 0);
            black_box(&mut block);
        }
    };
    // Without a thread the memory is touched by who needs it.
    let touching = thread::Builder::new().name("ccd-warm".to_owned()).spawn(touch);
    Some(Warming {
        _end: end,
        _touching: touching.ok(),
    })
}

fn block() -> Vec<u8> {
    black_box(Vec::with_capacity(BLOCK_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::resource::{UsageWho, getrusage};

    const PAGE_BYTES: i64 = 4096;

    fn faults() -> i64 {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("the kernel knows");
        usage.minor_page_faults()
    }

    #[test]
    fn what_is_allocated_afterwards_is_memory_that_was_touched() {
        assert!(begin(WORTH_BYTES - 1).is_none());
        let bytes = 16 * WORTH_BYTES;
        let mut warming = begin(bytes).expect("worth it");
        let touching = warming._touching.take().expect("a thread");
        touching.join().expect("it ends");
        let before = faults();
        // As the rows of an image are kept.
        let chunks: Vec<Box<[u8]>> = (0..bytes >> 12).map(|_| vec![1; 3 << 10].into()).collect();
        let pages = (chunks.len() as i64 * (3 << 10)) / PAGE_BYTES;
        let met = faults() - before;
        assert!(
            met < pages / 4,
            "{met} of {pages} pages were touched for the first time"
        );
    }
}
