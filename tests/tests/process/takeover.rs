//! What happens to a pair when a node dies, hangs or leaves, with real daemons. Needs root.

use ccd_tests::process::cluster::{ALPHA, BETA};
use ccd_tests::process::{Cluster, Writer, until};
use std::time::{Duration, Instant};

/// What a takeover may take on a machine that does other things, too. What it takes is printed.
const GENEROUS: Duration = Duration::from_secs(5);

const LEASE: Duration = Duration::from_secs(1);

#[test]
fn an_update_on_one_node_is_seen_by_a_strict_query_on_the_other() {
    let cluster = Cluster::start();
    cluster.alpha().adm(&["format", "MY_KEY", "name", "value"]).done();
    for round in 0..20 {
        let value = round.to_string();
        let (writer, reader) = if round % 2 == 0 {
            (cluster.alpha(), cluster.beta())
        } else {
            (cluster.beta(), cluster.alpha())
        };
        writer.adm(&["add", "MY_KEY", "round", &value]).done();
        let found = reader.adm(&["query", "MY_KEY", "round", &value]).done();
        assert_eq!(found.rows(), [format!("MY_KEY:round:{value}")]);
    }
    cluster.verify();
}

#[test]
fn the_survivor_of_a_killed_master_goes_on_and_so_does_the_next_lone_start() {
    let mut cluster = Cluster::start();
    let writer = Writer::start(&[cluster.beta(), cluster.alpha()]);
    writer.wait_for_more(50);

    cluster.nodes[ALPHA].kill();
    let killed = Instant::now();
    let took = writer.first_ack_after(killed + Duration::from_millis(100));
    println!(
        "first ack {} ms after kill -9 of the master",
        took.as_millis() + 100
    );
    assert!(took < GENEROUS, "the takeover took {took:?}");
    cluster.beta().wait_for("serving solo");
    writer.wait_for_more(50);

    cluster.nodes[BETA].kill();
    let ledger = writer.end();
    cluster.nodes[BETA].start();
    let restarted = cluster.beta().wait_for("serving solo");
    println!("serving {} ms after the lone start", restarted.as_millis());
    ledger.check(cluster.beta());

    cluster.beta().adm(&["format", "AFTER", "what"]).done();
    cluster.beta().adm(&["add", "AFTER", "alone"]).done();
    cluster.nodes[ALPHA].start();
    cluster.wait_until_redundant();
    for node in &cluster.nodes {
        ledger.check(node);
        node.adm(&["query", "AFTER", "alone"]).done();
    }
    cluster.verify();
}

#[test]
fn the_master_goes_on_when_the_other_node_is_killed() {
    let mut cluster = Cluster::start();
    let writer = Writer::start(&[cluster.alpha(), cluster.beta()]);
    writer.wait_for_more(50);
    cluster.nodes[BETA].kill();
    let killed = Instant::now();
    let took = writer.first_ack_after(killed + Duration::from_millis(100));
    println!(
        "first ack {} ms after kill -9 of the other",
        took.as_millis() + 100
    );
    assert!(took < GENEROUS, "going on took {took:?}");
    cluster.alpha().wait_for("serving solo");
    cluster.nodes[BETA].start();
    cluster.wait_until_redundant();
    writer.wait_for_more(10);
    let ledger = writer.end();
    for node in &cluster.nodes {
        ledger.check(node);
    }
}

#[test]
fn a_stopped_master_is_replaced_and_serves_nothing_old_when_it_goes_on() {
    let mut cluster = Cluster::start();
    cluster.alpha().adm(&["format", "STATE", "what"]).done();
    cluster.alpha().adm(&["add", "STATE", "old"]).done();
    let writer = Writer::start(&[cluster.beta()]);
    writer.wait_for_more(20);

    cluster.alpha().stop();
    cluster.beta().wait_for("serving solo");
    cluster.beta().adm(&["remove", "STATE", "old"]).done();
    cluster.beta().adm(&["add", "STATE", "new"]).done();
    writer.wait_for_more(20);

    // Asked while it is stopped, answered when it goes on: either not at all or with what is true now.
    let asked = std::thread::scope(|scope| {
        let questions: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| cluster.alpha().adm(&["query", "STATE", "--timeout", "4s"])))
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        cluster.alpha().resume();
        questions
            .into_iter()
            .map(|asked| asked.join().expect("it was asked"))
            .collect::<Vec<_>>()
    });
    for answer in asked {
        assert!(
            answer.out.is_empty() || answer.out == "STATE:new\n",
            "a stopped node served {:?}",
            answer.out
        );
    }
    cluster.wait_until_redundant();
    let ledger = writer.end();
    for node in &cluster.nodes {
        ledger.check(node);
        assert_eq!(node.adm(&["query", "STATE"]).done().out, "STATE:new\n");
    }
    cluster.verify();
    cluster.nodes[BETA].terminate();
}

