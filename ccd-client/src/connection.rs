//! One connection to the daemon: preamble, one request out, its answer in. Blocking; used by `client.rs` alone.
//!
//! Always holds: after an error or a time-out the connection is dropped, so an answer that comes late is never taken
//! for the answer to something else.

use crate::error::CcdError;
use crate::wire::{self, Ask, FRAME_PREFIX_BYTES, PREAMBLE, ToDaemon, Told, WireError};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What remains of a time-out is never rounded to zero, which a socket takes for "for ever".
const WAIT_MIN: Duration = Duration::from_millis(1);

/// Replies are read in pieces, so that a wrong length allocates nothing that is not really sent.
const READ_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    socket: PathBuf,
    next_id: u64,
}

/// Why a request got no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// No byte of the request reached the daemon.
    NotSent(CcdError),
    /// It may have reached the daemon.
    Sent(CcdError),
}

impl Unanswered {
    pub(crate) fn into_error(self) -> CcdError {
        match self {
            Self::NotSent(error) | Self::Sent(error) => error,
        }
    }
}

impl Connection {
    /// Connects and exchanges preambles.
    pub(crate) fn open(socket: &Path, deadline: Instant) -> Result<Self, CcdError> {
        let started = Instant::now();
        let not_reachable = |source: io::Error| match source.kind() {
            // It listens, but is stopped or has more to do than it can.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CcdError::NoAnswer {
                socket: socket.to_owned(),
                timeout: started.elapsed(),
            },
            _ => CcdError::NotReachable {
                socket: socket.to_owned(),
                source,
            },
        };
        let mut stream = connect(socket, deadline).map_err(not_reachable)?;
        stream.write_all(&PREAMBLE).map_err(not_reachable)?;
        let mut preamble = [0; PREAMBLE.len()];
        stream.read_exact(&mut preamble).map_err(not_reachable)?;
        wire::check_preamble(preamble).map_err(|source| CcdError::Wire {
            socket: socket.to_owned(),
            source,
        })?;
        Ok(Self {
            stream,
            socket: socket.to_owned(),
            next_id: 0,
        })
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn ask(&mut self, body: Ask, deadline: Instant) -> Result<Told, Unanswered> {
        self.next_id += 1;
        let id = self.next_id;
        let frame = wire::encode_request(&ToDaemon { id, body })
            .map_err(|source| Unanswered::NotSent(self.wire(source)))?;
        self.exchange(&frame, id, deadline)
    }

    fn exchange(&mut self, frame: &[u8], id: u64, deadline: Instant) -> Result<Told, Unanswered> {
        let lost = |this: &Self, source| this.lost(source, deadline);
        set_deadline(&self.stream, deadline).map_err(|error| Unanswered::NotSent(lost(self, error)))?;
        // A closed socket refuses the first byte. Once one is accepted, how many arrived is not known.
        let first_bytes = match self.stream.write(frame) {
            Ok(bytes) => bytes,
            Err(error) => return Err(Unanswered::NotSent(lost(self, error))),
        };
        self.stream
            .write_all(&frame[first_bytes..])
            .map_err(|error| Unanswered::Sent(lost(self, error)))?;
        loop {
            let reply = self.receive(deadline).map_err(Unanswered::Sent)?;
            // An answer to an earlier request of this connection cannot be waiting: its asker dropped it.
            if reply.id == id {
                return Ok(reply.body);
            }
        }
    }

    fn receive(&mut self, deadline: Instant) -> Result<wire::FromDaemon, CcdError> {
        let mut prefix = [0; FRAME_PREFIX_BYTES];
        self.read_exact(&mut prefix, deadline)?;
        let len_bytes = wire::reply_len(prefix).map_err(|source| match source {
            WireError::TooLong { .. } => CcdError::UnexpectedAnswer {
                socket: self.socket.clone(),
            },
            other => self.wire(other),
        })?;
        let mut body = Vec::new();
        while body.len() < len_bytes {
            let start = body.len();
            body.resize(len_bytes.min(start + READ_BYTES as usize), 0);
            self.read_exact(&mut body[start..], deadline)?;
        }
        wire::decode_reply(&body).map_err(|source| self.wire(source))
    }

    fn read_exact(&mut self, bytes: &mut [u8], deadline: Instant) -> Result<(), CcdError> {
        set_deadline(&self.stream, deadline)
            .and_then(|()| self.stream.read_exact(bytes))
            .map_err(|error| self.lost(error, deadline))
    }

    fn lost(&self, source: io::Error, deadline: Instant) -> CcdError {
        let socket = self.socket.clone();
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut if Instant::now() >= deadline => {
                CcdError::NoAnswer {
                    socket,
                    timeout: Duration::ZERO,
                }
            }
            _ => CcdError::ConnectionLost { socket, source },
        }
    }

    fn wire(&self, source: WireError) -> CcdError {
        CcdError::Wire {
            socket: self.socket.clone(),
            source,
        }
    }
}

/// Connects within the deadline: Linux lets a connect to a full queue wait as long as a write may.
fn connect(socket: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let address = UnixAddr::new(socket)?;
    let stream = UnixStream::from(nix::sys::socket::socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?);
    set_deadline(&stream, deadline)?;
    nix::sys::socket::connect(stream.as_raw_fd(), &address)?;
    Ok(stream)
}

fn set_deadline(stream: &UnixStream, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now()).max(WAIT_MIN);
    stream.set_read_timeout(Some(left))?;
    stream.set_write_timeout(Some(left))
}
