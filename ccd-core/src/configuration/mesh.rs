//! Links between nodes: a member that too few of the others hear holds no lease, so it cannot serve with them.

use super::votes::{self, Voters};
use super::{Configuration, Mode};
use crate::ids::{DeviceSet, NodeId, NodeSet};

/// Nodes as members of a successor with these devices, and who of them hears whom.
pub(crate) struct Mesh<'a, J> {
    pub configuration: &'a Configuration,
    pub devices: DeviceSet,
    /// Whether these two hear each other.
    pub joined: J,
}

impl<J: Fn(NodeId, NodeId) -> bool> Mesh<'_, J> {
    /// Those of `asked` that would hold no lease as members of this group.
    pub fn without_lease(&self, group: NodeSet, asked: NodeSet) -> NodeSet {
        let next = Configuration {
            mode: Mode::Paired,
            // A vote that an override has taken comes back with it.
            nodes: self.configuration.cluster,
            members: group,
            devices: self.devices,
            ..self.configuration.clone()
        };
        let lacks = |node: &NodeId| {
            let grants = |other: &NodeId| other == node || (self.joined)(*node, *other);
            let grants = group.iter().filter(grants).collect();
            !votes::decide(&next, Voters::new(grants, DeviceSet::EMPTY))
        };
        group.intersection(asked).iter().filter(lacks).collect()
    }

    /// The group that can serve: this one without those of `asked` that would hold no lease, the highest-numbered first.
    pub fn serving(&self, group: NodeSet, asked: NodeSet) -> NodeSet {
        let mut left = group;
        while let Some(last) = self.without_lease(left, asked).iter().last() {
            left = left.without(last);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;

    fn node(number: u8) -> NodeId {
        NodeId::new(number).unwrap()
    }

    fn serving(nodes: u8, cut: &[(u8, u8)]) -> NodeSet {
        let all: NodeSet = (0..nodes).map(node).collect();
        let configuration = Configuration {
            epoch: Epoch(5),
            members: all,
            ..Configuration::genesis(all, DeviceSet::EMPTY)
        };
        let mesh = Mesh {
            configuration: &configuration,
            devices: DeviceSet::EMPTY,
            joined: |one, other| {
                let is_it =
                    |(a, b): &(u8, u8)| [(node(*a), node(*b)), (node(*b), node(*a))].contains(&(one, other));
                !cut.iter().any(is_it)
            },
        };
        mesh.serving(all, all.without(node(0)))
    }

    #[test]
    fn one_of_two_that_do_not_hear_each_other_serves_if_each_needs_the_other() {
        let of = |numbers: &[u8]| -> NodeSet { numbers.iter().copied().map(node).collect() };
        for (nodes, cut, expected) in [
            (3, &[][..], &[0, 1, 2][..]),
            // Two of three are enough for a lease.
            (3, &[(1, 2)], &[0, 1, 2]),
            (3, &[(0, 1), (1, 2)], &[0, 2]),
            // Three of four are needed.
            (4, &[(2, 3)], &[0, 1, 2, 3]),
            (4, &[(1, 3), (2, 3)], &[0, 1, 2]),
            (4, &[(0, 1), (2, 3)], &[0, 1, 2, 3]),
            (5, &[(1, 4), (2, 4), (3, 4)], &[0, 1, 2, 3]),
        ] {
            assert_eq!(serving(nodes, cut), of(expected), "{nodes} nodes, cut {cut:?}");
        }
    }
}
