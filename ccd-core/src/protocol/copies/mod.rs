//! How every member comes to hold the same database (DESIGN §8, Figs. 4 and 5).
//!
//! ```text
//! install.rs     from decided to open                 spread.rs        whom a copy is got from
//! catch_up.rs    getting the database from a node     history.rs       the records for a tail
//! incoming.rs    an image in pieces                   verification.rs  comparing copies, and replacing a wrong one
//! parcels.rs     updates that are too large for one message
//! pace.rs        who follows so closely that it can be let in
//! member.rs      the same at the other members
//! milestones.rs  where the time of a reconfiguration went
//! ```

pub(super) mod catch_up;
pub(super) mod history;
pub(super) mod incoming;
pub(super) mod install;
pub(super) mod member;
pub(super) mod milestones;
pub(super) mod pace;
pub(super) mod parcels;
pub(super) mod spread;
pub(super) mod verification;
