//! A device that somebody clears, or puts back to an earlier state, while it is in use.

use DeviceRole::{Primary, Secondary};
use ccd_core::client::{Refusal, RequestBody};
use ccd_core::configuration::Configuration;
use ccd_core::ids::{DeviceRole, DeviceSet, Epoch};
use ccd_core::protocol::{DecisionKind, ServingState};
use ccd_tests::sim::asks::AskEnd;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED};
use ccd_tests::sim::world::LEASE;

const A: usize = 0;
const B: usize = 1;
const PAIR: Shape = Shape { nodes: 2, devices: 2 };

fn without(role: DeviceRole) -> DeviceSet {
    DeviceSet::EMPTY
        .with(DeviceRole::Primary)
        .with(DeviceRole::Secondary)
        .without(role)
}

#[test]
fn a_device_that_was_cleared_in_use_has_no_vote() {
    for is_solo in [false, true] {
        for role in DeviceRole::ALL {
            let mut cluster = Cluster::serving(PAIR);
            if is_solo {
                cluster.crash(1, true);
                assert!(cluster.add_within(0, "alone", SETTLED));
            }
            cluster.overwrite_device(role, None);
            assert!(
                cluster.reaches(SETTLED, |known| known.devices == without(role)),
                "{role}, {is_solo}: {}",
                cluster.verdict(0)
            );
            assert!(cluster.add_within(0, "after", SETTLED));
        }
    }
}

/// An array that lost a few blocks, which are written seldom: heartbeats go on beside them.
#[test]
fn a_device_that_lost_votes_or_configurations_in_use_is_left_out_and_taken_in_again() {
    for (is_solo, kind) in [
        (false, "ballot"),
        (true, "ballot"),
        (false, "configuration"),
        (true, "configuration"),
    ] {
        for role in DeviceRole::ALL {
            let mut cluster = Cluster::serving(PAIR);
            if is_solo {
                cluster.crash(B, true);
                assert!(cluster.add_within(A, "alone", SETTLED));
            }
            let epoch = cluster.configuration().epoch;
            cluster.clear_control(role, A, kind);
            let what = format!("{kind} on the {role}, solo: {is_solo}");
            assert!(
                cluster.reaches(LEASE * 2, |known| known.devices == without(role)),
                "{what}: {}",
                cluster.verdict(A)
            );
            assert!(
                cluster.reaches(SETTLED, |known| known.devices == without(role).with(role)),
                "{what}: {}",
                cluster.verdict(A)
            );
            assert!(cluster.configuration().epoch.0 >= epoch.0 + 2, "{what}");
            assert!(cluster.add_within(A, "after", SETTLED), "{what}");
        }
    }
}

/// Its region is whole, and holds what it held then.
#[test]
fn a_device_that_was_put_back_in_use_is_taken_in_again_with_what_it_lacks() {
    for role in DeviceRole::ALL {
        let mut cluster = Cluster::serving(PAIR);
        cluster.crash(1, true);
        assert!(cluster.add_within(0, "alone", SETTLED));
        let backup = cluster.backup();
        assert!(cluster.add(0, "after the backup").is_ok());
        let epoch = cluster.configuration().epoch;
        cluster.overwrite_device(role, Some(&backup));
        cluster.run_for(LEASE * 2);
        assert!(
            cluster.reaches(SETTLED, |known| known.devices == without(role).with(role)
                && known.epoch.0 >= epoch.0 + 2),
            "{role}: {}",
            cluster.verdict(0)
        );
        assert!(cluster.add_within(0, "after", SETTLED));
        // The other device alone no longer is what holds everything.
        let other = without(role).iter().next().expect("there are two");
        cluster.crash(0, true);
        cluster.lose_device(other);
        cluster.start(0);
        assert!(
            cluster.serves_within(0, SETTLED),
            "{role}: {}",
            cluster.verdict(0)
        );
        let rows = cluster.rows(0).unwrap_or_default();
        assert_eq!(rows.len(), 3, "{rows:?}");
    }
}

