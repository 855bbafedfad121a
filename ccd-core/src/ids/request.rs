//! The id of a request: what its client keeps, what the cluster knows it under, and what people see of it.

use core::fmt;
use serde::{Deserialize, Serialize};

/// Names one update of one client, so that asking again is safe: the same id is applied once.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId {
    /// Random, one for each attached client, and a secret of that client; in a bound id, what follows from it and the user.
    pub client: u128,
    /// Counts the client's updates.
    pub sequence: u64,
}

/// Tells this use of BLAKE3 from others; not a secret.
const BINDING_KEY: &[u8; 32] = b"ccd request id bound to a caller";
const PUBLIC_KEY: &[u8; 32] = b"ccd request id as people see it.";

/// Of a sequence, in a bound id: the rest says what the request was.
const SEQUENCE_BITS: u32 = 32;

impl RequestId {
    /// The id under which the cluster knows this request, of this user, with this content
    /// ([`content_digest`](crate::database::content_digest)). The client's own id never leaves its daemon, so nobody who reads what
    /// a cluster keeps can ask under it, and nobody else who knows it gets the same one.
    #[must_use]
    pub fn bound(self, uid: u32, content: u32) -> Self {
        if self == Self::default() {
            return self;
        }
        let mut hasher = blake3::Hasher::new_keyed(BINDING_KEY);
        hasher.update(&self.client.to_le_bytes());
        hasher.update(&(self.sequence >> SEQUENCE_BITS).to_le_bytes());
        hasher.update(&uid.to_le_bytes());
        let sequence = self.sequence & u64::from(u32::MAX);
        Self {
            client: u128::from_le_bytes(first_bytes(&hasher)),
            sequence: u64::from(content) << SEQUENCE_BITS | sequence,
        }
    }

    /// Whether both are the same request of the same caller, whatever it holds.
    pub fn is_same_request(self, other: Self) -> bool {
        self.client == other.client && self.sequence as u32 == other.sequence as u32
    }

    /// What people see of it: tells requests apart and leads back to none.
    pub fn public(self) -> PublicRequestId {
        let mut hasher = blake3::Hasher::new_keyed(PUBLIC_KEY);
        hasher.update(&self.client.to_le_bytes());
        hasher.update(&(self.sequence as u32).to_le_bytes());
        PublicRequestId(u32::from_be_bytes(first_bytes(&hasher)))
    }
}

fn first_bytes<const N: usize>(hasher: &blake3::Hasher) -> [u8; N] {
    let mut bytes = [0; N];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// A request as history, watches and logs name it: eight hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicRequestId(u32);

impl fmt::Display for PublicRequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{}", self.client, self.sequence)
    }
}

/// Back from its display.
impl core::str::FromStr for RequestId {
    type Err = MalformedRequestId;

    fn from_str(text: &str) -> Result<Self, MalformedRequestId> {
        let (client, sequence) = text.split_once('-').ok_or(MalformedRequestId)?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if client.len() != 32 || !digits(client) || !digits(sequence) {
            return Err(MalformedRequestId);
        }
        Ok(Self {
            client: u128::from_str_radix(client, 16).map_err(|_| MalformedRequestId)?,
            sequence: sequence.parse().map_err(|_| MalformedRequestId)?,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request id is 32 hexadecimal digits, a dash and a number")]
pub struct MalformedRequestId;

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{:x}-{}", self.client & 0xffff, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_request_is_bound_to_its_user_and_to_the_secret_of_its_client() {
        let id = |client, sequence| RequestId { client, sequence };
        let asked = id(7, 1);
        assert_eq!(asked.bound(1000, 5), asked.bound(1000, 5));
        assert!(
            asked.bound(1000, 5).is_same_request(asked.bound(1000, 6)),
            "other content"
        );
        assert_ne!(asked.bound(1000, 5), asked.bound(1000, 6));
        for other in [
            asked.bound(1001, 5),
            id(8, 1).bound(1000, 5),
            id(7, 2).bound(1000, 5),
            id(7, 1 | 1 << 32).bound(1000, 5),
        ] {
            assert!(!asked.bound(1000, 5).is_same_request(other), "{other}");
        }
        assert_eq!(
            RequestId::default().bound(1000, 5),
            RequestId::default(),
            "nobody's stays nobody's"
        );
    }

    #[test]
    fn the_public_form_is_short_the_same_for_one_request_and_holds_nothing_of_the_id() {
        let asked = RequestId {
            client: 0x1234_5678_9abc_def0_1234_5678_9abc_def0,
            sequence: 1,
        };
        let public = asked.bound(1000, 5).public().to_string();
        assert_eq!(public, asked.bound(1000, 9).public().to_string());
        assert_eq!(public.len(), 8);
        assert!(!asked.bound(1000, 5).to_string().contains(&public));
        assert_ne!(public, asked.bound(1001, 5).public().to_string());
    }
}
