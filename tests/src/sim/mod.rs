//! The deterministic simulator: the product's own protocol and region code in a world made from one seed.
//!
//! ```text
//! random, moment      chance from the seed; virtual time and the nodes' clocks
//! inits               the servers' init databases
//! plan                what a seed means: shape, faults, load; THE FAULT BUDGET
//!   groups            the same for clusters of many nodes     episodes  for replicas that are set back or made anew
//!   backups           how they are, and what could still be read of what was lost
//! world               the event queue                            happening   what is in it
//!   processes         the servers' processes: start, pause, sleep, crash      asks   what clients ask them
//!   actions           carries out what nodes ask for          faults    makes faults happen and ends them
//!                                                       faults_of_many  those that hit several nodes, and those that come and go
//!   disks             operations on replicas, step by step    client    the random load
//! server, drive       a process; one replica's queue, thread and deadline
//! reservations        a device's persistent reservation         fences    the way of a step with one
//! store               ccd-disk's region on devices in memory, with faults of path and device
//!                                                       checkpoints  how they were written, counted
//!                                                       strangers    copies of a server, disks that are not shared
//!                                                       clones       a copy of a disk at one server, while the other one owns it
//!                                                       moves        copies of servers have their network in turn
//!                                                       edits        an init database that is edited by hand

//!                                                       replaced     a removed server beside the new owner of its number
//! commands            synchronization commands, and what was run
//! network             delay, loss, repetition, order, cuts
//! ledger, voters      what really happened: every record, every vote; most invariants
//! telling             what nodes tell of committed updates        durable   what is on which replica
//! history, linear     what clients saw; the linearizability checker
//! run                 a history from seed to verdict            campaign  many seeds, reports, replays
//! scenario            the same machinery, driven by hand for directed tests
//! ```
//!
//! Nothing here reads a clock or draws a random number of its own; two runs of a seed are the same, event by event.

mod actions;
pub mod asks;
mod backups;
mod brief;
pub mod campaign;
mod checkpoints;
pub mod client;
mod clones;
pub mod commands;
mod disks;
mod drive;
mod durable;
mod edits;
mod episodes;
mod faults;
mod faults_of_many;
mod fences;
mod groups;
mod happening;
pub mod history;
pub mod inits;
pub mod ledger;
pub mod linear;
pub mod log;
pub mod media;
pub mod moment;
mod moves;
mod network;
pub mod plan;
mod processes;
mod random;
mod replaced;
pub mod reservations;
pub mod run;
pub mod scenario;
pub mod server;
pub(crate) mod store;
mod strangers;
mod telling;
mod unsound;
mod voters;
pub mod world;

pub use random::Random;
pub use unsound::{Kind, Unsound};
