//! Members that do not keep up are left out, and nodes that come and go are let in with growing pauses.

use super::load::Load;
use super::{A, B, C, FIVE, THREE, THREE_WITH_DEVICES, node, nodes};
use ccd_core::client::Answer;
use ccd_core::init::Propagation;
use ccd_core::protocol::DecisionKind;
use ccd_tests::sim::asks::AskEnd;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED, TIMEOUT};
use ccd_tests::sim::world::LEASE;
use core::time::Duration;

/// Longer than a heartbeat or a vote, shorter than an update with a long row.
const SHORT_BYTES: usize = 600;

/// A value that makes an update long.
fn long(text: &str) -> String {
    format!("{text}{}", "x".repeat(800))
}

/// A path with a wrong MTU: heartbeats pass, and updates do not.
fn choke(cluster: &mut Cluster, victim: usize, choked: bool) {
    for other in 0..cluster.shape.nodes {
        let max = choked.then_some(SHORT_BYTES);
        cluster.network.lose_long(other, victim, max);
    }
}

#[test]
fn a_member_that_answers_heartbeats_and_does_not_ack_is_left_out_and_the_update_commits_without_it() {
    for shape in [THREE, FIVE, THREE_WITH_DEVICES] {
        for updates in [Propagation::Broadcast, Propagation::Forward] {
            let mut cluster = Cluster::serving_by(shape, Propagation::Forward, updates);
            choke(&mut cluster, C, true);
            let asked_at = cluster.now;
            cluster
                .add(B, &long("slow"))
                .expect("it commits in the successor");
            let took = cluster.now.since(asked_at);
            assert!(took < TIMEOUT * 3 / 4, "well inside the time-out: {took:?}");
            let configuration = cluster.configuration().clone();
            assert!(!configuration.members.contains(node(C)), "{configuration}");
            assert!(
                configuration.reason.contains("node 2 is too slow"),
                "{}",
                configuration.reason
            );
            assert!(
                (cluster.decisions(A, DecisionKind::Degraded).iter())
                    .any(|decision| decision.text.contains("too slow")),
                "it is recorded"
            );
            // It is not let in as long as it is slow, whatever else it says.
            cluster.settle();
            assert!(!cluster.configuration().members.contains(node(C)));
            choke(&mut cluster, C, false);
            assert!(cluster.serves_within(C, 2 * SETTLED), "it is quick again");
            assert_eq!(cluster.rows(C), cluster.rows(A));
        }
    }
}

#[test]
fn a_member_whose_disk_stops_answering_is_left_out_and_the_update_commits_without_it() {
    let mut cluster = Cluster::serving(THREE);
    cluster.local_latency_max[B] = Duration::from_secs(600);
    cluster.add(A, "without B").expect("it commits in the successor");
    assert_eq!(cluster.configuration().members, nodes(&[A, C]));
    cluster.local_latency_max[B] = Duration::from_micros(200);
    cluster.crash(B, false);
    cluster.start(B);
    assert!(cluster.serves_within(B, 2 * SETTLED));
}

#[test]
fn a_member_whose_disk_fails_under_an_update_does_not_fail_the_update() {
    let mut cluster = Cluster::serving(THREE);
    cluster.fail_local_writes(B, true);
    cluster.add(A, "without B").expect("it commits in the successor");
    assert_eq!(cluster.configuration().members, nodes(&[A, C]));
    cluster.fail_local_writes(B, false);
    assert!(cluster.serves_within(B, 2 * SETTLED));
}

#[test]
fn two_slow_members_of_five_are_left_out_together() {
    let mut cluster = Cluster::serving(FIVE);
    choke(&mut cluster, B, true);
    choke(&mut cluster, C, true);
    cluster
        .add(A, &long("slow"))
        .expect("it commits in the successor");
    assert_eq!(cluster.configuration().members, nodes(&[A, 3, 4]));
}

#[test]
fn slow_members_that_are_the_majority_are_waited_for() {
    let mut cluster = Cluster::serving(THREE);
    let members = cluster.configuration().members;
    choke(&mut cluster, B, true);
    choke(&mut cluster, C, true);
    let (_, body) = cluster.addition(&long("slow"));
    let token = cluster.begin(A, body);
    cluster.run_for(TIMEOUT / 2 + TIMEOUT / 4);
    assert_eq!(cluster.configuration().members, members, "nobody goes on alone");
    choke(&mut cluster, B, false);
    choke(&mut cluster, C, false);
    let end = cluster.await_end(token);
    assert!(
        matches!(end, AskEnd::Reply(Ok(Answer::Committed { .. }))),
        "{end:?}"
    );
}

#[test]
fn a_member_that_does_not_get_ready_does_not_hold_up_an_installation() {
    let mut cluster = Cluster::serving(FIVE);
    // C falls behind and stops answering the long messages it would need to catch up, then all restart.
    cluster.crash(C, false);
    assert!(cluster.add_within(A, &long("without C"), SETTLED));
    for server in [A, B, 3, 4] {
        cluster.crash(server, false);
    }
    choke(&mut cluster, C, true);
    for server in 0..5 {
        cluster.start(server);
    }
    let begun = cluster.now;
    assert!(cluster.add_within(A, "restarted", SETTLED));
    let took = cluster.now.since(begun);
    assert!(took < 6 * LEASE, "{took:?}");
    assert_eq!(cluster.configuration().members, nodes(&[A, B, 3, 4]));
    choke(&mut cluster, C, false);
    assert!(cluster.serves_within(C, 2 * SETTLED));
}

/// How often the cluster reconfigures while one node of three comes and goes for so long.
fn reconfigurations(span: Duration, up: Duration, down: Duration) -> u64 {
    let mut cluster = Cluster::serving(THREE);
    let mut load = Load::default();
    let (first, end) = (cluster.configuration().epoch.0, cluster.now + span);
    while cluster.now < end {
        cluster.crash(C, false);
        load.run_for(&mut cluster, down);
        cluster.start(C);
        load.run_for(&mut cluster, up);
    }
    let count = cluster.configuration().epoch.0 - first;
    assert!(cluster.serves_within(C, 12 * LEASE), "the pauses are bounded");
    assert!(load.check(&mut cluster, A) > 0);
    count
}

#[test]
fn a_node_that_flaps_is_let_in_with_growing_pauses() {
    let span = 40 * LEASE;
    // Down long enough to be left out, and so short that it is only taken in anew.
    for (up, down) in [(LEASE, 3 * LEASE / 2), (LEASE, LEASE / 4)] {
        let count = reconfigurations(span, up, down);
        let times = span.as_millis() / (up + down).as_millis();
        assert!(
            count <= 14,
            "{times} times it came, and there were {count} reconfigurations"
        );
    }
}

#[test]
fn a_pair_goes_on_without_a_slow_peer() {
    let mut cluster = Cluster::serving(Shape::PAIR);
    choke(&mut cluster, B, true);
    cluster.add(A, &long("slow")).expect("it commits in solo mode");
    assert_eq!(cluster.configuration().members, nodes(&[A]));
    choke(&mut cluster, B, false);
    assert!(cluster.serves_within(B, 2 * SETTLED));
}
