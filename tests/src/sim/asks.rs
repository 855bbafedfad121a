//! Requests of clients on their way: who asked, where, since when, and how it ended.

use super::history::Instant;
use super::ledger::Place;
use super::moment::Moment;
use ccd_core::client::{Reply, RequestBody};
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
