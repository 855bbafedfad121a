//! Reading a replica's content: the local copy when the node starts or after a failure, and what the devices hold.
//!
//! Called by `replicas.rs` when a replica has been opened.

use super::Purpose;
use crate::database::{Database, Record, RecordBody};
use crate::ids::{Position, Replica};
use crate::protocol::Node;
use crate::protocol::copies::history::History;
use crate::protocol::interface::DecisionKind;
use crate::replica::{Loaded, ReplicaAnswer, ReplicaError, ReplicaOp};
use alloc::string::ToString;
use alloc::sync::Arc;

impl Node {
    pub(in crate::protocol) fn on_loaded(
        &mut self,
        replica: Replica,
        result: Result<ReplicaAnswer, ReplicaError>,
    ) {
        let Ok(ReplicaAnswer::Loaded(loaded)) = result else {
            return;
        };
        if let Some(damage) = &loaded.damage {
            let text = alloc::format!("the {replica} is damaged: {damage}");
            self.record(DecisionKind::Damage, text);
        }
        self.note_own_position(replica, &loaded);
        self.replica_mut(replica).loaded = true;
        if replica != Replica::Local {
            self.keep_if_overridden(replica, &loaded);
        }
        if replica == Replica::Local {
            if self.serving.is_none() && !self.opened_as_owner() {
                self.take_local_copy(loaded);
            } else {
                self.recall_folder_of_run();
            }
            self.store_what_the_copy_missed();
            self.follow_who_serves();
        }
    }

    /// The newest configuration was learned while the local copy could not be written: it is stored before a vote on its
    /// successor takes the place of the vote for it.
    fn store_what_the_copy_missed(&mut self) {
        let stored = (self.replica(Replica::Local).survey.areas.iter())
            .filter(|area| area.node == self.settings.me)
            .filter_map(|area| area.configuration.as_ref())
            .map(|configuration| configuration.epoch)
            .max();
        if !self.blank && !self.known.is_genesis() && stored < Some(self.known.epoch) {
            self.store_configuration(Replica::Local, self.known.clone());
        }
    }

    /// A device may hold what was acked elsewhere before an operator overruled the votes: it is about to be written over
    /// by its owner, so a copy is kept.
    fn keep_if_overridden(&mut self, replica: Replica, loaded: &Loaded) {
        let Some((epoch, base)) = self.overridden else {
            return;
        };
        let stamp = loaded.position.stamp;
        let lost = stamp > base.stamp && stamp.epoch < epoch && !self.history.has(loaded.position);
        if lost && self.replica(Replica::Local).usable() {
            self.keep_aside(
                replay(loaded).head,
                &alloc::format!(" of the {replica}"),
                &alloc::format!("decided elsewhere before the override of epoch {epoch}"),
            );
        }
    }

    /// Damage in an area makes its tail unknown; the next write there is then a whole image.
    pub(in crate::protocol) fn note_own_position(&mut self, replica: Replica, loaded: &Loaded) {
        let me = self.me();
        let head = loaded
            .heads
            .iter()
            .find(|(node, _)| *node == me)
            .map(|(_, position)| *position);
        let view = self.replica_mut(replica);
        let known = loaded.damage.is_none() && !view.journal_full && view.writes_in_flight == 0;
        view.own = known.then(|| head.unwrap_or(Position::EMPTY));
    }

    /// The local copy as it was found at the start, or after a failure.
    fn take_local_copy(&mut self, loaded: Loaded) {
        let survey = self
            .replica(Replica::Local)
            .survey
            .areas
            .iter()
            .find(|area| area.node == self.me());
        let (configuration, ballot) = survey.map_or((None, None), |area| {
            (area.configuration.clone(), area.ballot.clone())
        });
        self.recall_folder();
        // Who has voted for the first configuration knows all that it ever promised, also if it died before it was told.
        let voted = ballot.as_ref().is_some_and(|ballot| ballot.accepted.is_some());
        let is_new = configuration.is_none() && !voted;
        self.ballot = ballot;
        self.round = None;
        self.prepared = None;
        self.rolled_back = None;
        self.opened = None;
        if let Some(configuration) = configuration
            && (configuration.epoch > self.known.epoch || self.differs(&configuration))
        {
            // Of two that were decided for one epoch this node goes by its own.
            self.known = configuration;
            self.note_nodes();
            self.note_override();
        }
        self.blank = is_new;
        self.judge_runs_elsewhere();
        self.judge_folder();
        self.store_folder();
        self.damaged = loaded.damage.clone();
        let Replayed {
            base,
            mut head,
            mut history,
            last_round,
        } = replay(&loaded);
        self.note_last_round(last_round);
        if self.damaged.is_none() {
            self.note_told_version(base, &history);
        }
        if let Some(damage) = &self.damaged {
            let op = ReplicaOp::KeepBranch {
                database: head,
                reason: alloc::format!("damaged: {damage}"),
            };
            self.ask(Replica::Local, op, Purpose::Unattended);
            head = Database::default();
            history = History::default();
        }
        self.head = head.clone();
        self.committed = head;
        self.history = history;
        self.settle_told();
        let text = alloc::format!(
            "started on the local copy at {}, knowing {}{}",
            self.head.position(),
            if self.known.is_genesis() {
                "no configuration".to_string()
            } else {
                self.known.to_string()
            },
            if self.blank && !self.is_moved_copy() {
                ": it is new"
            } else {
                ""
            },
        );
        self.record(DecisionKind::Start, text);
        // Says what this copy holds.
        self.compare_with_devices();
        // The others may have waited for this: they need not wait for the next heartbeat as well.
        self.next_beat = self.now;
    }
}

/// What was found on a replica.
#[derive(Debug)]
pub(in crate::protocol) struct Replayed {
    /// The version that the history begins with.
    pub base: Database,
    pub head: Database,
    /// What leads from the one to the other.
    pub history: History,
    /// The last round in it, and what that was made on.
    pub last_round: Option<(Arc<Record>, Database)>,
}

pub(in crate::protocol) fn replay(loaded: &Loaded) -> Replayed {
    let mut base = loaded.checkpoint.clone();
    let mut head = base.clone();
    let mut history = History::default();
    let mut last_round = None;
    for record in &loaded.records {
        match head.apply(record) {
            Ok(next) => {
                let before = core::mem::replace(&mut head, next);
                let record = Arc::new(record.clone());
                match record.body {
                    RecordBody::Updates { .. } => last_round = Some((Arc::clone(&record), before)),
                    RecordBody::Rollback => last_round = None,
                    RecordBody::Open | RecordBody::OpenAll => {}
                }
                history.push(record);
            }
            // The region has checked the chain; what does not apply ends it here.
            Err(_) => break,
        }
    }
    // What a history has no room for is part of the version that it begins with.
    for record in &loaded.records {
        match base.apply(record) {
            Ok(next) if history.begins().is_some_and(|begins| begins != base.position()) => base = next,
            Ok(_) | Err(_) => break,
        }
    }
    Replayed {
        base,
        head,
        history,
        last_round,
    }
}
