//! What nodes say to each other. Messages may be lost, delayed, repeated and reordered; each names what it is about
//! (epoch, ballot, position or request), so a stale one is recognised.

use super::copies::parcels::Parcel;
use crate::client::{Refusal, UpdateRequest, VerifiedCopy};
use crate::configuration::{Ballot, Configuration};
use crate::database::Record;
use crate::drill::Enforcement;
use crate::ids::{
    DeviceRole, DeviceSet, Epoch, FolderId, Incarnation, NODES_MAX, NodeId, NodeSet, PerDevice, Position,
    RegionId, RequestId, Stamp,
};
use crate::init::NodeEdit;
use crate::problem::{PROBLEMS_MAX, Problem};
use crate::synchronization::{Summons, Veto};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// Most bytes of a database image in one [`Message::ImageChunk`].
pub const IMAGE_CHUNK_BYTES: usize = 256 << 10;

/// Most records of a tail that are decoded: a good deal more than a node sends at once.
const RECORDS_DECODED_MAX: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Sent to every node at every heartbeat interval.
    Heartbeat(PeerState),
    /// Answers a heartbeat. With `lease` it is a promise: the sender takes part in no configuration without the
    /// receiver for one lease from now.
    HeartbeatAck {
        incarnation: Incarnation,
        echo: u64,
        epoch: Epoch,
        lease: bool,
    },
    /// A decided configuration, for a node that does not know it yet.
    Decided(Configuration),

    /// Paxos phase 1 among nodes: seals the receiver for the successor of `instance`.
    Prepare {
        instance: Epoch,
        ballot: Ballot,
    },
    Promise {
        instance: Epoch,
        ballot: Ballot,
        promise: Promise,
    },
    /// Phase 2.
    Accept {
        instance: Epoch,
        ballot: Ballot,
        configuration: Configuration,
    },
    Accepted {
        instance: Epoch,
        ballot: Ballot,
    },
    /// Refuses phase 1 or 2; the receiver's own position, and what stands in the way.
    BallotRefused {
        instance: Epoch,
        ballot: Ballot,
        obstacle: Obstacle,
    },

    /// Tells a member of a decided configuration to make itself ready at its base.
    Install {
        configuration: Configuration,
    },
    /// The sender holds the configuration and its base, both durable.
    Installed {
        epoch: Epoch,
    },
    /// The sender is not ready yet, but comes nearer to it.
    Installing {
        epoch: Epoch,
    },
    /// All are ready and all foreign leases have run out: serve.
    Open {
        epoch: Epoch,
    },

    /// Asks for what follows `have`, or for the bytes of an image from `offset` on. With `base` the receiver answers once
    /// it holds the base of the configuration of that epoch.
    Fetch {
        have: Position,
        image: Option<(Position, u64)>,
        base: Option<Epoch>,
    },
    /// The records after `have`, up to the sender's committed position.
    Tail {
        have: Position,
        #[serde(deserialize_with = "crate::bounded::at_most::<_, _, RECORDS_DECODED_MAX>")]
        records: Vec<Arc<Record>>,
    },
    /// Part of the image of the database at `position`.
    ImageChunk {
        position: Position,
        total: u64,
        offset: u64,
        #[serde(with = "super::raw")]
        bytes: Vec<u8>,
        replaces: Replaces,
    },

    /// FREEZE_REQ and UPDATE_REQ in one (Fig. 3, steps 3 and 4).
    UpdateReq {
        epoch: Epoch,
        #[serde(with = "super::raw::record")]
        record: Arc<Record>,
    },
    UpdateAck {
        epoch: Epoch,
        position: Position,
    },
    UpdateNack {
        epoch: Epoch,
        position: Position,
        why: String,
    },
    /// UNFREEZE_REQ (step 6) for the round that leads to `position`.
    Unfreeze {
        epoch: Epoch,
        position: Position,
        commit: bool,
    },
    /// UNFREEZE_ACK; only asked for after a rollback.
    UnfreezeAck {
        epoch: Epoch,
        position: Position,
    },

    /// FREEZE_REQ (Fig. 3, step 3), for an update that runs synchronization commands.
    FreezeReq(Freeze),
    /// FREEZE_ACK, or a refusal.
    FreezeAck {
        id: FreezeId,
        result: Result<(), Veto>,
    },
    /// The freeze is over: its update is in the database, or will not be.
    FreezeOver {
        id: FreezeId,
    },

    /// A client's update, on its way to the master (Fig. 3, step 2).
    /// Only the master of `epoch` takes it, so a late copy cannot be applied after its client heard the outcome.
    Forward {
        epoch: Epoch,
        update: UpdateRequest,
        timeout: Duration,
    },
    /// In answer to a forward of this epoch: what an earlier master says is no word on what a later one does.
    ForwardReply {
        epoch: Epoch,
        request: RequestId,
        outcome: ForwardOutcome,
    },

    /// An operator's word on who is to be master, on its way to the one that is.
    Designate {
        epoch: Epoch,
        node: Option<NodeId>,
    },

    /// Asks a member to show that a device refuses its write while it is not registered there.
    DrillReq {
        serial: u64,
        role: DeviceRole,
    },
    DrillAck {
        serial: u64,
        role: DeviceRole,
        proof: Enforcement,
    },

    VerifyReq {
        serial: u64,
        position: Position,
    },
    VerifyAck {
        serial: u64,
        copy: VerifiedCopy,
    },

    /// An operator's change of the nodes, for the node that sees to it.
    ChangeNodes {
        request: RequestId,
        edit: NodeEdit,
        timeout: Duration,
    },
    NodesChanged {
        request: RequestId,
        result: Result<(), Refusal>,
    },
    /// The text of an init database with other nodes, to be stored beside the present one.
    StageInit {
        digest: [u8; 32],
        text: String,
    },
    /// It is stored durably, or why not.
    InitStaged {
        digest: [u8; 32],
        refused: Option<String>,
    },
    /// Asks for the text of an init database that was decided on.
    InitAsk {
        digest: [u8; 32],
    },
    /// The receiver's copy was found inconsistent: it stops serving, and is replaced by a sound one.
    Invalidate {
        epoch: Epoch,
        why: String,
    },
    /// A query waits at the sender for the UNFREEZE_REQ of this round.
    UnfreezeAsk {
        epoch: Epoch,
        position: Position,
    },

    /// The sender has a message for the receiver that is too large for one piece: `total` bytes.
    Offer {
        parcel: Parcel,
        total: u64,
    },
    /// Asks for the piece of an offered message that begins there.
    ParcelFetch {
        parcel: Parcel,
        offset: u64,
    },
    ParcelPiece {
        parcel: Parcel,
        offset: u64,
        #[serde(with = "super::raw")]
        bytes: Vec<u8>,
    },

    /// Asks for the report that a heartbeat named.
    ReportAsk,
    /// What is wrong with the sender: its whole report of this number.
    Report {
        run: Incarnation,
        number: u64,
        #[serde(deserialize_with = "crate::bounded::at_most::<_, _, PROBLEMS_MAX>")]
        problems: Vec<Problem>,
    },
}

