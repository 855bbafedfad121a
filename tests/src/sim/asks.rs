//! Requests of clients on their way: who asked, where, since when, and how it ended.

use super::happening::Happening;
use super::history::Instant;
use super::inits::name;
use super::ledger::Place;
use super::moment::Moment;
use super::world::World;
use ccd_core::client::{Answer, ClientToken, Reply, Request, RequestBody};
use ccd_core::init::NodeEdit;
use ccd_core::protocol::Event;
use ccd_core::time::Date;
use core::time::Duration;

/// Who waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A client of the random load, by index.
    Client(usize),
    /// A directed scenario, which looks for the answer by token.
    Script,
    /// Nobody: an operator's command in the random load.
    Nobody,
}

#[derive(Debug)]
pub struct Ask {
    pub server: usize,
    pub asker: Asker,
    pub called: Instant,
    pub asked_at: Moment,
    pub timeout: Duration,
    pub body: RequestBody,
    /// The newest version that any client had seen when this was asked.
    pub seen: Place,
    pub end: Option<AskEnd>,
}

/// How a request ended for its client.
#[derive(Clone, Debug)]
pub enum AskEnd {
    Reply(Reply),
    /// The connection broke, or the client lost patience with a process that stands still.
    Lost,
}

/// Adds this server to the cluster, with the next free number.
pub fn addition(server: usize) -> RequestBody {
    RequestBody::ChangeNodes(NodeEdit::Add {
        number: None,
        name: name(server),
        addresses: vec![format!("10.0.0.{}", server + 1).parse().expect("an address")],
    })
}

/// Takes this server out of the cluster.
pub fn removal(server: usize) -> RequestBody {
    RequestBody::ChangeNodes(NodeEdit::Remove { node: name(server) })
}

/// What was asked for was done.
pub fn is_done(end: &AskEnd) -> bool {
    matches!(end, AskEnd::Reply(Ok(Answer::Done)))
}

/// # Panics
/// Unless it was refused, with these words in the reason.
#[track_caller]
pub fn refused(end: &AskEnd, why: &str) {
    match end {
        AskEnd::Reply(Err(refusal)) if refusal.to_string().contains(why) => {}
        other => panic!("not refused with {why:?}: {other:?}"),
    }
}

impl World {
    /// A client asks a node. `None` if nothing listens there.
    pub fn ask(&mut self, index: usize, asker: Asker, body: RequestBody, timeout: Duration) -> Option<u64> {
        self.servers[index].process.as_ref()?;
        let token = self.next_token;
        self.next_token += 1;
        let called = self.instant();
        let ask = Ask {
            server: index,
            asker,
            called,
            asked_at: self.now,
            timeout,
            body: body.clone(),
            seen: self.ledger.seen(),
            end: None,
        };
        self.asks.insert(token, ask);
        if let Some(process) = &mut self.servers[index].process {
            process.asks.insert(token);
        }
        self.after(self.patience(index, timeout), Happening::AskOverdue { token });
        let date_error_ms = self.servers[index].date_error_ms;
        let date = Date((1_700_000_000_000 + self.now.0 / 1_000_000).saturating_add_signed(date_error_ms));
        let client = ClientToken(token);
        let request = Request { timeout, body };
        self.tell(
            index,
            Event::Client {
                client,
                request,
                date,
            },
        );
        Some(token)
    }

    /// The client of a request does not wait any longer.
    pub fn hang_up(&mut self, token: u64) {
        let index = self.asks[&token].server;
        if let Some(process) = &mut self.servers[index].process {
            process.asks.remove(&token);
        }
        self.end_ask(token, AskEnd::Lost);
        let client = ClientToken(token);
        self.tell(index, Event::ClientGone { client });
    }

    /// How a request that was asked ended, if it has.
    pub fn end_of(&self, token: u64) -> Option<&AskEnd> {
        self.asks.get(&token)?.end.as_ref()
    }
}
