//! Keys, rows and patterns.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// The name of a kind of rows: `[A-Za-z][A-Za-z0-9_.-]*`, not ending in `_fmt`, not `CCD_CHK`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(String);

/// One entry: a key and a value for each column of its format.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Row {
    pub key: Key,
    pub values: Vec<String>,
}

/// What `query` and `remove` match: positional patterns; missing ones match anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pattern {
    pub key: Key,
    pub columns: Vec<Option<String>>,
    /// Matches any run of characters, also none. `None`: everything is matched exactly.
    pub wildcard: Option<char>,
}
