//! Tickets, order and deadlines over the threads of all replicas. Owned by the daemon's event loop; no call blocks.
//!
//! What always holds:
//! - every submitted ticket is answered by exactly one [`Completion`];
//! - operations of one replica are started in the order they were submitted; replicas do not wait for each other;
//! - an operation that has not ended at its deadline is answered `TimedOut`, and so is everything behind it; what was
//!   behind it is never started. From then on the replica takes nothing but `Open`, and that only once its thread has
//!   come back: a write whose outcome nobody knows may still land.
//!
//! One exception to "no call blocks": a small append to the *local copy* is done by the caller itself, as long as that disk
//! has been fast. Two wake-ups, of the thread and back, cost more than the write; and a node whose own disk hangs is in no
//! better position than one that hangs with it: its peers take over either way, and nothing it says later counts.

use crate::lane::{Job, Lane, Progress, Work};
use crate::store::Store;
use crate::worker::{FromThread, Worker};
use ccd_core::database::{Database, RecordBody};
use ccd_core::ids::{DeviceRole, Replica};
use ccd_core::protocol::Ticket;
use ccd_core::replica::{ReplicaAnswer, ReplicaError, ReplicaErrorKind, ReplicaOp};
use ccd_core::time::Time;
use crossbeam_channel::{Receiver, Sender};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Most operations that wait on one replica. Full means that the protocol asks faster than the device works for
/// longer than any deadline; what comes then is answered with an I/O error.
pub const WAITING_MAX: usize = 4096;

/// Operations that move a whole image may take so many times longer than those that move a few blocks.
const IMAGE_DEADLINES: u32 = 8;

/// A direct append that took longer than this sends the next ones to the thread.
const DIRECT_SPAN_MAX: Duration = Duration::from_millis(5);

/// For so many times as long as it took, so that a slow disk holds up its owner for a small part of the time only.
const DIRECT_PAUSE_SPANS: u32 = 20;

/// Most operations of a record that is appended directly.
const DIRECT_UPDATES_MAX: usize = 64;

/// Called on a replica's thread when a completion waits; must only wake the owner.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// How one submitted operation went.
#[derive(Debug)]
pub struct Completion {
    pub ticket: Ticket,
    pub replica: Replica,
    pub result: Result<ReplicaAnswer, ReplicaError>,
}

/// What a replica's thread is doing, for status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneReport {
    pub replica: Replica,
    pub waiting: usize,
    /// The operation that has not come back although its deadline is over.
    pub stuck: Option<&'static str>,
    pub progress: Progress,
}

#[derive(Debug)]
struct Pending {
    ticket: Ticket,
    serial: u64,
    name: &'static str,
    budget: Duration,
}

#[derive(Debug)]
struct Checkpointing {
    ticket: Ticket,
    serial: u64,
    /// The lane's step counter when it last moved, and when that was.
    steps: u64,
    since: Time,
}

/// The owner's side of one replica.
struct Side {
    replica: Replica,
    lane: Arc<Lane>,
    /// The thread's store, for direct appends: only taken while the thread has nothing to do.
    store: Arc<Mutex<dyn Store>>,
    /// Until when the disk counts as slow.
    direct_from: Time,
    /// Submitted and not answered, in order; the first is the one the thread works on.
    pending: VecDeque<Pending>,
    /// When the first of `pending` became the first.
    head_since: Time,
    /// Under way beside `pending`; more than one only until the thread gives up the older.
    checkpoints: Vec<Checkpointing>,
    /// The operation that was answered `TimedOut` while the thread had not come back from it.
    stuck: Option<&'static str>,
    /// A time-out left the content unknown; only `Open` is taken.
    reopen: bool,
    next_serial: u64,
}

/// All replicas of one node.
pub struct Mirror {
    sides: Vec<Side>,
    deadline: Duration,
    wake: Wake,
    results_in: Sender<FromThread>,
    results: Receiver<FromThread>,
    /// Answers that no thread had to give.
    ready: VecDeque<Completion>,
    /// What was done directly.
    direct: VecDeque<Completion>,
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

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror")
            .field("sides", &self.sides)
            .finish_non_exhaustive()
    }
}

impl Mirror {
    /// `deadline` is how long one operation may take; `wake` tells the owner to call
    /// [`next_completion`](Self::next_completion).
    pub fn new(deadline: Duration, wake: Wake) -> Self {
        // Unbounded, and yet bounded: at most one result for each operation that `WAITING_MAX` let in.
        let (results_in, results) = crossbeam_channel::unbounded();
        Self {
            sides: Vec::new(),
            deadline,
            wake,
            results_in,
            results,
            ready: VecDeque::new(),
            direct: VecDeque::new(),
        }
    }

