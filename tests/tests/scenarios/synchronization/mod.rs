//! Synchronization commands in the protocol: the freeze before an update of a key that has one, and the unfreeze after it,
//! with every way in which commands, nodes and messages fail.

mod dry_runs;

use ccd_core::client::{Answer, Refusal, RequestBody};
use ccd_core::configuration::RestoreFlag;
use ccd_core::database::{Content, Key, Op, Pattern};
use ccd_core::ids::{NodeSet, Position, RequestId};
use ccd_core::synchronization::Operation;
use ccd_tests::sim::asks::{AskEnd, Asker};
use ccd_tests::sim::client::{format, key, update};
use ccd_tests::sim::commands::{Behaviour, SYNC_TIMEOUT, set_command, unfreeze_of};
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED, row};
use core::time::Duration;

const THREE: Shape = Shape { nodes: 3, devices: 0 };

/// Longer than any command of these scenarios.
const PATIENCE: Duration = Duration::from_secs(5);

/// A cluster whose key `K` has this command, and a key `K1` without one.
fn cluster(shape: Shape, command: &str) -> Cluster {
    let mut cluster = Cluster::serving(shape);
    let mut ops = set_command(&key(0), command);
    ops.push(format(1));
    let end = change(&mut cluster, 0, 1, ops);
    assert!(is_committed(&end), "{end:?}");
    assert!(cluster.commands.ran.is_empty(), "nothing had a command yet");
    cluster
}

fn request(sequence: u64) -> RequestId {
    RequestId {
        client: 0x5c,
        sequence,
    }
}

fn change(cluster: &mut Cluster, server: usize, sequence: u64, ops: Vec<Op>) -> AskEnd {
    let body = RequestBody::Update(update(request(sequence), Vec::new(), ops, false));
    cluster.call(server, body, PATIENCE)
}

fn is_committed(end: &AskEnd) -> bool {
    matches!(end, AskEnd::Reply(Ok(Answer::Committed { .. })))
}

/// The node that refused, and what it said.
fn veto(end: &AskEnd) -> Option<(usize, bool, String)> {
    match end {
        AskEnd::Reply(Err(Refusal::Vetoed { node, veto })) => {
            Some((node.index(), veto.timed_out, veto.why.clone()))
        }
        _ => None,
    }
}

fn position(cluster: &mut Cluster, server: usize) -> Position {
    match cluster.command(server, RequestBody::Snapshot { stale: false }) {
        AskEnd::Reply(Ok(Answer::Snapshot(database))) => database.position(),
        other => panic!("{other:?}"),
    }
}

fn settle(cluster: &mut Cluster) {
    cluster.run_for(Duration::from_millis(300));
}

#[test]
fn every_node_runs_the_command_before_and_after_with_the_state_as_it_stands() {
    for (shape, asked) in [(Shape::PAIR, 0), (Shape::PAIR, 1), (THREE, 2)] {
        let mut cluster = cluster(shape, "agrees");
        let before = position(&mut cluster, 0);
        let end = change(&mut cluster, asked, 2, vec![Op::Add(row("x"))]);
        assert!(is_committed(&end), "{end:?}");
        settle(&mut cluster);
        let after = position(&mut cluster, 0);
        for server in 0..shape.nodes {
            assert_eq!(cluster.commands.keywords(server), ["pre_add", "post_add"]);
        }
        for ran in &cluster.commands.ran {
            let pre = ran.keyword.name() == "pre_add";
            assert_eq!(ran.position, if pre { before } else { after });
            assert_eq!(ran.row.as_deref(), Some("K0:r0:x"));
            assert_eq!((ran.nodes, ran.nodes_up), (shape.nodes, shape.nodes));
        }
    }
}