/// The one that starts takes it for whole; the other one knows better.
#[test]
fn a_device_that_was_put_back_while_a_node_started_again_is_left_out_and_taken_in() {
    for (starts, stays) in [(A, B), (B, A)] {
        for (role, pause) in DeviceRole::ALL
            .into_iter()
            .flat_map(|role| (0..16).map(move |pause| (role, pause)))
        {
            let mut cluster = Cluster::serving(PAIR);
            let backup = cluster.backup();
            assert!(cluster.add(A, "after the backup").is_ok());
            cluster.crash(starts, false);
            cluster.run_for(LEASE * (pause % 4) / 40);
            cluster.overwrite_device(role, Some(&backup));
            cluster.run_for(LEASE * (pause / 4) / 40);
            cluster.start(starts);
            let both = |known: &Configuration| {
                known.devices == without(role).with(role) && known.members.count() == 2
            };
            cluster.run_for(LEASE * 20);
            assert!(cluster.reaches(SETTLED, both), "n{starts}, {role}");
            for server in [A, B] {
                let verdict = cluster.verdict(server);
                assert!(
                    verdict.is_empty(),
                    "n{starts}, {role}, {pause}, n{server}: {verdict}"
                );
            }
            // Each alone has the vote of the device.
            cluster.crash(starts, true);
            assert!(
                cluster.add_within(stays, "alone", SETTLED),
                "n{starts}, {role}: {}",
                cluster.verdict(stays)
            );
        }
    }
}

/// Nobody knows what comes next; and it is whole again once it was made anew.
#[test]
fn a_device_that_somebody_else_writes_to_is_left_out_until_it_is_made_anew() {
    for is_solo in [false, true] {
        for role in DeviceRole::ALL {
            let mut cluster = Cluster::serving(PAIR);
            if is_solo {
                cluster.crash(1, true);
                assert!(cluster.add_within(0, "alone", SETTLED));
            }
            cluster.scribble_on_device(role);
            assert!(
                cluster.reaches(SETTLED, |known| known.devices == without(role)),
                "{role}, {is_solo}: {}",
                cluster.verdict(0)
            );
            let verdict = cluster.verdict(0);
            assert!(
                verdict.contains("another program writes to it: its first superblock is gone"),
                "{verdict}"
            );
            // It is opened again and again, and stays out.
            cluster.run_for(LEASE * 10);
            assert_eq!(
                cluster.configuration().devices,
                without(role),
                "{role}, {is_solo}"
            );
            assert!(cluster.add_within(0, "without it", SETTLED));
            cluster.remake_device_in_use(role);
            assert!(
                cluster.reaches(SETTLED, |known| known.devices == without(role).with(role)),
                "{role}, {is_solo}: {}",
                cluster.verdict(0)
            );
            assert!(cluster.add_within(0, "with it", SETTLED));
        }
    }
}

/// A damaged device is better than none: it still votes.
#[test]
fn two_devices_that_somebody_else_writes_to_are_used_all_the_same() {
    let mut cluster = Cluster::serving(PAIR);
    for role in DeviceRole::ALL {
        cluster.scribble_on_device(role);
    }
    cluster.run_for(LEASE * 10);
    let verdict = cluster.verdict(0);
    assert_eq!(cluster.configuration().devices.iter().count(), 2, "{verdict}");
    assert!(
        verdict.contains("is damaged: its first superblock is gone"),
        "{verdict}"
    );
    cluster.crash(1, true);
    assert!(
        cluster.add_within(0, "with the damaged ones", SETTLED),
        "{}",
        cluster.verdict(0)
    );
}

/// Its vote may be what a start needs, and what it held is not lost with a superblock.
#[test]
fn a_node_that_does_not_serve_uses_a_damaged_device() {
    for role in DeviceRole::ALL {
        let mut cluster = Cluster::serving(PAIR);
        cluster.scribble_on_device(role);
        cluster.crash(0, true);
        cluster.crash(1, true);
        cluster.run_for(LEASE);
        cluster.start(0);
        assert!(
            cluster.add_within(0, "alone", SETTLED),
            "{role}: {}",
            cluster.verdict(0)
        );
    }
}

