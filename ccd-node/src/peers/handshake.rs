//! Proves to both sides that the other holds the cluster's key, and compares what must be equal. No input or output.
//!
//! ```text
//! dialer   → "ccdn" version                            in clear
//!          → frame: Noise message 1 (Hello)            readable with the key only
//! listener ← 1, frame: Noise message 2 (Verdict)       or 2, code: refused in clear
//! dialer   → frame: empty, sealed                      proves that message 1 was not a recording
//! ```
//!
//! A frame is a length (u16, little-endian) and that many bytes. Nothing that a stranger sends is believed: before
//! the first sealed frame opens, the listener does nothing but answer.

use super::hello::{Hello, Identity, Mismatch};
use ccd_core::ids::NodeId;
use serde::{Deserialize, Serialize};
use snow::{HandshakeState, TransportState};

pub const PREAMBLE: [u8; 5] = *b"ccdn\x01";
pub const TAG_NOISE: u8 = 1;
pub const TAG_REFUSED: u8 = 2;
/// Message 1 did not open: the key differs, or the bytes were damaged.
pub const REFUSED_KEY: u8 = 1;
/// The first bytes are not [`PREAMBLE`].
pub const REFUSED_PREAMBLE: u8 = 2;

/// Largest handshake frame: a hello or a verdict and what Noise adds.
pub const HANDSHAKE_FRAME_BYTES_MAX: usize = 1024;

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"ccd node protocol";

/// Why there is no channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    #[error("the authkey differs; copy one authkey to all nodes of the cluster")]
    Key,
    #[error("the other side does not speak this version of the node protocol")]
    Preamble,
    #[error("the other side's hello does not decode")]
    Malformed,
    #[error("{0}")]
    Mismatch(Mismatch),
    #[error("the key exchange failed: {0}")]
    Noise(String),
}

impl From<snow::Error> for HandshakeError {
    fn from(error: snow::Error) -> Self {
        match error {
            snow::Error::Decrypt => Self::Key,
            other => Self::Noise(other.to_string()),
        }
    }
}

/// The listener's answer inside message 2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Verdict {
    Accepted,
    Refused(Mismatch),
}

/// The dialer between its first and its second step.
pub struct Dialing {
    noise: HandshakeState,
}

impl Dialing {
    /// The bytes to send first.
    pub fn begin(identity: &Identity, to: NodeId) -> Result<(Self, Vec<u8>), HandshakeError> {
        let mut noise = builder(identity)?.build_initiator()?;
        let hello = postcard::to_allocvec(&identity.hello(to)).map_err(|_| HandshakeError::Malformed)?;
        let mut bytes = PREAMBLE.to_vec();
        append_frame(&mut noise, &hello, &mut bytes)?;
        Ok((Self { noise }, bytes))
    }

    /// Reads message 2. The first frame to seal with the result is an empty one.
    pub fn finish(mut self, frame: &[u8]) -> Result<TransportState, HandshakeError> {
        let verdict: Verdict = open(&mut self.noise, frame)?;
        match verdict {
            Verdict::Accepted => Ok(self.noise.into_transport_mode()?),
            Verdict::Refused(mismatch) => Err(HandshakeError::Mismatch(mismatch)),
        }
    }
}

/// What a listener answers to message 1.
pub struct Answer {
    /// To be sent, with its tag.
    pub bytes: Vec<u8>,
    /// The dialer and the channel, or why there is none.
    pub outcome: Result<(NodeId, TransportState), HandshakeError>,
}

/// The listener's whole part.
pub fn answer(identity: &Identity, frame: &[u8]) -> Answer {
    match try_answer(identity, frame) {
        Ok(answer) => answer,
        Err(error) => Answer {
            bytes: vec![TAG_REFUSED, REFUSED_KEY],
            outcome: Err(error),
        },
    }
}

