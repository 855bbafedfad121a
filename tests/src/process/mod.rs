//! Real daemons on one machine, each in a network namespace of its own, on loop devices: what the process tests use.
//!
//! ```text
//!   cluster     Cluster: two nodes, two shared devices, one init database; made and cleaned whole
//!   quorum      Quorum: any number of nodes without devices
//!     ↓
//!   node        TestNode: a daemon that is started, killed, stopped, continued and asked
//!     ↓
//!   network     Network: two namespaces and the link between them, which can be cut
//!   narrow      Router: between the nodes of a cluster, with links that lose large packets
//!   second_network   another network between the nodes; cut with notice and without
//!   stranger    who is no node: speaks byte by byte, listens in a node's place, relays
//!   switch      Switch: any number of namespaces, each of which can be unplugged or deafened
//!   device      LoopDevice: a disk that can fail and come back
//!   report      Report: what the status says
//!   schema      what --json prints, by the schemas that ccd-pages writes
//!   library     the C library installed, programs compiled against it, a daemon that answers by a script
//!   programs    where the programs are; run one with a deadline
//!   writer      Writer: updates without end, and what was promised about each
//!   follower    Follower: watches, and checks what it is told
//!   clients     Clients: many at once through every node, and the check of what they heard
//!   clock       a daemon whose clock shows another date
//!   users       asking as somebody who is not root
//!   chaos       faults at random
//!   until       waiting for a condition, with a deadline; and that something never happens
//! ```
//!
//! Everything needs root. Everything is named after the process that made it, is unmade when it is dropped, and can be
//! found by its name by whoever cleans up after a test that was killed (`tests/run`).

pub mod attack;
pub mod chaos;
pub mod clients;
pub mod clock;
pub mod cluster;
pub mod device;
pub mod follower;
pub mod library;
pub mod narrow;
pub mod network;
pub mod node;
pub mod programs;
pub mod quorum;
pub mod report;
pub mod schema;
pub mod second_network;
pub mod stranger;
pub mod switch;
pub mod until;
pub mod users;
pub mod writer;

pub use cluster::{Cluster, Shape};
pub use device::LoopDevice;
pub use network::Network;
pub use node::TestNode;
pub use programs::{Finished, run};
pub use report::Report;
pub use until::{PATIENCE, never, until, until_within};
pub use writer::{Ledger, Writer};
