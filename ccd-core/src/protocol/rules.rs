//! The protocol's pure decisions, by name, for those who check them: the model in `tests/` explores every order of events and
//! asks these functions, the same ones that the node asks, what follows.
//!
//! The vote rule itself is [`crate::configuration::votes`].

pub use super::fencing::step::{Next, Situation, next as next_fencing_step};
pub use super::replicas::track::RE_OPEN_AFTER_MAX;
pub use super::voting::conclude::{is_overruled, override_epoch};
pub use super::voting::evidence::{Evidence, Source, newest_state};
pub use super::voting::left_out::may_hold_leases;
