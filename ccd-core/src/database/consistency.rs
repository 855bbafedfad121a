//! The consistency record, the last line of a database in text form (Fig. 6, row 6).
//!
//! ```text
//! CCD_CHK:date:generation:length:restore:members:checksum                      as in the figure
//! CCD_CHK:date:generation:length:restore:members:checksum:digest:epoch.lineage as we write it
//! ```
//!
//! Length, checksum and digest are those of all bytes of the text before the record. A file that a cluster saves has a comment
//! as its last line but one, which every reader that does not know it skips, and which the digest covers:
//!
//! ```text
//! #CCD_FILE:cluster id:cluster name:seal       the seal is the BLAKE3 of date:generation:restore:members:epoch.lineage
//! ```

use super::Database;
use super::date::{date_text, parse_date};
use super::encoding::{decoded, push_encoded};
use super::lines::byte_sum;
use super::row::{RECORD_KEY, SEPARATOR};
use crate::configuration::RestoreFlag;
use crate::ids::{ClusterId, Epoch, Generation, Lineage, NodeId, NodeSet};
use crate::time::Date;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// Validates one copy of the database, and stamps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistencyRecord {
    /// Of the last update; in text form to the second.
    pub date: Date,
    pub generation: Generation,
    pub length_bytes: u64,
    pub restore: RestoreFlag,
    /// Members of the cluster at the last update.
    pub members: NodeSet,
    /// Sum of the bytes.
    pub checksum: u64,
    /// Our two columns; a record of six columns has none.
    pub proof: Option<Proof>,
}

/// What we add to the figure's record: a hash that finds every damage, and where the copy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// BLAKE3 of the bytes before the record.
    pub digest: [u8; 32],
    pub epoch: Epoch,
    pub lineage: Lineage,
}

/// A text is no consistency record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("a consistency record has 6 or 8 columns, not {got}")]
    ColumnCount { got: usize },
    #[error("column {name} of the consistency record is {text:?}, not {wanted}")]
    Column {
        name: &'static str,
        text: String,
        wanted: &'static str,
    },
    #[error("a consistency record must start with CCD_CHK")]
    Key,
}

/// A text is not what its consistency record says. Expected is what the record says, got what the text has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct IntegrityError {
    pub length_bytes: Option<Mismatch<u64>>,
    pub checksum: Option<Mismatch<u64>>,
    pub digest: Option<Mismatch<[u8; 32]>>,
    /// The record's own columns are not those that were saved.
    pub columns: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch<T> {
    pub expected: T,
    pub got: T,
}

fn mismatch<T: PartialEq>(expected: T, got: T) -> Option<Mismatch<T>> {
    (expected != got).then_some(Mismatch { expected, got })
}

impl fmt::Display for IntegrityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the text is not what its consistency record says:")?;
        if let Some(Mismatch { expected, got }) = self.length_bytes {
            write!(f, " length {expected}, but it has {got} bytes;")?;
        }
        if let Some(Mismatch { expected, got }) = self.checksum {
            write!(f, " checksum {expected}, but it sums up to {got};")?;
        }
        if let Some(Mismatch { expected, got }) = self.digest {
            write!(
                f,
                " BLAKE3 {:.16}…, but it has {:.16}…;",
                Lineage(expected),
                Lineage(got)
            )?;
        }
        if self.columns {
            f.write_str(" the columns of the record itself were changed;")?;
        }
        f.write_str(" it was damaged or edited. Take an older copy, or check it and write a new record: ccdadm convert")
    }
}

/// With what the comment in a saved file begins.
pub(super) const FILE_MARK: &str = "#CCD_FILE:";

/// Which cluster saved a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOrigin {
    pub cluster: ClusterId,
    pub name: String,
}

