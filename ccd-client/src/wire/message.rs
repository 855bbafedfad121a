//! The messages between clients and the daemon.
//!
//! `ccd_core::client` says what can be asked and answered; here is its form on the socket, with what the daemon
//! answers by itself: status, decisions, permissions.

use super::history::{ChangesAsk, HistoryAsk, HistoryTold};
use super::watch::{WatchAsk, WatchItem};
use ccd_core::client::{Answer, Refusal, Reply, Request, RequestBody, VerifiedCopy};
use ccd_core::database::{Difference, Key, Row};
use ccd_core::drill::DrillReport;
use ccd_core::ids::{ClusterId, DeviceRole, Epoch, Generation, NodeId, Position, Replica};
use ccd_core::init::Fencing;
use ccd_core::protocol::{Decision, Status};
use ccd_core::time::Date;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// A request on its way to the daemon; one that is being sent may borrow what it asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToDaemon<A = Ask> {
    /// Chosen by the client, unique on its connection; comes back in the answer.
    pub id: u64,
    pub body: A,
}

/// The answer to the request with this id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromDaemon {
    pub id: u64,
    pub body: Told,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// For the state machine. Of an update's `who`, the daemon keeps the program and fills in the rest from the
    /// socket.
    Request(Request),
    /// Answered by [`Told::Status`], at once.
    Status,
    /// The last `count` decisions of this node; answered by [`Told::Decisions`].
    Why { count: u32 },
    /// Updates of the past, as this node keeps them; answered by [`Told::History`].
    History(HistoryAsk),
    /// What leads from one generation to another; answered by [`Told::Changes`].
    Changes(ChangesAsk),
    /// The branches that this node keeps; answered by [`Told::Branches`].
    Branches,
    /// The content of one of them; answered by [`Told::Branch`].
    Branch { name: String },
    /// Changes, as they come; answered by [`Told::Watched`] again and again. The first and only request of its connection.
    Watch(WatchAsk),
}

/// What a request does: which socket takes it, and who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// Changes nothing. Both sockets; whoever may read.
    Read,
    /// Changes the database. `ccdd.sock`; whoever may write.
    Write,
    /// Changes who takes part. `control.sock`; root.
    Control,
}

