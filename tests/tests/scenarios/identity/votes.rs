//! Nodes whose vote does not count for now: their copy is new, their folder came from another machine, or they have signed nothing yet.

use super::{MOMENT, PAIR, is_whole};
use ccd_core::client::RequestBody;
use ccd_core::ids::DeviceRole;
use ccd_core::init::Fencing;
use ccd_core::protocol::DecisionKind;
use ccd_tests::sim::asks::{is_done, refused};
use ccd_tests::sim::scenario::{Cluster, SETTLED, set};
use ccd_tests::sim::world::LEASE;

/// Nobody but an operator can know that no other run goes on with what the folders lack.
#[test]
fn an_override_goes_on_with_state_folders_that_all_came_from_other_machines() {
    for with_peer in [true, false] {
        let mut cluster = all_moved();
        cluster.start(0);
        if with_peer {
            cluster.start(1);
        }
        cluster.run_for(LEASE * 10);
        assert!(!cluster.serves(0));
        let verdict = cluster.verdict(0);
        assert!(verdict.contains("ran on another machine"), "{verdict}");
        assert!(!verdict.contains("has a new local copy"), "{verdict}");
        let end = cluster.command(0, RequestBody::Takeover { force: true });
        assert!(is_done(&end), "{with_peer}: {end:?}");
        if !with_peer {
            cluster.start(1);
        }
        is_whole(&mut cluster, 1, "after");
        let rows = cluster.rows(1).unwrap_or_default();
        assert!(rows.contains(&"acknowledged by both".to_owned()), "{rows:?}");
        assert!(
            cluster.reaches(SETTLED, |known| known.members == set(&[0, 1])),
            "{with_peer}: {}",
            cluster.verdict(0)
        );
    }
}

#[test]
fn an_override_at_a_new_copy_leaves_it_to_the_node_that_holds_more() {
    let mut cluster = all_moved();
    cluster.wipe_local(0);
    cluster.start(0);
    cluster.start(1);
    cluster.run_for(LEASE * 10);
    let end = cluster.command(0, RequestBody::Takeover { force: true });
    refused(&end, "next, on node 1: ccdctl takeover --force");
    assert!(!cluster.serves(0) && !cluster.serves(1));
    let end = cluster.command(1, RequestBody::Takeover { force: true });
    assert!(is_done(&end), "{end:?}");
    is_whole(&mut cluster, 0, "after");
    let rows = cluster.rows(0).unwrap_or_default();
    assert!(rows.contains(&"acknowledged by both".to_owned()), "{rows:?}");
}

/// Runs on until this server has made so many decisions of this kind more.
fn next_decision(cluster: &mut Cluster, server: usize, kind: DecisionKind) {
    let before = cluster.decisions(server, kind).len();
    let limit = cluster.now + SETTLED;
    while cluster.decisions(server, kind).len() == before {
        assert!(cluster.now < limit, "{kind:?}: {}", cluster.verdict(server));
        cluster.run_for(MOMENT);
    }
}

/// It may have voted there before its copy was lost.
#[test]
fn a_new_copy_is_taken_in_only_by_a_configuration_that_counts_on_this_run() {
    let mut cluster = Cluster::serving(PAIR);
    cluster.crash(1, true);
    assert!(cluster.add_within(0, "alone", SETTLED));
    cluster.wipe_local(1);
    cluster.start(1);
    next_decision(&mut cluster, 0, DecisionKind::Decided);
    let decided = cluster.configuration().epoch;
    assert_eq!(cluster.configuration().members, set(&[0, 1]));
    cluster.crash(1, true);
    cluster.wipe_local(1);
    cluster.start(1);
    assert!(cluster.serves_within(1, SETTLED), "{}", cluster.verdict(1));
    assert!(cluster.configuration().epoch > decided);
    let refused = cluster.decisions(0, DecisionKind::Refused);
    let expected = format!(
        "epoch {decided} was not opened: node 1 has another state folder than the one that is counted on"
    );
    assert!(
        refused.iter().any(|decision| decision.text == expected),
        "{refused:?}"
    );
    assert_eq!(cluster.rows(1).unwrap(), ["alone"]);
}

#[test]
fn a_member_that_has_not_signed_its_devices_says_so() {
    let mut cluster = Cluster::stopped_with(PAIR, Fencing::Scsi);
    cluster.start(0);
    cluster.start(1);
    next_decision(&mut cluster, 0, DecisionKind::Propose);
    cluster.lose_path(1, DeviceRole::Secondary);
    next_decision(&mut cluster, 0, DecisionKind::Decided);
    let expected = "the first heartbeat of this node does not stand on the secondary yet";
    let says_so = |cluster: &Cluster| {
        let problems = cluster.status(1).unwrap().problems;
        problems.iter().any(|problem| problem.text.contains(expected))
    };
    let limit = cluster.now + LEASE / 2;
    while !says_so(&cluster) {
        assert!(cluster.now < limit, "{}", cluster.verdict(1));
        cluster.run_for(MOMENT);
    }
    let verdict = cluster.verdict(0);
    assert!(!verdict.contains("new local copy"), "{verdict}");
    cluster.return_path(1, DeviceRole::Secondary);
    cluster.settle();
    assert_eq!(cluster.verdict(1), "");
    assert!(!says_so(&cluster));
}

/// It was taken in, and counts at once: with the arbiter alone it goes on where the other node and the other device are lost.
#[test]
fn a_member_that_came_from_another_machine_has_the_vote_that_the_configuration_counts_on() {
    for restarts in [false, true] {
        let mut cluster = Cluster::serving(PAIR);
        cluster.crash(0, true);
        assert!(cluster.add_within(1, "alone", SETTLED));
        cluster.move_server(0);
        cluster.start(0);
        next_decision(&mut cluster, 1, DecisionKind::Decided);
        assert_eq!(cluster.configuration().members, set(&[0, 1]));
        assert!(cluster.serves_within(0, SETTLED), "{}", cluster.verdict(0));
        if restarts {
            cluster.crash(0, true);
        }
        cluster.crash(1, true);
        cluster.lose_device(DeviceRole::Secondary);
        if restarts {
            cluster.start(0);
        }
        assert!(
            cluster.add_within(0, "moved", SETTLED),
            "{restarts}: {}",
            cluster.verdict(0)
        );
        assert_eq!(cluster.rows(0).unwrap(), ["alone", "moved"]);
    }
}

/// A pair that has acknowledged an update, and both of whose servers come back on other machines.
fn all_moved() -> Cluster {
    let mut cluster = Cluster::serving(PAIR);
    assert!(cluster.add(0, "acknowledged by both").is_ok());
    for server in 0..2 {
        cluster.crash(server, true);
        cluster.move_server(server);
    }
    cluster
}
