//! Who is there, and who shall be (DESIGN §6): heartbeats, leases, and what operators ask of the members.
//!
//! ```text
//! peers.rs        heartbeats and leases               operator.rs     leave, join, takeover
//! sharing.rs      whether a device is one for two nodes
//! slow.rs         members that do not keep up, and    designation.rs  which node is master
//!                 nodes that come and go              maintenance.rs  planned work: nobody is taken over
//! external.rs     another monitor's view              quorum.rs       exactly half of the nodes: valid, but closed;
//! nodes/          nodes added and removed                             quorum on and off
//! returns.rs      devices that come and go            elsewhere.rs    what nodes with copies of the devices tell
//! twice.rs        an epoch that was decided twice             ahead.rs        what nodes with another init database know
//! ```

pub(super) mod ahead;
pub(super) mod designation;
pub(super) mod elsewhere;
pub(super) mod external;
pub(super) mod maintenance;
pub(super) mod nodes;
pub(super) mod operator;
pub(super) mod peers;
pub(super) mod quorum;
pub(super) mod returns;
pub(super) mod sharing;
pub(super) mod slow;
pub(super) mod twice;