#[test]
fn a_stopped_solo_owner_acks_nothing_that_its_successor_does_not_have() {
    let mut cluster = Cluster::start();
    cluster.alpha().adm(&["format", "STATE", "what"]).done();
    cluster.nodes[BETA].kill();
    cluster.alpha().wait_for("serving solo");
    let writer = Writer::start(&[cluster.alpha(), cluster.beta()]);
    writer.wait_for_more(20);
    cluster.nodes[BETA].start();
    // Stopped at some moment of the other's coming back: before, during or after.
    cluster.alpha().stop();
    let (_, took) = until("beta to serve, or to say why it may not", || {
        match cluster.beta().state() {
            state if state == "serving solo" => Ok(()),
            // A node that was not yet told the configuration takes over only with both devices, which it has.
            state => Err(state),
        }
    });
    println!("took over from a stopped owner after {} ms", took.as_millis());
    writer.wait_for_more(10);
    cluster.alpha().resume();
    cluster.wait_until_redundant();
    writer.wait_for_more(10);
    let ledger = writer.end();
    for node in &cluster.nodes {
        ledger.check(node);
    }
    cluster.verify();
}

#[test]
fn a_graceful_leave_costs_no_lease_and_a_join_brings_the_node_back() {
    let cluster = Cluster::start();
    let writer = Writer::start(&[cluster.beta()]);
    writer.wait_for_more(20);
    let left = Instant::now();
    cluster.alpha().ctl(&["leave"]).done();
    let answered = left.elapsed();
    let took = writer.first_ack_after(left + answered);
    println!(
        "leave answered after {} ms, next ack {} ms later",
        answered.as_millis(),
        took.as_millis()
    );
    cluster.beta().wait_for("serving solo");
    assert!(
        answered + took < LEASE,
        "a graceful leave waited for a lease: {answered:?} and {took:?}"
    );
    assert_eq!(cluster.alpha().state(), "left");
    let refused = cluster.alpha().adm(&["query", "LOAD", "1"]).expect(2);
    refused.says_what_to_try();
    cluster.alpha().adm(&["query", "--stale", "LOAD", "1"]).done();
    cluster.alpha().ctl(&["join"]).done();
    cluster.wait_until_redundant();
    let ledger = writer.end();
    for node in &cluster.nodes {
        ledger.check(node);
    }
}

#[test]
fn a_node_that_missed_more_than_a_journal_holds_rejoins() {
    let mut cluster = Cluster::start();
    let writer = Writer::start(&[cluster.alpha()]);
    cluster.nodes[BETA].kill();
    cluster.alpha().wait_for("serving solo");
    // The journals of a test cluster have 512 blocks, of which each update takes one.
    writer.wait_for_more(1200);
    let ledger = writer.end();
    cluster.nodes[BETA].start();
    cluster.wait_until_redundant();
    for node in &cluster.nodes {
        ledger.check(node);
    }
    cluster.verify();
}

#[test]
fn a_daemon_that_is_told_to_end_hands_over_at_once() {
    let mut cluster = Cluster::start();
    let writer = Writer::start(&[cluster.beta()]);
    writer.wait_for_more(20);
    let told = Instant::now();
    let status = cluster.nodes[ALPHA].terminate();
    let ended = told.elapsed();
    assert!(status.success(), "it ended with {status}");
    let took = writer.first_ack_after(told + ended);
    println!(
        "ended after {} ms, next ack {} ms later",
        ended.as_millis(),
        took.as_millis()
    );
    cluster.beta().wait_for("serving solo");
    assert!(
        ended + took < LEASE,
        "a graceful end waited for a lease: {ended:?} and {took:?}"
    );
    cluster.nodes[ALPHA].start();
    cluster.wait_until_redundant();
    let ledger = writer.end();
    for node in &cluster.nodes {
        ledger.check(node);
    }
}
