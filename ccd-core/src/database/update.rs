//! What changes a database: operations, updates, and the records that journals hold.

use super::{Content, Key, Pattern, Row};
use crate::configuration::RestoreFlag;
use crate::ids::{Epoch, Generation, Lineage, NodeId, NodeSet, Position, RequestId, Stamp};
use crate::time::Date;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Who asked for an update.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    pub node: Option<NodeId>,
    pub uid: u32,
    pub pid: u32,
    pub program: String,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// `ccd_add_unique`: refuses a row equal to an existing one.
    Add(Row),
    /// `ccd_remove`: removes all matching rows, and refuses if there are none.
    Remove(Pattern),
    /// `ccd_format`: defines a key; refuses if the key exists with another format.
    Format { key: Key, columns: Vec<String> },
    /// `ccd_remove_fmt`: removes a key that has no rows.
    RemoveFormat(Key),
    /// `ccd_restore` for one key: its format and rows become these (absent: the key goes).
    ReplaceKey { key: Key, content: Content },
    /// Bulk restore: the whole database becomes this. `restore` is the flag it leaves (Fig. 6, column 4).
    ReplaceAll { content: Content, restore: RestoreFlag },
    /// Drops rows that break their format.
    Purify,
}

/// What must hold for a transaction to be applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precondition {
    Generation(Generation),
    RowPresent(Row),
    RowAbsent(Row),
}

/// One transaction: applied whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    pub request: RequestId,
    pub who: Who,
    /// By the clock of the node the client is attached to; becomes the date of the consistency record.
    pub date: Date,
    pub reason: Option<String>,
    pub preconditions: Vec<Precondition>,
    pub ops: Vec<Op>,
}

/// What a journal holds and what an update request carries: one step of a replica from one position to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The position this record applies to.
    pub prev: Position,
    /// The position it leads to.
    pub next: Position,
    pub body: RecordBody,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordBody {
    /// One round of the two-phase commit: its updates have the generations after `prev`, in order.
    Updates { updates: Vec<Update>, members: NodeSet },
    /// The round that led to `prev` is undone; `next` is where the replica was before it.
    Rollback,
    /// A new configuration opened on this content; only the epoch changes.
    Open,
}
