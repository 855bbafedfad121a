//! Links between others: a member that too few of the others hear holds no lease. It would stop as soon as the configuration has opened, be taken
//! for one that has started again, and so on without end. So one of the two that do not hear each other is left out until they do.

use super::{Facts, View};
use crate::configuration::mesh::Mesh;
use crate::ids::{DeviceSet, NodeId, NodeSet};

impl View<'_> {
    /// These members without those, the highest-numbered first, that would hold no lease with these devices.
    pub(super) fn meshed(&self, members: NodeSet, devices: DeviceSet) -> NodeSet {
        self.mesh(devices).serving(members, self.heard(members))
    }

    /// Members that are heard here, and that too few of the others hear.
    pub(super) fn without_lease(&self, members: NodeSet, devices: DeviceSet) -> NodeSet {
        self.mesh(devices).without_lease(members, self.heard(members))
    }

    fn mesh(&self, devices: DeviceSet) -> Mesh<'_, impl Fn(NodeId, NodeId) -> bool> {
        Mesh {
            configuration: self.known,
            devices,
            joined: |one, other| self.may_hear_each_other(one, other),
        }
    }

    fn heard(&self, members: NodeSet) -> NodeSet {
        let is_heard = |node: &NodeId| *node != self.me && self.of(*node).linked;
        members.iter().filter(is_heard).collect()
    }

    /// Those of these joiners that hear the members that stay and each other, and are heard: one that does not would leave others out.
    pub(super) fn joined(&self, staying: NodeSet, joiners: NodeSet) -> NodeSet {
        let mut joined = NodeSet::EMPTY;
        for node in joiners.iter() {
            let everybody = staying.union(joined);
            if everybody
                .iter()
                .all(|other| self.may_hear_each_other(node, other))
            {
                joined = joined.with(node);
            }
        }
        joined
    }

    /// A member that `peer` hears, and this node does not, although it has been here for long enough.
    pub(super) fn member_apart(&self, peer: NodeId) -> Option<NodeId> {
        let facts = self.of(peer);
        let is_apart = |node: &NodeId| {
            *node != peer && facts.hears.contains(*node) && !self.of(*node).linked && facts.lasting
        };
        self.others(self.known.members).find(is_apart)
    }

    /// Unless they are known not to.
    fn may_hear_each_other(&self, one: NodeId, other: NodeId) -> bool {
        let is_me = |node: NodeId| node == self.me;
        if is_me(one) || is_me(other) {
            return [one, other]
                .iter()
                .all(|node| is_me(*node) || self.of(*node).linked);
        }
        let (first, second): (&Facts, &Facts) = (self.of(one), self.of(other));
        // Of one that has just come the others' last heartbeats say nothing yet.
        let is_known = first.lasting && second.lasting;
        !is_known || first.hears.contains(other) && second.hears.contains(one)
    }
}
