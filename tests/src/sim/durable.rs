//! Which states are durable on which replicas, as the media hold them: what nodes tell and acknowledge must be on every replica
//! that its configuration writes, at that moment, and not only as long as no fault shows that it was not.
//!
//! Fed with every write of state that lands, and with every replica that is read.

use super::ledger::{Ledger, Place};
use super::unsound::Unsound;
use super::voters::Voter;
use super::world::World;
use ccd_core::database::RecordBody;
use ccd_core::ids::{Position, Stamp};
use ccd_core::replica::ReplicaOp;
use std::collections::{BTreeMap, HashSet};

/// Where a write of state leads once it has landed. A rollback leads to nothing that was not there before.
pub(super) fn leads_to(op: &ReplicaOp) -> Option<Position> {
    match op {
        ReplicaOp::Append { record, .. } if record.body == RecordBody::Rollback => None,
        ReplicaOp::Append { record, .. } => Some(record.next),
        ReplicaOp::AppendTail { records } => records.last().map(|record| record.next),
        ReplicaOp::WriteImage { database } | ReplicaOp::AdoptImage { database } => Some(database.position()),
        _ => None,
    }
}

/// What each replica has held durably at some time.
#[derive(Debug, Default)]
pub struct Durable {
    held: BTreeMap<Voter, HashSet<Place>>,
}

impl Durable {
    /// Whether this replica holds, or has held, this state or one that goes on from it.
    fn holds(&self, ledger: &Ledger, replica: Voter, place: Place) -> bool {
        self.held.get(&replica).is_some_and(|held| {
            held.contains(&place) || held.iter().any(|newer| ledger.is_ancestor(place, *newer))
        })
    }
}

impl World {
    /// A replica holds this state durably.
    pub(super) fn note_durable(&mut self, replica: Voter, position: Position) {
        if let Some(place) = self.ledger.find(position) {
            self.durable.held.entry(replica).or_default().insert(place);
        }
    }

    /// What `who` says of this position is only said of what is committed: every replica that the configuration of its epoch
    /// writes holds it. So whoever is needed to decide a successor has it, and no successor leaves it out. What opens an
    /// epoch changes nothing: the content may have been committed in an epoch before.
    pub(super) fn invariant_committed_before_it_is_said(
        &self,
        position: Position,
        who: &str,
    ) -> Result<(), Unsound> {
        if self.damaged || self.ledger.is_overruled() {
            return Ok(());
        }
        let Some(place) = self.ledger.find(position) else {
            return Ok(());
        };
        let mut lacking = String::new();
        for version in self.ledger.with_this_content(place) {
            let position = self.ledger.position(version);
            let Some(configuration) = self.ledger.configuration(position.stamp.epoch) else {
                continue;
            };
            let writers = configuration.writers();
            let nodes = writers.nodes.iter().map(Voter::Node);
            let without: Vec<Voter> = (nodes.chain(writers.devices.iter().map(Voter::Device)))
                .filter(|replica| !self.durable.holds(&self.ledger, *replica, version))
                .collect();
            if without.is_empty() {
                return Ok(());
            }
            lacking = format!("{lacking}; {position:?} of {configuration} is not durable on {without:?}");
        }
        Err(Unsound::new(
            "invariant_committed_before_it_is_said",
            format!("{who} names {position:?}{lacking}"),
        ))
    }

    /// The same of a stamp alone, which may be that of several versions.
    pub(super) fn invariant_refusals_tell_of_what_was_committed(&self, newest: Stamp) -> Result<(), Unsound> {
        let said = |position| self.invariant_committed_before_it_is_said(position, "a refusal");
        let mut results = self.ledger.with_stamp(newest).map(said).peekable();
        let first = results.peek().cloned();
        if results.any(|result| result.is_ok()) {
            return Ok(());
        }
        first.unwrap_or(Ok(()))
    }
}
