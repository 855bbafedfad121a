//! Whether somebody has cleared a device that this run uses, or put it back to an earlier state.
//!
//! Heartbeats, ballots and configurations are written anew all the time, so such a device looks alive, and what it has lost is found when
//! it is read: too late. But each heartbeat is written beside the one before, which must still stand there. If it does not, the device has
//! failed like one that loses writes: it is left out, and taken in again with all that it is to hold.
//!
//! Owns `ReplicaView::was_overwritten` and `OwnArea::found_last`.

use crate::ids::{DeviceRole, Replica};
use crate::protocol::Node;
use crate::protocol::replicas::Purpose;
use crate::replica::{Heartbeat, ReplicaAnswer, ReplicaError, ReplicaErrorKind, Survey};
use alloc::format;

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