    /// Starts the thread that drives this replica.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn attach(&mut self, replica: Replica, store: impl Store) -> std::io::Result<()> {
        let lane = Arc::new(Lane::default());
        let store = Arc::new(Mutex::new(store));
        let worker = Worker {
            replica,
            store: store.clone(),
            lane: lane.clone(),
            results: self.results_in.clone(),
            wake: self.wake.clone(),
            checkpoint: None,
            pausing: false,
        };
        let name = match replica {
            Replica::Local => "ccd-local",
            Replica::Device(DeviceRole::Primary) => "ccd-primary",
            Replica::Device(DeviceRole::Secondary) => "ccd-secondary",
        };
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || worker.run())?;
        self.sides.push(Side {
            replica,
            lane,
            store,
            direct_from: Time::ZERO,
            pending: VecDeque::new(),
            head_since: Time::ZERO,
            checkpoints: Vec::new(),
            stuck: None,
            reopen: false,
            next_serial: 0,
        });
        Ok(())
    }

    /// Asks for one operation. Its answer comes from [`next_completion`](Self::next_completion), also when it is
    /// refused at once.
    pub fn submit(&mut self, now: Time, ticket: Ticket, replica: Replica, op: ReplicaOp) {
        if let Some(completion) = self.do_directly(now, ticket, replica, &op) {
            self.direct.push_back(completion);
            return;
        }
        self.submit_work(now, ticket, replica, Work::Op(op));
    }

    /// What was done while it was submitted; to be taken after each submission.
    pub fn next_direct(&mut self) -> Option<Completion> {
        self.direct.pop_front()
    }

    fn do_directly(
        &mut self,
        now: Time,
        ticket: Ticket,
        replica: Replica,
        op: &ReplicaOp,
    ) -> Option<Completion> {
        let ReplicaOp::Append {
            record,
            then_survey: false,
        } = op
        else {
            return None;
        };
        let side = self.sides.iter_mut().find(|side| side.replica == replica)?;
        let is_small = match &record.body {
            RecordBody::Updates { updates, .. } => {
                updates.iter().map(|update| update.ops.len()).sum::<usize>() <= DIRECT_UPDATES_MAX
            }
            RecordBody::Rollback | RecordBody::Open | RecordBody::OpenAll => true,
        };
        let is_free = side.is_idle() && side.stuck.is_none() && !side.reopen && now >= side.direct_from;
        if replica != Replica::Local || !is_small || !is_free {
            return None;
        }
        let begun = Instant::now();
        let result = side.store.try_lock().ok()?.execute(op.clone());
        let span = begun.elapsed();
        if span > DIRECT_SPAN_MAX {
            side.direct_from = now + span * DIRECT_PAUSE_SPANS;
        }
        Some(Completion {
            ticket,
            replica,
            result,
        })
    }

    /// Asks for a damaged replica to be written anew from memory. It happens only if the replica stands at the very
    /// position of `database` when its turn comes: an update that was submitted before makes it fail, and one that is
    /// submitted later finds the replica where it expects it. So no update is lost, and nothing has to stop.
    pub fn submit_repair(&mut self, now: Time, ticket: Ticket, replica: Replica, database: Database) {
        self.submit_work(now, ticket, replica, Work::Repair(database));
    }

    fn submit_work(&mut self, now: Time, ticket: Ticket, replica: Replica, work: Work) {
        let deadline = self.deadline;
        match self.obstacle(replica, &work) {
            Err((kind, text)) => self.refuse(ticket, replica, kind, text),
            Ok(side) => {
                side.reopen = false;
                side.submit(now, ticket, work, deadline);
            }
        }
    }

    /// The replica's side, or why nothing can be asked of it now.
    fn obstacle(&mut self, replica: Replica, work: &Work) -> Result<&mut Side, (ReplicaErrorKind, String)> {
        let Some(side) = self.sides.iter_mut().find(|side| side.replica == replica) else {
            return Err((ReplicaErrorKind::Io, format!("this cluster has no {replica}")));
        };
        if let Some(name) = side.stuck {
            let text = format!("{replica}: {name} has not come back from the device");
            return Err((ReplicaErrorKind::TimedOut, text));
        }
        if side.reopen && !matches!(work, Work::Op(ReplicaOp::Open)) {
            let text = format!("{replica}: an earlier operation timed out; it must be opened anew");
            return Err((ReplicaErrorKind::Poisoned, text));
        }
        if side.pending.len() >= WAITING_MAX {
            let text = format!("{replica}: {WAITING_MAX} operations wait for it already");
            return Err((ReplicaErrorKind::Io, text));
        }
        Ok(side)
    }

    fn refuse(&mut self, ticket: Ticket, replica: Replica, kind: ReplicaErrorKind, text: String) {
        let result = Err(ReplicaError { kind, text });
        self.ready.push_back(Completion {
            ticket,
            replica,
            result,
        });
    }

    /// Whether [`next_completion`](Self::next_completion) has something to say at `now`: asked far more often than it has.
    pub fn has_news(&self, now: Time) -> bool {
        !self.ready.is_empty() || !self.results.is_empty() || now >= self.next_deadline()
    }

    /// The next operation that has ended, or whose deadline is over at `now`. Call until it says `None`, after each
    /// wake-up, after each submission and at [`next_deadline`](Self::next_deadline).
    pub fn next_completion(&mut self, now: Time) -> Option<Completion> {
        if let Some(completion) = self.ready.pop_front() {
            return Some(completion);
        }
        while let Ok(word) = self.results.try_recv() {
            if let Some(completion) = self.accept(now, word) {
                return Some(completion);
            }
        }
        for side in &mut self.sides {
            side.expire(now, self.deadline, &mut self.ready);
        }
        self.ready.pop_front()
    }

    fn accept(&mut self, now: Time, word: FromThread) -> Option<Completion> {
        match word {
            FromThread::Done {
                replica,
                serial,
                result,
            } => {
                let side = self.sides.iter_mut().find(|side| side.replica == replica)?;
                let ticket = side.settle(now, serial)?;
                Some(Completion {
                    ticket,
                    replica,
                    result,
                })
            }
            FromThread::Back { replica } => {
                let side = self.sides.iter_mut().find(|side| side.replica == replica)?;
                side.stuck = None;
                None
            }
        }
    }

    /// When [`next_completion`](Self::next_completion) must be called if nothing wakes the owner before.
    pub fn next_deadline(&self) -> Time {
        if !self.ready.is_empty() {
            return Time::ZERO;
        }
        let sides = self.sides.iter().map(|side| side.next_deadline(self.deadline));
        sides.min().unwrap_or(Time::NEVER)
    }

    /// What each thread is doing.
    pub fn report(&self) -> impl Iterator<Item = LaneReport> + '_ {
        self.sides.iter().map(|side| LaneReport {
            replica: side.replica,
            waiting: side.pending.len(),
            stuck: side.stuck,
            progress: side.lane.progress(),
        })
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        for side in &self.sides {
            side.lane.close();
        }
    }
}

