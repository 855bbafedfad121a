//! Dry runs: they run the commands and change nothing, and no update waits for them.

use super::{PATIENCE, THREE, change, cluster, is_committed, position, request, settle, veto};
use ccd_core::client::{Answer, RequestBody};
use ccd_core::database::Op;
use ccd_tests::sim::asks::{AskEnd, Asker};
use ccd_tests::sim::client::{key, update};
use ccd_tests::sim::commands::{Behaviour, SYNC_TIMEOUT};
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, row};
use ccd_tests::sim::world::{HEARTBEAT, LEASE};
use core::time::Duration;

#[test]
fn a_dry_run_runs_the_commands_and_rolls_back() {
    let mut cluster = cluster(THREE, "agrees");
    for asked in 0..3 {
        cluster.commands.ran.clear();
        let before = position(&mut cluster, 0);
        let mut dry = update(
            request(10 + asked as u64),
            Vec::new(),
            vec![Op::Add(row("x"))],
            false,
        );
        dry.dry_run = true;
        let end = cluster.call(asked, RequestBody::Update(dry), PATIENCE);
        assert!(
            matches!(end, AskEnd::Reply(Ok(Answer::WouldApply { removed: 0 }))),
            "{end:?}"
        );
        settle(&mut cluster);
        assert_eq!(position(&mut cluster, 0), before);
        for server in 0..3 {
            assert_eq!(cluster.commands.keywords(server), ["pre_add", "post_rollback"]);
        }
    }
    cluster.commands.behave(2, "agrees", Behaviour::Refuses);
    let mut dry = update(request(20), Vec::new(), vec![Op::Add(row("x"))], false);
    dry.dry_run = true;
    let end = cluster.call(0, RequestBody::Update(dry), PATIENCE);
    assert!(veto(&end).is_some(), "{end:?}");
}

fn dry_run(cluster: &mut Cluster, server: usize, sequence: u64, uid: u32) -> u64 {
    let mut dry = update(request(sequence), Vec::new(), vec![Op::Add(row("x"))], false);
    dry.dry_run = true;
    dry.who.uid = uid;
    let asked = cluster.ask(server, Asker::Script, RequestBody::Update(dry), PATIENCE);
    asked.expect("it runs")
}

fn would_apply(end: &AskEnd) -> bool {
    matches!(end, AskEnd::Reply(Ok(Answer::WouldApply { .. })))
}

#[test]
fn a_dry_run_with_a_slow_command_holds_no_update_that_runs_none() {
    for (shape, asked) in [(Shape::PAIR, 0), (Shape::PAIR, 1), (THREE, 2)] {
        let mut cluster = cluster(shape, "slow");
        let dry = dry_run(&mut cluster, asked, 2, 7);
        cluster.run_for(Duration::from_millis(50));
        let begun = cluster.now;
        for sequence in 0..20 {
            let other = ccd_core::database::Row::new(key(1), ["r0", &sequence.to_string()]).unwrap();
            // Nor is it busy.
            let mut one = update(request(10 + sequence), Vec::new(), vec![Op::Add(other)], false);
            one.no_wait = true;
            let server = sequence as usize % shape.nodes;
            let end = cluster.call(server, RequestBody::Update(one), PATIENCE);
            assert!(is_committed(&end), "{end:?}");
        }
        assert!(
            cluster.now.since(begun) < Duration::from_millis(150),
            "{:?}",
            cluster.now.since(begun)
        );
        for server in 0..shape.nodes {
            assert_eq!(cluster.commands.keywords(server), ["pre_add"], "it is under way");
        }
        let end = cluster.await_end(dry);
        assert!(would_apply(&end), "{end:?}");
        cluster.run_for(Duration::from_secs(1));
        for server in 0..shape.nodes {
            assert_eq!(cluster.commands.keywords(server), ["pre_add", "post_rollback"]);
        }
    }
}

