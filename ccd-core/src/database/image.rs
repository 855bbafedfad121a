//! The whole version as bytes: what checkpoints hold, and what travels to a member that has no copy.
//!
//! ```text
//!   0  magic and version   "CCD-IMG1"
//!   8  epoch, generation   two u64
//!  24  lineage             32 bytes
//!  56  date                u64, ms since 1970
//!  64  members             u32, one bit a node
//!  68  restore flag        u32, the digit of Fig. 6: 3 or 4
//!  72  outcomes            u64, how many
//!  80  text                u64, how many bytes
//!  88  text checksum       u64, the sum of its bytes
//!  96  text                canonical, as Fig. 6 but without the consistency record
//!      outcomes            each client u128, sequence u64, generation u64; oldest first
//!      BLAKE3              32 bytes, of everything before
//! ```
//!
//! All numbers are little-endian. Canonical: equal versions, equal bytes. Reading allocates no more than a small
//! multiple of the image, and refuses whatever a database could not have written.

use super::database::Table;
use super::lines::{Lines, Measure};
use super::outcomes::{OUTCOMES_MAX, Outcome, Outcomes};
use super::row::{FORMAT_SUFFIX, ROW_CHARACTERS_MAX, Row, SEPARATOR};
use super::{Database, ImageError, Key};
use crate::configuration::RestoreFlag;
use crate::ids::{Epoch, Generation, Lineage, NodeSet, Position, RequestId, Stamp};
use crate::time::Date;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use rpds::RedBlackTreeMapSync;

const MAGIC: &[u8; 8] = b"CCD-IMG1";
const HEADER_BYTES: usize = 96;
const OUTCOME_BYTES: usize = 32;
const DIGEST_BYTES: usize = 32;

impl Database {
    /// At least as many bytes as [`Database::to_image`] makes, and at most 128 KiB more; costs nothing to ask.
    pub fn image_len_bytes(&self) -> u64 {
        let outcomes = self.position.stamp.generation.0.min(OUTCOMES_MAX as u64);
        (HEADER_BYTES + DIGEST_BYTES) as u64 + outcomes * OUTCOME_BYTES as u64 + self.measure.length_bytes
    }

    /// The whole version as bytes: content, position, remembered outcomes. Canonical: equal versions, equal bytes.
    pub fn to_image(&self) -> Vec<u8> {
        let mut image = Vec::with_capacity(usize::try_from(self.image_len_bytes()).unwrap_or(0));
        let Position { stamp, lineage } = self.position;
        let outcomes = self.outcomes.remembered(stamp.generation);
        image.extend_from_slice(MAGIC);
        image.extend_from_slice(&stamp.epoch.0.to_le_bytes());
        image.extend_from_slice(&stamp.generation.0.to_le_bytes());
        image.extend_from_slice(&lineage.0);
        image.extend_from_slice(&self.date.0.to_le_bytes());
        image.extend_from_slice(&self.members.bits().to_le_bytes());
        image.extend_from_slice(
            &u32::from(self.restore.digit())
                .wrapping_sub(u32::from('0'))
                .to_le_bytes(),
        );
        image.extend_from_slice(&(outcomes.len() as u64).to_le_bytes());
        image.extend_from_slice(&self.measure.length_bytes.to_le_bytes());
        image.extend_from_slice(&self.measure.checksum.to_le_bytes());
        debug_assert_eq!(image.len(), HEADER_BYTES);
        self.write_text(|piece| image.extend_from_slice(piece.as_bytes()));
        for Outcome { generation, request } in outcomes {
            image.extend_from_slice(&request.client.to_le_bytes());
            image.extend_from_slice(&request.sequence.to_le_bytes());
            image.extend_from_slice(&generation.0.to_le_bytes());
        }
        let digest = blake3::hash(&image);
        image.extend_from_slice(digest.as_bytes());
        image
    }

