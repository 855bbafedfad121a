//! Watching, with real daemons: every change once and in order, whatever becomes of the daemon, the node and the network; what is
//! missed is said. Needs root.

use ccd_client::wire::{WatchFrom, WatchPlace};
use ccd_client::{Client, Transaction, WatchEvent};
use ccd_core::database::{Key, Op, Pattern, Row};
use ccd_core::ids::Generation;
use ccd_tests::process::cluster::{ALPHA, BETA};
use ccd_tests::process::follower::{Follower, Heard};
use ccd_tests::process::{Cluster, Ledger, Shape, TestNode, Writer, until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

pub(super) fn key(name: &str) -> Key {
    Key::new(name).expect("a key")
}

/// The generation that the node is at, by a strict answer.
pub(super) fn newest(node: &TestNode) -> u64 {
    let answer = node.wait_until_done(&["keys", "--json"]);
    let answer: Value = serde_json::from_str(&answer.out).expect("a document");
    answer["generation"].as_u64().expect("a number")
}

/// A cluster whose init database has these rows, too.
pub(super) fn cluster_with(rows: &[&str]) -> Cluster {
    let mut cluster = Cluster::make(Shape::default());
    for node in &cluster.nodes {
        let path = node.places().init_path();
        let text = fs::read_to_string(&path).expect("setup wrote it");
        let mut lines: Vec<&str> = text.lines().collect();
        for row in rows {
            let name = row.split(':').next().expect("a key");
            let start = format!("{name}:");
            // Rows of a key stand together.
            let behind = lines.iter().rposition(|line| line.starts_with(&start));
            lines.insert(behind.map_or(lines.len(), |at| at + 1), row);
        }
        fs::write(&path, lines.join("\n") + "\n").expect("the folder is ours");
    }
    cluster.start_both();
    cluster
}

pub(super) fn client(node: &TestNode) -> Client {
    Client::attach_within(node.places(), "test", Duration::from_secs(20)).expect("it listens")
}

pub(super) fn add(client: &Client, row: Row) {
    client
        .update(Transaction::of(vec![Op::Add(row)]))
        .expect("it is added");
}

/// What was promised of the writer's updates holds for what was told.
fn told_as_promised(ledger: &Ledger, heard: &Heard, missed: u64) {
    let counts = heard.counts();
    assert!(counts.values().all(|times| *times == 1), "told twice");
    let untold = ledger
        .acked
        .keys()
        .filter(|number| !counts.contains_key(number))
        .count() as u64;
    assert!(
        untold <= missed,
        "{untold} acked updates were not told, and {missed} said to be missed"
    );
    let refused: Vec<_> = ledger
        .refused
        .iter()
        .filter(|number| counts.contains_key(number))
        .collect();
    assert!(refused.is_empty(), "refused updates were told: {refused:?}");
    println!(
        "{} acked, {} told, {missed} missed, away {} times",
        ledger.acked.len(),
        counts.len(),
        heard.away
    );
}

#[test]
fn each_change_is_told_once_and_in_order_through_kill_restart_and_takeover() {
    let mut cluster = Cluster::start();
    let start = newest(cluster.alpha());
    let followers = [ALPHA, BETA].map(|node| Follower::start(&cluster.nodes[node], |watch| watch));
    let writer = Writer::start(&[cluster.alpha(), cluster.beta()]);
    writer.wait_for_more(100);
    // The daemon of one dies, the other takes over; it comes back.
    cluster.nodes[ALPHA].kill();
    cluster.beta().wait_for("serving solo");
    writer.wait_for_more(100);
    cluster.nodes[ALPHA].start();
    cluster.wait_until_redundant();
    writer.wait_for_more(100);
    // The other way round, and the survivor dies and restarts alone.
    cluster.nodes[BETA].kill();
    cluster.alpha().wait_for("serving solo");
    writer.wait_for_more(50);
    cluster.nodes[ALPHA].kill();
    cluster.nodes[ALPHA].start();
    cluster.alpha().wait_for("serving solo");
    writer.wait_for_more(50);
    cluster.nodes[BETA].start();
    cluster.wait_until_redundant();
    writer.wait_for_more(50);
    let ledger = writer.end();
    let newest = newest(cluster.beta());
    let missed_by = followers.map(|follower| {
        let heard = follower.end(newest);
        let missed = heard.check(start, newest);
        assert!(
            heard.diverged.is_empty(),
            "nobody overruled the votes: {:?}",
            heard.diverged
        );
        assert!(heard.away > 0 && heard.back > 0);
        told_as_promised(&ledger, &heard, missed);
        missed
    });
    println!("missed: {missed_by:?} of {newest}");
    cluster.verify();
}

#[test]
fn a_node_that_is_cut_off_says_that_it_waits_and_then_tells_the_rest() {
    let cluster = Cluster::start();
    let start = newest(cluster.beta());
    let follower = Follower::start(cluster.beta(), |watch| watch);
    let writer = Writer::start(&[cluster.alpha(), cluster.beta()]);
    writer.wait_for_more(50);
    cluster.network.cut();
    cluster.alpha().wait_for("serving solo");
    until("the watcher to hear that its node does not serve", || {
        follower.with(|heard| {
            if heard.away > 0 {
                Ok(())
            } else {
                Err("nothing".to_owned())
            }
        })
    });
    writer.wait_for_more(50);
    let reached = follower.with(|heard| heard.reached);
    let alone = newest(cluster.alpha());
    assert!(reached < alone, "what beta cannot know: {reached} of {alone}");
    cluster.network.heal();
    cluster.wait_until_redundant();
    writer.wait_for_more(50);
    let ledger = writer.end();
    let newest = newest(cluster.beta());
    let heard = follower.end(newest);
    let missed = heard.check(start, newest);
    told_as_promised(&ledger, &heard, missed);
    assert_eq!(
        missed, 0,
        "the others had the records to bring it up to date: {:?}",
        heard.missed
    );
    cluster.verify();
}

#[test]
fn the_past_is_told_from_many_files_and_goes_on_without_hole_or_repetition() {
    let cluster = cluster_with(&["OPTION:history_mib:1"]);
    let writer = Writer::start(&[cluster.alpha(), cluster.beta()]);
    writer.wait_for_more(1_500);
    let folder = cluster.alpha().places().history_dir();
    let files = fs::read_dir(folder).expect("it is there").count();
    assert!(files > 6, "{files} files");
    // While it goes on.
    let all = Follower::start(cluster.alpha(), |watch| {
        watch.from(WatchFrom::Generation(Generation(0)))
    });
    let some = Follower::start(cluster.alpha(), |watch| {
        let pattern = Pattern::from_arguments(key("LOAD"), ["number=*7"]);
        watch.pattern(pattern).from(WatchFrom::Generation(Generation(1)))
    });
    writer.wait_for_more(500);
    let ledger = writer.end();
    let newest = newest(cluster.alpha());
    let all = all.end(newest);
    assert_eq!(all.check(0, newest), 0);
    told_as_promised(&ledger, &all, 0);
    let some = some.end(newest);
    let sevens: BTreeSet<u64> = all
        .counts()
        .into_keys()
        .filter(|number| number % 10 == 7)
        .collect();
    assert_eq!(some.counts().into_keys().collect::<BTreeSet<_>>(), sevens);
    assert_eq!(some.updates.len(), sevens.len());
    // By the program, and on from the place of the last one that it printed.
    let first = cluster
        .alpha()
        .adm(&["watch", "--from", "0", "--count", "700", "--json"])
        .done();
    let last: Value = serde_json::from_str(first.rows().last().expect("a line")).expect("JSON");
    let place = last["place"].as_str().expect("a place");
    let seen = last["generation"].as_u64().expect("a number");
    let next = cluster
        .beta()
        .adm(&["watch", "--from", place, "--count", "1", "--json"])
        .done();
    let next: Value = serde_json::from_str(next.rows().last().expect("a line")).expect("JSON");
    assert_eq!(next["generation"], seen + 1, "on the other node, too");
    cluster
        .alpha()
        .adm(&["watch", "--from", "999999"])
        .expect(105)
        .says_what_to_try();
}

#[test]
fn rows_and_then_changes_are_what_a_query_finds_under_concurrent_updates() {
    let cluster = Cluster::start();
    let alpha = client(cluster.alpha());
    let writer = Writer::start(&[cluster.alpha(), cluster.beta()]);
    writer.wait_for_more(300);
    let mut followers = Vec::new();
    for turn in 0..12 {
        let node = &cluster.nodes[turn % 2];
        followers.push(Follower::start(node, |watch| match turn % 3 {
            0 => watch.with_rows(),
            1 => watch.pattern(Pattern::all(key("LOAD"))).with_rows(),
            _ => watch
                .pattern(Pattern::from_arguments(key("LOAD"), ["*3*"]))
                .with_rows(),
        }));
        // Rows go as well.
        let gone = Pattern::from_arguments(key("LOAD"), [format!("{}*", turn + 11)]);
        alpha
            .update(Transaction::of(vec![Op::Remove(gone)]))
            .expect("there are such rows");
        writer.wait_for_more(30);
    }
    let _ = writer.end();
    let newest = newest(cluster.alpha());
    let found = alpha
        .query(Pattern::all(key("LOAD")), ccd_client::Freshness::Strict)
        .expect("it serves")
        .rows;
    for (turn, follower) in followers.into_iter().enumerate() {
        let heard = follower.end(newest);
        let wanted = found
            .iter()
            .filter(|row| turn % 3 != 2 || row.values[0].contains('3'));
        assert_eq!(
            heard.rows,
            wanted.cloned().collect::<BTreeSet<_>>(),
            "watcher {turn}"
        );
        assert!(heard.rows_at.is_some() && heard.missed.is_empty());
    }
}

#[test]
fn a_branch_that_lost_is_told_to_who_watched_it() {
    let mut cluster = Cluster::start();
    let alpha = client(cluster.alpha());
    let columns = vec!["what".to_owned()];
    alpha
        .update(Transaction::of(vec![Op::Format {
            key: key("K"),
            columns,
        }]))
        .expect("it is made");
    let row = |text: &str| Row::new(key("K"), [text]).expect("a row");
    add(&alpha, row("both"));
    let follower = Follower::start(cluster.alpha(), |watch| watch);
    let common = newest(cluster.alpha());
    // Alpha goes on alone, on the devices; then it is away with them, and an operator lets beta go on from its own copy.
    cluster.nodes[BETA].kill();
    cluster.alpha().wait_for("serving solo");
    for number in 0..5 {
        add(&client(cluster.alpha()), row(&format!("lost{number}")));
    }
    let lost = newest(cluster.alpha());
    follower.wait_for(lost);
    cluster.nodes[ALPHA].kill();
    for device in &cluster.devices {
        device.replace();
    }
    cluster.nodes[BETA].start();
    cluster.beta().wait_for("waiting");
    cluster
        .beta()
        .ctl(&["takeover", "--force", "--cluster", "test"])
        .done();
    until("beta to serve", || match cluster.beta().state() {
        state if state.starts_with("serving") => Ok(()),
        state => Err(state),
    });
    add(&client(cluster.beta()), row("won"));
    for device in &cluster.devices {
        device.repair();
    }
    cluster.nodes[ALPHA].start();
    until("alpha to serve what beta does", || {
        let found = cluster.alpha().adm(&["query", "K"]);
        if found.rows() == ["K:both", "K:won"] {
            Ok(())
        } else {
            Err(found.out + &found.err)
        }
    });
    until("the watcher to hear that it was on a branch that lost", || {
        follower.with(|heard| match heard.diverged.first() {
            Some(_) => Ok(()),
            None => Err(format!("{:?} {:?}", heard.generations(), heard.missed)),
        })
    });
    add(&client(cluster.beta()), row("after"));
    let newest = newest(cluster.beta());
    let heard = follower.end(newest);
    let (after, up_to) = heard.diverged[0];
    assert!(
        (common..=lost).contains(&after),
        "{after} {up_to}, and {lost} was seen"
    );
    assert_eq!(heard.diverged.len(), 1, "{:?}", heard.diverged);
    assert_eq!(heard.updates.last().expect("an update").generation.0, newest);
    // Who asks for the rows anew has those that there are.
    let rows = Follower::start(cluster.alpha(), |watch| {
        watch.pattern(Pattern::all(key("K"))).with_rows()
    });
    let rows = rows.end(newest).rows;
    assert_eq!(
        rows,
        [row("after"), row("both"), row("won")].into_iter().collect()
    );
}

/// What a watch from this place is told first, beside that it began.
fn first_told(node: &TestNode, place: WatchPlace) -> WatchEvent {
    let client = client(node);
    let mut watch = client
        .watch()
        .from(WatchFrom::Place(place))
        .start()
        .expect("it may watch");
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        match watch.next(Some(Duration::from_secs(5))).expect("it goes on") {
            Some(WatchEvent::Began { .. } | WatchEvent::Away { .. } | WatchEvent::Back) | None => {}
            Some(event) => return event,
        }
    }
    panic!("nothing was told");
}

