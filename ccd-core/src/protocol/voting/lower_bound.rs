//! The lower bound of a start (DESIGN §7): the newest state that is known to have been committed, by whatever this node can read.
//! A start from less loses an update that was acknowledged, so it does not happen unattended. Pure; a table tests it.
//!
//! Votes alone do not show that a replica was set back to an earlier moment: a restored image of a server, a storage snapshot, an
//! old state folder. Such a replica votes and answers with what it held then. But what is *not* set back with it may say more:
//! the heartbeat blocks of all nodes on all devices, this node's history, the mark in its local copy, its peers.
//!
//! Every stamp that is noted here was the committed state of a node that served. So each state that votes decide on later is no
//! older, and the bound holds up no start from replicas that are what they were. Only an override goes back behind it.
//!
//! `conclude.rs` asks before a restart or takeover goes on from the state it has chosen; a node that serves all along goes on
//! from its own state. A node carries what it knows forward in its own heartbeats.

use crate::configuration::Configuration;
use crate::ids::{DeviceRole, Epoch, NodeId, Stamp};
use crate::protocol::voting::conclude::may_be_overruled;
use alloc::format;
use alloc::string::String;
use core::fmt;

/// No cluster reaches this epoch or generation: a stamp beyond is no evidence but damage.
const PLAUSIBLE_MAX: u64 = 1 << 62;

/// Where a committed state was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// A heartbeat block of this node on this device.
    Heartbeat(NodeId, DeviceRole),
    /// The mark in the local copy.
    LocalCopy,
    /// The history that the driver keeps.
    History,
    /// Another node said it while it served, or when it promised.
    Peer(NodeId),
    /// This run served it.
    Memory,
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Heartbeat(node, role) => write!(f, "the {role}'s heartbeat of node {node}"),
            Self::LocalCopy => f.write_str("the mark in the local copy"),
            Self::History => f.write_str("the history of this node"),
            Self::Peer(node) => write!(f, "node {node}"),
            Self::Memory => f.write_str("this node, which served it,"),
        }
    }
}

/// The newest state that is known to have been committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LowerBound {
    newest: Option<(Stamp, Witness)>,
}

impl LowerBound {
    /// This state was committed.
    pub fn note(&mut self, stamp: Stamp, by: Witness) {
        let is_plausible = stamp.epoch.0 < PLAUSIBLE_MAX && stamp.generation.0 < PLAUSIBLE_MAX;
        if is_plausible && stamp > self.stamp() {
            self.newest = Some((stamp, by));
        }
    }

    /// `0/0` if nothing is known.
    pub fn stamp(&self) -> Stamp {
        self.newest.map_or(Stamp::default(), |(stamp, _)| stamp)
    }

    pub fn epoch(&self) -> Epoch {
        self.stamp().epoch
    }

    /// Whether the successor of `known` may start from this state.
    ///
    /// # Errors
    /// Names the newer state and where it was seen.
    pub fn allows(&self, known: &Configuration, start: Stamp) -> Result<(), String> {
        match self.newest {
            Some((bound, by)) if !reaches(known.epoch, start, bound) => Err(format!(
                "{by} shows {bound}, and the newest state found is {start}"
            )),
            _ => Ok(()),
        }
    }
}

/// Why a start waits that the bound does not allow, for people.
pub(in crate::protocol) fn below_text(shown: &str) -> String {
    format!(
        "a start would lose what was acknowledged: {shown}; bring back a replica that holds it, or give it up with `ccdctl \
         takeover --force`"
    )
}

