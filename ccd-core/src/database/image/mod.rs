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
//! writer.rs makes it piece by piece; reader.rs reads it as its bytes come, text.rs what is between header and outcomes.
//!
//! All numbers are little-endian. Canonical: equal versions, equal bytes. Reading allocates no more than a small
//! multiple of the image, and refuses whatever a database could not have written.

mod reader;
mod text;
mod writer;

pub use reader::ImageReader;
pub(super) use text::TextReader;
pub use writer::ImageWriter;

use super::lines::Measure;
use super::outcomes::OUTCOMES_MAX;
use super::{Database, ImageError};
use alloc::format;
use alloc::vec::Vec;

const MAGIC: &[u8; 8] = b"CCD-IMG1";
const HEADER_BYTES: usize = 96;
const OUTCOME_BYTES: usize = 32;
const DIGEST_BYTES: usize = 32;
const NO_IMAGE: &str = "it does not start with CCD-IMG1: another version, or no image";

/// Bytes of an image with so many outcomes beside its text.
const fn around_bytes(outcomes: u64) -> u64 {
    let fixed = (HEADER_BYTES + DIGEST_BYTES) as u64;
    fixed.saturating_add(outcomes.saturating_mul(OUTCOME_BYTES as u64))
}

impl Database {
    /// At least as many bytes as [`Database::to_image`] makes, and at most 128 KiB more; costs nothing to ask.
    pub fn image_len_bytes(&self) -> u64 {
        let outcomes = self.position.stamp.generation.0.min(OUTCOMES_MAX as u64);
        around_bytes(outcomes).saturating_add(self.measure.length_bytes)
    }

    /// The whole version as bytes: content, position, remembered outcomes. Canonical: equal versions, equal bytes.
    pub fn to_image(&self) -> Vec<u8> {
        let mut writer = ImageWriter::new(self);
        writer.piece(usize::try_from(writer.total_bytes()).unwrap_or(usize::MAX))
    }

    pub fn from_image(image: &[u8]) -> Result<Self, ImageError> {
        let (body, digest) = image
            .split_last_chunk::<DIGEST_BYTES>()
            .filter(|(body, _)| body.len() >= HEADER_BYTES)
            .ok_or_else(|| ImageError(format!("{} bytes are too few for an image", image.len())))?;
        if !body.starts_with(MAGIC) {
            return Err(ImageError(NO_IMAGE.into()));
        }
        if blake3::hash(body).as_bytes() != digest {
            return Err(ImageError(format!(
                "the BLAKE3 of its {} bytes is wrong",
                body.len()
            )));
        }
        let mut reader = ImageReader::of_checked(image.len() as u64)?;
        reader.take(image)?;
        reader.finish()
    }

    /// Counts and sums the text anew: whether length and checksum, which are kept up update by update, are right.
    pub fn counts_agree(&self) -> bool {
        let mut measure = Measure {
            rows: self.measure.rows,
            ..Measure::default()
        };
        self.write_text(|piece| {
            measure.length_bytes = measure.length_bytes.saturating_add(piece.len() as u64);
            let sum = super::lines::byte_sum(piece.as_bytes());
            measure.checksum = measure.checksum.saturating_add(sum);
        });
        measure == self.measure
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::fixture::{any_history, figure_6};
    use proptest::prelude::*;

    /// An image with this text in place of its own, and everything around it made right again.
    fn with_text(text: &str) -> Vec<u8> {
        let original = figure_6().to_image();
        let mut image = original[..80].to_vec();
        image.extend_from_slice(&(text.len() as u64).to_le_bytes());
        image.extend_from_slice(&crate::database::lines::byte_sum(text.as_bytes()).to_le_bytes());
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

    /// As `from_image`, but the bytes come in pieces of these sizes, over and over.
    fn in_pieces(mut image: &[u8], sizes: &[usize]) -> Result<Database, ImageError> {
        let mut reader = ImageReader::new(image.len() as u64)?;
        for size in sizes.iter().cycle() {
            if image.is_empty() {
                break;
            }
            let (piece, rest) = image.split_at(image.len().min(*size));
            reader.take(piece)?;
            image = rest;
        }
        reader.finish()
    }

    #[test]
    fn any_flipped_bit_or_cut_of_an_image_that_comes_in_pieces_is_an_error() {
        let good = figure_6().to_image();
        let total_bytes = good.len() as u64;
        for index in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[index] ^= 1 << bit;
                assert!(in_pieces(&bad, &[64, 1]).is_err(), "bit {bit} of byte {index}");
            }
            let mut reader = ImageReader::new(total_bytes).unwrap();
            reader.take(&good[..index]).unwrap();
            assert!(reader.finish().is_err(), "cut at {index}");
            assert!(in_pieces(&good[..index], &[100]).is_err(), "one of {index} bytes");
        }
        let mut reader = ImageReader::new(total_bytes).unwrap();
        reader.take(&good).unwrap();
        assert!(reader.take(&[0]).is_err(), "a byte more");
    }

    #[test]
    fn a_line_without_an_end_is_refused_long_before_the_text_ends() {
        let mut image = with_text(&"A".repeat(1 << 20));
        let mut reader = ImageReader::new(image.len() as u64).unwrap();
        image.truncate(1 << 13);
        assert!(image.chunks(1000).any(|piece| reader.take(piece).is_err()));
    }

    proptest! {
        #[test]
        fn an_image_is_the_same_however_it_is_cut(
            (database, _) in any_history(), sizes in proptest::collection::vec(1_usize..3000, 1..6)
        ) {
            let image = database.to_image();
            let mut writer = ImageWriter::new(&database);
            prop_assert_eq!(writer.total_bytes(), image.len() as u64);
            let mut pieces = Vec::new();
            for size in sizes.iter().cycle() {
                let piece = writer.piece(*size);
                prop_assert!(piece.len() == *size || pieces.len() + piece.len() == image.len());
                if piece.is_empty() {
                    break;
                }
                pieces.extend_from_slice(&piece);
            }
            prop_assert_eq!(pieces, &image[..]);
            prop_assert_eq!(in_pieces(&image, &sizes), Ok(database));
        }

        #[test]
        fn what_is_refused_whole_is_refused_in_pieces(
            text in "(A_fmt:x\n)?([AB:_fmt%3x\n]{0,40}\n)?", sizes in proptest::collection::vec(1_usize..200, 1..6)
        ) {
            let image = with_text(&text);
            prop_assert_eq!(in_pieces(&image, &sizes), Database::from_image(&image));
        }

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