#[test]
fn a_dry_run_begins_also_while_one_update_follows_the_other() {
    let mut cluster = cluster(THREE, "agrees");
    let mut updates = Vec::new();
    let mut dry = None;
    for sequence in 0..40 {
        let other = ccd_core::database::Row::new(key(1), ["r0", &sequence.to_string()]).unwrap();
        let body = RequestBody::Update(update(
            request(100 + sequence),
            Vec::new(),
            vec![Op::Add(other)],
            false,
        ));
        updates.push(cluster.ask(1, Asker::Script, body, PATIENCE).expect("it runs"));
        cluster.run_for(Duration::from_micros(300));
        if sequence == 20 {
            dry = Some(dry_run(&mut cluster, 2, 2, 7));
        }
    }
    let end = cluster.await_end(dry.expect("it was asked for"));
    assert!(would_apply(&end), "{end:?}");
    for one in updates {
        let end = cluster.await_end(one);
        assert!(is_committed(&end), "{end:?}");
    }
    settle(&mut cluster);
    for server in 0..3 {
        assert_eq!(cluster.commands.keywords(server), ["pre_add", "post_rollback"]);
    }
}

#[test]
fn a_dry_run_gives_way_to_an_update_that_runs_commands_and_begins_anew() {
    let mut cluster = cluster(THREE, "slow");
    let dry = dry_run(&mut cluster, 1, 2, 7);
    cluster.run_for(Duration::from_millis(50));
    let end = change(&mut cluster, 0, 3, vec![Op::Add(row("y"))]);
    assert!(is_committed(&end), "{end:?}");
    for server in 0..3 {
        let expected = ["pre_add", "post_rollback", "pre_add"];
        assert_eq!(cluster.commands.keywords(server)[..3], expected);
    }
    let end = cluster.await_end(dry);
    assert!(would_apply(&end), "{end:?}");
    cluster.run_for(Duration::from_secs(1));
    for server in 0..3 {
        let mut keywords = cluster.commands.keywords(server);
        // Never between `pre_…` and `post_…` of two at the same time.
        while !keywords.is_empty() {
            let after: Vec<&str> = keywords.drain(..2).collect();
            assert!(
                matches!(after[..], ["pre_add", "post_add" | "post_rollback"]),
                "{after:?} on {server}"
            );
        }
    }
}

#[test]
fn dry_runs_of_one_user_leave_turns_to_those_of_another() {
    let mut cluster = cluster(Shape::PAIR, "slow");
    let many: Vec<u64> = (0..5).map(|at| dry_run(&mut cluster, 0, 10 + at, 7)).collect();
    let one = dry_run(&mut cluster, 1, 20, 8);
    let end = cluster.await_end(one);
    assert!(would_apply(&end), "{end:?}");
    let pre = cluster
        .commands
        .keywords(0)
        .iter()
        .filter(|word| **word == "pre_add")
        .count();
    assert!(pre <= 2, "{pre} of them came first");
    drop(many);
}

#[test]
fn a_dry_run_begins_anew_when_a_node_dies() {
    let mut cluster = cluster(THREE, "slow");
    let dry = dry_run(&mut cluster, 0, 2, 7);
    cluster.run_for(Duration::from_millis(50));
    cluster.crash(2, true);
    let end = cluster.await_end(dry);
    assert!(would_apply(&end), "{end:?}");
}

/// A cluster in which an update of more than one operation takes long to work out.
fn cluster_with_long_work(shape: Shape, command: &str, in_pieces: bool) -> Cluster {
    let mut cluster = Cluster::stopped(shape);
    cluster.work_takes_long = true;
    cluster.updates_in_pieces = in_pieces;
    let mut cluster = cluster.started();
    let mut ops = ccd_tests::sim::commands::set_command(&key(0), command);
    ops.push(ccd_tests::sim::client::format(1));
    let end = change(&mut cluster, 0, 1, ops);
    assert!(is_committed(&end), "{end:?}");
    cluster
}

fn large_dry_run(cluster: &mut Cluster, server: usize, sequence: u64, uid: u32) -> u64 {
    let ops = vec![Op::Add(row("x")), Op::Add(row("y"))];
    let mut dry = update(request(sequence), Vec::new(), ops, false);
    dry.dry_run = true;
    dry.who.uid = uid;
    let asked = cluster.ask(server, Asker::Script, RequestBody::Update(dry), PATIENCE);
    asked.expect("it runs")
}

