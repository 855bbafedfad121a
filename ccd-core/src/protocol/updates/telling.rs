//! Telling the driver of every committed update, once and in order: for histories and for those who watch.
//!
//! Nothing is told before it is known to be committed, which is known to whoever serves; so what a restart finds at the end
//! of its journal, or a copy brings, is told when the configuration that decided on it is open here. Told is the way from
//! what was told last to what is committed now; where this node does not have it (a whole image came), that there is a gap.
//! Called at the end of every event; owns `told`.

use crate::database::{Database, Record};
use crate::ids::{Generation, Position};
use crate::protocol::Node;
use crate::protocol::copies::history::{History, is_same};
use crate::protocol::interface::{Action, Committed, DecisionKind, Loss};
use crate::protocol::message::Replaces;
use crate::protocol::voting::conclude::may_be_overruled;
use crate::protocol::voting::lower_bound::Witness;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Up to where the driver was told.
#[derive(Debug, Default)]
pub(in crate::protocol) struct Told {
    position: Position,
    /// The version there. After a restart, until something is told: an earlier one, which the local copy of an owner that wrote on
    /// its devices is at; or a later one, if no journal reaches back so far. Whether that is committed is not known then.
    database: Option<Database>,
    /// A whole image took its place, and it was said that it is lost.
    lost: bool,
}

/// The generations among which lost updates are found, and the command that shows those. `kept`: the last one that is certainly not lost.
/// What the cluster made of the same generations since stands in the same history.
fn where_to_look(kept: Option<Generation>, told: Generation) -> (String, String) {
    const LAST_MAX: u64 = 1000;
    let before = told.next();
    let first = kept.map(Generation::next).filter(|first| *first <= told);
    let count = first.map_or(LAST_MAX, |first| {
        before.0.saturating_sub(first.0).saturating_mul(2)
    });
    let which = match first {
        Some(first) if first == told => format!("generation {told}"),
        Some(first) => format!("generations {first} to {told}"),
        None => format!("generations up to {told}"),
    };
    let last = count.min(LAST_MAX);
    (
        which,
        format!("ccdadm history --rows --before {before} --last {last}"),
    )
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
        if !core::mem::take(&mut self.told.lost) {
            let round = self.history.round_of(told.stamp.generation);
            // The cluster went through it as well, so what is lost came later.
            let kept = (before.as_ref().map(Database::position))
                .filter(|before| before.stamp.generation < told.stamp.generation)
                .filter(|before| self.history.went_through(*before));
            self.note_lost(told, now, round, kept, None);
        }
        let way = before.and_then(|before| self.way(before, told, now));
        let after = self.committed.clone();
        self.actions.push(Action::Committed(Committed { way, after }));
    }

    /// What was told is committed for good. If what is committed now does not lead through it, an operator has overruled the votes, or
    /// replicas were put back to an earlier state; the updates of an owner that was alone are then in its history only. `round` is what the
    /// way to `now` has of that generation, and `kept` what is certainly not lost, if they are known; `replaced` is what `told` is to a
    /// whole image that took its place.
    fn note_lost(
        &mut self,
        told: Position,
        now: Position,
        round: Option<Position>,
        kept: Option<Position>,
        replaced: Option<Replaces>,
    ) -> bool {
        let generation = told.stamp.generation;
        let round = if generation >= now.stamp.generation {
            Some(now)
        } else {
            round
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
            return false;
        }
        let why = if is_overruled {
            "an operator overruled the votes"
        } else {
            "the devices or another node were put back to an earlier state"
        };
        let is_sure = round.is_some() || replaced == Some(Replaces::Branch);
        let doubt = if is_sure { "" } else { ", as far as can be told" };
        let (which, next) = where_to_look(kept.map(|kept| kept.stamp.generation), generation);
        let text = format!(
            "updates that this node acknowledged or told of are not in the database any more{doubt}: they led to {}, and the cluster goes \
             on from {}; {why}; see {which} in the history of this node",
            told.stamp, now.stamp
        );
        self.record(DecisionKind::UpdatesLost, text.clone());
        self.actions.push(Action::KeepLoss(Loss { told, text, next }));
        true
    }

    /// A whole image takes the place of what this copy held at `have`. That it is lost is said now: after a crash nothing here tells it.
    pub(in crate::protocol) fn note_told_replaced(
        &mut self,
        have: Position,
        image: Position,
        replaces: Replaces,
    ) {
        let told = self.told.position;
        if replaces != Replaces::Earlier && is_same(told, have) {
            // The history here leads to what is lost.
            self.told.lost = self.note_lost(told, image, None, None, Some(replaces));
        }
    }

    /// Up to where the driver was told, in this run or an earlier one.
    pub(in crate::protocol) fn told_position(&self) -> Position {
        self.told.position
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_names_the_generations_and_the_command_that_shows_them() {
        let table = [
            (Some(4), 9, "generations 5 to 9", "--before 10 --last 10"),
            (Some(8), 9, "generation 9", "--before 10 --last 2"),
            (None, 9, "generations up to 9", "--before 10 --last 1000"),
            (
                Some(0),
                5000,
                "generations 1 to 5000",
                "--before 5001 --last 1000",
            ),
        ];
        for (kept, told, which, range) in table {
            let found = where_to_look(kept.map(Generation), Generation(told));
            let next = format!("ccdadm history --rows {range}");
            assert_eq!(found, (String::from(which), next), "{kept:?} {told}");
        }
    }
}
