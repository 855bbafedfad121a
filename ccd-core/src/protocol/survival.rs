//! Which single losses the cluster would survive, and with what it would go on: by what all nodes say of themselves and of each other.

use super::Node;
use super::interface::Part;
use crate::configuration::Quorum;
use crate::configuration::mesh::Mesh;
use crate::configuration::votes::{self, Lost, Voters};
use crate::ids::{DeviceSet, NodeId, NodeSet};
use alloc::vec::Vec;

impl Node {
    /// Which single losses the cluster would survive. After the loss of a node another one must go on with the nodes that it hears and the
    /// devices that *it* can use, by what they say themselves.
    pub(super) fn survives(&self, serving: bool) -> Vec<(Part, bool)> {
        let nodes = (self.settings.nodes.iter()).map(|node| (Part::Node(node), Lost::Node(node)));
        let devices = (self.settings.devices.iter()).map(|role| (Part::Device(role), Lost::Device(role)));
        nodes
            .chain(devices)
            .map(|(part, lost)| (part, serving && self.survives_loss(lost)))
            .collect()
    }

    /// See [`survives`](Self::survives); a drill says the same.
    pub(super) fn survives_loss(&self, lost: Lost) -> bool {
        // During maintenance no node is replaced.
        if self.known.maintenance && matches!(lost, Lost::Node(_)) {
            return false;
        }
        let may_go_on = |node: &NodeId| lost != Lost::Node(*node);
        // With such a flag only those that serve go on without all nodes.
        let may_decide = |node: &NodeId| !self.needs_all_nodes() || self.known.members.contains(*node);
        let able = self.able_nodes();
        able.iter().filter(may_go_on).filter(may_decide).any(|node| {
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
        let mesh = Mesh {
            configuration: known,
            devices: DeviceSet::EMPTY,
            joined: |one, other| self.hear_each_other(one, other),
        };
        mesh.serving(nodes, nodes.without(node))
            .is_more_than_half_of(self.cluster_nodes().count())
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
}
