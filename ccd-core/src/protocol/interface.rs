//! The contract of the state machine with whoever drives it: the daemon, or the simulator.
//!
//! The driver calls [`Node::handle`](super::Node::handle) with one event at a time and executes the actions it
//! returns, in order: it may do so side by side only where the replica or the receiver differs. It calls `handle` with
//! [`Event::Timer`] when [`Node::next_deadline`](super::Node::next_deadline) has come. Every action with a
//! [`Ticket`] is answered by exactly one event with that ticket, also when it failed.

use super::{LongRead, Message, Work, Worked};
use crate::client::{ClientToken, Reply, Request};
use crate::configuration::{Configuration, Quorum};
use crate::database::{Database, Record};
use crate::ids::{
    ClusterId, DeviceRole, DeviceSet, Epoch, Incarnation, NodeId, NodeSet, Position, Replica, ServerId, Stamp,
};
use crate::init::{Fencing, InitFile, Propagation};
use crate::private;
use crate::problem::{Health, Problem};
use crate::replica::{Host, ReplicaAnswer, ReplicaError, ReplicaOp};
use crate::reservation::{FenceOp, Registrations};
use crate::synchronization::{CommandName, Keyword};
use crate::time::Date;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

/// What a node is told before it starts; the same on every node but for `me` and `incarnation`.
#[derive(Clone, Debug)]
pub struct Settings {
    pub me: NodeId,
    pub cluster: ClusterId,
    /// Those of `init`.
    pub nodes: NodeSet,
    /// The init database that this node goes by, and one that it has stored for a change of nodes that may have been decided.
    pub init: InitFile,
    pub staged: Option<InitFile>,
    pub devices: DeviceSet,
    /// Random; differs from every earlier run of this node.
    pub incarnation: Incarnation,
    /// Where it runs.
    pub host: Host,
    pub heartbeat: Duration,
    pub lease: Duration,
    pub fencing: Fencing,
    /// How long one operation on a replica may take before the driver answers it with `TimedOut`.
    pub disk_deadline: Duration,
    /// How copies travel when a configuration is installed, and how updates do.
    pub propagation: Propagation,
    pub update_propagation: Propagation,
    /// Most bytes the image of the database may have: what the smallest replica holds.
    pub content_bytes_max: u64,
    /// Bytes of a piece of an image that travels: [`IMAGE_CHUNK_BYTES`](super::IMAGE_CHUNK_BYTES), but in a small world.
    pub image_chunk_bytes: usize,
    /// Most bytes of an update that travels in one message, whatever it does; text to be loaded travels in pieces if it is larger
    /// than one of them.
    pub update_bytes_whole_max: usize,
    /// How long the synchronization commands of an update may take in its freeze, and each of them in its unfreeze.
    pub sync_timeout: Duration,
    /// How much work of one read is done within an event, as [`Scan::go_on`](crate::database::Scan::go_on) counts it.
    pub read_budget: u64,
    /// The same for the working out of one update, in values that are compared with a pattern; an operation counts as eight.
    pub update_budget: u64,
}

/// Pairs an action with the event that tells how it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The deadline has come. Harmless at any other time.
    Timer,
    /// From a peer whose identity the driver has proven.
    Message { from: NodeId, message: Message },
    /// What is sent to this node arrives again, or for the first time: what was sent before may be lost.
    Reachable { node: NodeId },
    /// A peer whose identity the driver has proven has refused this node's connection: by its newest configuration, of this epoch, the
    /// number of this node belongs to another server.
    Disowned {
        by: NodeId,
        epoch: Epoch,
        server: ServerId,
    },
    /// A peer whose identity the driver has proven does not talk to this node, because their init databases differ: what it knows of the
    /// cluster.
    RefusedBy { by: NodeId, epoch: Epoch, newest: Stamp },
    /// A client of this node asks; it is answered by one [`Action::Reply`] or [`Action::Read`].
    Client {
        client: ClientToken,
        request: Request,
        date: Date,
    },
    /// The client is gone; its waiting requests need no answer. What it asked for may still be done.
    ClientGone { client: ClientToken },
    /// An [`Action::Replica`] is done.
    Replica {
        ticket: Ticket,
        result: Result<ReplicaAnswer, ReplicaError>,
    },
    /// An [`Action::StageInit`] is done, or failed.
    Staged {
        digest: [u8; 32],
        result: Result<(), String>,
    },
    /// An [`Action::Fence`] is done.
    Fenced {
        ticket: Ticket,
        result: Result<Registrations, ReplicaError>,
    },
    /// An [`Action::RunCommand`] is done.
    CommandDone {
        ticket: Ticket,
        result: Result<(), CommandFailure>,
    },
    /// What the driver finds wrong with this node, beside what the node finds itself; comes when it changes.
    Problems(Vec<Problem>),
    /// An [`Action::Work`] is done.
    Worked { ticket: Ticket, worked: Worked },
}

