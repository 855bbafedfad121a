//! What the node tells people. It holds for the cluster: problems and what can be used are those of all members, as they last said.

use super::Node;
use super::interface::{DeviceElsewhere, DeviceStatus, NodeStatus, Part, ServingState, Status};
use crate::configuration::Quorum;
use crate::configuration::votes::{self, Lost, Voters};
use crate::ids::{DeviceRole, DeviceSet, NodeId, NodeSet, Replica};
use crate::problem::{Cause, Problem};
use crate::time::Time;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

impl Node {
    /// What the node is and sees.
    pub fn status(&self, now: Time) -> Status {
        let serving = self.is_open() && now < self.lease_until();
        let state = if !self.willing && self.serving.is_none() {
            ServingState::Left
        } else if serving {
            ServingState::Serving
        } else if self.valid_but_closed() {
            ServingState::Closed
        } else if self.proposal.is_some() || self.install.is_some() || self.member.is_some() {
            ServingState::Reconfiguring
        } else if !self.ready() && self.now.since(self.started) < self.settings.lease {
            ServingState::Starting
        } else {
            ServingState::Waiting
        };
        let configuration = (!self.known.is_genesis()).then(|| self.known.clone());
        let survives = self.survives(serving);
        let mut problems = self.problems(serving);
        let is_explained = problems.iter().any(|problem| problem.cause.degrades());
        if serving && !is_explained {
            problems.extend(self.unexplained(&survives));
        }
        Status {
            me: self.me(),
            state,
            verdict: verdict_of(&problems),
            problems,
            configuration,
            position: self.committed.position(),
            rows: self.committed.row_count(),
            date: self.committed.date(),
            nodes: self
                .settings
                .nodes
                .iter()
                .map(|node| self.node_status(node, serving))
                .collect(),
            devices: self
                .settings
                .devices
                .iter()
                .map(|role| self.device_status(role))
                .collect(),
            external: self.external,
            takes_updates: serving && self.waited_for().is_empty() && !self.is_owner_without_votes(),
            survives,
        }
    }

    /// Which single losses the cluster would survive. After the loss of a node another one must go on with the nodes that it hears and the
    /// devices that *it* can use, by what they say themselves.
    fn survives(&self, serving: bool) -> Vec<(Part, bool)> {
        let nodes = (self.settings.nodes.iter()).map(|node| (Part::Node(node), Lost::Node(node)));
        let devices = (self.settings.devices.iter()).map(|role| (Part::Device(role), Lost::Device(role)));
        nodes
            .chain(devices)
            .map(|(part, lost)| {
                // During maintenance no node is replaced.
                let waits = self.known.maintenance && matches!(lost, Lost::Node(_));
                (part, serving && !waits && self.survives_loss(lost))
            })
            .collect()
    }

    fn survives_loss(&self, lost: Lost) -> bool {
        let may_go_on = |node: &NodeId| lost != Lost::Node(*node);
        self.able_nodes().iter().filter(may_go_on).any(|node| {
            let devices = self.devices_of(node).unwrap_or_default();
            let live = Voters::new(self.nodes_with(node), devices);
            let rest = live.nodes.iter().filter(may_go_on).collect();
            votes::survives_loss(&self.known, live, lost) && self.can_serve_together(node, rest)
        })
    }

    /// Without devices it takes a majority of which each hears so many others that it holds a lease.
    fn can_serve_together(&self, node: NodeId, nodes: NodeSet) -> bool {
        let known = &self.known;
        if !known.devices.is_empty() || known.quorum == Quorum::Waived {
            return true;
        }
        let mut left = nodes;
        let all = self.cluster_nodes().count();
        while left.is_more_than_half_of(all) {
            let lacks_lease = |one: &NodeId| {
                let joined = |other: &NodeId| other == one || self.hear_each_other(*one, *other);
                let grants = left.iter().filter(joined).collect();
                !votes::decide(known, Voters::new(grants, DeviceSet::EMPTY))
            };
            match left.without(node).iter().filter(lacks_lease).last() {
                Some(last) => left = left.without(last),
                None => return true,
            }
        }
        false
    }

    /// The voters with which a node can go on; `None`: it is not heard.
    pub(super) fn voters_with(&self, node: NodeId) -> Option<Voters> {
        let devices = self.devices_of(node)?;
        Some(Voters::new(self.nodes_with(node), devices))
    }

    /// The able nodes that have a vote and that it hears, itself among them.
    fn nodes_with(&self, node: NodeId) -> NodeSet {
        // A solo owner's devices can be taken over by one that has no vote.
        let votes = |other: &NodeId| self.known.owner().is_some() || self.is_taken_to_vote(*other);
        let joined = |other: &NodeId| node == *other || self.hear_each_other(node, *other);
        self.able_nodes().iter().filter(joined).filter(votes).collect()
    }

    fn is_taken_to_vote(&self, node: NodeId) -> bool {
        if node == self.me() {
            self.no_vote().is_none()
        } else {
            self.peer_state(node).is_none_or(|state| state.no_vote.is_none())
        }
    }

