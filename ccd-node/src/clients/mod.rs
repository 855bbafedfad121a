//! Clients on the Unix sockets: who they are, what they may do, and the way back for each answer.
//!
//! ```text
//! access.rs    who may ask for what (pure, but for looking up names once)
//! serve.rs     the sockets and one task for each connection
//! watching.rs  a connection that becomes a watcher's
//! ```
//!
//! A request gets a [`ClientToken`] of its own and goes to the event loop; the answer is written to the socket
//! straight from there.

mod access;
mod serve;
mod watching;

pub use access::AccessRules;
pub use serve::{Sockets, bind, serve, today};

use crate::history;
use crate::outbox::Outbox;
use crate::watch;
use ccd_client::wire::{self, Fault, FromDaemon, Told, WireError};
use ccd_core::client::{ClientToken, Request};
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
        ask: history::Ask,
    },
    Branches {
        client: ClientToken,
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
}

/// Requests of one connection that may wait at once; more are answered `Overloaded`.
const WAITING_PER_CONNECTION_MAX: usize = 256;
/// Requests of all connections together.
const WAITING_MAX: usize = 16_384;
/// So much may wait for a client that does not read; more, and it is disconnected.
const BACKLOG_BYTES_MAX: usize = wire::REPLY_BYTES_MAX + wire::FRAME_PREFIX_BYTES;

/// One connection, as the way back.
#[derive(Debug)]
struct Connection {
    outbox: Outbox<OwnedWriteHalf>,
    waiting: Cell<usize>,
}

impl Connection {
    fn tell(&self, id: u64, body: Told) {
        let reply = FromDaemon { id, body };
        let frame = wire::encode_reply(&reply).or_else(|error| {
            let fault = match error {
                WireError::TooLong { got, .. } => Fault::TooLarge { bytes: got },
                other => Fault::Internal {
                    why: other.to_string(),
                },
            };
            let body = Told::Failed(fault);
            wire::encode_reply(&FromDaemon { id, body })
        });
        match frame {
            Ok(frame) => {
                self.outbox.append(|out| out.extend_from_slice(&frame));
                self.outbox.flush();
            }
            Err(error) => {
                tracing::error!(%error, "an answer cannot be encoded");
                self.outbox.end();
            }
        }
    }
}

/// Every request that waits for its answer.
#[derive(Debug, Default)]
pub struct Clients {
    waiting: RefCell<BTreeMap<ClientToken, (Rc<Connection>, u64)>>,
    last_token: Cell<u64>,
}

impl Clients {
    /// Answers a request. Nothing happens if its client is gone.
    pub fn reply(&self, client: ClientToken, told: Told) {
        let found = self.waiting.borrow_mut().remove(&client);
        if let Some((connection, id)) = found {
            connection.waiting.set(connection.waiting.get() - 1);
            connection.tell(id, told);
        }
    }

    /// Remembers the way back; `None` if too many wait already.
    fn register(&self, connection: &Rc<Connection>, id: u64) -> Option<ClientToken> {
        let mut waiting = self.waiting.borrow_mut();
        if connection.waiting.get() >= WAITING_PER_CONNECTION_MAX || waiting.len() >= WAITING_MAX {
            return None;
        }
        let token = self.token();
        connection.waiting.set(connection.waiting.get() + 1);
        waiting.insert(token, (connection.clone(), id));
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
            .filter(|(_, (owner, _))| Rc::ptr_eq(owner, connection))
            .map(|(token, _)| *token)
            .collect();
        for token in &gone {
            waiting.remove(token);
        }
        gone
    }
}
