//! What two nodes tell each other before anything else, and whether they may go on.
//!
//! A [`Hello`] travels inside the handshake, so only a holder of the cluster's key can read or make one.

use super::roster::Roster;
use ccd_core::ids::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;

/// Version of the messages between nodes. Both sides must have the same.
pub const PROTOCOL: u16 = 1;

/// `protocol` stays the first field in every version, so that different versions can still tell each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u16,
    pub cluster: ClusterId,
    /// Of the init database.
    pub init_digest: [u8; 32],
    pub from: NodeId,
    pub to: NodeId,
    /// Of the init database that is stored for a change of nodes, or was gone by before.
    pub init_other: Option<[u8; 32]>,
}

/// What this node says and expects.
#[derive(Clone, Debug)]
pub struct Identity {
    pub me: NodeId,
    pub cluster: ClusterId,
    pub roster: RefCell<Roster>,
    /// From `/etc/ccd/authkey`.
    pub key: [u8; 32],
}

/// Why two nodes with the same key do not talk. Seen from the side that found it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Mismatch {
    #[error(
        "node protocol version {dialer} of the connecting node differs from {listener}; run the same release on both"
    )]
    Protocol { dialer: u16, listener: u16 },
    #[error(
        "cluster id {dialer} of the connecting node differs from {listener}; copy init.ccd and authkey of one cluster \
         to both nodes"
    )]
    Cluster { dialer: ClusterId, listener: ClusterId },
    #[error("the init databases differ; copy one init.ccd to all nodes and restart ccdd there")]
    InitDigest,
    #[error(
        "node {wanted} was called, and node {answered} has this address; check the ADDRESS rows and the node files"
    )]
    WrongNode { wanted: NodeId, answered: NodeId },
    #[error(
        "node {0} is not a node of this cluster: it was removed (`ccdctl add-node` takes it in again), it was never added, or the \
         answering node has the same number; check the node files"
    )]
    NotAPeer(NodeId),
}

impl Identity {
    pub fn hello(&self, to: NodeId) -> Hello {
        let roster = *self.roster.borrow();
        Hello {
            protocol: PROTOCOL,
            cluster: self.cluster,
            init_digest: roster.digest,
            from: self.me,
            to,
            init_other: roster.other,
        }
    }

    /// Whether the node that dialed may talk to this one.
    pub fn check(&self, dialer: &Hello) -> Result<(), Mismatch> {
        if dialer.protocol != PROTOCOL {
            return Err(Mismatch::Protocol {
                dialer: dialer.protocol,
                listener: PROTOCOL,
            });
        }
        if dialer.cluster != self.cluster {
            return Err(Mismatch::Cluster {
                dialer: dialer.cluster,
                listener: self.cluster,
            });
        }
        let roster = *self.roster.borrow();
        // Before the digest: a node that was removed has an init database of its own.
        if dialer.from != self.me && !roster.nodes.contains(dialer.from) {
            return Err(Mismatch::NotAPeer(dialer.from));
        }
        if !roster.agrees(dialer.init_digest, dialer.init_other) {
            return Err(Mismatch::InitDigest);
        }
        if dialer.to != self.me {
            return Err(Mismatch::WrongNode {
                wanted: dialer.to,
                answered: self.me,
            });
        }
        if dialer.from == self.me {
            return Err(Mismatch::NotAPeer(dialer.from));
        }
        Ok(())
    }
}
