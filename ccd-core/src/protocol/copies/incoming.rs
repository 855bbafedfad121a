//! An image that comes in pieces: which are asked for, and what is there. Pure; used by `catch_up.rs`.
//!
//! Several pieces are asked for at once, so that a whole image takes the time of its bytes and not a round trip for each
//! piece. Whatever a peer sends, no more is kept than the image's size and what was asked for ahead.

use crate::ids::Position;
use crate::protocol::message::IMAGE_CHUNK_BYTES;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// So many pieces are asked for ahead. Heartbeats travel behind them on the same connection, so they must fit well
/// into a lease on a slow network: 2 MiB take 170 ms at 100 Mbit/s.
const CHUNKS_AHEAD: u64 = 8;

const CHUNK: u64 = IMAGE_CHUNK_BYTES as u64;

#[derive(Debug)]
pub(in crate::protocol) struct Incoming {
    pub position: Position,
    total: u64,
    /// Complete from the start of the image.
    bytes: Vec<u8>,
    /// Pieces that overtook others, by their offset.
    early: BTreeMap<u64, Vec<u8>>,
    asked_to: u64,
}

impl Incoming {
    pub fn new(position: Position, total: u64) -> Self {
        Self {
            position,
            total,
            bytes: Vec::new(),
            early: BTreeMap::new(),
            // The first piece comes unasked.
            asked_to: CHUNK,
        }
    }

    /// Takes a piece. Returns whether it was a new one.
    pub fn take(&mut self, offset: u64, bytes: Vec<u8>) -> bool {
        let have = self.bytes.len() as u64;
        let fits = offset
            .checked_add(bytes.len() as u64)
            .is_some_and(|end| end <= self.total.min(have + CHUNKS_AHEAD * CHUNK));
        let is_piece = offset.is_multiple_of(CHUNK)
            && bytes.len() as u64 == CHUNK.min(self.total - offset.min(self.total));
        if bytes.is_empty() || !fits || !is_piece || offset < have || self.early.contains_key(&offset) {
            return false;
        }
        self.early.insert(offset, bytes);
        while let Some(next) = self.early.remove(&(self.bytes.len() as u64)) {
            self.bytes.extend_from_slice(&next);
        }
        true
    }

    /// The offsets to ask for now.
    pub fn wanted(&mut self) -> Vec<u64> {
        let end = self.total.min(self.bytes.len() as u64 + CHUNKS_AHEAD * CHUNK);
        let mut wanted = Vec::new();
        while self.asked_to < end {
            wanted.push(self.asked_to);
            self.asked_to += CHUNK;
        }
        wanted.retain(|offset| !self.early.contains_key(offset));
        wanted
    }

    /// What was asked for did not come: it is asked for again.
    pub fn forget_asked(&mut self) {
        self.asked_to = self.bytes.len() as u64;
    }

    /// The whole image, once it is there.
    pub fn whole(&self) -> Option<&[u8]> {
        (self.bytes.len() as u64 == self.total).then_some(self.bytes.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(image: &[u8], offset: u64) -> Vec<u8> {
        let start = offset as usize;
        image[start..image.len().min(start + IMAGE_CHUNK_BYTES)].to_vec()
    }

    fn image(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at / 7) as u8).collect()
    }

    #[test]
    fn an_image_is_whole_whatever_the_order_loss_and_repetition_of_its_pieces() {
        for len in [
            1,
            IMAGE_CHUNK_BYTES,
            3 * IMAGE_CHUNK_BYTES + 5,
            21 * IMAGE_CHUNK_BYTES,
        ] {
            let image = image(len);
            let mut incoming = Incoming::new(Position::EMPTY, len as u64);
            let mut asked = alloc::vec![0];
            let mut rounds = 0;
            while incoming.whole().is_none() {
                rounds += 1;
                assert!(rounds < 100, "{len} bytes");
                // Every third piece is lost, the others come twice and backwards.
                let came: Vec<u64> = (asked.iter().rev().copied().enumerate())
                    .filter(|(index, _)| index % 3 != 1)
                    .map(|(_, offset)| offset)
                    .collect();
                for offset in came {
                    incoming.take(offset, piece(&image, offset));
                    assert!(!incoming.take(offset, piece(&image, offset)), "known already");
                }
                asked = incoming.wanted();
                if asked.is_empty() {
                    incoming.forget_asked();
                    asked = incoming.wanted();
                }
                assert!(asked.len() as u64 <= CHUNKS_AHEAD);
            }
            assert_eq!(incoming.whole(), Some(image.as_slice()));
        }
    }

    #[test]
    fn what_was_not_asked_for_is_not_kept() {
        let mut incoming = Incoming::new(Position::EMPTY, 100 * CHUNK);
        for (offset, len) in [
            (1, IMAGE_CHUNK_BYTES),
            (CHUNKS_AHEAD * CHUNK, IMAGE_CHUNK_BYTES),
            (0, IMAGE_CHUNK_BYTES - 1),
            (0, IMAGE_CHUNK_BYTES + 1),
            (99 * CHUNK, IMAGE_CHUNK_BYTES),
            (u64::MAX, IMAGE_CHUNK_BYTES),
            (0, 0),
        ] {
            assert!(!incoming.take(offset, alloc::vec![0; len]), "{len} at {offset}");
        }
        assert!(incoming.early.is_empty() && incoming.bytes.is_empty());
    }
}
