//! What the cluster last agreed on, who may decide what comes next, and how that is voted.
//!
//! ```text
//! configuration.rs  the agreed facts: epoch, mode, members, devices in sync
//! votes.rs          THE rule (DESIGN §7): weights, arbiter, "do these voters decide?"
//! mesh.rs           who can hold a lease, by who hears whom
//! ballot.rs         Paxos ballots: what a voter has promised and accepted
//! ```

mod ballot;
#[allow(clippy::module_inception)]
mod configuration;
pub(crate) mod mesh;
pub mod votes;

pub use ballot::{Ballot, BallotBlock, Claim};
pub use configuration::{Configuration, Decider, Mode, Quorum, REASON_BYTES_MAX, RestoreFlag, Writers};
