//! Reads an image as its bytes come, in pieces of any size: so a copy is read while the rest of it is on its way.
//!
//! Used by `Database::from_image`, and by a node that gets its copy from another. Always holds: it keeps, beside the database
//! that it makes, no more than a header or a line; whatever does not fit what the header promised is refused as soon as it
//! is seen, and nothing is a database before its digest is right.

use super::super::outcomes::{OUTCOMES_MAX, Outcomes};
use super::super::{Database, ImageError};
use super::text::TextReader;
use super::{DIGEST_BYTES, HEADER_BYTES, MAGIC, NO_IMAGE, OUTCOME_BYTES, around_bytes};
use crate::configuration::RestoreFlag;
use crate::ids::{Epoch, Generation, Lineage, NodeSet, Position, RequestId, Stamp};
use crate::time::Date;
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;

/// A database that is being read.
#[derive(Debug)]
pub struct ImageReader {
    total_bytes: u64,
    /// `None`: whoever has the bytes has checked them.
    digest: Option<Box<blake3::Hasher>>,
    /// What has come of a header, an outcome or the digest.
    partial: Vec<u8>,
    header: Option<Header>,
    text_left_bytes: u64,
    text: TextReader,
    outcomes: Outcomes,
    outcomes_left: u64,
    last_outcome: Generation,
    /// The digest was right.
    whole: bool,
}

#[derive(Clone, Debug)]
struct Header {
    position: Position,
    date: Date,
    members: NodeSet,
    restore: RestoreFlag,
    outcome_count: u64,
    length_bytes: u64,
    checksum: u64,
}

impl ImageReader {
    /// Of an image that has so many bytes.
    pub fn new(total_bytes: u64) -> Result<Self, ImageError> {
        let reader = Self::of_checked(total_bytes)?;
        let digest = Some(Box::default());
        Ok(Self { digest, ..reader })
    }

    /// The same when its digest is known to be right.
    pub(super) fn of_checked(total_bytes: u64) -> Result<Self, ImageError> {
        if total_bytes < (HEADER_BYTES + DIGEST_BYTES) as u64 {
            return Err(ImageError(format!(
                "{total_bytes} bytes are too few for an image"
            )));
        }
        Ok(Self {
            total_bytes,
            digest: None,
            partial: Vec::new(),
            header: None,
            text_left_bytes: 0,
            text: TextReader::default(),
            outcomes: Outcomes::default(),
            outcomes_left: 0,
            last_outcome: Generation(0),
            whole: false,
        })
    }

    /// Which version it says that it is of, once so much has come.
    pub fn position(&self) -> Option<Position> {
        self.header.as_ref().map(|header| header.position)
    }

