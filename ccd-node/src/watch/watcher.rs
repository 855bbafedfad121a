//! One watcher: its socket, what it was not able to take yet, and how far it has come.

use super::past::Past;
use super::seats::Seat;
use crate::fair::Owner;
use ccd_client::wire::WatchPlace;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Instant;

/// How far it has come.
#[derive(Debug)]
pub enum Stage {
    /// It was told everything.
    Live,
    /// The entry of the ring that comes next.
    Ring(u64),
    /// It has to be told of the past; what, is here, or at the thread that reads it.
    Past(Option<Box<Past>>),
    /// It was told what is on the disk, and the ring does not go on there yet; since when it waits for that.
    Between(Instant),
}

#[derive(Debug)]
pub struct Watcher {
    /// Tells it from others that had or will have its index.
    pub serial: u32,
    pub socket: UnixStream,
    pub group: usize,
    /// Its index among the members of its group, and among those of them who were told everything, if it is one.
    pub member_at: usize,
    pub live_at: Option<usize>,
    pub live_since: Instant,
    pub stage: Stage,
    /// Where it is, unless it is live.
    pub place: WatchPlace,
    /// What the socket did not take, and how much of it it took.
    held: Option<(Arc<[u8]>, usize)>,
    /// Since when it has taken nothing.
    pub stalled: Option<Instant>,
    /// When it was told something, by itself; what all are told who were told everything, the group knows.
    pub told_at: Instant,
    /// The generation that it was told of by itself.
    pub told: u64,
    /// Until it is given back.
    seat: Seat,
}

/// The connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

impl Watcher {
    pub fn owner(&self) -> Owner {
        self.seat.owner()
    }

    pub fn new(serial: u32, socket: UnixStream, group: usize, place: WatchPlace, seat: Seat) -> Self {
        Self {
            serial,
            socket,
            group,
            member_at: 0,
            live_at: None,
            live_since: Instant::now(),
            stage: Stage::Live,
            place,
            held: None,
            stalled: None,
            told_at: Instant::now(),
            told: 0,
            seat,
        }
    }

    /// What waits for the socket to take it.
    pub fn held_bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |(bytes, sent)| bytes.len() - sent)
    }

    pub fn is_blocked(&self) -> bool {
        self.held.is_some()
    }

    /// Sends, or keeps what the socket does not take. Nothing may be held.
    pub fn send(&mut self, bytes: &Arc<[u8]>, now: Instant) -> Result<(), Gone> {
        debug_assert!(self.held.is_none(), "items are told in order");
        self.told_at = now;
        let sent = write(self.socket.as_raw_fd(), bytes)?;
        self.hold(bytes, sent, now);
        Ok(())
    }

    /// Keeps what the socket did not take of something.
    pub fn hold(&mut self, bytes: &Arc<[u8]>, sent: usize, now: Instant) {
        if sent < bytes.len() {
            self.held = Some((bytes.clone(), sent));
            self.stalled = Some(now);
        }
    }

    /// Sends what is held.
    pub fn flush(&mut self, now: Instant) -> Result<(), Gone> {
        let Some((bytes, sent)) = self.held.take() else {
            return Ok(());
        };
        let more = write(self.socket.as_raw_fd(), &bytes[sent..])?;
        if more > 0 {
            self.stalled = Some(now);
        }
        if sent + more < bytes.len() {
            self.held = Some((bytes, sent + more));
        } else {
            self.stalled = None;
        }
        Ok(())
    }

    /// Whether it has hung up, or says something, which no watcher does.
    pub fn is_gone(&self) -> bool {
        let mut byte = [0];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        !matches!(
            recv(self.socket.as_raw_fd(), &mut byte, flags),
            Err(Errno::EAGAIN | Errno::EINTR)
        )
    }
}

/// Writes what the socket takes without waiting.
pub fn write(socket: RawFd, bytes: &[u8]) -> Result<usize, Gone> {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let mut sent = 0;
    while sent < bytes.len() {
        match send(socket, &bytes[sent..], flags) {
            Ok(0) => break,
            Ok(more) => sent += more,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => break,
            Err(_) => return Err(Gone),
        }
    }
    Ok(sent)
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
