//! Three and five nodes: updates, reconfigurations and masters, with real nodes on a simulated network.
//!
//! ```text
//! load.rs      clients that write through every node meanwhile, and what must be true of what they heard
//! crashes.rs   a node dies at every single step of an update, and of a reconfiguration
//! slow.rs      members that do not keep up, and nodes that come and go
//! joins.rs     how long a node that comes back keeps the others from serving
//! copies.rs    whom a copy comes from, and updates passed on from node to node
//! master.rs    the designated master, joins and leaves
//! reads.rs     queries right after an update elsewhere
//! table.rs     the patent's table of three nodes
//! ```

mod copies;
mod crashes;
mod joins;
mod load;
mod master;
mod reads;
mod slow;
mod table;

use ccd_tests::sim::plan::Shape;

pub const A: usize = 0;
pub const B: usize = 1;
pub const C: usize = 2;
pub const D: usize = 3;
pub const E: usize = 4;

pub const THREE: Shape = Shape { nodes: 3, devices: 0 };
pub const FIVE: Shape = Shape { nodes: 5, devices: 0 };
pub const THREE_WITH_DEVICES: Shape = Shape { nodes: 3, devices: 2 };

/// The node of this server.
pub fn node(server: usize) -> ccd_core::ids::NodeId {
    ccd_core::ids::NodeId::new(server as u8).expect("a small number")
}

/// The nodes of these servers.
pub fn nodes(servers: &[usize]) -> ccd_core::ids::NodeSet {
    servers.iter().map(|server| node(*server)).collect()
}
