//! Dry runs: they run the commands and change nothing, and no update waits for them.

use super::{PATIENCE, THREE, change, cluster, is_committed, position, request, settle, veto};
use ccd_core::client::{Answer, RequestBody};
use ccd_core::database::Op;
use ccd_tests::sim::asks::{AskEnd, Asker};
use ccd_tests::sim::client::{key, update};
use ccd_tests::sim::commands::Behaviour;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, row};
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
