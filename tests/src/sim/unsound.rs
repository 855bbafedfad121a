//! A finding: which named invariant does not hold, and what shows it.

use core::fmt;

/// What a history can fail by; each has an exit code of its own in the `simulate` program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Something wrong was stored or answered.
    Correctness,
    /// The faults have ended, and the cluster does not serve.
    Liveness,
    /// The code under test panicked.
    Crash,
}

#[derive(Clone, Debug)]
pub struct Unsound {
    pub kind: Kind,
    pub invariant: &'static str,
    pub text: String,
}

impl Unsound {
    pub fn new(invariant: &'static str, text: String) -> Self {
        Self {
            kind: Kind::Correctness,
            invariant,
            text,
        }
    }

    pub fn liveness(invariant: &'static str, text: String) -> Self {
        Self {
            kind: Kind::Liveness,
            invariant,
            text,
        }
    }
}

impl fmt::Display for Unsound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}: {}", self.kind, self.invariant, self.text)
    }
}
