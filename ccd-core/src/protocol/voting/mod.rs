//! How a successor of the configuration is decided (DESIGN §7): Paxos among the nodes and devices that it names.
//!
//! ```text
//! vote.rs       this node as a voter                  learn.rs     a later configuration was decided, and ends what was under way
//! propose.rs    as a proposer: the ballot begins      evidence.rs  pure: which state a successor starts from
//! promises.rs   what the voters promised              left_out.rs  pure: whose leases must have run out
//! conclude.rs   what was decided, and an override     lower_bound.rs  pure: what is known to be committed, whatever the voters hold
//! branches.rs   what is kept aside before it is written over
//! ```

pub(super) mod branches;
pub(super) mod conclude;
pub(super) mod evidence;
pub(super) mod learn;
pub(super) mod left_out;
pub(super) mod lower_bound;
pub(super) mod promises;
pub(super) mod propose;
pub(super) mod vote;
