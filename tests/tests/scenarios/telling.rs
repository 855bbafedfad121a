//! What nodes tell, acknowledge and answer is committed for good: directed scenarios in which a round is prepared on one node only,
//! and in which devices come and go under two live nodes. The simulator's own invariants are part of each.

use DeviceRole::{Primary, Secondary};
use ccd_core::client::RequestBody;
use ccd_core::ids::{DeviceRole, Epoch};
use ccd_core::init::Fencing;
use ccd_core::protocol::DecisionKind;
use ccd_tests::sim::asks::is_done;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED, set};
use ccd_tests::sim::world::{HEARTBEAT, LEASE};
use core::time::Duration;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const D: usize = 3;

/// So many nodes, none of which has heard another for so long that each acts by itself, and a round that A alone has prepared.
fn apart_with_a_round_on_one(nodes: usize) -> Cluster {
    let mut cluster = Cluster::serving(Shape { nodes, devices: 0 });
    cluster.add(A, "first").unwrap();
    cluster.run_for(LEASE);
    for other in 1..nodes {
        cluster.network.cut(A, other);
    }
    let (_, prepared) = cluster.addition("prepared by one");
    cluster.begin(A, prepared);
    cluster.run_for(HEARTBEAT / 10);
    for other in 1..nodes {
        for node in 0..other {
            cluster.cut_pair(node, other);
        }
        // The second cut of that direction is enough.
        cluster.network.mend(A, other);
    }
    cluster.run_for(LEASE * 8);
    cluster
}

#[test]
fn a_round_that_a_proposer_fetches_is_not_told_before_a_configuration_opens_on_it() {
    let mut cluster = apart_with_a_round_on_one(3);
    let told = cluster.servers[B].told;
    // A and B propose at the same time, and B gets what A has prepared.
    cluster.mend_pair(A, B);
    let (mut is_fetched, mut is_open) = (false, false);
    for _ in 0..2_000 {
        cluster.run_for(HEARTBEAT / 200);
        is_open = !cluster.decisions(B, DecisionKind::Opened)[1..].is_empty();
        if is_open {
            break;
        }
        is_fetched |= (cluster.stale_rows(B)).is_some_and(|rows| rows.len() > 1)
            || cluster.copies.iter().any(|(from, to)| (*from, *to) == (A, B));
        assert_eq!(cluster.servers[B].told, told, "nothing is told before it opens");
    }
    assert!(is_fetched && is_open, "fetched: {is_fetched}, open: {is_open}");
    assert!(cluster.add_within(B, "next", SETTLED));
    assert_eq!(cluster.rows(B).unwrap(), ["first", "next", "prepared by one"]);
}

#[test]
fn half_of_the_nodes_does_not_answer_from_the_base_of_a_configuration_that_never_opened() {
    let mut cluster = apart_with_a_round_on_one(4);
    cluster.crash(D, false);
    // C decides, and B dies while it writes the opening.
    cluster.local_latency_max[B] = LEASE / 2;
    cluster.mend_pair(A, B);
    cluster.mend_pair(A, C);
    cluster.mend_pair(B, C);
    assert!(cluster.reaches(LEASE * 6, |configuration| configuration.epoch.0 == 2));
    cluster.crash(B, true);
    let opened = cluster.decisions(C, DecisionKind::Opened).len();
    assert_eq!(opened, 1, "it has not opened what was decided");
    for _ in 0..60 {
        cluster.run_for(HEARTBEAT);
        for server in [A, C] {
            // What it shows is durable on every member, or the simulator objects.
            cluster.rows(server);
        }
    }
    cluster.local_latency_max[B] = HEARTBEAT / 100;
    cluster.start(B);
    assert!(cluster.add_within(B, "next", SETTLED), "{}", cluster.verdict(B));
}

#[test]
fn a_node_whose_last_round_was_given_up_rejoins_by_the_tail_and_misses_nothing() {
    for shape in [Shape { nodes: 3, devices: 0 }, Shape::PAIR] {
        for restarts in [false, true] {
            let mut cluster = Cluster::serving(shape);
            cluster.add(A, "first").unwrap();
            cluster.run_for(LEASE);
            for other in 1..shape.nodes {
                cluster.network.cut(A, other);
            }
            let (_, prepared) = cluster.addition("prepared by one");
            cluster.begin(A, prepared);
            cluster.run_for(HEARTBEAT / 10);
            if restarts {
                cluster.crash(A, false);
            } else if shape.devices > 0 {
                cluster.lose_path(A, Primary);
                cluster.lose_path(A, Secondary);
            }
            for other in 1..shape.nodes {
                cluster.cut_pair(A, other);
                cluster.network.mend(A, other);
            }
            assert!(
                cluster.add_within(B, "second", SETTLED),
                "{shape:?}, restarts: {restarts}"
            );
            cluster.add(B, "third").unwrap();
            for role in [Primary, Secondary].into_iter().take(shape.devices) {
                cluster.return_path(A, role);
            }
            cluster.rejoin(A);
            if restarts {
                cluster.start(A);
            }
            assert!(cluster.serves_within(A, SETTLED), "{}", cluster.verdict(A));
            assert_eq!(cluster.rows(A).unwrap(), ["first", "second", "third"]);
            assert_eq!(cluster.servers[A].gaps, 0, "{shape:?}, restarts: {restarts}");
            assert_eq!(cluster.servers[A].told.lineage, cluster.servers[B].told.lineage);
            assert!(cluster.branches(A).is_empty(), "nothing that was acked is lost");
        }
    }
}

