//! Database files as `ccdadm checkpoint` and `convert` write them, and what restoring one is. Called by `ccdadm restore`
//! and by the C library's `ccd_restore`.
//!
//! Always holds: a [`Backup`] is what its consistency record says.

use crate::error::CcdError;
use crate::files;
use ccd_core::configuration::RestoreFlag;
use ccd_core::database::{ConsistencyRecord, Content, Key, Op, ParsedText, RecordCheck};
use std::path::Path;

/// Largest database file that is read.
pub const TEXT_BYTES_MAX: u64 = 1 << 30;

/// A database file that was read and verified.
#[derive(Clone, Debug)]
pub struct Backup {
    content: Content,
    record: ConsistencyRecord,
}

impl Backup {
    /// Reads a file, or standard input for `-`. Every row must fit, and the consistency record must be there and match.
    pub fn read(path: &Path) -> Result<Self, CcdError> {
        let text = files::read_bytes(path, TEXT_BYTES_MAX)?;
        let parsed = ParsedText::parse(&text, RecordCheck::Verify).map_err(|source| CcdError::Text {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        let record = parsed.record.ok_or_else(|| CcdError::NoRecord {
            path: path.to_owned(),
        })?;
        Ok(Self {
            content: parsed.content,
            record,
        })
    }

    pub fn record(&self) -> &ConsistencyRecord {
        &self.record
    }

    /// The whole database becomes this.
    pub fn restore_all(self) -> Op {
        Op::ReplaceAll {
            content: self.content,
            // The master says whether all nodes are active.
            restore: RestoreFlag::default(),
        }
    }

    /// One key becomes what it is here; `None` if it is not.
    pub fn restore_key(self, key: Key) -> Option<Op> {
        let Content {
            mut formats,
            mut rows,
        } = self.content;
        formats.retain(|(known, _)| *known == key);
        rows.retain(|row| row.key == key);
        if formats.is_empty() {
            return None;
        }
        Some(Op::ReplaceKey {
            key,
            content: Content { formats, rows },
            restore: RestoreFlag::default(),
        })
    }
}
