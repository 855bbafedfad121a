//! The plan of a node that serves, with all members there.

use super::{Facts, Plan, Settles, View, Want};
use crate::configuration::Mode;
use crate::ids::{DeviceRole, DeviceSet, NodeId, NodeSet};
use alloc::format;
use alloc::string::ToString;

impl View<'_> {
    /// Which devices a node shares is known, and it shares one, if there are any: a solo owner survives the loss of a node that is no
    /// member, and as one of a pair without devices it would not.
    fn is_found_out(&self, facts: &Facts) -> bool {
        let among = |set: DeviceSet| self.usable.iter().any(|role| set.contains(role));
        let needs_some = self.known.owner().is_some() && self.all.count() == 2;
        !among(facts.undecided.union(facts.unwritten))
            && (among(facts.shares) || !needs_some || self.usable.is_empty())
    }

    /// The last device that votes would be given up, and without a new local copy the members could decide nothing.
    fn leans_on_forgetful(&self, members: NodeSet, devices: DeviceSet) -> bool {
        let remember: NodeSet = members.iter().filter(|node| !self.is_blank(*node)).collect();
        !self.known.devices.is_empty()
            && devices.is_empty()
            && !remember.is_more_than_half_of(self.all.count())
    }

    /// The devices of a configuration with these members, of which the joiners are new.
    fn devices_of(&self, members: NodeSet, joiners: NodeSet) -> DeviceSet {
        let known = self.known;
        let stays_solo = members.count() == 1 && self.all.count() > 1;
        let is_other = |role: &DeviceRole| {
            self.others(members)
                .any(|node| self.of(node).unshared.contains(*role))
        };
        let kept = (known.devices.iter()).filter(|role| !self.lost.contains(*role) && !is_other(role));
        if stays_solo && known.mode != Mode::Paired {
            kept.chain(self.prewritten.iter()).collect()
        } else if known.mode == Mode::Paired && joiners.is_empty() && !stays_solo {
            let returned = self.shared_by(members, self.returned, |facts| facts.shares);
            kept.chain(returned.iter()).collect()
        } else {
            let shared = self.shared_by(joiners, self.usable, |facts| facts.shares);
            shared.iter().filter(|role| !is_other(role)).collect()
        }
    }
}

/// Serving: does the configuration still fit what is here?
pub(super) fn improve(view: &View) -> Plan {
    let known = view.known;
    // The master acts if it stays, else the lowest member that does: so a master can leave.
    let all_staying: NodeSet = (known.members.iter())
        .filter(|node| {
            if *node == view.me {
                view.willing && view.ready || known.owner() == Some(view.me)
            } else {
                let facts = view.of(*node);
                let starts = !facts.settled && facts.trouble.is_none();
                !facts.linked || facts.willing && (facts.ready || starts)
            }
        })
        .collect();
    // An owner whose local copy is out of use has the devices only, and becomes no member of a pair.
    let takes_in = view.ready;
    let joiners: NodeSet = (view.nodes.iter())
        .filter(|(node, facts)| {
            !known.members.contains(**node)
                && takes_in
                && facts.linked
                && facts.ready
                && facts.willing
                && facts.caught_up
                && view.is_found_out(facts)
                && !facts.held_back
                && facts.epoch <= known.epoch
        })
        .map(|(node, _)| *node)
        .collect();
    let waits_for_local = !view.local_near && !joiners.is_empty();
    let joiners = if view.local_near { joiners } else { NodeSet::EMPTY };
    // One that comes and goes, or that has lost its copy, is let in once it follows.
    let steady = |facts: &Facts| !facts.fell_out || !facts.flapping && (facts.caught_up || !facts.ready);
    let steady: NodeSet = (all_staying.iter())
        .filter(|node| *node == view.me || steady(view.of(*node)))
        .collect();
    let everybody = all_staying.union(joiners);
    let joiners = if view.leans_on_forgetful(everybody, view.devices_of(everybody, joiners)) {
        joiners.iter().filter(|node| !view.is_blank(*node)).collect()
    } else {
        joiners
    };
    let goes_on = |staying: NodeSet| {
        let members = staying.union(joiners);
        view.goes_on_with(members, view.devices_of(members, joiners))
    };
    let staying = if goes_on(steady) { steady } else { all_staying };
    let serves = |node: &NodeId| view.of(*node).linked && !view.of(*node).fell_out;
    let acts = |node: &NodeId| staying.contains(*node) && (*node == view.me || serves(node));
    let acting = known.master().filter(acts).or_else(|| staying.iter().find(acts));
    if acting != Some(view.me) {
        return Plan::Serve;
    }
    if !view.willing {
        // A solo owner that leaves has nobody to hand over to.
        return Plan::Serve;
    }
    let members = staying.union(joiners);
    let devices = view.devices_of(members, joiners);
    let fallen = view
        .others(known.members)
        .find(|node| view.of(*node).linked && view.of(*node).fell_out);
    if members == known.members && devices == known.devices && fallen.is_none() && view.designation.is_none()
    {
        if waits_for_local {
            return Plan::PrewriteLocal;
        }
        let bare: DeviceSet = (view.returned.iter())
            .filter(|role| known.owner().is_some() && !known.devices.contains(*role))
            .collect();
        return if bare.is_empty() {
            Plan::Serve
        } else {
            Plan::Prewrite(bare)
        };
    }
    let why = if members != known.members {
        let (left, joined) = (known.members.minus(members), members.minus(known.members));
        let leaving = format!("node {left} {}", view.why_left(left));
        match (left.is_empty(), joined.is_empty()) {
            (true, _) => format!("node {joined} joins"),
            (_, true) => leaving,
            _ => format!("{leaving}, node {joined} joins"),
        }
    } else if let Some(node) = fallen {
        format!("node {node} has started again")
    } else if devices.count() > known.devices.count() {
        "a device has come back".to_string()
    } else if devices == known.devices {
        match view.designation.flatten() {
            Some(node) => format!("an operator designates node {node} as master"),
            None => "an operator makes the lowest-numbered node master".to_string(),
        }
    } else if let Some(role) = known.devices.iter().find(|role| view.small.contains(*role)) {
        format!("the {role} is too small for the database")
    } else if let Some(why) = &view.unshared {
        why.clone()
    } else {
        "a device is lost".to_string()
    };
    if !view.goes_on_with(members, devices) {
        return Plan::Serve;
    }
    Plan::Propose(Want {
        members,
        devices,
        why,
        settles: Settles::default(),
    })
}
