//! What a history holds, as bytes: frames, each of which is read whole or not at all.
//!
//! ```text
//! frame   length of the body (u32, little-endian), 8 bytes of the BLAKE3 of length and body, body (postcard)
//! ```

use ccd_client::wire::KeyChange;
use ccd_core::database::{Difference, Who};
use ccd_core::ids::{Generation, Position, RequestId};
use ccd_core::time::Date;
use serde::{Deserialize, Serialize};

/// Length and checksum.
pub const FRAME_HEAD_BYTES: usize = 4 + CHECKSUM_BYTES;
const CHECKSUM_BYTES: usize = 8;
/// Effects that are larger go first when a frame would be too large.
const EFFECTS_BYTES_LARGE: usize = 64 << 10;

/// One step of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// The updates of one record, with the generations up to that of `next`.
    Round { next: Position, updates: Vec<Kept> },
    /// How it came from the generation before to this position is not kept.
    Gap { after: Generation, to: Position },
}

/// One update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub who: Who,
    pub date: Date,
    pub reason: Option<String>,
    pub request: RequestId,
    pub effects: Effects,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effects {
    Rows(Difference),
    /// The rows were too many to be kept.
    Counts(Vec<KeyChange>),
}

impl Effects {
    pub fn keys(&self) -> Vec<KeyChange> {
        match self {
            Self::Rows(difference) => KeyChange::all(difference),
            Self::Counts(keys) => keys.clone(),
        }
    }

    fn drop_rows(&mut self) {
        *self = Self::Counts(self.keys());
    }
}

impl Frame {
    /// Where it leads.
    pub fn next(&self) -> Position {
        match self {
            Self::Round { next, .. } => *next,
            Self::Gap { to, .. } => *to,
        }
    }

    /// The generation that it goes on from.
    pub fn before(&self) -> Generation {
        match self {
            Self::Round { next, updates } => {
                Generation(next.stamp.generation.0.saturating_sub(updates.len() as u64))
            }
            Self::Gap { after, .. } => *after,
        }
    }

    /// Its updates with their generations, oldest first.
    pub fn updates(&self) -> impl DoubleEndedIterator<Item = (Generation, &Kept)> {
        let before = self.before().0;
        let updates = match self {
            Self::Round { updates, .. } => updates.as_slice(),
            Self::Gap { .. } => &[],
        };
        let numbered = updates.iter().enumerate();
        numbered.map(move |(index, kept)| (Generation(before + 1 + index as u64), kept))
    }

    /// The frame as bytes. What is larger than `bytes_max` loses its rows, and if that is not enough becomes a gap.
    pub fn encode(mut self, bytes_max: usize) -> Vec<u8> {
        let bytes = self.encoded();
        if bytes.len() <= bytes_max {
            return bytes;
        }
        for limit in [EFFECTS_BYTES_LARGE, 0] {
            if let Self::Round { updates, .. } = &mut self {
                for kept in updates {
                    if let Effects::Rows(difference) = &kept.effects
                        && difference.encode().len() > limit
                    {
                        kept.effects.drop_rows();
                    }
                }
            }
            let bytes = self.encoded();
            if bytes.len() <= bytes_max {
                return bytes;
            }
        }
        let (after, to) = (self.before(), self.next());
        Self::Gap { after, to }.encoded()
    }

    fn encoded(&self) -> Vec<u8> {
        // Writing to memory does not fail, and the types hold nothing that postcard cannot write.
        let mut bytes =
            postcard::to_extend(self, vec![0; FRAME_HEAD_BYTES]).expect("a frame of plain data encodes");
        let body_bytes = u32::try_from(bytes.len() - FRAME_HEAD_BYTES).unwrap_or(u32::MAX);
        let length = body_bytes.to_le_bytes();
        let checksum = checksum(length, &bytes[FRAME_HEAD_BYTES..]);
        bytes[..4].copy_from_slice(&length);
        bytes[4..FRAME_HEAD_BYTES].copy_from_slice(&checksum);
        bytes
    }

    /// What the bytes at the start of `bytes` are.
    pub fn cut(bytes: &[u8]) -> Cut<'_> {
        if bytes.is_empty() {
            return Cut::End;
        }
        let Some((head, rest)) = bytes.split_first_chunk::<FRAME_HEAD_BYTES>() else {
            return Cut::Torn;
        };
        let length = [head[0], head[1], head[2], head[3]];
        let body_bytes = u32::from_le_bytes(length) as usize;
        let Some(body) = rest.get(..body_bytes) else {
            return Cut::Torn;
        };
        if checksum(length, body) != head[4..] {
            // A file system may lengthen a file before its bytes are there.
            let last = rest.len() == body_bytes || bytes.iter().all(|byte| *byte == 0);
            return if last { Cut::Torn } else { Cut::Damaged };
        }
        Cut::Whole(body)
    }

    /// Where the frame in such a body leads, and whether it is a gap, without what else is in it.
    pub fn peek(body: &[u8]) -> Option<(Position, bool)> {
        match postcard::take_from_bytes::<u32>(body).ok()? {
            (0, rest) => Some((postcard::take_from_bytes(rest).ok()?.0, false)),
            (1, rest) => {
                let ((_, to), _) = postcard::take_from_bytes::<(Generation, Position)>(rest).ok()?;
                Some((to, true))
            }
            _ => None,
        }
    }

    /// The frame in a body that [`cut`](Self::cut) found whole.
    pub fn decode(body: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(body) {
            Ok((frame, [])) => Some(frame),
            _ => None,
        }
    }
}