/// What to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send to a peer; may be dropped if there is no connection.
    Send {
        to: NodeId,
        message: Message,
    },
    /// Do this on a replica, after what was asked of the same replica before.
    Replica {
        ticket: Ticket,
        replica: Replica,
        op: ReplicaOp,
    },
    /// Do this with the reservation of a device, and read back. Only asked for with [`Fencing::Scsi`]; not in the order
    /// of what is asked of the replica, and not held up by it.
    Fence {
        ticket: Ticket,
        device: DeviceRole,
        op: FenceOp,
    },
    Reply {
        client: ClientToken,
        reply: Reply,
    },
    /// Finish this read and answer the client, beside everything else: within the request's time-out, if only with
    /// [`Refusal::TimedOut`](crate::client::Refusal::TimedOut), and not at all if the client is gone.
    Read {
        client: ClientToken,
        read: LongRead,
    },
    /// Store this text durably beside the init database, in place of one that was stored so before; answered by
    /// [`Event::Staged`].
    StageInit {
        init: InitFile,
    },
    /// It was decided: it takes the place of the init database, and its nodes are those to talk to from now on.
    AdoptInit {
        init: InitFile,
    },
    /// Run a synchronization command, side by side with everything else. The node asks for one at a time. Answered within
    /// its limit, by killing it if need be; nothing else may wait for it.
    RunCommand {
        ticket: Ticket,
        run: CommandRun,
    },
    /// Work this out ([`Work::run`]), beside everything else; one after the other will do.
    Work {
        ticket: Ticket,
        work: Work,
    },
    /// Kill this one, if it still runs: it is answered at once.
    StopCommand {
        ticket: Ticket,
    },
    /// All pieces of a large message came: it is decoded, beside everything else, and comes back as [`Event::Message`] of this
    /// node. Nothing comes of one that does not decode.
    Unpack {
        from: NodeId,
        bytes: Vec<u8>,
    },
    /// Persist a decision record, for `ccdadm why`.
    Record(Decision),
    /// Store this durably, and say it as [`Cause::UpdatesLost`](crate::problem::Cause::UpdatesLost) until an operator removes it, also
    /// after a restart. Comes before the [`Action::Committed`] from which on nothing else shows it.
    KeepLoss(Loss),
    /// This has been committed since the last time: each update is told once, in order. Comes after the replies to
    /// those who made it.
    Committed(Committed),
}

/// Updates that this node acknowledged or told of, and that are not in the database any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Where they led.
    pub told: Position,
    /// For people.
    pub text: String,
    /// The command that shows what they changed.
    pub next: String,
}

/// What has been committed.
#[derive(Clone, Debug)]
pub struct Committed {
    /// From the version that was told last, record by record; `None` if the way there is not known here: after a whole image,
    /// or when the copy that was found at the start does not reach back so far.
    pub way: Option<(Database, Vec<Arc<Record>>)>,
    /// Where that leads, or what the node holds now.
    pub after: Database,
}

/// A synchronization command and its arguments.
#[derive(Clone, Debug)]
pub struct CommandRun {
    pub name: CommandName,
    pub keyword: Keyword,
    /// The row in text form, if the update adds or removes exactly one.
    pub row: Option<String>,
    /// As it stands: before the update in the freeze, after it in the unfreeze.
    pub database: Database,
    /// Of the cluster.
    /// Of the moment of the freeze.
    pub before: Database,
    pub nodes: usize,
    /// Active ones.
    pub nodes_up: usize,
    pub me: NodeId,
    pub limit: Duration,
}

impl CommandRun {
    /// Its row is of a private key, so it is no argument: every user of the machine can read those.
    pub fn has_private_row(&self) -> bool {
        let states = [&self.before, &self.database];
        (self.row.as_deref()).is_some_and(|row| states.iter().any(|of| private::is_private_row(of, row)))
    }

    /// It may write values of a private key.
    pub fn is_private(&self) -> bool {
        let states = [&self.before, &self.database];
        (states.iter()).any(|of| private::serves_private(of, &self.name))
    }
}

/// Why a synchronization command did not agree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandFailure {
    /// It was not begun, and why.
    #[error("{why}")]
    NotRun { why: String },
    /// How it ended, and what it wrote to standard error.
    #[error("{how}{}", as_said(stderr))]
    Failed { how: String, stderr: String },
    /// It was killed.
    #[error("killed after {} ms{}", after.as_millis(), as_said(stderr))]
    TimedOut { after: Duration, stderr: String },
    /// It was stopped: the freeze is over.
    #[error("stopped: the update was refused elsewhere")]
    Stopped,
}

impl CommandFailure {
    pub fn timed_out(&self) -> bool {
        matches!(self, Self::TimedOut { .. })
    }

