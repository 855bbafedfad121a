//! Writing this node's own area of a replica up to a state: by the records that it lacks, or as a whole image.

use super::Purpose;
use crate::database::{Database, Record};
use crate::ids::Replica;
use crate::protocol::Node;
use crate::protocol::copies::spread::records_in_one_tail;
use crate::replica::{ReplicaError, ReplicaErrorKind, ReplicaOp};
use alloc::sync::Arc;

/// How one of the writes went that bring a replica to a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum Brought {
    Done,
    /// Another write was asked for in its place.
    Anew,
    Failed,
}

/// A tail of so few bytes is always brought as one: an image takes two flushes more.
const TAIL_BYTES_SURE: usize = 64 << 10;

/// Most bytes of a tail: it is written within the deadline of one operation.
const TAIL_BYTES_MAX: u64 = 4 << 20;

impl Node {
    /// The write that brings a replica to `target` was answered. Records that found no room in the journal are written as an image.
    pub(in crate::protocol) fn on_brought(
        &mut self,
        replica: Replica,
        error: Option<&ReplicaError>,
        target: &Database,
        purpose: Purpose,
    ) -> Brought {
        match error {
            None => return Brought::Done,
            Some(error) if error.kind != ReplicaErrorKind::Full => return Brought::Failed,
            Some(_) => {}
        }
        let view = self.replica_mut(replica);
        if !view.image_instead {
            view.image_instead = true;
            let database = target.clone();
            self.ask(replica, ReplicaOp::WriteImage { database }, purpose);
            return Brought::Anew;
        }
        if view.writes_in_flight > 0 {
            return Brought::Done;
        }
        // The image itself.
        view.image_instead = false;
        Brought::Failed
    }

    /// Makes this node's own area of a replica hold `target`, which follows `base` by `records` (the last one opens the
    /// configuration). That is one operation, answered with `purpose`.
    pub(in crate::protocol) fn bring(
        &mut self,
        replica: Replica,
        target: &Database,
        open: &Arc<Record>,
        purpose: &Purpose,
    ) {
        let own = self.replica(replica).own;
        if own == Some(target.position()) {
            // Done before, by an attempt that was cut short; prove again that the replica can be written.
            self.ask(replica, ReplicaOp::Survey, purpose.clone());
            return;
        }
        let tail = own.and_then(|own| self.history.between(own, open.prev));
        let op = match tail {
            Some(tail) if tail.is_empty() => ReplicaOp::Append {
                record: Arc::clone(open),
                then_survey: false,
            },
            Some(mut tail) if is_cheap(&tail, target) => {
                tail.push(Arc::clone(open));
                ReplicaOp::AppendTail { records: tail }
            }
            _ => ReplicaOp::WriteImage {
                database: target.clone(),
            },
        };
        self.ask(replica, op, purpose.clone());
    }

    /// Brings a device that is to come back in solo mode, or the owner's local copy, nearer to what is committed, while the
    /// cluster goes on: by part of the records that it lacks, or by an image.
    pub(in crate::protocol) fn bring_nearer(&mut self, replica: Replica) {
        let own = self.replica(replica).own;
        let committed = self.committed.position();
        let tail = own.and_then(|own| self.history.between(own, committed));
        let op = match tail {
            Some(mut tail) if !tail.is_empty() && is_cheap(&tail, &self.committed) => {
                tail.truncate(records_in_one_tail(&tail));
                ReplicaOp::AppendTail { records: tail }
            }
            _ => ReplicaOp::WriteImage {
                database: self.committed.clone(),
            },
        };
        self.ask(replica, op, Purpose::Prewrite);
    }
}

/// Whether these records cost less to write than an image of this state.
fn is_cheap(tail: &[Arc<Record>], target: &Database) -> bool {
    let bytes: usize = tail.iter().map(|record| record.bytes_max()).sum();
    bytes <= TAIL_BYTES_SURE || bytes as u64 <= target.image_len_bytes().min(TAIL_BYTES_MAX)
}
