//! What reads from this node: queries, keys, snapshots and outcomes, answered as soon as the node can be read strictly, or
//! refused at their deadline. One that takes more than [`Settings::read_budget`](crate::protocol::Settings) is begun here, and
//! finished by the driver on the same version, beside everything else: it holds up nobody, and is as strict.
//!
//! Owns `requests.reads`.

use crate::client::{Answer, ClientToken, Refusal, Reply, RequestBody};
use crate::database::{Database, Key, Row, Scan};
use crate::protocol::Node;
use crate::protocol::interface::Action;
use crate::time::Time;
use alloc::vec::Vec;

/// What it costs to name a key with its columns, as [`Scan::go_on`] counts.
const KEY_COST: u64 = 256;

#[derive(Debug)]
pub(super) struct Read {
    pub client: ClientToken,
    pub deadline: Time,
    pub body: RequestBody,
}

/// A read that takes longer than the loop may be kept: what is left of it, on the version of the moment at which it was answered.
/// It may be finished on any thread, at any later time.
#[derive(Clone, Debug)]
pub enum LongRead {
    /// With the rows that were found already.
    Query(Scan, Vec<Row>),
    Keys(Database),
}

impl LongRead {
    /// Does what is left, at once.
    pub fn finish(self) -> Reply {
        match self {
            Self::Query(scan, mut rows) => {
                let position = scan.position();
                rows.extend(scan.finish());
                Ok(Answer::Rows { position, rows })
            }
            Self::Keys(database) => Ok(keys(&database)),
        }
    }
}

fn keys(database: &Database) -> Answer {
    Answer::Keys {
        position: database.position(),
        keys: database.keys(),
    }
}

enum Begun {
    Answered(Reply),
    Long(LongRead),
}

fn begin_read(database: &Database, body: &RequestBody, budget: u64) -> Begun {
    let answer = match body {
        RequestBody::Query { pattern, .. } => {
            let mut scan = match database.scan(pattern) {
                Ok(scan) => scan,
                Err(error) => return Begun::Answered(Err(Refusal::Op(error))),
            };
            let mut rows = Vec::new();
            if scan.exceeds(budget) || !scan.go_on(budget, |row| rows.push(row)) {
                return Begun::Long(LongRead::Query(scan, rows));
            }
            let position = database.position();
            Answer::Rows { position, rows }
        }
        RequestBody::Keys { .. } if (database.key_count() as u64).saturating_mul(KEY_COST) > budget => {
            return Begun::Long(LongRead::Keys(database.clone()));
        }
        RequestBody::Keys { .. } => keys(database),
        RequestBody::Snapshot { .. } => Answer::Snapshot(database.clone()),
        RequestBody::Outcome { request } => Answer::Outcome {
            committed: database.outcome(*request),
        },
        _ => Answer::Done,
    };
    Begun::Answered(Ok(answer))
}

impl Node {
    /// The local copy's content was read, if only once.
    pub(super) fn was_read(&self) -> bool {
        self.replica(crate::ids::Replica::Local).loaded || self.serving.is_some()
    }

    /// Answers from this version, or hands the driver what would take too long here.
    pub(super) fn answer_read(&mut self, read: &Read, strictly: bool) {
        let Read { client, body, .. } = read;
        let database = if strictly {
            self.strict_state()
        } else {
            &self.committed
        };
        match begin_read(database, body, self.settings.read_budget) {
            Begun::Answered(reply) => self.reply(*client, reply),
            Begun::Long(read) => self.actions.push(Action::Read {
                client: *client,
                read,
            }),
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
                    self.answer_read(read, true);
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
