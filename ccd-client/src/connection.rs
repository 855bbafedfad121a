//! One connection to the daemon: preamble, one request out, its answer in. Blocking; used by `client.rs` alone.
//!
//! Always holds: after an error or a time-out the connection is dropped, so an answer that comes late is never taken
//! for the answer to something else.

use crate::error::CcdError;
use crate::wire::{self, Ask, FRAME_PREFIX_BYTES, PREAMBLE, ToDaemon, Told, WireError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What remains of a time-out is never rounded to zero, which a socket takes for "for ever".
const WAIT_MIN: Duration = Duration::from_millis(1);

/// Replies are read in pieces, so that a wrong length allocates nothing that is not really sent.
const READ_BYTES_MAX: usize = 1 << 20;

/// Of the first piece: nearly every reply is whole with it.
const READ_BYTES_FIRST: usize = 4096;

#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    socket: PathBuf,
    next_id: u64,
    /// How long one write may take, as the socket was told.
    wait: Duration,
    /// What has come and was not taken yet.
    arrived: Vec<u8>,
    /// What is read first goes here: memory for it that is not filled with zeros for each reply.
    piece: Box<[u8; READ_BYTES_FIRST]>,
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
        let stream = connect(socket, deadline).map_err(not_reachable)?;
        let mut connection = Self {
            stream,
            socket: socket.to_owned(),
            next_id: 0,
            wait: Duration::MAX,
            arrived: Vec::new(),
            piece: Box::new([0; READ_BYTES_FIRST]),
        };
        let preamble = connection.exchange_preambles(deadline).map_err(not_reachable)?;
        wire::check_preamble(preamble).map_err(|source| connection.wire(source))?;
        Ok(connection)
    }

    fn exchange_preambles(&mut self, deadline: Instant) -> io::Result<[u8; PREAMBLE.len()]> {
        // It is the first thing in an empty buffer, which takes it whole.
        if self.within(deadline, |stream| send(stream, &PREAMBLE))? < PREAMBLE.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        loop {
            if let Some(preamble) = self.arrived.first_chunk() {
                let preamble = *preamble;
                self.arrived.clear();
                return Ok(preamble);
            }
            self.read_some(PREAMBLE.len() - self.arrived.len(), deadline)?;
        }
    }

    /// Sends a request and waits for its answer.
    pub(crate) fn ask(&mut self, body: &Ask, deadline: Instant) -> Result<Told, Unanswered> {
        self.next_id += 1;
        let id = self.next_id;
        let frame = wire::encode_request(&ToDaemon { id, body })
            .map_err(|source| Unanswered::NotSent(self.wire(source)))?;
        self.exchange(&frame, id, deadline)
    }

    fn exchange(&mut self, frame: &[u8], id: u64, deadline: Instant) -> Result<Told, Unanswered> {
        // A closed socket refuses the first byte. Once one is accepted, how many arrived is not known.
        let first_bytes = match self.within(deadline, |stream| send(stream, frame)) {
            Ok(bytes) => bytes,
            Err(error) => return Err(Unanswered::NotSent(self.lost(error, deadline))),
        };
        let mut sent_bytes = first_bytes;
        while sent_bytes < frame.len() {
            let written = self.within(deadline, |stream| send(stream, &frame[sent_bytes..]));
            sent_bytes += match written {
                Ok(bytes) if bytes > 0 => bytes,
                Err(error) if is_timeout(&error) => {
                    return Err(Unanswered::Sent(self.lost(error, deadline)));
                }
                other => {
                    let error = other.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into());
                    // A request that is refused for its length is answered before it is read.
                    return self
                        .said_before_it_hung_up(id)
                        .ok_or_else(|| Unanswered::Sent(self.lost(error, deadline)));
                }
            };
        }
        loop {
            let reply = self.receive(deadline).map_err(Unanswered::Sent)?;
            // An answer to an earlier request of this connection cannot be waiting: its asker dropped it.
            if reply.id == id {
                return Ok(reply.body);
            }
        }
    }

    /// What the daemon said about this request before it ended the connection.
    fn said_before_it_hung_up(&mut self, id: u64) -> Option<Told> {
        let deadline = Instant::now() + WAIT_MIN;
        loop {
            match self.receive(deadline) {
                Ok(reply) if reply.id == id => return Some(reply.body),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    fn receive(&mut self, deadline: Instant) -> Result<wire::FromDaemon, CcdError> {
        loop {
            let mut missing_bytes = READ_BYTES_FIRST;
            if let Some((prefix, rest)) = self.arrived.split_first_chunk() {
                let len_bytes = wire::reply_len(*prefix).map_err(|source| match source {
                    WireError::TooLong { .. } => CcdError::UnexpectedAnswer {
                        socket: self.socket.clone(),
                    },
                    other => self.wire(other),
                })?;
                if let Some(body) = rest.get(..len_bytes) {
                    let reply = wire::decode_reply(body).map_err(|source| self.wire(source))?;
                    self.arrived.drain(..FRAME_PREFIX_BYTES + len_bytes);
                    // One big reply must not keep its memory for ever.
                    self.arrived.shrink_to(READ_BYTES_FIRST);
                    return Ok(reply);
                }
                missing_bytes = (len_bytes - rest.len()).clamp(READ_BYTES_FIRST, READ_BYTES_MAX);
            }
            self.read_some(missing_bytes, deadline)
                .map_err(|error| self.lost(error, deadline))?;
        }
    }

    fn read_some(&mut self, bytes_max: usize, deadline: Instant) -> io::Result<()> {
        let read = if bytes_max <= READ_BYTES_FIRST {
            let read = read_within(&self.stream, &mut self.piece[..bytes_max], deadline)?;
            self.arrived.extend_from_slice(&self.piece[..read]);
            read
        } else {
            let start = self.arrived.len();
            self.arrived.resize(start + bytes_max, 0);
            let read = read_within(&self.stream, &mut self.arrived[start..], deadline);
            self.arrived
                .truncate(start + read.as_ref().map_or(0, |bytes| *bytes));
            read?
        };
        match read {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Writes, and fails with `WouldBlock` or `TimedOut` only at the deadline. The socket is told anew how long to
    /// wait only if what it was told before does not fit: requests follow each other with much the same time-out.
    fn within(
        &mut self,
        deadline: Instant,
        mut transfer: impl FnMut(&UnixStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let left = deadline.saturating_duration_since(Instant::now());
        if self.wait > left || self.wait < left / 2 {
            self.wait_for(left - left / 8)?;
        }
        loop {
            match transfer(&self.stream) {
                Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    // A signal does not make it begin anew: a program that gets many would wait for ever.
                    self.wait_for(left)?;
                }
                done => return done,
            }
        }
    }

    fn wait_for(&mut self, wait: Duration) -> io::Result<()> {
        let wait = wait.max(WAIT_MIN);
        set_wait(&self.stream, wait)?;
        self.wait = wait;
        Ok(())
    }

    fn lost(&self, source: io::Error, deadline: Instant) -> CcdError {
        let socket = self.socket.clone();
        match source.kind() {
            _ if is_timeout(&source) && Instant::now() >= deadline => CcdError::NoAnswer {
                socket,
                timeout: Duration::ZERO,
            },
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
pub(crate) fn connect(socket: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let address = UnixAddr::new(socket)?;
    let stream = UnixStream::from(nix::sys::socket::socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?);
    set_deadline(&stream, deadline)?;
    loop {
        match nix::sys::socket::connect(stream.as_raw_fd(), &address) {
            // A signal of the program that links this; a stream that was not connected can be told so again.
            Err(Errno::EINTR) if Instant::now() < deadline => set_deadline(&stream, deadline)?,
            done => return done.map(|()| stream).map_err(Into::into),
        }
    }
}

/// Reads what has come, or fails with `TimedOut` at the deadline. It sleeps in poll(2), not in the read: that would be woken also
/// when the daemon takes the request, to find nothing.
pub(crate) fn read_within(mut stream: &UnixStream, into: &mut [u8], deadline: Instant) -> io::Result<usize> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = PollTimeout::try_from(left.max(WAIT_MIN)).unwrap_or(PollTimeout::MAX);
        let fd = PollFd::new(stream.as_fd(), PollFlags::POLLIN);
        match nix::poll::poll(&mut [fd], wait) {
            Ok(0) if Instant::now() < deadline => {}
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            // A signal does not make the wait begin anew: a program that gets many would wait for ever.
            Err(Errno::EINTR) if Instant::now() < deadline => {}
            Err(Errno::EINTR) => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error.into()),
            Ok(_) => match stream.read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            },
        }
    }
}

/// Writes what the socket takes. A peer that is gone is an error and no SIGPIPE: that would end a program in C, where
/// nobody has set it to be ignored.
pub(crate) fn send(stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    nix::sys::socket::send(stream.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).map_err(Into::into)
}

fn set_deadline(stream: &UnixStream, deadline: Instant) -> io::Result<()> {
    set_wait(
        stream,
        deadline.saturating_duration_since(Instant::now()).max(WAIT_MIN),
    )
}

fn set_wait(stream: &UnixStream, wait: Duration) -> io::Result<()> {
    stream.set_write_timeout(Some(wait))
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
