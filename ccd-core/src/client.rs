//! What a client can ask a node for, and what it hears.

use crate::configuration::{Quorum, RestoreFlag};
use crate::database::{Database, Key, Op, OpError, Pattern, Precondition, Row, Who};
use crate::drill::DrillReport;
use crate::ids::{Generation, NodeId, NodeSet, Position, RequestId};
use crate::init::NodeEdit;
use crate::synchronization::Veto;
use crate::time::Date;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// Names a waiting request on one node; the driver that made it routes the reply by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientToken(pub u64);

/// A request, with how long its client is ready to wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The request is answered within this time, if only with [`Refusal::TimedOut`] or [`Refusal::Unknown`].
    pub timeout: Duration,
    pub body: RequestBody,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestBody {
    /// Rows that match. Strict unless `stale`: then the local copy answers even if it may be old.
    Query {
        pattern: Pattern,
        stale: bool,
    },
    /// All keys with their formats.
    Keys {
        stale: bool,
    },
    /// The whole database, for checkpoint, verify and diff.
    Snapshot {
        stale: bool,
    },
    Update(UpdateRequest),
    /// What became of an earlier update of this client.
    Outcome {
        request: RequestId,
    },
    /// Compares the members' copies (patent: verify); with `repair`, those that are found inconsistent are replaced.
    Verify {
        repair: bool,
    },
    /// A rehearsal that disturbs nothing: see [`DrillReport`].
    Drill,
    /// This node leaves the cluster gracefully, and stays out until `Join`.
    Leave,
    /// This node takes part again.
    Join,
    /// The view of an external membership monitor: who is there, in place of the built-in one's opinion; `None` gives control
    /// back to that. Answered when the configuration that is open here matches it.
    Reconfigure {
        members: Option<NodeSet>,
    },
    /// Planned work begins or ends: while it goes on, no node is taken over from.
    Maintenance {
        on: bool,
    },
    /// Adds a node to the running cluster, or removes one.
    ChangeNodes(NodeEdit),
    /// This node is to be master as long as it is a member; `None`: the lowest-numbered member (claim 18).
    Designate {
        node: Option<NodeId>,
    },
    /// This node tries to take over now. With `force` it does so against the vote rule, recorded as such.
    Takeover {
        force: bool,
    },
    /// Whether a majority is needed to go on (`ccdadm quorum on|off`).
    Quorum(Quorum),
}

/// An update as a client asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateRequest {
    pub request: RequestId,
    pub who: Who,
    pub date: Date,
    pub reason: Option<String>,
    #[serde(deserialize_with = "crate::database::at_most_operations_max")]
    pub preconditions: Vec<Precondition>,
    #[serde(deserialize_with = "crate::database::at_most_operations_max")]
    pub ops: Vec<Op>,
    /// Answer [`Refusal::Busy`] rather than wait for a round under way.
    pub no_wait: bool,
    /// Say what would happen, change nothing.
    pub dry_run: bool,
    /// Run no synchronization commands.
    pub no_sync: bool,
}

/// The answer to a [`Request`].
pub type Reply = Result<Answer, Refusal>;

#[derive(Clone, Debug)]
pub enum Answer {
    Rows {
        position: Position,
        rows: Vec<Row>,
    },
    Keys {
        position: Position,
        keys: Vec<(Key, Vec<String>, u64)>,
    },
    Snapshot(Database),
    /// The update is durable on every replica of the configuration and will not be lost.
    Committed {
        position: Position,
        /// How many rows it removed; `None` if only that it was committed is remembered.
        removed: Option<u64>,
    },
    /// `dry_run`: it would have been applied.
    WouldApply {
        removed: u64,
    },
    /// [`RequestBody::Outcome`]: the update is part of the database since this generation, or never was applied as
    /// far as this node's records reach.
    Outcome {
        committed: Option<Generation>,
    },
    Verified(Vec<VerifiedCopy>),
    Drilled(DrillReport),
    /// Leave, join and takeover: done.
    Done,
}

/// One member's word on its copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedCopy {
    pub node: NodeId,
    pub position: Position,
    /// BLAKE3 of the content in canonical text form, computed anew; `None` if the node did not answer in time.
    pub digest: Option<[u8; 32]>,
    /// Its content is what its own consistency record says.
    pub whole: bool,
    pub finding: Finding,
}

/// What comparing the copies found of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Nothing speaks against it.
    #[default]
    Sound,
    /// Its content is not what its record or most of the other copies say; it was left as it is.
    Inconsistent,
    /// The same, and it has been replaced by a whole image of a sound copy.
    Repaired,
    /// It was invalidated, and had not been replaced by the end of the time-out.
    Invalidated,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The update itself is wrong.
    #[error("{0}")]
    Op(OpError),
    /// This node does not serve; the text says why and what is missing. Nothing was changed.
    #[error("not serving: {why}")]
    NotServing { why: String },
    /// The vote rule does not allow it; the text names the missing evidence.
    #[error("no quorum: {why}")]
    NoQuorum { why: String },
    /// An update is in progress and the client asked not to wait.
    #[error("an update is in progress")]
    Busy,
    /// A member refused or failed, and every member is back at its shadow. Nothing was changed.
    #[error("rolled back: {why}")]
    RolledBack { why: String },
    /// Not started within its time-out. Nothing was changed.
    #[error("timed out before it was started")]
    TimedOut,
    /// The update may or may not become part of the database; ask by its request id.
    #[error("outcome unknown: {why}")]
    Unknown { why: String },
    /// It does not fit; nothing was changed.
    #[error("full: {why}")]
    Full { why: String },
    /// Refused for safety; the text says what would make it safe.
    #[error("refused: {why}")]
    Unsafe { why: String },
    /// A synchronization command did not agree, or not in time. Nothing was changed.
    #[error("node {node}: the synchronization command {command} {}: {why}", if veto.timed_out { "took too long" } else { "refused" },
        command = veto.command, why = veto.why)]
    Vetoed { node: NodeId, veto: Veto },
}

/// How a restore is flagged: kept here so that clients need not name the configuration module.
pub type Restore = RestoreFlag;
