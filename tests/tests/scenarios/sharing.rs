//! Disks that are not the same ones on both servers: they have no vote, and everybody is told.

use ccd_core::client::RequestBody;
use ccd_core::ids::{DeviceRole, DeviceSet, Epoch};
use ccd_core::init::Fencing;
use ccd_core::problem::{Cause, Problem};
use ccd_core::protocol::DecisionKind;
use ccd_tests::sim::asks::{AskEnd, is_done};
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED};
use ccd_tests::sim::world::LEASE;
use core::time::Duration;

const PAIR: Shape = Shape { nodes: 2, devices: 2 };
const PRIMARY: DeviceSet = DeviceSet::EMPTY.with(DeviceRole::Primary);

#[test]
fn disks_that_are_not_shared_form_no_cluster_and_are_named() {
    for role in DeviceRole::ALL {
        let mut cluster = Cluster::stopped(PAIR);
        cluster.separate_device(1, role, false);
        cluster.start_all(Duration::from_millis(10));
        cluster.settle();
        for server in 0..2 {
            assert!(!cluster.serves(server));
            let verdict = cluster.verdict(server);
            let expected = format!("the {role} is not the same disk on node {}", 1 - server);
            assert!(verdict.contains(&expected), "{verdict}");
        }
        assert_eq!(cluster.configuration().epoch, Epoch(0));
    }
}

#[test]
fn a_copied_disk_has_no_vote_although_its_id_is_the_same() {
    for fencing in [Fencing::Lease, Fencing::Scsi] {
        let mut cluster = Cluster::stopped_with(PAIR, fencing);
        cluster.separate_device(1, DeviceRole::Secondary, true);
        cluster.start_all(Duration::from_millis(10));
        cluster.settle();
        let verdict = cluster.verdict(0);
        assert!(
            verdict.contains("the secondary is not the same disk on node 1: both have region"),
            "{verdict}"
        );
        match fencing {
            Fencing::Lease => assert!(!cluster.serves(0) && !cluster.serves(1)),
            // Before the first configuration nobody may write there: what is found out then is put right.
            Fencing::Scsi => assert_eq!(cluster.configuration().devices, PRIMARY),
        }
    }
}

#[test]
fn a_node_whose_secondary_is_another_disk_joins_without_it_and_no_update_is_lost() {
    for is_copy in [false, true] {
        let mut cluster = Cluster::serving(PAIR);
        cluster.crash(1, true);
        assert!(cluster.add_within(0, "alone", SETTLED));
        cluster.separate_device(1, DeviceRole::Secondary, is_copy);
        cluster.start(1);
        let joined = cluster.reaches(SETTLED, |known| {
            known.members.count() == 2 && known.devices == PRIMARY
        });
        assert!(joined, "{}", cluster.verdict(0));
        for server in 0..2 {
            assert!(
                cluster.serves_within(server, SETTLED),
                "{}",
                cluster.verdict(server)
            );
            let verdict = cluster.verdict(server);
            assert!(
                verdict.contains("the secondary is not the same disk on node"),
                "{verdict}"
            );
        }
        assert!(cluster.add_within(1, "both", SETTLED));
        // Either goes on alone with the primary; the other comes back to what it acked.
        cluster.crash(0, true);
        assert!(cluster.add_within(1, "survivor", SETTLED));
        cluster.crash(1, true);
        cluster.start(0);
        cluster.settle();
        assert!(cluster.serves(0), "{}", cluster.verdict(0));
        let rows = cluster.rows(0).unwrap_or_default();
        for value in ["alone", "both", "survivor"] {
            assert!(
                rows.iter().any(|row| row == value),
                "{value} is missing: {rows:?}"
            );
        }
        cluster.start(1);
        assert!(cluster.serves_within(1, SETTLED));
    }
}

/// An array shows a server copies of both disks under their names.
#[test]
fn copies_of_both_devices_do_not_make_a_node_the_successor_of_their_owner() {
    for is_cut in [false, true] {
        let mut cluster = Cluster::serving(PAIR);
        cluster.crash(1, true);
        assert!(cluster.add_within(0, "alone", SETTLED));
        for role in DeviceRole::ALL {
            cluster.separate_device(1, role, true);
        }
        cluster.start(1);
        cluster.settle();
        assert!(cluster.add(0, "after the copy").is_ok());
        if is_cut {
            cluster.isolate(1);
        } else {
            cluster.crash(0, true);
        }
        cluster.settle();
        assert!(!cluster.serves(1));
        let verdict = cluster.verdict(1);
        assert!(
            verdict.contains("the primary was not the same disk on node 0 when that one was last heard"),
            "{verdict}"
        );
    }
}

