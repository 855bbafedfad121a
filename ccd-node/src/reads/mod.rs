//! Long reads, beside the event loop: queries that examine many rows, lists of many keys, and whole databases for clients.
//!
//! ```text
//! loop    the node answers what is quick itself; of the rest it hands over what is left, on the version of that moment
//!   ↓     `fair`: users take turns, by what each has cost
//! thread  some milliseconds of one read, then of the next: rows are found and encoded, piece by piece
//!   ↓
//! loop    the whole reply goes to the socket; one that is not done by its deadline is answered that it timed out
//! ```
//!
//! Always holds: a read is answered once, or its client is gone. A thread holds the version that it reads and drops it: the last
//! of a large version takes a while. What is held of unfinished replies is bounded: each thread works on one read, a user's reads
//! are worked on in order, and users that are not trusted share a bound (`held.rs`).

use crate::fair::{Fair, Owner};
use crate::outlet::Bell;
use ccd_client::wire::{Fault, ListReply, Told, WireError, snapshot_head};
use ccd_core::client::{ClientToken, Refusal};
use ccd_core::database::{Database, ImageWriter, Key, Scan};
use ccd_core::protocol::LongRead;
use ccd_core::time::Time;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

mod held;

use held::HeldReplies;

/// How much work of a read the event loop does itself, as [`Scan::go_on`] counts it: some 200 microseconds, a few hundred rows.
pub const LOOP_BUDGET: u64 = 100_000;
/// And a thread in one turn: some milliseconds.
const TURN_BUDGET: u64 = 1_000_000;
/// Keys with their columns.
const TURN_KEYS: usize = 4_000;
/// Bytes of an image at a turn: it is written faster than rows are found.
const TURN_IMAGE_BYTES: usize = 256 << 10;
/// One processor is left to the event loop; more threads than this would only share the memory's speed.
const THREADS_MAX: usize = 4;
/// After so many turns of trusted users in a row, others that wait have one.
const TURNS_IN_A_ROW_MAX: u32 = 7;

/// A reply, ready to be sent, or why there is none.
#[derive(Debug)]
pub struct Finished {
    pub client: ClientToken,
    pub reply: Result<Vec<u8>, Box<Told>>,
}

/// What is read.
#[derive(Debug)]
pub enum Long {
    Read(LongRead),
    /// The whole database, as an image.
    Snapshot(Database),
}

/// The client that asked, and the id of its request.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    pub client: ClientToken,
    pub owner: Owner,
    pub id: u64,
    /// Answered by then, if only that it timed out.
    pub deadline: Time,
}

/// The loop's side.
#[derive(Debug)]
pub struct Reads {
    shared: Arc<Shared>,
    waiting: BTreeMap<ClientToken, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    deadline: Time,
    /// Nobody waits for it any more; the thread drops what it holds.
    gone: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
    held: HeldReplies,
    finished: mpsc::UnboundedSender<Finished>,
    bell: Bell,
}

#[derive(Debug, Default)]
struct Queue {
    reads: Fair<Box<Job>>,
    /// Turns of trusted users, one after the other.
    in_a_row: u32,
    closed: bool,
}

impl Queue {
    /// The read whose turn it is: of a trusted user before the others, but not always.
    fn take(&mut self) -> Option<(Owner, Box<Job>)> {
        let others_first = self.in_a_row >= TURNS_IN_A_ROW_MAX;
        let of_others = (others_first.then(|| self.reads.pop_if(|owner, _| !owner.is_trusted))).flatten();
        let (owner, job) = of_others.or_else(|| self.reads.pop())?;
        self.in_a_row = if owner.is_trusted { self.in_a_row + 1 } else { 0 };
        Some((owner, job))
    }
}

/// A read that is under way.
#[derive(Debug)]
struct Job {
    asker: Asker,
    gone: Arc<AtomicBool>,
    work: ReadProgress,
}

#[derive(Debug)]
enum ReadProgress {
    Rows(Scan, ListReply),
    /// With the last that is in the reply.
    Keys(Database, Option<Key>, ListReply),
    Image(Box<ImageWriter>, Vec<u8>, usize),
    Ended,
}

