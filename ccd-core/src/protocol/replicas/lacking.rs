//! A device does not vote where another device proves that it lacks what was written to it: it is another disk with the same id, a copy,
//! or was put back to an earlier state.
//!
//! While a node serves, its heartbeats on each device say which of its heartbeats are durable on all of them: its traces. Whoever reads such
//! a heartbeat on one device, and then the node's area on the other one, must find there what the trace says, or what a later run of the
//! node wrote over it. The same holds for this node's own area, of the time before this run.
//!
//! ```text
//! the node wrote to the primary … and told it on the secondary … the primary is read after that: the trace is there
//!                                                                if it is not, this is not the disk that the node wrote to
//! ```
//!
//! A trace tells of the heartbeat before the last one: what an earlier run of the node had begun may land late, in place of one block.
//! Nodes that do not serve leave no traces: what they see under the name of a device takes nothing from its owner. A device that somebody
//! served with later holds what the configuration needs, by being left out and taken in again: earlier traces are void there.
//!
//! Nothing is remembered but traces: with each look it is judged anew, so a name that leads to the right disk again is enough.
//!
//! Owns `traces` and `ReplicaView::proof`.

use crate::ids::{DeviceRole, NodeId, RegionId, Replica};
use crate::protocol::Node;
use crate::protocol::interface::DecisionKind;
use crate::replica::{AreaSurvey, Heartbeat, Survey, Trace};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// What is known of one device by the other one.
#[derive(Debug, Default)]
pub(super) struct Proof {
    /// The number of this run there, and in which region.
    run: (RegionId, u64),
    /// The newest heartbeat of another run of this node that was found there.
    before: Trace,
    /// The last heartbeat of this run that was written there since it was opened.
    last: Option<Trace>,
    /// What the look that is under way must find.
    expected: Vec<(NodeId, Trace)>,
    /// The other devices had been read by then, or could not be.
    is_complete: bool,
    /// Such a look has been made since it was opened.
    is_judged: bool,
    /// Of which node the last look did not find what was expected.
    lacks: Option<NodeId>,
}

impl Proof {
    pub fn lacks(&self) -> bool {
        self.lacks.is_some()
    }

    /// A run wrote it that began after this one, or that goes on: nothing so new of it was found there before.
    pub fn is_by_later_run(&self, region: RegionId, heartbeat: &Heartbeat) -> bool {
        let number = if self.run.0 == region { self.run.1 } else { 0 };
        heartbeat.run > number || !self.before.covers(&Trace::of(region, heartbeat))
    }

    /// It was opened anew: its name may lead to another disk, and what was written before an error is not known to be durable.
    pub fn begin_anew(&mut self) {
        self.last = None;
        self.is_judged = false;
    }
}

impl Trace {
    fn of(region: RegionId, found: &Heartbeat) -> Self {
        Self {
            region,
            run: found.run,
            incarnation: found.incarnation,
            sequence: found.sequence,
            epoch: found.stamp.epoch,
        }
    }

    /// A device that has this one has the other one, too, or what was written over it.
    fn covers(&self, other: &Self) -> bool {
        self.region == other.region && other.is_shown_by(self.run, self.incarnation, self.sequence)
    }
}

impl Node {
    /// The number of this run on the device: the next one after all that wrote there before.
    pub(super) fn number_run(&mut self, role: DeviceRole) -> u64 {
        let run = self.settings.incarnation;
        let told = Some(*self.traces.of(role)).filter(|trace| trace.incarnation != run);
        let view = self.replica_mut(Replica::Device(role));
        let region = view.region;
        let proof = &mut view.proof;
        let earlier = [Some(proof.before), told].into_iter().flatten();
        let next = (earlier.filter(|trace| trace.region == region))
            .map(|trace| trace.run.saturating_add(1))
            .max()
            .unwrap_or(1);
        let known = if proof.run.0 == region { proof.run.1 } else { 0 };
        proof.run = (region, next.max(known));
        proof.run.1
    }

    /// This node's area was read: what earlier runs of it wrote there, and what that says of the other device.
    pub(super) fn note_earlier_runs(&mut self, role: DeviceRole, region: RegionId, area: &AreaSurvey) {
        let run = self.settings.incarnation;
        let found = [&area.heartbeat_before, &area.heartbeat];
        for heartbeat in (found.into_iter().flatten()).filter(|found| found.incarnation != run) {
            let trace = Trace::of(region, heartbeat);
            let before = &mut self.replica_mut(Replica::Device(role)).proof.before;
            if !before.covers(&trace) {
                *before = trace;
            }
            for other in self.device_roles() {
                let (told, known) = (*heartbeat.traces.of(other), self.traces.of_mut(other));
                let is_newer = if told.region == known.region {
                    !known.covers(&told)
                } else {
                    told.epoch >= known.epoch
                };
                if told.is_set() && is_newer && known.incarnation != run {
                    *known = told;
                }
            }
        }
    }