/// The site with the owner is gone; the storage has copied its disks, and an operator goes on with those.
#[test]
fn an_override_goes_on_with_what_copies_of_the_devices_hold() {
    for fencing in [Fencing::Lease, Fencing::Scsi] {
        let mut cluster = Cluster::serving_with(PAIR, fencing);
        cluster.crash(1, true);
        assert!(cluster.add_within(0, "alone", SETTLED));
        for role in DeviceRole::ALL {
            cluster.separate_device(1, role, true);
        }
        // Its own disk takes no writes as long as the owner could bring its copy up to date.
        cluster.fail_local_writes(1, true);
        cluster.start(1);
        cluster.settle();
        cluster.crash(0, true);
        cluster.settle();
        cluster.fail_local_writes(1, false);
        cluster.settle();
        assert!(!cluster.serves(1));
        let end = cluster.command(1, RequestBody::Takeover { force: true });
        assert!(matches!(end, AskEnd::Reply(Ok(_))), "{end:?}");
        assert!(cluster.serves_within(1, SETTLED), "{}", cluster.verdict(1));
        assert_eq!(cluster.rows(1), Some(vec!["alone".to_owned()]));
        assert!(cluster.add_within(1, "forced", SETTLED));
    }
}

/// Its links to the disks are put right while it runs.
#[test]
fn a_node_whose_disks_are_put_right_may_take_over_although_the_other_one_is_gone() {
    let mut cluster = Cluster::serving(PAIR);
    cluster.crash(1, true);
    assert!(cluster.add_within(0, "alone", SETTLED));
    for role in DeviceRole::ALL {
        cluster.separate_device(1, role, false);
    }
    cluster.start(1);
    cluster.settle();
    cluster.crash(0, true);
    cluster.settle();
    assert!(!cluster.serves(1), "{}", cluster.verdict(1));
    for role in DeviceRole::ALL {
        cluster.lose_device(role);
        cluster.share_device(1, role);
    }
    cluster.settle();
    for role in DeviceRole::ALL {
        cluster.return_device(role);
    }
    assert!(cluster.serves_within(1, SETTLED), "{}", cluster.verdict(1));
    assert_eq!(cluster.rows(1), Some(vec!["alone".to_owned()]));
}

#[test]
fn a_node_that_shares_no_device_does_not_replace_the_devices_of_an_owner() {
    let mut cluster = Cluster::serving(PAIR);
    cluster.crash(1, true);
    assert!(cluster.add_within(0, "alone", SETTLED));
    for role in DeviceRole::ALL {
        cluster.separate_device(1, role, false);
    }
    cluster.start(1);
    cluster.settle();
    assert!(cluster.serves(0) && !cluster.serves(1));
    assert_eq!(cluster.configuration().members.count(), 1);
    assert!(cluster.add_within(0, "still", SETTLED));
    // Nor does it go on alone.
    cluster.crash(0, true);
    cluster.settle();
    assert!(!cluster.serves(1), "{}", cluster.verdict(1));
    cluster.start(0);
    assert!(cluster.serves_within(0, SETTLED), "{}", cluster.verdict(0));
    // Once it sees the devices it is a member like any other.
    cluster.crash(1, true);
    for role in DeviceRole::ALL {
        cluster.share_device(1, role);
    }
    cluster.start(1);
    assert!(cluster.serves_within(1, SETTLED), "{}", cluster.verdict(1));
    let whole = cluster.reaches(SETTLED, |known| {
        known.members.count() == 2 && known.devices.count() == 2
    });
    assert!(whole, "{}", cluster.verdict(0));
}

#[test]
fn a_device_that_was_exchanged_below_both_nodes_is_not_the_voter_it_replaces() {
    let mut cluster = Cluster::serving(PAIR);
    cluster.crash(1, true);
    assert!(cluster.add_within(0, "alone", SETTLED));
    cluster.crash(0, true);
    cluster.remake_device(DeviceRole::Primary);
    cluster.start(1);
    cluster.settle();
    assert!(!cluster.serves(1), "{}", cluster.verdict(1));
    let verdict = cluster.verdict(1);
    assert!(verdict.contains("the primary"), "{verdict}");
    cluster.start(0);
    for server in 0..2 {
        assert!(
            cluster.serves_within(server, SETTLED),
            "{}",
            cluster.verdict(server)
        );
    }
    assert_eq!(cluster.rows(1), Some(vec!["alone".to_owned()]));
}

