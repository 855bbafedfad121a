//! Those who watch: each is told of every committed change that it may see and has asked for, once and in order.
//!
//! ```text
//!   clients/serve ── a connection, what it asks for, its seat
//!         ↓
//!   event loop ── a strict snapshot: the node serves, and stands here
//!         ↓
//!   history's writer ── what each update did, after it is written ──┐
//!         ↓                                                         ↓
//!   inlet.rs  ────────────────────────────────────────────→  hub.rs   one thread: sockets, who is where
//!                                                               │  ↑
//!   seats.rs   how many watchers there may be          ring.rs  what was told last, once for all
//!   watcher.rs one of them: its socket, its place      group.rs those who see the same: encoded once
//!   volley.rs  many sockets in one call                         ↓  │
//!                                                      past.rs  another thread: rows, and the history on disk
//! ```
//!
//! Nobody waits for a watcher. What is told stands once in a ring of bounded size; whoever reads slowly holds one piece of it and
//! its place, and when it has fallen out of the ring it goes on from the history on disk, as someone does who comes back after a
//! week. What neither has is told as missed. Both threads have a low priority, and begin when the clients have their acks.

mod group;
mod hub;
mod inlet;
mod past;
mod ring;
mod seats;
#[cfg(test)]
mod tests;
mod volley;
mod watcher;

pub use group::Sight;
pub use seats::{Seat, Seats};

use crate::history::Listener;
use crate::history::trail::Trail;
use ccd_client::wire::{self, FromDaemon, Told, WatchAsk};
use ccd_core::database::Database;
use ccd_core::protocol::{ServingState, Status};
use inlet::{Inlet, Word};
use nix::sys::socket::{MsgFlags, send};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A connection that wants to watch, on its way to the hub.
#[derive(Debug)]
pub struct Start {
    pub socket: UnixStream,
    pub ask: WatchAsk,
    /// What of the database it sees.
    pub sight: Sight,
    pub seat: Seat,
}

impl Start {
    /// The watch does not begin.
    pub fn refuse(self, told: Told) {
        refuse(&self.socket, told);
    }
}

/// Says why, and leaves it to the caller to hang up. A client that does not take it hears only that.
fn refuse(socket: &UnixStream, told: Told) {
    if let Ok(frame) = wire::encode_reply(&FromDaemon { id: 0, body: told }) {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        if let Err(error) = send(socket.as_raw_fd(), &frame, flags) {
            tracing::debug!(%error, "a watcher did not hear why it was refused");
        }
    }
}

/// The event loop's hold on them.
#[derive(Debug)]
pub struct Watching {
    inlet: Arc<Inlet>,
    seats: Seats,
    hub: Option<JoinHandle<()>>,
}

impl Watching {
    /// Starts the threads. What they tell of the past they read from this history.
    ///
    /// # Errors
    /// When the kernel gives no thread or descriptor.
    pub fn start(trail: Trail) -> io::Result<Self> {
        let inlet = Arc::new(Inlet::new()?);
        let hub = hub::Hub::new(inlet.clone(), trail)?;
        let thread = std::thread::Builder::new()
            .name("ccd-watch".into())
            .spawn(move || hub.run())?;
        Ok(Self {
            inlet,
            seats: Seats::new(),
            hub: Some(thread),
        })
    }

    pub fn seats(&self) -> Seats {
        self.seats.clone()
    }

    /// What the history tells.
    pub fn listener(&self) -> Box<dyn Listener> {
        Box::new(Arc::clone(&self.inlet))
    }

    /// Begins a watch that a strict snapshot was got for, when everything before it has been told. `newest` is what was told
    /// last, which is no older than the snapshot.
    pub fn begin(&self) -> impl FnOnce(Start, Database, Option<&Database>) + Send + 'static {
        let inlet = self.inlet.clone();
        move |start, snapshot, newest| {
            let version = match newest {
                Some(newest)
                    if newest.position().stamp.generation >= snapshot.position().stamp.generation =>
                {
                    newest.clone()
                }
                _ => snapshot,
            };
            inlet.push(Word::Start(Box::new(start), version));
        }
    }

    /// Whether this node serves, so that watchers do not take silence for peace.
    pub fn note(&self, status: &Status) {
        let serves = matches!(status.state, ServingState::Serving | ServingState::Closed);
        self.inlet.note_service((!serves).then(|| {
            let state = status.state.name();
            match status.verdict.as_str() {
                "" => state.to_owned(),
                verdict => format!("{state}: {verdict}"),
            }
        }));
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.inlet.push(Word::Close);
        if let Some(hub) = self.hub.take() {
            // A panic there was printed there.
            let _ = hub.join();
        }
    }
}
