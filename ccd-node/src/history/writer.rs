//! The thread that finds out what each committed record did, and writes it down.
//!
//! It runs at a low priority, after the clients have their acks. While it works or has just worked, nobody wakes it: it
//! looks again by itself, so that a stream of updates costs the event loop a push each. What it is told and has no room for is
//! dropped, and shows as a gap, because every telling says from where it goes on. Watchers are told after it is written.

use super::frame::{Effects, Frame, Kept};
use super::store::Store;
use super::trail;
use super::{Listener, Told};
use ccd_core::database::{Database, Difference, Record, RecordBody};
use ccd_core::ids::Position;
use ccd_core::protocol::Committed;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Tellings that wait; a disk that hangs must not fill the memory.
const QUEUE_MAX: usize = 4096;
/// After work, it looks again so much later.
const PAUSE: Duration = Duration::from_millis(20);
/// Before work after a rest: those who made the updates hear of them first, for watchers take the processors.
const GATHER: Duration = Duration::from_millis(2);
/// What was written is on the disk so much later; what a power cut takes is told again from the journal of the local copy.
const SYNC_AFTER: Duration = Duration::from_secs(1);
/// Between two complaints about a disk.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(60);
/// Niceness of the thread.
const NICE: i32 = 10;

/// Something to do once everything told before is written; it gets the end of the history, and the version that was told last.
pub type Then = Box<dyn FnOnce(Position, Option<&Database>) + Send>;

/// Something to do before anything that is told later is written.
pub type First = Box<dyn FnOnce() + Send>;

/// What the event loop and the thread share.
#[derive(Default)]
pub struct Desk {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Default)]
struct State {
    told: VecDeque<Committed>,
    then: Vec<Then>,
    first: Vec<First>,
    /// The thread waits for the bell.
    dozing: bool,
    closed: bool,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Desk {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic is done under the lock.
        self.state.lock().expect("no thread panics with the lock")
    }

    pub fn tell(&self, committed: Committed) {
        let mut state = self.state();
        if state.told.len() >= QUEUE_MAX {
            // The newest version stays, without the way to it: whoever comes now is not told an older one.
            let after = committed.after;
            state.told.pop_back();
            state.told.push_back(Committed { way: None, after });
            return;
        }
        state.told.push_back(committed);
        if state.dozing {
            self.bell.notify_one();
        }
    }

    pub fn then(&self, then: Then) {
        self.state().then.push(then);
        self.bell.notify_one();
    }

    pub fn first(&self, first: First) {
        self.state().first.push(first);
        self.bell.notify_one();
    }

    pub fn close(&self) {
        self.state().closed = true;
        self.bell.notify_one();
    }

    /// What there is to do before and after what was told, which is put into `told`; that is empty before. `None` when it is closed and
    /// nothing is left. Waits no longer than until `wake_at`.
    fn take(
        &self,
        wake_at: Option<Instant>,
        told: &mut VecDeque<Committed>,
    ) -> Option<(Vec<First>, Vec<Then>)> {
        let mut state = self.state();
        let mut dozed = false;
        loop {
            if std::mem::take(&mut dozed) && state.then.is_empty() && !state.closed {
                state = self
                    .bell
                    .wait_timeout(state, GATHER)
                    .expect("no thread panics with the lock")
                    .0;
            }
            let idle = state.told.is_empty() && state.then.is_empty() && state.first.is_empty();
            if idle && state.closed {
                return None;
            }
            let left = wake_at.map(|at| at.saturating_duration_since(Instant::now()));
            if !idle || left.is_some_and(|left| left.is_zero()) {
                // Both keep their memory: telling must not allocate.
                std::mem::swap(&mut state.told, told);
                return Some((std::mem::take(&mut state.first), std::mem::take(&mut state.then)));
            }
            state.dozing = true;
            state = match left {
                Some(left) => {
                    self.bell
                        .wait_timeout(state, left)
                        .expect("no thread panics with the lock")
                        .0
                }
                None => self.bell.wait(state).expect("no thread panics with the lock"),
            };
            state.dozing = false;
            dozed = !state.told.is_empty();
        }
    }

    /// Lets more gather, unless somebody waits for it.
    fn pause(&self) {
        let until = Instant::now() + PAUSE;
        let mut state = self.state();
        while state.then.is_empty() && !state.closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self
                .bell
                .wait_timeout(state, left)
                .expect("no thread panics with the lock")
                .0;
        }
    }
}

