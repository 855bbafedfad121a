//! Versions of the node protocol, and the form that messages have in each. No input or output.
//!
//! Both sides say which versions they speak (oldest and newest) and use the highest that both do. So nodes of two
//! releases run side by side while a cluster is updated node by node: a release that changes a message adds a version
//! here, encodes for the older one as before, and drops that only when no release that needs it is supported.

use ccd_core::protocol::Message;
use std::fmt;

/// One version of the messages between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u8);

/// The versions that a side speaks, without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    pub oldest: Version,
    pub newest: Version,
}

impl Versions {
    /// The versions of this release. Version 1 had other heartbeats and configurations, and no reports; version 2 had no dates in answers.
    pub const OURS: Self = Self {
        oldest: Version(3),
        newest: Version(3),
    };

    /// The highest version that both speak.
    pub fn common(self, other: Self) -> Option<Version> {
        let version = self.newest.min(other.newest);
        (version >= self.oldest.max(other.oldest)).then_some(version)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oldest == self.newest {
            write!(f, "{}", self.newest.0)
        } else {
            write!(f, "{} to {}", self.oldest.0, self.newest.0)
        }
    }
}

/// Bytes of a peer that are no message of the version in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("a message does not decode: {0}")]
    Malformed(postcard::Error),
    #[error("{0} bytes too many in a message")]
    Rest(usize),
}

/// Appends the message in the form of this version. All versions up to now have the same form.
pub fn encode(_version: Version, message: &Message, out: Vec<u8>) -> Result<Vec<u8>, postcard::Error> {
    postcard::to_extend(message, out)
}

/// Reads a message in the form of this version.
pub fn decode(_version: Version, bytes: &[u8]) -> Result<Message, MessageError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(MessageError::Rest(rest.len())),
        Err(error) => Err(MessageError::Malformed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn versions(oldest: u8, newest: u8) -> Versions {
        Versions {
            oldest: Version(oldest),
            newest: Version(newest),
        }
    }

    #[test]
    fn the_highest_version_that_both_speak_is_used() {
        for (one, two, expected) in [
            ((1, 1), (1, 1), Some(1)),
            ((1, 2), (1, 1), Some(1)),
            ((1, 3), (2, 5), Some(3)),
            ((2, 3), (1, 1), None),
            ((4, 5), (1, 3), None),
        ] {
            let (one, two) = (versions(one.0, one.1), versions(two.0, two.1));
            assert_eq!(one.common(two), expected.map(Version), "{one} and {two}");
            assert_eq!(two.common(one), expected.map(Version), "{two} and {one}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode(Version(1), &bytes);
        }
    }
}
