//! The thread that does one device's fencing steps, with deadlines: kin to a replica's thread, beside it.
//!
//! Owned by the daemon's event loop; no call blocks. What always holds:
//! - every submitted ticket is answered by exactly one [`FenceCompletion`], in the order of submission;
//! - a step that has not ended at its deadline is answered `TimedOut`, and so is what stands behind it, which is then never
//!   started. What is submitted while the thread has not come back is answered `TimedOut` at once;
//! - a step that timed out may still have its effect. The next step's reading back shows it.
//!
//! The device is opened when the first step comes, and again after each failure.

use ccd_core::ids::{DeviceRole, Replica};
use ccd_core::protocol::Ticket;
use ccd_core::replica::{ReplicaError, ReplicaErrorKind};
use ccd_core::reservation::{FenceOp, Registrations};
use ccd_core::time::Time;
use ccd_disk::fencing::Fence;
use crossbeam_channel::{Receiver, Sender};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Wake;

/// Most steps that wait for one device: more means that the protocol asks without hearing.
pub const FENCE_WAITING_MAX: usize = 64;

/// How one step went.
#[derive(Debug)]
pub struct FenceCompletion {
    pub ticket: Ticket,
    pub device: DeviceRole,
    pub result: Result<Registrations, ReplicaError>,
}

/// What the thread drives: a device of ccd-disk, or a test's.
pub trait FenceDevice: Send {
    /// May block for as long as the device does.
    fn execute(&mut self, op: FenceOp) -> Result<Registrations, ReplicaError>;
}

impl FenceDevice for Fence {
    fn execute(&mut self, op: FenceOp) -> Result<Registrations, ReplicaError> {
        Ok(Fence::execute(self, op)?)
    }
}

/// Opens the device, on its thread.
pub type FenceOpener = Box<dyn FnMut() -> Result<Box<dyn FenceDevice>, ReplicaError> + Send>;

struct Job {
    serial: u64,
    op: FenceOp,
}

struct Done {
    serial: u64,
    result: Result<Registrations, ReplicaError>,
}

#[derive(Debug)]
struct Pending {
    ticket: Ticket,
    serial: u64,
    op: FenceOp,
    deadline: Duration,
}

/// The owner's side of one device's fencing thread.
pub struct FenceLane {
    device: DeviceRole,
    jobs: Sender<Job>,
    results: Receiver<Done>,
    /// Submitted and not answered, in order. The thread has the first one, and no other.
    pending: VecDeque<Pending>,
    /// When the first of `pending` went to the thread.
    head_since: Time,
    /// The step that was answered `TimedOut` while the thread had not come back from it.
    stuck: Option<u64>,
    ready: VecDeque<FenceCompletion>,
    next_serial: u64,
}

impl std::fmt::Debug for FenceLane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FenceLane")
            .field("device", &self.device)
            .field("pending", &self.pending)
            .field("stuck", &self.stuck)
            .finish_non_exhaustive()
    }
}

impl FenceLane {
    /// Starts the thread for the device at `path`. `wake` tells the owner to call
    /// [`next_completion`](Self::next_completion).
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(device: DeviceRole, path: &Path, wake: Wake) -> std::io::Result<Self> {
        let path: PathBuf = path.to_owned();
        let opener = move || Ok(Box::new(Fence::open(&path)?) as Box<dyn FenceDevice>);
        Self::start_with(device, Box::new(opener), wake)
    }

