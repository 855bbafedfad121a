//! The owner's side of one replica: what was asked of it and is not answered, in order, and the deadlines of that. Used by the
//! [`Mirror`](crate::Mirror) only.
//!
//! Always holds: what was submitted and not answered is in `pending` or `checkpoints`; what of it neither thread nor ring has been
//! given is in `held`, and only there while a flight is under way.

use crate::flight::Flight;
use crate::lane::{Job, Lane, Work};
use crate::latency::Latencies;
use crate::mirror::Completion;
use crate::store::Store;
use ccd_core::ids::Replica;
use ccd_core::protocol::Ticket;
use ccd_core::replica::{ReplicaAnswer, ReplicaError, ReplicaErrorKind, ReplicaOp};
use ccd_core::time::Time;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Operations that move a whole image may take so many times longer than those that move a few blocks.
const IMAGE_DEADLINES: u32 = 8;

#[derive(Debug)]
pub(crate) struct Pending {
    ticket: Ticket,
    serial: u64,
    name: &'static str,
    budget: Duration,
}

#[derive(Debug)]
pub(crate) struct Checkpointing {
    ticket: Ticket,
    serial: u64,
    /// The lane's step counter when it last moved, and when that was.
    steps: u64,
    since: Time,
}

/// The owner's side of one replica.
pub(crate) struct Side {
    pub replica: Replica,
    pub lane: Arc<Lane>,
    /// The thread's store, for what is done without the thread: only taken while it has nothing to do.
    pub store: Arc<Mutex<dyn Store>>,
    /// Until when the disk counts as slow.
    pub direct_from: Time,
    /// Submitted and not answered, in order; the first is the one under way.
    pub pending: VecDeque<Pending>,
    /// When the first of `pending` became the first.
    head_since: Time,
    /// Under way beside `pending`; more than one only until the thread gives up the older.
    checkpoints: Vec<Checkpointing>,
    /// The append that the ring carries: the first of `pending`, or the one that `stuck` names.
    pub flight: Option<Flight>,
    /// Waits until it has landed.
    held: VecDeque<Job>,
    /// The ring has left an append unfinished: no more of them until the replica is opened anew.
    pub grounded: bool,
    /// The operation that was answered `TimedOut` while nobody had come back from it.
    pub stuck: Option<&'static str>,
    /// A time-out left the content unknown; only `Open` is taken.
    pub reopen: bool,
    next_serial: u64,
    pub counted: Counted,
}

/// What has been done, for monitoring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Until they were answered.
    pub appends: Latencies,
    pub heartbeats: Latencies,
    /// That are durable.
    pub checkpoints: u64,
    pub failures: u64,
    /// After the last append; `None`: there was none.
    pub journal_used_percent: Option<u8>,
}

impl Counted {
    pub fn note_result(&mut self, result: &Result<ReplicaAnswer, ReplicaError>) {
        match result {
            Ok(ReplicaAnswer::Appended {
                journal_used_percent, ..
            }) => self.journal_used_percent = Some(*journal_used_percent),
            Ok(_) => {}
            Err(_) => self.failures += 1,
        }
    }
}

impl std::fmt::Debug for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (f.debug_struct("Side")
            .field("replica", &self.replica)
            .field("pending", &self.pending))
        .field("stuck", &self.stuck)
        .finish_non_exhaustive()
    }
}

impl Side {
    pub fn new(replica: Replica, lane: Arc<Lane>, store: Arc<Mutex<dyn Store>>) -> Self {
        Self {
            replica,
            lane,
            store,
            direct_from: Time::ZERO,
            pending: VecDeque::new(),
            head_since: Time::ZERO,
            checkpoints: Vec::new(),
            flight: None,
            held: VecDeque::new(),
            grounded: false,
            stuck: None,
            reopen: false,
            next_serial: 0,
            counted: Counted::default(),
        }
    }

    /// Hands work to the thread, or keeps it until what is in flight has landed.
    pub fn submit(&mut self, now: Time, ticket: Ticket, work: Work, deadline: Duration) {
        if matches!(work, Work::Op(ReplicaOp::Open)) {
            (self.reopen, self.grounded) = (false, false);
        }
        let serial = match &work {
            Work::Op(ReplicaOp::Checkpoint { .. }) => {
                let serial = self.next_serial();
                self.checkpoints.push(Checkpointing {
                    ticket,
                    serial,
                    steps: self.lane.steps(),
                    since: now,
                });
                serial
            }
            Work::Op(op) => self.note(now, ticket, describe(op), deadline),
            Work::Repair(_) => self.note(now, ticket, ("repair", IMAGE_DEADLINES), deadline),
        };
        let job = Job { serial, work };
        if self.flight.is_some() {
            self.held.push_back(job);
        } else {
            self.lane.push(job);
        }
    }