    pub fn from_image(image: &[u8]) -> Result<Self, ImageError> {
        let (body, digest) = image
            .split_last_chunk::<DIGEST_BYTES>()
            .filter(|(body, _)| body.len() >= HEADER_BYTES)
            .ok_or_else(|| ImageError(format!("{} bytes are too few for an image", image.len())))?;
        if !body.starts_with(MAGIC) {
            return Err(ImageError(
                "it does not start with CCD-IMG1: another version, or no image".into(),
            ));
        }
        if blake3::hash(body).as_bytes() != digest {
            return Err(ImageError(format!(
                "the BLAKE3 of its {} bytes is wrong",
                body.len()
            )));
        }
        let mut fields = Fields {
            rest: &body[MAGIC.len()..],
        };
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
        let text = usize::try_from(length_bytes)
            .ok()
            .and_then(|length| fields.rest.get(..length))
            .ok_or_else(|| ImageError(format!("it is too short for {length_bytes} bytes of text")))?;
        fields.rest = &fields.rest[text.len()..];
        if outcome_count > OUTCOMES_MAX as u64
            || fields.rest.len() as u64 != outcome_count * OUTCOME_BYTES as u64
        {
            return Err(ImageError(format!(
                "{outcome_count} outcomes do not fill {} bytes",
                fields.rest.len()
            )));
        }
        let mut outcomes = Outcomes::default();
        let mut last = Generation(0);
        for _ in 0..outcome_count {
            let client = u128::from_le_bytes(fields.take()?);
            let sequence = u64::from_le_bytes(fields.take()?);
            let at = Generation(u64::from_le_bytes(fields.take()?));
            let request = RequestId { client, sequence };
            if at <= last || at > generation || outcomes.generation(request, at).is_some() {
                return Err(ImageError(format!("the outcome of {request} is out of order")));
            }
            last = at;
            outcomes.remember(request, at);
        }
        let text = core::str::from_utf8(text).map_err(|_| ImageError("its text is not UTF-8".into()))?;
        let mut database = Self {
            outcomes,
            date,
            members,
            restore,
            ..Self::default()
        };
        database.position = Position {
            stamp: Stamp { epoch, generation },
            lineage,
        };
        database.set_tables(tables_of_text(text)?);
        if (database.measure.length_bytes, database.measure.checksum) != (length_bytes, checksum) {
            return Err(ImageError(format!(
                "its text does not have the checksum {checksum}"
            )));
        }
        if database.outcomes.count(generation) as u64 != outcome_count {
            return Err(ImageError("it remembers the outcome of nobody's request".into()));
        }
        Ok(database)
    }

