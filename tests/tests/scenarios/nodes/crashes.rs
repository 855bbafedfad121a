//! A node dies at every single step of an update (Fig. 3), and of a reconfiguration (Fig. 4).
//!
//! Each test repeats its story, and lets the victim die just before the first, the second, … of the actions by which it
//! changes anything (a message, a write, an answer), until the story ends before the victim's turn comes. So nothing
//! in between is left out: not a promise that was written and not sent, nor an update that reached some members and not others.

use super::{A, B, C, D, E, FIVE, THREE, THREE_WITH_DEVICES, nodes};
use ccd_core::client::{Answer, Refusal, RequestBody};
use ccd_core::init::Propagation;
use ccd_tests::sim::asks::AskEnd;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED};
use ccd_tests::sim::world::LEASE;
use core::cell::Cell;
use core::time::Duration;

/// More steps than any story has.
const STEPS_MAX: u64 = 400;

/// Repeats a story with a victim that dies one step later each time. `begin` starts it, `check` looks at the cluster after it
/// has settled without the victim. Returns how many steps there were.
fn at_every_step(
    made: impl Fn() -> Cluster,
    victim: usize,
    span: Duration,
    mut begin: impl FnMut(&mut Cluster),
    mut check: impl FnMut(&mut Cluster, u64),
) -> u64 {
    for step in 0..STEPS_MAX {
        let mut cluster = made();
        cluster.dies_after = Some((victim, step));
        begin(&mut cluster);
        cluster.run_until(span, |world| world.dies_after.is_none());
        if cluster.dies_after.is_some() {
            assert!(step > 0, "nothing was done at all");
            return step;
        }
        check(&mut cluster, step);
    }
    panic!("the story does not end");
}

/// The others go on, and once the victim is back, all nodes have the same rows, those that were acked among them.
fn goes_on(cluster: &mut Cluster, victims: &[usize], acked: &[&str], step: u64) -> Vec<String> {
    let others: Vec<usize> = (0..cluster.shape.nodes)
        .filter(|server| !victims.contains(server))
        .collect();
    assert!(
        cluster.add_within(others[0], "after", SETTLED),
        "step {step}: the others go on"
    );
    for server in &others {
        assert!(
            cluster.serves_within(*server, SETTLED),
            "step {step}: n{server} serves"
        );
    }
    for victim in victims {
        cluster.start(*victim);
    }
    for victim in victims {
        assert!(
            cluster.serves_within(*victim, 2 * SETTLED),
            "step {step}: n{victim} is back"
        );
    }
    let rows = cluster.rows(others[0]).expect("it serves");
    for value in acked {
        let count = rows.iter().filter(|row| row == value).count();
        assert_eq!(count, 1, "step {step}: {value} was acked");
    }
    for server in 0..cluster.shape.nodes {
        assert_eq!(
            cluster.rows(server).as_ref(),
            Some(&rows),
            "step {step}: n{server}"
        );
    }
    rows
}

fn with_a_row(shape: Shape, updates: Propagation) -> Cluster {
    let mut cluster = Cluster::serving_by(shape, Propagation::Forward, updates);
    cluster.add(A, "first").expect("it serves");
    cluster
}

/// The master dies at every step of an update that a client of `asked` wants.
fn the_master_dies(shape: Shape, updates: Propagation, asked: usize) {
    let token = Cell::new(0);
    let mut acked = 0;
    let mut kept = 0;
    let steps = at_every_step(
        || with_a_row(shape, updates),
        A,
        LEASE / 4,
        |cluster| {
            let (_, body) = cluster.addition("second");
            token.set(cluster.begin(asked, body));
        },
        |cluster, step| {
            // Whoever asked through another node is answered: done, by whomever, or unknown.
            let end = cluster.await_end(token.get());
            let rows = goes_on(cluster, &[A], &["first"], step);
            let count = rows.iter().filter(|row| *row == "second").count();
            kept += count;
            match end {
                AskEnd::Reply(Ok(Answer::Committed { .. })) => {
                    acked += 1;
                    assert_eq!(count, 1, "step {step}: it was acked");
                }
                AskEnd::Lost | AskEnd::Reply(Err(Refusal::Unknown { .. })) => {
                    assert!(count <= 1, "step {step}")
                }
                other => assert_eq!(count, 0, "step {step}: it was refused: {other:?}"),
            }
        },
    );
    // To send, to write, to answer and to unfreeze are steps of their own.
    assert!(steps >= 3, "{steps} steps");
    if asked != A {
        assert!(acked > 0, "the survivors finish what they were asked for");
    }
    assert!(kept > 0, "what reached a member rolls forward");
}

#[test]
fn the_master_dies_at_every_step_of_an_update_that_is_broadcast() {
    the_master_dies(THREE, Propagation::Broadcast, A);
    the_master_dies(THREE, Propagation::Broadcast, C);
}

#[test]
fn the_master_dies_at_every_step_of_an_update_that_is_passed_on() {
    the_master_dies(THREE, Propagation::Forward, A);
    the_master_dies(THREE, Propagation::Forward, C);
}

#[test]
fn the_master_dies_at_every_step_of_an_update_of_three_nodes_with_devices() {
    the_master_dies(THREE_WITH_DEVICES, Propagation::Broadcast, B);
}

