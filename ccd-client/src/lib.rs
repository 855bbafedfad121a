//! CCDLIB: what clients of a ccd daemon use, and the programs `ccdadm` and `ccdctl`.
//!
//! ```text
//!   exit, messages     exit codes; the catalogue of messages with their ids
//!   dates              as the programs print them
//!   places, files      the three folders and what is in them (shared with the daemon)
//!   lock_file          locks that one process at a time holds (shared with the daemon)
//!   authkey            the secrets that nodes prove to each other, and how they are rotated
//!   wire               messages on the Unix sockets, bytes to types and back (shared with the daemon)
//!     ↑
//!   error              CcdError: everything that can go wrong, each with its message
//!   connection         one blocking connection
//!   metrics            what the daemon tells monitoring, over HTTP on control.sock
//!   client             Client: attach, query, update, status, control; from any thread
//!   watch              WatchBuilder, Watch: every change, once and in order
//!   static_database    the init database as a database, with nothing running
//!   backup             database files, and restoring them
//!   checkpoints        database files with a name in the state folder (shared with the daemon)
//!     ↑
//!   cli                ccdadm and ccdctl: arguments in, text or JSON out
//! ```
//!
//! Imports run upwards in this drawing and never back. The library is blocking and starts no threads. The C library
//! is a package of its own, in `c/`, so that nobody links it who does not use it.
//!
//! ```no_run
//! use ccd_client::{Applied, Client, Freshness, Places, Transaction};
//! use ccd_core::database::{Key, Op, Pattern, Precondition, Row};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::attach(&Places::from_env(), "balancer")?;
//! let key = Key::new("BACKEND")?;
//! let web1 = Row::new(key.clone(), ["web1", "fd00::1"])?;
//! // Applied whole or not at all, and once, whatever happens to the daemon on the way.
//! let applied = client.update(Transaction {
//!     preconditions: vec![Precondition::RowAbsent(web1.clone())],
//!     ops: vec![Op::Add(web1)],
//!     reason: Some("a new server".into()),
//!     ..Transaction::default()
//! });
//! match applied {
//!     Ok(Applied::Committed { generation, .. }) => println!("since generation {generation}"),
//!     Ok(Applied::WouldApply { .. }) => unreachable!("only a dry run says so"),
//!     Err(error) if error.is_worth_retrying() => println!("not now: {error}"),
//!     Err(error) => return Err(error.into()),
//! }
//! // One call with another time-out, and with a wildcard of its own.
//! let patient = client.clone().with_timeout(Duration::from_secs(20)).with_retry(true);
//! let pattern = Pattern::positional(key, ["web%"]).with_wildcard(Some('%'));
//! for row in patient.query(pattern, Freshness::Strict)?.rows {
//!     println!("{}", row.values[1]);
//! }
//! # Ok(())
//! # }
//! ```

mod authkey;
pub mod backup;
pub mod checkpoints;
pub mod cli;
pub mod client;
mod connection;
mod dates;
pub mod error;
pub mod exit;
pub mod files;
pub mod lock_file;
pub mod messages;
pub mod metrics;
pub mod places;
pub mod static_database;
pub mod watch;
pub mod wire;

pub use client::{Applied, Client, Freshness, Keys, Rows, Transaction};
pub use error::CcdError;
pub use exit::Exit;
pub use places::Places;
pub use static_database::StaticDatabase;
pub use watch::{Watch, WatchBuilder, WatchEvent};
