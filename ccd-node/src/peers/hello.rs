//! What two nodes tell each other before anything else, and whether they may go on.
//!
//! A [`Hello`] travels inside the handshake, so only a holder of one of the cluster's keys can read or make one.

use super::roster::Roster;
use super::version::Versions;
use ccd_client::files::Authkeys;
use ccd_core::ids::{ClusterId, Epoch, Incarnation, NodeId, ServerId, Servers, Stamp};
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::net::IpAddr;

/// Sent before the versions are settled, so every version reads it: later ones may append fields, which earlier ones
/// do not look at, and change none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub cluster: ClusterId,
    pub init_digest: Digest,
    pub from: NodeId,
    pub to: NodeId,
    /// The run of the dialing daemon: tells its own handshakes, and two daemons with one number, from each other.
    pub run: Incarnation,
    /// Which of the listener's addresses was dialed, counted from 0.
    pub network: u8,
    /// The reconfiguration that the connection belongs to.
    pub epoch: Epoch,
    /// Digest of the init database that is stored for a change of nodes, or was gone by before.
    pub init_other: Option<Digest>,
    /// Which server the dialer is, and which it takes the listener for.
    pub server: ServerId,
    pub to_server: ServerId,
}

/// Digest of an init database; shown by its first half.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..16].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// How far the cluster has come, as a node knows it: told to those that it does not talk to, which may have been put back to an earlier
/// state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The newest reconfiguration that is decided.
    pub epoch: Epoch,
    /// The newest state that it knows to be committed.
    pub newest: Stamp,
}

/// What this node says and expects.
#[derive(Debug)]
pub struct Identity {
    pub me: NodeId,
    pub run: Incarnation,
    pub cluster: ClusterId,
    pub roster: RefCell<Roster>,
    pub progress: Cell<Progress>,
    /// Which server has each number by its epoch.
    pub servers: Cell<Servers>,
    pub versions: Versions,
    /// From `/etc/ccd/authkey`; replaced when the file is read again.
    pub keys: RefCell<Authkeys>,
}

/// Why two nodes with a key in common do not talk. Seen from the side that was dialed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Mismatch {
    #[error(
        "cluster id {dialer} of the connecting node differs from {listener}; copy init.ccd and authkey of one cluster \
         to both nodes"
    )]
    Cluster { dialer: ClusterId, listener: ClusterId },
    #[error(
        "the init databases differ: digest {dialer} at the connecting node, {listener} at the other; copy one init.ccd \
         to all nodes and restart ccdd where it changed"
    )]
    InitDigest { dialer: Digest, listener: Digest },
    #[error(
        "node {wanted} was called, and node {answered} has this address; check the ADDRESS rows and the node files"
    )]
    WrongNode { wanted: NodeId, answered: NodeId },
    #[error(
        "node {0} is not in the init database: it was removed or never added (`ccdctl add-node` on a node of the cluster does \
         that), or its node file is wrong (`ccdadm setup --this NAME`)"
    )]
    NotInInit(NodeId),
    #[error(
        "both sides claim to be node {0}; correct the node file of one of them (`ccdadm setup --this NAME`) and \
         restart ccdd there"
    )]
    SameNumber(NodeId),
    #[error(
        "another daemon, at {by}, runs as node {node} already; correct the node file of one of them \
         (`ccdadm setup --this NAME`) and restart ccdd there"
    )]
    Claimed { node: NodeId, by: IpAddr },
    #[error(
        "the handshake is this node's own: somebody sent it back, or the address of node {to} leads here; check the \
         ADDRESS rows, and who is on that network"
    )]
    Reflected { to: NodeId },
    #[error(
        "the handshake was here before: somebody recorded one of node {from} and repeats it; find out who is on that \
         network"
    )]
    Replayed { from: NodeId },
    #[error(
        "node {0} was removed from the cluster, and its number belongs to another server now; stop ccdd on the connecting \
         node (`ccdctl add-node` on a node of the cluster gives it a number of its own)"
    )]
    NumberReused(NodeId),
    #[error(
        "the number {node} was given to two servers, one after the other: to {dialer} by the init database of the connecting node, to \
         {listener} by the other one's (epoch {epoch}); stop ccdd on the server that was removed: its first line says that it was, and \
         `ccdctl add-node` on a node of the cluster gives it a number of its own; a server that was not removed has an old init.ccd: copy \
         that of another node"
    )]
    OtherServer {
        node: NodeId,
        dialer: ServerId,
        listener: ServerId,
        /// The newest reconfiguration that the listener knows to be decided; zero where an earlier release does not say.
        epoch: Epoch,
    },
}

impl Mismatch {
    /// The listener is of the dialer's cluster, and its progress says something of it. One that is another server than the dialer takes it for
    /// may have been removed.
    pub fn is_of_the_cluster(&self, dialer: NodeId) -> bool {
        match self {
            Self::InitDigest { .. } | Self::NotInInit(_) | Self::NumberReused(_) => true,
            Self::OtherServer { node, .. } => *node == dialer,
            Self::Cluster { .. }
            | Self::WrongNode { .. }
            | Self::SameNumber(_)
            | Self::Claimed { .. }
            | Self::Reflected { .. }
            | Self::Replayed { .. } => false,
        }
    }
}

impl Identity {
    pub fn hello(&self, to: NodeId, network: u8, epoch: Epoch) -> Hello {
        let roster = *self.roster.borrow();
        Hello {
            cluster: self.cluster,
            init_digest: roster.digest,
            from: self.me,
            to,
            run: self.run,
            network,
            epoch,
            init_other: roster.other,
            server: roster.servers.get(self.me),
            to_server: roster.servers.get(to),
        }
    }

    /// Whether the node that dialed may talk to this one.
    pub fn check(&self, dialer: &Hello) -> Result<(), Mismatch> {
        if dialer.cluster != self.cluster {
            return Err(Mismatch::Cluster {
                dialer: dialer.cluster,
                listener: self.cluster,
            });
        }
        if dialer.run == self.run {
            return Err(Mismatch::Reflected { to: dialer.to });
        }
        // What else differs follows from it. One that has this node's number is another case.
        if dialer.to != self.me && dialer.from != self.me {
            return Err(Mismatch::WrongNode {
                wanted: dialer.to,
                answered: self.me,
            });
        }
        let roster = *self.roster.borrow();
        // Before the digest: a node that was removed has an init database of its own.
        if !roster.nodes.contains(dialer.from) {
            return Err(Mismatch::NotInInit(dialer.from));
        }
        for (node, dialer) in [(dialer.from, dialer.server), (dialer.to, dialer.to_server)] {
            let listener = roster.servers.get(node);
            if dialer.differs_from(listener) {
                return Err(Mismatch::OtherServer {
                    node,
                    dialer,
                    listener,
                    // What only an init database says, which may be an older one, is no decision.
                    epoch: if self.servers.get().get(node) == listener {
                        self.progress.get().epoch
                    } else {
                        Epoch::default()
                    },
                });
            }
        }
        // A file without ids does not tell which server it is.
        if !roster.owns_number(dialer.from, dialer.init_digest, dialer.init_other) {
            return Err(Mismatch::NumberReused(dialer.from));
        }
        if !roster.agrees(dialer.init_digest, dialer.init_other) {
            return Err(Mismatch::InitDigest {
                dialer: dialer.init_digest,
                listener: roster.digest,
            });
        }
        if dialer.from == self.me {
            return Err(Mismatch::SameNumber(self.me));
        }
        Ok(())
    }
}