#[test]
fn the_keyword_says_what_kind_of_update_it_is_and_only_single_rows_are_named() {
    let mut cluster = cluster(Shape::PAIR, "agrees");
    let content = Content {
        formats: vec![(key(0), vec!["register".into(), "value".into()])],
        rows: vec![row("y")],
    };
    let restore = RestoreFlag::AllActive;
    let one_key = Op::ReplaceKey {
        key: key(0),
        content,
        restore,
    };
    let steps: [(Vec<Op>, [&str; 2], Option<&str>); 5] = [
        (vec![Op::Add(row("a"))], ["pre_add", "post_add"], Some("K0:r0:a")),
        (
            vec![Op::Add(row("b")), Op::Add(row("c"))],
            ["pre_apply", "post_apply"],
            None,
        ),
        (
            vec![Op::Remove(Pattern::exact(&row("a")))],
            ["pre_remove", "post_remove"],
            Some("K0:r0:a"),
        ),
        (
            vec![Op::Remove(Pattern::all(key(0)))],
            ["pre_remove", "post_remove"],
            None,
        ),
        (vec![one_key], ["pre_restore", "post_restore"], None),
    ];
    for (index, (ops, keywords, text)) in steps.into_iter().enumerate() {
        cluster.commands.ran.clear();
        let end = change(&mut cluster, 1, 10 + index as u64, ops);
        assert!(is_committed(&end), "{keywords:?}: {end:?}");
        settle(&mut cluster);
        for server in 0..2 {
            assert_eq!(cluster.commands.keywords(server), keywords);
        }
        for ran in &cluster.commands.ran {
            assert_eq!(ran.row.as_deref(), text, "{keywords:?}");
        }
    }
}

#[test]
fn keys_without_a_command_run_none_and_neither_does_who_asks_for_none() {
    let mut cluster = cluster(Shape::PAIR, "refuses");
    let other = ccd_core::database::Row::new(key(1), ["r0", "x"]).unwrap();
    let end = change(&mut cluster, 1, 2, vec![Op::Add(other)]);
    assert!(is_committed(&end), "{end:?}");
    let mut asked = update(request(3), Vec::new(), vec![Op::Add(row("x"))], false);
    asked.no_sync = true;
    let end = cluster.call(1, RequestBody::Update(asked), PATIENCE);
    assert!(is_committed(&end), "{end:?}");
    settle(&mut cluster);
    assert!(cluster.commands.ran.is_empty(), "{:?}", cluster.commands.ran);
}

#[test]
fn a_refusal_on_any_node_is_what_the_client_hears_and_nothing_is_changed() {
    for (shape, refuses) in [(Shape::PAIR, 0), (Shape::PAIR, 1), (THREE, 1), (THREE, 2)] {
        for asked in 0..shape.nodes {
            let mut cluster = cluster(shape, "agrees");
            cluster.commands.behave(refuses, "agrees", Behaviour::Refuses);
            let before = position(&mut cluster, 0);
            let end = change(&mut cluster, asked, 2, vec![Op::Add(row("x"))]);
            let (node, timed_out, why) = veto(&end).unwrap_or_else(|| panic!("{end:?}"));
            assert_eq!((node, timed_out), (refuses, false));
            assert!(
                why.contains("exit code 3") && why.contains(&format!("no room on node {refuses}")),
                "{why}"
            );
            settle(&mut cluster);
            assert_eq!(position(&mut cluster, 0), before);
            for server in 0..shape.nodes {
                // Word of the refusal may overtake the request: a third node then runs neither.
                let ran = cluster.commands.keywords(server);
                let never_began = ran.is_empty() && ![0, refuses].contains(&server);
                assert!(
                    never_began || ran == ["pre_add", "post_rollback"],
                    "{server}: {ran:?}"
                );
            }
            // The cluster is as ready as before.
            cluster.commands.behave(refuses, "agrees", Behaviour::Agrees);
            let end = change(&mut cluster, asked, 3, vec![Op::Add(row("x"))]);
            assert!(is_committed(&end), "{end:?}");
        }
    }
}

