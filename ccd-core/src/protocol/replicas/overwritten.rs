//! Whether somebody has cleared a device that this run uses, or put it back to an earlier state.
//!
//! Heartbeats, ballots and configurations are written anew all the time, so such a device looks alive, and what it has lost is found when
//! it is read: too late. But each heartbeat is written beside the one before, which must still stand there; and ballots and configurations
//! in the same area never go back. If one is missing, the device has failed like one that loses writes: it is left out, and taken in again
//! with all that it is to hold.
//!
//! A region that is corrupted elsewhere, or that another program writes to, is left out as well, until it is made anew; but not where its
//! vote may be needed.
//!
//! Owns `ReplicaView::{was_overwritten, damage, condemned}` and `OwnArea::{found_last, durable, lacks_durable}`.

use crate::ids::{DeviceRole, NodeId, Replica};
use crate::protocol::message::PeerState;
use crate::protocol::replicas::Purpose;
use crate::protocol::replicas::survey::is_of_a_new_region;
use crate::protocol::replicas::view::Condemned;
use crate::protocol::replicas::voted::Voted;
use crate::protocol::{DecisionKind, Node};
use crate::replica::{
    AreaSurvey, Heartbeat, RegionDamage, ReplicaAnswer, ReplicaError, ReplicaErrorKind, ReplicaOp, Survey,
};
use crate::time::Time;
use alloc::format;
use alloc::string::String;

impl Node {
    /// What was read after a heartbeat of this run was written.
    ///
    /// # Errors
    /// The heartbeat before is gone.
    pub(super) fn keeps_what_was_written(
        &mut self,
        replica: Replica,
        purpose: &Purpose,
        answer: ReplicaAnswer,
    ) -> Result<ReplicaAnswer, ReplicaError> {
        if let (Purpose::Heartbeat { begun }, Replica::Device(role), ReplicaAnswer::Survey(survey)) =
            (purpose, replica, &answer)
        {
            let keeps_votes = self.keeps_votes(role, *begun, survey);
            let is_kept = self.finds_last_beat(role, survey) && keeps_votes;
            if !is_kept && self.area_is_clean(role) {
                let view = self.replica_mut(replica);
                view.was_overwritten = true;
                // What is missing has been said; from here on less is to be found.
                view.voted = Voted::default();
                return Err(ReplicaError {
                    kind: ReplicaErrorKind::Damaged,
                    text: format!(
                        "the {role} was cleared, or put back to an earlier state, while it was in use: what this node wrote there last is gone"
                    ),
                });
            }
        }
        Ok(answer)
    }

    /// Gives up a region that another program has written to, while this node serves and another device is whole. A node that does not
    /// serve may need its vote: a damaged device is better than none.
    ///
    /// # Errors
    /// The region is not to be used.
    pub(super) fn refuse_overwritten(
        &mut self,
        replica: Replica,
        answer: ReplicaAnswer,
    ) -> Result<ReplicaAnswer, ReplicaError> {
        let (Replica::Device(role), ReplicaAnswer::Survey(survey)) = (replica, &answer) else {
            return Ok(answer);
        };
        let view = self.replica_mut(replica);
        let is_anew = survey.region != view.region || is_of_a_new_region(survey);
        let is_mended = |condemned: &Condemned| !condemned.is_lasting && survey.damage.is_none();
        view.condemned
            .take_if(|condemned| is_anew || is_mended(condemned));
        if let Some(damage) = survey.damage.as_ref().filter(|damage| damage.is_overwritten) {
            view.condemned = Some(Condemned {
                text: damage.text.clone(),
                is_lasting: damage.is_lasting,
            });
        }
        let serves = self.is_open() && self.lease_holds();
        match &self.replica(replica).condemned {
            Some(Condemned { text, .. }) if serves && self.other_device_is_whole(role) => Err(ReplicaError {
                // It is looked for less often, for it comes back by hand only.
                kind: ReplicaErrorKind::Foreign,
                text: format!(
                    "it is corrupted, or another program writes to it: {text}; find out which, and make it anew with `{}`",
                    self.settings.init.mkfs_command(role)
                ),
            }),
            _ => Ok(answer),
        }
    }

    /// Closes a device on which nothing counts any more: whoever is to make it anew must have it for himself.
    pub(super) fn close_overwritten(&mut self, replica: Replica) {
        let Replica::Device(role) = replica else {
            return;
        };
        if !self.known.devices.contains(role) {
            self.ask(replica, ReplicaOp::Close, Purpose::Unattended);
        }
    }

    /// A member has found that a device was put back while it used it. A node that was started meanwhile sees a whole region, and would
    /// count on it for good.
    pub(in crate::protocol) fn take_in_what_was_overwritten(&mut self, node: NodeId) {
        if !self.is_open() || !self.known.members.contains(node) {
            return;
        }
        let serves = |state: &&PeerState| state.serving && state.epoch == self.known.epoch;
        let Some(reports) = (self.peer_state(node).filter(serves)).map(|state| state.device_reports.clone())
        else {
            return;
        };
        for role in self.device_roles() {
            let report = reports.of(role);
            let (counts, view) = (
                self.known.devices.contains(role),
                self.replica_mut(Replica::Device(role)),
            );
            if counts && report.has_forgotten && report.region == view.region && !view.was_overwritten {
                view.was_overwritten = true;
                self.look = true;
                let text = format!(
                    "node {node} has found that the {role} was cleared, or put back to an earlier state"
                );
                self.record(DecisionKind::Damage, text);
            }
        }
    }

