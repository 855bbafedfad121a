//! Telling the driver of every committed update, once and in order: for histories and for those who watch.
//!
//! Nothing is told before it is known to be committed, which is known to whoever serves; so what a restart finds at the end
//! of its journal, or a copy brings, is told when the configuration that decided on it is open here. Told is the way from
//! what was told last to what is committed now; where this node does not have it (a whole image came), that there is a gap.
//! Called at the end of every event; owns `told`.

use crate::database::{Database, Record};
use crate::ids::Position;
use crate::protocol::Node;
use crate::protocol::copies::history::History;
use crate::protocol::interface::{Action, Committed, DecisionKind};
use crate::protocol::message::Replaces;
use crate::protocol::voting::conclude::may_be_overruled;
use crate::protocol::voting::lower_bound::Witness;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// What the text begins with that says so: the simulator knows it by that.
pub const LOST: &str = "updates that this node acknowledged or told of are not in the database any more";

/// Up to where the driver was told.
#[derive(Debug, Default)]
pub(in crate::protocol) struct Told {
    position: Position,
    /// The version there. After a restart, until something is told: an earlier one, which the local copy of an owner that wrote on
    /// its devices is at; or a later one, if no journal reaches back so far. Whether that is committed is not known then.
    database: Option<Database>,
    /// What was told last is to the whole image that took its place, if one did.
    replaced: Option<Replaces>,
    /// What was told and is not in the database any more, for people.
    lost: Option<String>,
}

/// Whether two positions have the same content: a configuration that opens changes the epoch alone.
fn is_same(one: Position, other: Position) -> bool {
    one.lineage == other.lineage && one.stamp.generation == other.stamp.generation
}

impl Node {
    /// What the driver keeps of earlier runs reaches to `position`: telling goes on from there. Called once, before the
    /// first event.
    pub fn tell_from(&mut self, position: Position) {
        self.told = Told {
            position,
            ..Told::default()
        };
        self.bound.note(position.stamp, Witness::History);
    }

    /// What was found on a replica is this node's copy from now on: it leads from `base` by this history. The version that was
    /// told last may be on the way; or it comes later, and another copy leads on to it. Where all begins later, telling goes
    /// on from there, after a gap, once what is committed leads through it.
    pub(in crate::protocol) fn note_told_version(&mut self, base: Database, history: &History) {
        let told = self.told.position;
        if (self.told.database.as_ref()).is_some_and(|database| is_same(database.position(), told)) {
            return;
        }
        let mut database = base;
        for record in history.records() {
            if database.position().stamp.generation >= told.stamp.generation {
                break;
            }
            match database.apply(record) {
                Ok(next) => database = next,
                Err(_) => break,
            }
        }
        let position = database.position();
        if is_same(position, told) || position.stamp.generation != told.stamp.generation {
            self.told.database = Some(database);
        }
    }

    pub(in crate::protocol) fn tell_committed(&mut self) {
        let now = self.committed.position();
        if now == self.told.position || self.serving != Some(self.known.epoch) {
            return;
        }
        let before = self.told.database.replace(self.committed.clone());
        let told = core::mem::replace(&mut self.told.position, now);
        // Only a configuration was opened on what is known already.
        if is_same(told, now) {
            return;
        }
        let replaced = self.told.replaced.take();
        self.note_lost(told, now, replaced);
        let way = before.and_then(|before| self.way(before, told, now));
        let after = self.committed.clone();
        self.actions.push(Action::Committed(Committed { way, after }));
    }

    /// What was told is committed for good. If what is committed now does not lead through it, an operator has overruled the votes, or
    /// replicas were put back to an earlier state; the updates of an owner that was alone are then in its history only.
    fn note_lost(&mut self, told: Position, now: Position, replaced: Option<Replaces>) {
        let generation = told.stamp.generation;
        let round = if generation >= now.stamp.generation {
            Some(now)
        } else {
            self.history.round_of(generation)
        };
        let is_overruled = may_be_overruled(told.stamp.epoch, now.stamp.epoch);
        let is_lost = match (round, replaced) {
            (Some(round), _) => !is_same(round, told),
            (None, Some(Replaces::Branch)) => true,
            // Nobody's history tells; without an override it is no more than a long way.
            (None, Some(Replaces::Unknown)) => is_overruled,
            (None, Some(Replaces::Earlier) | None) => false,
        };
        if !is_lost {
            return;
        }
        let why = if is_overruled {
            "an operator overruled the votes"
        } else {
            "the devices or another node were put back to an earlier state"
        };
        let is_sure = round.is_some() || replaced == Some(Replaces::Branch);
        let doubt = if is_sure { "" } else { ", as far as can be told" };
        let text = format!(
            "{LOST}{doubt}: they led to {}, and the cluster goes on from {}; {why}",
            told.stamp, now.stamp
        );
        self.record(DecisionKind::Alarm, text.clone());
        self.told.lost = Some(text);
    }

    /// A whole image takes the place of what this copy held at `have`.
    pub(in crate::protocol) fn note_told_replaced(&mut self, have: Position, replaces: Replaces) {
        self.told.replaced = is_same(self.told.position, have).then_some(replaces);
    }

    /// Up to where the driver was told, in this run or an earlier one.
    pub(in crate::protocol) fn told_position(&self) -> Position {
        self.told.position
    }

    /// Updates that this node has told of, and that are lost, for people.
    pub(in crate::protocol) fn lost_text(&self) -> Option<String> {
        self.told.lost.clone()
    }

    /// The version that was told last, reached from `version`, and what led on from it; or, if `version` comes later, what led on
    /// from there, after a gap.
    fn way(
        &self,
        mut version: Database,
        told: Position,
        now: Position,
    ) -> Option<(Database, Vec<Arc<Record>>)> {
        let mut records = self.history.since(version.position(), now)?.into_iter();
        while version.position().stamp.generation < told.stamp.generation {
            let record = records.next()?;
            version = version.effects(&record).ok()?.1;
        }
        let begins = version.position();
        (is_same(begins, told) || begins.stamp.generation > told.stamp.generation)
            .then(|| (version, records.collect()))
    }
}