/// How many configurations are decided while the secondary is away for a moment in each of these turns.
fn configurations_while_flapping(cluster: &mut Cluster, turns: u32, up: Duration) -> u64 {
    let before = cluster.configuration().epoch.0;
    for turn in 0..turns {
        cluster.lose_device(Secondary);
        cluster.run_for(LEASE * 3 / 2);
        cluster.return_device(Secondary);
        cluster.run_for(up);
        let taken = cluster.add_within(A, &format!("turn {turn}"), LEASE);
        assert!(taken, "turn {turn}: {}", cluster.verdict(A));
    }
    cluster.configuration().epoch.0 - before
}

#[test]
fn a_flapping_device_reconfigures_a_cluster_ever_more_rarely() {
    for fencing in [Fencing::Lease, Fencing::Scsi] {
        for alone in [false, true] {
            let mut cluster = Cluster::serving_with(Shape::PAIR, fencing);
            if alone {
                cluster.crash(B, false);
                assert!(cluster.add_within(A, "alone", SETTLED));
                cluster.settle();
            }
            let decided = configurations_while_flapping(&mut cluster, 12, LEASE * 4);
            // It goes and comes once or twice, and then has to work for longer than it does.
            assert!(decided <= 6, "{fencing}, alone {alone}: {decided} configurations");
            assert!(
                cluster.reaches(LEASE * 30, |configuration| configuration
                    .devices
                    .contains(Secondary)),
                "{fencing}, alone {alone}: it works, and is taken in again"
            );
        }
    }
}

#[test]
fn a_device_that_is_too_slow_to_be_taken_in_stops_two_live_nodes_now_and_then() {
    let mut cluster = Cluster::stopped_with(Shape::PAIR, Fencing::Scsi);
    cluster.faults.disk_deadline = LEASE * 2;
    cluster.start_all(HEARTBEAT / 10);
    assert!(cluster.define_formats(1, SETTLED));
    cluster.lose_device(Primary);
    cluster.lose_device(Secondary);
    assert!(cluster.reaches(SETTLED, |configuration| {
        configuration.devices == ccd_core::ids::DeviceSet::EMPTY
    }));
    cluster.faults.disk_delay_max = LEASE * 8 / 10;
    cluster.return_device(Primary);
    cluster.return_device(Secondary);
    let before = cluster.configuration().epoch.0;
    for turn in 0..40 {
        cluster.run_for(LEASE / 2);
        let taken = cluster.add_within(A, &format!("turn {turn}"), LEASE * 4);
        assert!(taken, "turn {turn}: {}", cluster.verdict(A));
    }
    let decided = cluster.configuration().epoch.0 - before;
    assert!(decided <= 8, "{decided} configurations in 20 leases");
    cluster.faults.disk_delay_max = HEARTBEAT / 100;
    assert!(cluster.reaches(LEASE * 30, |configuration| {
        configuration.devices.contains(Primary) && configuration.devices.contains(Secondary)
    }));
}

#[test]
fn a_session_that_was_made_anew_before_the_reservation_was_taken_is_registered() {
    let mut cluster = Cluster::stopped_with(Shape { nodes: 1, devices: 2 }, Fencing::Scsi);
    cluster.faults.disk_delay_max = HEARTBEAT / 2;
    cluster.start(A);
    let mut remade = set(&[]);
    for _ in 0..40_000 {
        cluster.run_for(HEARTBEAT / 1_000);
        for (index, role) in DeviceRole::ALL.into_iter().enumerate() {
            let seen = cluster.registrations(role);
            if !remade.contains(set(&[index]).lowest().unwrap())
                && !seen.keys.is_empty()
                && seen.holder.is_none()
            {
                cluster.reconnect(A, role);
                remade = remade.union(set(&[index]));
            }
        }
    }
    assert_eq!(remade.count(), 2, "each session was made anew in between");
    assert!(cluster.define_formats(1, SETTLED), "{}", cluster.verdict(A));
}

/// The node dies after the image that lacks them was stored, and before it serves.
#[test]
fn updates_that_an_image_lacks_are_said_to_be_lost_also_after_a_crash() {
    for crashes in [false, true] {
        let mut cluster = Cluster::serving(Shape { nodes: 3, devices: 0 });
        assert!(cluster.add(A, "first").is_ok());
        let backup = cluster.backup();
        assert!(is_done(&cluster.command(C, RequestBody::Leave)));
        assert!(cluster.reaches(SETTLED, |known| known.members == set(&[A, B])));
        cluster.crash(C, false);
        for number in 0..3 {
            assert!(cluster.add_within(A, &format!("lost{number}"), SETTLED));
        }
        cluster.run_for(LEASE);
        cluster.crash(A, false);
        cluster.crash(B, false);
        cluster.set_back_local(A, &backup, true);
        cluster.promise_nothing(Epoch(1));
        cluster.start(A);
        cluster.start(C);
        for number in 0..5 {
            assert!(cluster.add_within(A, &format!("since{number}"), SETTLED));
        }
        cluster.start(B);
        if crashes {
            let end = cluster.now + SETTLED;
            // The image is stored after the branch.
            let theirs = cluster.status(A).unwrap().position.stamp.generation;
            while cluster.branches(B).is_empty()
                || cluster.status(B).unwrap().position.stamp.generation < theirs
            {
                assert!(cluster.now < end, "{}", cluster.verdict(B));
                cluster.run_for(Duration::from_micros(20));
            }
            cluster.crash(B, false);
            cluster.start(B);
        }
        assert!(cluster.serves_within(B, SETTLED), "{}", cluster.verdict(B));
        assert!(!cluster.losses(B).is_empty(), "{crashes}");
    }
}
