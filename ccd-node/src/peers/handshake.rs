//! Proves to both sides that the other holds a key of the cluster, and compares what must be equal. No input or output.
//!
//! ```text
//! dialer   → "ccdn" 1, oldest, newest version, key id   in clear, and part of what is proven
//!          → frame: Noise message 1 (Hello)             readable with that key only
//! listener ← 1, frame: Noise message 2 (Verdict)        or 2, code, oldest, newest: refused in clear
//! dialer   → frame: empty, sealed                       proves that message 1 was not a recording
//! ```
//!
//! A frame is a length (u16, little-endian) and that many bytes. Nothing that a stranger sends is believed: before
//! the first sealed frame opens, the listener does nothing but answer.

use super::hello::{Hello, Identity, Mismatch, Progress};
use super::version::{Version, Versions};
use ccd_client::files::{Authkey, AuthkeyId};
use ccd_core::ids::{Epoch, NodeId};
use serde::{Deserialize, Serialize};
use snow::{HandshakeState, TransportState};

/// What every connection begins with: four letters and the layout of this handshake.
const MAGIC: [u8; 5] = *b"ccdn\x01";
pub const CLEAR_BYTES: usize = MAGIC.len() + 2 + AuthkeyId::BYTES;

pub const TAG_NOISE: u8 = 1;
pub const TAG_REFUSED: u8 = 2;
/// Bytes of a refusal in clear after its tag.
pub const REFUSAL_BYTES: usize = 3;
/// The listener does not have the key, or message 1 did not open.
const REFUSED_KEY: u8 = 1;
/// The first bytes are not those of a node.
const REFUSED_PREAMBLE: u8 = 2;
/// No version in common.
const REFUSED_VERSION: u8 = 3;

/// Largest handshake frame: a hello or a verdict and what Noise adds.
pub const HANDSHAKE_FRAME_BYTES_MAX: usize = 1024;

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"ccd node protocol";

/// Identifies message 1: the dialer's key of this one handshake.
pub type Ephemeral = [u8; 32];

/// Why there is no channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    #[error(
        "the authkey differs: it does not have {id}, with which this node began; copy one authkey to all nodes and \
         `systemctl reload ccdd` there (`ccdadm authkey list` shows what a node has)"
    )]
    KeyRefused { id: AuthkeyId },
    #[error(
        "the authkey differs: it proves {theirs}, and here is {ours}; copy one authkey to all nodes and \
         `systemctl reload ccdd` there (`ccdadm authkey list` shows what a node has)"
    )]
    KeyUnknown { theirs: AuthkeyId, ours: String },
    #[error(
        "it names authkey {id} and does not prove it: the bytes were made by a stranger, or altered on the way; find \
         out who is on that network"
    )]
    NotProven { id: AuthkeyId },
    #[error("it does not begin as a node of this protocol does; check the ADDRESS rows, and what runs there")]
    Preamble,
    #[error(
        "no version of the node protocol in common: the connecting node speaks {dialer}, the other {listener}; update \
         ccdd on the one with the lower"
    )]
    Version { dialer: Versions, listener: Versions },
    #[error(
        "the first message was sent back as its answer: somebody reflects; find out who is on that network"
    )]
    Reflected,
    #[error("its hello or verdict does not decode; its own log says more, and update ccdd on the older node")]
    Malformed,
    #[error("{0}")]
    Mismatch(Mismatch, Progress),
    #[error("the key exchange failed: {0}; it is tried again")]
    Noise(String),
}

/// What a dialer says in clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clear {
    pub versions: Versions,
    pub key: AuthkeyId,
}

impl Clear {
    fn to_bytes(self) -> [u8; CLEAR_BYTES] {
        let mut bytes = [0; CLEAR_BYTES];
        bytes[..5].copy_from_slice(&MAGIC);
        bytes[5] = self.versions.oldest.0;
        bytes[6] = self.versions.newest.0;
        bytes[7..].copy_from_slice(&self.key.0);
        bytes
    }

    fn from_bytes(bytes: &[u8; CLEAR_BYTES]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<5>()?;
        let ([oldest, newest], key) = rest.split_first_chunk::<2>()?;
        (*magic == MAGIC).then_some(Self {
            versions: Versions {
                oldest: Version(*oldest),
                newest: Version(*newest),
            },
            key: AuthkeyId(key.try_into().ok()?),
        })
    }
}

/// The listener's answer inside message 2. It repeats the versions, so that nobody on the way can lower them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Verdict {
    Accepted {
        oldest: u8,
        newest: u8,
    },
    /// With what the listener knows.
    Refused(Mismatch, Progress),
}

