//! One connection of a watch, which never blocks: what was asked goes out at once, for it fits into an empty buffer, and what comes
//! is taken as it comes.

use crate::error::CcdError;
use crate::wire::{self, Ask, FRAME_PREFIX_BYTES, PREAMBLE, ToDaemon, Told, WatchAsk, WireError};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, setsockopt, socket, sockopt,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Read at once.
const READ_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Link {
    stream: OwnedFd,
    socket: PathBuf,
    greeted: bool,
    arrived: Vec<u8>,
    /// How much of it was taken.
    taken: usize,
    heard_at: Instant,
}

/// What [`Link::receive`] found.
#[derive(Debug)]
pub(super) enum Received {
    Told(Told),
    /// No whole message, for now.
    Nothing,
}

impl Link {
    /// Connects and asks.
    pub fn open(path: &Path, ask: WatchAsk) -> Result<Self, CcdError> {
        let not_reachable = |errno: Errno| {
            let source = io::Error::from(errno);
            let socket = path.to_owned();
            CcdError::NotReachable { socket, source }
        };
        let request = ToDaemon {
            id: 1,
            body: Ask::Watch(ask),
        };
        let mut bytes = PREAMBLE.to_vec();
        let frame = wire::encode_request(&request).map_err(|source| CcdError::Wire {
            socket: path.to_owned(),
            source,
        })?;
        bytes.extend(frame);
        let address = UnixAddr::new(path).map_err(not_reachable)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(not_reachable)?;
        // Room for the largest request; a kernel that gives less refuses what does not fit.
        if bytes.len() > 64 << 10 {
            let _ = setsockopt(&stream, sockopt::SndBuf, &(bytes.len() * 2));
        }
        connect(stream.as_raw_fd(), &address).map_err(not_reachable)?;
        let sent = send(stream.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL).map_err(not_reachable)?;
        if sent < bytes.len() {
            return Err(not_reachable(Errno::EMSGSIZE));
        }
        Ok(Self {
            stream,
            socket: path.to_owned(),
            greeted: false,
            arrived: Vec::new(),
            taken: 0,
            heard_at: Instant::now(),
        })
    }

    /// How long nothing has come.
    pub fn quiet_for(&self) -> Duration {
        self.heard_at.elapsed()
    }

    /// The next message, if it is there.
    pub fn receive(&mut self) -> Result<Received, CcdError> {
        loop {
            if let Some(told) = self.message()? {
                return Ok(Received::Told(told));
            }
            if !self.read()? {
                return Ok(Received::Nothing);
            }
        }
    }

    /// A whole message is here already.
    pub fn holds_message(&self) -> bool {
        let rest = &self.arrived[self.taken..];
        let Some((prefix, rest)) = rest.split_first_chunk::<FRAME_PREFIX_BYTES>() else {
            return false;
        };
        // One of a wrong length is found to be wrong without waiting for more.
        self.greeted && wire::reply_len(*prefix).is_ok_and(|length| rest.len() >= length)
    }

    fn message(&mut self) -> Result<Option<Told>, CcdError> {
        let wire = |source: WireError| CcdError::Wire {
            socket: self.socket.clone(),
            source,
        };
        let rest = &self.arrived[self.taken..];
        if !self.greeted {
            let Some(preamble) = rest.first_chunk() else {
                return Ok(None);
            };
            wire::check_preamble(*preamble).map_err(wire)?;
            self.greeted = true;
            self.taken += PREAMBLE.len();
            return self.message();
        }
        let Some((prefix, rest)) = rest.split_first_chunk::<FRAME_PREFIX_BYTES>() else {
            return Ok(None);
        };
        let length = wire::reply_len(*prefix).map_err(wire)?;
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let told = wire::decode_reply(body).map_err(wire)?.body;
        self.taken += FRAME_PREFIX_BYTES + length;
        Ok(Some(told))
    }

    /// Reads what has come; whether it was anything.
    fn read(&mut self) -> Result<bool, CcdError> {
        self.arrived.drain(..self.taken);
        self.taken = 0;
        if self.arrived.is_empty() {
            // One big message must not keep its memory for ever.
            self.arrived.shrink_to(READ_BYTES);
        }
        let start = self.arrived.len();
        self.arrived.resize(start + READ_BYTES, 0);
        let read = loop {
            match recv(
                self.stream.as_raw_fd(),
                &mut self.arrived[start..],
                MsgFlags::empty(),
            ) {
                Err(Errno::EINTR) => {}
                other => break other,
            }
        };
        self.arrived.truncate(start + read.unwrap_or(0));
        let lost = |source: io::Error| CcdError::ConnectionLost {
            socket: self.socket.clone(),
            source,
        };
        match read {
            Ok(0) => Err(lost(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {
                self.heard_at = Instant::now();
                Ok(true)
            }
            Err(Errno::EAGAIN) => Ok(false),
            Err(errno) => Err(lost(errno.into())),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
