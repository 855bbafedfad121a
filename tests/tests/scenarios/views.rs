//! An external membership monitor, and planned work: what the cluster does for them, and what it never does.

use ccd_core::client::RequestBody;
use ccd_core::configuration::Mode;
use ccd_core::ids::NodeId;
use ccd_core::protocol::DecisionKind;
use ccd_tests::sim::asks::{is_done, refused};
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED, set};
use ccd_tests::sim::world::{HEARTBEAT, LEASE};
use core::time::Duration;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const THREE: Shape = Shape { nodes: 3, devices: 0 };

fn view(nodes: &[usize]) -> RequestBody {
    RequestBody::Reconfigure {
        members: Some(set(nodes)),
    }
}

const BUILT_IN: RequestBody = RequestBody::Reconfigure { members: None };
const ON: RequestBody = RequestBody::Maintenance { on: true };
const OFF: RequestBody = RequestBody::Maintenance { on: false };

// The external membership monitor.

#[test]
fn a_node_that_the_view_calls_gone_is_left_out_at_once() {
    let mut cluster = Cluster::serving(THREE);
    cluster.crash(C, false);
    // Its lease still runs, so nobody may open without it before that has ended; but nobody waits for its silence.
    let asked: Vec<u64> = [A, B].map(|node| cluster.begin(node, view(&[A, B]))).to_vec();
    assert!(cluster.reaches(LEASE / 2, |known| known.members == set(&[A, B])));
    for token in asked {
        assert!(is_done(&cluster.await_end(token)));
    }
    cluster.add(A, "without C").unwrap();
    assert!(!cluster.decisions(A, DecisionKind::Membership).is_empty());
}

#[test]
fn a_node_that_is_heard_and_that_the_view_calls_gone_is_said_to_be_so() {
    let mut cluster = Cluster::serving(THREE);
    let token = cluster.begin(A, view(&[A, B]));
    assert!(is_done(&cluster.await_end(token)));
    cluster.run_for(LEASE * 2);
    let problems = cluster.status(A).unwrap().problems;
    let of_c = problems.iter().find(|problem| problem.text.contains("node 2"));
    let of_c = of_c.unwrap_or_else(|| panic!("{problems:?}"));
    assert!(
        of_c.text
            .contains("the external membership monitor says that it is gone, and it is heard"),
        "{of_c:?}"
    );
    assert_eq!(of_c.next, "ccdctl reconfigure --built-in");
}

#[test]
fn a_node_that_the_view_calls_there_is_waited_for_however_long_it_is_silent() {
    let mut cluster = Cluster::serving(THREE);
    for node in [A, B, C] {
        assert!(is_done(&cluster.command(node, view(&[A, B, C]))));
    }
    let epoch = cluster.configuration().epoch;
    cluster.crash(C, false);
    cluster.run_for(10 * LEASE);
    assert_eq!(
        cluster.configuration().epoch,
        epoch,
        "nothing is decided without it"
    );
    assert!(cluster.rows(A).is_some(), "the lease of two of three holds");
    assert!(
        cluster.verdict(A).contains("is waited for"),
        "{}",
        cluster.verdict(A)
    );
    cluster.start(C);
    assert!(cluster.add_within(A, "it is back", SETTLED));
    assert_eq!(cluster.configuration().members, set(&[A, B, C]));
}

#[test]
fn a_view_in_which_this_node_is_gone_takes_it_out_gracefully() {
    let mut cluster = Cluster::serving(THREE);
    let before = cluster.now;
    assert!(is_done(&cluster.command(C, view(&[A, B]))));
    assert!(
        cluster.now.since(before) < LEASE,
        "handed over, with no lease to wait for"
    );
    assert_eq!(cluster.configuration().members, set(&[A, B]));
    cluster.add(A, "without C").unwrap();
    cluster.settle();
    assert_eq!(
        cluster.verdict(C),
        "the external membership monitor says that this node is gone"
    );
    assert!(is_done(&cluster.command(C, BUILT_IN)));
    assert!(cluster.serves_within(C, SETTLED));
}