#[test]
fn whoever_goes_on_at_a_node_that_took_over_by_the_devices_has_missed_and_not_diverged() {
    // With its history, and without its state folder.
    for is_wiped in [false, true] {
        let mut cluster = Cluster::start();
        let writer = Writer::start(&[cluster.alpha(), cluster.beta()]);
        writer.wait_for_more(100);
        cluster.nodes[BETA].kill();
        cluster.alpha().wait_for("serving solo");
        writer.wait_for_more(50);
        // A program deals with what it is told, stores its place, and ends.
        let alpha = client(cluster.alpha());
        let mut watch = alpha.watch().start().expect("it may watch");
        let place = loop {
            let event = watch.next(Some(Duration::from_secs(20))).expect("it goes on");
            if let Some(WatchEvent::Change(change)) = event {
                break change.place;
            }
        };
        drop(watch);
        writer.wait_for_more(20);
        cluster.nodes[ALPHA].kill();
        let ledger = writer.end();
        if is_wiped {
            fs::remove_dir_all(&cluster.beta().places().state).expect("the folder is ours");
        }
        cluster.nodes[BETA].start();
        cluster.beta().wait_for("serving solo");
        ledger.check(cluster.beta());
        let beta = newest(cluster.beta());
        match first_told(cluster.beta(), place) {
            WatchEvent::Missed { after, place: up_to } => {
                assert_eq!(after, place.seen);
                assert!(up_to.seen.0 <= beta);
            }
            // What came after the place is known.
            WatchEvent::Change(change) => assert_eq!(change.update.generation.0, place.seen.0 + 1),
            other => panic!("is_wiped {is_wiped}: {other:?}"),
        }
        let branches = cluster.beta().adm(&["branches", "--json"]);
        let branches: Value = serde_json::from_str(&branches.out).expect("a document");
        assert_eq!(branches["branches"], Value::Array(Vec::new()), "nothing was lost");
    }
}
