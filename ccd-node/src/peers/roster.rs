//! The peers, and the init databases by which they are known; changes while the daemon runs.

use super::hello::Digest;
use ccd_core::ids::{NodeId, NodeSet, Servers};

/// A second digest counts while nodes are added or removed: some nodes go by the new init database before others do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roster {
    pub nodes: NodeSet,
    /// Digest of the init database that this node goes by.
    pub digest: Digest,
    /// Digest of the one that is stored beside it, or that it went by before.
    pub other: Option<Digest>,
    /// Nodes that came with the present one. A node that had one of their numbers before, and was removed, goes by an earlier one.
    pub added: NodeSet,
    /// To which servers the present one gives the numbers.
    pub servers: Servers,
}

impl Roster {
    /// Whether two nodes go by the same init database, or one of them is about to.
    pub fn agrees(&self, digest: Digest, other: Option<Digest>) -> bool {
        let theirs = [Some(digest), other];
        [Some(self.digest), self.other]
            .into_iter()
            .flatten()
            .any(|ours| theirs.contains(&Some(ours)))
    }

    /// Those of these nodes that are the same servers as before: a connection to a server that had the number before says nothing.
    pub fn staying(&self, nodes: NodeSet, servers: &Servers) -> NodeSet {
        nodes
            .iter()
            .filter(|node| !self.servers.get(*node).differs_from(servers.get(*node)))
            .collect()
    }

    /// Whether the node that has this number by the present init database can go by these: one that was added with it can have
    /// no other.
    pub fn owns_number(&self, node: NodeId, digest: Digest, other: Option<Digest>) -> bool {
        !self.added.contains(node) || [Some(digest), other].contains(&Some(self.digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::ids::ServerId;

    #[test]
    fn nodes_meet_as_long_as_one_init_database_is_known_to_both() {
        let (old, new, third) = (Digest([1; 32]), Digest([2; 32]), Digest([3; 32]));
        let roster = |digest, other| Roster {
            nodes: NodeSet::EMPTY,
            digest,
            other,
            added: NodeSet::EMPTY,
            servers: Servers::default(),
        };
        #[rustfmt::skip]
        let table = [
            ("the same",                              roster(old, None),        old,   None,      true),
            ("another",                               roster(old, None),        new,   None,      false),
            ("it has the new one stored",             roster(old, Some(new)),   new,   None,      true),
            ("the other has it stored, and started again", roster(new, None),   old,   Some(new), true),
            ("it went by the old one until now",      roster(new, Some(old)),   old,   None,      true),
            ("a file that nobody knows",              roster(new, Some(old)),   third, None,      false),
        ];
        for (situation, ours, digest, other, expected) in table {
            assert_eq!(ours.agrees(digest, other), expected, "{situation}");
        }
    }

    #[test]
    fn a_connection_to_a_server_that_lost_its_number_is_not_kept() {
        let [a, b, c] = [0, 1, 2].map(|number| NodeId::new(number).expect("a small number"));
        let servers = |ids: [u64; 3]| {
            let mut servers = Servers::default();
            for (node, id) in [a, b, c].into_iter().zip(ids) {
                servers.set(node, ServerId(id));
            }
            servers
        };
        let nodes: NodeSet = [a, b, c].into_iter().collect();
        let before = Roster {
            nodes,
            digest: Digest([1; 32]),
            other: None,
            added: NodeSet::EMPTY,
            servers: servers([7, 8, 0]),
        };
        // Two changes that were made while this node was away: it hears of the second only.
        let after = servers([7, 9, 5]);
        assert_eq!(before.staying(nodes, &after), NodeSet::of(a).with(c));
        assert_eq!(
            before.staying(nodes.without(c), &before.servers),
            nodes.without(c)
        );
    }

    #[test]
    fn a_removed_node_is_not_taken_for_the_one_that_was_given_its_number() {
        let digests = [1, 2, 3].map(|byte| Digest([byte; 32]));
        let [with_removed, without, with_added] = digests;
        let node = NodeId::new(1).unwrap();
        let ours = Roster {
            nodes: NodeSet::of(node),
            digest: with_added,
            other: Some(without),
            added: NodeSet::of(node),
            servers: Servers::default(),
        };
        // It has stored the init database that removed it, and never went by it.
        assert!(ours.agrees(with_removed, Some(without)));
        assert!(!ours.owns_number(node, with_removed, Some(without)));
        assert!(ours.owns_number(node, with_added, None));
        let later = Roster {
            added: NodeSet::EMPTY,
            ..ours
        };
        assert!(later.owns_number(node, without, Some(with_added)));
    }
}