/// The master dies after every single event of the world, so that messages and writes are under way in every mix.
fn the_master_dies_after_every_event(updates: Propagation) {
    for events in 0..STEPS_MAX {
        let mut cluster = with_a_row(THREE, updates);
        let (_, body) = cluster.addition("second");
        let token = cluster.begin(C, body);
        let begun = cluster.now;
        for _ in 0..events {
            cluster.step();
        }
        let over = cluster.end_of(token).is_some() && cluster.now.since(begun) > Duration::from_millis(20);
        cluster.crash(A, events % 2 == 1);
        let end = cluster.await_end(token);
        let rows = goes_on(&mut cluster, &[A], &["first"], events);
        let is_there = rows.contains(&"second".to_owned());
        match end {
            AskEnd::Reply(Ok(Answer::Committed { .. })) => assert!(is_there, "after {events} events: acked"),
            AskEnd::Reply(Err(Refusal::Unknown { .. })) | AskEnd::Lost => {}
            other => assert!(!is_there, "after {events} events: {other:?}"),
        }
        if over {
            return;
        }
    }
    panic!("the update does not end");
}

#[test]
fn the_master_dies_after_every_event_of_an_update_that_is_broadcast() {
    the_master_dies_after_every_event(Propagation::Broadcast);
}

#[test]
fn the_master_dies_after_every_event_of_an_update_that_is_passed_on() {
    the_master_dies_after_every_event(Propagation::Forward);
}

#[test]
fn a_member_dies_at_every_step_of_an_update() {
    for updates in [Propagation::Broadcast, Propagation::Forward] {
        let token = Cell::new(0);
        at_every_step(
            || with_a_row(THREE, updates),
            B,
            LEASE / 4,
            |cluster| {
                let (_, body) = cluster.addition("second");
                token.set(cluster.begin(A, body));
            },
            |cluster, step| {
                let end = cluster.await_end(token.get());
                assert!(
                    matches!(end, AskEnd::Reply(Ok(Answer::Committed { .. }))),
                    "step {step}: the others finish it in a successor: {end:?}"
                );
                goes_on(cluster, &[B], &["first", "second"], step);
            },
        );
    }
}

/// Five nodes that serve and hold one row.
fn five() -> Cluster {
    with_a_row(FIVE, Propagation::Broadcast)
}

#[test]
fn the_coordinator_dies_at_every_step_of_a_reconfiguration() {
    // E dies; A leads what follows, and dies in the middle of it.
    let steps = at_every_step(
        five,
        A,
        3 * LEASE,
        |cluster| cluster.crash(E, false),
        |cluster, step| {
            goes_on(cluster, &[A, E], &["first"], step);
        },
    );
    assert!(
        steps > 12,
        "promises, votes, decision, installation, opening: {steps} steps"
    );
}

#[test]
fn another_member_dies_at_every_step_of_a_reconfiguration() {
    at_every_step(
        five,
        C,
        3 * LEASE,
        |cluster| cluster.crash(E, false),
        |cluster, step| {
            goes_on(cluster, &[C, E], &["first"], step);
        },
    );
}

#[test]
fn the_next_coordinator_dies_at_every_step_after_the_first_died() {
    at_every_step(
        five,
        B,
        3 * LEASE,
        |cluster| cluster.crash(A, false),
        |cluster, step| {
            goes_on(cluster, &[A, B], &["first"], step);
        },
    );
}

/// Without D, whose copy is lost; then D starts with a new one.
fn joined_anew() -> Cluster {
    let mut cluster = five();
    cluster.crash(D, false);
    cluster.wipe_local(D);
    for count in 0..5 {
        assert!(cluster.add_within(A, &format!("without {count}"), SETTLED));
    }
    cluster
}

#[test]
fn a_joiner_dies_at_every_step_while_it_fetches_and_joins() {
    at_every_step(
        joined_anew,
        D,
        SETTLED,
        |cluster| cluster.start(D),
        |cluster, step| {
            goes_on(cluster, &[D], &["first", "without 4"], step);
        },
    );
}

#[test]
fn the_coordinator_dies_at_every_step_of_a_join() {
    at_every_step(
        joined_anew,
        A,
        2 * LEASE,
        |cluster| cluster.start(D),
        |cluster, step| {
            goes_on(cluster, &[A], &["first", "without 4"], step);
        },
    );
}

#[test]
fn two_nodes_of_five_die_at_once_and_three_go_on() {
    for victims in [[A, B], [A, E], [B, C], [D, E]] {
        let mut cluster = five();
        for victim in victims {
            cluster.crash(victim, false);
        }
        goes_on(&mut cluster, &victims, &["first"], 0);
    }
}

#[test]
fn a_second_change_while_the_first_is_decided_ends_in_one_configuration_of_all_who_are_there() {
    let mut cluster = five();
    cluster.crash(E, false);
    // In the middle of the reconfiguration one member leaves, and another one joins again.
    cluster.run_for(LEASE + Duration::from_millis(20));
    let leave = cluster.begin(D, RequestBody::Leave);
    cluster.start(E);
    assert!(matches!(cluster.await_end(leave), AskEnd::Reply(Ok(_))));
    let rest = nodes(&[A, B, C, E]);
    assert!(cluster.reaches(2 * SETTLED, |configuration| configuration.members == rest));
    assert!(cluster.add_within(E, "after", SETTLED));
    assert_eq!(cluster.rows(D), None, "who left serves nothing");
}