fn try_answer(identity: &Identity, frame: &[u8]) -> Result<Answer, HandshakeError> {
    let mut noise = builder(identity)?.build_responder()?;
    let hello: Hello = open(&mut noise, frame)?;
    let checked = identity.check(&hello);
    let verdict = match &checked {
        Ok(()) => Verdict::Accepted,
        Err(mismatch) => Verdict::Refused(mismatch.clone()),
    };
    let verdict = postcard::to_allocvec(&verdict).map_err(|_| HandshakeError::Malformed)?;
    let mut bytes = vec![TAG_NOISE];
    append_frame(&mut noise, &verdict, &mut bytes)?;
    let outcome = match checked {
        Ok(()) => Ok((hello.from, noise.into_transport_mode()?)),
        Err(mismatch) => Err(HandshakeError::Mismatch(mismatch)),
    };
    Ok(Answer { bytes, outcome })
}

/// The dialer's reading of a refusal in clear. Anybody can send one, so it only explains.
pub fn refused(code: u8) -> HandshakeError {
    match code {
        REFUSED_KEY => HandshakeError::Key,
        _ => HandshakeError::Preamble,
    }
}

fn builder(identity: &Identity) -> Result<snow::Builder<'_>, HandshakeError> {
    let params = PATTERN.parse()?;
    Ok(snow::Builder::new(params)
        .prologue(PROLOGUE)?
        .psk(0, &identity.key)?)
}

fn append_frame(noise: &mut HandshakeState, payload: &[u8], out: &mut Vec<u8>) -> Result<(), HandshakeError> {
    let mut frame = [0; HANDSHAKE_FRAME_BYTES_MAX];
    let len_bytes = noise.write_message(payload, &mut frame)?;
    out.extend_from_slice(&(len_bytes as u16).to_le_bytes());
    out.extend_from_slice(&frame[..len_bytes]);
    Ok(())
}

