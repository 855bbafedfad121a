//! A watcher in a thread of its own: everything that it is told, and the check of it.

use super::node::TestNode;
use super::until::until;
use ccd_client::wire::HistoryUpdate;
use ccd_client::{Client, Places, WatchBuilder, WatchEvent};
use ccd_core::database::Row;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// What a watcher was told.
#[derive(Debug, Default)]
pub struct Heard {
    /// In the order in which they came.
    pub updates: Vec<HistoryUpdate>,
    /// Behind which generation, and up to which.
    pub missed: Vec<(u64, u64)>,
    pub diverged: Vec<(u64, u64)>,
    /// Everything up to here was told.
    pub reached: u64,
    /// The rows of the start with every change since then.
    pub rows: BTreeSet<Row>,
    pub rows_at: Option<u64>,
    pub away: usize,
    pub back: usize,
}

impl Heard {
    fn take(&mut self, event: WatchEvent) {
        if let Some(place) = event.place() {
            self.reached = place.seen.0;
        }
        match event {
            WatchEvent::Began { .. } => {}
            WatchEvent::Rows { rows, .. } => {
                for row in rows {
                    assert!(self.rows.insert(row.clone()), "{row} came twice");
                }
            }
            WatchEvent::RowsAnew => self.rows.clear(),
            WatchEvent::AllRows { place } => self.rows_at = Some(place.seen.0),
            WatchEvent::Change(change) => {
                if let Some(rows) = &change.update.rows {
                    for row in &rows.rows_removed {
                        assert!(
                            self.rows_at.is_none() || self.rows.remove(row),
                            "{row} was not there"
                        );
                    }
                    for row in &rows.rows_added {
                        assert!(self.rows.insert(row.clone()), "{row} was there already");
                    }
                }
                self.updates.push(change.update);
            }
            WatchEvent::Progress { .. } => {}
            WatchEvent::Missed { after, place } => self.missed.push((after.0, place.seen.0)),
            WatchEvent::Diverged { after, place } => self.diverged.push((after.0, place.seen.0)),
            WatchEvent::Away { .. } => self.away += 1,
            WatchEvent::Back => self.back += 1,
        }
    }

    pub fn generations(&self) -> Vec<u64> {
        self.updates.iter().map(|update| update.generation.0).collect()
    }

    /// Each generation after `first` up to `newest` was told once, in order, or said to be missed. Returns how many were missed.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn check(&self, first: u64, newest: u64) -> u64 {
        let generations = self.generations();
        assert!(
            generations.windows(2).all(|pair| pair[0] < pair[1]),
            "not in order, or twice: {:?}",
            generations.windows(2).find(|pair| pair[0] >= pair[1])
        );
        let told: BTreeSet<u64> = generations.into_iter().collect();
        let mut missed = 0;
        for generation in first + 1..=newest {
            let said = self
                .missed
                .iter()
                .filter(|(after, up_to)| (*after + 1..=*up_to).contains(&generation));
            let times = said.count() + usize::from(told.contains(&generation));
            assert_eq!(
                times, 1,
                "generation {generation} of {newest}; missed: {:?}",
                self.missed
            );
            missed += u64::from(!told.contains(&generation));
        }
        missed
    }

    /// How often the rows of the writer whose number is the first value came.
    pub fn counts(&self) -> BTreeMap<u64, usize> {
        let mut counts = BTreeMap::new();
        let rows = self.updates.iter().filter_map(|update| update.rows.as_ref());
        for row in rows.flat_map(|rows| &rows.rows_added) {
            if let Some(number) = row.values.first().and_then(|value| value.parse().ok()) {
                *counts.entry(number).or_insert(0) += 1;
            }
        }
        counts
    }
}

/// A watcher that reads as fast as it can, until it is ended.
#[derive(Debug)]
pub struct Follower {
    enough: Arc<AtomicBool>,
    heard: Arc<Mutex<Heard>>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    /// Watches on this node; `what` says what.
    pub fn start(node: &TestNode, what: impl FnOnce(WatchBuilder) -> WatchBuilder) -> Self {
        Self::start_at(node.places(), what)
    }

    pub fn start_at(places: &Places, what: impl FnOnce(WatchBuilder) -> WatchBuilder) -> Self {
        let client = Client::attach_within(places, "follower", Duration::from_secs(20)).expect("it listens");
        let mut watch = what(client.watch()).start().expect("it may watch");
        let enough = Arc::new(AtomicBool::new(false));
        let heard = Arc::new(Mutex::new(Heard::default()));
        let (flag, ledger) = (enough.clone(), heard.clone());
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                if let Some(event) = watch.next(Some(LOOK)).expect("it goes on") {
                    ledger.lock().expect("no thread panics with the lock").take(event);
                }
            }
        });
        Self {
            enough,
            heard,
            thread: Some(thread),
        }
    }

    /// # Panics
    /// If what it was told cannot be.
    pub fn with<T>(&self, look: impl FnOnce(&Heard) -> T) -> T {
        look(&self.heard.lock().expect("what it was told can be"))
    }

    /// Waits until it was told everything up to this generation.
    pub fn wait_for(&self, generation: u64) {
        until(
            &format!("a watcher to have come to generation {generation}"),
            || {
                self.with(|heard| {
                    if heard.reached >= generation {
                        Ok(())
                    } else {
                        Err(format!(
                            "{}, {} updates, missed {:?}",
                            heard.reached,
                            heard.updates.len(),
                            heard.missed
                        ))
                    }
                })
            },
        );
    }

    /// Ends it, when it has come to this generation.
    pub fn end(mut self, generation: u64) -> Heard {
        self.wait_for(generation);
        self.enough.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("what it was told can be");
        }
        std::mem::take(&mut *self.heard.lock().expect("what it was told can be"))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
    }
}
