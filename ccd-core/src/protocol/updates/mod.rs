//! Updates (DESIGN §5, Fig. 3): two-phase commit, and the solo owner's claim check.
//!
//! ```text
//! round.rs     the master's round                     freeze.rs    what runs before an update of a key that has a
//! prepared.rs  a round at the other members                        synchronization command
//! settled.rs   which rounds are known to be           commands.rs  those commands at every node
//!              committed                              telling.rs   telling the driver of each committed update, once
//!                                                                  and in order
//! ```

pub(super) mod commands;
pub(super) mod freeze;
pub(super) mod prepared;
pub(super) mod round;
pub(super) mod settled;
pub(super) mod telling;