    /// The same, on a device that is opened otherwise.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start_with(device: DeviceRole, opener: FenceOpener, wake: Wake) -> std::io::Result<Self> {
        // Unbounded, and yet bounded: the thread has one job at a time.
        let (jobs, todo) = crossbeam_channel::unbounded();
        let (done, results) = crossbeam_channel::unbounded();
        let name = match device {
            DeviceRole::Primary => "ccd-fence-p",
            DeviceRole::Secondary => "ccd-fence-s",
        };
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || work(opener, &todo, &done, &wake))?;
        Ok(Self {
            device,
            jobs,
            results,
            pending: VecDeque::new(),
            head_since: Time::ZERO,
            stuck: None,
            ready: VecDeque::new(),
            next_serial: 0,
        })
    }

    /// Asks for one step, which may take so long from when its turn comes.
    pub fn submit(&mut self, now: Time, ticket: Ticket, op: FenceOp, deadline: Duration) {
        let device = self.device;
        if self.stuck.is_some() {
            let text = format!("fencing on the {device}: a step has not come back from the device");
            return self.refuse(ticket, ReplicaErrorKind::TimedOut, text);
        }
        if self.pending.len() >= FENCE_WAITING_MAX {
            let text = format!("fencing on the {device}: {FENCE_WAITING_MAX} steps wait for it already");
            return self.refuse(ticket, ReplicaErrorKind::Io, text);
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        self.pending.push_back(Pending {
            ticket,
            serial,
            op,
            deadline,
        });
        if self.pending.len() == 1 {
            self.begin_first(now);
        }
    }

    /// The next step that has ended, or whose deadline is over at `now`. Call until it says `None`, after each wake-up, after
    /// each submission and at [`next_deadline`](Self::next_deadline).
    pub fn next_completion(&mut self, now: Time) -> Option<FenceCompletion> {
        while let Ok(done) = self.results.try_recv() {
            self.accept(now, done);
        }
        self.expire(now);
        self.ready.pop_front()
    }

    /// When [`next_completion`](Self::next_completion) must be called if nothing wakes the owner before.
    pub fn next_deadline(&self) -> Time {
        if !self.ready.is_empty() {
            return Time::ZERO;
        }
        (self.pending.front()).map_or(Time::NEVER, |head| self.head_since + head.deadline)
    }

    fn begin_first(&mut self, now: Time) {
        let Some(head) = self.pending.front() else { return };
        self.head_since = now;
        let job = Job {
            serial: head.serial,
            op: head.op,
        };
        if self.jobs.send(job).is_err() {
            // It panicked, which is told once; the steps are answered by their deadlines.
            tracing::error!("the fencing thread of the {} is gone", self.device);
        }
    }

    fn accept(&mut self, now: Time, done: Done) {
        if self.stuck == Some(done.serial) {
            // Answered long ago.
            self.stuck = None;
            return;
        }
        let Some(head) = self.pending.pop_front_if(|head| head.serial == done.serial) else {
            return;
        };
        self.ready.push_back(FenceCompletion {
            ticket: head.ticket,
            device: self.device,
            result: done.result,
        });
        self.begin_first(now);
    }

    fn expire(&mut self, now: Time) {
        let Some(head) = self.pending.front() else { return };
        if now < self.head_since + head.deadline {
            return;
        }
        self.stuck = Some(head.serial);
        let text = format!(
            "fencing on the {}: no answer within {} ms to {:?}; whether it was done is not known",
            self.device,
            head.deadline.as_millis(),
            head.op
        );
        for pending in std::mem::take(&mut self.pending) {
            self.refuse(pending.ticket, ReplicaErrorKind::TimedOut, text.clone());
        }
    }

    fn refuse(&mut self, ticket: Ticket, kind: ReplicaErrorKind, text: String) {
        self.ready.push_back(FenceCompletion {
            ticket,
            device: self.device,
            result: Err(ReplicaError { kind, text }),
        });
    }
}

impl FenceCompletion {
    pub fn replica(&self) -> Replica {
        Replica::Device(self.device)
    }
}

/// The thread: ends when its owner is gone, after the step it works on.
fn work(mut opener: FenceOpener, todo: &Receiver<Job>, done: &Sender<Done>, wake: &Wake) {
    let mut device: Option<Box<dyn FenceDevice>> = None;
    while let Ok(Job { serial, op }) = todo.recv() {
        let opened = match device.take() {
            Some(open) => Ok(open),
            None => opener(),
        };
        let result = opened.and_then(|mut open| {
            let result = open.execute(op)?;
            device = Some(open);
            Ok(result)
        });
        if done.send(Done { serial, result }).is_err() {
            return;
        }
        wake();
    }
}
