//! Updates without end from one client, and what was promised about each: what was acked must be there at the end,
//! and what was refused must not.

use super::node::TestNode;
use ccd_client::{Applied, CcdError, Client, Places, Transaction};
use ccd_core::database::{Key, Op, Row};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const KEY: &str = "LOAD";

/// What makes the key of the rows.
pub const FORMAT: [&str; 4] = ["format", KEY, "number", "text"];

/// What shows all rows.
pub const QUERY: [&str; 2] = ["query", KEY];

/// Short, so that the writer soon asks another node.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Between two attempts while nobody serves.
const PAUSE: Duration = Duration::from_millis(5);

/// What became of the updates.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Number of the update, and when it was acked.
    pub acked: BTreeMap<u64, Instant>,
    pub refused: BTreeSet<u64>,
    pub unknown: BTreeSet<u64>,
}

/// What became of one update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Acked,
    Refused,
    /// Nobody said.
    Unknown,
}

/// A thread that adds a row after the other, each through whichever node takes it.
#[derive(Debug)]
pub struct Writer {
    enough: Arc<AtomicBool>,
    count: Arc<std::sync::Mutex<Ledger>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts to write; `nodes` are tried in this order, and again from the first when one takes nothing.
    pub fn start(nodes: &[&TestNode]) -> Self {
        nodes[0].adm(&FORMAT).done();
        let places: Vec<Places> = nodes.iter().map(|node| node.places().clone()).collect();
        let enough = Arc::new(AtomicBool::new(false));
        let count = Arc::new(std::sync::Mutex::new(Ledger::default()));
        let (flag, ledger) = (enough.clone(), count.clone());
        let thread = std::thread::spawn(move || {
            write_until(&places, &flag, 0, |number, fate| {
                let mut ledger = ledger.lock().expect("no thread panics with the lock");
                ledger.note(number, fate);
            });
        });
        Self {
            enough,
            count,
            thread: Some(thread),
        }
    }

    pub fn acked(&self) -> usize {
        self.count
            .lock()
            .expect("no thread panics with the lock")
            .acked
            .len()
    }

    /// Waits until so many more updates are acked.
    pub fn wait_for_more(&self, more: usize) {
        super::until::until_more("acked updates", more as u64, || self.acked() as u64);
    }

    /// Waits for the first ack after `moment`, and says how long it took.
    pub fn first_ack_after(&self, moment: Instant) -> Duration {
        let (took, _) = super::until::until("an acked update", || {
            let ledger = self.count.lock().expect("no thread panics with the lock");
            let first = ledger.acked.values().filter(|acked| **acked > moment).min();
            first
                .map(|acked| *acked - moment)
                .ok_or_else(|| format!("{} acked before", ledger.acked.len()))
        });
        took
    }

    pub fn end(mut self) -> Ledger {
        self.enough.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the writer does not panic");
        }
        std::mem::take(&mut *self.count.lock().expect("no thread panics with the lock"))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
    }
}

impl Ledger {
    pub fn note(&mut self, number: u64, fate: Fate) {
        match fate {
            Fate::Acked => {
                self.acked.insert(number, Instant::now());
            }
            Fate::Refused => {
                self.refused.insert(number);
            }
            Fate::Unknown => {
                self.unknown.insert(number);
            }
        }
    }

    /// # Panics
    /// If an acked update is missing at this node, or a refused one is there.
    #[track_caller]
    pub fn check(&self, node: &TestNode) {
        self.check_rows(node.name, &node.adm(&QUERY).done().out);
    }

    /// As [`Ledger::check`], for what a node answered to [`QUERY`].
    ///
    /// # Panics
    /// If an acked update is missing there, or a refused one is there.
    #[track_caller]
    pub fn check_rows(&self, node: &str, rows: &str) {
        let found: BTreeSet<u64> = rows
            .lines()
            .filter_map(|row| row.split(':').nth(1)?.parse().ok())
            .collect();
        let lost: Vec<_> = self
            .acked
            .keys()
            .filter(|number| !found.contains(number))
            .collect();
        let risen: Vec<_> = self.refused.intersection(&found).collect();
        println!(
            "{node}: {} rows; {} acked, {} refused, {} unknown",
            found.len(),
            self.acked.len(),
            self.refused.len(),
            self.unknown.len()
        );
        assert!(!self.acked.is_empty(), "nothing was acked, so nothing was tested");
        assert!(lost.is_empty(), "acked updates are lost on {node}: {lost:?}");
        assert!(risen.is_empty(), "refused updates are on {node}: {risen:?}");
    }
}

/// Adds a row after the other, numbered from `first` on, until `enough`; `note` hears what became of each.
pub fn write_until(places: &[Places], enough: &AtomicBool, first: u64, mut note: impl FnMut(u64, Fate)) {
    let mut clients: Vec<Option<Client>> = places.iter().map(|_| None).collect();
    let mut turn = 0;
    let mut number = first;
    while !enough.load(Ordering::Relaxed) {
        let at = turn % places.len();
        if clients[at].is_none() {
            clients[at] = Client::attach(&places[at], "process-test")
                .ok()
                .map(|client| client.with_timeout(TIMEOUT));
        }
        let Some(client) = &clients[at] else {
            turn += 1;
            std::thread::sleep(PAUSE);
            continue;
        };
        number += 1;
        let row = Key::new(KEY)
            .ok()
            .and_then(|key| Row::new(key, [number.to_string(), "x".repeat(100)]).ok())
            .expect("the row is well formed");
        let fate = match client.update(Transaction::of(vec![Op::Add(row)])) {
            Ok(Applied::Committed { .. }) => Fate::Acked,
            Ok(Applied::WouldApply { .. }) => unreachable!("it is no dry run"),
            Err(CcdError::Unknown { .. } | CcdError::Wire { .. }) => Fate::Unknown,
            Err(_) => Fate::Refused,
        };
        note(number, fate);
        if fate != Fate::Acked {
            clients[at] = None;
            turn += 1;
            std::thread::sleep(PAUSE);
        }
    }
}
