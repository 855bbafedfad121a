//! Directed scenarios: real nodes on simulated devices, networks and clocks, with leases or with reservations (`CCD_SIM_FENCING=scsi`).
//!
//! ```text
//! which run, which disk, which content
//!   identity/         two runs of one node, a number with a new owner, runs that remember nothing
//!   sharing.rs        disks that are not the same ones on both servers
//!   overwritten.rs    a device that is cleared or put back while it is in use
//!   apart.rs          nodes that went on apart from each other, and meet
//!   sides.rs          nodes of a group that were put back and went on from there
//!   evidence.rs       what a restart starts from
//!   room.rs           replicas that are too small, or take no writes
//! who decides
//!   takeover.rs       the table of who may go on
//!   leaving.rs        a node leaves by request
//!   overrides.rs      an operator overrules the votes
//!   branches.rs       what an override goes on without
//!   quorum.rs         clusters without shared disks
//!   membership.rs     nodes added and removed
//!   fencing.rs        who fences whom, and what the fenced one does
//!   views.rs          an external membership monitor, and planned work
//! what clients and operators are told
//!   survival.rs       what clients may rely on while nodes die and come back
//!   telling.rs        what is told is committed for good
//!   reports.rs        what a node says of the cluster
//!   clocks.rs         clocks that jump, machines that sleep
//! many nodes, large updates, commands
//!   nodes/            three and five nodes
//!   loading.rs        updates that load a whole database
//!   synchronization/  freeze and unfreeze commands around an update
//! ```

mod apart;
mod branches;
mod clocks;
mod evidence;
mod fencing;
mod identity;
mod leaving;
mod loading;
mod membership;
mod nodes;
mod overrides;
mod overwritten;
mod quorum;
mod reports;
mod room;
mod sharing;
mod sides;
mod survival;
mod synchronization;
mod takeover;
mod telling;
mod views;