/// Names a freeze; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FreezeId {
    pub epoch: Epoch,
    /// Counted by the master.
    pub serial: u64,
}

/// What every active node is to run before an update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    pub id: FreezeId,
    pub request: RequestId,
    /// The state that the update is for: every node's commands see the same.
    pub at: Position,
    pub summons: Summons,
    /// All of the commands together, on each node.
    pub limit: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ForwardOutcome {
    Committed {
        position: Position,
        removed: Option<u64>,
    },
    WouldApply {
        removed: u64,
    },
    Refused(Refusal),
    /// The receiver is not the master, or not open: ask again when the next configuration is.
    NotMaster,
}

/// What a node tells the others about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerState {
    pub incarnation: Incarnation,
    /// The sender's clock, sent back in the answer; means nothing to anyone else.
    pub echo: u64,
    /// The newest configuration the sender knows to be decided.
    pub epoch: Epoch,
    /// Tells that configuration from another one of the same epoch.
    pub mark: u64,
    /// Whether it serves that configuration.
    pub serving: bool,
    /// For how long it has served, in milliseconds: a pause of a reconfiguration is part of that.
    pub served_ms: u64,
    /// The durable state of its copy.
    pub position: Position,
    /// Why it has no vote now, if it has none. Before the first configuration every node is new, and votes all the same.
    pub no_vote: Option<NoVote>,
    /// The state folder that its vote is in.
    pub folder: FolderId,
    /// It wants to be a member. A node that left says no.
    pub willing: bool,
    /// Its replicas are read; before that it decides nothing.
    pub ready: bool,
    /// The devices it can use now.
    pub devices: DeviceSet,
    /// The nodes it hears.
    pub hears: NodeSet,
    /// Of those, the ones that could go on with it: they take part, and have a vote.
    pub able: NodeSet,
    /// The nodes that may register on the devices where it is registered.
    pub lets_in: NodeSet,
    /// What it sees of the primary, and of the secondary.
    pub device_reports: PerDevice<DeviceReport>,
    /// What its replicas have room for, and what its database takes.
    pub room: Room,
    /// Why its local copy is out of use, if it is more than not yet read.
    pub trouble: Option<CopyTrouble>,
    /// Number of what it reports of itself now: see [`Message::Report`].
    pub report: u64,
}

