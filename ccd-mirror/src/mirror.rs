//! Tickets, order and deadlines over the threads of all replicas, and over what goes past them. Owned by the daemon's event loop; no
//! call blocks.
//!
//! What always holds:
//! - every submitted ticket is answered by exactly one [`Completion`];
//! - operations of one replica are started in the order they were submitted; replicas do not wait for each other;
//! - an operation that has not ended at its deadline is answered `TimedOut`, and so is everything behind it; what was
//!   behind it is never started. From then on the replica takes nothing but `Open`, and that only once its thread, or what the
//!   ring carries for it, has come back: a write whose outcome nobody knows may still land.
//!
//! Two wake-ups, of the thread and back, cost more than a small write. So two things do without the thread, while it has nothing
//! to do: a small append to a *device*, and the claim check after it, go through a ring (`flight.rs`), which does not block either;
//! and a small append to the *local copy* is done by the caller itself, as long as that disk has been fast. This is the one exception
//! to "no call blocks": a node whose own disk hangs is in no better position than one that hangs with it: its peers take
//! over either way, and nothing it says later counts.

use crate::flight::{TakeOff, is_small};
use crate::lane::{Lane, LongWork, Progress, Work};
use crate::side::{Counted, Side};
use crate::store::Store;
use crate::worker::{FromThread, Worker};
use ccd_core::database::Database;
use ccd_core::ids::{DeviceRole, Replica};
use ccd_core::protocol::Ticket;
use ccd_core::replica::{ReplicaAnswer, ReplicaError, ReplicaErrorKind, ReplicaOp};
use ccd_core::time::Time;
use ccd_disk::device::Carrier;
use crossbeam_channel::{Receiver, Sender};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Most operations that wait on one replica. Full means that the protocol asks faster than the device works for
/// longer than any deadline; what comes then is answered with an I/O error.
pub const WAITING_MAX: usize = 4096;

/// A direct append that took longer than this sends the next ones to the thread.
const DIRECT_SPAN_MAX: Duration = Duration::from_millis(5);

/// For so many times as long as it took, so that a slow disk holds up its owner for a small part of the time only.
const DIRECT_PAUSE_SPANS: u32 = 20;

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
    /// What takes long just now.
    pub progress: Option<Progress>,
    pub counted: Counted,
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
    ring: Option<Box<dyn Carrier>>,
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
            ring: None,
        }
    }

    /// Starts the thread that drives this replica.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn attach(&mut self, replica: Replica, mut store: impl Store) -> std::io::Result<()> {
        let lane = Arc::new(Lane::default());
        let told = lane.clone();
        store.watch_images(Arc::new(move |done_bytes, total_bytes| {
            told.note_step(LongWork::Image, done_bytes, total_bytes);
        }));
        let store = Arc::new(Mutex::new(store));
        let worker = Worker {
            replica,
            store: store.clone(),
            lane: lane.clone(),
            results: self.results_in.clone(),
            wake: self.wake.clone(),
            checkpoint: None,
            pausing: false,
            idle_work: false,
        };
        let name = match replica {
            Replica::Local => "ccd-local",
            Replica::Device(DeviceRole::Primary) => "ccd-primary",
            Replica::Device(DeviceRole::Secondary) => "ccd-secondary",
        };
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || worker.run())?;
        self.sides.push(Side::new(replica, lane, store));
        Ok(())
    }

    /// From now on small appends to devices, and the claim checks after them, go through this ring, which must wake the owner when
    /// something lands.
    pub fn use_ring(&mut self, ring: Box<dyn Carrier>) {
        self.ring = Some(ring);
    }

    /// Asks for one operation. Its answer comes from [`next_completion`](Self::next_completion), also when it is
    /// refused at once.
    pub fn submit(&mut self, now: Time, ticket: Ticket, replica: Replica, op: ReplicaOp) {
        if let Some(completion) = self.do_directly(now, ticket, replica, &op) {
            self.direct.push_back(completion);
            return;
        }
        match self.take_off(now, ticket, replica, &op) {
            TakeOff::Flying => {}
            TakeOff::Refused(error) => self.refuse(ticket, replica, error.kind, error.text),
            TakeOff::Grounded => self.submit_work(now, ticket, replica, Work::Op(op)),
        }
    }

    fn take_off(&mut self, now: Time, ticket: Ticket, replica: Replica, op: &ReplicaOp) -> TakeOff {
        let index = self.sides.iter().position(|side| side.replica == replica);
        match (&mut self.ring, index) {
            (Some(ring), Some(index)) => {
                let side = &mut self.sides[index];
                side.take_off(now, ticket, op, self.deadline, index as u64, ring.as_mut())
            }
            _ => TakeOff::Grounded,
        }
    }

    /// Begins what was submitted, on both devices at the same time; to be called when nothing more is submitted for the moment.
    pub fn depart(&mut self) {
        if let Some(ring) = &mut self.ring {
            ring.depart();
        }
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
        let is_ready = side.is_free() && now >= side.direct_from;
        if replica != Replica::Local || !is_small(record) || !is_ready {
            return None;
        }
        let begun = Instant::now();
        let result = side.store.try_lock().ok()?.execute(op.clone());
        let span = begun.elapsed();
        side.counted.appends.note(span);
        side.counted.note_result(&result);
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
        !self.ready.is_empty()
            || !self.results.is_empty()
            || self.ring.as_ref().is_some_and(|ring| ring.has_news())
            || now >= self.next_deadline()
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
        while let Some(ring) = &mut self.ring
            && let Some(landed) = ring.take()
        {
            let side = usize::try_from(landed.tag)
                .ok()
                .and_then(|index| self.sides.get_mut(index));
            if let Some(completion) = side.and_then(|side| side.land(now, landed, ring.as_mut())) {
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
                if side.is_checkpoint(serial) && result.is_ok() {
                    side.counted.checkpoints += 1;
                }
                let ticket = side.settle(now, serial)?;
                side.counted.note_result(&result);
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
            counted: side.counted,
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
