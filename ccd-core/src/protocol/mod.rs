//! The node as a state machine: events in, actions out. No clock, no disk, no network.
//!
//! ```text
//! interface.rs   the contract with the driver: Settings, Event, Action, Decision, Status
//! message.rs     what nodes say to each other      raw.rs  long pieces of bytes in it
//! node.rs        Node: what it knows; how an event reaches the part that handles it        received.rs  and a message
//!
//! replicas.rs    this node's replicas: what is asked of them, whom an answer is for
//! loading.rs     reading their content                  survey.rs   what other nodes' control blocks say
//! peers.rs       heartbeats, leases (DESIGN §6)
//! plan/          pure: what to do next, from what is seen            status.rs  makes the view; tells people
//! vote.rs        this node as a voter (§7)              propose.rs, promises.rs, conclude.rs  as a proposer
//! fencing.rs     reservations on the devices (§10)      fencing_step.rs  pure: the next step on one of them
//!                                                      fencing_watch.rs  noticing what others did
//! nodes/         nodes added and removed      external.rs  another monitor's view      maintenance.rs  planned work
//! milestones.rs  where the time of a reconfiguration went
//! learn.rs       a later configuration was decided, and ends what was under way
//! evidence.rs    pure: which state a successor starts from
//! quorum.rs      exactly half of the nodes: valid, but closed      settled.rs  which rounds are known to be committed
//! install.rs     from decided to open (Fig. 4)        left_out.rs  pure: whose leases must have run out
//! catch_up.rs    getting the database from another node (Fig. 5)      incoming.rs  an image in pieces
//!                                                                   history.rs  the records for that
//! update.rs      two-phase commit, and the solo owner's claim check (Fig. 3, §5)     prepared.rs  at the other members
//! freeze.rs      what is run before an update of a key with a synchronization command     commands.rs  at every node
//! slow.rs        members that do not keep up, and nodes that come and go      spread.rs  whom a copy is got from
//! requests/      what clients wait for       operator.rs  leave, join, takeover      designation.rs  which node is master
//!                                                   verification.rs  verify
//! telling.rs     telling the driver of each committed update, once and in order
//! last_words.rs  recent decisions on the devices, for the survivor to read
//! rules.rs       the pure decisions of the others, for the model in tests/
//! drill.rs       a rehearsal of losses on today's state, and a test of the devices      proof.rs  of their reservations
//! ```
//!
//! Each file says which fields of the node it owns; the others only read them.

mod catch_up;
mod commands;
mod conclude;
mod designation;
mod drill;
mod evidence;
mod external;
mod fencing;
mod fencing_step;
mod fencing_watch;
mod freeze;
mod history;
mod incoming;
mod install;
mod interface;
mod last_words;
mod learn;
mod left_out;
mod loading;
mod maintenance;
mod message;
mod milestones;
mod node;
mod nodes;
mod operator;
mod peers;
mod plan;
mod prepared;
mod promises;
mod proof;
mod propose;
mod quorum;
mod raw;
mod received;
mod replicas;
mod requests;
pub mod rules;
mod settled;
mod slow;
mod spread;
mod status;
mod survey;
mod telling;
mod update;
mod verification;
mod vote;

pub use interface::{
    Action, CommandFailure, CommandRun, Committed, Decision, DecisionKind, DeviceStatus, Event, NodeStatus,
    Part, ServingState, Settings, Status, Ticket,
};
pub use message::{
    ForwardOutcome, Freeze, FreezeId, IMAGE_CHUNK_BYTES, Message, Obstacle, PeerState, Promise,
};
pub use node::Node;
