//! The thread of one replica: takes jobs in order, and puts the steps of a checkpoint between them.
//!
//! The thread may hang in the kernel for as long as the device does. It holds no lock but that of its own store while it
//! works, and nobody waits for that one: the mirror answers in its place when the deadline has come.

use crate::lane::{Job, Lane, LongWork, Next, Work};
use crate::store::{Store, StoreStep};
use ccd_core::ids::Replica;
use ccd_core::replica::{ReplicaAnswer, ReplicaError, ReplicaErrorKind, ReplicaOp};
use crossbeam_channel::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long the thread sleeps at most while a checkpoint's image is being made.
const IMAGE_PAUSE: Duration = Duration::from_millis(1);

/// Nothing that can wait is begun before nothing has been asked for so long: where one thing follows another, as when a node joins,
/// it would be in the way of each.
const IDLE_AFTER: Duration = Duration::from_millis(50);

/// So many jobs may overtake a checkpoint before it gets a step: updates go first, but never starve it.
const JOBS_PER_STEP_MAX: u32 = 8;

/// From a replica's thread to the mirror.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly every one is the large one")]
pub(crate) enum FromThread {
    Done {
        replica: Replica,
        serial: u64,
        result: Result<ReplicaAnswer, ReplicaError>,
    },
    /// The thread has come back from what was recalled, and can be used again.
    Back { replica: Replica },
}

pub(crate) struct Worker<S> {
    pub replica: Replica,
    pub store: Arc<Mutex<S>>,
    pub lane: Arc<Lane>,
    pub results: Sender<FromThread>,
    pub wake: Arc<dyn Fn() + Send + Sync>,
    /// Serial of the checkpoint under way.
    pub checkpoint: Option<u64>,
    /// Its image is not made yet.
    pub pausing: bool,
    /// The store may have something to do that can wait.
    pub idle_work: bool,
}

impl<S: Store> Worker<S> {
    /// Runs until the lane is closed.
    pub fn run(mut self) {
        let mut jobs_since_step = 0;
        let mut idle_in = IDLE_AFTER;
        loop {
            let next = match self.checkpoint {
                None if self.idle_work => match self.lane.wait_for(idle_in) {
                    None => {
                        let more = self.store().idle_step();
                        self.idle_work = more;
                        idle_in = Duration::ZERO;
                        continue;
                    }
                    next => next,
                },
                None => Some(self.lane.wait()),
                Some(_) if self.pausing => self.lane.wait_for(IMAGE_PAUSE),
                Some(_) => self.lane.take(),
            };
            match next {
                Some(Next::Closed) => return,
                Some(Next::Recalled) => {
                    if self.checkpoint.take().is_some() {
                        self.store().abandon_checkpoint();
                    }
                    let replica = self.replica;
                    self.tell(FromThread::Back { replica });
                    continue;
                }
                Some(Next::Job(job)) => {
                    self.do_job(job);
                    let idle_work = self.store().has_idle_work();
                    self.idle_work = idle_work;
                    idle_in = IDLE_AFTER;
                    jobs_since_step += 1;
                    if self.checkpoint.is_none() || jobs_since_step < JOBS_PER_STEP_MAX {
                        continue;
                    }
                }
                None => {}
            }
            jobs_since_step = 0;
            self.step();
        }
    }

    fn store(&self) -> MutexGuard<'_, S> {
        // A store that panicked is poisoned by itself, as after any failed write.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn do_job(&mut self, job: Job) {
        let Job { serial, work } = job;
        match work {
            Work::Repair(database) => {
                let result = self.store().repair(database);
                self.answer(serial, result.map(|()| ReplicaAnswer::Written));
            }
            Work::Op(ReplicaOp::Checkpoint { database }) => {
                self.end_checkpoint("a newer checkpoint was asked for");
                let begun = self.store().begin_checkpoint(database);
                match begun {
                    Ok(()) => self.checkpoint = Some(serial),
                    Err(error) => self.answer(serial, Err(error)),
                }
            }
            Work::Op(op) => {
                // All of them write the same places as the checkpoint, or make them meaningless.
                let writes_anew = matches!(
                    op,
                    ReplicaOp::Open
                        | ReplicaOp::WriteImage { .. }
                        | ReplicaOp::StageImage { .. }
                        | ReplicaOp::AdoptImage { .. }
                );
                if writes_anew {
                    self.end_checkpoint("the replica was opened or written anew");
                }
                let staged = staged_to(&op);
                let result = self.store().execute(op);
                match staged {
                    Some((done_bytes, total_bytes)) if result.is_ok() => {
                        self.lane.note_step(LongWork::Image, done_bytes, total_bytes);
                    }
                    _ if writes_anew => self.lane.end_long(),
                    _ => {}
                }
                self.answer(serial, result);
            }
        }
    }

    fn step(&mut self) {
        let Some(serial) = self.checkpoint else { return };
        self.pausing = false;
        let stepped = self.store().step_checkpoint();
        let result = match stepped {
            Ok(StoreStep::More {
                done_bytes,
                total_bytes,
            }) => {
                self.lane.note_step(LongWork::Checkpoint, done_bytes, total_bytes);
                return;
            }
            Ok(StoreStep::NotYet) => {
                self.pausing = true;
                self.lane.note_life();
                return;
            }
            Ok(StoreStep::Done) => Ok(ReplicaAnswer::Written),
            Err(error) => Err(error),
        };
        self.checkpoint = None;
        self.lane.end_long();
        self.answer(serial, result);
    }

    fn end_checkpoint(&mut self, why: &str) {
        if let Some(serial) = self.checkpoint.take() {
            self.store().abandon_checkpoint();
            self.lane.end_long();
            let text = format!("checkpoint of the {} was given up: {why}", self.replica);
            let kind = ReplicaErrorKind::Poisoned;
            self.answer(serial, Err(ReplicaError { kind, text }));
        }
    }

    fn answer(&self, serial: u64, result: Result<ReplicaAnswer, ReplicaError>) {
        let replica = self.replica;
        self.tell(FromThread::Done {
            replica,
            serial,
            result,
        });
    }

    fn tell(&self, word: FromThread) {
        // The mirror is gone when the daemon ends; then nobody waits for the answer.
        if self.results.send(word).is_ok() {
            (self.wake)();
        }
    }
}

/// How far an image that comes in pieces is with this one.
fn staged_to(op: &ReplicaOp) -> Option<(u64, u64)> {
    match op {
        ReplicaOp::StageImage {
            len_bytes,
            offset,
            bytes,
            ..
        } => Some((offset.saturating_add(bytes.len() as u64), *len_bytes)),
        _ => None,
    }
}
