//! Whether somebody has cleared a device that this run uses, or put it back to an earlier state.
//!
//! Heartbeats, ballots and configurations are written anew all the time, so such a device looks alive, and what it has lost is found when
//! it is read: too late. But each heartbeat is written beside the one before, which must still stand there. If it does not, the device has
//! failed like one that loses writes: it is left out, and taken in again with all that it is to hold.
//!
//! A region that somebody else has written into elsewhere is not used any more either, until it is made anew: nobody knows what comes
//! next. But a damaged device is better than none.
//!
//! Owns `ReplicaView::{was_overwritten, damage, condemned}` and `OwnArea::found_last`.

use crate::ids::{DeviceRole, RegionId, Replica};
use crate::protocol::replicas::Purpose;
use crate::protocol::replicas::survey::is_of_a_new_region;
use crate::protocol::{DecisionKind, Node};
use crate::replica::{
    Heartbeat, RegionDamage, ReplicaAnswer, ReplicaError, ReplicaErrorKind, ReplicaOp, Survey,
};
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
        if let (Purpose::Heartbeat { .. }, Replica::Device(role), ReplicaAnswer::Survey(survey)) =
            (purpose, replica, &answer)
            && self.area_is_clean(role)
            && !self.finds_last_beat(role, survey)
        {
            self.replica_mut(replica).was_overwritten = true;
            return Err(ReplicaError {
                kind: ReplicaErrorKind::Damaged,
                text: format!(
                    "the {role} was cleared, or put back to an earlier state, while it was in use: what this node wrote there last is gone"
                ),
            });
        }
        Ok(answer)
    }

    /// What a look at a region in use has found.
    ///
    /// # Errors
    /// Somebody else has written into it, and the other device is whole.
    pub(super) fn is_not_overwritten(
        &mut self,
        replica: Replica,
        answer: ReplicaAnswer,
    ) -> Result<ReplicaAnswer, ReplicaError> {
        let (Replica::Device(role), ReplicaAnswer::Survey(survey)) = (replica, &answer) else {
            return Ok(answer);
        };
        let view = self.replica_mut(replica);
        let is_anew = |region: RegionId| region != survey.region || is_of_a_new_region(survey);
        view.condemned.take_if(|(region, _)| is_anew(*region));
        if let Some(damage) = survey.damage.as_ref().filter(|damage| damage.is_overwritten) {
            view.condemned = Some((survey.region, damage.text.clone()));
        }
        match &self.replica(replica).condemned {
            Some((_, text)) if self.other_device_is_whole(role) => Err(ReplicaError {
                kind: ReplicaErrorKind::Damaged,
                text: format!(
                    "somebody else writes to it: {text}; find out who does, and make it anew with `ccd-disk mkfs --role {role}`"
                ),
            }),
            _ => Ok(answer),
        }
    }

    /// Whoever is to make it anew needs it for itself.
    pub(super) fn leave_to_others_if_condemned(&mut self, replica: Replica) {
        if self.replica(replica).condemned.is_some() {
            self.ask(replica, ReplicaOp::Close, Purpose::Unattended);
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
        let damage = self.replica(Replica::Device(role)).damage.as_deref()?;
        let path = self.settings.init.device_path(role).unwrap_or_default();
        Some(format!("the {role} ({path}) is damaged: {damage}"))
    }

    /// False if only somebody else can have taken it away.
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
        is_kept || is_by_another
    }
}