/// Runs until the desk is closed.
pub fn run(desk: &Desk, mut store: Store, mut listener: Box<dyn Listener>) {
    be_nice();
    let mut newest: Option<Database> = None;
    let mut sync_at: Option<Instant> = None;
    let mut complaint: Option<Instant> = None;
    let mut told = VecDeque::new();
    // Where those are who hear of everything; the disk is behind when it did not take something.
    let mut told_head = store.head();
    while let Some((first, then)) = desk.take(sync_at, &mut told) {
        first.into_iter().for_each(|first| first());
        let worked = !told.is_empty();
        let mut outcome = Ok(());
        if worked {
            let mut frames = Vec::new();
            let mut heard = Vec::new();
            let is_heard = listener.is_listening();
            bridge(store.head(), told_head, &mut frames);
            for committed in told.drain(..) {
                let (from, first) = (told_head, frames.len());
                let before = committed.way.as_ref().map(|(before, _)| before.clone());
                let after = committed.after.clone();
                told_head = follow(from, committed, &mut frames);
                if is_heard {
                    let steps = trail::steps(from, &frames[first..]);
                    let after = after.clone();
                    heard.push(Told { steps, before, after });
                }
                newest = Some(after);
            }
            outcome = store.append(frames);
            if is_heard {
                listener.told(heard);
            }
        }
        if outcome.is_ok() && sync_at.is_some_and(|at| at <= Instant::now()) {
            outcome = store.sync();
        }
        if let Err(error) = outcome
            && complaint.is_none_or(|at| at.elapsed() > COMPLAINT_PAUSE)
        {
            complaint = Some(Instant::now());
            tracing::error!(%error, "updates were not written to the history; the database itself is not concerned");
        }
        sync_at = match sync_at {
            _ if store.is_synced() => None,
            Some(at) if at > Instant::now() => Some(at),
            _ => Some(Instant::now() + SYNC_AFTER),
        };
        for then in then {
            then(store.head(), newest.as_ref());
        }
        if worked {
            desk.pause();
        }
    }
    if let Err(error) = store.sync() {
        tracing::error!(%error, "the end of the history may be lost in a power cut");
    }
}

/// The frames of what was told, and where it leads.
fn follow(head: Position, committed: Committed, frames: &mut Vec<Frame>) -> Position {
    let after = committed.after.position();
    let mut reached = head;
    if let Some((before, records)) = committed.way {
        bridge(reached, before.position(), frames);
        reached = before.position();
        let mut now = before;
        let mut records = records.into_iter().peekable();
        while let Some(record) = records.next() {
            let effects = if records.peek().is_some() {
                (now.effects(&record)).map(|(effects, next)| {
                    now = next;
                    effects
                })
            } else {
                now.last_effects(&record)
            };
            match effects {
                Ok(effects) => {
                    frames.extend(round(&record, effects));
                    reached = record.next;
                }
                // It does not fit, which is the protocol's affair; here it is a gap.
                Err(error) => {
                    tracing::error!(%error, "a committed record does not fit what it was told to follow");
                    break;
                }
            }
        }
    }
    bridge(reached, after, frames);
    after
}

/// A gap, if there is one.
fn bridge(from: Position, to: Position, frames: &mut Vec<Frame>) {
    let same = from.lineage == to.lineage && from.stamp.generation == to.stamp.generation;
    if !same {
        let after = from.stamp.generation;
        frames.push(Frame::Gap { after, to });
    }
}

fn round(record: &Arc<Record>, effects: Vec<Difference>) -> Option<Frame> {
    let RecordBody::Updates { updates, .. } = &record.body else {
        return None;
    };
    let kept = updates.iter().zip(effects).map(|(update, effects)| Kept {
        who: update.who.clone(),
        date: update.date,
        reason: update.reason.clone(),
        request: update.request,
        effects: Effects::Rows(effects),
    });
    Some(Frame::Round {
        next: record.next,
        updates: kept.collect(),
    })
}

/// Whatever serves clients comes first.
pub fn be_nice() {
    // SAFETY: takes three numbers and touches no memory. On Linux, process 0 means the calling thread alone.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    if done != 0 {
        tracing::debug!("a thread keeps the usual priority");
    }
}

#[cfg(test)]
mod tests {
    use super::super::read::{Reader, tests::generations};
    use super::*;
    use ccd_core::database::{Key, Op, Row, Update, Who};
    use ccd_core::ids::{ClusterId, Epoch, NodeSet, RequestId};
    use ccd_core::time::Date;
    use std::sync::mpsc;

    const CLUSTER: ClusterId = ClusterId([7; 16]);

    struct Nobody;

    impl Listener for Nobody {
        fn is_listening(&self) -> bool {
            false
        }
        fn told(&mut self, _: Vec<Told>) {}
    }

    fn commit(before: &Database, sequence: u64, op: Op) -> (Arc<Record>, Database) {
        let update = Update {
            request: RequestId { client: 1, sequence },
            who: Who::default(),
            date: Date(sequence),
            reason: None,
            preconditions: vec![],
            ops: vec![op],
        };
        let (admitted, _) = before.admit(&update).unwrap();
        let (record, after) = Record::updates(before, Epoch(1), admitted, vec![update], NodeSet::EMPTY);
        (Arc::new(record), after)
    }

