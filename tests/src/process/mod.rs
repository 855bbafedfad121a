//! Real daemons on one machine, each in a network namespace of its own, on loop devices: what the process tests use.
//!
//! ```text
//!   cluster     Cluster: two nodes, two shared devices, one init database; made and cleaned whole
//!     ↓
//!   node        TestNode: a daemon that is started, killed, stopped, continued and asked
//!     ↓
//!   network     Network: two namespaces and the link between them, which can be cut
//!   second_network   another network between the nodes; cut with notice and without
//!   stranger    who is no node: speaks byte by byte, listens in a node's place, relays
//!   device      LoopDevice: a disk that can fail and come back
//!   report      Report: what the status says
//!   programs    where the programs are; run one with a deadline
//!   writer      Writer: updates without end, and what was promised about each
//!   until       waiting for a condition, with a deadline; and that something never happens
//! ```
//!
//! Everything needs root. Everything is named after the process that made it, is unmade when it is dropped, and can be
//! found by its name by whoever cleans up after a test that was killed (`tests/run`).

pub mod cluster;
pub mod device;
pub mod network;
pub mod node;
pub mod programs;
pub mod report;
pub mod second_network;
pub mod stranger;
pub mod until;
pub mod writer;

pub use cluster::{Cluster, Shape};
pub use device::LoopDevice;
pub use network::Network;
pub use node::TestNode;
pub use programs::{Finished, run};
pub use report::Report;
pub use until::{PATIENCE, never, until, until_within};
pub use writer::{Ledger, Writer};
