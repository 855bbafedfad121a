//! Writes an image piece by piece: so a copy is on its way while the rest of it is made, and is never whole in memory.
//!
//! Used by `Database::to_image`, and by a node that another gets its copy from. A version never changes, so what has been
//! written stays right for as long as this takes.

use super::super::outcomes::Outcome;
use super::super::{Database, Key, format_text};
use super::{MAGIC, around_bytes};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Bound;

/// More than what a piece may be exceeded by before it is cut: the longest chunk of lines, or an outcome.
const EXCESS_BYTES: usize = 8 << 10;

#[derive(Clone, Debug)]
pub struct ImageWriter {
    database: Database,
    outcomes: Vec<Outcome>,
    digest: blake3::Hasher,
    next: Next,
    /// What was made beyond the last piece.
    ahead: Vec<u8>,
}

/// What is written next.
#[derive(Clone, Debug)]
enum Next {
    Header,
    /// The format of the first key behind this one.
    Table(Option<Key>),
    /// The rows of this key, from behind the chunk of this bound on.
    Rows(Key, Option<Box<str>>),
    Outcomes(usize),
    Digest,
    Nothing,
}

impl ImageWriter {
    pub fn new(database: &Database) -> Self {
        let outcomes = database.outcomes.remembered(database.position.stamp.generation);
        Self {
            database: database.clone(),
            outcomes,
            digest: blake3::Hasher::new(),
            next: Next::Header,
            ahead: Vec::new(),
        }
    }

    /// The version that is written.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// How many bytes the image has.
    pub fn total_bytes(&self) -> u64 {
        around_bytes(self.outcomes.len() as u64).saturating_add(self.database.measure.length_bytes)
    }

    /// The next so many bytes, or as many as are left.
    pub fn piece(&mut self, len_bytes: usize) -> Vec<u8> {
        let mut piece = Vec::with_capacity(len_bytes.saturating_add(EXCESS_BYTES));
        piece.append(&mut self.ahead);
        while piece.len() < len_bytes && !matches!(self.next, Next::Nothing) {
            let from = piece.len();
            let is_digested = !matches!(self.next, Next::Digest);
            self.write(&mut piece, len_bytes);
            if is_digested {
                self.digest.update(piece.get(from..).unwrap_or_default());
            }
        }
        if let Some(ahead) = piece.get(len_bytes..) {
            self.ahead.extend_from_slice(ahead);
            piece.truncate(len_bytes);
        }
        piece
    }

    /// Appends something, if there is something of the kind that is next; stops soon after `until`.
    fn write(&mut self, out: &mut Vec<u8>, until: usize) {
        let database = &self.database;
        self.next = match &self.next {
            Next::Header => {
                self.write_header(out);
                Next::Table(None)
            }
            Next::Table(after) => {
                let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                match database.tables.range::<Key, _>((from, Bound::Unbounded)).next() {
                    Some((key, table)) => {
                        out.extend_from_slice(format_text(key, &table.columns).as_bytes());
                        out.push(b'\n');
                        Next::Rows(key.clone(), None)
                    }
                    None => Next::Outcomes(0),
                }
            }
            Next::Rows(key, after) => {
                let lines = database.tables.get(key).map(|table| &table.lines);
                let mut pieces = (lines.into_iter()).flat_map(|lines| lines.pieces_after(after.as_deref()));
                loop {
                    match pieces.next() {
                        None => break Next::Table(Some(key.clone())),
                        Some((bound, piece)) => {
                            out.extend_from_slice(piece.as_bytes());
                            if out.len() >= until {
                                break Next::Rows(key.clone(), Some(bound.into()));
                            }
                        }
                    }
                }
            }
            Next::Outcomes(index) => match self.outcomes.get(*index) {
                Some(Outcome { generation, request }) => {
                    out.extend_from_slice(&request.client.to_le_bytes());
                    out.extend_from_slice(&request.sequence.to_le_bytes());
                    out.extend_from_slice(&generation.0.to_le_bytes());
                    Next::Outcomes(index.saturating_add(1))
                }
                None => Next::Digest,
            },
            Next::Digest => {
                out.extend_from_slice(self.digest.finalize().as_bytes());
                Next::Nothing
            }
            Next::Nothing => Next::Nothing,
        };
    }

    fn write_header(&self, out: &mut Vec<u8>) {
        let Database {
            position,
            date,
            members,
            restore,
            measure,
            ..
        } = &self.database;
        let restore = u32::from(restore.digit()).wrapping_sub(u32::from('0'));
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&position.stamp.epoch.0.to_le_bytes());
        out.extend_from_slice(&position.stamp.generation.0.to_le_bytes());
        out.extend_from_slice(&position.lineage.0);
        out.extend_from_slice(&date.0.to_le_bytes());
        out.extend_from_slice(&members.bits().to_le_bytes());
        out.extend_from_slice(&restore.to_le_bytes());
        out.extend_from_slice(&(self.outcomes.len() as u64).to_le_bytes());
        out.extend_from_slice(&measure.length_bytes.to_le_bytes());
        out.extend_from_slice(&measure.checksum.to_le_bytes());
    }
}
