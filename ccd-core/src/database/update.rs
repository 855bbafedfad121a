//! What changes a database: operations, updates, and the records that journals hold.

use super::record::Made;
use super::row::COLUMNS_DECODED_MAX;
use super::sizes::total;
use super::{Content, ContentText, Key, Pattern, Row};
use crate::configuration::RestoreFlag;
use crate::ids::{Generation, NodeId, NodeSet, Position, RequestId};
use crate::time::Date;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
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
    Format {
        key: Key,
        #[serde(deserialize_with = "crate::bounded::at_most::<_, _, COLUMNS_DECODED_MAX>")]
        columns: Vec<String>,
    },
    /// `ccd_remove_fmt`: removes a key that has no rows.
    RemoveFormat(Key),
    /// `ccd_restore` for one key: its format and rows become these (absent: the key goes).
    /// `restore` as below.
    ReplaceKey {
        key: Key,
        content: Content,
        restore: RestoreFlag,
    },
    /// Bulk restore: the whole database becomes this. `restore` is the flag it leaves (Fig. 6, column 4):
    /// the master sets it when it admits the update, whatever the client said.
    ReplaceAll { content: Content, restore: RestoreFlag },
    /// Drops rows that break their format.
    Purify,
    /// As [`Op::ReplaceAll`], of any size that the replicas hold: not bound by [`RECORD_BYTES_MAX`].
    LoadAll { text: ContentText, restore: RestoreFlag },
    /// As [`Op::ReplaceKey`], of any size. What the text holds of other keys is not looked at.
    LoadKey {
        key: Key,
        text: ContentText,
        restore: RestoreFlag,
    },
}

/// What must hold for a transaction to be applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precondition {
    Generation(Generation),
    RowPresent(Row),
    RowAbsent(Row),
}

impl fmt::Display for Precondition {
    /// As the file of `ccdadm apply` writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Generation(generation) => write!(f, "if generation = {generation}"),
            Self::RowPresent(row) => write!(f, "if row present {row}"),
            Self::RowAbsent(row) => write!(f, "if row absent {row}"),
        }
    }
}

/// One transaction: applied whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    pub request: RequestId,
    pub who: Who,
    /// By the clock of the node the client is attached to; becomes the date of the consistency record.
    pub date: Date,
    pub reason: Option<String>,
    #[serde(deserialize_with = "at_most_operations_max")]
    pub preconditions: Vec<Precondition>,
    #[serde(deserialize_with = "at_most_operations_max")]
    pub ops: Vec<Op>,
}

/// Most bytes of an encoded record, and so of a transaction, but for the text that it loads: what a member must be ready to
/// receive, and a journal to hold, in one piece.
pub const RECORD_BYTES_MAX: usize = 16 << 20;

/// Most bytes of any record: one that loads the largest database that there can be. It travels in pieces.
pub const RECORD_BYTES_LARGEST: usize = (1 << 30) + RECORD_BYTES_MAX;

/// Room in a record for what is not its updates: two positions, members, checksum.
pub(super) const RECORD_OVERHEAD_BYTES: usize = 1024;

/// Most operations and preconditions of one transaction. An operation can take one byte in a record and some two
/// hundred in memory, so the bytes alone are no bound on memory.
pub const OPERATIONS_MAX: usize = 1 << 18;

/// Decodes a list of at most [`OPERATIONS_MAX`], and stops where it goes on.
///
/// # Errors
/// When it is longer, or an element does not decode.
pub fn at_most_operations_max<'de, D, T>(decoder: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    crate::bounded::at_most::<_, _, OPERATIONS_MAX>(decoder)
}

/// Decodes the updates of a round: together they have no more operations than one may have, for only small ones share a round.
fn updates_of_a_round<'de, D: serde::Deserializer<'de>>(decoder: D) -> Result<Vec<Update>, D::Error> {
    struct Round;
    impl<'de> serde::de::Visitor<'de> for Round {
        type Value = Vec<Update>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "updates with at most {OPERATIONS_MAX} operations")
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Vec<Update>, A::Error> {
            let (mut updates, mut operations) = (Vec::new(), 0_usize);
            while let Some(update) = items.next_element::<Update>()? {
                operations = operations.saturating_add(update.ops.len());
                if operations > OPERATIONS_MAX {
                    return Err(serde::de::Error::invalid_length(operations, &self));
                }
                updates.push(update);
            }
            Ok(updates)
        }
    }
    decoder.deserialize_seq(Round)
}

impl Update {
    /// At least as many bytes as the update takes in a record. Who batches updates into a record keeps the sum
    /// within [`RECORD_BATCH_BYTES_MAX`].
    pub fn encoded_bytes_max(&self) -> usize {
        let preconditions = self.preconditions.iter().map(|precondition| match precondition {
            Precondition::Generation(_) => 16,
            Precondition::RowPresent(row) | Precondition::RowAbsent(row) => total([4, row_bytes_max(row)]),
        });
        let reason = self.reason.as_deref().map_or(0, text_bytes_max);
        let fixed = [128, text_bytes_max(&self.who.program), reason];
        let ops = self.ops.iter().map(Op::encoded_bytes_max);
        total(fixed.into_iter().chain(preconditions).chain(ops))
    }
}