impl Reads {
    /// Starts the threads. What they finish comes through the channel.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(bell: &Bell) -> std::io::Result<(Self, mpsc::UnboundedReceiver<Finished>)> {
        let (finished, inlet) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            ready: Condvar::new(),
            held: HeldReplies::default(),
            finished,
            bell: bell.clone(),
        });
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..processors.saturating_sub(1).clamp(1, THREADS_MAX) {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name("ccdd-read".to_owned())
                .spawn(move || shared.run())?;
        }
        let waiting = BTreeMap::new();
        Ok((Self { shared, waiting }, inlet))
    }

    /// Takes over a read.
    pub fn begin(&mut self, asker: Asker, long: Long) {
        let gone = Arc::new(AtomicBool::new(false));
        let waiting = Waiting {
            deadline: asker.deadline,
            gone: gone.clone(),
        };
        self.waiting.insert(asker.client, waiting);
        let work = match long {
            Long::Read(LongRead::Query(scan, rows)) => {
                let mut reply = ListReply::rows(asker.id, scan.position());
                rows.iter().for_each(|row| reply.push_row(row));
                ReadProgress::Rows(scan, reply)
            }
            Long::Read(LongRead::Keys(database)) => {
                let reply = ListReply::keys(asker.id, database.position());
                ReadProgress::Keys(database, None, reply)
            }
            Long::Snapshot(database) => {
                ReadProgress::Image(Box::new(ImageWriter::new(&database)), Vec::new(), 0)
            }
        };
        let job = Box::new(Job { asker, gone, work });
        self.shared.lock().reads.push(asker.owner, job);
        self.shared.ready.notify_one();
    }

    /// The client is gone.
    pub fn forget(&mut self, client: ClientToken) {
        if let Some(waiting) = self.waiting.remove(&client) {
            waiting.gone.store(true, Ordering::Relaxed);
        }
    }

    /// Whether this reply is still waited for.
    pub fn take_finished(&mut self, client: ClientToken) -> bool {
        self.waiting.remove(&client).is_some()
    }

    pub fn next_deadline(&self) -> Time {
        let deadlines = self.waiting.values().map(|waiting| waiting.deadline);
        deadlines.min().unwrap_or(Time::NEVER)
    }

    /// Those whose time is over; they are given up.
    pub fn take_late(&mut self, now: Time) -> Vec<ClientToken> {
        let late = self.waiting.iter().filter(|(_, waiting)| waiting.deadline <= now);
        let late: Vec<ClientToken> = late.map(|(client, _)| *client).collect();
        late.iter().for_each(|client| self.forget(*client));
        late
    }
}

impl Drop for Reads {
    /// The threads end after their turn.
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.ready.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing is done under the lock that could leave the queue half changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut queue = self.lock();
        loop {
            if queue.closed {
                return;
            }
            let Some((owner, mut job)) = queue.take() else {
                queue = self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(queue);
            let begun = Instant::now();
            let outcome = job.turn(&self.held);
            let cost = cost(begun.elapsed());
            let ended = outcome.is_some();
            if ended {
                // Before whoever gets the reply looks at it.
                self.held.release(owner, job.asker.client);
            }
            if let Some(Some(reply)) = outcome {
                let client = job.asker.client;
                if self.finished.send(Finished { client, reply }).is_ok() {
                    self.bell.notify_one();
                }
            }
            if ended {
                // With what it read, if that is an old version by now.
                drop(job);
                queue = self.lock();
            } else {
                queue = self.lock();
                queue.reads.push_first(owner, job);
            }
            queue.reads.spend(owner, cost);
        }
    }
}

fn cost(span: Duration) -> u64 {
    span.as_nanos() as u64
}

/// `None`: more turns are needed. Else it has ended, with a reply if somebody waits for it.
type Outcome = Option<Option<Result<Vec<u8>, Box<Told>>>>;

impl Job {
    fn turn(&mut self, held: &HeldReplies) -> Outcome {
        if self.gone.load(Ordering::Relaxed) {
            return Some(None);
        }
        let Asker {
            id, owner, client, ..
        } = self.asker;
        let (done, len_bytes) = match &mut self.work {
            ReadProgress::Rows(scan, reply) => {
                let done = scan.go_on(TURN_BUDGET, |row| reply.push_row(&row));
                (done || reply.is_too_long(), reply.len_bytes())
            }
            ReadProgress::Keys(database, last, reply) => {
                let keys = database.keys_after(last.as_ref(), TURN_KEYS);
                keys.iter().for_each(|key| reply.push_key(key));
                let done = keys.len() < TURN_KEYS || reply.is_too_long();
                *last = keys.into_iter().last().map(|(key, ..)| key);
                (done, reply.len_bytes())
            }
            ReadProgress::Image(writer, out, left) => {
                if out.is_empty() {
                    *left = writer.total_bytes() as usize;
                    match snapshot_head(id, *left as u64) {
                        Ok(head) => *out = head,
                        Err(error) => return Some(Some(Err(Box::new(refused(error))))),
                    }
                }
                let piece = writer.piece(TURN_IMAGE_BYTES.min(*left));
                *left -= piece.len();
                out.extend_from_slice(&piece);
                (*left == 0 || piece.is_empty(), out.len())
            }
            ReadProgress::Ended => (true, 0),
        };
        if !held.hold(owner, client, len_bytes) {
            return Some(Some(Err(Box::new(Told::Failed(Fault::Overloaded)))));
        }
        if !done {
            return None;
        }
        let reply = match std::mem::replace(&mut self.work, ReadProgress::Ended) {
            ReadProgress::Rows(_, reply) | ReadProgress::Keys(_, _, reply) => reply.finish(),
            ReadProgress::Image(_, out, _) => Ok(out),
            ReadProgress::Ended => return Some(None),
        };
        Some(Some(reply.map_err(|error| Box::new(refused(error)))))
    }
}

fn refused(error: WireError) -> Told {
    Told::Failed(match error {
        WireError::TooLong { got, .. } => Fault::TooLarge { bytes: got },
        other => Fault::Internal {
            why: other.to_string(),
        },
    })
}

/// What a client hears whose read was not done in time.
pub fn timed_out() -> Told {
    Told::Refused(Refusal::TimedOut)
}

#[cfg(test)]
mod tests;
