//! Successors that the voters here did not decide: a node with copies of the devices decides by those, and tells of it over the network.
//!
//! ```text
//! another node tells of a later epoch, and this node serves
//!   this node and the devices that it reads outweigh all others, and none of them has a vote on a successor
//!     → not learned from a message; the device will show it, if it was decided by the device
//!   a lease later this still holds → the other one runs on copies of the devices: an alarm, and a problem
//! ```
//!
//! What an operator overrules needs no votes, and is learned.
//!
//! Neither side can tell by itself whose devices are the copies, and both serve. Two that serve apart and hear each other find it within two
//! leases, for whoever has lost an epoch stops within one. The one that has served for longer goes on: a copy was started later than what it
//! was copied from, and what has been acknowledged for longer is more.
//!
//! ```text
//! another node serves an earlier epoch, one that was decided twice, or one that the voters here did not decide
//!   it has done so for two leases, and has served for longer → this node stops
//!   an earlier one, and this node does not serve             → this node decides nothing
//! ```
//!
//! Owns `Node::elsewhere`, `Node::apart` and `Node::tenure`. Called with each heartbeat, and with each message that names a decided
//! configuration.

use crate::configuration::votes::{self, Voters};
use crate::configuration::{Configuration, Quorum};
use crate::ids::{DeviceRole, DeviceSet, Epoch, NodeId, NodeSet, Replica};
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::protocol::message::PeerState;
use crate::protocol::voting::conclude::may_be_overruled;
use crate::replica::Survey;
use crate::time::Time;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::time::Duration;

/// For so many leases a node may serve that has not heard of a later epoch: longer than any lease that it holds. A node that begins to
/// serve again within that time has served all the while.
const APART_LEASES: u32 = 2;

/// Since when this node serves, and when it stopped last.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::protocol) struct Tenure {
    since: Option<Time>,
    stopped_at: Option<Time>,
}

/// An epoch that another node tells of, and that contradicts what is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::protocol) struct Contradiction {
    epoch: Epoch,
    since: Time,
    last_at: Time,
    is_recorded: bool,
    /// The other node has served for longer.
    outlasts: bool,
}

impl Contradiction {
    /// A node tells of its service. After a lease of silence the time counts anew.
    fn note(all: &mut BTreeMap<NodeId, Self>, node: NodeId, epoch: Epoch, now: Time, lease: Duration) {
        let told = all.get(&node).filter(|told| told.is_fresh(now, lease));
        let told = Self {
            epoch,
            since: told.map_or(now, |told| told.since),
            last_at: now,
            is_recorded: told.is_some_and(|told| told.is_recorded),
            outlasts: false,
        };
        all.insert(node, told);
    }

    fn is_fresh(&self, now: Time, lease: Duration) -> bool {
        now.since(self.last_at) <= lease
    }
}

/// Somebody voted on the successor of `known`, or on a later one, or has written one.
fn shows_votes(known: &Configuration, survey: &Survey) -> bool {
    survey.areas.iter().any(|area| {
        let voted = area.ballot.as_ref().is_some_and(|ballot| {
            ballot.instance > known.epoch || ballot.instance == known.epoch && ballot.accepted.is_some()
        });
        let wrote = (area.configuration.as_ref()).is_some_and(|written| written.epoch > known.epoch);
        voted || wrote
    })
}

impl Node {
    /// A message names a configuration that was decided. Returns whether this node goes by it.
    pub(in crate::protocol) fn hear_of(&mut self, from: NodeId, configuration: Configuration) -> bool {
        if self.note_epoch(from, configuration.epoch) {
            return false;
        }
        self.learn(configuration);
        true
    }

    /// Takes note of the epoch that another node tells of. Returns whether the voters of the configuration that is served here cannot have
    /// decided it.
    pub(in crate::protocol) fn note_epoch(&mut self, from: NodeId, epoch: Epoch) -> bool {
        if epoch <= self.known.epoch || !self.knows_all_votes(epoch) {
            self.elsewhere.remove(&from);
            return false;
        }
        Contradiction::note(&mut self.elsewhere, from, epoch, self.now, self.settings.lease);
        if let Some(text) = self.elsewhere_text(from)
            && let Some(told) = self.elsewhere.get_mut(&from)
            && !told.is_recorded
        {
            told.is_recorded = true;
            self.record(DecisionKind::Alarm, text);
        }
        true
    }