/// A proven channel.
#[derive(Debug)]
pub struct Channel {
    pub transport: TransportState,
    pub version: Version,
    pub key: AuthkeyId,
}

/// The dialer between its first and its second step.
#[derive(Debug)]
pub struct Dialing {
    noise: HandshakeState,
    first: Vec<u8>,
    versions: Versions,
    key: AuthkeyId,
}

impl Dialing {
    /// The bytes to send first.
    pub fn begin(
        identity: &Identity,
        key: &Authkey,
        to: NodeId,
        network: u8,
        epoch: Epoch,
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        let clear = Clear {
            versions: identity.versions,
            key: key.id(),
        };
        let mut bytes = clear.to_bytes().to_vec();
        let mut noise = builder(key, &prologue(&bytes))?
            .build_initiator()
            .map_err(noise_error)?;
        let hello = postcard::to_allocvec(&identity.hello(to, network, epoch))
            .map_err(|_| HandshakeError::Malformed)?;
        append_frame(&mut noise, &hello, &mut bytes)?;
        let dialing = Self {
            noise,
            first: bytes[CLEAR_BYTES + 2..].to_vec(),
            versions: clear.versions,
            key: clear.key,
        };
        Ok((dialing, bytes))
    }

    /// Reads message 2. The first frame to seal with the result is an empty one.
    pub fn finish(mut self, frame: &[u8]) -> Result<Channel, HandshakeError> {
        if frame == self.first {
            return Err(HandshakeError::Reflected);
        }
        let verdict: Verdict = open(&mut self.noise, frame, self.key, VERDICT_GREW_BYTES)?;
        match verdict {
            Verdict::Accepted { oldest, newest } => {
                let listener = Versions {
                    oldest: Version(oldest),
                    newest: Version(newest),
                };
                let version = agree(self.versions, listener)?;
                let transport = self.noise.into_transport_mode().map_err(noise_error)?;
                Ok(Channel {
                    transport,
                    version,
                    key: self.key,
                })
            }
            Verdict::Refused(mismatch, theirs) => Err(HandshakeError::Mismatch(mismatch, theirs)),
        }
    }

    /// Reads a refusal in clear. Anybody can send one, so it only explains.
    pub fn refused(&self, [code, oldest, newest]: [u8; REFUSAL_BYTES]) -> HandshakeError {
        match code {
            REFUSED_KEY => HandshakeError::KeyRefused { id: self.key },
            REFUSED_VERSION => HandshakeError::Version {
                dialer: self.versions,
                listener: Versions {
                    oldest: Version(oldest),
                    newest: Version(newest),
                },
            },
            _ => HandshakeError::Preamble,
        }
    }
}

/// What a listener answers to message 1.
#[derive(Debug)]
pub struct Answer {
    /// To be sent, with its tag.
    pub bytes: Vec<u8>,
    /// The dialer and the channel, or why there is none.
    pub outcome: Result<(Hello, Channel), HandshakeError>,
}

impl Answer {
    fn refusal(identity: &Identity, error: HandshakeError) -> Self {
        let code = match &error {
            HandshakeError::Version { .. } => REFUSED_VERSION,
            HandshakeError::Preamble => REFUSED_PREAMBLE,
            _ => REFUSED_KEY,
        };
        let Versions { oldest, newest } = identity.versions;
        Self {
            bytes: vec![TAG_REFUSED, code, oldest.0, newest.0],
            outcome: Err(error),
        }
    }
}

/// The listener's first look: at what is in clear.
pub fn greet(identity: &Identity, bytes: &[u8; CLEAR_BYTES]) -> Result<(Clear, Authkey), Box<Answer>> {
    let refuse = |error| Err(Box::new(Answer::refusal(identity, error)));
    let Some(clear) = Clear::from_bytes(bytes) else {
        return refuse(HandshakeError::Preamble);
    };
    if let Err(error) = agree(clear.versions, identity.versions) {
        return refuse(error);
    }
    let keys = identity.keys.borrow();
    match keys.find(clear.key) {
        Some(key) => Ok((clear, key.clone())),
        None => refuse(HandshakeError::KeyUnknown {
            theirs: clear.key,
            ours: keys.ids(),
        }),
    }
}

/// The rest of the listener's part. `admit` is told whether the dialer's hello agrees with this node, and has the last
/// word on whether it may come in.
pub fn answer(
    identity: &Identity,
    (clear, key): &(Clear, Authkey),
    frame: &[u8],
    admit: impl FnOnce(&Hello, Ephemeral, Result<(), Mismatch>) -> Result<(), Mismatch>,
) -> Answer {
    match try_answer(identity, clear, key, frame, admit) {
        Ok(answer) => answer,
        Err(error) => Answer::refusal(identity, error),
    }
}

