//! What reads from this node: queries, keys, snapshots and outcomes, answered as soon as the node can be read strictly, or
//! refused at their deadline.
//!
//! Owns `requests.reads`.

use crate::client::{Answer, ClientToken, Refusal, Reply, RequestBody};
use crate::database::{Database, Key};
use crate::protocol::Node;
use crate::time::Time;

#[derive(Debug)]
pub(super) struct Read {
    pub client: ClientToken,
    pub deadline: Time,
    pub body: RequestBody,
}

impl Node {
    /// The local copy's content was read, if only once.
    pub(super) fn was_read(&self) -> bool {
        self.replica(crate::ids::Replica::Local).loaded || self.serving.is_some()
    }

    pub(super) fn read(&self, database: &Database, body: &RequestBody) -> Reply {
        let position = database.position();
        match body {
            RequestBody::Query { pattern, .. } => match database.query(pattern) {
                Ok(rows) => Ok(Answer::Rows { position, rows }),
                Err(error) => Err(Refusal::Op(error)),
            },
            RequestBody::Keys { .. } => Ok(Answer::Keys {
                position,
                keys: database.keys(),
            }),
            RequestBody::Snapshot { .. } => Ok(Answer::Snapshot(database.clone())),
            RequestBody::Outcome { request } => Ok(Answer::Outcome {
                committed: database.outcome(*request),
            }),
            _ => Ok(Answer::Done),
        }
    }

    pub(super) fn drive_reads(&mut self) {
        if self.requests.reads.is_empty() {
            return;
        }
        let hopeless = self.hopeless() || self.closed_for_long();
        let now = self.now;
        let mut waiting = core::mem::take(&mut self.requests.reads);
        waiting.retain(|read| {
            let key: Option<&Key> = match &read.body {
                RequestBody::Query { pattern, .. } => Some(&pattern.key),
                _ => None,
            };
            if self.can_read(key) {
                if let RequestBody::Verify { repair } = read.body {
                    self.begin_verification(read.client, read.deadline, repair);
                } else {
                    let reply = self.read(self.strict_state(), &read.body);
                    self.reply(read.client, reply);
                }
                return false;
            }
            if hopeless || now >= read.deadline {
                let refusal = if hopeless && self.lacks_majority() && !self.waits_for_all_nodes() {
                    let why = self.no_quorum_text();
                    Refusal::NotServing { why }
                } else {
                    self.refusal_of_what_waited()
                };
                self.reply(read.client, Err(refusal));
                return false;
            }
            true
        });
        waiting.append(&mut self.requests.reads);
        self.requests.reads = waiting;
        if !self.requests.reads.is_empty() {
            self.ask_for_unfreeze();
        }
    }
}