    /// A heartbeat of this run has been written to the device, and this node's area read after it: the one before it is durable there, too.
    pub(super) fn note_durable_beat(
        &mut self,
        role: DeviceRole,
        region: RegionId,
        area: Option<&AreaSurvey>,
    ) {
        let serves = self.is_open() && self.lease_holds() && self.area_is_clean(role);
        let (run, epoch) = (self.settings.incarnation, self.known.epoch);
        let newest = area.and_then(|area| area.heartbeat.as_ref());
        let Some(written) = newest.filter(|found| found.incarnation == run) else {
            return;
        };
        let last = &mut self.replica_mut(Replica::Device(role)).proof.last;
        let before = last.replace(Trace::of(region, written));
        if let Some(before) = before.filter(|before| serves && before.region == region) {
            *self.traces.of_mut(role) = Trace { epoch, ..before };
        }
    }

    /// All control blocks of the device are about to be read: what has been read of other devices says what must be there.
    pub(super) fn expect_traces(&mut self, role: DeviceRole) {
        let others = || self.device_roles().into_iter().filter(|other| *other != role);
        let is_complete = !others().any(|other| self.replica(Replica::Device(other)).untried());
        let expected = self.traces_on(role);
        let proof = &mut self.replica_mut(Replica::Device(role)).proof;
        proof.expected = expected;
        proof.is_complete = is_complete;
    }

    /// What the other devices tell of this one, and what earlier runs of this node have written there.
    fn traces_on(&self, role: DeviceRole) -> Vec<(NodeId, Trace)> {
        let (me, run) = (self.me(), self.settings.incarnation);
        let others = (self.device_roles().into_iter())
            .filter(|other| *other != role)
            .map(|other| self.replica(Replica::Device(other)));
        let told = others
            .flat_map(|view| &view.survey.areas)
            .filter(|area| area.node != me)
            .filter_map(|area| Some((area.node, *area.heartbeat.as_ref()?.traces.of(role))));
        let own = Some((me, *self.traces.of(role))).filter(|(_, trace)| trace.incarnation != run);
        told.chain(own).filter(|(_, trace)| trace.is_set()).collect()
    }

    /// Of which node the device lacks something of this.
    fn lacks(&self, role: DeviceRole, expected: &[(NodeId, Trace)], survey: &Survey) -> Option<NodeId> {
        let (me, before) = (self.me(), self.replica(Replica::Device(role)).proof.before);
        let is_missed = |(node, trace): &&(NodeId, Trace)| {
            let Some(area) = survey.areas.iter().find(|area| area.node == *node) else {
                return false;
            };
            let newest = if *node == me {
                Some(before)
            } else {
                area.heartbeat
                    .as_ref()
                    .map(|found| Trace::of(survey.region, found))
            };
            trace.region == survey.region
                && !area.damaged
                && !newest.is_some_and(|newest| newest.covers(trace))
                && !is_void(role, trace, survey)
        };
        expected.iter().find(is_missed).map(|(node, _)| *node)
    }

    /// They have been read.
    pub(super) fn look_for_traces(&mut self, role: DeviceRole, survey: &Survey) {
        let me = self.me();
        if let Some(own) = survey.areas.iter().find(|area| area.node == me) {
            self.note_earlier_runs(role, survey.region, own);
        }
        let expected = core::mem::take(&mut self.replica_mut(Replica::Device(role)).proof.expected);
        let lacks = self.lacks(role, &expected, survey);
        let proof = &mut self.replica_mut(Replica::Device(role)).proof;
        let before = core::mem::replace(&mut proof.lacks, lacks);
        let is_first = proof.is_complete && !proof.is_judged;
        proof.is_judged |= proof.is_complete;
        self.look |= is_first;
        if before.is_some() == lacks.is_some() {
            return;
        }
        self.look = true;
        let text = match self.lacking_text(role) {
            Some(text) => text,
            None => format!("the {role} shows what was written to it"),
        };
        self.record(DecisionKind::Damage, text);
    }

    /// It was opened, and by what was read then it lacks something: it is looked at once more before that is said, or it counts. What it
    /// was found to lack before it failed is not forgotten.
    pub(in crate::protocol) fn is_unjudged(&self, role: DeviceRole) -> bool {
        let view = self.replica(Replica::Device(role));
        !view.proof.is_judged && self.lacks(role, &self.traces_on(role), &view.survey).is_some()
    }

    /// The device lacks what an earlier run of this node wrote there. What this run wrote would hide that from others.
    pub(in crate::protocol) fn lacks_own_trace(&self, role: DeviceRole) -> bool {
        self.replica(Replica::Device(role)).proof.lacks == Some(self.me())
    }

    /// For people: what the device lacks.
    pub(in crate::protocol) fn lacking_text(&self, role: DeviceRole) -> Option<String> {
        let node = self.replica(Replica::Device(role)).proof.lacks?;
        Some(format!(
            "the {role} lacks what node {node} wrote there, as another device tells: it is a copy of that disk, or was put back to an earlier \
             state; it does not count before its name leads to the right disk, or it was left out and taken in again"
        ))
    }
}

/// Somebody served a later configuration and wrote to this device: what it lacked of an earlier one it is given when it is taken in.
fn is_void(role: DeviceRole, trace: &Trace, survey: &Survey) -> bool {
    let heartbeats = survey.areas.iter().filter_map(|area| area.heartbeat.as_ref());
    let mut later = heartbeats.map(|found| found.traces.of(role));
    later.any(|later| later.region == survey.region && later.epoch > trace.epoch)
}