impl PeerState {
    /// What it holds is none of the cluster's copies.
    pub fn is_blank(&self) -> bool {
        self.no_vote.is_some_and(NoVote::is_blank)
    }
}

/// What the receiver's copy is to the image that takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Replaces {
    /// An earlier state of it, which can be replaced without keeping it.
    Earlier,
    /// A branch that lost: another content stood in its place on the way to the image.
    Branch,
    /// One or the other: the sender's history does not reach back so far.
    Unknown,
}

/// What a node sees of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// The region on it; zeros if the node cannot use it now.
    pub region: RegionId,
    /// It has not been tried yet.
    pub opening: bool,
    /// The node writes its heartbeats there.
    pub writes: bool,
    /// It was put back to an earlier state, or cleared, while the node used it: what the node had voted for there is gone.
    pub has_forgotten: bool,
    /// Number of the last one that was begun.
    pub beat: u64,
    /// The heartbeats of other nodes that it found there last.
    #[serde(deserialize_with = "crate::bounded::at_most::<_, _, NODES_MAX>")]
    pub seen: Vec<SeenHeartbeat>,
}

/// A heartbeat as it was found on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenHeartbeat {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub sequence: u64,
}

/// The room of a node's replicas: what the master admits, no replica of any member has to refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Bytes of the largest image that its local copy holds; `None` before that was opened.
    pub local_bytes: Option<u64>,
    /// The same of the smallest device that it uses.
    pub device: Option<(DeviceRole, u64)>,
    /// Bytes of the image of the database at the sender's position.
    pub image_bytes: u64,
}

/// Why a local copy is out of use, for as long as nothing is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CopyTrouble {
    /// It could not be written, or not be opened again.
    Failed,
    /// The database is larger than what it has room for.
    TooSmall,
}

impl CopyTrouble {
    /// What its node cannot do, for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Failed => "cannot write its local copy",
            Self::TooSmall => "has a local copy that is too small for the database",
        }
    }
}

/// Why a node has no vote, for as long as that lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoVote {
    /// Its local copy is new, or was replaced: what it promised before is not known.
    NewCopy,
    /// Its state folder came from another machine, or another copy of it is counted on, and no configuration has taken it in.
    Moved,
    /// A member of the first configuration, which it has not opened: not each of its devices has a heartbeat of it yet.
    Unsigned,
}

impl NoVote {
    /// What this node holds is none of the cluster's copies: it may be older than what the node acknowledged.
    pub fn is_blank(self) -> bool {
        matches!(self, Self::NewCopy | Self::Moved)
    }

    /// What the node has or waits for, for people: `node 1 has a new local copy`.
    pub fn name(self) -> &'static str {
        match self {
            Self::NewCopy => "has a new local copy",
            Self::Moved => "has another state folder than the one that is counted on",
            Self::Unsigned => "has not written its first heartbeat to every device yet",
        }
    }
}

/// A node's vote in phase 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    pub accepted: Option<(Ballot, Configuration)>,
    /// The newest durable state of its copy, prepared rounds included.
    pub position: Position,
    /// Its copy is whole; a damaged one shows nothing.
    pub evidence: bool,
    /// The round it rolled back from this position, if that was the last thing it did.
    pub rolled_back: Option<Position>,
    /// For whom it has promised to wait, and how long from now.
    #[serde(deserialize_with = "crate::bounded::at_most::<_, _, { 4 * NODES_MAX }>")]
    pub leases: Vec<(NodeId, Duration)>,
    /// The newest state that it knows to have been committed, whether its copy holds it or not.
    pub settled: Stamp,
}

/// Why a node refused to take part in a ballot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Obstacle {
    /// It has promised a higher ballot.
    Promised(Ballot),
    /// It knows a later configuration.
    Later(Configuration),
    /// It knows only an earlier configuration, or none: it must be told first.
    Behind { epoch: Epoch },
    /// It has no vote now.
    NoVote(NoVote),
    /// Its local copy cannot be written.
    Failed(String),
    /// It cannot be a member of such a configuration, and why.
    Unfit(String),
}
