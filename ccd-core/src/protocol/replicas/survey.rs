//! What other nodes' control blocks on the devices say: their heartbeats, the configurations they know, and whether one of
//! them claims the successor of this node's.
//!
//! Called by `replicas.rs` with every survey; owns `damage_noted`.

use crate::ids::{DeviceRole, Epoch, NodeId, Replica};
use crate::protocol::Node;
use crate::replica::{AreaSurvey, Survey};
use crate::time::Time;

impl Node {
    /// Control blocks read from a region: other nodes' heartbeats, ballots and configurations.
    pub(in crate::protocol) fn on_survey(&mut self, replica: Replica, survey: &Survey) {
        for area in &survey.areas {
            if let Some(ballot) = &area.ballot {
                self.round_max = self.round_max.max(ballot.promised.round);
            }
            if let Some(heartbeat) = &area.heartbeat
                && area.node != self.me()
                && let Replica::Device(role) = replica
            {
                let now = self.now;
                if let Some(peer) = self.peers.get_mut(&area.node) {
                    peer.on_disk_heartbeat(role, heartbeat, now);
                }
            }
        }
        let newest = (survey.areas.iter())
            .filter_map(|area| area.configuration.as_ref())
            .max_by_key(|configuration| configuration.epoch)
            .filter(|configuration| configuration.epoch > self.known.epoch)
            .cloned();
        let full = survey
            .areas
            .iter()
            .any(|area| area.configuration.is_some() || area.heartbeat.is_some());
        if full || self.replica(replica).survey.areas.is_empty() {
            self.replica_mut(replica).survey = survey.clone();
        }
        if let Some(configuration) = newest
            && replica != Replica::Local
        {
            self.learn(configuration);
        }
    }

    /// A heartbeat was written to a device, and then its control blocks read: part of a solo owner's lease.
    pub(in crate::protocol) fn on_device_beat(&mut self, role: DeviceRole, begun: Time, survey: &Survey) {
        let claimed = self.claimed_epoch(role, survey);
        let took = self.now.since(begun);
        self.replica_mut(Replica::Device(role)).note_beat(took);
        self.replica_mut(Replica::Device(role)).clean_beat = Some((begun, claimed));
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

/// A claim check reads the ballot blocks only, a heartbeat all control blocks: each can be damaged by itself.
fn noted(role: DeviceRole, area: &AreaSurvey) -> (DeviceRole, NodeId, bool) {
    (
        role,
        area.node,
        area.heartbeat.is_some() || area.configuration.is_some(),
    )
}