impl Side {
    fn submit(&mut self, now: Time, ticket: Ticket, work: Work, deadline: Duration) {
        let serial = self.next_serial;
        self.next_serial += 1;
        if matches!(work, Work::Op(ReplicaOp::Checkpoint { .. })) {
            self.checkpoints.push(Checkpointing {
                ticket,
                serial,
                steps: self.lane.steps(),
                since: now,
            });
        } else {
            if self.pending.is_empty() {
                self.head_since = now;
            }
            let (name, deadlines) = describe(&work);
            self.pending.push_back(Pending {
                ticket,
                serial,
                name,
                budget: deadline * deadlines,
            });
        }
        self.lane.push(Job { serial, work });
    }

    /// The ticket that this result answers; `None` if it was answered before.
    fn settle(&mut self, now: Time, serial: u64) -> Option<Ticket> {
        if let Some(index) = self.checkpoints.iter().position(|c| c.serial == serial) {
            return Some(self.checkpoints.remove(index).ticket);
        }
        let index = self.pending.iter().position(|pending| pending.serial == serial)?;
        if index == 0 {
            self.head_since = now;
        }
        self.pending.remove(index).map(|pending| pending.ticket)
    }

    fn next_deadline(&self, deadline: Duration) -> Time {
        let head = self.pending.front().map(|head| self.head_since + head.budget);
        let steps = self
            .checkpoints
            .iter()
            .map(|c| c.since + deadline * IMAGE_DEADLINES);
        head.into_iter().chain(steps).min().unwrap_or(Time::NEVER)
    }

    /// Answers everything if the thread has not moved for too long.
    fn expire(&mut self, now: Time, deadline: Duration, ready: &mut VecDeque<Completion>) {
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
        self.lane.recall();
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

    fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.checkpoints.is_empty()
    }
}

/// What people call the operation, and how many deadlines it may take.
fn describe(work: &Work) -> (&'static str, u32) {
    let op = match work {
        Work::Repair(_) => return ("repair", IMAGE_DEADLINES),
        Work::Op(op) => op,
    };
    match op {
        ReplicaOp::Open => ("open", 1),
        ReplicaOp::Survey => ("survey", 1),
        ReplicaOp::Load => ("load", IMAGE_DEADLINES),
        ReplicaOp::Append { .. } => ("append", 1),
        ReplicaOp::WriteImage { .. } => ("image write", IMAGE_DEADLINES),
        ReplicaOp::Checkpoint { .. } => ("checkpoint", IMAGE_DEADLINES),
        ReplicaOp::WriteConfiguration { .. } => ("configuration write", 1),
        ReplicaOp::WriteBallot { .. } => ("ballot write", 1),
        ReplicaOp::WriteHeartbeat { .. } => ("heartbeat write", 1),
        ReplicaOp::WriteScratch => ("scratch write", 1),
        ReplicaOp::WriteLastWords { .. } => ("last words", 1),
        ReplicaOp::KeepBranch { .. } => ("keeping a branch", IMAGE_DEADLINES),
    }
}
