//! Tests of the whole.
//!
//! ```text
//! model/           the vote rule and reconfiguration, in every order of events up to a bound
//! fuzz/            whatever reads others' bytes, as functions of bytes, with seeds and mutations
//! sim/             the deterministic simulator and the linearizability checker
//! bin/simulate.rs  runs seeds: one again with its log, or many on all cores
//! process/         real daemons in network namespaces on loop devices
//! guest/           real daemons in virtual machines on real SCSI disks, nbd and device-mapper
//! ```
pub mod fuzz;
pub mod guest;
pub mod model;
pub mod process;
pub mod sim;
