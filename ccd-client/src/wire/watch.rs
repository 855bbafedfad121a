//! What a watcher asks for, and what it is told.
//!
//! A connection on which a watch was asked for carries nothing else: the daemon sends [`WatchItem`]s, all with the id 0, until
//! either side hangs up, and the client sends nothing more. Whoever comes back says where it had come to.

use super::history::KeyChange;
use ccd_core::database::{Difference, Key, Pattern, Row, Who};
use ccd_core::ids::{Epoch, Generation, Lineage, Position, RequestId, Stamp};
use ccd_core::time::Date;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Most patterns of one watch.
pub const WATCH_PATTERNS_MAX: usize = 64;

/// Most that are decoded: who asks for a few too many hears why.
const PATTERNS_DECODED_MAX: usize = 2 * WATCH_PATTERNS_MAX;

/// What to watch, and from where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchAsk {
    /// Rows that match one of these; none: all that the caller may read.
    #[serde(deserialize_with = "ccd_core::database::at_most::<_, _, PATTERNS_DECODED_MAX>")]
    pub patterns: Vec<Pattern>,
    pub from: WatchFrom,
    /// How long the node may take until it serves.
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchFrom {
    /// What is committed from now on.
    Now,
    /// The rows that match now, then what is committed from there on.
    Rows,
    /// What came after this generation.
    Generation(Generation),
    /// What came after the last that an earlier watch was told.
    Place(WatchPlace),
}

/// How far a watcher has come: everything up to a generation, on the history that leads to a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchPlace {
    pub seen: Generation,
    /// The end of the round that the last update belongs to: not before `seen`.
    pub round: Position,
}

impl WatchPlace {
    /// With all updates of its round seen.
    pub fn at(round: Position) -> Self {
        Self {
            seen: round.stamp.generation,
            round,
        }
    }
}

impl fmt::Display for WatchPlace {
    /// `SEEN-EPOCH-GENERATION-LINEAGE`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { stamp, lineage } = self.round;
        write!(f, "{}-{}-{}-{lineage}", self.seen, stamp.epoch, stamp.generation)
    }
}

/// Text that is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is neither a generation nor a place that a watch has printed")]
pub struct MalformedPlace;

impl FromStr for WatchPlace {
    type Err = MalformedPlace;

    fn from_str(text: &str) -> Result<Self, MalformedPlace> {
        let number = |text: &str| -> Option<u64> {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| plain)
        };
        let mut parts = text.split('-');
        let mut part = || parts.next().ok_or(MalformedPlace);
        let seen = number(part()?).ok_or(MalformedPlace)?;
        let epoch = number(part()?).ok_or(MalformedPlace)?;
        let generation = number(part()?).ok_or(MalformedPlace)?;
        let digits = part()?;
        if parts.next().is_some() || digits.len() != 64 || seen > generation {
            return Err(MalformedPlace);
        }
        let mut lineage = [0; 32];
        for (byte, pair) in lineage.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| MalformedPlace)?;
            if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(MalformedPlace);
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| MalformedPlace)?;
        }
        let stamp = Stamp {
            epoch: Epoch(epoch),
            generation: Generation(generation),
        };
        Ok(Self {
            seen: Generation(seen),
            round: Position {
                stamp,
                lineage: Lineage(lineage),
            },
        })
    }
}

impl FromStr for WatchFrom {
    type Err = MalformedPlace;

    /// A generation, or a place.
    fn from_str(text: &str) -> Result<Self, MalformedPlace> {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if plain {
            let generation = text.parse().map_err(|_| MalformedPlace)?;
            return Ok(Self::Generation(Generation(generation)));
        }
        text.parse().map(Self::Place)
    }
}

/// What a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchItem {
    /// The watch is on. What comes is what the caller asked for: rows, or changes after `position`, or those of the past.
    Began {
        position: Position,
        /// Watched keys that do not exist yet.
        absent: Vec<Key>,
    },
    /// Some of the rows that match, with the formats of their keys before the first of them.
    Rows {
        formats: Vec<(Key, Vec<String>)>,
        rows: Vec<Row>,
    },
    /// That were all rows of the database at this position; changes from there on follow.
    AllRows { position: Position },
    /// What of a round was watched; all of the round is told at once.
    Round {
        round: Position,
        changes: Vec<WatchChange>,
    },
    /// Nothing that is watched has happened up to here but what was told.
    Progress { position: Position },
    /// What came after this generation up to this position is not kept on this node. Changes from there on follow.
    Missed { after: Generation, up_to: Position },
    /// What was told up to this generation is, or may be, of a branch that lost: an operator overruled the votes, and the database
    /// is now at this position. Changes from there on follow; who needs the rows asks for them anew.
    Diverged { after: Generation, up_to: Position },
    /// This node does not serve; nothing is told until it does.
    NotServing { why: String },
}

/// What of one update was watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchChange {
    pub generation: Generation,
    pub date: Date,
    pub who: Who,
    pub reason: Option<String>,
    pub request: RequestId,
    pub effects: WatchEffects,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchEffects {
    Rows(Difference),
    /// The rows were too many to be told or kept: how many of each watched key.
    Counts(Vec<KeyChange>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_from_its_text_and_nothing_else_is_one() {
        let stamp = Stamp {
            epoch: Epoch(7),
            generation: Generation(4712),
        };
        let mut lineage = [0xab; 32];
        lineage[31] = 0x0c;
        let place = WatchPlace {
            seen: Generation(4711),
            round: Position {
                stamp,
                lineage: Lineage(lineage),
            },
        };
        let text = place.to_string();
        assert!(
            text.starts_with("4711-7-4712-abab") && text.ends_with("ab0c"),
            "{text}"
        );
        assert_eq!(text.parse(), Ok(place));
        assert_eq!(text.parse(), Ok(WatchFrom::Place(place)));
        assert_eq!("4711".parse(), Ok(WatchFrom::Generation(Generation(4711))));
        let hex = "ab".repeat(32);
        for bad in [
            "",
            "x",
            "-1",
            "+1",
            "1-2",
            "99999999999999999999999",
            &format!("5-1-4-{hex}"),
            &format!("3-1-4-{}", &hex[1..]),
            &format!("3-1-4-{hex}-"),
            &format!("3-1-4-+{}", &hex[1..]),
            &format!("3-1-4-é{}", &hex[2..]),
        ] {
            assert_eq!(bad.parse::<WatchFrom>(), Err(MalformedPlace), "{bad:?}");
        }
    }
}
