//! How many checkpoints were written as segments, and how many as whole images: histories must have both. Counted by `store.rs`
//! on every way to a medium.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Shared by all stores of a world.
#[derive(Clone, Debug, Default)]
pub struct Checkpoints {
    segments: Arc<AtomicU64>,
    images: Arc<AtomicU64>,
}

impl Checkpoints {
    /// One was written; so many segments continue the newest image now.
    pub fn note(&self, segments: u32) {
        let counter = if segments > 0 {
            &self.segments
        } else {
            &self.images
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub fn segments(&self) -> u64 {
        self.segments.load(Ordering::Relaxed)
    }

    pub fn images(&self) -> u64 {
        self.images.load(Ordering::Relaxed)
    }
}
