//! Clusters without shared disks: a majority takes updates, exactly half answers queries, fewer do neither.

use ccd_core::client::Refusal;
use ccd_core::protocol::ServingState;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED};
use ccd_tests::sim::world::LEASE;
use core::time::Duration;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const D: usize = 3;

/// A cluster of so many nodes, without devices, that holds one row.
fn nodes(nodes: usize) -> Cluster {
    let mut cluster = Cluster::serving(Shape { nodes, devices: 0 });
    cluster.add(A, "first").unwrap();
    cluster
}

fn is_closed(cluster: &Cluster, server: usize) -> bool {
    cluster
        .status(server)
        .is_some_and(|status| status.state == ServingState::Closed)
}

fn closes_within(cluster: &mut Cluster, server: usize, limit: Duration) -> bool {
    let end = cluster.now + limit;
    while cluster.now < end {
        if is_closed(cluster, server) && cluster.rows(server).is_some() {
            return true;
        }
        cluster.run_for(Duration::from_millis(20));
    }
    false
}

/// What an update through this node is refused with.
fn refusal(cluster: &mut Cluster, server: usize) -> Refusal {
    cluster.add(server, "not taken").expect_err("no majority is here")
}

fn first() -> Option<Vec<String>> {
    Some(vec!["first".to_owned()])
}

#[test]
fn each_half_of_a_pair_without_devices_answers_queries_and_takes_no_update() {
    let mut cluster = nodes(2);
    cluster.cut_pair(A, B);
    cluster.settle();
    for server in [A, B] {
        assert!(is_closed(&cluster, server), "{}", cluster.verdict(server));
        assert_eq!(cluster.rows(server), first());
        let Refusal::NoQuorum { why } = refusal(&mut cluster, server) else {
            panic!("n{server} says why");
        };
        let copy = format!(
            "valid, but closed: 1 of 2 copies found: 1/2 on node {server}; 2 are needed to take updates"
        );
        assert!(why.starts_with(&copy), "{why}");
        assert_eq!(cluster.verdict(server), why);
    }
    cluster.mend_pair(A, B);
    assert!(cluster.add_within(B, "second", SETTLED));
}

#[test]
fn one_of_two_nodes_restarts_alone_as_valid_and_closed() {
    let mut cluster = nodes(2);
    for power in [false, true] {
        cluster.run_for(LEASE);
        cluster.crash(A, power);
        cluster.crash(B, power);
        cluster.start(B);
        assert!(closes_within(&mut cluster, B, SETTLED), "{}", cluster.verdict(B));
        assert_eq!(cluster.rows(B), first());
        assert!(matches!(refusal(&mut cluster, B), Refusal::NoQuorum { .. }));
        cluster.start(A);
        assert!(cluster.serves_within(A, SETTLED));
        assert!(cluster.serves_within(B, SETTLED));
    }
}

#[test]
fn half_of_four_nodes_goes_on_answering_queries_and_restarts_to_it() {
    let mut cluster = nodes(4);
    cluster.run_for(LEASE);
    cluster.crash(A, false);
    cluster.crash(B, false);
    for server in [C, D] {
        assert!(
            closes_within(&mut cluster, server, SETTLED),
            "{}",
            cluster.verdict(server)
        );
    }
    cluster.settle();
    let Refusal::NoQuorum { why } = refusal(&mut cluster, C) else {
        panic!("it says why");
    };
    assert!(
        why.ends_with("2 of 4 copies found: 1/2 on nodes 2,3; 3 are needed to take updates; missing: 1 of node 0, node 1"),
        "{why}"
    );
    cluster.crash(C, true);
    cluster.crash(D, true);
    cluster.start(C);
    cluster.settle();
    assert_eq!(cluster.rows(C), None, "fewer than half is invalid");
    assert_eq!(
        cluster.verdict(C),
        "no quorum: invalid: 1 of 4 copies found: 1/2 on node 2; 2 are needed to make it valid"
    );
    cluster.start(D);
    for server in [C, D] {
        assert!(
            closes_within(&mut cluster, server, SETTLED),
            "{}",
            cluster.verdict(server)
        );
        assert_eq!(cluster.rows(server), first());
    }
    cluster.start(A);
    assert!(cluster.add_within(D, "second", SETTLED));
    cluster.start(B);
    assert!(cluster.serves_within(B, SETTLED));
}

#[test]
fn one_of_five_copies_is_invalid_and_the_refusals_say_how_many_were_found() {
    let mut cluster = nodes(5);
    cluster.run_for(LEASE);
    for server in 0..5 {
        cluster.crash(server, true);
    }
    cluster.start(A);
    cluster.settle();
    let found = "1 of 5 copies found: 1/2 on node 0; 3 are needed to make it valid";
    assert!(cluster.verdict(A).contains(found), "{}", cluster.verdict(A));
    assert!(matches!(refusal(&mut cluster, A), Refusal::NoQuorum { why } if why.contains(found)));
    assert_eq!(cluster.rows(A), None);
    cluster.start(C);
    cluster.settle();
    assert!(
        cluster
            .verdict(A)
            .contains("2 of 5 copies found: 1/2 on nodes 0,2")
    );
    cluster.start(D);
    assert!(cluster.add_within(D, "second", SETTLED));
}

#[test]
fn a_node_that_was_left_out_makes_a_member_valid_and_answers_nothing_itself() {
    let mut cluster = nodes(4);
    cluster.crash(D, false);
    assert!(cluster.add_within(A, "without D", SETTLED));
    cluster.run_for(LEASE);
    for server in [A, B, C] {
        cluster.crash(server, false);
    }
    cluster.start(C);
    cluster.start(D);
    assert!(closes_within(&mut cluster, C, SETTLED), "{}", cluster.verdict(C));
    assert_eq!(cluster.rows(C).map(|rows| rows.len()), Some(2));
    assert_eq!(cluster.rows(D), None);
    assert!(
        cluster
            .verdict(D)
            .contains("no member of epoch 2: ask one of its members, 0,1,2"),
        "{}",
        cluster.verdict(D)
    );
}

/// The counter-example to rolling a prepared round forward as soon as all copies of a half hold it: the other half never heard of it.
#[test]
fn a_round_that_reached_one_half_only_is_shown_by_neither() {
    let mut cluster = nodes(4);
    cluster.run_for(LEASE);
    for (one, other) in [(A, C), (A, D), (B, C), (B, D)] {
        cluster.cut_pair(one, other);
    }
    let (_, body) = cluster.addition("in doubt");
    let asked = cluster.begin(A, body);
    cluster.run_for(Duration::from_millis(200));
    assert!(cluster.end_of(asked).is_none());
    for server in 0..4 {
        cluster.crash(server, true);
    }
    for server in 0..4 {
        cluster.start(server);
    }
    cluster.settle();
    for server in [C, D] {
        assert!(is_closed(&cluster, server), "{}", cluster.verdict(server));
        assert_eq!(cluster.rows(server), first());
    }
    for server in [A, B] {
        assert_eq!(cluster.rows(server), None);
        assert!(
            cluster
                .verdict(server)
                .contains("queries of the keys it changed wait"),
            "{}",
            cluster.verdict(server)
        );
    }
    for (one, other) in [(A, C), (A, D), (B, C), (B, D)] {
        cluster.mend_pair(one, other);
    }
    assert!(cluster.add_within(D, "second", SETTLED));
}