    /// Writes down what was submitted, and may take so many deadlines.
    pub fn note(
        &mut self,
        now: Time,
        ticket: Ticket,
        (name, deadlines): (&'static str, u32),
        deadline: Duration,
    ) -> u64 {
        if self.pending.is_empty() {
            self.head_since = now;
        }
        let serial = self.next_serial();
        self.pending.push_back(Pending {
            ticket,
            serial,
            name,
            budget: deadline * deadlines,
        });
        serial
    }

    fn next_serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    /// Nothing is in flight any more: the thread goes on.
    pub fn release_held(&mut self) {
        for job in self.held.drain(..) {
            self.lane.push(job);
        }
    }

    /// Whether this is a checkpoint that is still waited for.
    pub fn is_checkpoint(&self, serial: u64) -> bool {
        self.checkpoints.iter().any(|c| c.serial == serial)
    }

    /// The ticket that this result answers; `None` if it was answered before.
    pub fn settle(&mut self, now: Time, serial: u64) -> Option<Ticket> {
        if let Some(index) = self.checkpoints.iter().position(|c| c.serial == serial) {
            return Some(self.checkpoints.remove(index).ticket);
        }
        let index = self.pending.iter().position(|pending| pending.serial == serial)?;
        if index == 0 {
            let took = now.since(self.head_since);
            match self.pending[0].name {
                APPEND => self.counted.appends.note(took),
                HEARTBEAT => self.counted.heartbeats.note(took),
                _ => {}
            }
            self.head_since = now;
        }
        self.pending.remove(index).map(|pending| pending.ticket)
    }

    pub fn next_deadline(&self, deadline: Duration) -> Time {
        let head = self.pending.front().map(|head| self.head_since + head.budget);
        let steps = self
            .checkpoints
            .iter()
            .map(|c| c.since + deadline * IMAGE_DEADLINES);
        head.into_iter().chain(steps).min().unwrap_or(Time::NEVER)
    }

    /// Answers everything if thread or ring has not moved for too long.
    pub fn expire(&mut self, now: Time, deadline: Duration, ready: &mut VecDeque<Completion>) {
        let steps = self.lane.steps();
        for checkpoint in &mut self.checkpoints {
            if checkpoint.steps != steps {
                (checkpoint.steps, checkpoint.since) = (steps, now);
            }
        }
        if now < self.next_deadline(deadline) || self.is_idle() {
            return;
        }
        let name = self.pending.front().map_or("checkpoint", |head| head.name);
        let replica = self.replica;
        tracing::warn!(%replica, operation = name, "no answer from the device in time");
        if self.flight.is_some() {
            // It says itself when it is back; the thread was given nothing.
            self.held.clear();
        } else {
            self.lane.recall();
        }
        self.stuck = Some(name);
        self.reopen = true;
        let behind = self.pending.drain(..).map(|pending| pending.ticket);
        let checkpoints = self.checkpoints.drain(..).map(|checkpoint| checkpoint.ticket);
        for ticket in behind.chain(checkpoints) {
            let text = format!("{replica}: {name} did not end within {deadline:?}");
            let kind = ReplicaErrorKind::TimedOut;
            let result = Err(ReplicaError { kind, text });
            ready.push_back(Completion {
                ticket,
                replica,
                result,
            });
        }
    }

    /// Whether nothing is asked of it and anything may be.
    pub fn is_free(&self) -> bool {
        self.is_idle() && self.stuck.is_none() && !self.reopen
    }

    fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.checkpoints.is_empty()
    }
}

const APPEND: &str = "append";
const HEARTBEAT: &str = "heartbeat write";

/// What people call the operation, and how many deadlines it may take.
pub(crate) fn describe(op: &ReplicaOp) -> (&'static str, u32) {
    match op {
        ReplicaOp::Open => ("open", 1),
        ReplicaOp::Close => ("close", 1),
        ReplicaOp::Survey => ("survey", 1),
        ReplicaOp::Load => ("load", IMAGE_DEADLINES),
        ReplicaOp::Append { .. } => (APPEND, 1),
        ReplicaOp::AppendTail { .. } => ("tail append", 1),
        ReplicaOp::WriteImage { .. } => ("image write", IMAGE_DEADLINES),
        ReplicaOp::StageImage { .. } => ("image piece write", 1),
        ReplicaOp::AdoptImage { .. } => ("image adoption", IMAGE_DEADLINES),
        ReplicaOp::Checkpoint { .. } => ("checkpoint", IMAGE_DEADLINES),
        ReplicaOp::WriteConfiguration { .. } => ("configuration write", 1),
        ReplicaOp::WriteBallot { .. } | ReplicaOp::Claim { .. } => ("ballot write", 1),
        ReplicaOp::WriteHeartbeat { .. } => (HEARTBEAT, 1),
        ReplicaOp::WriteScratch => ("scratch write", 1),
        ReplicaOp::WriteLastWords { .. } => ("last words", 1),
        ReplicaOp::KeepBranch { .. } => ("keeping a branch", IMAGE_DEADLINES),
    }
}
