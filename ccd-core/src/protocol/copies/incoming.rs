//! An image that comes in pieces: which are asked for, and what has been read of them. Pure; used by `catch_up.rs`.
//!
//! Several pieces are asked for at once, so that a whole image takes the time of its bytes and not a round trip for each
//! piece; each is read as it comes. Whatever a peer sends, no more is kept than what was read and what was asked for ahead.

use crate::database::{Database, ImageError, ImageReader};
use crate::ids::Position;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

/// So many pieces are asked for ahead. Heartbeats travel behind them on the same connection, so they must fit well
/// into a lease on a slow network: 1 MiB takes 85 ms at 100 Mbit/s. More would only be memory that both sides touch.
pub(super) const CHUNKS_AHEAD: u64 = 4;

#[derive(Debug)]
pub(in crate::protocol) struct Incoming {
    pub position: Position,
    pub total: u64,
    /// Bytes of each piece but the last.
    chunk: u64,
    reader: ImageReader,
    /// So much has been read.
    read: u64,
    /// Pieces that overtook others, by their offset.
    early: BTreeMap<u64, Vec<u8>>,
    asked_to: u64,
}

/// Pieces that follow what was there, with their offsets.
pub(in crate::protocol) type Pieces = Vec<(u64, Vec<u8>)>;

impl Incoming {
    pub fn new(position: Position, total: u64, chunk_bytes: usize) -> Result<Self, ImageError> {
        let chunk = chunk_bytes as u64;
        Ok(Self {
            position,
            total,
            chunk,
            reader: ImageReader::new(total)?,
            read: 0,
            early: BTreeMap::new(),
            // The first piece comes unasked.
            asked_to: chunk,
        })
    }

    /// Takes a piece, and reads what it makes readable. `None`: it is no new one.
    ///
    /// # Errors
    /// When this is not an image of this position. Nothing more can be taken then.
    pub fn take(&mut self, offset: u64, bytes: Vec<u8>) -> Result<Option<Pieces>, ImageError> {
        let fits = offset
            .checked_add(bytes.len() as u64)
            .is_some_and(|end| end <= self.end());
        let is_piece = offset.is_multiple_of(self.chunk)
            && bytes.len() as u64 == self.chunk.min(self.total.saturating_sub(offset));
        if bytes.is_empty() || !fits || !is_piece || offset < self.read || self.early.contains_key(&offset) {
            return Ok(None);
        }
        self.early.insert(offset, bytes);
        let mut pieces = Vec::new();
        while let Some(next) = self.early.remove(&self.read) {
            self.reader.take(&next)?;
            if let Some(got) = self.reader.position().filter(|got| *got != self.position) {
                let wanted = self.position;
                return Err(ImageError(format!("it is of {got}, not of {wanted}")));
            }
            let offset = self.read;
            self.read = self.read.saturating_add(next.len() as u64);
            pieces.push((offset, next));
        }
        Ok(Some(pieces))
    }

    /// Up to where pieces are taken.
    fn end(&self) -> u64 {
        let ahead = CHUNKS_AHEAD.saturating_mul(self.chunk);
        self.total.min(self.read.saturating_add(ahead))
    }

    /// The offsets to ask for now, at most so many.
    pub fn wanted(&mut self, count_max: usize) -> Vec<u64> {
        let end = self.end();
        let mut wanted = Vec::new();
        while self.asked_to < end && wanted.len() < count_max {
            if !self.early.contains_key(&self.asked_to) {
                wanted.push(self.asked_to);
            }
            self.asked_to = self.asked_to.saturating_add(self.chunk);
        }
        wanted
    }

    /// What was asked for did not come: it is asked for again.
    pub fn forget_asked(&mut self) {
        self.asked_to = self.read;
    }

    pub fn is_whole(&self) -> bool {
        self.read == self.total
    }

    /// The database, once all is there.
    ///
    /// # Errors
    /// When the image is not what its header or its digest says.
    pub fn finish(self) -> Result<Database, ImageError> {
        self.reader.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::fixture::figure_6;

    fn piece(image: &[u8], offset: u64, chunk: usize) -> Vec<u8> {
        let start = offset as usize;
        image[start..image.len().min(start + chunk)].to_vec()
    }

    #[test]
    fn an_image_is_whole_whatever_the_order_loss_and_repetition_of_its_pieces() {
        let database = figure_6();
        let image = database.to_image();
        for chunk in [image.len() + 1, image.len(), image.len() / 3, image.len() / 21, 1] {
            let mut incoming = Incoming::new(database.position(), image.len() as u64, chunk).unwrap();
            let mut asked = alloc::vec![0];
            let (mut rounds, mut staged) = (0, Vec::new());
            while !incoming.is_whole() {
                rounds += 1;
                assert!(rounds < image.len(), "{chunk}");
                // Every third piece is lost, the others come twice and backwards.
                let came: Vec<u64> = (asked.iter().rev().copied().enumerate())
                    .filter(|(index, _)| index % 3 != 1)
                    .map(|(_, offset)| offset)
                    .collect();
                for offset in came {
                    let pieces = incoming.take(offset, piece(&image, offset, chunk)).unwrap();
                    for (offset, bytes) in pieces.expect("a new one") {
                        assert_eq!(offset as usize, staged.len());
                        staged.extend_from_slice(&bytes);
                    }
                    let again = incoming.take(offset, piece(&image, offset, chunk));
                    assert_eq!(again, Ok(None), "known already");
                }
                asked = incoming.wanted(3);
                if asked.is_empty() {
                    incoming.forget_asked();
                    asked = incoming.wanted(usize::MAX);
                }
                assert!(asked.len() as u64 <= CHUNKS_AHEAD);
            }
            assert_eq!(staged, image);
            assert_eq!(incoming.finish().as_ref(), Ok(&database));
        }
    }

    #[test]
    fn what_was_not_asked_for_is_not_kept() {
        const CHUNK: u64 = 1000;
        let mut incoming = Incoming::new(Position::EMPTY, 100 * CHUNK, CHUNK as usize).unwrap();
        for (offset, len) in [
            (1, CHUNK),
            (CHUNKS_AHEAD * CHUNK, CHUNK),
            (0, CHUNK - 1),
            (0, CHUNK + 1),
            (99 * CHUNK, CHUNK),
            (u64::MAX, CHUNK),
            (0, 0),
        ] {
            let taken = incoming.take(offset, alloc::vec![0; len as usize]);
            assert_eq!(taken, Ok(None), "{len} at {offset}");
        }
        assert!(incoming.early.is_empty() && incoming.read == 0);
    }

    #[test]
    fn the_image_of_another_position_is_refused_with_its_first_piece() {
        let image = figure_6().to_image();
        let mut incoming = Incoming::new(Position::EMPTY, image.len() as u64, 200).unwrap();
        assert!(incoming.take(0, piece(&image, 0, 200)).is_err());
    }

    #[test]
    fn a_damaged_piece_is_refused_when_it_is_read_or_at_the_end() {
        let database = figure_6();
        let mut image = database.to_image();
        let middle = image.len() / 2;
        image[middle] ^= 1;
        let mut incoming = Incoming::new(database.position(), image.len() as u64, 64).unwrap();
        let taken = (0..image.len() as u64)
            .step_by(64)
            .try_for_each(|offset| incoming.take(offset, piece(&image, offset, 64)).map(drop));
        assert!(taken.and_then(|()| incoming.finish().map(drop)).is_err());
    }
}