#[test]
fn a_large_dry_run_with_commands_is_worked_out_beside_the_loop_before_and_after_them() {
    for (asked, in_pieces) in [(0, false), (1, false), (2, true)] {
        let mut cluster = cluster_with_long_work(THREE, "agrees", in_pieces);
        let dry = large_dry_run(&mut cluster, asked, 2, 7);
        let end = cluster.await_end(dry);
        assert!(would_apply(&end), "{end:?}");
        assert_eq!(cluster.dry_runs_worked, [2, 0, 0]);
        settle(&mut cluster);
        for server in 0..3 {
            assert_eq!(cluster.commands.keywords(server), ["pre_apply", "post_rollback"]);
        }
        // Refused before it runs any command, and without another look.
        let twice = vec![Op::Add(row("x")), Op::Add(row("x"))];
        let mut dry = update(request(3), Vec::new(), twice, false);
        dry.dry_run = true;
        let end = cluster.call(asked, RequestBody::Update(dry), PATIENCE);
        assert!(
            matches!(&end, AskEnd::Reply(Err(ccd_core::client::Refusal::Op(_)))),
            "{end:?}"
        );
        assert_eq!(cluster.dry_runs_worked, [3, 0, 0]);
        assert_eq!(cluster.commands.keywords(0).len(), 2);
    }
}

#[test]
fn a_large_dry_run_that_waits_for_its_commands_runs_those_that_are_set_when_its_turn_comes() {
    let mut cluster = cluster_with_long_work(Shape::PAIR, "slow", false);
    let first = large_dry_run(&mut cluster, 0, 2, 7);
    cluster.run_for(Duration::from_millis(50));
    let second = large_dry_run(&mut cluster, 0, 3, 8);
    cluster.run_for(Duration::from_millis(50));
    let unset = Op::Remove(ccd_core::database::Pattern::all(
        ccd_core::database::Key::new(ccd_core::synchronization::SYNC_KEY).unwrap(),
    ));
    let end = change(&mut cluster, 1, 4, vec![unset]);
    assert!(is_committed(&end), "{end:?}");
    for dry in [first, second] {
        let end = cluster.await_end(dry);
        assert!(would_apply(&end), "{end:?}");
    }
    settle(&mut cluster);
    assert_eq!(
        cluster.commands.keywords(0),
        ["pre_apply", "post_rollback"],
        "the second runs none"
    );
}

#[test]
fn a_forwarded_dry_run_ends_at_the_master_when_its_client_has_gone() {
    for (in_pieces, goes) in [(false, true), (true, true), (false, false), (true, false)] {
        let mut cluster = cluster_with_long_work(THREE, "slow", in_pieces);
        for server in 0..3 {
            cluster.commands.behave(server, "slow", Behaviour::NeverEnds);
        }
        let dry = large_dry_run(&mut cluster, 1, 2, 7);
        cluster.run_for(Duration::from_millis(60));
        assert_eq!(cluster.commands.keywords(0), ["pre_apply"], "it is under way");
        if goes {
            cluster.hang_up(dry);
        }
        // The command would be killed later than this.
        cluster.run_for(LEASE / 2 + HEARTBEAT * 3 / 2);
        assert!(LEASE / 2 + HEARTBEAT * 2 < SYNC_TIMEOUT);
        let keywords = cluster.commands.keywords(0);
        if goes {
            assert_eq!(keywords, ["pre_apply", "post_rollback"], "in pieces: {in_pieces}");
        } else {
            assert_eq!(keywords, ["pre_apply"], "in pieces: {in_pieces}");
            assert!(veto(&cluster.await_end(dry)).is_some());
        }
    }
}

#[test]
fn forwarded_dry_runs_of_one_user_beyond_the_limit_have_their_turn_later() {
    for in_pieces in [false, true] {
        let mut cluster = cluster_with_long_work(THREE, "agrees", in_pieces);
        let many: Vec<u64> = (0..12)
            .map(|at| large_dry_run(&mut cluster, 1, 10 + at, 7))
            .collect();
        let one = large_dry_run(&mut cluster, 2, 50, 8);
        let end = cluster.await_end(one);
        assert!(would_apply(&end), "{end:?}");
        let done = (many.iter().filter(|token| cluster.end_of(**token).is_some())).count();
        assert!(in_pieces || done <= 2, "{done} of another user came first");
        for token in many {
            let end = cluster.await_end(token);
            assert!(would_apply(&end), "{end:?}");
        }
    }
}
