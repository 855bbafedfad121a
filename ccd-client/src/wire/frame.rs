//! Bytes to messages and back. Called by the library (`connection.rs`) and by the daemon's client server.
//!
//! Always holds: a length is checked before anything is allocated for it, and what does not decode to the last
//! byte is refused.

use super::{Ask, FromDaemon, ToDaemon};
use ccd_core::database::RECORD_BYTES_MAX;
use core::borrow::Borrow;
use postcard::ser_flavors::Flavor;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version of everything in this module; both sides must have the same.
pub const VERSION: u8 = 1;

/// The first bytes each way on a connection.
pub const PREAMBLE: [u8; 4] = [b'c', b'c', b'd', VERSION];

/// The length in front of every message.
pub const FRAME_PREFIX_BYTES: usize = 4;

/// Most bytes of one request: a restore of the largest database. A daemon takes no more than its replicas hold, and
/// what surrounds that: see [`request_bytes_max`].
pub const REQUEST_BYTES_MAX: usize = REPLY_BYTES_MAX;

/// Most bytes of a request to a daemon whose replicas hold an image of so many: one that loads it, or the largest transaction of
/// other operations (16 MiB).
pub const fn request_bytes_max(image_bytes_max: u64) -> usize {
    let around = 1 << 20;
    let transaction = RECORD_BYTES_MAX + around;
    let load = image_bytes_max.saturating_add(around as u64);
    match load {
        load if load >= REQUEST_BYTES_MAX as u64 => REQUEST_BYTES_MAX,
        load if load as usize > transaction => load as usize,
        _ => transaction,
    }
}

/// Most bytes of one reply: the largest database image (`image_mib` ends at 1,024) and what surrounds it.
pub const REPLY_BYTES_MAX: usize = (1024 + 1) << 20;

/// What most messages take: room to write one without asking for more.
const FRAME_BYTES_USUAL: usize = 512;

const _: () = assert!(REPLY_BYTES_MAX <= u32::MAX as usize);

/// The other side does not speak this protocol, or not now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("the other side does not speak the ccd client protocol (its first bytes are {got:02x?})")]
    NotCcd { got: [u8; 4] },
    #[error("the other side speaks version {got} of the client protocol, this side version {VERSION}")]
    OtherVersion { got: u8 },
    #[error("a message of {got} bytes is more than the {max} that are allowed")]
    TooLong { got: u64, max: u64 },
    #[error("a message does not decode: {why}")]
    Malformed { why: String },
}

/// Checks the other side's first four bytes.
pub fn check_preamble(got: [u8; 4]) -> Result<(), WireError> {
    match got {
        PREAMBLE => Ok(()),
        [b'c', b'c', b'd', version] => Err(WireError::OtherVersion { got: version }),
        _ => Err(WireError::NotCcd { got }),
    }
}

/// How many bytes of a request follow this prefix.
pub fn request_len(prefix: [u8; FRAME_PREFIX_BYTES]) -> Result<usize, WireError> {
    frame_len(prefix, REQUEST_BYTES_MAX)
}

/// How many bytes of a reply follow this prefix. Read them as they come rather than allocate them at once.
pub fn reply_len(prefix: [u8; FRAME_PREFIX_BYTES]) -> Result<usize, WireError> {
    frame_len(prefix, REPLY_BYTES_MAX)
}

/// A request with its prefix, ready to be sent.
pub fn encode_request(request: &ToDaemon<impl Borrow<Ask> + Serialize>) -> Result<Vec<u8>, WireError> {
    encode(request, REQUEST_BYTES_MAX)
}

/// A reply with its prefix, ready to be sent.
pub fn encode_reply(reply: &FromDaemon) -> Result<Vec<u8>, WireError> {
    encode(reply, REPLY_BYTES_MAX)
}

/// The same, behind what is in `out` already; on an error nothing is added.
pub fn append_reply(out: &mut Vec<u8>, reply: &FromDaemon) -> Result<(), WireError> {
    append(out, reply, REPLY_BYTES_MAX)
}

/// The bytes after the prefix.
pub fn decode_request(bytes: &[u8]) -> Result<ToDaemon, WireError> {
    decode(bytes)
}

/// The id of a request of which at least the beginning is there.
pub fn request_id(beginning: &[u8]) -> Option<u64> {
    postcard::take_from_bytes(beginning).ok().map(|(id, _)| id)
}

/// The bytes after the prefix.
pub fn decode_reply(bytes: &[u8]) -> Result<FromDaemon, WireError> {
    decode(bytes)
}

fn frame_len(prefix: [u8; FRAME_PREFIX_BYTES], bytes_max: usize) -> Result<usize, WireError> {
    let len_bytes = u32::from_le_bytes(prefix) as usize;
    if len_bytes > bytes_max {
        return Err(WireError::TooLong {
            got: len_bytes as u64,
            max: bytes_max as u64,
        });
    }
    Ok(len_bytes)
}

fn encode<T: Serialize>(message: &T, bytes_max: usize) -> Result<Vec<u8>, WireError> {
    let mut frame = Vec::new();
    append(&mut frame, message, bytes_max)?;
    Ok(frame)
}

fn append<T: Serialize>(out: &mut Vec<u8>, message: &T, bytes_max: usize) -> Result<(), WireError> {
    let start = out.len();
    out.reserve(FRAME_BYTES_USUAL);
    out.extend_from_slice(&[0; FRAME_PREFIX_BYTES]);
    let appended = postcard::serialize_with_flavor(message, Appended(out));
    let body_bytes = out.len() - start - FRAME_PREFIX_BYTES;
    let checked = match appended {
        Err(error) => Err(WireError::Malformed {
            why: error.to_string(),
        }),
        Ok(()) if body_bytes > bytes_max => Err(WireError::TooLong {
            got: body_bytes as u64,
            max: bytes_max as u64,
        }),
        Ok(()) => Ok(()),
    };
    match checked {
        Ok(()) => out[start..start + FRAME_PREFIX_BYTES].copy_from_slice(&(body_bytes as u32).to_le_bytes()),
        Err(_) => out.truncate(start),
    }
    checked
}

/// A vector of somebody else's, to be written to.
pub(super) struct Appended<'a>(pub &'a mut Vec<u8>);

impl Flavor for Appended<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let (message, rest) = postcard::take_from_bytes(bytes).map_err(|error| WireError::Malformed {
        why: error.to_string(),
    })?;
    if rest.is_empty() {
        Ok(message)
    } else {
        Err(WireError::Malformed {
            why: format!("{} bytes are left over", rest.len()),
        })
    }
}
