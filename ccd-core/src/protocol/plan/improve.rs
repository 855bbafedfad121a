//! The plan of a node that serves, with all members there.

use super::{Facts, Plan, Settles, View, Want};
use crate::configuration::Mode;
use crate::configuration::votes::Voters;
use crate::ids::{DeviceRole, DeviceSet, NodeId, NodeSet};
use alloc::format;
use alloc::string::ToString;

impl View<'_> {
    /// Which devices a node shares is known, and it shares one, if there are any: a solo owner survives the loss of a node that is no
    /// member, and as one of a pair without devices it would not.
    fn is_found_out(&self, facts: &Facts) -> bool {
        !self.uses_one(facts.undecided.union(facts.unwritten)) && !self.lacks_device(facts)
    }

    fn uses_one(&self, of: DeviceSet) -> bool {
        self.usable.iter().any(|role| of.contains(role))
    }

    fn lacks_device(&self, facts: &Facts) -> bool {
        let needs_some = self.known.owner().is_some() && self.all.count() == 2 && !self.usable.is_empty();
        needs_some && !self.uses_one(facts.shares)
    }

    /// The members that are to stay.
    fn staying(&self) -> NodeSet {
        (self.known.members.iter())
            .filter(|node| {
                if *node == self.me {
                    self.willing && self.ready || self.known.owner() == Some(self.me)
                } else {
                    let facts = self.of(*node);
                    let starts = !facts.settled && facts.trouble.is_none();
                    !facts.linked || facts.willing && (facts.ready || starts)
                }
            })
            .collect()
    }

    /// Nodes that could become members now, as far as their devices allow it.
    fn followers(&self) -> impl Iterator<Item = (NodeId, &Facts)> {
        // An owner whose local copy is out of use has the devices only, and becomes no member of a pair.
        let takes_in = self.ready;
        let follows = move |node: NodeId, facts: &Facts| {
            !self.known.members.contains(node)
                && takes_in
                && facts.linked
                && facts.ready
                && facts.willing
                && facts.caught_up
                && !facts.held_back
                && facts.epoch <= self.known.epoch
        };
        (self.nodes.iter())
            .map(|(node, facts)| (*node, facts))
            .filter(move |(node, facts)| follows(*node, facts))
    }

    fn joiners(&self) -> NodeSet {
        let joins = self.followers().filter(|(_, facts)| self.is_found_out(facts));
        joins.map(|(node, _)| node).collect()
    }

    /// Those of these joiners that have no vote, and for whom no device is given up. Whatever became of the devices: as long as this
    /// configuration serves, nothing is lost by waiting for one.
    fn held_out_of(&self, staying: NodeSet, joiners: NodeSet) -> NodeSet {
        let everybody = staying.union(joiners);
        let next = Voters::new(everybody, self.devices_of(everybody, joiners));
        self.leaned_on(self.known.devices, next).intersection(joiners)
    }

    /// Those of these that can be members together, as far as that depends on who hears whom.
    fn hearing(&self, staying: NodeSet, joiners: NodeSet) -> (NodeSet, NodeSet) {
        let devices = self.known.devices.union(self.usable);
        let fell_out = |node: NodeId| self.of(node).fell_out;
        let lacks_lease = self.without_lease(staying, devices);
        // A member that serves holds one.
        let staying = if lacks_lease.iter().any(fell_out) {
            self.meshed(staying, devices)
        } else {
            staying
        };
        (staying, self.joined(staying, joiners))
    }

    /// Nodes that could become members if a device could be used together with them.
    pub(in crate::protocol) fn held_out(&self) -> NodeSet {
        let lacking = self.followers().filter(|(_, facts)| self.lacks_device(facts));
        let lacking = lacking.map(|(node, _)| node).collect();
        self.held_out_of(self.staying(), self.joiners()).union(lacking)
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
    let all_staying = view.staying();
    let joiners = view.joiners();
    let waits_for_local = !view.local_near && !joiners.is_empty();
    let joiners = if view.local_near { joiners } else { NodeSet::EMPTY };
    // One that comes and goes, or that has lost its copy, is let in once it follows.
    let steady = |facts: &Facts| !facts.fell_out || !facts.flapping && (facts.caught_up || !facts.ready);
    let steady: NodeSet = (all_staying.iter())
        .filter(|node| *node == view.me || steady(view.of(*node)))
        .collect();
    let joiners = joiners.minus(view.held_out_of(all_staying, joiners));
    let goes_on = |staying: NodeSet| {
        let members = staying.union(joiners);
        view.goes_on_with(members, view.devices_of(members, joiners))
    };
    let staying = if goes_on(steady) { steady } else { all_staying };
    let (staying, joiners) = view.hearing(staying, joiners);
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
