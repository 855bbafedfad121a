//! Which rounds of the local copy are known to be committed. A journal does not say it of its last record: that was prepared,
//! and then acked or not. While a node serves it learns it at once; for the time after a restart it is marked in the
//! heartbeat block of the local copy, which has no other use there, at most once in a heartbeat interval.
//!
//! Only where exactly half of the nodes is a case of its own (`quorum.rs`): everywhere else a successor is decided before
//! anybody serves again, and settles it. Owns `settled`.

use super::prepared::affects;
use crate::configuration::votes;
use crate::database::{Database, Key, Record};
use crate::ids::{Replica, Stamp};
use crate::protocol::Node;
use crate::protocol::copies::history::is_same;
use crate::protocol::replicas::Purpose;
use crate::protocol::voting::lower_bound::Witness;
use crate::replica::{Heartbeat, ReplicaOp};
use alloc::sync::Arc;

#[derive(Debug, Default)]
pub(in crate::protocol) struct Settled {
    /// Everything up to here is committed.
    up_to: Stamp,
    /// What the local copy says of it.
    marked: Stamp,
    marking: bool,
    /// The last round of the copy as it was read, and what that was made on.
    last: Option<(Arc<Record>, Database)>,
}

/// What of the newest state may or may not have been acked.
#[derive(Debug)]
pub(in crate::protocol) enum Doubt<'a> {
    Nothing,
    /// The last round; the state before it was committed.
    Round {
        record: &'a Record,
        before: &'a Database,
    },
    /// Which round it was is not known any more.
    Everything,
}

impl Doubt<'_> {
    /// Whether the answer to a query of this key (of all keys, if `None`) does not depend on it.
    pub fn spares(&self, key: Option<&Key>) -> bool {
        match self {
            Self::Nothing => true,
            Self::Round { record, .. } => !affects(record, key),
            Self::Everything => false,
        }
    }
}

impl Node {
    /// Whoever serves knows what was committed.
    pub(in crate::protocol) fn settle_committed(&mut self) {
        if self.serving.is_some() {
            let committed = self.committed.position().stamp;
            self.settled.up_to = self.settled.up_to.max(committed);
            self.bound.note(committed, Witness::Memory);
        }
    }

    /// At every heartbeat: the local copy learns what this node knows.
    pub(in crate::protocol) fn mark_settled(&mut self) {
        self.settle_committed();
        let (up_to, marked) = (self.settled.up_to, self.settled.marked);
        let is_due = up_to > marked && !self.settled.marking && votes::has_halves(&self.known);
        if !is_due || !self.ready() {
            return;
        }
        self.settled.marking = true;
        let heartbeat = self.local_heartbeat();
        let op = ReplicaOp::WriteHeartbeat { heartbeat };
        self.ask(Replica::Local, op, Purpose::Mark(up_to));
    }

    /// What the local copy says of this run: no sign of life, but what was committed, and which state folder it is.
    pub(in crate::protocol) fn local_heartbeat(&self) -> Heartbeat {
        let up_to = self.settled.up_to;
        Heartbeat {
            incarnation: self.settings.incarnation,
            sequence: up_to.generation.0,
            stamp: up_to,
            serving: self.serving.is_some(),
            hears: self.heard_nodes(),
            folder: self.folder.id,
            host: self.settings.host.clone(),
            moved_from: self.noted_move(),
            ..Heartbeat::default()
        }
    }

    pub(in crate::protocol) fn on_marked(&mut self, up_to: Stamp, done: bool) {
        self.settled.marking = false;
        if done {
            self.settled.marked = up_to;
        }
    }

    /// The local copy was read: what it says of its rounds.
    pub(in crate::protocol) fn note_last_round(&mut self, last_round: Option<(Arc<Record>, Database)>) {
        let me = self.me();
        let marked = (self.replica(Replica::Local).survey.areas.iter())
            .find(|area| area.node == me)
            .and_then(|area| area.heartbeat.as_ref())
            .map_or(Stamp::default(), |heartbeat| heartbeat.stamp);
        self.settled.marked = marked;
        self.settled.up_to = self.settled.up_to.max(marked);
        self.settled.last = last_round;
    }

    /// The local copy was read, and an earlier run has told of all that it holds: nothing of it is in doubt.
    pub(in crate::protocol) fn settle_told(&mut self) {
        let head = self.head.position();
        if is_same(head, self.told_position()) {
            self.settled.up_to = self.settled.up_to.max(head.stamp);
        }
    }

    /// The state before the newest rounds of this copy, if these are not known to be committed: a successor may have been
    /// decided without them.
    pub(in crate::protocol) fn before_what_is_in_doubt(&self) -> Option<&Database> {
        let generation = self.head.position().stamp.generation;
        if self.settled.up_to.generation >= generation {
            return None;
        }
        if self.committed.position().stamp.generation < generation {
            return Some(&self.committed).filter(|committed| self.history.has(committed.position()));
        }
        let (record, before) = self.settled.last.as_ref()?;
        let is_last = record.next.stamp.generation == generation && self.history.has(record.next);
        Some(before).filter(|before| is_last && self.history.has(before.position()))
    }

    /// What of `head` may or may not have been acked.
    pub(in crate::protocol) fn doubt(&self) -> Doubt<'_> {
        let (head, base) = (self.head.position(), self.known.base);
        // Its end has gone bad, and looks like a record that was never written whole.
        if head.stamp < self.settled.up_to || self.bound.allows(&self.known, head.stamp).is_err() {
            return Doubt::Everything;
        }
        // What a configuration starts from holds all that was acked before; but until it opens, also a round that perhaps only
        // its proposer had prepared, and that a successor may leave out. All of it is settled if this node knew so before.
        let is_base = head.stamp.epoch == self.known.epoch
            && head.stamp.generation == base.stamp.generation
            && head.lineage == base.lineage
            && self.settled.up_to.generation >= base.stamp.generation;
        if is_base || head.stamp == self.settled.up_to {
            return Doubt::Nothing;
        }
        match &self.settled.last {
            Some((record, before)) if record.next == head => Doubt::Round { record, before },
            _ => Doubt::Everything,
        }
    }
}