    /// Takes the next bytes. After an error it takes no more.
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), ImageError> {
        while !bytes.is_empty() {
            let Some(header) = &self.header else {
                if let Some(field) = self.field::<HEADER_BYTES>(&mut bytes) {
                    self.hash(&field);
                    self.begin(&field)?;
                }
                continue;
            };
            if self.text_left_bytes > 0 {
                let count = usize::try_from(self.text_left_bytes)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                let (text, after) = bytes.split_at(count);
                self.hash(text);
                self.text.take(text)?;
                self.text_left_bytes = self.text_left_bytes.saturating_sub(text.len() as u64);
                bytes = after;
            } else if self.outcomes_left > 0 {
                let generation = header.position.stamp.generation;
                if let Some(field) = self.field::<OUTCOME_BYTES>(&mut bytes) {
                    self.hash(&field);
                    self.outcomes_left = self.outcomes_left.saturating_sub(1);
                    self.outcome(&field, generation)?;
                }
            } else if !self.whole {
                if let Some(digest) = self.field::<DIGEST_BYTES>(&mut bytes) {
                    self.end(&digest)?;
                }
            } else {
                return Err(ImageError(format!("it has more than {} bytes", self.total_bytes)));
            }
        }
        Ok(())
    }

    /// The database, once all bytes have come.
    pub fn finish(self) -> Result<Database, ImageError> {
        let Some(header) = self.header.filter(|_| self.whole) else {
            return Err(ImageError(format!(
                "it ends before its {} bytes have come",
                self.total_bytes
            )));
        };
        let mut database = Database {
            outcomes: self.outcomes,
            date: header.date,
            members: header.members,
            restore: header.restore,
            ..Database::default()
        };
        database.position = header.position;
        database.set_tables(self.text.finish()?);
        let Header {
            length_bytes,
            checksum,
            ..
        } = header;
        if (database.measure.length_bytes, database.measure.checksum) != (length_bytes, checksum) {
            return Err(ImageError(format!(
                "its text does not have the checksum {checksum}"
            )));
        }
        let generation = header.position.stamp.generation;
        if database.outcomes.count(generation) as u64 != header.outcome_count {
            return Err(ImageError("it remembers the outcome of nobody's request".into()));
        }
        Ok(database)
    }

    fn hash(&mut self, bytes: &[u8]) {
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
    }

    /// Takes bytes off the front until a field of this size is there.
    fn field<const N: usize>(&mut self, bytes: &mut &[u8]) -> Option<[u8; N]> {
        let (part, after) = bytes.split_at(bytes.len().min(N.saturating_sub(self.partial.len())));
        *bytes = after;
        self.partial.extend_from_slice(part);
        let field = self.partial.as_slice().try_into().ok()?;
        self.partial.clear();
        Some(field)
    }

    fn begin(&mut self, bytes: &[u8; HEADER_BYTES]) -> Result<(), ImageError> {
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            return Err(ImageError(NO_IMAGE.into()));
        };
        let mut fields = Fields { rest };
        let epoch = Epoch(u64::from_le_bytes(fields.take()?));
        let generation = Generation(u64::from_le_bytes(fields.take()?));
        let lineage = Lineage(fields.take()?);
        let date = Date(u64::from_le_bytes(fields.take()?));
        let members = NodeSet::from_bits(u32::from_le_bytes(fields.take()?));
        let restore = match u32::from_le_bytes(fields.take()?) {
            4 => RestoreFlag::AllActive,
            3 => RestoreFlag::NotAllActive,
            other => return Err(ImageError(format!("its restore flag is {other}, not 3 or 4"))),
        };
        let outcome_count = u64::from_le_bytes(fields.take()?);
        let length_bytes = u64::from_le_bytes(fields.take()?);
        let checksum = u64::from_le_bytes(fields.take()?);
        let promised = (outcome_count <= OUTCOMES_MAX as u64)
            .then(|| length_bytes.checked_add(around_bytes(outcome_count)))
            .flatten();
        if promised != Some(self.total_bytes) {
            return Err(ImageError(format!(
                "{length_bytes} bytes of text and {outcome_count} outcomes do not make {} bytes",
                self.total_bytes
            )));
        }
        self.text_left_bytes = length_bytes;
        self.outcomes_left = outcome_count;
        let stamp = Stamp { epoch, generation };
        self.header = Some(Header {
            position: Position { stamp, lineage },
            date,
            members,
            restore,
            outcome_count,
            length_bytes,
            checksum,
        });
        Ok(())
    }

    fn outcome(&mut self, bytes: &[u8; OUTCOME_BYTES], newest: Generation) -> Result<(), ImageError> {
        let mut fields = Fields { rest: bytes };
        let client = u128::from_le_bytes(fields.take()?);
        let sequence = u64::from_le_bytes(fields.take()?);
        let at = Generation(u64::from_le_bytes(fields.take()?));
        let request = RequestId { client, sequence };
        if at <= self.last_outcome
            || at > newest
            || self
                .outcomes
                .find(request, at)
                .is_some_and(|found| found.request == request)
        {
            return Err(ImageError(format!("the outcome of {request} is out of order")));
        }
        self.last_outcome = at;
        self.outcomes.remember(request, at);
        Ok(())
    }

    fn end(&mut self, digest: &[u8; DIGEST_BYTES]) -> Result<(), ImageError> {
        let got = self.digest.as_ref().map(|hasher| hasher.finalize());
        if got.is_some_and(|got| got.as_bytes() != digest) {
            return Err(ImageError(format!(
                "the BLAKE3 of its {} bytes is wrong",
                self.total_bytes.saturating_sub(DIGEST_BYTES as u64)
            )));
        }
        self.whole = true;
        Ok(())
    }
}

/// Takes fixed-size fields off the front.
struct Fields<'a> {
    rest: &'a [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ImageError> {
        let (field, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or_else(|| ImageError("it ends within a field".into()))?;
        self.rest = rest;
        Ok(*field)
    }
}