#[test]
fn the_view_is_kept_until_the_built_in_monitor_decides_again() {
    let mut cluster = Cluster::serving(THREE);
    for node in [A, B] {
        cluster.begin(node, view(&[A, B]));
    }
    assert!(cluster.reaches(SETTLED, |known| known.members == set(&[A, B])));
    cluster.run_for(10 * LEASE);
    assert_eq!(
        cluster.configuration().members,
        set(&[A, B]),
        "C is alive, and stays out"
    );
    assert_eq!(cluster.status(A).unwrap().external, Some(set(&[A, B])));
    assert!(
        cluster.verdict(A).contains("but it is alive"),
        "{}",
        cluster.verdict(A)
    );
    for node in [A, B] {
        assert!(is_done(&cluster.command(node, BUILT_IN)));
    }
    assert!(cluster.reaches(SETTLED, |known| known.members == set(&[A, B, C])));
    assert_eq!(cluster.status(A).unwrap().external, None);
}

#[test]
fn views_that_come_at_different_times_and_agree_end_in_one_configuration() {
    for spread_ms in [0, 1, 5, 20, 100, 400, 900] {
        let mut cluster = Cluster::serving(Shape { nodes: 5, devices: 0 });
        cluster.crash(4, false);
        let mut asked = Vec::new();
        for node in [C, A, 3, B] {
            asked.push(cluster.begin(node, view(&[A, B, C, 3])));
            cluster.run_for(Duration::from_millis(spread_ms));
        }
        for token in asked {
            assert!(is_done(&cluster.await_end(token)), "views {spread_ms} ms apart");
        }
        assert_eq!(cluster.configuration().members, set(&[A, B, C, 3]));
        cluster.add(3, "agreed").unwrap();
    }
}

#[test]
fn one_node_without_a_view_goes_along_with_those_that_have_one() {
    let mut cluster = Cluster::serving(THREE);
    for node in [A, B] {
        cluster.begin(node, view(&[A, B]));
    }
    cluster.settle();
    assert_eq!(cluster.configuration().members, set(&[A, B]));
    // C is alive, hears that it is out, and does not take the cluster from the others.
    assert!(cluster.rows(C).is_none());
    let epoch = cluster.configuration().epoch;
    cluster.run_for(20 * LEASE);
    assert_eq!(cluster.configuration().epoch, epoch);
    cluster.add(B, "undisturbed").unwrap();
}

#[test]
fn views_that_contradict_cost_time_and_never_an_update_and_do_not_take_the_cluster_from_each_other() {
    for shape in [Shape::PAIR, THREE] {
        let mut cluster = Cluster::serving(shape);
        cluster.add(A, "before").unwrap();
        // Each monitor takes the other half for gone.
        cluster.begin(A, view(&[A, C][..shape.nodes - 1]));
        cluster.begin(B, view(&[B]));
        cluster.settle();
        let epoch = cluster.configuration().epoch.0;
        let serving: Vec<usize> = (0..shape.nodes)
            .filter(|node| cluster.rows(*node).is_some())
            .collect();
        assert!(!serving.is_empty(), "somebody goes on");
        assert!(cluster.add_within(serving[0], "meanwhile", SETTLED));
        cluster.run_for(20 * LEASE);
        assert!(
            cluster.configuration().epoch.0 <= epoch + 1,
            "they do not take it from each other"
        );
        // The monitors come to agree.
        let all: Vec<usize> = (0..shape.nodes).collect();
        for node in &all {
            cluster.begin(*node, view(&all));
        }
        for node in &all {
            assert!(
                cluster.serves_within(*node, 2 * SETTLED),
                "n{node}: {}",
                cluster.verdict(*node)
            );
            let rows = cluster.rows(*node).unwrap();
            assert!(rows.contains(&"before".to_owned()) && rows.contains(&"meanwhile".to_owned()));
        }
    }
}

