//! CCDLIB: what clients of a ccd daemon use, and the programs `ccdadm` and `ccdctl`.
//!
//! ```text
//!   exit, messages     exit codes; the catalogue of messages with their ids
//!   places, files      the three folders and what is in them (shared with the daemon)
//!   authkey            the secrets that nodes prove to each other, and how they are rotated
//!   wire               messages on the Unix sockets, bytes to types and back (shared with the daemon)
//!     ↑
//!   error              CcdError: everything that can go wrong, each with its message
//!   connection         one blocking connection
//!   client             Client: attach, query, update, status, control; from any thread
//!   static_database    the init database as a database, with nothing running
//!     ↑
//!   cli                ccdadm and ccdctl: arguments in, text or JSON out
//! ```
//!
//! Imports run upwards in this drawing and never back. The library is blocking and starts no threads.

mod authkey;
pub mod cli;
pub mod client;
mod connection;
pub mod error;
pub mod exit;
pub mod files;
pub mod messages;
pub mod places;
pub mod static_database;
pub mod wire;

pub use client::{Applied, Client, Freshness, Keys, Rows, Transaction};
pub use error::CcdError;
pub use exit::Exit;
pub use places::Places;
pub use static_database::StaticDatabase;
