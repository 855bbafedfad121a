//! The plan of a node that does not serve, or whose fellow members are not all there: form a new cluster, or go on after the
//! last configuration.

use super::{Plan, Settles, View, Want};
use crate::configuration::{Configuration, Mode, Quorum, RestoreFlag};
use crate::ids::{DeviceSet, Epoch, NodeId, NodeSet};
use alloc::format;
use alloc::string::{String, ToString};

/// A node that the external membership monitor calls gone, and that this one would have to take the cluster from.
const CALLED_GONE_AND_ALIVE: &str = "the external membership monitor calls it gone, but this node was left out, and takes over only once it is silent";

/// A new cluster: every node and every device must be seen once, so that nothing older is overlooked.
pub(super) fn first(view: &View) -> Plan {
    let candidates = view.candidates();
    let absent_nodes = view.known.nodes.minus(candidates);
    let fresh = |node: NodeId| view.of(node).epoch == Epoch(0);
    if let Some(node) = view.others(candidates).find(|node| !fresh(*node)) {
        return Plan::Wait(format!("node {node} knows a configuration: waiting to hear it"));
    }
    let counted = view.shared_by(candidates, view.usable, |facts| facts.may_share);
    let absent_devices: DeviceSet = (view.known.devices.iter())
        .filter(|role| !counted.contains(*role))
        .collect();
    if let Some(why) = view.unshared.as_ref().filter(|_| !absent_devices.is_empty()) {
        return Plan::Wait(format!("the first start of a cluster needs both devices: {why}"));
    }
    if !absent_nodes.is_empty() || !absent_devices.is_empty() {
        let mut missing = String::new();
        for part in absent_nodes.iter().map(|n| format!("node {n}")) {
            missing = if missing.is_empty() {
                part
            } else {
                format!("{missing}, {part}")
            };
        }
        for part in absent_devices.iter().map(|r| r.to_string()) {
            missing = if missing.is_empty() {
                part
            } else {
                format!("{missing}, {part}")
            };
        }
        return Plan::Wait(format!(
            "the first start of a cluster needs every node and every device once, and these are missing: {missing}"
        ));
    }
    if view.leader(candidates) != view.me && !view.patience_over {
        return Plan::Wait("the lowest-numbered node forms the cluster".to_string());
    }
    let why = "the first start of the cluster, with every node and device present".to_string();
    form(view, candidates, view.usable, why)
}

/// Another node owns the devices, is alive, and is not heard.
fn alive_owner(view: &View) -> Option<String> {
    let owner = view.known.owner().filter(|owner| *owner != view.me)?;
    let facts = view.of(owner);
    let how = if facts.called_gone {
        CALLED_GONE_AND_ALIVE
    } else {
        "its heartbeat there moves, but the network between us is cut"
    };
    (facts.alive_apart).then(|| format!("node {owner} owns the devices and is alive: {how}"))
}