#[test]
fn a_view_that_the_votes_do_not_allow_says_why() {
    let mut cluster = Cluster::serving(THREE);
    cluster.crash(B, false);
    cluster.crash(C, false);
    refused(&cluster.command(A, view(&[A])), "no quorum");
    assert!(cluster.rows(A).is_none(), "one of three serves nothing");
    refused(&cluster.command(A, view(&[])), "at least one node");
    refused(&cluster.command(A, view(&[A, 7])), "none of the nodes");
}

#[test]
fn a_view_with_a_node_that_does_not_come_is_answered_with_what_is_missing() {
    let mut cluster = Cluster::serving(THREE);
    cluster.crash(C, false);
    assert!(cluster.reaches(SETTLED, |known| known.members == set(&[A, B])));
    assert!(cluster.serves_within(A, SETTLED));
    refused(
        &cluster.command(A, view(&[A, B, C])),
        "node 2 is in the view and has not joined",
    );
}

#[test]
fn a_view_does_not_make_leases_shorter() {
    for at_millis in (0..1_200).step_by(50) {
        let mut cluster = Cluster::serving(THREE);
        cluster.isolate(C);
        cluster.run_for(Duration::from_millis(at_millis));
        cluster.begin(A, view(&[A, B]));
        cluster.begin(B, view(&[A, B]));
        // Every answer is checked: C may answer only while nobody else has written.
        for count in 0..40 {
            let value = format!("v{count}");
            let written = cluster.add_within(A, &value, HEARTBEAT);
            if let Some(rows) = cluster.rows(C).filter(|_| written) {
                assert!(rows.contains(&value), "stale");
            }
        }
        assert_eq!(cluster.configuration().members, set(&[A, B]));
    }
}

// Maintenance.

#[test]
fn the_switch_between_the_nodes_restarts_during_maintenance_and_nothing_is_taken_over() {
    for shape in [Shape::PAIR, THREE] {
        let mut cluster = Cluster::serving(shape);
        assert!(is_done(&cluster.command(B, ON)));
        let before = cluster.configuration().clone();
        assert!(before.maintenance);
        for node in 0..shape.nodes {
            cluster.isolate(node);
        }
        cluster.run_for(20 * LEASE);
        assert_eq!(cluster.configuration(), &before, "nothing is decided");
        assert!(
            cluster.rows(A).is_none() && cluster.rows(B).is_none(),
            "no lease, no answer"
        );
        assert!(
            cluster.verdict(A).contains("maintenance"),
            "{}",
            cluster.verdict(A)
        );
        for node in 0..shape.nodes {
            cluster.rejoin(node);
        }
        for node in 0..shape.nodes {
            assert!(
                cluster.serves_within(node, SETTLED),
                "n{node}: {}",
                cluster.verdict(node)
            );
        }
        assert_eq!(cluster.configuration().members, before.members);
        cluster.add(A, "as before").unwrap();
        assert!(is_done(&cluster.command(A, OFF)));
        assert!(!cluster.configuration().maintenance);
        let fenced = (0..shape.nodes)
            .map(|node| cluster.decisions(node, DecisionKind::Fenced).len())
            .sum::<usize>();
        assert_eq!(fenced, 0);
    }
}