fn try_answer(
    identity: &Identity,
    clear: &Clear,
    key: &Authkey,
    frame: &[u8],
    admit: impl FnOnce(&Hello, Ephemeral, Result<(), Mismatch>) -> Result<(), Mismatch>,
) -> Result<Answer, HandshakeError> {
    let mut noise = builder(key, &prologue(&clear.to_bytes()))?
        .build_responder()
        .map_err(noise_error)?;
    let hello: Hello = open(&mut noise, frame, clear.key, HELLO_GREW_BYTES)?;
    let ephemeral = frame.first_chunk().ok_or(HandshakeError::Malformed)?;
    let checked = admit(&hello, *ephemeral, identity.check(&hello));
    let verdict = match &checked {
        Ok(()) => Verdict::Accepted {
            oldest: identity.versions.oldest.0,
            newest: identity.versions.newest.0,
        },
        Err(mismatch) => Verdict::Refused(mismatch.clone(), identity.progress.get()),
    };
    let verdict = postcard::to_allocvec(&verdict).map_err(|_| HandshakeError::Malformed)?;
    let mut bytes = vec![TAG_NOISE];
    append_frame(&mut noise, &verdict, &mut bytes)?;
    let outcome = match checked {
        Ok(()) => {
            let channel = Channel {
                transport: noise.into_transport_mode().map_err(noise_error)?,
                version: agree(clear.versions, identity.versions)?,
                key: clear.key,
            };
            Ok((hello, channel))
        }
        Err(mismatch) => Err(HandshakeError::Mismatch(mismatch, identity.progress.get())),
    };
    Ok(Answer { bytes, outcome })
}

fn agree(dialer: Versions, listener: Versions) -> Result<Version, HandshakeError> {
    dialer
        .common(listener)
        .ok_or(HandshakeError::Version { dialer, listener })
}

/// What is in clear is part of what the key proves.
fn prologue(clear: &[u8]) -> Vec<u8> {
    [PROLOGUE, clear].concat()
}

fn builder<'a>(key: &'a Authkey, prologue: &'a [u8]) -> Result<snow::Builder<'a>, HandshakeError> {
    let params = PATTERN.parse().map_err(noise_error)?;
    snow::Builder::new(params)
        .prologue(prologue)
        .and_then(|builder| builder.psk(0, key.bytes()))
        .map_err(noise_error)
}

fn noise_error(error: snow::Error) -> HandshakeError {
    HandshakeError::Noise(error.to_string())
}

fn append_frame(noise: &mut HandshakeState, payload: &[u8], out: &mut Vec<u8>) -> Result<(), HandshakeError> {
    let mut frame = [0; HANDSHAKE_FRAME_BYTES_MAX];
    let len_bytes = noise.write_message(payload, &mut frame).map_err(noise_error)?;
    out.extend_from_slice(&(len_bytes as u16).to_le_bytes());
    out.extend_from_slice(&frame[..len_bytes]);
    Ok(())
}

/// What hellos of earlier releases lack at their end: two ids, which are not known where they are zero.
const HELLO_GREW_BYTES: usize = 2;

/// What refusals of earlier releases lack at their end: an epoch, and the listener's progress of three numbers.
const VERDICT_GREW_BYTES: usize = 4;

/// Reads what came, with so many zeros behind it. Later versions may say more than this one reads.
fn open<T: serde::de::DeserializeOwned>(
    noise: &mut HandshakeState,
    frame: &[u8],
    id: AuthkeyId,
    zeros: usize,
) -> Result<T, HandshakeError> {
    let mut payload = [0; HANDSHAKE_FRAME_BYTES_MAX + VERDICT_GREW_BYTES];
    let len_bytes = noise
        .read_message(frame, &mut payload[..HANDSHAKE_FRAME_BYTES_MAX])
        .map_err(|error| match error {
            snow::Error::Decrypt => HandshakeError::NotProven { id },
            other => noise_error(other),
        })?;
    // Behind the plain text lies what was left of its authentication.
    payload[len_bytes..len_bytes + zeros].fill(0);
    match postcard::take_from_bytes(&payload[..len_bytes + zeros]) {
        Ok((value, _)) => Ok(value),
        Err(_) => Err(HandshakeError::Malformed),
    }
}

#[cfg(test)]
mod tests;
