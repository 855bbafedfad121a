//! What is asked of a node's history of updates, and answered.
//!
//! Every node keeps its own, so what one was not there for another may know.

use ccd_core::database::{Difference, FormatEffect, Key, Who};
use ccd_core::ids::{Epoch, Generation, RequestId};
use ccd_core::time::Date;
use serde::{Deserialize, Serialize};

/// Which updates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryAsk {
    /// Those that changed this key; `None`: all.
    pub key: Option<Key>,
    /// The newest so many.
    pub last: u32,
    /// Only generations before this one.
    pub before: Option<Generation>,
    /// With the rows that were changed.
    pub rows: bool,
}

/// The answer, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryTold {
    pub items: Vec<HistoryItem>,
    /// The first update that this node keeps, or would if there was none yet.
    pub oldest: Generation,
    /// There are earlier ones, which were not asked for or had no room in the answer.
    pub more: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HistoryItem {
    Update(Box<HistoryUpdate>),
    Gap(HistoryGap),
}

/// Updates that this node does not keep: it received a whole copy, or the file with them is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryGap {
    /// The last update that is kept before it.
    pub after: Generation,
    /// Where the history goes on. Not above `after` if what was replaced was a branch that lost.
    pub up_to: Generation,
}

/// One update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryUpdate {
    pub epoch: Epoch,
    pub generation: Generation,
    pub date: Date,
    pub who: Who,
    pub reason: Option<String>,
    pub request: RequestId,
    /// What it changed; of one key, if one was asked for.
    pub keys: Vec<KeyChange>,
    /// The rows, if they were asked for and were not too many to be kept.
    pub rows: Option<Difference>,
}

/// How much of a key an update changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    pub key: Key,
    pub rows_removed: u64,
    pub rows_added: u64,
    pub format: FormatEffect,
}

impl KeyChange {
    /// Every key that the difference touches.
    pub fn all(difference: &Difference) -> Vec<Self> {
        let keys = difference.keys().into_iter().map(|effects| Self {
            key: effects.key.clone(),
            rows_removed: effects.rows_removed,
            rows_added: effects.rows_added,
            format: effects.format,
        });
        keys.collect()
    }
}

/// What leads from one generation to another, earlier or later one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangesAsk {
    /// Of this key only.
    pub key: Option<Key>,
    pub from: Generation,
    pub to: Generation,
}
