//! Clients on the Unix sockets: who they are, what they may do, and the way back for each answer.
//!
//! ```text
//! access.rs    who may ask for what (pure, but for looking up names once)
//! needs.rs     what right each request needs, and on what
//! names.rs     names in rows, looked up until they are known
//! groups.rs    the groups of whoever connected, by the kernel's word
//! limits.rs    what one user may take of the daemon
//! sockets.rs   the two sockets under their names
//! serve.rs     one task for each connection
//! watching.rs  a connection that becomes a watcher's
//! scrape.rs    HTTP on control.sock: metrics
//! ```
//!
//! A request gets a [`ClientToken`] of its own and goes to the event loop; the answer is written to the socket
//! straight from there.

mod access;
mod groups;
mod limits;
mod names;
mod needs;
mod scrape;
mod serve;
mod sockets;
mod watching;

pub use access::AccessRules;
pub use names::NameLookup;
pub use scrape::Scrape;
pub use serve::{serve, today};
pub use sockets::{Sockets, bind};

use crate::fair::Owner;
use crate::gauge::Held;
use crate::history;
use crate::outbox::Outbox;
use crate::reads::Asker;
use crate::watch;
use ccd_client::wire::{self, Fault, FromDaemon, Told, WireError};
use ccd_core::client::{ClientToken, Request};
use ccd_core::time::Time;
use limits::{Seat, Turn};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use tokio::net::unix::OwnedWriteHalf;

/// From a client's connection to the event loop.
#[derive(Debug)]
pub enum FromClient {
    Asked {
        client: ClientToken,
        request: Request,
    },
    Status {
        client: ClientToken,
    },
    Why {
        client: ClientToken,
        count: u32,
    },
    History {
        client: ClientToken,
        owner: Owner,
        ask: history::Ask,
    },
    Branches {
        client: ClientToken,
        owner: Owner,
        name: Option<String>,
    },
    /// The connection goes with it.
    Watch {
        client: ClientToken,
        start: Box<watch::Start>,
    },
    Gone {
        client: ClientToken,
    },
    Metrics(Scrape),
}

/// Most bytes that may wait for a client that does not read; with more, it is disconnected. Mostly the limit of its user comes first.
const BACKLOG_BYTES_MAX: usize = wire::REPLY_BYTES_MAX + wire::FRAME_PREFIX_BYTES;
/// An answer or a request that is not larger is small, and taken also when its user has no room left.
const SMALL_BYTES: usize = 64 << 10;

/// One connection, as the way back.
#[derive(Debug)]
struct Connection {
    outbox: Outbox<OwnedWriteHalf>,
    seat: Seat,
}

impl Connection {
    fn tell(&self, id: u64, body: Told) {
        if let Told::Failed(fault) = &body {
            self.seat.note_fault(fault);
        }
        let crowded = !self.seat.has_room();
        if crowded && self.outbox.backlog_bytes() > SMALL_BYTES {
            tracing::debug!(uid = self.seat.uid(), "a client does not read its answers");
            return self.outbox.end();
        }
        let appended = self.outbox.append(|out| {
            let start = out.len();
            let fault = match wire::append_reply(out, &FromDaemon { id, body }) {
                // Only questions have large answers, so nothing was changed.
                Ok(()) if crowded && out.len() - start > SMALL_BYTES => Fault::Overloaded,
                Ok(()) => return Ok(()),
                Err(WireError::TooLong { got, .. }) => Fault::TooLarge { bytes: got },
                Err(other) => Fault::Internal {
                    why: other.to_string(),
                },
            };
            out.truncate(start);
            self.seat.note_fault(&fault);
            let body = Told::Failed(fault);
            wire::append_reply(out, &FromDaemon { id, body })
        });
        match appended {
            Ok(()) => self.outbox.flush(),
            Err(error) => {
                tracing::error!(%error, "an answer cannot be encoded");
                self.outbox.end();
            }
        }
    }
}

