//! What other nodes' control blocks on the devices say: their heartbeats, the configurations they know, and whether one of
//! them claims the successor of this node's.
//!
//! Called by `replicas.rs` with every survey; owns `damage_noted`.

use crate::configuration::BallotBlock;
use crate::ids::{DeviceRole, Epoch, NodeId, Replica};
use crate::protocol::Node;
use crate::protocol::voting::lower_bound::Witness;
use crate::replica::{AreaSurvey, Heartbeat, Survey};
use crate::time::Time;
use alloc::format;
use alloc::string::String;

impl Node {
    /// Control blocks read from a region: other nodes' heartbeats, ballots and configurations; without `is_whole`, ballots alone.
    pub(in crate::protocol) fn on_survey(&mut self, replica: Replica, survey: &Survey, is_whole: bool) {
        let newest = (survey.areas.iter())
            .filter_map(|area| area.configuration.as_ref())
            .max_by_key(|configuration| configuration.epoch)
            .filter(|configuration| configuration.epoch > self.known.epoch && replica != Replica::Local)
            .cloned();
        // Before anything that is found in this node's area is taken for another run of this server.
        if let Some(configuration) = newest.clone().filter(|newest| self.takes_number_away(newest)) {
            self.learn(configuration);
            self.leave_area_alone();
        }
        let own = survey.areas.iter().find(|area| area.node == self.settings.me);
        let now = self.now;
        let view = self.replica_mut(replica);
        view.own_ballot = own.and_then(|area| area.ballot.clone());
        if let Some(own) = own {
            view.voted.note(own, now);
        }
        if let (Replica::Device(role), Some(own)) = (replica, own) {
            self.note_earlier_runs(role, survey.region, own);
        }
        for area in &survey.areas {
            if let Some(configuration) = &area.configuration
                && replica != Replica::Local
                && area.node != self.me()
            {
                self.note_written(area.node, configuration);
            }
            if let Some(ballot) = &area.ballot {
                self.round_max = self.round_max.max(ballot.promised.round);
            }
            if area.node == self.me()
                && let Replica::Device(role) = replica
                && let Some(begun) = self.replica(replica).looked_at
                && self.replica(replica).usable()
                && is_whole
            {
                // Also one without a heartbeat: it stands still.
                self.look_at_own_area(role, area, begun);
            }
            if let Some(heartbeat) = &area.heartbeat {
                let by = match replica {
                    Replica::Local => Witness::LocalCopy,
                    Replica::Device(role) => Witness::Heartbeat(area.node, role),
                };
                self.bound.note(heartbeat.stamp, by);
            }
            // A server that had the number before is no sign of life of the one that has it.
            let is_of_node = |found: &Heartbeat| {
                let decided = self.known.servers.get(area.node);
                !decided.differs_from(found.host.server)
            };
            if let Some(heartbeat) = area.heartbeat.as_ref().filter(|found| is_of_node(found))
                && area.node != self.me()
                && let Replica::Device(role) = replica
            {
                let now = self.now;
                let peer = self.peers.get_mut(&area.node);
                if peer.is_some_and(|peer| peer.on_disk_heartbeat(role, heartbeat, now)) {
                    self.note_sharing(area.node, core::time::Duration::ZERO);
                    self.look = true;
                }
            }
        }
        self.replica_mut(replica).note_room(survey.image_bytes_max);
        if !is_of_a_new_region(survey) {
            self.replica_mut(replica).is_new = false;
        }
        if is_whole || self.replica(replica).survey.areas.is_empty() {
            self.replica_mut(replica).survey = survey.clone();
        }
        if let Some(configuration) = newest {
            self.learn(configuration);
        }
    }

    /// A voter of the newest configuration that has forgotten what it promised and what it held: somebody made it anew. It says
    /// nothing before it was left out and taken in again; else it would stand for the opposite of what it once voted for.
    pub(in crate::protocol) fn was_made_anew(&self, role: DeviceRole) -> bool {
        let counts = self.known.devices.contains(role) || self.known.base_writers.devices.contains(role);
        let view = self.replica(Replica::Device(role));
        let is_another = (self.known.regions.get(role))
            .is_some_and(|region| view.usable() && view.region != region && !view.is_forgiven);
        counts
            && !self.known.is_genesis()
            && (view.is_new
                || view.was_overwritten
                || is_another
                || view.proof.lacks()
                || view.own_area.lacks_durable)
    }

    /// The same, for people: what this node has not looked at since it learned of the configuration that counts the device may have
    /// become part of that meanwhile.
    pub(in crate::protocol) fn is_found_made_anew(&self, role: DeviceRole) -> bool {
        let view = self.replica(Replica::Device(role));
        let is_looked_at = view.looked_at.is_some_and(|at| at > self.known_since);
        self.was_made_anew(role) && (is_looked_at || !view.is_new)
    }

    /// An owner whose devices have all forgotten what they held, as far as they can be used. It holds all that was acknowledged, and
    /// answers; but no update more can be, for the devices do not vote, and alone it decides nothing.
    pub(in crate::protocol) fn is_owner_without_votes(&self) -> bool {
        let has_forgotten = |role: DeviceRole| self.is_found_made_anew(role);
        let is_gone = |role: DeviceRole| {
            let view = self.replica(Replica::Device(role));
            view.error().is_some() && self.now.since(view.since) >= self.settings.lease
        };
        let devices = self.known.devices;
        self.known.owner() == Some(self.me())
            && self.serving == Some(self.known.epoch)
            && devices.iter().any(has_forgotten)
            && devices.iter().all(|role| has_forgotten(role) || is_gone(role))
    }

