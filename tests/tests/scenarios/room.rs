//! Replicas that are too small for what the database may become, and replicas that do not take writes.

use ccd_core::client::Refusal;
use ccd_core::configuration::Mode;
use ccd_core::ids::{DeviceRole, NodeId};
use ccd_core::protocol::DecisionKind;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED};
use ccd_tests::sim::world::LEASE;
use core::time::Duration;

const A: usize = 0;
const B: usize = 1;

/// Room for a few rows of [`large`], and far less than the other replicas have.
const SMALL_BYTES: u64 = 8 << 10;

fn node(server: usize) -> NodeId {
    NodeId::new(server as u8).unwrap()
}

/// A value that takes most of a kilobyte.
fn large(number: usize) -> String {
    format!("{number:04}{}", "x".repeat(850))
}

/// Adds large rows until one is refused, and says how many there are and why.
fn fill(cluster: &mut Cluster, server: usize) -> (usize, String) {
    for number in 0..100 {
        match cluster.add(server, &large(number)) {
            Ok(_) => {}
            Err(Refusal::Full { why }) => return (number, why),
            Err(refusal) => panic!("row {number}: {refusal:?}"),
        }
    }
    panic!("100 rows, and none was refused");
}

/// How many configurations are decided in so long a time.
fn epochs_in(cluster: &mut Cluster, span: Duration) -> u64 {
    let before = cluster.configuration().epoch.0;
    cluster.run_for(span);
    cluster.configuration().epoch.0 - before
}

fn is_solo(cluster: &Cluster, server: usize) -> bool {
    cluster.configuration().mode == Mode::Solo(node(server))
}

/// The nodes and the devices that the cluster should have, and has.
fn is_whole(cluster: &Cluster) -> bool {
    let configuration = cluster.configuration();
    configuration.members == Shape::PAIR.node_set() && configuration.devices == Shape::PAIR.device_set()
}

#[test]
fn the_smallest_device_bounds_what_a_pair_admits_and_either_node_goes_on_alone_with_it() {
    for role in DeviceRole::ALL {
        for dies in [A, B] {
            let mut cluster = Cluster::stopped(Shape::PAIR);
            cluster.remake_device_to(role, SMALL_BYTES);
            let mut cluster = cluster.started();
            let (rows, why) = fill(&mut cluster, A);
            assert!(rows >= 5 && why.contains(role.name()), "{rows} rows; {why}");
            assert!(matches!(cluster.add(B, &large(99)), Err(Refusal::Full { .. })));
            assert!(is_whole(&cluster));
            let survivor = 1 - dies;
            cluster.crash(dies, false);
            assert!(
                cluster.add_within(survivor, "small", SETTLED),
                "room for a small row"
            );
            assert!(is_solo(&cluster, survivor));
            assert_eq!(cluster.configuration().devices, Shape::PAIR.device_set());
            assert!(matches!(
                cluster.add(survivor, &large(99)),
                Err(Refusal::Full { .. })
            ));
            assert_eq!(epochs_in(&mut cluster, LEASE * 5), 0);
            cluster.start(dies);
            assert!(cluster.serves_within(dies, SETTLED));
            assert_eq!(cluster.rows(dies).unwrap().len(), rows + 1);
        }
    }
}

#[test]
fn the_smaller_local_copy_bounds_what_either_node_admits_and_it_is_named() {
    for small in [A, B] {
        let mut cluster = Cluster::stopped(Shape::PAIR);
        cluster.wipe_local_to(small, SMALL_BYTES);
        let mut cluster = cluster.started();
        let (_, why) = fill(&mut cluster, 1 - small);
        assert!(why.contains(&format!("the local copy of node {small}")), "{why}");
        assert!(matches!(
            cluster.add(small, &large(99)),
            Err(Refusal::Full { .. })
        ));
        // What an absent node has room for still counts: it is to come back.
        cluster.crash(small, false);
        assert!(cluster.add_within(1 - small, "small", SETTLED));
        assert!(matches!(
            cluster.add(1 - small, &large(99)),
            Err(Refusal::Full { .. })
        ));
        cluster.start(small);
        assert!(cluster.serves_within(small, SETTLED));
    }
}

