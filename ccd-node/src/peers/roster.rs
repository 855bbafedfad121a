//! Who the peers are, and by which init databases they are known; changes while the daemon runs.

use super::hello::Digest;
use ccd_core::ids::NodeSet;

/// A second digest counts while nodes are added or removed: some nodes go by the new init database before others do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roster {
    pub nodes: NodeSet,
    /// Of the init database that this node goes by.
    pub digest: Digest,
    /// Of the one that is stored beside it, or that it went by before.
    pub other: Option<Digest>,
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_meet_as_long_as_one_init_database_is_known_to_both() {
        let (old, new, third) = (Digest([1; 32]), Digest([2; 32]), Digest([3; 32]));
        let roster = |digest, other| Roster {
            nodes: NodeSet::EMPTY,
            digest,
            other,
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
}