    /// Another region was opened in place of the one before.
    pub(in crate::protocol) fn note_another_region(&mut self, replica: Replica) {
        if let Replica::Device(role) = replica {
            for peer in self.peers.values_mut() {
                peer.forget_disk(role);
            }
        }
    }

    /// While a configuration without it serves, nothing depends on what a device once knew: it can be taken in.
    pub(in crate::protocol) fn forgive_new_devices(&mut self) {
        for role in self.device_roles() {
            if self.is_open() && !self.known.devices.contains(role) {
                let view = self.replica_mut(Replica::Device(role));
                view.is_new = false;
                view.was_overwritten = false;
                view.own_area.forget_durable();
                view.voted = Default::default();
                view.is_forgiven = true;
            }
        }
    }

    /// For people: of a device that was.
    pub(in crate::protocol) fn made_anew_text_of(&self, role: DeviceRole) -> String {
        if self.replica(Replica::Device(role)).was_overwritten {
            return format!(
                "the {role} was cleared, or put back to an earlier state, while it was in use: it does not count before it was left out and \
                 taken in again"
            );
        }
        if self.lacks_durable_beat(role) {
            return format!(
                "the {role} was opened anew, and lacks what this run of node {} had written there: it is a copy of that disk, or was put back \
                 to an earlier state; it does not count before its name leads to the right disk, or it was left out and taken in again",
                self.me()
            );
        }
        if let Some(text) = self.lacking_text(role) {
            return text;
        }
        let region = self.replica(Replica::Device(role)).region;
        let meant = self.known.regions.get(role).filter(|meant| *meant != region);
        if let Some(meant) = meant {
            return format!(
                "the {role} was made anew, or is another disk than the one that epoch {} counts on (region {region}, not {meant}): it does \
                 not count before it was left out and taken in again by those that remember",
                self.known.epoch
            );
        }
        format!(
            "the {role} was made anew and has forgotten what it voted for: it does not count before it was left out and taken in \
             again by those that remember"
        )
    }

    /// The same of the local copy.
    pub(in crate::protocol) fn new_copy_text(&self) -> Option<String> {
        let is_new = self.blank && self.ready() && !self.known.is_genesis();
        is_new.then(|| {
            String::from(
                "the local copy is new and has forgotten what it voted for: this node has no vote before it is a member again",
            )
        })
    }

    /// A heartbeat was written to a device, and then its control blocks read: part of a solo owner's lease.
    pub(in crate::protocol) fn on_device_beat(&mut self, role: DeviceRole, begun: Time, survey: &Survey) {
        let claimed = self.claimed_epoch(role, survey);
        let took = self.now.since(begun);
        self.replica_mut(Replica::Device(role)).note_beat(took);
        let own = survey.areas.iter().find(|area| area.node == self.me());
        self.note_durable_beat(role, survey.region, own);
        if self.area_is_clean(role) {
            self.replica_mut(Replica::Device(role)).clean_beat = Some((begun, claimed));
        }
        if self.solo() && self.serving.is_some() && claimed >= self.known.epoch {
            self.on_claim(role);
        }
        self.note_damage(role, survey);
    }

    /// The highest epoch whose successor another node's ballot blocks mean to decide.
    ///
    /// A damaged block is most likely a claim that was never finished, and then means nothing: its writer has not read
    /// this node's area since. But it may also be a finished one gone bad, so it counts as a claim once.
    pub(in crate::protocol) fn claimed_epoch(&self, role: DeviceRole, survey: &Survey) -> Epoch {
        let others = || survey.areas.iter().filter(|area| area.node != self.settings.me);
        let claimed = others()
            .filter_map(|area| area.ballot.as_ref())
            .map(|ballot| ballot.instance)
            .max();
        let damaged = others().any(|area| area.damaged && !self.damage_noted.contains(&noted(role, area)));
        if damaged {
            self.known.epoch
        } else {
            claimed.unwrap_or_default()
        }
    }

    /// The damage that a survey shows has been counted as a claim.
    pub(in crate::protocol) fn note_damage(&mut self, role: DeviceRole, survey: &Survey) {
        for area in &survey.areas {
            if area.damaged && area.node != self.settings.me {
                self.damage_noted.insert(noted(role, area));
            } else {
                self.damage_noted.remove(&noted(role, area));
            }
        }
    }
}

/// Nobody has decided or voted on anything there. What a node that knows of no cluster promised before the first configuration
/// is no memory: that one needs all voters, and is accepted by all.
pub(super) fn is_of_a_new_region(survey: &Survey) -> bool {
    survey.areas.iter().all(|area| {
        let remembers = |block: &BallotBlock| block.instance > Epoch::default() || block.accepted.is_some();
        area.configuration.is_none() && !area.damaged && !area.ballot.as_ref().is_some_and(remembers)
    })
}

/// A claim check reads the ballot blocks only, a heartbeat all control blocks: each can be damaged by itself.
fn noted(role: DeviceRole, area: &AreaSurvey) -> (DeviceRole, NodeId, bool) {
    (
        role,
        area.node,
        area.heartbeat.is_some() || area.configuration.is_some(),
    )
}