    /// Counts and sums the text anew: whether length and checksum, which are kept up update by update, are right.
    pub fn counts_agree(&self) -> bool {
        let mut measure = Measure {
            rows: self.measure.rows,
            ..Measure::default()
        };
        self.write_text(|piece| {
            measure.length_bytes += piece.len() as u64;
            measure.checksum += super::lines::byte_sum(piece.as_bytes());
        });
        measure == self.measure
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

/// Cuts canonical text into tables without taking rows apart; anything not canonical is refused.
fn tables_of_text(text: &str) -> Result<RedBlackTreeMapSync<Key, Table>, ImageError> {
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(ImageError("its text does not end in a line break".into()));
    }
    let refused = |line: &str| {
        ImageError(format!(
            "its line {:?} is not canonical",
            super::error::shortened(line)
        ))
    };
    let mut tables = RedBlackTreeMapSync::new_sync();
    let mut rest = text;
    let mut last_key: Option<Key> = None;
    while let Some((format, after)) = rest.split_once('\n') {
        let (name, columns) = format.split_once(SEPARATOR).ok_or_else(|| refused(format))?;
        let key = name
            .strip_suffix(FORMAT_SUFFIX)
            .and_then(|name| Key::new(name).ok());
        let key = key
            .filter(|key| last_key.as_ref().is_none_or(|last| last < key))
            .ok_or_else(|| refused(format))?;
        let columns: Vec<String> = columns.split(SEPARATOR).map(String::from).collect();
        let mut table = Table::new(&key, &columns).map_err(|_| refused(format))?;
        let mut end = 0;
        let mut last = "";
        for line_end in memchr::memchr_iter(b'\n', after.as_bytes()) {
            let line = &after[end..line_end];
            if !is_row_of(&key, line) {
                break;
            }
            if line <= last || !is_canonical(line, columns.len()) {
                return Err(refused(line));
            }
            last = line;
            end = line_end + 1;
        }
        table.lines = Lines::from_sorted_text(&after[..end]);
        tables.insert_mut(key.clone(), table);
        last_key = Some(key);
        rest = &after[end..];
    }
    Ok(tables)
}

fn is_row_of(key: &Key, line: &str) -> bool {
    line.strip_prefix(key.as_str())
        .is_some_and(|values| values.starts_with(SEPARATOR))
}

/// Whether a row would be written just so.
fn is_canonical(line: &str, column_count: usize) -> bool {
    // Two passes without branches, which the compiler turns into vector instructions: images are long.
    let is_odd = |byte: u8| u8::from(byte.wrapping_sub(b' ') >= 0x7f - b' ') | u8::from(byte == b'%');
    let separators = memchr::memchr_iter(SEPARATOR as u8, line.as_bytes()).count();
    let plain =
        line.len() <= ROW_CHARACTERS_MAX && (line.bytes()).fold(0, |odd, byte| odd | is_odd(byte)) == 0;
    separators == column_count && (plain || Row::parse_text(line).is_ok_and(|row| row.to_text() == line))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{any_history, figure_6};
    use super::*;
    use proptest::prelude::*;

    /// An image with this text in place of its own, and everything around it made right again.
    fn with_text(text: &str) -> Vec<u8> {
        let original = figure_6().to_image();
        let mut image = original[..80].to_vec();
        image.extend_from_slice(&(text.len() as u64).to_le_bytes());
        image.extend_from_slice(&super::super::lines::byte_sum(text.as_bytes()).to_le_bytes());
        image.extend_from_slice(text.as_bytes());
        image.extend_from_slice(
            &original[original.len() - DIGEST_BYTES - OUTCOME_BYTES..original.len() - DIGEST_BYTES],
        );
        sealed(image)
    }

    fn sealed(mut body: Vec<u8>) -> Vec<u8> {
        let digest = blake3::hash(&body);
        body.extend_from_slice(digest.as_bytes());
        body
    }

    #[test]
    fn any_flipped_bit_or_cut_of_an_image_is_an_error() {
        let good = figure_6().to_image();
        for index in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[index] ^= 1 << bit;
                assert!(Database::from_image(&bad).is_err(), "bit {bit} of byte {index}");
            }
            assert!(Database::from_image(&good[..index]).is_err(), "cut at {index}");
        }
    }

    #[test]
    fn text_that_no_database_writes_is_refused_even_with_right_sums() {
        assert!(Database::from_image(&with_text("A_fmt:x:y\nA:1:2\nA:1:3%3A\nA.b_fmt:x\nB_fmt:x\n")).is_ok());
        let table = [
            "A_fmt:x\nA:1",
            "A_fmt:x\nA:2\nA:1\n",
            "A_fmt:x\nA:1\nA:1\n",
            "A_fmt:x\nA:1:2\n",
            "A_fmt:x\nA\n",
            "A_fmt:x\nA:%41\n",
            "A_fmt:x\nA:%3a\n",
            "A_fmt:x\nA:\u{7f}\n",
            "A_fmt:x\nA:a\rb\n",
            "A_fmt:x\nB:1\n",
            "A_fmt:x\n\n",
            "\n",
            "A:1\n",
            "A_fmt\n",
            "A_fmt:\n",
            "A_fmt:x:x\n",
            "B_fmt:x\nA_fmt:x\n",
            "A_fmt:x\nA_fmt:x\n",
            "9_fmt:x\n",
            "CCD_CHK_fmt:x\n",
        ];
        for text in table {
            assert!(Database::from_image(&with_text(text)).is_err(), "{text:?}");
        }
        let long = format!("A_fmt:x\nA:{}\n", "x".repeat(1023));
        assert!(Database::from_image(&with_text(&long)).is_err());
    }

    #[test]
    fn sizes_in_an_image_are_checked_before_they_are_believed() {
        for field in [72, 80, 88] {
            let mut image = figure_6().to_image();
            image.truncate(image.len() - DIGEST_BYTES);
            image[field..field + 8].copy_from_slice(&u64::MAX.to_le_bytes());
            assert!(Database::from_image(&sealed(image)).is_err(), "at {field}");
        }
    }

    #[test]
    fn the_empty_database_has_an_image() {
        let image = Database::default().to_image();
        assert_eq!(image.len(), HEADER_BYTES + DIGEST_BYTES);
        assert_eq!(Database::from_image(&image), Ok(Database::default()));
    }

    proptest! {
        #[test]
        fn an_image_reads_back((database, _) in any_history()) {
            let image = database.to_image();
            prop_assert_eq!(image.len() as u64, database.image_len_bytes());
            let read = Database::from_image(&image).expect("reads");
            prop_assert_eq!(read.to_image(), image);
            prop_assert_eq!(read.content_digest(), database.content_digest());
            prop_assert_eq!(read, database);
        }

        #[test]
        fn no_bytes_make_reading_panic(
            tail in proptest::collection::vec(any::<u8>(), 0..120),
            text in "(A_fmt:x\n)?([AB:_fmt%3x\n]{0,40}\n)?",
        ) {
            let mut body = MAGIC.to_vec();
            body.extend_from_slice(&tail);
            let _ = Database::from_image(&body);
            let _ = Database::from_image(&sealed(body));
            let _ = Database::from_image(&with_text(&text));
        }
    }
}