impl Connection {
    /// As [`tell`](Self::tell), a reply that is encoded already.
    fn tell_encoded(&self, id: u64, reply: Vec<u8>) {
        let crowded = !self.seat.has_room();
        if crowded && (self.outbox.backlog_bytes() > SMALL_BYTES || reply.len() > SMALL_BYTES) {
            return self.tell(id, Told::Failed(Fault::Overloaded));
        }
        self.outbox.append_whole(reply);
        self.outbox.flush();
    }
}

/// A request that waits for its answer.
#[derive(Debug)]
struct Waiting {
    connection: Rc<Connection>,
    id: u64,
    /// What it takes meanwhile.
    _held: Held,
    turn: Turn,
    deadline: Time,
}

/// Every request that waits for its answer.
#[derive(Debug, Default)]
pub struct Clients {
    waiting: RefCell<BTreeMap<ClientToken, Waiting>>,
    last_token: Cell<u64>,
}

impl Clients {
    /// Answers a request. Nothing happens if its client is gone.
    pub fn reply(&self, client: ClientToken, told: Told) {
        let found = self.waiting.borrow_mut().remove(&client);
        if let Some(Waiting { connection, id, .. }) = found {
            connection.seat.end_to_wait();
            connection.tell(id, told);
        }
    }

    /// As [`reply`](Self::reply), with a reply that is encoded already.
    pub fn reply_encoded(&self, client: ClientToken, reply: Vec<u8>) {
        let found = self.waiting.borrow_mut().remove(&client);
        if let Some(Waiting { connection, id, .. }) = found {
            connection.seat.end_to_wait();
            connection.tell_encoded(id, reply);
        }
    }

    /// The client that waits for this answer, which takes long: its place among those that the loop answers is free from now on. `None` if the
    /// client is gone.
    pub fn takes_long(&self, client: ClientToken) -> Option<Asker> {
        let mut waiting = self.waiting.borrow_mut();
        let Waiting {
            connection,
            id,
            turn,
            deadline,
            ..
        } = waiting.get_mut(&client)?;
        turn.leave_loop();
        Some(Asker {
            client,
            owner: connection.seat.owner(),
            id: *id,
            deadline: *deadline,
        })
    }

    /// Whether a large answer can be held for this client. One that cannot need not be made.
    pub fn has_room(&self, client: ClientToken) -> bool {
        let waiting = self.waiting.borrow();
        (waiting.get(&client)).is_some_and(|waiting| waiting.connection.seat.has_room())
    }

    /// Remembers the way back of a request that takes so many bytes; `None` if too many wait already.
    fn register(
        &self,
        connection: &Rc<Connection>,
        id: u64,
        bytes: usize,
        turn: Turn,
        deadline: Time,
    ) -> Option<ClientToken> {
        let seat = &connection.seat;
        let fits = bytes <= SMALL_BYTES || seat.has_room();
        if !fits || !seat.begin_to_wait() {
            return None;
        }
        let token = self.token();
        let mut held = Held::default();
        if bytes > SMALL_BYTES {
            held = Held::new(seat.gauges());
            held.set(bytes);
        }
        let waiting = Waiting {
            connection: connection.clone(),
            id,
            _held: held,
            turn,
            deadline,
        };
        self.waiting.borrow_mut().insert(token, waiting);
        Some(token)
    }

    /// One that nobody has had.
    fn token(&self) -> ClientToken {
        let token = ClientToken(self.last_token.get() + 1);
        self.last_token.set(token.0);
        token
    }

    /// The connection is gone; returns what it waited for.
    fn forget(&self, connection: &Rc<Connection>) -> Vec<ClientToken> {
        let mut waiting = self.waiting.borrow_mut();
        let gone: Vec<ClientToken> = waiting
            .iter()
            .filter(|(_, waiting)| Rc::ptr_eq(&waiting.connection, connection))
            .map(|(token, _)| *token)
            .collect();
        for token in &gone {
            waiting.remove(token);
            connection.seat.end_to_wait();
        }
        gone
    }
}
