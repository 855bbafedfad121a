//! Database files as `ccdadm checkpoint` and `convert` write them, and what restoring one is. Called by `ccdadm restore`
//! and by the C library's `ccd_restore`.
//!
//! Always holds: a [`Backup`] is what its consistency record says.

use crate::error::CcdError;
use crate::files;
use ccd_core::configuration::RestoreFlag;
use ccd_core::database::{
    ConsistencyRecord, Content, ContentText, FileOrigin, Key, OPERATIONS_MAX, Op, ParsedText, RecordCheck,
};
use ccd_core::ids::ClusterId;
use std::path::Path;

/// Largest database file that is read.
pub const TEXT_BYTES_MAX: u64 = 1 << 30;

/// A restore of more than that loads text. Of less, it is an operation that every version of ccd knows.
const LOADED_BYTES_MIN: usize = 1 << 20;

/// A database file that was read and verified.
#[derive(Clone, Debug)]
pub struct Backup {
    content: Content,
    record: ConsistencyRecord,
    origin: Option<FileOrigin>,
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
            origin: parsed.origin,
        })
    }

    pub fn record(&self) -> &ConsistencyRecord {
        &self.record
    }

    /// What people are told of a file that another cluster saved; `None`: it does not say so.
    pub fn foreign_to(&self, cluster: ClusterId, name: &str) -> Option<String> {
        let origin = self.origin.as_ref().filter(|origin| origin.cluster != cluster)?;
        Some(format!(
            "it was saved by cluster {:?} ({}), and this is cluster {name:?} ({cluster})",
            origin.name, origin.cluster
        ))
    }

    /// The whole database becomes this.
    pub fn restore_all(self) -> Op {
        replace_all(self.content)
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
        let content = Content { formats, rows };
        let restore = RestoreFlag::default();
        Some(match loaded(&content) {
            Some(text) => Op::LoadKey { key, text, restore },
            None => Op::ReplaceKey {
                key,
                content,
                restore,
            },
        })
    }
}

/// The whole database becomes this content.
pub fn replace_all(content: Content) -> Op {
    // The master says whether all nodes are active.
    let restore = RestoreFlag::default();
    match loaded(&content) {
        Some(text) => Op::LoadAll { text, restore },
        None => Op::ReplaceAll { content, restore },
    }
}

/// Content that is long as text, which travels in pieces. What does not fit its format is left to the master to refuse.
fn loaded(content: &Content) -> Option<ContentText> {
    let rows = content.rows.iter();
    let bytes: usize = rows
        .map(|row| row.key.as_str().len() + row.values.iter().map(|value| value.len() + 1).sum::<usize>())
        .sum();
    if bytes < LOADED_BYTES_MIN {
        return None;
    }
    ContentText::new(content, None).ok()
}

/// Whether operations take so much that what they do is better loaded as text.
pub fn is_large(ops: &[Op]) -> bool {
    ops.len() > OPERATIONS_MAX || ops.iter().map(Op::encoded_bytes_max).sum::<usize>() > LOADED_BYTES_MIN
}