    /// There is another device that is counted on, can be used here, and of which no damage is known.
    fn other_device_is_whole(&self, role: DeviceRole) -> bool {
        self.known.devices.without(role).iter().any(|other| {
            let view = self.replica(Replica::Device(other));
            view.usable() && view.damage.is_none() && view.condemned.is_none()
        })
    }

    /// What is wrong with the region although it is used, as a survey says.
    pub(super) fn note_region_damage(&mut self, replica: Replica, damage: Option<&RegionDamage>) {
        let damage = damage.map(|damage| damage.text.as_str());
        let before = &mut self.replica_mut(replica).damage;
        if before.as_deref() == damage {
            return;
        }
        let is_news = before.is_none() || damage.is_none();
        *before = damage.map(String::from);
        if is_news {
            let text = match damage {
                Some(damage) => format!("the {replica} is damaged: {damage}"),
                None => format!("the {replica} is whole again where it was damaged"),
            };
            self.record(DecisionKind::Damage, text);
        }
    }

    /// What is wrong with a device although it is used.
    pub(in crate::protocol) fn damage_text(&self, role: DeviceRole) -> Option<String> {
        let view = self.replica(Replica::Device(role));
        let condemned = view.condemned.as_ref().map(|condemned| condemned.text.as_str());
        let damage = view.damage.as_deref().or(condemned)?;
        let path = self.settings.init.device_path(role).unwrap_or_default();
        Some(format!("the {role} ({path}) is damaged: {damage}"))
    }

    /// False if only somebody else can have taken it away. Called after each heartbeat: the next one must find this one.
    fn finds_last_beat(&mut self, role: DeviceRole, survey: &Survey) -> bool {
        let (me, run) = (self.me(), self.settings.incarnation);
        let view = self.replica_mut(Replica::Device(role));
        let written = view.beat_sequence;
        let own = &mut view.own_area;
        let last = own.found_last.take();
        let area = survey.areas.iter().find(|area| area.node == me);
        let Some(area) = area.filter(|area| !area.damaged) else {
            return true;
        };
        let is_mine = |found: &Option<Heartbeat>, sequence: u64| {
            let found = found.as_ref();
            found.is_some_and(|found| (found.incarnation, found.sequence) == (run, sequence))
        };
        if !is_mine(&area.heartbeat, written) {
            return true;
        }
        let is_kept = last.is_none_or(|last| is_mine(&area.heartbeat_before, last));
        // One heartbeat of the run before may land late, and another run's is another matter.
        let is_by_another = (area.heartbeat_before.as_ref()).is_some_and(|found| {
            let known = own.predecessor.filter(|(before, _)| *before == found.incarnation);
            found.incarnation != run && known.is_none_or(|(_, sequence)| found.sequence > sequence)
        });
        own.found_last = Some(written);
        if is_kept {
            own.durable = last.or(own.durable);
        }
        is_kept || is_by_another
    }

    /// The device was opened anew. It still shows the last heartbeat of this run that was durable there, or what another one wrote since; else its name leads
    /// to a copy now, or it was put back meanwhile. Until it shows that, or a configuration without it serves, nothing more is written
    /// there: that would look like what is missing.
    pub(super) fn look_for_durable_beat(&mut self, role: DeviceRole, area: Option<&AreaSurvey>) {
        let run = self.settings.incarnation;
        let view = self.replica_mut(Replica::Device(role));
        let (Some(durable), Some(area)) = (view.own_area.durable, area.filter(|area| !area.damaged)) else {
            return;
        };
        let shows = |found: &Heartbeat| {
            if found.incarnation == run {
                found.sequence >= durable
            } else {
                // Another run of this node, a copy of its server, writes there as well.
                view.proof.is_by_later_run(view.region, found)
            }
        };
        let mut blocks = [&area.heartbeat, &area.heartbeat_before].into_iter().flatten();
        let lacks = !blocks.any(shows);
        if core::mem::replace(&mut view.own_area.lacks_durable, lacks) != lacks {
            self.look = true;
            let text = if lacks {
                self.made_anew_text_of(role)
            } else {
                format!("the {role} shows what this run had written there")
            };
            self.record(DecisionKind::Damage, text);
        }
    }

    /// Whether the device lacks what was durable there, known since it was opened.
    pub(in crate::protocol) fn lacks_durable_beat(&self, role: DeviceRole) -> bool {
        self.replica(Replica::Device(role)).own_area.lacks_durable
    }

    /// False if this node's area holds less than it did before of what was voted and decided. Asked before `finds_last_beat`.
    fn keeps_votes(&self, role: DeviceRole, begun: Time, survey: &Survey) -> bool {
        let view = self.replica(Replica::Device(role));
        let own = survey.areas.iter().find(|area| area.node == self.me());
        // Another run of this node writes votes of its own, and heartbeats beside them.
        let run = self.settings.incarnation;
        let is_of_this_run = |area: &&AreaSurvey| {
            let beats = [&area.heartbeat, &area.heartbeat_before].into_iter();
            beats.flatten().all(|found| found.incarnation == run)
        };
        let is_seen = view.own_area.found_last.is_some();
        let Some(own) = own.filter(|area| is_seen && !area.damaged && is_of_this_run(area)) else {
            return true;
        };
        view.voted.is_kept(own, begun)
    }
}