#[test]
fn during_maintenance_a_member_that_stops_leaves_or_restarts_is_waited_for_and_queries_go_on() {
    let mut cluster = Cluster::serving(THREE);
    assert!(is_done(&cluster.command(A, ON)));
    let epoch = cluster.configuration().epoch;
    for way in ["dies", "leaves"] {
        if way == "leaves" {
            assert!(is_done(&cluster.command(C, RequestBody::Leave)));
        }
        cluster.crash(C, false);
        cluster.run_for(5 * LEASE);
        assert!(cluster.rows(A).is_some(), "two of three hold the lease");
        let refusal = cluster.add(A, "not now").unwrap_err().to_string();
        assert!(
            refusal.contains("maintenance") && refusal.contains("node 2"),
            "{refusal}"
        );
        assert!(
            cluster.verdict(A).contains("no update is taken"),
            "{}",
            cluster.verdict(A)
        );
        assert!(
            cluster
                .status(A)
                .unwrap()
                .survives
                .iter()
                .all(|(_, survives)| !survives)
        );
        cluster.start(C);
        for node in [A, B, C] {
            assert!(
                cluster.serves_within(node, SETTLED),
                "n{node}: {}",
                cluster.verdict(node)
            );
        }
        assert!(cluster.add_within(A, way, SETTLED));
        assert_eq!(cluster.configuration().members, set(&[A, B, C]));
        assert!(cluster.configuration().maintenance);
    }
    assert!(
        cluster.configuration().epoch > epoch,
        "it was taken in again, with the same members"
    );
}

#[test]
fn maintenance_outlives_the_restart_of_all_nodes() {
    let mut cluster = Cluster::serving(Shape::PAIR);
    assert!(is_done(&cluster.command(A, ON)));
    for node in [A, B] {
        cluster.crash(node, true);
    }
    cluster.start(B);
    cluster.settle();
    assert!(
        cluster.rows(B).is_none() && cluster.configuration().maintenance,
        "B alone waits for A"
    );
    cluster.start(A);
    assert!(cluster.add_within(A, "both", SETTLED));
    assert!(cluster.configuration().maintenance);
    assert_eq!(cluster.configuration().mode, Mode::Paired);
}

#[test]
fn ending_maintenance_takes_over_from_whoever_has_not_come_back() {
    for shape in [Shape::PAIR, THREE] {
        let mut cluster = Cluster::serving(shape);
        let asked = if shape == THREE { C } else { B };
        assert!(is_done(&cluster.command(A, ON)));
        cluster.crash(A, true);
        cluster.run_for(5 * LEASE);
        refused(
            &cluster.command(B, RequestBody::Takeover { force: false }),
            "maintenance off",
        );
        assert!(is_done(&cluster.command(asked, OFF)));
        assert!(!cluster.configuration().maintenance);
        assert!(cluster.add_within(B, "taken over", SETTLED));
        assert!(!cluster.configuration().members.contains(NodeId::new(0).unwrap()));
    }
}

#[test]
fn maintenance_begins_only_with_all_members_and_is_never_a_way_around_the_votes() {
    let mut cluster = Cluster::serving(THREE);
    for node in [A, B, C] {
        assert!(is_done(&cluster.command(node, view(&[A, B, C]))));
    }
    cluster.crash(C, false);
    cluster.run_for(2 * LEASE);
    refused(&cluster.command(A, ON), "node 2 is not heard");
    cluster.start(C);
    assert!(cluster.serves_within(C, SETTLED));
    cluster.settle();
    assert!(!cluster.configuration().maintenance, "it was given up");
    for node in [A, B, C] {
        assert!(is_done(&cluster.command(node, BUILT_IN)));
    }
    assert!(is_done(&cluster.command(A, ON)));
    cluster.crash(B, false);
    cluster.crash(C, false);
    cluster.run_for(3 * LEASE);
    refused(&cluster.command(A, OFF), "no quorum");
    assert!(cluster.rows(A).is_none());
}

#[test]
fn a_solo_owner_that_restarts_during_maintenance_finds_its_devices_untouched() {
    let mut cluster = Cluster::serving(Shape::PAIR);
    cluster.crash(B, true);
    assert!(cluster.add_within(A, "solo", 2 * SETTLED));
    assert!(is_done(&cluster.command(A, ON)));
    cluster.crash(A, true);
    cluster.start(B);
    cluster.run_for(10 * LEASE);
    assert!(cluster.rows(B).is_none(), "B does not take over");
    cluster.start(A);
    assert!(cluster.add_within(A, "again", SETTLED));
    assert!(cluster.serves_within(B, SETTLED), "{}", cluster.verdict(B));
}