    /// As it is logged and recorded: of a command of a private key without what that wrote.
    pub fn for_the_record(&self, is_private: bool) -> String {
        let why = "what it wrote is told to the client alone, for the command is of a private key";
        match self {
            Self::Failed { how, .. } if is_private => alloc::format!("{how}; {why}"),
            Self::TimedOut { after, .. } if is_private => {
                alloc::format!("killed after {} ms; {why}", after.as_millis())
            }
            _ => alloc::format!("{self}"),
        }
    }
}

fn as_said(stderr: &str) -> String {
    match stderr.trim_end() {
        "" => String::from(", and said nothing on standard error"),
        said => alloc::format!(": {said}"),
    }
}

/// One decision: what was seen, which rule was applied, what follows.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Decision {
    pub kind: DecisionKind,
    /// The configuration it was decided in, or that came of it.
    pub configuration: Option<Configuration>,
    /// The evidence and the rule in one or a few sentences.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecisionKind {
    Start,
    Propose,
    Decided,
    Opened,
    Sealed,
    Refused,
    StoppedServing,
    Degraded,
    BranchKept,
    Left,
    Override,
    Damage,
    /// This node lost its registration on a device, or took others'.
    Fenced,
    /// Somebody must look: a stranger's key, a reservation of the wrong type.
    Alarm,
    /// Nodes were added or removed.
    Nodes,
    /// An external membership monitor was heard.
    Membership,
    /// Maintenance began or ended.
    Maintenance,
    /// A synchronization command refused an update, or failed after one.
    Synchronization,
    /// Updates that this node acknowledged or told of are not in the database any more.
    UpdatesLost,
}

/// What the node is and sees, for `ccdadm status`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Status {
    pub me: NodeId,
    pub state: ServingState,
    /// What is wrong anywhere in the cluster, as far as this node knows: first what explains the rest.
    pub problems: Vec<Problem>,
    /// Their texts in one; empty if all is well.
    pub verdict: String,
    pub configuration: Option<Configuration>,
    pub position: Position,
    pub rows: u64,
    pub date: Date,
    pub nodes: Vec<NodeStatus>,
    pub devices: Vec<DeviceStatus>,
    /// The view of an external membership monitor, if one has taken the place of the built-in one.
    pub external: Option<NodeSet>,
    /// Whether updates are taken here now.
    pub takes_updates: bool,
    /// What single loss the cluster would survive right now, and go on taking updates.
    pub survives: Vec<(Part, bool)>,
}

impl Status {
    /// The verdict of one word, on the cluster.
    pub fn health(&self) -> Health {
        match self.state {
            ServingState::Serving => {}
            ServingState::Closed => return Health::Degraded,
            _ => return Health::NotServing,
        }
        let is_as_wanted = (self.configuration.as_ref()).is_none_or(|configuration| {
            !configuration.maintenance && configuration.quorum == Quorum::Required
        });
        let is_whole = is_as_wanted
            && self.survives.iter().all(|(_, survives)| *survives)
            && self.nodes.iter().all(|node| node.member)
            && (self.devices.iter()).all(|device| device.usable && device.in_sync)
            && !self.problems.iter().any(|problem| problem.cause.degrades());
        if is_whole {
            Health::Redundant
        } else {
            Health::Degraded
        }
    }
}

/// Something that can be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Part {
    Node(NodeId),
    Device(DeviceRole),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServingState {
    /// Reading its replicas.
    Starting,
    /// No configuration that it may serve.
    Waiting,
    /// Deciding or installing a configuration.
    Reconfiguring,
    /// Queries and updates.
    Serving,
    /// Valid, but closed: queries only. Exactly half of the nodes is here.
    Closed,
    /// Left by `ccdctl leave`.
    Left,
}

impl ServingState {
    /// As status, log and documents call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Waiting => "waiting",
            Self::Reconfiguring => "reconfiguring",
            Self::Serving => "serving",
            Self::Closed => "closed",
            Self::Left => "left",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NodeStatus {
    pub id: NodeId,
    pub member: bool,
    /// Heard over the network within a lease (always true for the node itself).
    pub heard: bool,
    /// Its heartbeat on some device moves.
    pub seen_on_disk: bool,
    pub serving: bool,
    pub position: Option<Position>,
    /// What is left of the lease this node holds from that one.
    pub lease: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeviceStatus {
    pub role: DeviceRole,
    /// Operations on it succeed.
    pub usable: bool,
    /// It is part of the configuration: votes, and in solo mode holds every update; and no damage is known.
    pub in_sync: bool,
    /// The last error, if it is not usable.
    pub error: Option<String>,
    /// What was last read of its reservation; `None` with lease fencing, or before the first look.
    pub reservation: Option<Registrations>,
    /// This node is registered there (always true with lease fencing).
    pub registered: bool,
    /// What each other node says of it.
    pub elsewhere: Vec<DeviceElsewhere>,
}

/// A device as another node sees it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeviceElsewhere {
    pub node: NodeId,
    /// `None`: the node is not heard, so it is not known.
    pub usable: Option<bool>,
    /// What the node says is wrong with it.
    pub error: Option<String>,
}
