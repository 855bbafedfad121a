//! Writing this node's own area of a replica up to a state: by the records that it lacks, or as a whole image.

use super::Purpose;
use crate::database::{Database, Record};
use crate::ids::Replica;
use crate::protocol::Node;
use crate::replica::{ReplicaError, ReplicaErrorKind, ReplicaOp};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// How one of the writes went that bring a replica to a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) enum Brought {
    Done,
    /// Another write was asked for in its place.
    Anew,
    Failed,
}

/// A tail of so few records is always brought record by record.
const TAIL_RECORDS_SURE: usize = 8;

impl Node {
    /// One of the writes that bring a replica to `target` was answered. A record that found no room in the journal is followed by
    /// others that were asked for with it and find none either; an image behind them holds them all.
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
    /// configuration). Returns how many operations that takes, each answered with `purpose`.
    pub(in crate::protocol) fn bring(
        &mut self,
        replica: Replica,
        target: &Database,
        open: &Arc<Record>,
        purpose: &Purpose,
    ) -> usize {
        let own = self.replica(replica).own;
        if own == Some(target.position()) {
            // Done before, by an attempt that was cut short; prove again that the replica can be written.
            self.ask(replica, ReplicaOp::Survey, purpose.clone());
            return 1;
        }
        // A long tail is slower than an image, and may not fit the journal; each record takes a block at least.
        let blocks = |tail: &Vec<Arc<Record>>| tail.len() as u64 * 4096;
        let tail = own
            .and_then(|own| self.history.between(own, open.prev))
            .filter(|tail| tail.len() <= TAIL_RECORDS_SURE || blocks(tail) <= target.image_len_bytes());
        let mut operations = 0;
        match tail {
            Some(mut tail) => {
                tail.push(Arc::clone(open));
                for record in tail {
                    self.ask(
                        replica,
                        ReplicaOp::Append {
                            record,
                            then_survey: false,
                        },
                        purpose.clone(),
                    );
                    operations += 1;
                }
            }
            None => {
                self.ask(
                    replica,
                    ReplicaOp::WriteImage {
                        database: target.clone(),
                    },
                    purpose.clone(),
                );
                operations += 1;
            }
        }
        operations
    }
}
