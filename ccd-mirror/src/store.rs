//! What a replica's thread drives. Implemented by the daemon on a region of ccd-disk; tests bring their own.

use ccd_core::database::Database;
use ccd_core::replica::{ReplicaAnswer, ReplicaError, ReplicaOp};
use ccd_disk::Region;
use std::sync::Arc;

/// How far a checkpoint in steps has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreStep {
    /// So many of so many bytes are written.
    More { done_bytes: u64, total_bytes: u64 },
    /// The image is still being made, elsewhere; ask again in a moment.
    NotYet,
    /// The checkpoint is durable and the journal trimmed.
    Done,
}

/// Hears how many bytes of how many of a whole image are written, on the replica's thread.
pub type ImageWatch = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// One replica, used by one thread. Every call but [`region`](Store::region) may block for as long as the device does.
pub trait Store: Send + 'static {
    /// The region, if the replica is open: for appends whose transfers the mirror has carried out.
    fn region(&mut self) -> Option<&mut Region> {
        None
    }

    /// Whole images are told of as they are written. Called once, before anything else.
    fn watch_images(&mut self, _watch: ImageWatch) {}

    /// Does one operation whole. Never called with [`ReplicaOp::Checkpoint`].
    fn execute(&mut self, op: ReplicaOp) -> Result<ReplicaAnswer, ReplicaError>;

    /// Writes this database over a damaged replica, if the replica stands exactly where the database does; changes
    /// nothing and fails if it has moved on since the database was taken.
    fn repair(&mut self, database: Database) -> Result<(), ReplicaError>;

    /// Begins a checkpoint; no write happens before the first step. One at a time.
    fn begin_checkpoint(&mut self, database: Database) -> Result<(), ReplicaError>;

    /// Does a bounded part of the checkpoint that was begun. Appends may come between two steps.
    fn step_checkpoint(&mut self) -> Result<StoreStep, ReplicaError>;

    /// Whether there is something that can wait until nothing is asked for. Asked after each operation.
    fn has_idle_work(&self) -> bool {
        false
    }

    /// Does a bounded part of that; returns whether there is more. Called only when nothing has been asked for a moment.
    fn idle_step(&mut self) -> bool {
        false
    }

    /// Forgets the checkpoint that was begun; the one before it stays the newest.
    fn abandon_checkpoint(&mut self);
}