    fn versions(count: u64) -> Vec<(Database, Arc<Record>, Database)> {
        let format = Op::Format {
            key: Key::new("K").unwrap(),
            columns: vec!["a".into()],
        };
        let mut before = Database::default();
        let mut versions = Vec::new();
        for number in 1..=count {
            let op = match number {
                1 => format.clone(),
                _ => Op::Add(Row::parse_text(&format!("K:{number}")).unwrap()),
            };
            let (record, after) = commit(&before, number, op);
            versions.push((before, record, after.clone()));
            before = after;
        }
        versions
    }

    #[test]
    fn what_was_told_is_written_before_who_asks_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), CLUSTER, 1 << 20).unwrap();
        let desk = Arc::new(Desk::default());
        let thread = std::thread::spawn({
            let desk = desk.clone();
            move || run(&desk, store, Box::new(Nobody))
        });
        let reader = Reader::new(folder.path(), CLUSTER);
        for (before, record, after) in versions(50) {
            let way = Some((before, vec![record]));
            let generation = after.position().stamp.generation.0;
            desk.tell(Committed { way, after });
            if generation % 10 == 0 {
                let (done, waiting) = mpsc::channel();
                desk.then(Box::new(move |head, _| done.send(head).unwrap()));
                assert_eq!(waiting.recv().unwrap().stamp.generation.0, generation);
                assert_eq!(generations(&reader), (1..=generation).collect::<Vec<_>>());
            }
        }
        desk.close();
        thread.join().unwrap();
        let store = Store::open(folder.path(), CLUSTER, 1 << 20).unwrap();
        assert_eq!(store.head().stamp.generation.0, 50);
    }

    /// What each was told, in words.
    #[derive(Clone, Default)]
    struct Listening(Arc<Mutex<Vec<String>>>);

    impl Listener for Listening {
        fn is_listening(&self) -> bool {
            true
        }
        fn told(&mut self, told: Vec<Told>) {
            let steps = told.into_iter().flat_map(|told| told.steps);
            let words = steps.map(|step| match step {
                trail::Step::Round { next, .. } => next.stamp.generation.to_string(),
                trail::Step::Missed { after, up_to } => format!("missed {after}-{}", up_to.stamp.generation),
                trail::Step::Diverged { after, .. } => format!("diverged {after}"),
            });
            self.0.lock().unwrap().extend(words);
        }
    }

    #[test]
    fn what_the_disk_does_not_take_is_told_once_and_is_one_gap_on_the_disk() {
        let made = tempfile::tempdir().unwrap();
        let folder = made.path().join("history");
        let store = Store::open(&folder, CLUSTER, 1 << 20).unwrap();
        let desk = Arc::new(Desk::default());
        let heard = Listening::default();
        let thread = std::thread::spawn({
            let (desk, heard) = (desk.clone(), heard.clone());
            move || run(&desk, store, Box::new(heard))
        });
        let tell = |(before, record, after): &(Database, Arc<Record>, Database)| {
            desk.tell(Committed {
                way: Some((before.clone(), vec![record.clone()])),
                after: after.clone(),
            });
            let (done, waiting) = mpsc::channel();
            desk.then(Box::new(move |head, _| done.send(head).unwrap()));
            waiting.recv().unwrap().stamp.generation.0
        };
        let all = versions(8);
        // No file can be made.
        std::fs::remove_dir(&folder).unwrap();
        for version in &all[..5] {
            assert_eq!(tell(version), 0, "nothing is written");
        }
        std::fs::create_dir(&folder).unwrap();
        for version in &all[5..] {
            tell(version);
        }
        desk.close();
        thread.join().unwrap();
        assert_eq!(*heard.0.lock().unwrap(), ["1", "2", "3", "4", "5", "6", "7", "8"]);
        assert_eq!(generations(&Reader::new(&folder, CLUSTER)), [6, 7, 8]);
        let gaps = trail::Trail::new(&folder, CLUSTER);
        let mut from = match gaps.locate(&"0".parse().unwrap(), all[7].2.position()).unwrap() {
            trail::Found::At(footing) => footing,
            other => panic!("{other:?}"),
        };
        let mut steps = 0;
        gaps.follow(&mut from, |_| {
            steps += 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(steps, 4, "a gap and three rounds");
    }

    #[test]
    fn what_was_not_told_is_a_gap() {
        let all = versions(9);
        let way = |index: usize| {
            let (before, record, after) = all[index].clone();
            Committed {
                way: Some((before, vec![record])),
                after,
            }
        };
        let mut frames = Vec::new();
        let mut head = follow(Position::EMPTY, way(0), &mut frames);
        head = follow(head, way(4), &mut frames);
        let whole_image = Committed {
            way: None,
            after: all[8].2.clone(),
        };
        head = follow(head, whole_image, &mut frames);
        assert_eq!(head, all[8].2.position());
        let steps: Vec<(bool, u64, u64)> = frames
            .iter()
            .map(|frame| {
                let is_gap = matches!(frame, Frame::Gap { .. });
                (is_gap, frame.before().0, frame.next().stamp.generation.0)
            })
            .collect();
        assert_eq!(steps, [(false, 0, 1), (true, 1, 4), (false, 4, 5), (true, 5, 9)]);
    }
}