#[test]
fn rows_can_be_removed_from_a_database_that_has_no_room_left() {
    let mut cluster = Cluster::stopped(Shape::PAIR);
    cluster.remake_device_to(DeviceRole::Secondary, SMALL_BYTES);
    let mut cluster = cluster.started();
    let (rows, _) = fill(&mut cluster, A);
    cluster.restore(A, &large(0), true);
    assert_eq!(cluster.rows(B).unwrap().len(), 1);
    for number in 1..rows - 1 {
        cluster.add(B, &large(number)).unwrap();
    }
}

#[test]
fn a_device_made_anew_too_small_for_the_database_stays_out_with_its_reason_and_a_survivor_goes_on() {
    for role in DeviceRole::ALL {
        let mut cluster = Cluster::serving(Shape::PAIR);
        for number in 0..20 {
            cluster.add(A, &large(number)).unwrap();
        }
        (A..=B).for_each(|server| cluster.crash(server, false));
        cluster.remake_device_to(role, SMALL_BYTES);
        (A..=B).for_each(|server| cluster.start(server));
        assert!(cluster.add_within(A, "after the restart", 2 * SETTLED));
        cluster.settle();
        let device = |cluster: &Cluster, server| {
            let status = cluster.status(server).unwrap();
            status
                .devices
                .into_iter()
                .find(|device| device.role == role)
                .unwrap()
        };
        for server in [A, B] {
            let device = device(&cluster, server);
            let error = device.error.unwrap();
            assert!(!device.in_sync && error.contains("is too small"), "{error}");
        }
        assert!(!cluster.configuration().devices.contains(role));
        assert_eq!(epochs_in(&mut cluster, LEASE * 10), 0);
        // Without the primary the pair has no arbiter; the secondary becomes it.
        cluster.crash(B, false);
        assert!(cluster.add_within(A, "alone", SETTLED));
        assert!(is_solo(&cluster, A) && !cluster.configuration().devices.contains(role));
        assert!(
            epochs_in(&mut cluster, LEASE * 10) == 0,
            "nothing changes any more"
        );
        cluster.start(B);
        assert!(cluster.serves_within(B, SETTLED));
    }
}

#[test]
fn a_node_whose_new_local_copy_is_too_small_is_not_let_in_and_says_why() {
    let mut cluster = Cluster::serving(Shape::PAIR);
    for number in 0..20 {
        cluster.add(A, &large(number)).unwrap();
    }
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "alone", SETTLED));
    cluster.wipe_local_to(B, SMALL_BYTES);
    cluster.start(B);
    cluster.settle();
    assert!(
        cluster.verdict(B).contains("is too small"),
        "{}",
        cluster.verdict(B)
    );
    assert_eq!(epochs_in(&mut cluster, LEASE * 10), 0);
    cluster.add(A, &large(20)).unwrap();
    cluster.crash(B, false);
    cluster.wipe_local(B);
    cluster.start(B);
    assert!(cluster.serves_within(B, SETTLED));
    assert_eq!(cluster.rows(B).unwrap().len(), 22);
}

