//! Watchers on their way in: each waits for a strict snapshot, which proves that this node serves and is a version to start from.

use super::Daemon;
use crate::clients::today;
use crate::history::History;
use crate::watch::{Start, Watching};
use ccd_client::wire::{Fault, Told};
use ccd_core::client::{Answer, ClientToken, Reply, Request, RequestBody};
use ccd_core::database::Database;
use ccd_core::protocol::{Event, Status};
use std::collections::BTreeMap;
use std::time::Duration;

/// No watcher waits longer for this node to serve.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// Those that wait, and the way to those that are in.
#[derive(Debug)]
pub(super) struct Watchers {
    watching: Watching,
    waiting: BTreeMap<ClientToken, Start>,
    /// Whose snapshot is there: they go on when what it took to get there has been told.
    ready: Vec<(Start, Database)>,
}

impl Watchers {
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

    /// Takes the answer to a watcher's snapshot; gives back any other.
    pub fn take_reply(&mut self, client: ClientToken, reply: Reply) -> Option<Reply> {
        let Some(start) = self.waiting.remove(&client) else {
            return Some(reply);
        };
        match reply {
            Ok(Answer::Snapshot(version)) => self.ready.push((start, version)),
            other => start.refuse(other.into()),
        }
        None
    }

    /// Called after the actions of every event.
    pub fn go_on(&mut self, history: &History) {
        for (start, version) in self.ready.drain(..) {
            let begin = self.watching.begin();
            history.afterwards(move |newest| begin(start, version, newest));
        }
    }
}

impl Daemon {
    pub(super) fn ask_to_watch(&mut self, client: ClientToken, start: Start) {
        if self.leave_by.is_some() {
            return start.refuse(Told::Failed(Fault::Stopping));
        }
        let request = Request {
            timeout: start.ask.timeout.min(TIMEOUT_MAX),
            body: RequestBody::Snapshot { stale: false },
        };
        self.watchers.waiting.insert(client, start);
        self.handle(Event::Client {
            client,
            request,
            date: today(),
        });
    }
}