impl FileOrigin {
    /// The comment before this record, without a line break.
    pub(super) fn comment(&self, record: &ConsistencyRecord) -> String {
        let mut comment = alloc::format!("{FILE_MARK}{}:", self.cluster);
        push_encoded(&mut comment, &self.name);
        comment.push(SEPARATOR);
        comment.push_str(&alloc::format!("{}", Lineage(record.seal())));
        comment
    }

    /// Reads such a comment: who saved the file, and the seal of its record.
    pub(super) fn parse(line: &str) -> Option<(Self, [u8; 32])> {
        let mut parts = line.strip_prefix(FILE_MARK)?.split(SEPARATOR);
        let (cluster, name, seal) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() || cluster.len() != 32 {
            return None;
        }
        let cluster = u128::from_str_radix(cluster, 16).ok()?;
        let origin = Self {
            cluster: ClusterId(cluster.to_be_bytes()),
            name: decoded(name).ok()?.into_owned(),
        };
        Some((origin, parse_hash(seal)?))
    }
}

impl ConsistencyRecord {
    /// Of the columns that say something else than what the text before the record is.
    pub(super) fn seal(&self) -> [u8; 32] {
        let (date, restore) = (date_text(self.date), self.restore.digit());
        let mut columns = alloc::format!("{date}:{}:{restore}:{}", self.generation, self.members);
        if let Some(Proof { epoch, lineage, .. }) = self.proof {
            columns.push_str(&alloc::format!(":{epoch}.{lineage}"));
        }
        *blake3::hash(columns.as_bytes()).as_bytes()
    }

    /// The same record for a text that has these bytes before it.
    pub(super) fn of_text(self, before: &[u8]) -> Self {
        let proof = self.proof.map(|proof| Proof {
            digest: *blake3::hash(before).as_bytes(),
            ..proof
        });
        Self {
            length_bytes: before.len() as u64,
            checksum: byte_sum(before),
            proof,
            ..self
        }
    }
}

impl Database {
    /// The record of this version. Hashes the whole content.
    pub fn consistency_record(&self) -> ConsistencyRecord {
        let position = self.position();
        let proof = Proof {
            digest: self.content_digest(),
            epoch: position.stamp.epoch,
            lineage: position.lineage,
        };
        ConsistencyRecord {
            date: self.date(),
            generation: position.stamp.generation,
            length_bytes: self.length_bytes(),
            restore: self.restore_flag(),
            members: self.members(),
            checksum: self.checksum(),
            proof: Some(proof),
        }
    }
}

impl ConsistencyRecord {
    /// Whether these bytes, which stand before the record, are what it says.
    pub fn verify(&self, before: &[u8]) -> Result<(), IntegrityError> {
        let digest = self
            .proof
            .and_then(|proof| mismatch(proof.digest, *blake3::hash(before).as_bytes()));
        let error = IntegrityError {
            length_bytes: mismatch(self.length_bytes, before.len() as u64),
            checksum: mismatch(self.checksum, byte_sum(before)),
            digest,
            columns: false,
        };
        let agrees = error.length_bytes.is_none() && error.checksum.is_none() && error.digest.is_none();
        if agrees { Ok(()) } else { Err(error) }
    }

    /// The same, and that its own columns are those that the comment before it seals, if there is one.
    pub(super) fn verify_sealed(&self, before: &[u8], seal: Option<[u8; 32]>) -> Result<(), IntegrityError> {
        let verified = self.verify(before);
        if seal.is_none_or(|seal| seal == self.seal()) {
            return verified;
        }
        let columns = true;
        Err(match verified {
            Ok(()) => IntegrityError {
                length_bytes: None,
                checksum: None,
                digest: None,
                columns,
            },
            Err(error) => IntegrityError { columns, ..error },
        })
    }