fn open<T: serde::de::DeserializeOwned>(
    noise: &mut HandshakeState,
    frame: &[u8],
) -> Result<T, HandshakeError> {
    let mut payload = [0; HANDSHAKE_FRAME_BYTES_MAX];
    let len_bytes = noise.read_message(frame, &mut payload)?;
    postcard::from_bytes(&payload[..len_bytes]).map_err(|_| HandshakeError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::super::hello::PROTOCOL;
    use super::super::roster::Roster;
    use super::super::sealed::{Opener, Sealer};
    use super::*;
    use ccd_core::ids::{ClusterId, NodeSet};
    use std::cell::RefCell;

    fn node(number: u8) -> NodeId {
        NodeId::new(number).unwrap()
    }

    fn identity(me: u8) -> Identity {
        Identity {
            me: node(me),
            cluster: ClusterId([7; 16]),
            roster: roster([node(0), node(1)].into_iter().collect(), [8; 32]),
            key: [9; 32],
        }
    }

    fn roster(nodes: NodeSet, digest: [u8; 32]) -> RefCell<Roster> {
        RefCell::new(Roster {
            nodes,
            digest,
            other: None,
        })
    }

    /// The frame inside the dialer's first bytes, or inside the listener's answer.
    fn frame(bytes: &[u8], header: usize) -> &[u8] {
        let len_bytes = u16::from_le_bytes([bytes[header], bytes[header + 1]]) as usize;
        assert_eq!(bytes.len(), header + 2 + len_bytes);
        &bytes[header + 2..]
    }

    /// Both sides' outcome.
    fn meet(
        dialer: &Identity,
        to: u8,
        listener: &Identity,
    ) -> (
        Result<TransportState, HandshakeError>,
        Result<(NodeId, TransportState), HandshakeError>,
    ) {
        let (dialing, bytes) = Dialing::begin(dialer, node(to)).unwrap();
        let answer = answer(listener, frame(&bytes, PREAMBLE.len()));
        let dialed = match answer.bytes[0] {
            TAG_NOISE => dialing.finish(frame(&answer.bytes, 1)),
            _ => Err(refused(answer.bytes[1])),
        };
        (dialed, answer.outcome)
    }

    #[test]
    fn nodes_of_one_cluster_meet() {
        let (dialed, answered) = meet(&identity(0), 1, &identity(1));
        let (from, transport) = answered.unwrap();
        assert_eq!(from, node(0));
        let mut sealed = Vec::new();
        Sealer::new(dialed.unwrap()).seal(b"hello", &mut sealed).unwrap();
        let mut opener = Opener::new(transport);
        let frame = frame(&sealed, 0);
        assert_eq!(opener.open_frame(frame).unwrap(), Some(b"hello".to_vec()));
    }

    #[test]
    fn both_sides_hear_what_differs() {
        let cluster = Identity {
            cluster: ClusterId([1; 16]),
            ..identity(1)
        };
        let digest = Identity {
            roster: roster([node(0), node(1)].into_iter().collect(), [1; 32]),
            ..identity(1)
        };
        let other_nodes = Identity {
            roster: roster(NodeSet::of(node(1)), [8; 32]),
            ..identity(1)
        };
        let table = [
            (
                meet(&identity(0), 1, &cluster),
                Mismatch::Cluster {
                    dialer: ClusterId([7; 16]),
                    listener: ClusterId([1; 16]),
                },
            ),
            (meet(&identity(0), 1, &digest), Mismatch::InitDigest),
            (
                meet(&identity(0), 1, &identity(0)),
                Mismatch::WrongNode {
                    wanted: node(1),
                    answered: node(0),
                },
            ),
            (meet(&identity(1), 1, &identity(1)), Mismatch::NotAPeer(node(1))),
            (meet(&identity(0), 1, &other_nodes), Mismatch::NotAPeer(node(0))),
        ];
        for ((dialed, answered), expected) in table {
            assert_eq!(dialed.unwrap_err(), HandshakeError::Mismatch(expected.clone()));
            assert_eq!(answered.unwrap_err(), HandshakeError::Mismatch(expected));
        }
    }

    #[test]
    fn another_key_is_named_on_both_sides() {
        let other = Identity {
            key: [1; 32],
            ..identity(1)
        };
        let (dialed, answered) = meet(&identity(0), 1, &other);
        assert_eq!(dialed.unwrap_err(), HandshakeError::Key);
        assert_eq!(answered.unwrap_err(), HandshakeError::Key);
    }

    #[test]
    fn another_version_is_named() {
        let hello = Hello {
            protocol: PROTOCOL + 1,
            ..identity(0).hello(node(1))
        };
        assert_eq!(
            identity(1).check(&hello),
            Err(Mismatch::Protocol {
                dialer: PROTOCOL + 1,
                listener: PROTOCOL
            })
        );
    }

    #[test]
    fn a_recording_opens_nothing() {
        let (dialing, first) = Dialing::begin(&identity(0), node(1)).unwrap();
        let answered = answer(&identity(1), frame(&first, PREAMBLE.len()));
        let mut sealer = Sealer::new(dialing.finish(frame(&answered.bytes, 1)).unwrap());
        let mut second = Vec::new();
        sealer.seal(b"update", &mut second).unwrap();

        // The same bytes again, to the same listener: it answers, but no message comes out of them.
        let again = answer(&identity(1), frame(&first, PREAMBLE.len()));
        let mut opener = Opener::new(again.outcome.unwrap().1);
        assert!(opener.open_frame(frame(&second, 0)).is_err());

        // And a frame cannot be repeated within its own connection.
        let mut opener = Opener::new(answered.outcome.unwrap().1);
        assert!(opener.open_frame(frame(&second, 0)).is_ok());
        assert!(opener.open_frame(frame(&second, 0)).is_err());
    }

    #[test]
    fn no_bytes_make_the_listener_panic() {
        let (_, good) = Dialing::begin(&identity(0), node(1)).unwrap();
        let good = frame(&good, PREAMBLE.len());
        for len_bytes in 0..good.len() {
            assert!(answer(&identity(1), &good[..len_bytes]).outcome.is_err());
        }
        for index in 0..good.len() {
            let mut damaged = good.to_vec();
            damaged[index] ^= 1;
            assert!(answer(&identity(1), &damaged).outcome.is_err());
        }
    }
}
