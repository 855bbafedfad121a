//! `ccdd`: drives the protocol of ccd-core with real disks, sockets and clocks.
//!
//! ```text
//!   cli            what the command line says; which program was called
//!     ↓
//!   startup        everything that is read and checked before serving; locks: one daemon a folder
//!     ↓
//!   daemon         the event loop: one task owns the node and executes its actions
//!     ↓        ↓         ↓           ↓          ↓
//!   peers   clients   replicas   decisions   service
//!   (TCP,   (Unix     (regions,  (why)       (systemd)       fences: reservations, a thread a device
//!   Noise)  sockets)  branches)
//!     ↓        ↓
//!   commands: synchronization commands, a thread each
//!                       history: what each update changed, on disk, by threads of its own
//!                          ↓
//!                       watch: those who are told of each, on threads of their own
//!                       reads: long reads, on threads of their own, fair by user;  update_workers: large updates and dry runs, on one each
//!   outbox, outlet, door, gauge, fair, descriptors, priority, quiet, clock, log and severity (of its lines), nodes (init database)         scrub: a background pass over the devices; surroundings: files and folders; copy_watch: the local copy; losses: updates that are lost
//!                       checkpoints: the database saved as a file every so often
//!
//!   metrics        what monitoring asks of a node, as text
//!
//!   host           the machine, as heartbeats on the devices name it
//!   warm           memory for a copy that is on its way
//!   measured       what the benchmark reaches of the insides
//!   demo           a whole cluster in one process tree, on files
//!   pages          manual pages and completions, written when the programs are installed; not part of the daemon
//! ```
//!
//! Imports run downwards in this drawing. tokio is used here and in no other crate, on one thread.

mod branches;
mod checkpoints;
pub mod cli;
mod clients;
mod clock;
mod commands;
mod copy_watch;
mod daemon;
mod decisions;
mod demo;
mod descriptors;
mod door;
mod fair;
mod fences;
mod file_id;
mod gauge;
mod history;
mod host;
mod locks;
mod log;
mod losses;
#[doc(hidden)]
pub mod measured;
mod metrics;
mod nodes;
mod outbox;
mod outlet;
pub mod pages;
mod peers;
mod priority;
mod quiet;
mod reads;
mod replicas;
mod scrub;
mod service;
mod severity;
mod startup;
mod surroundings;
mod update_workers;
mod warm;
mod watch;