/// It looks as if it were down, and so writes nothing there: that is no sign of another disk.
#[test]
fn a_node_that_left_shares_its_devices_when_it_takes_part_again() {
    for (left, other) in [(0, 1), (1, 0)] {
        for is_cut in [false, true] {
            let mut cluster = Cluster::serving(PAIR);
            cluster.command(left, RequestBody::Leave);
            assert!(cluster.add_within(other, "alone", SETTLED));
            if is_cut {
                cluster.cut_pair(left, other);
                cluster.run_for(3 * LEASE);
                cluster.mend_pair(left, other);
            } else {
                cluster.crash(other, false);
                cluster.start(other);
            }
            cluster.run_for(6 * LEASE);
            for server in [left, other] {
                let verdict = cluster.verdict(server);
                assert!(!verdict.contains("same disk"), "{server}, {is_cut}: {verdict}");
            }
            cluster.crash(other, true);
            cluster.command(left, RequestBody::Join);
            assert!(
                cluster.add_within(left, "after the join", SETTLED),
                "{left}, {is_cut}: {}",
                cluster.verdict(left)
            );
        }
    }
}

/// An array shows a server a copy of one disk under its name, while the other one owns both.
#[test]
fn a_copy_of_a_disk_does_not_vote_where_the_other_disk_shows_that_its_owner_wrote_elsewhere() {
    for fencing in [Fencing::Lease, Fencing::Scsi] {
        for role in DeviceRole::ALL {
            let other = other_of(role);
            let mut cluster = Cluster::serving_with(PAIR, fencing);
            cluster.crash(1, true);
            assert!(cluster.add_within(0, "alone", SETTLED));
            cluster.separate_device(1, role, true);
            assert!(cluster.add_within(0, "after the copy", SETTLED));
            cluster.run_for(2 * LEASE);
            cluster.cut_pair(0, 1);
            cluster.start(1);
            cluster.run_for(3 * LEASE);
            let problem = problem_of(&cluster, 1, role);
            assert!(
                problem.text.contains("lacks what node 0 wrote there"),
                "{problem:?}"
            );
            assert!(problem.next.starts_with("ls -l "), "{problem:?}");
            cluster.lose_path(0, other);
            assert!(cluster.add_within(0, "without the other disk", SETTLED));
            cluster.settle();
            assert!(!cluster.serves(1), "{role}, {fencing}: {}", cluster.verdict(1));
            // Once its name leads to the right disk, it takes over what the owner leaves.
            cluster.crash(1, true);
            cluster.share_device(1, role);
            cluster.start(1);
            cluster.run_for(LEASE);
            cluster.crash(0, true);
            cluster.settle();
            assert!(cluster.serves(1), "{role}, {fencing}: {}", cluster.verdict(1));
            let rows = cluster.rows(1).unwrap_or_default();
            assert!(rows.iter().any(|row| row == "without the other disk"), "{rows:?}");
        }
    }
}

#[test]
fn a_copy_that_is_older_than_what_the_other_disk_shows_does_not_vote_for_whoever_starts_later() {
    for fencing in [Fencing::Lease, Fencing::Scsi] {
        for role in DeviceRole::ALL {
            let other = other_of(role);
            let mut cluster = Cluster::serving_with(PAIR, fencing);
            cluster.crash(1, true);
            assert!(cluster.add_within(0, "alone", SETTLED));
            cluster.separate_device(1, role, true);
            cluster.run_for(2 * LEASE);
            cluster.lose_path(0, other);
            assert!(cluster.add_within(0, "without the other disk", SETTLED));
            cluster.crash(0, true);
            cluster.start(1);
            cluster.settle();
            assert!(!cluster.serves(1), "{role}, {fencing}: {}", cluster.verdict(1));
            let problem = problem_of(&cluster, 1, role);
            assert!(
                problem.text.contains("lacks what node 0 wrote there"),
                "{problem:?}"
            );
            cluster.return_path(0, other);
            cluster.start(0);
            assert!(cluster.serves_within(0, SETTLED), "{}", cluster.verdict(0));
            let rows = cluster.rows(0).unwrap_or_default();
            assert!(rows.iter().any(|row| row == "without the other disk"), "{rows:?}");
        }
    }
}