/// Whether a start after the configuration of epoch `known` from the state `start` holds all that `bound` held.
///
/// | | bound of an earlier epoch | of the same | of a later |
/// | --- | --- | --- | --- |
/// | a state of `known` was found | settled when `known` was decided | generation | a later configuration is overlooked |
/// | none was: `known` never opened | generation, unless the state is of a later epoch or an override came between | `known` did open | overlooked |
fn reaches(known: Epoch, start: Stamp, bound: Stamp) -> bool {
    if bound.epoch >= known {
        return start >= bound;
    }
    // Epochs that never opened may have left another number on the same content, so what counts is the generation.
    start.epoch >= known
        || start.epoch > bound.epoch
        || start.generation >= bound.generation
        || may_be_overruled(bound.epoch, known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::Configuration;
    use crate::ids::{DeviceSet, Generation, NodeSet};

    const A: NodeId = NodeId::new(0).unwrap();
    const B: NodeId = NodeId::new(1).unwrap();

    fn at(epoch: u64, generation: u64) -> Stamp {
        Stamp {
            epoch: Epoch(epoch),
            generation: Generation(generation),
        }
    }

    fn known(epoch: u64) -> Configuration {
        Configuration {
            epoch: Epoch(epoch),
            ..Configuration::genesis(NodeSet::of(A).with(B), DeviceSet::EMPTY)
        }
    }

    #[test]
    fn a_start_below_what_was_committed_is_refused_and_any_other_is_not() {
        #[rustfmt::skip]
        let table = [
            // known, start, committed, may start
            ("nothing is known to be committed",                   3, at(3, 4),       at(0, 0),       true),
            ("the state that was committed",                       3, at(3, 54),      at(3, 54),      true),
            ("a prepared round beyond it",                         3, at(3, 55),      at(3, 54),      true),
            ("a replica that was set back",                        3, at(3, 4),       at(3, 54),      false),
            ("the last record is missing",                         3, at(3, 53),      at(3, 54),      false),
            ("what came before was settled by the votes",          4, at(4, 54),      at(3, 54),      true),
            ("a round of the last epoch that was rolled back",     4, at(4, 50),      at(3, 50),      true),
            ("a later configuration served, and is not known",     3, at(3, 54),      at(4, 54),      false),
            ("the configuration opened, and its state is not here", 4, at(3, 54),     at(4, 54),      false),
            ("it never opened: the state it was to start from",    4, at(3, 54),      at(3, 54),      true),
            ("it never opened, and that state was set back",       4, at(3, 20),      at(3, 54),      false),
            ("it never opened: the content of an epoch between",   5, at(3, 54),      at(4, 54),      true),
            ("the same, set back",                                 5, at(3, 53),      at(4, 54),      false),
            ("it never opened, and a later epoch's state is found", 5, at(4, 10),     at(3, 54),      true),
            ("an override left a branch behind",             100_000, at(3, 20),      at(3, 54),      true),
            ("an override that opened",                      100_000, at(100_000, 20), at(3, 54),     true),
            ("what was committed after an override",         100_000, at(100_000, 20), at(100_000, 21), false),
            ("a second override left the branch of the first", 101_000, at(6, 20),    at(100_000, 54), true),
            ("an override elsewhere is overlooked",                6, at(6, 20),      at(100_000, 20), false),
            ("all replicas are new, and the history is not",       0, at(0, 0),       at(3, 54),      false),
            ("a new cluster",                                      0, at(0, 0),       at(0, 0),       true),
        ];
        for (rule, epoch, start, committed, expected) in table {
            let mut bound = LowerBound::default();
            bound.note(committed, Witness::Heartbeat(B, DeviceRole::Primary));
            assert_eq!(bound.allows(&known(epoch), start).is_ok(), expected, "{rule}");
        }
    }

    #[test]
    fn the_newest_evidence_is_named_with_the_place_where_it_was_seen() {
        let mut bound = LowerBound::default();
        bound.note(at(3, 50), Witness::History);
        bound.note(at(3, 54), Witness::Heartbeat(B, DeviceRole::Primary));
        bound.note(at(3, 52), Witness::Peer(B));
        assert_eq!(
            bound.allows(&known(3), at(3, 4)).unwrap_err(),
            "the primary's heartbeat of node 1 shows 3/54, and the newest state found is 3/4"
        );
    }

    #[test]
    fn a_stamp_that_no_cluster_reaches_is_no_evidence() {
        let mut bound = LowerBound::default();
        bound.note(at(u64::MAX, 1), Witness::Peer(B));
        bound.note(at(1, u64::MAX), Witness::Peer(B));
        assert_eq!(bound.stamp(), Stamp::default());
    }
}
