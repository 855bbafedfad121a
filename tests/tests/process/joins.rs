//! A node that comes back after it has missed much, with real daemons: the others go on meanwhile. Needs root.

use ccd_client::{Client, Freshness, Transaction};
use ccd_core::database::{Key, Op, Pattern, Row};
use ccd_tests::process::cluster::BETA;
use ccd_tests::process::{Cluster, TestNode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MISSED: u64 = 2_000;

/// A node that is let in costs a reconfiguration, which waits for nothing but a few writes.
const GAP_MAX: Duration = Duration::from_millis(500);

/// Other work of the machine makes gaps longer, never shorter: so often it is tried to find one that is short enough.
const TRIES: usize = 4;

fn key() -> Key {
    Key::new("STATE").expect("a key")
}

fn row(value: u64) -> Row {
    Row::new(key(), [value.to_string()]).expect("a small row")
}

fn client(node: &TestNode) -> Client {
    Client::attach_within(node.places(), "test", Duration::from_secs(20)).expect("it listens")
}

/// The row becomes the only one.
fn replace(client: &Client, value: u64) -> bool {
    let ops = vec![Op::Remove(Pattern::all(key())), Op::Add(row(value))];
    client.update(Transaction::of(ops)).is_ok()
}

/// Asks again and again until it is told to end. Returns the longest time between two answers.
fn longest_gap(ends: &AtomicBool, mut ask: impl FnMut() -> bool) -> Duration {
    let mut longest = Duration::ZERO;
    let mut answered = Instant::now();
    while !ends.load(Ordering::Relaxed) {
        if ask() {
            longest = longest.max(answered.elapsed());
            answered = Instant::now();
        }
    }
    longest.max(answered.elapsed())
}

/// Those who ask end with the test, however that ends.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_other_node_serves_while_one_comes_back_that_has_missed_two_thousand_updates() {
    let mut cluster = Cluster::start();
    cluster.alpha().adm(&["format", "STATE", "value"]).done();
    cluster.alpha().adm(&["add", "STATE", "first"]).done();
    let mut measured = Vec::new();
    for _ in 0..TRIES {
        cluster.nodes[BETA].kill();
        cluster.alpha().wait_for("serving solo");
        let writer = client(cluster.alpha());
        for value in 0..MISSED {
            assert!(replace(&writer, value), "update {value}");
        }
        let reader = client(cluster.alpha());
        let ends = AtomicBool::new(false);
        cluster.nodes[BETA].start();
        let gaps = std::thread::scope(|scope| {
            let (ends, writer, reader) = (&ends, &writer, &reader);
            let updates = scope.spawn(move || {
                let mut value = MISSED;
                longest_gap(ends, || {
                    value += 1;
                    replace(writer, value)
                })
            });
            let queries = scope.spawn(move || {
                longest_gap(ends, || {
                    reader.query(Pattern::all(key()), Freshness::Strict).is_ok()
                })
            });
            let end = End(ends);
            let began = Instant::now();
            cluster.wait_until_redundant();
            println!("redundant {} ms after the start", began.elapsed().as_millis());
            drop(end);
            [updates, queries].map(|asking| asking.join().expect("it asked"))
        });
        println!("longest without an acked update, and without an answered query: {gaps:?}");
        cluster.verify();
        measured.push(gaps);
        if gaps.iter().all(|gap| *gap < GAP_MAX) {
            return;
        }
    }
    panic!("the survivor did not serve for {measured:?}");
}