impl Op {
    /// At least as many bytes as the operation takes in a record.
    pub fn encoded_bytes_max(&self) -> usize {
        total(match self {
            Self::Add(row) => [4, row_bytes_max(row), 0],
            Self::Remove(pattern) => [4, pattern_bytes_max(pattern), 0],
            Self::Format { key, columns } => [4, text_bytes_max(key.as_str()), texts_bytes_max(columns)],
            Self::RemoveFormat(key) => [4, text_bytes_max(key.as_str()), 0],
            Self::ReplaceKey { key, content, .. } => {
                [8, text_bytes_max(key.as_str()), content_bytes_max(content)]
            }
            Self::ReplaceAll { content, .. } => [8, content_bytes_max(content), 0],
            Self::Purify => [4, 0, 0],
            Self::LoadAll { text, .. } => [4, content_text_bytes_max(text), 0],
            Self::LoadKey { key, text, .. } => {
                [4, text_bytes_max(key.as_str()), content_text_bytes_max(text)]
            }
        })
    }
}

impl Update {
    /// How much of it is text to be loaded, which travels in pieces.
    pub fn loaded_bytes(&self) -> usize {
        loaded_bytes(&self.ops)
    }
}

/// How many bytes of these operations are text to be loaded.
pub fn loaded_bytes(ops: &[Op]) -> usize {
    let texts = ops.iter().map(|op| match op {
        Op::LoadAll { text, .. } | Op::LoadKey { text, .. } => content_text_bytes_max(text),
        _ => 0,
    });
    texts.sum()
}

/// Tells what updates ask for apart, if two come under one request id.
pub fn content_digest(preconditions: &[Precondition], ops: &[Op]) -> u32 {
    let mut digest = Digest(blake3::Hasher::new());
    digest.take(&preconditions);
    for op in ops {
        match op {
            // Of what may be long, the numbers that its consistency record would have.
            Op::LoadAll { text, .. } => digest.take(&("all", text.numbers())),
            Op::LoadKey { key, text, .. } => digest.take(&("key", key, text.numbers())),
            other => digest.take(other),
        }
    }
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&digest.0.finalize().as_bytes()[..4]);
    u32::from_le_bytes(bytes)
}

/// Hashes what is encoded, and keeps none of it.
struct Digest(blake3::Hasher);

impl Digest {
    fn take<T: Serialize + ?Sized>(&mut self, value: &T) {
        // Hashing does not fail, and the types hold nothing that postcard cannot write.
        let taken = postcard::serialize_with_flavor(value, Hashed(&mut self.0));
        debug_assert!(taken.is_ok(), "plain data encodes");
    }
}

struct Hashed<'a>(&'a mut blake3::Hasher);

impl postcard::ser_flavors::Flavor for Hashed<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.update(&[byte]);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.update(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Most bytes, by [`Update::encoded_bytes_max`], of all updates of one record.
pub const RECORD_BATCH_BYTES_MAX: usize = RECORD_BYTES_MAX - RECORD_OVERHEAD_BYTES;

/// A length takes at most five bytes: nothing here is longer than 4 GiB.
const LENGTH_BYTES_MAX: usize = 5;

fn text_bytes_max(text: &str) -> usize {
    let length_bytes = match text.len() {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        _ => LENGTH_BYTES_MAX,
    };
    total([length_bytes, text.len()])
}

fn texts_bytes_max(texts: &[String]) -> usize {
    total(
        texts
            .iter()
            .map(|text| text_bytes_max(text))
            .chain([LENGTH_BYTES_MAX]),
    )
}

fn row_bytes_max(row: &Row) -> usize {
    total([text_bytes_max(row.key.as_str()), texts_bytes_max(&row.values)])
}

fn pattern_bytes_max(pattern: &Pattern) -> usize {
    let columns = pattern
        .columns
        .iter()
        .map(|column| total([1, column.as_deref().map_or(0, text_bytes_max)]));
    let named = pattern
        .named
        .iter()
        .map(|(name, text)| total([text_bytes_max(name), text_bytes_max(text)]));
    let fixed = [text_bytes_max(pattern.key.as_str()), 3 * LENGTH_BYTES_MAX];
    total(fixed.into_iter().chain(columns).chain(named))
}

fn content_bytes_max(content: &Content) -> usize {
    let formats = content
        .formats
        .iter()
        .map(|(key, columns)| total([text_bytes_max(key.as_str()), texts_bytes_max(columns)]));
    let rows = content.rows.iter().map(row_bytes_max);
    total(formats.chain(rows).chain([2 * LENGTH_BYTES_MAX]))
}

fn content_text_bytes_max(text: &ContentText) -> usize {
    let text_bytes = usize::try_from(text.len_bytes()).unwrap_or(usize::MAX);
    total([4, LENGTH_BYTES_MAX, text_bytes])
}

/// What a journal holds and what an update request carries: one step of a replica from one position to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The position this record applies to.
    pub prev: Position,
    /// The position it leads to.
    pub next: Position,
    pub body: RecordBody,
    /// Its bytes, once they were made or came: they go to every member and into every journal as they are.
    #[serde(skip)]
    pub(super) made: Made,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordBody {
    /// One round of the two-phase commit: its updates have the generations after `prev`, in order.
    Updates {
        #[serde(deserialize_with = "updates_of_a_round")]
        updates: Vec<Update>,
        members: NodeSet,
    },
    /// The round that led to `prev` is undone; `next` is where the replica was before it.
    Rollback,
    /// A new configuration opened on this content; only the epoch changes.
    Open,
    /// The same with all nodes active: the restore flag goes back to 4.
    OpenAll,
}
