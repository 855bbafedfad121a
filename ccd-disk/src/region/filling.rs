//! The journal of a region that was just made and holds nothing: filled with zeros piece by piece while nothing else is to be
//! done, so that no append has to allocate. A third part of `own.rs`.
//!
//! Always holds: only blocks are filled that no record has reached; a region that has had a state is never filled.

use super::handle::Handle;
use super::own::OwnArea;
use crate::error::RegionError;

/// Blocks filled at once: 1 MiB, less than a millisecond for whoever comes in between.
const STEP_BLOCKS: u32 = 256;

impl OwnArea {
    /// Fills some of what is not filled; returns whether there is more. What is left when the process ends stays as it is:
    /// correct, and slower the first time.
    pub fn fill_step(&mut self, handle: &mut Handle) -> Result<bool, RegionError> {
        let from = self.filled.max(self.reached);
        let count = STEP_BLOCKS.min(self.ring.blocks - from);
        if count > 0 {
            handle.zero(self.ring.first_block + u64::from(from), u64::from(count))?;
        }
        self.filled = from + count;
        Ok(self.filled < self.ring.blocks)
    }
}
