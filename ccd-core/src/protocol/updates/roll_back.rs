//! A member cannot do its part of a round: every member returns to its shadow, and then the clients hear why. At the master; the
//! other members' side is `prepared.rs`.

use crate::client::Refusal;
use crate::database::{Database, Record};
use crate::ids::{Epoch, NodeId, NodeSet, Position, Replica, RequestId};
use crate::protocol::Node;
use crate::protocol::replicas::Purpose;
use crate::replica::{ReplicaError, ReplicaOp};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

#[derive(Debug)]
pub(super) struct Rollback {
    pub why: String,
    pub stored: bool,
    pub acked: NodeSet,
}

impl Node {
    /// A member could not do it: everybody returns to the shadow.
    pub(in crate::protocol) fn on_update_nack(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        position: Position,
        why: String,
    ) {
        if epoch != self.known.epoch || !self.is_open() {
            return;
        }
        let (others, now) = (self.other_members(), self.now);
        let Some(round) = self.round_at(position).filter(|round| round.rollback.is_none()) else {
            return;
        };
        let (undone, shadow) = (round.record.next, round.shadow.clone());
        let why = format!("node {from}: {why}");
        round.waits_since = now;
        round.rollback = Some(Rollback {
            why,
            stored: false,
            acked: NodeSet::EMPTY,
        });
        self.return_to_shadow(undone, shadow, Purpose::RolledBack { position });
        self.unfreeze(epoch, position, false, others);
    }

    /// This copy gives up the round that led to `undone`, and its journal says so.
    pub(super) fn return_to_shadow(&mut self, undone: Position, shadow: Database, purpose: Purpose) {
        self.note_undone(undone);
        let record = Arc::new(Record::rollback(undone, shadow.position()));
        self.history.pop();
        self.head = shadow;
        self.rolled_back = Some(undone);
        let op = ReplicaOp::Append {
            record,
            then_survey: false,
        };
        self.ask(Replica::Local, op, purpose);
    }

    pub(in crate::protocol) fn on_rollback_stored(
        &mut self,
        position: Position,
        error: Option<ReplicaError>,
    ) {
        if error.is_none()
            && let Some(rollback) = self.round_at(position).and_then(|round| round.rollback.as_mut())
        {
            rollback.stored = true;
        }
    }

    pub(in crate::protocol) fn on_unfreeze_ack(&mut self, from: NodeId, epoch: Epoch, position: Position) {
        if epoch == self.known.epoch
            && let Some(rollback) = self.round_at(position).and_then(|round| round.rollback.as_mut())
        {
            rollback.acked.insert(from);
        }
    }

    pub(super) fn finish_rollback_if_done(&mut self) {
        let others = self.other_members();
        let done = (self.round.as_ref().and_then(|round| round.rollback.as_ref()))
            .is_some_and(|rollback| rollback.stored && rollback.acked.is_superset(others));
        if done
            && self.is_open()
            && let Some(round) = self.round.take()
            && let Some(rollback) = round.rollback
        {
            for (id, _) in round.requests {
                self.finish_update(
                    id,
                    Err(Refusal::RolledBack {
                        why: rollback.why.clone(),
                    }),
                );
            }
        }
    }

    /// Why the round that this request was part of was being rolled back when the configuration ended.
    pub(in crate::protocol) fn rollback_under_way(&self, id: RequestId) -> Option<String> {
        let round = self
            .round
            .as_ref()
            .filter(|round| round.requests.iter().any(|(of, _)| *of == id))?;
        round.rollback.as_ref().map(|rollback| rollback.why.clone())
    }
}
