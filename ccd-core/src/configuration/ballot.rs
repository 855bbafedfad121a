//! Ballots of the Paxos that decides the successor of a configuration.
//!
//! A node votes by message and stores its [`BallotBlock`] in its local copy. A device votes passively (Disk
//! Paxos, Gafni and Lamport 2003): each node has a ballot block of its own there, writes it, then reads the
//! others'.

use super::Configuration;
use crate::ids::{Epoch, Incarnation, NodeId};
use core::fmt;
use serde::{Deserialize, Serialize};

/// One attempt of one node at deciding a successor. Unique: two nodes never use the same ballot, and a node
/// never uses one twice, whatever it forgets when it dies: it may have proposed something before its own disk had the ballot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ballot {
    /// Ordered first; a node raises it above every ballot it has seen.
    pub round: u64,
    /// Breaks ties.
    pub node: NodeId,
    /// Of the node's process that uses it.
    pub incarnation: Incarnation,
}

impl fmt::Debug for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}.{}", self.round, self.node)
    }
}

/// What a voter has promised and accepted: the durable state of one Paxos acceptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BallotBlock {
    /// The epoch of the configuration whose successor is being decided. A later instance replaces an
    /// earlier one, never the other way round.
    pub instance: Epoch,
    /// Nothing below this ballot is taken part in any more.
    pub promised: Ballot,
    /// The highest-numbered value voted for in this instance.
    pub accepted: Option<(Ballot, Configuration)>,
}

/// That some node means to replace a configuration: what a solo owner looks for before it acks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub node: NodeId,
    pub instance: Epoch,
    pub ballot: Ballot,
}
