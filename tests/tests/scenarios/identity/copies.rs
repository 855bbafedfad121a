//! A machine that was copied, or restored, while the old one runs.

use super::{MOMENT, PAIR, alarms_of};
use ccd_core::ids::DeviceRole;
use ccd_core::init::Fencing;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED};
use ccd_tests::sim::world::LEASE;

#[test]
fn a_copy_of_a_member_stays_closed_and_disturbs_nobody() {
    for of in 0..2 {
        let mut cluster = Cluster::serving(PAIR);
        let copy = cluster.copy_server(of);
        let epoch = cluster.configuration().epoch;
        cluster.start(copy);
        for round in 0..10 {
            cluster.run_for(LEASE);
            assert!(!cluster.serves(copy));
            assert!(cluster.add(0, &format!("row{round}")).is_ok());
        }
        let verdict = cluster.verdict(copy);
        let expected = format!("another ccdd runs as node {of} (incarnation");
        assert!(
            verdict.contains(&expected) && verdict.contains(&format!("host machine{of}")),
            "{verdict}"
        );
        assert_eq!(cluster.configuration().epoch, epoch, "{verdict}");
        assert_eq!(alarms_of(&cluster, copy, "another ccdd runs"), 1);
    }
}

#[test]
fn a_copy_of_a_solo_owner_stays_closed_while_the_owner_lives() {
    let mut cluster = Cluster::serving(PAIR);
    let copy = cluster.copy_server(0);
    cluster.crash(1, true);
    assert!(cluster.add_within(0, "alone", SETTLED));
    let epoch = cluster.configuration().epoch;
    cluster.start(copy);
    for round in 0..10 {
        cluster.run_for(LEASE);
        assert!(!cluster.serves(copy));
        assert!(cluster.add(0, &format!("row{round}")).is_ok());
    }
    assert_eq!(cluster.configuration().epoch, epoch);
}

#[test]
fn of_an_owner_that_hung_and_its_copy_one_serves_and_no_acked_update_is_lost() {
    let mut cluster = Cluster::serving(PAIR);
    cluster.crash(1, true);
    assert!(cluster.add_within(0, "owner", SETTLED));
    let copy = cluster.copy_server(0);
    cluster.pause(0);
    cluster.start(copy);
    assert!(
        cluster.add_within(copy, "copy", SETTLED),
        "{}",
        cluster.verdict(copy)
    );
    cluster.resume(0);
    let mut acked = vec!["owner".to_owned(), "copy".to_owned()];
    for round in 0..400 {
        cluster.run_for(LEASE / 20);
        for server in [0, copy] {
            let value = format!("row{round}by{server}");
            if cluster.add(server, &value).is_ok() {
                acked.push(value);
            }
        }
        assert!(!(cluster.serves(0) && cluster.serves(copy)));
    }
    assert!(alarms_of(&cluster, 0, "another ccdd runs") + alarms_of(&cluster, copy, "another ccdd runs") > 0);
    let serving: Vec<usize> = [0, copy]
        .into_iter()
        .filter(|server| cluster.serves(*server))
        .collect();
    assert_eq!(
        serving.len(),
        1,
        "{} / {}",
        cluster.verdict(0),
        cluster.verdict(copy)
    );
    let rows = cluster.rows(serving[0]).unwrap_or_default();
    for value in acked {
        assert!(rows.contains(&value), "{value} is missing: {rows:?}");
    }
}

/// The device on which the other run was found is not there while it is waited for.
#[test]
fn a_run_that_found_another_goes_on_after_the_device_of_the_finding_has_failed() {
    for role in DeviceRole::ALL {
        let mut cluster = Cluster::serving(PAIR);
        cluster.crash(1, true);
        assert!(cluster.add_within(0, "owner", SETTLED));
        let copy = cluster.copy_server(0);
        cluster.pause(0);
        cluster.start(copy);
        assert!(cluster.add_within(copy, "copy", SETTLED));
        cluster.resume(0);
        cluster.run_for(LEASE);
        assert_eq!(alarms_of(&cluster, 0, "another ccdd runs"), 1);
        cluster.crash(copy, true);
        cluster.lose_path(0, role);
        cluster.run_for(LEASE * 2);
        cluster.return_path(0, role);
        assert!(
            cluster.serves_within(0, SETTLED * 2),
            "{role}: {}",
            cluster.verdict(0)
        );
        assert_eq!(cluster.rows(0), Some(vec!["copy".to_owned(), "owner".to_owned()]));
    }
}

