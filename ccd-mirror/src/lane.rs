//! The queue between the owner and one replica's thread.
//!
//! Shared by exactly two: the [`Mirror`](crate::Mirror) puts jobs in and may take back those that were not
//! started; the thread takes them out in order. The lock is held only to move a job.

use ccd_core::database::Database;
use ccd_core::replica::ReplicaOp;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// An operation on its way to the thread. Serial numbers are unique within a lane and only ever rise.
#[derive(Debug)]
pub(crate) struct Job {
    pub serial: u64,
    pub work: Work,
}

/// What a job is.
#[derive(Debug)]
pub(crate) enum Work {
    /// Asked for by the protocol.
    Op(ReplicaOp),
    /// Read-repair: see [`Mirror::submit_repair`](crate::Mirror::submit_repair).
    Repair(Database),
}

/// What takes long on a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongWork {
    Checkpoint,
    /// A whole image, which makes it what another replica is.
    Image,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub work: LongWork,
    pub done_bytes: u64,
    /// 0: not known yet.
    pub total_bytes: u64,
    /// Since its first step.
    pub elapsed: Duration,
}

#[derive(Debug)]
struct Long {
    work: LongWork,
    done_bytes: u64,
    total_bytes: u64,
    begun: Instant,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    closed: bool,
    /// What was started is answered already, and what was not is gone: the thread says when it has come back.
    recalled: bool,
    /// The thread sleeps and must be woken.
    parked: bool,
}

/// What a thread finds in its lane.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is taken apart at once, and never kept"
)]
pub(crate) enum Next {
    Job(Job),
    Recalled,
    Closed,
}

impl Waiting {
    fn next(&mut self) -> Option<Next> {
        if std::mem::take(&mut self.recalled) {
            return Some(Next::Recalled);
        }
        match self.jobs.pop_front() {
            Some(job) => Some(Next::Job(job)),
            None => self.closed.then_some(Next::Closed),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Lane {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    /// What takes long just now. Held for a moment, every quarter of a MiB.
    long: Mutex<Option<Long>>,
    /// Rises with every step of a long operation: what its deadline is measured by.
    steps: AtomicU64,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // A queue of jobs is never half changed, so a panic elsewhere does not spoil it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, job: Job) {
        let mut waiting = self.lock();
        waiting.jobs.push_back(job);
        let parked = std::mem::take(&mut waiting.parked);
        drop(waiting);
        if parked {
            self.wake.notify_one();
        }
    }

    /// Takes back everything that the thread has not started, and asks it to say when it is back.
    pub fn recall(&self) {
        let mut waiting = self.lock();
        waiting.jobs.clear();
        waiting.recalled = true;
        drop(waiting);
        self.wake.notify_one();
    }

    /// No more jobs come; the thread ends once it has nothing left.
    pub fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        drop(waiting);
        self.wake.notify_one();
    }

    /// What the thread does next, if anything waits.
    pub fn take(&self) -> Option<Next> {
        self.lock().next()
    }

    /// What the thread does next; sleeps until there is something.
    pub fn wait(&self) -> Next {
        let mut waiting = self.lock();
        loop {
            if let Some(next) = waiting.next() {
                return next;
            }
            waiting.parked = true;
            waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            waiting.parked = false;
        }
    }

    /// As [`wait`](Self::wait), but sleeps no longer than this.
    pub fn wait_for(&self, span: Duration) -> Option<Next> {
        let mut waiting = self.lock();
        if let Some(next) = waiting.next() {
            return Some(next);
        }
        waiting.parked = true;
        let woken = self.wake.wait_timeout(waiting, span);
        let (mut waiting, _) = woken.unwrap_or_else(PoisonError::into_inner);
        waiting.parked = false;
        waiting.next()
    }

    fn long(&self) -> MutexGuard<'_, Option<Long>> {
        self.long.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Long work has come so far.
    pub fn note_step(&self, work: LongWork, done_bytes: u64, total_bytes: u64) {
        let mut long = self.long();
        let begun = match &*long {
            // One that begins anew is another.
            Some(before) if before.work == work && before.done_bytes <= done_bytes => before.begun,
            _ => Instant::now(),
        };
        *long = Some(Long {
            work,
            done_bytes,
            total_bytes,
            begun,
        });
        drop(long);
        self.note_life();
    }

    /// It goes on, though nothing can be said of it.
    pub fn note_life(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// It has ended.
    pub fn end_long(&self) {
        *self.long() = None;
        self.note_life();
    }

    pub fn progress(&self) -> Option<Progress> {
        self.long().as_ref().map(|long| Progress {
            work: long.work,
            done_bytes: long.done_bytes,
            total_bytes: long.total_bytes,
            elapsed: long.begun.elapsed(),
        })
    }

    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }
}
