//! Replies that are made piece by piece, for a daemon that does not let one answer take a thread for long: rows as they are found, an
//! image as it is written. What comes out is what [`encode_reply`](super::encode_reply) makes of the whole.

use super::frame::{Appended, FRAME_PREFIX_BYTES, REPLY_BYTES_MAX, WireError};
use super::{FromDaemon, Told};
use ccd_core::database::{Key, Row};
use ccd_core::ids::Position;
use serde::Serialize;

/// Before the list, whose number comes before them and is known at last: prefix, id, kind, position and that number.
const HEAD_BYTES_MAX: usize = 128;

/// A reply with rows, or with keys.
#[derive(Debug)]
pub struct ListReply {
    id: u64,
    /// The same with an empty list.
    empty: Told,
    count: u64,
    /// Room for the head, then what is listed.
    out: Vec<u8>,
    /// Bytes that were not kept, because the reply is too long already.
    beyond: u64,
}

impl ListReply {
    pub fn rows(id: u64, position: Position) -> Self {
        let rows = Vec::new();
        Self::new(id, Told::Rows { position, rows })
    }

    pub fn keys(id: u64, position: Position) -> Self {
        let keys = Vec::new();
        Self::new(id, Told::Keys { position, keys })
    }

    fn new(id: u64, empty: Told) -> Self {
        Self {
            id,
            empty,
            count: 0,
            out: vec![0; HEAD_BYTES_MAX],
            beyond: 0,
        }
    }

    /// Of a reply with rows.
    pub fn push_row(&mut self, row: &Row) {
        debug_assert!(matches!(self.empty, Told::Rows { .. }));
        self.push(row);
    }

    /// Of a reply with keys: its name, its columns, and how many rows it has.
    pub fn push_key(&mut self, key: &(Key, Vec<String>, u64)) {
        debug_assert!(matches!(self.empty, Told::Keys { .. }));
        self.push(key);
    }

    fn push(&mut self, element: &impl Serialize) {
        self.count += 1;
        let start = self.out.len();
        // Writing to a vector does not fail.
        let _ = postcard::serialize_with_flavor(element, Appended(&mut self.out));
        if self.out.len() > REPLY_BYTES_MAX {
            self.beyond += (self.out.len() - start) as u64;
            self.out.truncate(start);
        }
    }

    /// Bytes that are held.
    pub fn len_bytes(&self) -> usize {
        self.out.len()
    }

    /// It is longer than a reply may be, whatever else it would list.
    pub fn is_too_long(&self) -> bool {
        self.beyond > 0
    }

    /// The whole reply with its prefix.
    ///
    /// # Errors
    /// When it is longer than a reply may be.
    pub fn finish(mut self) -> Result<Vec<u8>, WireError> {
        let list_bytes = (self.out.len() - HEAD_BYTES_MAX) as u64 + self.beyond;
        let head = head(self.id, self.empty, self.count, list_bytes)?;
        let unused = HEAD_BYTES_MAX - head.len();
        self.out[unused..HEAD_BYTES_MAX].copy_from_slice(&head);
        self.out.drain(..unused);
        Ok(self.out)
    }
}

/// The beginning of a reply with an image of so many bytes, which follow.
///
/// # Errors
/// When it is longer than a reply may be.
pub fn snapshot_head(id: u64, image_bytes: u64) -> Result<Vec<u8>, WireError> {
    let body = Told::Snapshot { image: Vec::new() };
    head(id, body, image_bytes, image_bytes)
}

/// Prefix and beginning of a reply that ends in a list: `empty` is the same with none, and so many elements of so many bytes follow.
fn head(id: u64, empty: Told, count: u64, list_bytes: u64) -> Result<Vec<u8>, WireError> {
    let malformed = |error: postcard::Error| WireError::Malformed {
        why: error.to_string(),
    };
    let mut head = vec![0; FRAME_PREFIX_BYTES];
    let message = FromDaemon { id, body: empty };
    postcard::serialize_with_flavor(&message, Appended(&mut head)).map_err(malformed)?;
    // The number of elements: none.
    head.pop();
    postcard::serialize_with_flavor(&count, Appended(&mut head)).map_err(malformed)?;
    let got = (head.len() - FRAME_PREFIX_BYTES) as u64 + list_bytes;
    if got > REPLY_BYTES_MAX as u64 {
        let max = REPLY_BYTES_MAX as u64;
        return Err(WireError::TooLong { got, max });
    }
    head[..FRAME_PREFIX_BYTES].copy_from_slice(&(got as u32).to_le_bytes());
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::super::encode_reply;
    use super::*;
    use ccd_core::database::Database;
    use ccd_core::ids::{Epoch, Generation, Lineage, Stamp};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_reply_in_pieces_is_that_of_the_whole(
            id in prop_oneof![Just(0), Just(127), Just(u64::MAX)],
            epoch in prop_oneof![Just(0), Just(u64::MAX)],
            values in proptest::collection::vec(proptest::collection::vec("\\PC{0,9}", 0..4), 0..300),
        ) {
            let position = Position {
                stamp: Stamp { epoch: Epoch(epoch), generation: Generation(epoch) },
                lineage: Lineage([0xff; 32]),
            };
            let key = Key::new("K").expect("a good key");
            let rows: Vec<Row> = values.into_iter().map(|values| Row { key: key.clone(), values }).collect();
            let keys: Vec<_> = rows.iter().map(|row| (row.key.clone(), row.values.clone(), epoch)).collect();
            let mut pieces = ListReply::keys(id, position);
            keys.iter().for_each(|key| pieces.push_key(key));
            let whole = encode_reply(&FromDaemon { id, body: Told::Keys { position, keys } });
            prop_assert!(!pieces.is_too_long());
            prop_assert_eq!(pieces.finish(), whole);
            let mut pieces = ListReply::rows(id, position);
            rows.iter().for_each(|row| pieces.push_row(row));
            let whole = encode_reply(&FromDaemon { id, body: Told::Rows { position, rows } });
            prop_assert_eq!(pieces.finish(), whole);
        }
    }

    #[test]
    fn an_image_follows_its_head() {
        let image = Database::default().to_image();
        let mut pieces = snapshot_head(7, image.len() as u64).expect("it is short");
        pieces.extend_from_slice(&image);
        let body = Told::Snapshot { image };
        assert_eq!(encode_reply(&FromDaemon { id: 7, body }), Ok(pieces));
        let refused = snapshot_head(7, REPLY_BYTES_MAX as u64);
        assert!(matches!(refused, Err(WireError::TooLong { .. })));
    }
}
