//! Whatever reads bytes that somebody else wrote, as functions of bytes: run for long by cargo-fuzz (`tests/fuzz`), and for a
//! bounded number of mutations by an ordinary test (`tests/tests/fuzz.rs`).
//!
//! ```text
//! targets.rs    what is read, and what must hold of what was read
//! seeds.rs      what each target begins with: one of every kind that is valid
//! node.rs       one target of many files: a whole node, driven with what nobody honest sends
//! mutate.rs     damage, at random from a seed
//! ```
//!
//! A target panics when something is wrong, and does nothing else.

mod mutate;
mod node;
mod seeds;
mod targets;

pub use mutate::Mutator;
pub use seeds::seeds;
pub use targets::TARGETS;

/// Feeds one input to a target.
///
/// # Panics
/// When there is no such target, or it found something.
pub fn run(target: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    let (_, check) = found.unwrap_or_else(|| panic!("there is no fuzz target {target}"));
    check(data);
}
