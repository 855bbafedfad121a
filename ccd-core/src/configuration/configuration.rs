//! A configuration: the facts that the cluster last agreed on.
//!
//! Configurations form one chain: the successor of epoch `e` is decided once, by the voters of epoch `e`
//! (see `votes.rs`), and gets epoch `e + 1`. Only an operator's override jumps further.

use crate::ids::{DeviceSet, Epoch, Folders, NodeId, NodeSet, Position, Regions, Servers};
use crate::time::Date;
use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// Most bytes of a configuration's reason.
pub const REASON_BYTES_MAX: usize = 512;

/// Where an update must be durable before it is acked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// On the local copy of every member (Figs. 1 to 5).
    Paired,
    /// On every in-sync device; the owner alone serves (Fig. 7).
    Solo(NodeId),
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paired => f.write_str("paired"),
            Self::Solo(owner) => write!(f, "solo({owner})"),
        }
    }
}

/// The fourth column of the consistency record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestoreFlag {
    /// `4`: all nodes were active at the last restore.
    #[default]
    AllActive,
    /// `3`: not all were; until all nodes have been active once, nothing restarts unattended.
    NotAllActive,
}

impl RestoreFlag {
    pub const fn digit(self) -> char {
        match self {
            Self::AllActive => '4',
            Self::NotAllActive => '3',
        }
    }
}

/// Whether a majority is needed to go on (`ccdadm quorum on|off`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quorum {
    #[default]
    Required,
    /// An operator gave it up: whoever is left goes on, as if every loss of the majority were overruled.
    Waived,
}

/// How a configuration came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decider {
    /// By the voters of the one before it.
    Votes,
    /// By an operator's override, whatever the voters said.
    Operator,
}

/// The replicas an update must be durable on before it is acked: local copies of nodes, or devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writers {
    pub nodes: NodeSet,
    pub devices: DeviceSet,
}

/// What the cluster last agreed on. Stored on every replica that takes part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    pub epoch: Epoch,
    pub mode: Mode,
    /// The nodes that serve. In solo mode the owner alone.
    pub members: NodeSet,
    /// The nodes that have a vote, members or not: all of the cluster, or after an override the members alone.
    pub nodes: NodeSet,
    /// All nodes of the cluster, with or without a vote. One that is not among them was removed.
    pub cluster: NodeSet,
    /// Paired: the devices that vote. Solo: the devices that also hold every update.
    pub devices: DeviceSet,
    /// The regions on these devices, and on those that `base_writers` names: every member has shown that it sees the same ones. A
    /// device with another region is not this voter.
    pub regions: Regions,
    /// The state that this configuration starts from. A replica older than this cannot serve it.
    pub base: Position,
    /// Who wrote the updates of the epoch of `base`, by the state folders and regions that this configuration names: any of them
    /// holds every update acked up to `base`.
    pub base_writers: Writers,
    pub restore: RestoreFlag,
    pub quorum: Quorum,
    /// The node that is master for as long as it is a member, by an operator's word (claim 18).
    pub designated: Option<NodeId>,
    /// Planned work is going on: no member is left out, fenced or taken over from because it is silent.
    pub maintenance: bool,
    /// Digest of the init database that the members go by.
    pub init_digest: [u8; 32],
    /// Which servers the numbers belong to. A server keeps its number until the nodes are changed; a run of another one is no node.
    #[serde(default)]
    pub servers: Box<Servers>,
    /// The state folder that each node is counted by: another one of the node has no vote on the successor.
    #[serde(default)]
    pub folders: Box<Folders>,
    /// Nodes that are counted by another folder than before, since the last configuration that is certain to have opened: a run with the
    /// folder before may hold a lease, and nobody may have waited for its end.
    #[serde(default)]
    pub replaced: NodeSet,
    /// How long a lease lasts at most that a member holds by this configuration; zero: an earlier program decided it. A node that is
    /// started with a shorter one waits for the end of these.
    #[serde(default)]
    pub lease: Duration,
    pub decider: Decider,
    /// Who proposed it, when by its clock, and why: for people.
    pub proposer: NodeId,
    pub date: Date,
    pub reason: String,
}

impl Configuration {
    /// The state before any configuration was decided: all nodes and both devices must agree on the first.
    pub fn genesis(nodes: NodeSet, devices: DeviceSet) -> Self {
        Self {
            epoch: Epoch(0),
            mode: Mode::Paired,
            members: NodeSet::EMPTY,
            nodes,
            cluster: nodes,
            devices,
            regions: Regions::default(),
            base: Position::EMPTY,
            base_writers: Writers::default(),
            restore: RestoreFlag::AllActive,
            quorum: Quorum::Required,
            designated: None,
            maintenance: false,
            init_digest: [0; 32],
            servers: Box::default(),
            folders: Box::default(),
            replaced: NodeSet::EMPTY,
            lease: Duration::ZERO,
            decider: Decider::Votes,
            proposer: nodes.lowest().unwrap_or(NodeId::FIRST),
            date: Date(0),
            reason: String::new(),
        }
    }

    pub fn is_genesis(&self) -> bool {
        self.epoch == Epoch(0)
    }

    /// The master: the designated node if it is a member, else the lowest-numbered member (the owner, in solo mode).
    /// `None` only for genesis.
    pub fn master(&self) -> Option<NodeId> {
        match self.mode {
            Mode::Paired => (self.designated)
                .filter(|node| self.members.contains(*node))
                .or(self.members.lowest()),
            Mode::Solo(owner) => Some(owner),
        }
    }

    /// All nodes of the cluster are members, as the restore flag means it (Fig. 6, column 4). After an override the others
    /// count as none of its nodes, and are no less missed.
    pub fn all_active(&self) -> bool {
        self.members == self.nodes && self.restore == RestoreFlag::AllActive
    }

    /// The replicas that hold every acked update of this configuration.
    pub fn writers(&self) -> Writers {
        match self.mode {
            Mode::Paired => Writers {
                nodes: self.members,
                devices: DeviceSet::EMPTY,
            },
            Mode::Solo(_) => Writers {
                nodes: NodeSet::EMPTY,
                devices: self.devices,
            },
        }
    }

    pub fn owner(&self) -> Option<NodeId> {
        match self.mode {
            Mode::Paired => None,
            Mode::Solo(owner) => Some(owner),
        }
    }
}

impl fmt::Display for Configuration {
    /// `epoch 6, solo(0), devices primary secondary`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}, {}", self.epoch, self.mode)?;
        if self.mode == Mode::Paired {
            write!(f, " {{{}}}", self.members)?;
        }
        for role in self.devices.iter() {
            write!(f, " {role}")?;
        }
        Ok(())
    }
}
