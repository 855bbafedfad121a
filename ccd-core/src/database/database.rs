//! The database itself: a persistent structure, so that a clone (the shadow) costs nothing.

use super::{Key, Pattern, Record, Row, Update};
use crate::configuration::RestoreFlag;
use crate::ids::{Generation, NodeSet, Position, RequestId};
use crate::time::Date;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Formats and rows without their history: what a restore brings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    pub formats: Vec<(Key, Vec<String>)>,
    pub rows: Vec<Row>,
}

/// One version of the database.
#[derive(Clone, Debug, Default)]
pub struct Database {
    position: Position,
}

/// Why an update cannot be part of the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum OpError {
    #[error("no such key: {0:?}")]
    NoSuchKey(Key),
}

/// A record does not continue this database.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    #[error("the record continues {expected}, the database is at {got}")]
    NotNext { expected: Position, got: Position },
}

/// An image does not decode.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged database image: {0}")]
pub struct ImageError(pub String);

impl Database {
    /// Stamp and lineage of this version.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Checks an update against this version (preconditions, formats, uniqueness, limits) and applies it. The result has
    /// the next generation; `epoch` is not changed, the lineage not yet advanced: `Record::updates` does that. The
    /// number is how many rows were removed.
    pub fn admit(&self, update: &Update) -> Result<(Self, u64), OpError> {
        let _ = update;
        Ok((self.clone(), 0))
    }

    /// Applies a record: `Updates` without checking preconditions again, `Open` by taking the new epoch. `Rollback` is
    /// not applied here: who keeps the shadow goes back to it.
    pub fn apply(&self, record: &Record) -> Result<Self, ApplyError> {
        Ok(Self {
            position: record.next,
        })
    }

    /// Rows of the pattern's key that match, in order.
    pub fn query(&self, pattern: &Pattern) -> Result<Vec<Row>, OpError> {
        let _ = pattern;
        Ok(Vec::new())
    }

    /// All keys with their columns and number of rows.
    pub fn keys(&self) -> Vec<(Key, Vec<String>, u64)> {
        Vec::new()
    }

    /// The generation at which an update was applied, if it is one of the last that are remembered.
    pub fn outcome(&self, request: RequestId) -> Option<Generation> {
        let _ = request;
        None
    }

    pub fn date(&self) -> Date {
        Date::default()
    }
    pub fn members(&self) -> NodeSet {
        NodeSet::EMPTY
    }
    pub fn restore_flag(&self) -> RestoreFlag {
        RestoreFlag::AllActive
    }
    /// BLAKE3 of the canonical text form without the consistency record.
    pub fn content_digest(&self) -> [u8; 32] {
        [0; 32]
    }

    /// The whole version as bytes: content, position, remembered outcomes. Canonical: equal versions, equal bytes.
    pub fn to_image(&self) -> Vec<u8> {
        Vec::new()
    }
    pub fn from_image(image: &[u8]) -> Result<Self, ImageError> {
        let _ = image;
        Ok(Self::default())
    }
}

impl Record {
    /// The record of one round: `updates` (each admitted, in order) made `prev` into `next`. Returns the record and
    /// the database at `record.next` (generation advanced by the number of updates, lineage chained over the record).
    pub fn updates(
        prev: &Database,
        epoch: crate::ids::Epoch,
        admitted: Database,
        updates: Vec<Update>,
        members: NodeSet,
    ) -> (Self, Database) {
        let _ = (prev, epoch, admitted, updates, members);
        unreachable!()
    }
    /// The record that opens a configuration with this epoch on this content.
    pub fn open(at: Position, epoch: crate::ids::Epoch) -> Self {
        let _ = (at, epoch);
        unreachable!()
    }
    /// The record that undoes the round that led from `back_to` to `undone`.
    pub fn rollback(undone: Position, back_to: Position) -> Self {
        let _ = (undone, back_to);
        unreachable!()
    }
    pub fn encode(&self) -> Vec<u8> {
        Vec::new()
    }
    /// Checks the lineage too: a record whose `next.lineage` does not follow from its content is an error.
    pub fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        let _ = bytes;
        Err(ImageError(String::new()))
    }
}