impl Ask {
    pub fn service(&self) -> Service {
        let Self::Request(request) = self else {
            return Service::Read;
        };
        match &request.body {
            RequestBody::Query { .. }
            | RequestBody::Keys { .. }
            | RequestBody::Snapshot { .. }
            | RequestBody::Outcome { .. }
            | RequestBody::Verify { repair: false } => Service::Read,
            RequestBody::Update(_) | RequestBody::Drill | RequestBody::Verify { repair: true } => {
                Service::Write
            }
            RequestBody::Leave
            | RequestBody::Join
            | RequestBody::Takeover { .. }
            | RequestBody::Reconfigure { .. }
            | RequestBody::Maintenance { .. }
            | RequestBody::ChangeNodes(_)
            | RequestBody::Quorum(_)
            | RequestBody::Designate { .. } => Service::Control,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    Rows {
        position: Position,
        rows: Vec<Row>,
    },
    Keys {
        position: Position,
        keys: Vec<(Key, Vec<String>, u64)>,
    },
    /// As `Database::to_image` writes it.
    Snapshot {
        image: Vec<u8>,
    },
    Committed {
        position: Position,
        removed: Option<u64>,
    },
    WouldApply {
        removed: u64,
    },
    Outcome {
        committed: Option<Generation>,
    },
    Verified(Vec<VerifiedCopy>),
    Drilled(DrillReport),
    Done,
    /// The state machine's answer to a request that it did not do.
    Refused(Refusal),
    Status(Box<StatusReport>),
    /// Oldest first.
    Decisions(Vec<DatedDecision>),
    History(HistoryTold),
    Changes(Difference),
    /// Newest first.
    Branches(Vec<BranchReport>),
    /// Text form, with its consistency record.
    Branch {
        text: Vec<u8>,
    },
    /// The daemon did not take the request at all.
    Failed(Fault),
    /// To a watcher; more follow.
    Watched(WatchItem),
}

impl From<Reply> for Told {
    fn from(reply: Reply) -> Self {
        match reply {
            Err(refusal) => Self::Refused(refusal),
            Ok(Answer::Rows { position, rows }) => Self::Rows { position, rows },
            Ok(Answer::Keys { position, keys }) => Self::Keys { position, keys },
            Ok(Answer::Snapshot(database)) => Self::Snapshot {
                image: database.to_image(),
            },
            Ok(Answer::Committed { position, removed }) => Self::Committed { position, removed },
            Ok(Answer::WouldApply { removed }) => Self::WouldApply { removed },
            Ok(Answer::Outcome { committed }) => Self::Outcome { committed },
            Ok(Answer::Verified(copies)) => Self::Verified(copies),
            Ok(Answer::Drilled(report)) => Self::Drilled(report),
            Ok(Answer::Done) => Self::Done,
        }
    }
}

/// Why the daemon did not hand a request to the state machine. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Fault {
    /// The caller's user may not do this, or not on this socket.
    #[error("not permitted: {why}")]
    NotPermitted { why: String },
    /// A request that decodes but makes no sense; the daemon closes the connection after it.
    #[error("bad request: {why}")]
    BadRequest { why: String },
    /// The answer is larger than a reply may be. It was made up to so many bytes.
    #[error("an answer of {bytes} bytes or more is too large for the client protocol")]
    TooLarge { bytes: u64 },
    /// The daemon has as many requests waiting as it takes.
    #[error("too many requests are waiting")]
    Overloaded,
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopping,
    /// This node does not keep what was asked for.
    #[error("{why}")]
    NotKept { why: String },
    /// Decision records could not be read, or the like.
    #[error("internal error: {why}")]
    Internal { why: String },
    /// There are as many watchers as this node, or this user on it, may have.
    #[error("{why}")]
    TooManyWatchers { why: String },
    /// The request is larger than what this node's replicas hold.
    #[error("a request of {bytes} bytes is more than the {max} that this node takes")]
    RequestTooLarge { bytes: u64, max: u64 },
}

/// What `ccdadm status` shows: the state machine's status, and the names that only the daemon knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    pub cluster_name: String,
    pub cluster_id: ClusterId,
    pub status: Status,
    /// Every node of the cluster, in order.
    pub node_names: Vec<NodeName>,
    /// Role and path of every device, as the init database names them.
    pub device_paths: Vec<(DeviceRole, String)>,
    pub fencing: Fencing,
    pub lease: Duration,
    /// Version of the daemon's program.
    pub daemon_version: String,
    pub daemon_pid: u32,
    /// Since the daemon started.
    pub uptime: Duration,
    /// This node's ways to the others: one for each address of each.
    pub links: Vec<LinkReport>,
    /// What takes long on this node's replicas just now.
    pub work: Vec<WorkReport>,
}

/// A checkpoint or a whole copy that is being written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkReport {
    pub replica: Replica,
    pub kind: WorkKind,
    pub done_bytes: u64,
    /// 0: not known.
    pub total_bytes: u64,
    /// Since its first step.
    pub elapsed: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkKind {
    /// What makes a replica the same as another: a device that comes back, a local copy that joins.
    Copy,
    Checkpoint,
}

/// One way over which this node sends to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkReport {
    pub node: NodeId,
    pub address: SocketAddr,
    pub state: LinkState,
    /// What is no heartbeat goes over this one.
    pub preferred: bool,
    /// Of the connection, if there is one.
    pub connection: Option<ConnectionReport>,
    /// Why there is no connection; empty if there is one, or none was tried yet.
    pub trouble: String,
    /// The other node is there, and one of the two refuses the other: by authkey, init database, version or id of the server.
    pub refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkState {
    Up,
    /// Connected, but the last heartbeats were not answered.
    Silent,
    Down,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionReport {
    /// Of the node protocol.
    pub version: u8,
    /// The reconfiguration it was made for.
    pub epoch: Epoch,
    /// Name of the authkey that it was proven with.
    pub authkey: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeName {
    pub id: NodeId,
    pub name: String,
}

/// A branch that lost and was kept aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchReport {
    /// `EPOCH-GENERATION-LINEAGE`.
    pub name: String,
    /// When it was kept.
    pub kept: Date,
    pub bytes: u64,
}

/// A decision record as the daemon keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatedDecision {
    /// Of the last time.
    pub date: Date,
    /// The node that decided.
    pub node: NodeId,
    pub decision: Decision,
    /// How often it decided the same in a row of decisions, and when for the first time.
    #[serde(default = "one")]
    pub count: u32,
    #[serde(default)]
    pub first: Date,
}

fn one() -> u32 {
    1
}

impl DatedDecision {
    /// What was decided once.
    pub fn once(date: Date, node: NodeId, decision: Decision) -> Self {
        Self {
            date,
            node,
            decision,
            count: 1,
            first: date,
        }
    }
}