#[test]
fn a_command_that_never_ends_refuses_its_update_and_holds_up_nothing_after_that() {
    for hangs in 0..3 {
        let mut cluster = cluster(THREE, "agrees");
        cluster.commands.behave(hangs, "agrees", Behaviour::NeverEnds);
        let epoch = cluster.configuration().epoch;
        let begun = cluster.now;
        let end = change(&mut cluster, 1, 2, vec![Op::Add(row("x"))]);
        let (node, timed_out, why) = veto(&end).unwrap_or_else(|| panic!("{end:?}"));
        assert_eq!((node, timed_out), (hangs, true), "{why}");
        assert!(why.contains("killed after 800 ms: still at it"), "{why}");
        let took = cluster.now.since(begun);
        assert!(
            took >= SYNC_TIMEOUT * 9 / 10 && took < SYNC_TIMEOUT * 2,
            "{took:?}"
        );
        // Heartbeats and leases went on: nobody was left out.
        settle(&mut cluster);
        assert_eq!(cluster.configuration().epoch, epoch);
        let other = ccd_core::database::Row::new(key(1), ["r0", "x"]).unwrap();
        let end = change(&mut cluster, 1, 3, vec![Op::Add(other)]);
        assert!(is_committed(&end), "{end:?}");
    }
}

#[test]
fn a_freeze_ends_before_the_requests_time_out_with_a_definite_answer() {
    let mut cluster = cluster(THREE, "never-ends");
    for (asked, timeout_ms) in [(0, 600), (1, 600), (2, 400)] {
        let body = RequestBody::Update(update(
            request(10 + asked as u64),
            Vec::new(),
            vec![Op::Add(row("x"))],
            false,
        ));
        let end = cluster.call(asked, body, Duration::from_millis(timeout_ms));
        let (_, timed_out, why) = veto(&end).unwrap_or_else(|| panic!("{end:?}"));
        assert!(timed_out, "{why}");
        // The unfreeze is killed as well.
        cluster.run_for(SYNC_TIMEOUT * 2);
    }
}

#[test]
fn a_slow_command_is_waited_for_and_meanwhile_queries_are_answered_and_updates_wait() {
    let mut cluster = cluster(Shape::PAIR, "slow");
    let begun = cluster.now;
    let body = RequestBody::Update(update(request(2), Vec::new(), vec![Op::Add(row("x"))], false));
    let slow = cluster.ask(1, Asker::Script, body, PATIENCE).expect("it runs");
    cluster.run_for(Duration::from_millis(50));
    assert_eq!(cluster.rows(0), Some(Vec::new()));
    assert_eq!(cluster.rows(1), Some(Vec::new()));
    let other = |value: &str| ccd_core::database::Row::new(key(1), ["r0", value]).unwrap();
    let mut impatient = update(request(3), Vec::new(), vec![Op::Add(other("x"))], true);
    impatient.no_wait = true;
    let busy = cluster.call(0, RequestBody::Update(impatient), PATIENCE);
    assert!(matches!(busy, AskEnd::Reply(Err(Refusal::Busy))), "{busy:?}");
    let end = change(&mut cluster, 0, 4, vec![Op::Add(other("y"))]);
    assert!(is_committed(&end), "{end:?}");
    let end = cluster.await_end(slow);
    assert!(is_committed(&end), "{end:?}");
    assert!(cluster.now.since(begun) >= Duration::from_millis(300));
}

#[test]
fn an_update_that_cannot_be_done_runs_nothing() {
    let mut cluster = cluster(Shape::PAIR, "agrees");
    let missing = Op::Remove(Pattern::positional(key(0), ["nothing"]));
    let end = change(&mut cluster, 0, 2, vec![missing]);
    assert!(matches!(end, AskEnd::Reply(Err(Refusal::Op(_)))), "{end:?}");
    settle(&mut cluster);
    assert!(cluster.commands.ran.is_empty());
}