/// Not serving, or serving a configuration of which a member has gone silent.
pub(super) fn go_on(view: &View) -> Plan {
    let is_flagged = [view.known.restore, view.restore].contains(&RestoreFlag::NotAllActive);
    let candidates = if is_flagged {
        view.candidates()
    } else {
        view.quick_candidates()
    };
    // An override may have put it there: what counts is that it goes on, and cannot be heard.
    if let Some(why) = is_flagged.then(|| alive_owner(view)).flatten() {
        return Plan::Wait(why);
    }
    if is_flagged && !view.serves && candidates != view.all {
        return Plan::Wait(flagged_text(view.known, view.all.minus(candidates)));
    }
    // Nobody is fenced, and no vote is asked for, by a node that could not go on.
    if let Some(why) = view.below.as_ref().filter(|_| !view.serves) {
        return Plan::Wait(why.clone());
    }
    let waived = view.known.quorum == Quorum::Waived && !view.decides;
    if view.known.owner().is_none() && view.known.devices.is_empty() && !view.copies.is_empty() && !waived {
        return Plan::Wait(format!("no quorum: {}", view.copies));
    }
    if !view.untried.is_empty() && !view.impatient {
        return Plan::Wait("the devices are being opened".to_string());
    }
    for node in view.others(view.fenced_by) {
        let facts = view.of(node);
        if !facts.linked && !facts.silent && !view.impatient {
            return Plan::Wait(format!(
                "fenced by node {node}, which was alive less than a lease ago: it goes on, or this node does once that \
                 one has been silent for a lease"
            ));
        }
    }
    // A solo owner that starts again excludes nobody.
    let mine = view.known.owner() == Some(view.me);
    if !mine && !view.impatient {
        for node in view.others(view.known.members.minus(candidates)) {
            let facts = view.of(node);
            if facts.linked && facts.willing && !facts.ready && facts.trouble.is_none() && !view.patience_over
            {
                return Plan::Wait(format!("node {node} is starting"));
            }
            if facts.alive_apart {
                if let Some(why) = alive_owner(view) {
                    return Plan::Wait(why);
                }
                if node < view.me && !view.patience_over {
                    return Plan::Wait(if facts.called_gone {
                        format!("node {node} is alive and was not left out: {CALLED_GONE_AND_ALIVE}")
                    } else {
                        format!(
                            "the network to node {node} is cut, but it is alive: the lowest-numbered node takes over"
                        )
                    });
                }
            } else if !facts.linked && facts.expected {
                return Plan::Wait(format!(
                    "node {node} is there, says the external membership monitor, and is waited for"
                ));
            } else if !facts.linked && !facts.silent {
                return Plan::Wait(format!("node {node} was seen or heard less than a lease ago"));
            }
        }
    }
    let leader = view.leader(candidates);
    if leader != view.me && !view.patience_over && !view.impatient {
        return Plan::Wait(format!(
            "node {leader} reconfigures: it is master, or the lowest-numbered one here"
        ));
    }
    let gone = view.known.members.minus(candidates);
    let why = if gone.is_empty() {
        format!("restart with nodes {candidates}")
    } else if view
        .nodes
        .get(&gone.lowest().unwrap_or(view.me))
        .is_some_and(|facts| facts.linked)
    {
        match view.others(gone).find_map(|node| view.of(node).trouble) {
            Some(trouble) => format!("node {gone} {}", trouble.name()),
            None => format!("node {gone} leaves or cannot serve"),
        }
    } else if gone
        .iter()
        .all(|node| view.nodes.get(&node).is_some_and(|facts| facts.called_gone))
    {
        format!("node {gone} is gone, says the external membership monitor")
    } else {
        format!("node {gone} has been silent for a lease")
    };
    // What is outside of the configuration comes back later: after all who are here have shown that they share it, and with an image.
    let counted: DeviceSet = (view.usable.iter())
        .filter(|role| view.known.devices.contains(*role))
        .collect();
    // With none of them the votes say what is missing.
    let devices = if counted.is_empty() && view.known.mode == Mode::Paired {
        view.usable
    } else {
        counted
    };
    let undecided = |node: &NodeId| view.of(*node).undecided;
    if let Some(node) = view
        .others(candidates)
        .find(|node| devices.iter().any(|role| undecided(node).contains(role)))
        && !view.patience_over
        && !view.impatient
    {
        return Plan::Wait(format!("finding out whether node {node} has the same devices"));
    }
    let shared = view.shared_by(candidates, devices, |facts| facts.may_share);
    // Rather the devices without those that do not share them than a pair that the loss of one node stops.
    let sharing = |node: &NodeId| {
        *node == view.me || devices.iter().any(|role| view.of(*node).may_share.contains(role))
    };
    let with_devices: NodeSet = candidates.iter().filter(sharing).collect();
    let (candidates, devices) =
        if shared.is_empty() && !devices.is_empty() && view.goes_on_with(with_devices, devices) {
            let shared = view.shared_by(with_devices, devices, |facts| facts.may_share);
            (with_devices, shared)
        } else {
            (candidates, shared)
        };
    if waived {
        return Plan::Override(Want {
            members: candidates,
            devices,
            why: format!("{why}; quorum is off, and whoever is left goes on"),
            settles: Settles::default(),
        });
    }
    form(view, candidates, devices, why)
}

/// Why a restart waits for these nodes, although it could be decided without them: the restore flag is 3.
pub(in crate::protocol) fn flagged_text(known: &Configuration, missing: NodeSet) -> String {
    let what = if known.restore == RestoreFlag::NotAllActive {
        "the database was last opened by an operator's override"
    } else {
        "the database was restored while not all nodes were active"
    };
    format!(
        "{what} (restore flag 3): all nodes must be active once before an unattended restart; missing: nodes {missing}"
    )
}

fn form(view: &View, candidates: NodeSet, devices: DeviceSet, why: String) -> Plan {
    let (candidates, devices) = view.without_leaning(candidates, devices);
    let total = view.all.count();
    if candidates.count() == 1 && devices.is_empty() && total > 1
        || !candidates.is_more_than_half_of(total) && devices.is_empty()
    {
        let small = match view.small.iter().next() {
            Some(role) => format!(" (the {role} is too small for the database)"),
            None => String::new(),
        };
        return Plan::Wait(format!(
            "no quorum: {} of {total} nodes are here, and no device can be used{small}",
            candidates.count()
        ));
    }
    Plan::Propose(Want {
        members: candidates,
        devices,
        why,
        settles: Settles::default(),
    })
}
