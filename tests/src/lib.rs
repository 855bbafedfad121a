//! Tests of the whole.
//!
//! ```text
//! sim/             the deterministic simulator and the linearizability checker
//! bin/simulate.rs  runs seeds: one again with its log, or many on all cores
//! process/         real daemons in network namespaces on loop devices
//! guest/           real daemons in virtual machines on real SCSI disks, nbd and device-mapper
//! ```
pub mod guest;
pub mod process;
pub mod sim;