    /// Reads a record of six or eight columns, without its line break.
    pub fn parse_text(line: &str) -> Result<Self, RecordError> {
        let mut parts = line.split(SEPARATOR);
        if parts.next() != Some(RECORD_KEY) {
            return Err(RecordError::Key);
        }
        let columns: Vec<&str> = parts.clone().take(9).collect();
        let (&[date, generation, length, restore, members, checksum], ours) = columns
            .split_first_chunk::<6>()
            .ok_or(RecordError::ColumnCount { got: columns.len() })?;
        let proof = match *ours {
            [] => None,
            [digest, position] => Some(parse_proof(digest, position)?),
            _ => return Err(RecordError::ColumnCount { got: parts.count() }),
        };
        Ok(Self {
            date: column("date", date, "a date as Apr 16 09h49m47 1997", parse_date)?,
            generation: column("generation", generation, NUMBER, number).map(Generation)?,
            length_bytes: column("length", length, NUMBER, number)?,
            restore: column("restore", restore, "3 or 4", parse_restore)?,
            members: column(
                "members",
                members,
                "a list of node numbers as 0,1,2,3",
                parse_members,
            )?,
            checksum: column("checksum", checksum, NUMBER, number)?,
            proof,
        })
    }
}

const NUMBER: &str = "a number";

