//! The node as a state machine: events in, actions out. No clock, no disk, no network.
//!
//! ```text
//! interface.rs  the contract with the driver: Settings, Event, Action, Decision, Status
//! message.rs    what nodes say to each other      raw.rs  long pieces of bytes in it
//! node.rs       Node: what it knows; how an event reaches the part that handles it      received.rs  and a message
//! credible.rs   pure: what of a message or a block can be true in this cluster; the rest is refused
//!   ↓
//! requests/     what clients wait for
//! plan/         pure: what to do next, from what is seen      view.rs  what is seen, and what is done about it
//! reports/      what is wrong with this node and with the others      status.rs  tells people      survival.rs  which losses would be survived
//! membership/   who is there, and who shall be: heartbeats, leases, nodes added and removed, what operators ask
//! voting/       how a successor of the configuration is decided (§7)
//! copies/       from decided to open: every member gets the same database (Figs. 4 and 5)
//! updates/      two-phase commit, the solo owner's claim check, synchronization commands (Fig. 3)
//! replicas/     this node's local copy and the devices: what is asked of them, whom an answer is for
//! fencing/      reservations on the devices (§10)
//!
//! rules.rs      the pure decisions of the others, for the model in tests/
//! ```
//!
//! The parts of a node know each other: each is an `impl Node` over the state in node.rs.
//! Each file says which fields of the node it owns; the others only read them.

mod copies;
mod credible;
mod fencing;
mod interface;
mod membership;
mod message;
mod node;
mod plan;
mod raw;
mod received;
mod replicas;
mod reports;
mod requests;
pub mod rules;
mod status;
mod survival;
mod updates;
mod view;
mod voting;

pub use copies::parcels::Parcel;
pub use interface::{
    Action, CommandFailure, CommandRun, Committed, Decision, DecisionKind, DeviceElsewhere, DeviceStatus,
    Event, Loss, NodeStatus, Part, ServingState, Settings, Status, Ticket,
};
pub use message::{
    CopyTrouble, ForwardOutcome, Freeze, FreezeId, IMAGE_CHUNK_BYTES, Message, NoVote, Obstacle, PeerState,
    Promise, Replaces, Room,
};
pub use node::Node;
pub use requests::LongRead;
pub use updates::large::{Admitted, Tried, Work, Worked};