    /// This node serves, and holds so many of the votes itself or by devices that it reads that nobody has decided that epoch.
    fn knows_all_votes(&self, epoch: Epoch) -> bool {
        let known = &self.known;
        let serves = self.serving == Some(known.epoch) && !self.shut_out();
        let devices = self.devices_without_votes();
        // With quorum off anybody may have decided.
        let needs_votes = known.quorum == Quorum::Required && !may_be_overruled(known.epoch, epoch);
        let has_voted = !self.may_vote() || self.accepted_in(known.epoch).is_some();
        let own = if has_voted {
            NodeSet::EMPTY
        } else {
            NodeSet::of(self.me())
        };
        serves && needs_votes && !devices.is_empty() && votes::hold(known, Voters::new(own, devices))
    }

    /// The devices of the configuration that this node reads, and on which nobody has voted on a successor.
    fn devices_without_votes(&self) -> DeviceSet {
        let usable = self.usable_devices();
        let shows_none = |role: &DeviceRole| {
            let view = self.replica(Replica::Device(*role));
            let is_recent = (view.looked_at).is_some_and(|at| self.now.since(at) <= self.settings.lease);
            usable.contains(*role) && is_recent && !shows_votes(&self.known, &view.survey)
        };
        self.known.devices.iter().filter(shows_none).collect()
    }

    /// Why that node is taken to run on copies of the devices, for people. Not before a lease has gone by: a decision is on the devices by then.
    pub(in crate::protocol) fn elsewhere_text(&self, node: NodeId) -> Option<String> {
        let told = self.elsewhere.get(&node)?;
        let (now, lease) = (self.now, self.settings.lease);
        let is_early = now.since(told.since) < lease;
        let gives_way =
            (self.apart.get(&node)).is_some_and(|told| told.outlasts && told.is_fresh(now, lease));
        if is_early || gives_way || !told.is_fresh(now, lease) || told.epoch <= self.known.epoch {
            return None;
        }
        let devices = self.known.devices.iter().map(|role| role.to_string());
        let devices: Vec<String> = devices.collect();
        Some(format!(
            "node {node} runs, or ran, on copies of the devices: it tells of epoch {}, on which the {} here has no vote. Epoch {} goes on, and \
             takes nothing from there; with the right devices, and its state folder moved away, it joins again",
            told.epoch,
            devices.join(" or the "),
            self.known.epoch
        ))
    }

    /// For how long this node has served, a reconfiguration now and then not counted; zero while it does not.
    pub(in crate::protocol) fn served_for(&self) -> Duration {
        let since = self.tenure.since.filter(|_| self.serving.is_some());
        since.map_or(Duration::ZERO, |since| self.now.since(since))
    }

    pub(in crate::protocol) fn begin_tenure(&mut self) {
        let longest = self.settings.lease.saturating_mul(APART_LEASES);
        let (now, tenure) = (self.now, &mut self.tenure);
        let goes_on = (tenure.stopped_at.take()).is_some_and(|stopped_at| now.since(stopped_at) <= longest);
        if !goes_on {
            tenure.since = Some(now);
        }
    }

    pub(in crate::protocol) fn end_tenure(&mut self) {
        self.tenure.stopped_at = Some(self.now);
    }

    /// Members of one configuration have served for as long as the first of them.
    fn serve_together(&mut self, node: NodeId, state: &PeerState) {
        let are_together = state.serving
            && self.serving == Some(state.epoch)
            && self.known.members.contains(node)
            && !self.is_at_odds_with(node);
        let theirs = Duration::from_millis(state.served_ms);
        if are_together && theirs > self.served_for() {
            self.tenure.since = Some(self.now - theirs);
        }
    }