fn column<T>(
    name: &'static str,
    text: &str,
    wanted: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, RecordError> {
    parse(text).ok_or_else(|| RecordError::Column {
        name,
        text: super::error::shortened(text),
        wanted,
    })
}

fn number(text: &str) -> Option<u64> {
    text.parse()
        .ok()
        .filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn parse_restore(text: &str) -> Option<RestoreFlag> {
    [RestoreFlag::AllActive, RestoreFlag::NotAllActive]
        .into_iter()
        .find(|flag| text.strip_prefix(flag.digit()).is_some_and(str::is_empty))
}

/// Each node once, in ascending order; nothing for no members.
fn parse_members(text: &str) -> Option<NodeSet> {
    let mut members = NodeSet::EMPTY;
    if text.is_empty() {
        return Some(members);
    }
    for part in text.split(',') {
        members.insert(
            number(part)
                .and_then(|node| u8::try_from(node).ok())
                .and_then(NodeId::new)?,
        );
    }
    Some(members)
}

fn parse_proof(digest: &str, position: &str) -> Result<Proof, RecordError> {
    let digest = column("digest", digest, "64 hexadecimal digits", parse_hash)?;
    let (epoch, lineage) = column("position", position, "epoch.lineage", |text| {
        let (epoch, lineage) = text.split_once('.')?;
        Some((Epoch(number(epoch)?), Lineage(parse_hash(lineage)?)))
    })?;
    Ok(Proof {
        digest,
        epoch,
        lineage,
    })
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(core::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

impl fmt::Display for ConsistencyRecord {
    /// The line, without a line break.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            date,
            generation,
            length_bytes,
            restore,
            members,
            checksum,
            proof,
        } = self;
        let (date, restore) = (date_text(*date), restore.digit());
        write!(
            f,
            "{RECORD_KEY}:{date}:{generation}:{length_bytes}:{restore}:{members}:{checksum}"
        )?;
        if let Some(Proof {
            digest,
            epoch,
            lineage,
        }) = proof
        {
            write!(f, ":{}:{epoch}.{lineage}", Lineage(*digest))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{FIGURE_6, FIGURE_6_DATE, figure_6, members};
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    /// Row 6 of Fig. 6.
    const ROW_6: &str = "CCD_CHK:Apr 16 09h49m47 1997:2429:36:4:0,1,2,3:1757";

    #[test]
    fn the_record_of_figure_6_is_read_and_written_as_it_stands() {
        let record = ConsistencyRecord::parse_text(ROW_6).expect("parses");
        let expected = ConsistencyRecord {
            date: FIGURE_6_DATE,
            generation: Generation(2429),
            length_bytes: 36,
            restore: RestoreFlag::AllActive,
            members: members(4),
            checksum: 1757,
            proof: None,
        };
        assert_eq!(record, expected);
        assert_eq!(record.to_string(), ROW_6);
    }

    /// The figure's length and checksum are those of some other rows: both differ from its rows as printed.
    #[test]
    fn the_record_of_figure_6_does_not_fit_its_rows_and_says_why() {
        let record = ConsistencyRecord::parse_text(ROW_6).expect("parses");
        let error = record.verify(FIGURE_6.as_bytes()).expect_err("must differ");
        assert_eq!(
            error.length_bytes,
            Some(Mismatch {
                expected: 36,
                got: FIGURE_6.len() as u64
            })
        );
        let sum = FIGURE_6.bytes().map(u64::from).sum();
        assert_eq!(
            error.checksum,
            Some(Mismatch {
                expected: 1757,
                got: sum
            })
        );
        assert!(error.to_string().contains("length 36"), "{error}");
    }

    #[test]
    fn our_record_has_two_columns_more() {
        let record = figure_6().consistency_record();
        assert_eq!(record.verify(FIGURE_6.as_bytes()), Ok(()));
        let line = record.to_string();
        let columns: Vec<_> = line.split(':').collect();
        assert_eq!(columns.len(), 9);
        assert_eq!(columns[7], blake3::hash(FIGURE_6.as_bytes()).to_hex().as_str());
        let position = figure_6().position();
        assert_eq!(
            columns[8],
            alloc::format!("{}.{}", position.stamp.epoch, position.lineage)
        );
        assert_eq!(ConsistencyRecord::parse_text(&line), Ok(record));
    }

    #[test]
    fn each_column_of_a_record_is_checked() {
        let table = [
            ("CCD_CHK", "columns"),
            ("CCD_CHK:Apr 16 09h49m47 1997:2429:36:4:0", "columns"),
            ("CCD_CHK:Apr 16 09h49m47 1997:2429:36:4:0:1757:x", "columns"),
            ("CCD_CHK:Apr 16 09h49m47 1997:2429:36:4:0:1757:x:x:x", "columns"),
            ("CCD_CHX:Apr 16 09h49m47 1997:2429:36:4:0:1757", "CCD_CHK"),
            ("CCD_CHK:Apr 99 09h49m47 1997:2429:36:4:0:1757", "date"),
            ("CCD_CHK:Apr 16 09h49m47 1997:+1:36:4:0:1757", "generation"),
            ("CCD_CHK:Apr 16 09h49m47 1997:2429:x:4:0:1757", "length"),
            ("CCD_CHK:Apr 16 09h49m47 1997:2429:36:5:0:1757", "restore"),
            ("CCD_CHK:Apr 16 09h49m47 1997:2429:36:4:32:1757", "members"),
            ("CCD_CHK:Apr 16 09h49m47 1997:2429:36:4:0,,1:1757", "members"),
            (
                "CCD_CHK:Apr 16 09h49m47 1997:2429:36:4:0:99999999999999999999",
                "checksum",
            ),
            ("CCD_CHK:Apr 16 09h49m47 1997:2429:36:4:0:1757:xyz:1.00", "digest"),
        ];
        for (line, word) in table {
            let error = ConsistencyRecord::parse_text(line).expect_err(line).to_string();
            assert!(error.contains(word), "{line}: {error}");
        }
        let ours = figure_6().consistency_record().to_string();
        assert!(
            ConsistencyRecord::parse_text(&ours[..ours.len() - 1]).is_err(),
            "short lineage"
        );
    }

    proptest! {
        #[test]
        fn any_changed_byte_before_the_record_is_found(index in 0..FIGURE_6.len(), change in 1..=255_u8) {
            let record = figure_6().consistency_record();
            let mut text = FIGURE_6.as_bytes().to_vec();
            text[index] ^= change;
            let error = record.verify(&text).expect_err("must differ");
            prop_assert!(error.digest.is_some() && error.checksum.is_some() && error.length_bytes.is_none());
        }

        #[test]
        fn no_text_makes_parsing_panic(text in "(CCD_CHK:)?(\\PC|:){0,80}") {
            let _ = ConsistencyRecord::parse_text(&text);
        }
    }
}
