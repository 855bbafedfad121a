//! The id of a state folder, which holds a node's vote.

use core::fmt;
use serde::{Deserialize, Serialize};

/// Tells the state folders of one node apart: drawn when a folder is new, and when it starts on another machine than before. What a node has
/// promised is in its folder, so a configuration counts each node by one. Zero: not known, as in configurations of earlier programs.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FolderId(pub u64);

impl FolderId {
    pub const fn is_known(self) -> bool {
        self.0 != 0
    }
}

impl fmt::Display for FolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for FolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FolderId({self})")
    }
}