    /// Takes note of a node that serves for itself, as `state` says: nobody can serve an earlier epoch for long, nor one beside this one.
    pub(in crate::protocol) fn note_serving(&mut self, node: NodeId, state: &PeerState) {
        self.serve_together(node, state);
        let (known, epoch) = (&self.known, state.epoch);
        let is_apart = match epoch.cmp(&known.epoch) {
            Ordering::Less => !may_be_overruled(epoch, known.epoch),
            Ordering::Equal => self.serving.is_some() && self.is_at_odds_with(node),
            Ordering::Greater => self.elsewhere.contains_key(&node),
        };
        let by_votes = known.quorum == Quorum::Required && !known.devices.is_empty();
        if !(state.serving && is_apart && by_votes) {
            self.apart.remove(&node);
            return;
        }
        let (theirs, ours) = (Duration::from_millis(state.served_ms), self.served_for());
        let lease = self.settings.lease;
        // Two that went apart at once have served for as long. Each hears what the other has served a little later: whoever loses
        // the tie needs so much more that not both go on.
        let outlasts = if (epoch, node) < (known.epoch, self.me()) {
            ours <= theirs.saturating_add(lease.saturating_mul(APART_LEASES))
        } else {
            theirs > ours.saturating_add(lease)
        };
        Contradiction::note(&mut self.apart, node, epoch, self.now, self.settings.lease);
        if let Some(told) = self.apart.get_mut(&node) {
            told.outlasts = outlasts;
        }
        if let Some(text) = self.contradicted_text().filter(|_| self.serving.is_some()) {
            self.record(DecisionKind::Alarm, text.clone());
            self.stop_serving(&text);
        }
    }

    /// Why this node serves nothing, if another one serves apart from it.
    pub(in crate::protocol) fn contradicted_text(&self) -> Option<String> {
        let (now, lease) = (self.now, self.settings.lease);
        let gives_way = |told: &Contradiction| {
            // One that serves may have heard of the end of that epoch before the other one.
            let lasts = told.last_at.since(told.since) > lease.saturating_mul(APART_LEASES);
            let is_over = if self.serving.is_some() {
                lasts && told.outlasts
            } else {
                told.epoch < self.known.epoch
            };
            is_over && told.is_fresh(now, lease)
        };
        let (node, told) = self.apart.iter().find(|(_, told)| gives_way(told))?;
        let why = if told.epoch < self.known.epoch {
            format!(
                "and epoch {} was decided here by devices that it does not see",
                self.known.epoch
            )
        } else {
            String::from("by devices that this node does not see, and has served for longer")
        };
        Some(format!(
            "node {node} serves epoch {}, {why}: this node has, or had, copies of the devices, or that one has. This node serves nothing while \
             that one does; with the right devices, and its state folder moved away, it takes what that one holds",
            told.epoch
        ))
    }

    /// Nothing that this node tells is taken in here.
    pub(in crate::protocol) fn tells_of_elsewhere(&self, node: NodeId) -> bool {
        (self.elsewhere.get(&node)).is_some_and(|told| told.epoch > self.known.epoch && self.is_open())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::{Ballot, BallotBlock};
    use crate::ids::Incarnation;
    use crate::replica::AreaSurvey;

    #[test]
    fn a_device_that_a_successor_was_decided_by_shows_a_vote_or_the_successor() {
        let [a, b] = [0, 1].map(|number| NodeId::new(number).unwrap());
        let epoch = |number| Configuration {
            epoch: Epoch(number),
            ..Configuration::genesis(NodeSet::of(a).with(b), DeviceSet::EMPTY)
        };
        let ballot = |instance, accepted: Option<u64>| {
            let promised = Ballot {
                round: 1,
                node: b,
                incarnation: Incarnation(7),
            };
            Some(BallotBlock {
                instance: Epoch(instance),
                promised,
                accepted: accepted.map(|number| (promised, epoch(number))),
            })
        };
        #[rustfmt::skip]
        let table = [
            ("nothing was written",              None,                None,           false),
            ("the vote on the epoch that is",    ballot(4, Some(5)),  Some(epoch(5)), false),
            ("a promise for the successor",      ballot(5, None),     Some(epoch(5)), false),
            ("a vote on the successor",          ballot(5, Some(6)),  Some(epoch(5)), true),
            ("a promise for the one after",      ballot(6, None),     Some(epoch(5)), true),
            ("the successor",                    None,                Some(epoch(6)), true),
        ];
        for (what, ballot, configuration, expected) in table {
            let area = AreaSurvey {
                node: b,
                heartbeat: None,
                heartbeat_before: None,
                ballot,
                configuration,
                damaged: false,
            };
            let survey = Survey {
                areas: alloc::vec![area],
                ..Survey::default()
            };
            assert_eq!(shows_votes(&epoch(5), &survey), expected, "{what}");
        }
    }
}