/// It is opened again and again, hangs, and answers once more: nothing but the device is given up for that.
#[test]
fn a_damaged_device_that_hangs_as_well_stops_nobody() {
    for role in DeviceRole::ALL {
        let mut cluster = Cluster::serving(PAIR);
        cluster.scribble_on_device(role);
        assert!(cluster.reaches(SETTLED, |known| known.devices == without(role)));
        for server in 0..2 {
            cluster.stall_path(server, role, LEASE * 20);
        }
        cluster.run_for(LEASE * 30);
        for server in 0..2 {
            assert!(
                cluster.add_within(server, &format!("by {server}"), SETTLED),
                "{}",
                cluster.verdict(server)
            );
        }
        cluster.remake_device_in_use(role);
        assert!(
            cluster.reaches(SETTLED, |known| known.devices == without(role).with(role)),
            "{role}: {}",
            cluster.verdict(0)
        );
    }
}

/// The devices do not vote, and the owner is less than half of the voters: only an operator can go on.
#[test]
fn an_owner_whose_devices_have_all_forgotten_says_that_it_takes_no_updates_and_an_override_ends_that() {
    for roles in [&[Primary, Secondary][..], &[Primary]] {
        for is_cleared in [false, true] {
            let shape = Shape {
                nodes: 2,
                devices: roles.len(),
            };
            let mut cluster = Cluster::serving(shape);
            cluster.add(A, "first").unwrap();
            let backup = cluster.backup();
            cluster.crash(B, false);
            assert!(cluster.add_within(A, "alone", SETTLED));
            for role in roles {
                cluster.overwrite_device(*role, (!is_cleared).then_some(&backup));
            }
            cluster.settle();
            let status = cluster.status(A).unwrap();
            let what = format!("{roles:?}, cleared: {is_cleared}: {status:?}");
            assert!(!status.takes_updates, "{what}");
            if status.state == ServingState::Serving {
                assert!(status.problems[0].next.contains("takeover --force"), "{what}");
                let refused = cluster.add(A, "refused");
                assert!(matches!(refused, Err(Refusal::NoQuorum { .. })), "{refused:?}");
                assert_eq!(cluster.rows(A).map(|rows| rows.len()), Some(2), "{what}");
            }
            let end = cluster.command(A, RequestBody::Takeover { force: true });
            assert!(matches!(end, AskEnd::Reply(Ok(_))), "{end:?}");
            assert!(cluster.add_within(A, "after", SETTLED), "{}", cluster.verdict(A));
            assert_eq!(cluster.rows(A).unwrap(), ["after", "alone", "first"], "{what}");
            cluster.start(B);
            assert!(cluster.serves_within(B, SETTLED), "{}", cluster.verdict(B));
            assert_eq!(cluster.rows(B).unwrap(), ["after", "alone", "first"], "{what}");
        }
    }
}

/// What they hold up to the hole is newer than the owner's local copy, which it did not write.
#[test]
fn an_override_keeps_what_damaged_devices_hold_beyond_the_local_copy() {
    let mut cluster = Cluster::serving(PAIR);
    cluster.add(A, "first").unwrap();
    cluster.crash(B, false);
    for value in ["one", "two", "three"] {
        assert!(cluster.add_within(A, value, SETTLED));
    }
    let backup = cluster.backup();
    assert!(cluster.add_within(A, "four", SETTLED));
    for role in DeviceRole::ALL {
        cluster.overwrite_device(role, Some(&backup));
    }
    // Before it is noticed; the journal has a hole then.
    assert!(cluster.add_within(A, "five", SETTLED));
    cluster.crash(A, false);
    cluster.promise_nothing(Epoch(2));
    cluster.start(A);
    assert!(!cluster.serves_within(A, SETTLED), "{:?}", cluster.rows(A));
    let end = cluster.command(A, RequestBody::Takeover { force: true });
    assert!(matches!(end, AskEnd::Reply(Ok(_))), "{end:?}");
    let kept = cluster.decisions(A, DecisionKind::BranchKept);
    assert!(
        kept.iter()
            .any(|kept| kept.text.contains("aside: the override starts from")),
        "{kept:?}"
    );
}
