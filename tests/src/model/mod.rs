//! A model of the vote rule and of reconfiguration, which is explored in every order of events up to a stated bound.
//!
//! ```text
//! parts     what a state consists of: replicas, configurations, ballots, proposals, rounds
//! rules     the decisions: the product's own functions, or a known bad variant of one of them
//! steps     what may happen next, and what follows from it
//!   propose   from a ballot to a decision       serve   installing, updates, claim checks, fencing
//! checks    the properties
//! ```
//!
//! The simulator runs the product's code in a few of all orders; this runs an abstraction in all of them. What decides is the
//! product's: the vote rule, the choice of the state to start from, the next step with a reservation, the epoch of an override.
//!
//! # What is abstracted
//!
//! - *Time.* There are no clocks. A lease is there until it has run out, which may happen at any moment, or never; a step that
//!   must wait for a lease is possible only afterwards. A paused process is one that takes no step for a while.
//! - *Messages* between nodes are asked and answered in one step. A message that is lost is a step that does not happen; an answer that
//!   is lost is a proposer that crashes; a late request is one that happens late.
//! - *Writes to devices* land in one step, for a process that waits for a write does nothing else: to be late is to be
//!   asked for late. What a process had in flight when it died may land at any time until it starts again, unless it was aborted by
//!   fencing; a write of whoever was fenced is refused. A read is a step of its own, and sees what has landed.
//! - *Content* is the list of the epochs in which updates were made and configurations opened: its own lineage.
//!
//! # Bounds
//!
//! Each [`Limits`] says how many proposals, updates, crashes, overrides and damaged copies a history may have.
//!
//! # Overrides
//!
//! After an override what is promised is: one configuration an epoch; and of what clients had heard of, what the override went on from,
//! and all that is acked in it and after it. Not promised is what was acked, or is still acked, on the branch that was given up. A voter
//! may have taken up the value of an override that was given up half-way, so the next one of the same node begins past it.

pub mod checks;
mod parts;
mod propose;
mod rules;
mod serve;
mod steps;

pub use parts::{Conf, Content, State};
pub use rules::{Rules, Variant};
pub use steps::{Limits, Setup, Start, Step};