/// The owner itself finds the copy at its next start, and goes on without it; from then on it is the other disk that lacks something.
#[test]
fn an_owner_that_is_shown_a_copy_goes_on_with_the_other_disk_and_takes_the_copy_in() {
    for fencing in [Fencing::Lease, Fencing::Scsi] {
        for role in DeviceRole::ALL {
            let mut cluster = Cluster::serving_with(PAIR, fencing);
            cluster.crash(1, true);
            assert!(cluster.add_within(0, "alone", SETTLED));
            cluster.separate_device(0, role, true);
            cluster.run_for(2 * LEASE);
            cluster.crash(0, true);
            cluster.start(0);
            assert!(cluster.serves_within(0, SETTLED), "{}", cluster.verdict(0));
            let left_out = |decision: &&ccd_core::protocol::Decision| {
                decision
                    .text
                    .contains(&format!("the {role} lacks what node 0 wrote there"))
            };
            let found = cluster.decisions(0, DecisionKind::Damage);
            assert!(found.iter().any(left_out), "{found:?}");
            let whole = cluster.reaches(SETTLED, |known| known.devices.count() == 2);
            assert!(whole, "{}", cluster.verdict(0));
            assert!(cluster.add_within(0, "on the copy", SETTLED));
            cluster.run_for(2 * LEASE);
            cluster.cut_pair(0, 1);
            cluster.start(1);
            cluster.run_for(3 * LEASE);
            cluster.lose_path(0, other_of(role));
            assert!(cluster.add_within(0, "on the copy alone", SETTLED));
            cluster.settle();
            assert!(!cluster.serves(1), "{role}, {fencing}: {}", cluster.verdict(1));
        }
    }
}

/// What a node that does not serve sees under the name of a disk takes nothing from its owner.
#[test]
fn an_owner_keeps_its_disk_whatever_a_node_beside_it_writes_to_a_copy() {
    for role in DeviceRole::ALL {
        let mut cluster = Cluster::serving(PAIR);
        cluster.crash(1, true);
        assert!(cluster.add_within(0, "alone", SETTLED));
        let epoch = cluster.configuration().epoch;
        cluster.separate_device(1, role, true);
        cluster.cut_pair(0, 1);
        cluster.start(1);
        cluster.settle();
        cluster.crash(1, true);
        cluster.start(1);
        cluster.settle();
        assert_eq!(cluster.configuration().epoch, epoch);
        assert_eq!(cluster.configuration().devices.count(), 2);
        assert!(cluster.add(0, "still").is_ok());
    }
}

fn other_of(role: DeviceRole) -> DeviceRole {
    match role {
        DeviceRole::Primary => DeviceRole::Secondary,
        DeviceRole::Secondary => DeviceRole::Primary,
    }
}

/// What this server finds wrong with the device.
fn problem_of(cluster: &Cluster, server: usize, role: DeviceRole) -> Problem {
    let status = cluster.status(server).expect("the process runs");
    let found = (status.problems.iter()).find(|problem| problem.device == Some(role));
    found
        .unwrap_or_else(|| panic!("no problem of the {role}: {}", status.verdict))
        .clone()
}

/// A node that left writes no heartbeats to the devices. When it comes back, what it wrote before is no heartbeat of now.
#[test]
fn a_node_that_left_and_joins_is_not_taken_for_one_with_other_disks() {
    for server in 0..2 {
        let mut cluster = Cluster::serving(PAIR);
        assert!(is_done(&cluster.command(server, RequestBody::Leave)));
        cluster.run_for(LEASE * 6);
        cluster.begin(server, RequestBody::Join);
        for _ in 0..200 {
            cluster.run_for(LEASE / 100);
            for other in 0..2 {
                let problems = cluster.status(other).unwrap().problems;
                let is_other = problems
                    .iter()
                    .find(|problem| problem.cause == Cause::NotSameDisk);
                assert_eq!(is_other, None, "n{other}");
            }
        }
        assert!(
            cluster.serves_within(server, SETTLED),
            "{}",
            cluster.verdict(server)
        );
    }
}

/// What each has found on a device is told late, and by then the other one has written on.
#[test]
fn a_slow_network_is_not_taken_for_a_copied_disk() {
    for lag in [LEASE * 5 / 2, LEASE * 4] {
        let mut cluster = Cluster::serving(PAIR);
        cluster.network.lag = lag;
        for _ in 0..200 {
            cluster.run_for(LEASE / 5);
            for server in 0..2 {
                let problems = cluster.status(server).unwrap().problems;
                let apart = problems
                    .iter()
                    .find(|problem| problem.cause == Cause::NotSameDisk);
                assert_eq!(apart, None, "{lag:?}");
            }
        }
        cluster.network.lag = Duration::ZERO;
        for server in 0..2 {
            assert!(
                cluster.serves_within(server, 4 * SETTLED),
                "{}",
                cluster.verdict(server)
            );
        }
    }
}
