//! Bringing one device of a pair to what its twin holds, with no daemon: what `ccd-disk resync` does.
//!
//! ```text
//! decide.rs   pure: what the replicas say → copy, nothing to do, or why not
//! bring.rs    reads what a replica says; writes what was decided
//! ```
//!
//! Always holds: what is written is an image and a configuration that was decided, into the area of the node whose server this is;
//! never a ballot, a heartbeat or another node's area. `docs/decisions.md`, section 48, argues why that is safe.

mod bring;
mod decide;

pub use bring::{Unwanted, bring, see};
pub use decide::{Copy, Decision, Refusal, Seen, decide};