#[test]
fn a_node_that_cannot_write_its_local_copy_is_left_out_within_a_lease_and_for_that_reason() {
    for fails in [A, B] {
        let mut cluster = Cluster::serving(Shape::PAIR);
        cluster.settle();
        let goes_on = 1 - fails;
        let before = cluster.configuration().epoch.0;
        cluster.fail_local_writes(fails, true);
        // The failure is met by the first write.
        let (_, body) = cluster.addition("met");
        cluster.begin(fails, body);
        assert!(cluster.add_within(goes_on, "goes on", LEASE * 5 / 2));
        assert!(is_solo(&cluster, goes_on), "{}", cluster.configuration());
        let reason = cluster.configuration().reason.clone();
        assert_eq!(reason, format!("node {fails} cannot write its local copy"));
        assert_eq!(cluster.configuration().epoch.0, before + 1);
        let verdict = cluster.verdict(fails);
        assert!(verdict.contains("the local copy cannot be used"), "{verdict}");
        assert_eq!(
            epochs_in(&mut cluster, LEASE * 20),
            0,
            "it is tried again, and not taken in"
        );
        cluster.add(goes_on, "still").unwrap();
        cluster.fail_local_writes(fails, false);
        assert!(cluster.serves_within(fails, LEASE * 40));
        assert_eq!(cluster.rows(fails), cluster.rows(goes_on));
    }
}

#[test]
fn an_owner_that_cannot_write_its_local_copy_serves_alone_until_it_can() {
    let mut cluster = Cluster::serving(Shape::PAIR);
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "alone", SETTLED));
    cluster.fail_local_writes(A, true);
    cluster.settle();
    cluster.start(B);
    cluster.settle();
    assert!(is_solo(&cluster, A), "{}", cluster.configuration());
    cluster.add(A, "the devices take it").unwrap();
    assert_eq!(epochs_in(&mut cluster, LEASE * 10), 0);
    cluster.fail_local_writes(A, false);
    assert!(cluster.serves_within(B, LEASE * 40));
    assert!(is_whole(&cluster));
}

#[test]
fn a_device_that_takes_no_writes_is_left_out_once_and_taken_in_once_when_it_does() {
    for alone in [false, true] {
        for role in DeviceRole::ALL {
            let mut cluster = Cluster::serving(Shape::PAIR);
            if alone {
                cluster.crash(B, false);
            }
            assert!(cluster.add_within(A, "before", SETTLED));
            cluster.settle();
            cluster.fail_device_writes(role, true);
            let before = cluster.configuration().epoch.0;
            for number in 0..30 {
                cluster.run_for(LEASE);
                cluster.add(A, &format!("v{number}")).unwrap();
            }
            let changes = cluster.configuration().epoch.0 - before;
            assert_eq!(changes, 1, "{role}, alone: {alone}: {}", cluster.configuration());
            assert!(!cluster.configuration().devices.contains(role));
            cluster.fail_device_writes(role, false);
            assert!(
                cluster.reaches(LEASE * 90, |configuration| configuration.devices
                    == Shape::PAIR.device_set()),
                "{role}, alone: {alone}: {}",
                cluster.configuration()
            );
        }
    }
}

#[test]
fn a_device_that_comes_and_goes_reconfigures_ever_more_rarely() {
    for alone in [false, true] {
        let mut cluster = Cluster::serving(Shape::PAIR);
        if alone {
            cluster.crash(B, false);
        }
        assert!(cluster.add_within(A, "before", SETTLED));
        cluster.settle();
        let mut changes = Vec::new();
        for _ in 0..4 {
            let mut in_a_minute = 0;
            for _ in 0..12 {
                cluster.lose_device(DeviceRole::Secondary);
                in_a_minute += epochs_in(&mut cluster, LEASE * 3 / 2);
                cluster.return_device(DeviceRole::Secondary);
                in_a_minute += epochs_in(&mut cluster, LEASE * 7 / 2);
                cluster.add(A, "on").map_or_else(
                    |refusal| assert!(matches!(refusal, Refusal::Op(_)), "{refusal:?}"),
                    |_| (),
                );
            }
            changes.push(in_a_minute);
        }
        assert!(
            changes[0] <= 12 && changes[1..].iter().all(|count| *count <= 4),
            "alone: {alone}: {changes:?}"
        );
        let told = cluster.decisions(A, DecisionKind::Damage).len();
        assert!(told <= 30, "{told} records of damage");
    }
}
