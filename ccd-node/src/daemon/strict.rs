//! What waits for a strict snapshot: watchers, for it proves that this node serves and is a version to start from; and
//! questions to the history, for what was acknowledged on another node may not be committed here yet.

use super::Daemon;
use crate::clients::today;
use crate::clock;
use crate::fair::Owner;
use crate::history::{self, History};
use crate::watch::{Start, Watching};
use ccd_client::wire::{Fault, Told};
use ccd_core::client::{Answer, ClientToken, Reply, Request, RequestBody};
use ccd_core::database::Database;
use ccd_core::protocol::{Event, ServingState, Status};
use std::collections::BTreeMap;
use std::time::Duration;

/// No watcher waits longer for this node to serve.
const WATCHER_TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// A question to the history waits this long at most; then the answer is what this node knows, as it is where nothing serves.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Those that wait, and the way to those that are in.
#[derive(Debug)]
pub(super) struct Strict {
    watching: Watching,
    waiting: BTreeMap<ClientToken, Waiting>,
    /// They go on when what it took to get there has been told.
    ready: Vec<Ready>,
}

#[derive(Debug)]
enum Waiting {
    Watcher(Box<Start>),
    Question(Owner, history::Ask),
}

#[derive(Debug)]
enum Ready {
    Watcher(Box<Start>, Database),
    Question(ClientToken, Owner, history::Ask),
}

impl Strict {
    pub fn new(watching: Watching) -> Self {
        Self {
            watching,
            waiting: BTreeMap::new(),
            ready: Vec::new(),
        }
    }

    pub fn note(&self, status: &Status) {
        self.watching.note(status);
    }

    /// Takes the answer to one of these snapshots; gives back any other.
    pub fn take_reply(&mut self, client: ClientToken, reply: Reply) -> Option<Reply> {
        match (self.waiting.remove(&client), reply) {
            (None, reply) => return Some(reply),
            (Some(Waiting::Watcher(start)), Ok(Answer::Snapshot(version))) => {
                self.ready.push(Ready::Watcher(start, version));
            }
            (Some(Waiting::Watcher(start)), other) => start.refuse(other.into()),
            (Some(Waiting::Question(owner, ask)), _) => self.ready.push(Ready::Question(client, owner, ask)),
        }
        None
    }

    /// Nobody waits for this answer any more.
    pub fn forget(&mut self, client: ClientToken) {
        self.waiting.remove(&client);
    }

    /// Called after the actions of every event.
    pub fn go_on(&mut self, history: &History) {
        for ready in self.ready.drain(..) {
            match ready {
                Ready::Watcher(start, version) => {
                    let begin = self.watching.begin();
                    history.afterwards(move |newest| begin(*start, version, newest));
                }
                Ready::Question(client, owner, ask) => history.ask(client, owner, ask),
            }
        }
    }
}

impl Daemon {
    pub(super) fn ask_to_watch(&mut self, client: ClientToken, start: Box<Start>) {
        if self.leave_by.is_some() {
            return start.refuse(Told::Failed(Fault::Stopping));
        }
        let timeout = start.ask.timeout.min(WATCHER_TIMEOUT_MAX);
        self.wait_strictly(client, Waiting::Watcher(start), timeout);
    }

    /// A node that does not serve answers at once: its history is of use just then.
    pub(super) fn ask_history(&mut self, client: ClientToken, owner: Owner, ask: history::Ask) {
        if self.leave_by.is_some() || self.node.status(clock::now()).state != ServingState::Serving {
            return self.history.ask(client, owner, ask);
        }
        self.wait_strictly(client, Waiting::Question(owner, ask), QUESTION_TIMEOUT);
    }

    fn wait_strictly(&mut self, client: ClientToken, waiting: Waiting, timeout: Duration) {
        let request = Request {
            timeout,
            body: RequestBody::Snapshot { stale: false },
        };
        self.strict.waiting.insert(client, waiting);
        self.handle(Event::Client {
            client,
            request,
            date: today(),
        });
    }
}