    /// By what both say; of one that is not heard here the other one's word is enough.
    pub(super) fn hear_each_other(&self, one: NodeId, other: NodeId) -> bool {
        let says = |from: NodeId, to: NodeId| {
            if from == self.me() {
                Some(self.hears(to))
            } else {
                self.peer_state(from).map(|state| state.hears.contains(to))
            }
        };
        match (says(one, other), says(other, one)) {
            (Some(hears), Some(is_heard)) => hears && is_heard,
            (Some(hears), None) | (None, Some(hears)) => hears,
            (None, None) => false,
        }
    }

    /// The devices that a node can go on with: one that is too small may vote, but nobody can. `None`: it is not heard.
    pub(super) fn devices_of(&self, node: NodeId) -> Option<DeviceSet> {
        if node == self.me() {
            Some(self.fit_devices())
        } else {
            self.peer_state(node).map(|state| state.devices)
        }
    }

    /// The nodes that would go on if they had to: one that has left, or cannot use its local copy, does not, and is no member of what
    /// comes next.
    pub(super) fn able_nodes(&self) -> NodeSet {
        let here = self.is_open() || self.takes_part_in_plans() && self.ready();
        let own = if here {
            NodeSet::of(self.me())
        } else {
            NodeSet::EMPTY
        };
        let others = self.cluster_nodes().without(self.me());
        let heard = others.iter().filter(|node| self.is_able(*node)).collect();
        // Of a node that is not heard here another one says it.
        let is_told = |node: &NodeId| {
            let tells = |other: NodeId| {
                self.linked(other)
                    && self
                        .peer_state(other)
                        .is_some_and(|state| state.able.contains(*node))
            };
            self.peer_state(*node).is_none() && others.iter().any(tells)
        };
        own.union(heard).union(others.iter().filter(is_told).collect())
    }

    fn is_able(&self, node: NodeId) -> bool {
        let facts = self.facts(node);
        facts.linked && facts.willing && facts.ready
    }

    /// What this node tells the others of that.
    pub(super) fn able_peers(&self) -> NodeSet {
        let others = self.cluster_nodes().without(self.me());
        let is_able = |node: &NodeId| self.is_able(*node) && self.is_taken_to_vote(*node);
        others.iter().filter(is_able).collect()
    }

    /// Losses that nothing else that was found explains.
    fn unexplained(&self, survives: &[(Part, bool)]) -> Option<Problem> {
        let lost: Vec<String> = (survives.iter())
            .filter(|(_, survives)| !survives)
            .map(|(part, _)| match part {
                Part::Node(node) => format!("node {node}"),
                Part::Device(role) => role.to_string(),
            })
            .collect();
        let others = self.cluster_nodes().without(self.me());
        let text = || {
            let lost = lost.join(", or of ");
            if others.is_empty() {
                format!("the cluster has this node alone, and would not survive the loss of {lost}")
            } else {
                format!("would not survive the loss of {lost}")
            }
        };
        (!lost.is_empty()).then(|| Problem::new(Cause::NotRedundant, text()))
    }

    fn node_status(&self, node: NodeId, serving: bool) -> NodeStatus {
        let me = node == self.me();
        let state = self.peer_state(node);
        NodeStatus {
            id: node,
            member: self.known.members.contains(node),
            heard: me || self.linked(node),
            seen_on_disk: !me && self.moves_on_disk(node),
            serving: if me {
                serving
            } else {
                state.is_some_and(|state| state.serving)
            },
            position: if me {
                Some(self.committed.position())
            } else {
                state.map(|state| state.position)
            },
            lease: if me {
                let until = self.lease_until();
                (until != Time::NEVER).then(|| until.since(self.now))
            } else {
                Some(self.promise_left(node))
            },
        }
    }

    fn device_status(&self, role: DeviceRole) -> DeviceStatus {
        let view = self.replica(Replica::Device(role));
        DeviceStatus {
            role,
            usable: view.usable(),
            in_sync: self.known.devices.contains(role)
                && !self.known.is_genesis()
                && !self.is_found_made_anew(role)
                && view.damage.is_none()
                && self.device_fits(role),
            error: (view.error().map(ToString::to_string))
                .or_else(|| {
                    self.is_found_made_anew(role)
                        .then(|| self.made_anew_text_of(role))
                })
                .or_else(|| self.damage_text(role))
                .or_else(|| self.small_text(role)),
            reservation: self.fences.get(&role).and_then(|fence| fence.seen.clone()),
            registered: self.registered_on(role),
            elsewhere: self.elsewhere(role),
        }
    }

    /// The same device as the other nodes say that it is.
    fn elsewhere(&self, role: DeviceRole) -> Vec<DeviceElsewhere> {
        let others = self.cluster_nodes().without(self.me());
        let seen_by = |node| DeviceElsewhere {
            node,
            usable: self.peer_state(node).map(|state| state.devices.contains(role)),
            error: (self.reported(node).iter())
                .find(|problem| problem.device == Some(role))
                .map(|problem| problem.text.clone()),
        };
        others.iter().map(seen_by).collect()
    }
}

/// All of it in one text.
fn verdict_of(problems: &[Problem]) -> String {
    let texts: Vec<&str> = problems.iter().map(|problem| problem.text.as_str()).collect();
    texts.join("; ")
}
