//! One replica as one node's process drives it: a queue, a thread that takes one operation at a time, and a
//! deadline. Behaves as the daemon's own driver does:
//!
//! - operations are started in order; the one that is under way lands on the medium at one moment and is answered
//!   at a later one;
//! - when the one under way passes its deadline, it and everything behind it is answered `TimedOut`; it may still
//!   land, the others are never started;
//! - from then on only `Open` is taken, and only once the thread has come back.

use super::moment::Moment;
use super::store::Store;
use ccd_core::ids::Stamp;
use ccd_core::protocol::Ticket;
use ccd_core::replica::{ReplicaAnswer, ReplicaError, ReplicaErrorKind, ReplicaOp};
use core::time::Duration;
use std::collections::VecDeque;

/// Operations that move a whole image may take so many times longer than those that move a few blocks.
const IMAGE_DEADLINES: u32 = 8;

pub type OpResult = Result<ReplicaAnswer, ReplicaError>;

#[derive(Debug)]
pub struct Job {
    pub ticket: Ticket,
    pub op: ReplicaOp,
}

/// The operation that the thread works on.
#[derive(Debug)]
pub struct UnderWay {
    /// Tells it from earlier and later ones.
    pub serial: u64,
    pub ticket: Ticket,
    /// Answered already: its deadline was over.
    pub expired: bool,
    /// Taken when it lands.
    pub op: Option<ReplicaOp>,
    pub result: Option<OpResult>,
    /// What its reads showed to be committed.
    pub shown: Stamp,
    pub started: Moment,
}

#[derive(Debug)]
pub struct Drive {
    pub store: Store,
    pub waiting: VecDeque<Job>,
    pub under_way: Option<UnderWay>,
    reopen: bool,
    next_serial: u64,
}

/// What becomes of an operation that is asked for.
#[derive(Debug)]
pub enum Taken {
    Queued,
    /// Answered at once.
    Refused(ReplicaError),
}

impl Drive {
    pub fn new(store: Store) -> Self {
        Self {
            store,
            waiting: VecDeque::new(),
            under_way: None,
            reopen: false,
            next_serial: 0,
        }
    }

    pub fn submit(&mut self, job: Job) -> Taken {
        if self.under_way.as_ref().is_some_and(|job| job.expired) {
            let text = "an operation has not come back from the device".to_owned();
            return Taken::Refused(ReplicaError {
                kind: ReplicaErrorKind::TimedOut,
                text,
            });
        }
        if self.reopen && !matches!(job.op, ReplicaOp::Open) {
            let text = "an earlier operation timed out; it must be opened anew".to_owned();
            return Taken::Refused(ReplicaError {
                kind: ReplicaErrorKind::Poisoned,
                text,
            });
        }
        self.reopen = false;
        self.waiting.push_back(job);
        Taken::Queued
    }

    /// Takes the next operation in hand, if the thread is free. Returns its serial number and its deadline.
    pub fn start_next(&mut self, now: Moment, deadline: Duration) -> Option<(u64, Duration)> {
        if self.under_way.is_some() {
            return None;
        }
        let Job { ticket, op } = self.waiting.pop_front()?;
        let serial = self.next_serial;
        self.next_serial += 1;
        let deadlines = match op {
            ReplicaOp::Load
            | ReplicaOp::WriteImage { .. }
            | ReplicaOp::AdoptImage { .. }
            | ReplicaOp::Checkpoint { .. }
            | ReplicaOp::KeepBranch { .. } => IMAGE_DEADLINES,
            _ => 1,
        };
        self.store.begin();
        let (expired, result) = (false, None);
        self.under_way = Some(UnderWay {
            serial,
            ticket,
            expired,
            op: Some(op),
            result,
            shown: Stamp::default(),
            started: now,
        });
        Some((serial, deadline * deadlines))
    }

    /// The deadline of this operation is over: the tickets that must now be answered `TimedOut`.
    pub fn expire(&mut self, serial: u64) -> Vec<Ticket> {
        let Some(job) = self.under_way.as_mut().filter(|job| job.serial == serial) else {
            return Vec::new();
        };
        job.expired = true;
        self.reopen = true;
        let mut tickets = vec![job.ticket];
        tickets.extend(self.waiting.drain(..).map(|job| job.ticket));
        tickets
    }

    /// The operation under way, if it is this one.
    pub fn is_under_way(&self, serial: u64) -> bool {
        self.under_way.as_ref().is_some_and(|job| job.serial == serial)
    }

    /// The operation ends; `None` if it was answered before.
    pub fn finish(&mut self, serial: u64) -> Option<(Ticket, OpResult, Stamp)> {
        if !self.is_under_way(serial) {
            return None;
        }
        let job = self.under_way.take()?;
        let result = job.result.expect("an operation lands before it ends");
        (!job.expired).then_some((job.ticket, result, job.shown))
    }
}
