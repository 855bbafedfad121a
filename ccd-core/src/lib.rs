//! The pure part of ccd: no clock, no input or output, no threads, no operating system.
//!
//! ```text
//!   ids, time            names and numbers that everything uses; bounded: lists that are decoded up to a limit
//!     ↑
//!   database             Fig. 6: rows, formats, queries, transactions, text form, consistency record
//!     ↑
//!   configuration        what the cluster agreed on, the vote rule, ballots
//!     ↑
//!   synchronization      the commands of keys: names, keywords, which update runs which; private: whose values are not told
//!   replica, reservation what the protocol asks of a disk
//!   client, drill        what a client asks of the protocol, and hears
//!   init                 the static rows that every node reads before anything runs
//!     ↑
//!   protocol             the node as a state machine: events in, actions out
//! ```
//!
//! Imports run upwards in this drawing and never back. The crate is `no_std` so that the compiler itself
//! keeps clocks, files, sockets, threads and randomly ordered maps out.
//!
//! What ends a node ends it again at each start, if it was stored: so nothing here indexes, computes without a bound or unwraps.
//! Where it is certain that nothing can go wrong, one function says why.
#![no_std]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

extern crate alloc;

mod bounded;
pub mod client;
pub mod configuration;
pub mod database;
pub mod drill;
pub mod ids;
pub mod init;
pub mod private;
pub mod problem;
pub mod protocol;
pub mod replica;
pub mod reservation;
pub mod synchronization;
pub mod time;
