//! An operator overrules the votes: once, while somebody waits for it, and with all that can be read here.

use ccd_core::client::RequestBody;
use ccd_core::configuration::Decider;
use ccd_core::ids::DeviceRole;
use ccd_core::protocol::DecisionKind;
use ccd_tests::sim::asks::is_done;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED, set};
use ccd_tests::sim::world::LEASE;
use core::time::Duration;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const OVERRULE: RequestBody = RequestBody::Takeover { force: true };

/// A pair that serves and holds one row.
fn pair() -> Cluster {
    let mut cluster = Cluster::serving(Shape::PAIR);
    cluster.add(A, "first").unwrap();
    cluster
}

/// Shorter than any write takes.
const MOMENT: Duration = Duration::from_micros(20);

/// A configuration with these members has just been decided, and is not open yet.
fn run_until_decided(cluster: &mut Cluster, members: &[usize]) {
    let until = cluster.now + SETTLED;
    while cluster.configuration().members != set(members) {
        assert!(cluster.now < until, "{}", cluster.verdict(B));
        cluster.run_for(MOMENT);
    }
}

/// It was answered because the votes had let the node serve meanwhile, or its operator went away: nobody has overruled anything.
#[test]
fn a_takeover_that_was_answered_overrules_nothing_later() {
    for hangs_up in [false, true] {
        for moment in 0..10 {
            let mut cluster = pair();
            cluster.crash(A, false);
            run_until_decided(&mut cluster, &[B]);
            cluster.run_for(MOMENT * moment);
            let asked = cluster.begin(B, OVERRULE);
            if hangs_up {
                cluster.run_for(MOMENT / 10);
                cluster.hang_up(asked);
            }
            assert!(cluster.serves_within(B, SETTLED), "{}", cluster.verdict(B));
            cluster.start(A);
            assert!(cluster.reaches(SETTLED, |known| known.members == set(&[A, B])));
            assert_eq!(
                cluster.configuration().decider,
                Decider::Votes,
                "{hangs_up}, {moment}"
            );
        }
    }
}

#[test]
fn a_node_that_left_after_an_operator_asked_it_to_take_over_overrules_nobody() {
    let mut joined = 0;
    for moment in 0..40 {
        let mut cluster = pair();
        cluster.crash(B, false);
        assert!(cluster.add_within(A, "alone", SETTLED));
        cluster.start(B);
        run_until_decided(&mut cluster, &[A, B]);
        cluster.run_for(MOMENT * 5 * moment);
        let asked = cluster.begin(B, OVERRULE);
        if !is_done(&cluster.await_end(asked)) || cluster.configuration().decider == Decider::Operator {
            // It was overruled while nobody served.
            continue;
        }
        joined += 1;
        assert!(is_done(&cluster.command(B, RequestBody::Leave)));
        cluster.run_for(LEASE * 4);
        assert_eq!(cluster.configuration().decider, Decider::Votes, "{moment}");
        assert!(cluster.serves(A) && !cluster.serves(B));
    }
    assert!(joined > 10, "{joined}");
}

/// A pair has written its devices little, if at all: what it acknowledged is in the local copies.
#[test]
fn an_override_waits_until_the_local_copy_is_read() {
    for wait in 0..20 {
        let mut cluster = pair();
        cluster.crash(B, true);
        cluster.crash(A, true);
        cluster.local_latency_max[A] = LEASE / 3;
        cluster.start(A);
        cluster.run_for(LEASE * wait / 40);
        let asked = cluster.begin(A, OVERRULE);
        assert!(cluster.serves_within(A, SETTLED), "{}", cluster.verdict(A));
        assert!(is_done(&cluster.await_end(asked)), "{wait}");
        assert_eq!(cluster.rows(A).unwrap_or_default(), ["first"], "{wait}");
    }
}

#[test]
fn an_override_that_nobody_waits_for_any_more_is_not_carried_out() {
    let mut cluster = pair();
    cluster.crash(B, true);
    cluster.crash(A, true);
    cluster.remake_device(DeviceRole::Primary);
    cluster.start(A);
    cluster.run_for(LEASE * 10);
    assert!(!cluster.serves(A));
    cluster.stall_path(A, DeviceRole::Secondary, LEASE / 2);
    let asked = cluster.begin(A, OVERRULE);
    cluster.run_for(LEASE / 8);
    assert!(!cluster.serves(A));
    cluster.hang_up(asked);
    cluster.run_for(LEASE * 10);
    assert!(!cluster.serves(A));
    assert_eq!(cluster.configuration().decider, Decider::Votes);
    assert!(is_done(&cluster.command(A, OVERRULE)));
    assert_eq!(cluster.rows(A).unwrap_or_default(), ["first"]);
}

/// Two operators at once, at nodes that do not hear each other: both see the devices, and each would overrule the other's word for ever.
#[test]
fn of_two_overrides_at_once_one_is_refused() {
    for apart in 0..6 {
        let mut cluster = Cluster::serving(Shape { nodes: 3, devices: 2 });
        cluster.add(A, "first").unwrap();
        cluster.network.cut(B, C);
        cluster.network.cut(C, B);
        cluster.crash(A, false);
        let first = cluster.begin(B, OVERRULE);
        cluster.run_for(LEASE * apart / 40);
        let asked = [first, cluster.begin(C, OVERRULE)];
        let ends = asked.map(|token| cluster.await_end(token));
        let overrides = [B, C].map(|node| cluster.decisions(node, DecisionKind::Override).len());
        assert!(overrides.iter().sum::<usize>() <= 4, "{overrides:?}: {ends:?}");
        assert!(ends.iter().any(is_done), "{ends:?}");
        cluster.mend_pair(B, C);
        cluster.start(A);
        for node in [A, B, C] {
            assert!(
                cluster.serves_within(node, SETTLED * 3),
                "{}",
                cluster.verdict(node)
            );
        }
    }
}

/// The other one is alive, and the command that the waiting node would be given for a lost one would only turn the sides.
#[test]
fn a_node_that_was_overruled_behind_a_cut_names_the_cut() {
    let mut cluster = pair();
    cluster.cut_pair(A, B);
    cluster.run_for(2 * LEASE);
    assert!(is_done(&cluster.command(B, OVERRULE)));
    assert!(cluster.serves_within(B, SETTLED), "{}", cluster.verdict(B));
    cluster.run_for(3 * LEASE);
    let status = cluster.status(A).unwrap();
    let first = &status.problems[0];
    assert!(
        first.text.contains("node 1 owns the devices and is alive"),
        "{:?}",
        status.problems
    );
    assert!(
        first.next.starts_with("ping the other node's addresses"),
        "{first:?}"
    );
}

/// The file of the server that overrules lacks a node by mistake, and is put right afterwards.
#[test]
fn an_override_by_a_file_that_lacks_a_node_removes_nobody() {
    let mut cluster = Cluster::serving(Shape { nodes: 3, devices: 2 });
    cluster.add(A, "first").unwrap();
    cluster.settle();
    for node in [A, B, C] {
        cluster.crash(node, true);
    }
    cluster.drop_node(A, C);
    cluster.lose_path(A, DeviceRole::Primary);
    cluster.start(A);
    cluster.run_for(LEASE * 3);
    let end = cluster.command(A, OVERRULE);
    assert!(is_done(&end), "{end:?}");
    cluster.crash(A, true);
    cluster.copy_init(B, A);
    for node in [A, B, C] {
        cluster.start(node);
    }
    for node in [A, B, C] {
        let serves = cluster.serves_within(node, SETTLED * 2);
        assert!(serves, "n{node}: {}", cluster.verdict(node));
    }
}
