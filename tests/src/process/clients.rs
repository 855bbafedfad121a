//! Many clients at once, through every node, and what they did and heard: a history for the linearizability checker.

use super::node::TestNode;
use crate::sim::Random;
use crate::sim::client::{Asked, asked, cell_of, format};
use crate::sim::history::{Call, Cell, Cells, Heard, Instant, Operation};
use crate::sim::linear::{Verdict, check};
use ccd_client::{Applied, CcdError, Client, Freshness, Places, Transaction};
use ccd_core::client::Refusal;
use ccd_core::database::Op;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Keys that the clients work on, and registers in each.
const KEYS: usize = 12;
const REGISTERS: u64 = 3;

/// Short, so that clients soon ask another node.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Between two requests of one client: the checker's work grows with what happens at the same time.
const THINKS_MS: u64 = 30;

/// What all clients share.
#[derive(Debug, Default)]
struct Shared {
    enough: AtomicBool,
    /// The one order in which calls and returns are seen.
    moment: AtomicU64,
    next_value: AtomicU32,
    acked: AtomicU64,
    history: Mutex<Vec<Operation>>,
}

impl Shared {
    fn moment(&self) -> Instant {
        Instant(self.moment.fetch_add(1, Ordering::SeqCst))
    }
}

/// Threads that ask, until [`Clients::end`].
#[derive(Debug)]
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Defines the keys, and starts so many clients, each with a node of its own to begin with.
    pub fn start(nodes: &[TestNode], count: usize, random: &mut Random) -> Self {
        let places: Vec<Places> = nodes.iter().map(|node| node.places().clone()).collect();
        let client = Client::attach(&places[0], "process-test").expect("the cluster serves");
        let formats: Vec<Op> = (0..KEYS).map(format).collect();
        client
            .update(Transaction::of(formats))
            .expect("the cluster takes updates");
        let shared = Arc::new(Shared::default());
        let threads = (0..count)
            .map(|index| {
                let mut one = One {
                    shared: shared.clone(),
                    places: places.clone(),
                    random: random.fork("client"),
                    at: index % places.len(),
                    client: None,
                    known: vec![Cells::new(); KEYS],
                };
                std::thread::spawn(move || {
                    while !one.shared.enough.load(Ordering::Relaxed) {
                        one.act();
                    }
                })
            })
            .collect();
        Self { shared, threads }
    }

    pub fn acked(&self) -> u64 {
        self.shared.acked.load(Ordering::Relaxed)
    }

    /// Waits until so many more updates are acked.
    pub fn wait_for_more(&self, more: u64) {
        super::until::until_more("acked updates", more, || self.acked());
    }

    /// Ends the clients, and lets each node say what it holds: part of the history, too.
    ///
    /// # Panics
    /// If there is no order of all operations that explains what every client heard.
    pub fn end_and_check(mut self, nodes: &[TestNode]) {
        self.shared.enough.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client does not panic");
        }
        for (at, node) in nodes.iter().enumerate() {
            let mut reader = One {
                shared: self.shared.clone(),
                places: nodes.iter().map(|node| node.places().clone()).collect(),
                random: Random::new(0),
                at,
                client: None,
                known: vec![Cells::new(); KEYS],
            };
            for object in 0..KEYS {
                let call = Call::Read { register: None };
                let (what, _) = super::until::until(&format!("{} to answer", node.name), || {
                    reader.at = at;
                    reader.attach();
                    reader.ask(object, call.clone()).ok_or_else(|| node.verdict())
                });
                assert!(matches!(what, Heard::Rows(_)));
            }
        }
        let history = std::mem::take(&mut *self.shared.history.lock().expect("no client panicked"));
        let unknown = history
            .iter()
            .filter(|operation| operation.heard == Heard::Unknown);
        println!(
            "{} operations, {} acked updates, {} of unknown outcome",
            history.len(),
            self.acked(),
            unknown.count()
        );
        let values: BTreeSet<usize> = history.iter().map(|operation| operation.object).collect();
        assert_eq!(values.len(), KEYS, "every key was used");
        match check(&history) {
            Verdict::Linearizable => {}
            other => panic!("no order explains what the clients heard: {other:?}"),
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.enough.store(true, Ordering::Relaxed);
    }
}

/// One client.
struct One {
    shared: Arc<Shared>,
    places: Vec<Places>,
    random: Random,
    at: usize,
    client: Option<Client>,
    /// What it last read: exchanges need a row that may be there.
    known: Vec<Cells>,
}

impl One {
    fn act(&mut self) {
        let object = self.random.below(KEYS as u64) as usize;
        if self.random.chance(50) {
            self.go_elsewhere();
        }
        self.attach();
        let call = self.draw_call(object);
        if self.ask(object, call).is_none() {
            self.go_elsewhere();
        }
        let pause = Duration::from_millis(self.random.below(THINKS_MS));
        std::thread::sleep(pause);
    }

    fn attach(&mut self) {
        if self.client.is_none() {
            let client = Client::attach_within(&self.places[self.at], "process-test", TIMEOUT);
            self.client = client.ok();
        }
    }

    fn go_elsewhere(&mut self) {
        self.client = None;
        self.at = self.random.below(self.places.len() as u64) as usize;
    }

    fn draw_call(&mut self, object: usize) -> Call {
        let register = self.random.below(REGISTERS) as u8;
        let value = self.shared.next_value.fetch_add(1, Ordering::Relaxed) + 1;
        let cell = (register, value);
        let known: Vec<Cell> = self.known[object].iter().copied().collect();
        match self.random.below(100) {
            0..20 => Call::Add { cell },
            20..40 => Call::Replace { cell },
            40..55 if !known.is_empty() => Call::Exchange {
                from: *self.random.pick(&known),
                to: cell,
            },
            55..60 => Call::Clear { register },
            60..80 => Call::Read {
                register: Some(register),
            },
            _ => Call::Read { register: None },
        }
    }

    /// Asks once (the library repeats what is safe to repeat); what certainly was not done is no part of the history:
    /// should it be seen nevertheless, nothing explains it.
    fn ask(&mut self, object: usize, call: Call) -> Option<Heard> {
        let client = self.client.as_ref()?;
        let called = self.shared.moment();
        let heard = match asked(object, &call) {
            Asked::Rows(pattern) => {
                let rows = client.query(pattern, Freshness::Strict).ok()?.rows;
                Heard::Rows(rows.iter().filter_map(cell_of).collect())
            }
            Asked::Change { preconditions, ops } => {
                let transaction = Transaction {
                    preconditions,
                    ..Transaction::of(ops)
                };
                match client.update(transaction) {
                    Ok(Applied::Committed { removed, .. }) => {
                        self.shared.acked.fetch_add(1, Ordering::Relaxed);
                        Heard::Applied { removed }
                    }
                    Ok(Applied::WouldApply { .. }) => unreachable!("it is no dry run"),
                    Err(CcdError::Refused(Refusal::Op(_))) => Heard::Refused,
                    Err(CcdError::Unknown { .. } | CcdError::Wire { .. }) => Heard::Unknown,
                    Err(_) => return None,
                }
            }
        };
        if let (Heard::Rows(cells), Call::Read { register: None }) = (&heard, &call) {
            self.known[object] = cells.clone();
        }
        let returned = self.shared.moment();
        let operation = Operation {
            object,
            called,
            returned,
            call,
            heard: heard.clone(),
        };
        let mut history = self
            .shared
            .history
            .lock()
            .expect("no client panics with the lock");
        history.push(operation);
        Some(heard)
    }
}