/// The copy has gone on by the devices alone, and each of the two runs then sees another one of them: with the node's vote on both sides
/// one epoch would be decided twice.
#[test]
fn of_an_owner_and_its_copy_that_went_on_one_has_the_vote_of_the_node() {
    for fencing in [Fencing::Lease, Fencing::Scsi] {
        for (copys, owners) in [
            (DeviceRole::Primary, DeviceRole::Secondary),
            (DeviceRole::Secondary, DeviceRole::Primary),
        ] {
            let mut cluster = Cluster::serving_with(PAIR, fencing);
            cluster.crash(1, true);
            assert!(cluster.add_within(0, "owner", SETTLED));
            let copy = cluster.copy_server(0);
            cluster.crash(0, true);
            let epoch = cluster.configuration().epoch;
            cluster.start(copy);
            // In the moment between the decision and the next write to the devices.
            while cluster.configuration().epoch == epoch {
                assert!(cluster.run_for(MOMENT), "nothing is decided");
            }
            cluster.lose_path(copy, owners);
            cluster.lose_path(0, copys);
            cluster.start(0);
            for _ in 0..40 {
                cluster.run_for(LEASE / 4);
                assert!(
                    !(cluster.serves(0) && cluster.serves(copy)),
                    "{fencing:?} {copys}"
                );
            }
            cluster.return_path(copy, owners);
            cluster.return_path(0, copys);
            cluster.settle();
            let [by_owner, by_copy] = [0, copy].map(|server| cluster.serves(server));
            assert!(
                by_owner != by_copy,
                "{fencing:?} {copys}: {} / {}",
                cluster.verdict(0),
                cluster.verdict(copy)
            );
        }
    }
}

/// What the copy does not hold was acked after it was made, and no device knows it: a pair writes to its members' copies.
#[test]
fn a_copy_of_a_dead_member_does_not_go_on_without_what_it_lacks() {
    let mut cluster = Cluster::serving(PAIR);
    let copy = cluster.copy_server(1);
    assert!(cluster.add(0, "after the copy").is_ok());
    cluster.crash(1, true);
    cluster.crash(0, true);
    cluster.start(copy);
    cluster.settle();
    assert!(!cluster.serves(copy));
    let verdict = cluster.verdict(copy);
    assert!(
        verdict.contains("the last ccdd of node 1 ran on another machine (host machine1"),
        "{verdict}"
    );
    // What the copy has left on the devices does not make it trusted when it starts again.
    cluster.crash(copy, true);
    cluster.start(copy);
    cluster.settle();
    assert!(!cluster.serves(copy));
    let verdict = cluster.verdict(copy);
    assert!(
        verdict.contains("what this state folder lacks is not known"),
        "{verdict}"
    );
    // The member itself goes on, whatever the copy did in between.
    cluster.crash(copy, true);
    cluster.start(1);
    assert!(cluster.serves_within(1, SETTLED), "{}", cluster.verdict(1));
    assert_eq!(cluster.rows(1), Some(vec!["after the copy".to_owned()]));
}

/// All copies find the area of the original still at the same moment.
#[test]
fn of_several_copies_of_a_dead_owner_one_goes_on() {
    for apart in [0, 1, 3, 7] {
        let mut cluster = Cluster::serving(Shape { nodes: 1, devices: 2 });
        assert!(cluster.add(0, "owner").is_ok());
        let copies = [(); 3].map(|()| cluster.copy_server(0));
        for copy in copies {
            cluster.start(copy);
            cluster.run_for(LEASE * apart / 400);
        }
        cluster.run_for(LEASE);
        cluster.crash(0, true);
        let mut acked = vec!["owner".to_owned()];
        for round in 0..100 {
            cluster.run_for(LEASE / 8);
            for copy in copies {
                let value = format!("row{round}by{copy}");
                if cluster.add(copy, &value).is_ok() {
                    acked.push(value);
                }
            }
        }
        let serving: Vec<usize> = copies.into_iter().filter(|copy| cluster.serves(*copy)).collect();
        assert_eq!(serving.len(), 1, "{:?}", copies.map(|copy| cluster.verdict(copy)));
        let rows = cluster.rows(serving[0]).unwrap_or_default();
        for value in acked {
            assert!(rows.contains(&value), "{value} is missing: {rows:?}");
        }
    }
}

#[test]
fn a_server_that_comes_back_on_another_machine_waits_for_two_leases_and_no_longer() {
    let mut cluster = Cluster::serving(PAIR);
    cluster.crash(1, true);
    assert!(cluster.add_within(0, "alone", SETTLED));
    let copy = cluster.copy_server(0);
    cluster.crash(0, true);
    cluster.start(copy);
    assert!(
        cluster.serves_within(copy, LEASE * 4),
        "{}",
        cluster.verdict(copy)
    );
    assert_eq!(alarms_of(&cluster, copy, "another ccdd runs"), 0);
    assert_eq!(alarms_of(&cluster, copy, "ran on another machine"), 1);
}