#[test]
fn several_commands_of_one_update_run_one_after_the_other_until_one_refuses() {
    let mut cluster = cluster(Shape::PAIR, "a-first");
    let end = change(&mut cluster, 0, 2, set_command(&key(1), "b-second"));
    assert!(is_committed(&end), "{end:?}");
    let other = |value: &str| ccd_core::database::Row::new(key(1), ["r0", value]).unwrap();
    let end = change(&mut cluster, 1, 3, vec![Op::Add(row("x")), Op::Add(other("x"))]);
    assert!(is_committed(&end), "{end:?}");
    settle(&mut cluster);
    let names = |cluster: &Cluster, server| -> Vec<String> {
        let here = cluster.commands.ran.iter().filter(|ran| ran.server == server);
        here.map(|ran| format!("{} {}", ran.keyword, ran.name)).collect()
    };
    let both = [
        "pre_apply a-first",
        "pre_apply b-second",
        "post_apply a-first",
        "post_apply b-second",
    ];
    assert_eq!(names(&cluster, 0), both);
    assert_eq!(names(&cluster, 1), both);
    cluster.commands.ran.clear();
    cluster.commands.behave(0, "a-first", Behaviour::Refuses);
    let end = change(&mut cluster, 1, 4, vec![Op::Add(row("y")), Op::Add(other("y"))]);
    assert_eq!(veto(&end).map(|(node, ..)| node), Some(0), "{end:?}");
    settle(&mut cluster);
    assert_eq!(
        names(&cluster, 0),
        [
            "pre_apply a-first",
            "post_rollback a-first",
            "post_rollback b-second"
        ]
    );
}

#[test]
fn a_solo_owner_runs_its_commands() {
    let mut cluster = cluster(Shape::PAIR, "agrees");
    cluster.crash(1, true);
    let solo = NodeSet::of(cluster.node_id(0));
    assert!(cluster.reaches(SETTLED, |configuration| configuration.members == solo));
    assert!(cluster.serves_within(0, SETTLED));
    let end = change(&mut cluster, 0, 2, vec![Op::Add(row("x"))]);
    assert!(is_committed(&end), "{end:?}");
    settle(&mut cluster);
    assert_eq!(cluster.commands.keywords(0), ["pre_add", "post_add"]);
    assert!(
        cluster
            .commands
            .ran
            .iter()
            .all(|ran| (ran.nodes, ran.nodes_up) == (2, 1))
    );
    cluster.commands.behave(0, "agrees", Behaviour::Refuses);
    let end = change(&mut cluster, 0, 3, vec![Op::Add(row("y"))]);
    assert!(veto(&end).is_some(), "{end:?}");
}

#[test]
fn a_member_that_dies_in_the_freeze_is_left_out_and_the_update_begins_anew() {
    let mut cluster = cluster(Shape::PAIR, "agrees");
    cluster.commands.behave(1, "agrees", Behaviour::NeverEnds);
    let body = RequestBody::Update(update(request(2), Vec::new(), vec![Op::Add(row("x"))], false));
    let asked = cluster
        .ask(0, Asker::Script, body, Duration::from_secs(20))
        .expect("it runs");
    cluster.run_for(Duration::from_millis(50));
    cluster.crash(1, true);
    let end = cluster.await_end(asked);
    assert!(is_committed(&end), "{end:?}");
    settle(&mut cluster);
    assert_eq!(
        cluster.commands.keywords(0),
        ["pre_add", "post_rollback", "pre_add", "post_add"],
        "the freeze ended with its configuration"
    );
}

#[test]
fn a_node_that_leaves_in_the_freeze_is_not_held_up_by_it() {
    let mut cluster = cluster(Shape::PAIR, "never-ends");
    let body = RequestBody::Update(update(request(2), Vec::new(), vec![Op::Add(row("x"))], false));
    cluster.ask(0, Asker::Script, body, PATIENCE).expect("it runs");
    cluster.run_for(Duration::from_millis(20));
    let begun = cluster.now;
    let left = cluster.call(1, RequestBody::Leave, PATIENCE);
    assert!(matches!(left, AskEnd::Reply(Ok(Answer::Done))), "{left:?}");
    assert!(
        cluster.now.since(begun) < SYNC_TIMEOUT / 2,
        "{:?}",
        cluster.now.since(begun)
    );
}