/// What stands at some place of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut<'a> {
    Whole(&'a [u8]),
    /// Nothing more.
    End,
    /// A frame that was being written when the machine or the daemon died: nothing follows it.
    Torn,
    /// Something else, with more behind it.
    Damaged,
}

fn checksum(length: [u8; 4], body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&length);
    hasher.update(body);
    let hash = hasher.finalize();
    let mut checksum = [0; CHECKSUM_BYTES];
    checksum.copy_from_slice(&hash.as_bytes()[..CHECKSUM_BYTES]);
    checksum
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use ccd_core::database::{Key, Row};
    use ccd_core::ids::{Epoch, Lineage, Stamp};

    pub fn position(generation: u64) -> Position {
        let stamp = Stamp {
            epoch: Epoch(1),
            generation: Generation(generation),
        };
        let mut lineage = [0; 32];
        lineage[..8].copy_from_slice(&generation.to_le_bytes());
        Position {
            stamp,
            lineage: Lineage(if generation == 0 { [0; 32] } else { lineage }),
        }
    }

    /// A round of one update that adds a row.
    pub fn round(generation: u64, row: &str) -> Frame {
        let effects = Difference {
            rows_added: vec![Row::parse_text(row).unwrap()],
            ..Difference::default()
        };
        Frame::Round {
            next: position(generation),
            updates: vec![Kept {
                who: Who::default(),
                date: Date(generation),
                reason: None,
                request: RequestId::default(),
                effects: Effects::Rows(effects),
            }],
        }
    }

    #[test]
    fn a_frame_is_whole_torn_or_damaged() {
        let bytes = round(1, "K:a").encode(1 << 20);
        let Cut::Whole(body) = Frame::cut(&bytes) else {
            panic!("it is whole");
        };
        assert_eq!(Frame::decode(body), Some(round(1, "K:a")));
        assert_eq!(Frame::peek(body), Some((position(1), false)));
        let to = position(u64::MAX);
        let after = Generation(1 << 40);
        let gap = Frame::Gap { after, to }.encode(1 << 20);
        assert_eq!(Frame::peek(&gap[FRAME_HEAD_BYTES..]), Some((to, true)));
        assert_eq!(Frame::cut(&[]), Cut::End);
        for len in 1..bytes.len() {
            assert_eq!(Frame::cut(&bytes[..len]), Cut::Torn, "{len}");
        }
        for at in 4..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(Frame::cut(&bad), Cut::Torn, "the last one: {at}");
            bad.extend_from_slice(&bytes);
            assert_eq!(Frame::cut(&bad), Cut::Damaged, "{at}");
        }
        assert_eq!(Frame::cut(&[0; 100]), Cut::Torn);
    }

    #[test]
    fn what_is_too_large_loses_its_rows_and_then_everything() {
        let whole = round(7, &format!("K:{}", "x".repeat(900)));
        let bytes = whole.clone().encode(500);
        let Cut::Whole(body) = Frame::cut(&bytes) else {
            panic!("it is whole");
        };
        let Some(Frame::Round { updates, .. }) = Frame::decode(body) else {
            panic!("it is a round");
        };
        let counts = vec![KeyChange {
            key: Key::new("K").unwrap(),
            rows_removed: 0,
            rows_added: 1,
            format: Default::default(),
        }];
        assert_eq!(updates[0].effects, Effects::Counts(counts));
        let bytes = whole.encode(30);
        let Cut::Whole(body) = Frame::cut(&bytes) else {
            panic!("it is whole");
        };
        let (after, to) = (Generation(6), position(7));
        assert_eq!(Frame::decode(body), Some(Frame::Gap { after, to }));
    }

    #[test]
    fn updates_of_a_round_have_the_generations_up_to_its_end() {
        let Frame::Round { next, updates } = round(9, "K:a") else {
            unreachable!("it is a round");
        };
        let frame = Frame::Round {
            next,
            updates: vec![updates[0].clone(); 3],
        };
        let generations: Vec<u64> = frame.updates().map(|(generation, _)| generation.0).collect();
        assert_eq!(generations, [7, 8, 9]);
    }
}
