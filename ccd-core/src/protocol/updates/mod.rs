//! Updates (DESIGN §5, Fig. 3): two-phase commit, and the solo owner's claim check.
//!
//! ```text
//! round.rs     the master's round                     freeze.rs    what runs before an update of a key that has a
//! roll_back.rs its end if a member cannot do it                    synchronization command
//! prepared.rs  a round at the other members           dry_runs.rs  what an update would do
//! settled.rs   which rounds are known to be           commands.rs  those commands at every node
//!              committed                              telling.rs   telling the driver of each committed update, once
//!                                                                  and in order
//! large.rs     what takes long to work out, beside the loop
//! ```

pub(super) mod commands;
pub(super) mod dry_runs;
pub(super) mod freeze;
pub(super) mod large;
pub(super) mod prepared;
mod roll_back;
pub(super) mod round;
pub(super) mod settled;
pub(super) mod telling;