/// Whatever happens to the master, in whatever moment: each survivor's freeze is followed by one unfreeze, and that says what
/// the database shows.
#[test]
fn wherever_the_master_dies_each_freeze_ends_as_the_update_did() {
    for shape in [Shape::PAIR, THREE] {
        for steps in 0..40 {
            let mut cluster = cluster(shape, "agrees");
            let body = RequestBody::Update(update(request(2), Vec::new(), vec![Op::Add(row("x"))], false));
            cluster.dies_after = Some((0, steps));
            // The client of another node asks again by itself, as nodes do for theirs.
            let asked = cluster
                .ask(1, Asker::Script, body, Duration::from_secs(30))
                .expect("it runs");
            let end = cluster.await_end(asked);
            cluster.dies_after = None;
            assert!(cluster.serves_within(1, SETTLED), "{shape:?} {steps}");
            cluster.settle();
            let there = cluster.rows(1).expect("it answers").contains(&"x".to_owned());
            assert!(
                there || !is_committed(&end),
                "{shape:?} {steps}: acked, and not there: {end:?}"
            );
            for server in 1..shape.nodes {
                let keywords = cluster.commands.keywords(server);
                assert_eq!(keywords.len() % 2, 0, "{shape:?} {steps}: n{server} {keywords:?}");
                for pair in keywords.chunks(2) {
                    assert_eq!(pair[0], "pre_add", "{shape:?} {steps}: n{server} {keywords:?}");
                }
                if let Some(last) = keywords.last() {
                    assert_eq!(
                        *last,
                        unfreeze_of(Operation::Add, there),
                        "{shape:?} {steps}: n{server} {keywords:?}"
                    );
                }
                let posts = keywords.iter().filter(|keyword| **keyword == "post_add").count();
                assert!(posts <= 1, "{shape:?} {steps}: n{server} {keywords:?}");
            }
        }
    }
}

#[test]
fn a_lost_word_of_either_side_is_said_again() {
    for (from, to) in [(0, 1), (1, 0)] {
        let mut cluster = cluster(THREE, "slow");
        let body = RequestBody::Update(update(request(2), Vec::new(), vec![Op::Add(row("x"))], false));
        let asked = cluster.ask(2, Asker::Script, body, PATIENCE).expect("it runs");
        // Cut before the commands end, and mended before anybody is missed.
        cluster.run_for(Duration::from_millis(250));
        cluster.network.cut(from, to);
        cluster.run_for(Duration::from_millis(150));
        cluster.network.mend(from, to);
        let end = cluster.await_end(asked);
        assert!(is_committed(&end), "{end:?}");
        cluster.run_for(Duration::from_secs(2));
        for server in 0..3 {
            assert_eq!(
                cluster.commands.keywords(server),
                ["pre_add", "post_add"],
                "n{server}"
            );
        }
    }
}

#[test]
fn a_command_can_be_set_replaced_and_unset_like_any_row() {
    let mut cluster = cluster(Shape::PAIR, "refuses");
    let commands = Key::new("CCD_SYNC").unwrap();
    let named = |name: &str| ccd_core::database::Row::new(commands.clone(), [key(0).as_str(), name]).unwrap();
    let second = change(&mut cluster, 1, 2, vec![Op::Add(named("agrees"))]);
    assert!(
        matches!(second, AskEnd::Reply(Err(Refusal::Op(_)))),
        "one command a key: {second:?}"
    );
    let replaced = vec![
        Op::Remove(Pattern::exact(&named("refuses"))),
        Op::Add(named("agrees")),
    ];
    assert!(is_committed(&change(&mut cluster, 1, 3, replaced)));
    assert!(is_committed(&change(&mut cluster, 1, 4, vec![Op::Add(row("x"))])));
    settle(&mut cluster);
    assert_eq!(cluster.commands.keywords(1), ["pre_add", "post_add"]);
    let unset = vec![Op::Remove(Pattern::exact(&named("agrees")))];
    assert!(is_committed(&change(&mut cluster, 1, 5, unset)));
    cluster.commands.ran.clear();
    assert!(is_committed(&change(&mut cluster, 1, 6, vec![Op::Add(row("y"))])));
    assert!(cluster.commands.ran.is_empty());
}
