//! Nodes that went on apart from each other, by copies of the devices, by two operators, or from what was put back, and meet again.

use ccd_core::client::{Answer, RequestBody};
use ccd_core::ids::DeviceRole::{Primary, Secondary};
use ccd_core::ids::{DeviceRole, NodeId, Stamp};
use ccd_core::init::Fencing;
use ccd_core::protocol::{DecisionKind, ServingState};
use ccd_tests::sim::asks::AskEnd;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED, set};
use ccd_tests::sim::world::LEASE;
use core::time::Duration;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const OVERRULE: RequestBody = RequestBody::Takeover { force: true };

fn alarms(cluster: &Cluster, server: usize, words: &str) -> Vec<String> {
    let alarms = cluster.decisions(server, DecisionKind::Alarm);
    let texts = alarms.iter().map(|alarm| alarm.text.clone());
    texts.filter(|text| text.contains(words)).collect()
}

/// B is the owner by the devices; A is down, cut off, and has copies of them.
fn beside_copies() -> Cluster {
    // A copy has the reservations of its device in the simulator.
    let mut cluster = Cluster::serving_with(Shape::PAIR, Fencing::Lease);
    cluster.crash(A, true);
    assert!(cluster.add_within(B, "alone", SETTLED));
    let epoch = cluster.configuration().epoch;
    // What is decided on the copies is none of the simulator's.
    cluster.promise_nothing(epoch);
    cluster.cut_pair(A, B);
    for role in [Primary, Secondary] {
        cluster.separate_device(A, role, true);
    }
    cluster
}

/// The pair has gone through more epochs by its devices than the other server by copies of them, or through fewer.
#[test]
fn of_two_that_serve_apart_the_one_that_has_served_for_longer_goes_on() {
    for restarts in 0..4 {
        let mut cluster = beside_copies();
        for round in 0..restarts {
            cluster.crash(B, false);
            cluster.start(B);
            assert!(cluster.add_within(B, &format!("production {round}"), SETTLED));
        }
        cluster.run_for(LEASE * 4);
        cluster.start(A);
        cluster.run_for(SETTLED);
        // Nobody asks it: by the simulator's books all that it says is wrong.
        let status = cluster.status(A).unwrap();
        assert_eq!(status.state, ServingState::Serving, "by the copies");
        cluster.mend_pair(A, B);
        cluster.run_for(LEASE * 10);
        let what = format!("{restarts}: {} | {}", cluster.verdict(A), cluster.verdict(B));
        assert!(cluster.serves(B), "{what}");
        // An epoch that both have decided is an operator's to settle.
        assert!(!cluster.serves(A), "{what}");
    }
}

/// One has served for longer than the other, by about one lease: what each hears of the other is a little late.
#[test]
fn of_two_that_have_served_apart_for_about_as_long_exactly_one_goes_on() {
    const STEP: Duration = Duration::from_micros(100);
    for (first, second) in [(A, B), (B, A)] {
        for late in 0..24 {
            let mut cluster = beside_copies();
            cluster.run_for(LEASE * 4);
            cluster.start(A);
            cluster.run_for(SETTLED);
            for server in [A, B] {
                cluster.crash(server, false);
            }
            cluster.run_for(LEASE * 4);
            cluster.start(first);
            // Both starts take about as long.
            cluster.run_for(LEASE - STEP * 12 + STEP * late);
            cluster.start(second);
            cluster.run_for(LEASE * 4);
            for server in [A, B] {
                let status = cluster.status(server).unwrap();
                assert_eq!(status.state, ServingState::Serving, "{late} steps: n{server}");
            }
            cluster.mend_pair(A, B);
            cluster.run_for(LEASE * 20);
            let states = [A, B].map(|server| cluster.status(server).unwrap().state);
            let serve = states
                .iter()
                .filter(|state| **state == ServingState::Serving)
                .count();
            let what = format!("{late} steps: {} | {}", cluster.verdict(A), cluster.verdict(B));
            assert_eq!(serve, 1, "n{first} first, {what}");
        }
    }
}

#[test]
fn two_overrides_on_both_sides_of_a_cut_are_not_taken_for_copies_of_the_devices() {
    for without_device in [A, B] {
        for is_first in [false, true] {
            let other = 1 - without_device;
            let mut cluster = Cluster::serving(Shape::PAIR);
            cluster.add(A, "first").unwrap();
            cluster.cut_pair(A, B);
            cluster.lose_path(other, Primary);
            cluster.lose_path(without_device, Primary);
            cluster.lose_path(without_device, Secondary);
            cluster.run_for(LEASE * 3);
            let order = if is_first {
                [without_device, other]
            } else {
                [other, without_device]
            };
            for node in order {
                let end = cluster.command(node, OVERRULE);
                assert!(matches!(end, AskEnd::Reply(Ok(Answer::Done))), "{end:?}");
                cluster.run_for(LEASE * 3);
            }
            cluster.mend_pair(A, B);
            cluster.run_for(LEASE * 20);
            let both = cluster.serves(A) && cluster.serves(B);
            let members = cluster.configuration().members;
            assert!(cluster.serves(A) || cluster.serves(B));
            assert!(!both || members == set(&[A, B]), "{members}");
            for node in [A, B] {
                let found = alarms(&cluster, node, "copies of the devices");
                assert_eq!(found, Vec::<String>::new());
            }
        }
    }
}

/// They hang for less than an operation may take, and the other node takes over meanwhile.
#[test]
fn a_device_that_hangs_is_no_proof_of_copies() {
    for percent in [70, 80, 90, 95] {
        let mut cluster = Cluster::stopped(Shape::PAIR);
        cluster.faults.disk_deadline = LEASE * 2;
        let mut cluster = cluster.started();
        cluster.add(A, "first").unwrap();
        cluster.cut_pair(A, B);
        cluster.run_for(LEASE * percent / 100);
        for role in [Primary, Secondary] {
            cluster.stall_path(B, role, LEASE * 19 / 10);
        }
        assert!(cluster.reaches(SETTLED, |known| known.members == set(&[A])));
        cluster.mend_pair(A, B);
        cluster.run_for(LEASE * 8);
        let found = alarms(&cluster, B, "copies of the devices");
        assert_eq!(found, Vec::<String>::new(), "{percent}");
    }
}

/// The ways to them break, and come back to copies that are some leases old, or to the devices themselves.
#[test]
fn a_running_node_does_not_take_an_old_copy_of_its_devices_for_them() {
    for devices in [1, 2] {
        for is_copy in [true, false] {
            let mut cluster = Cluster::serving(Shape { nodes: 2, devices });
            cluster.add(A, "first").unwrap();
            let roles: Vec<_> = [Primary, Secondary].into_iter().take(devices).collect();
            if is_copy {
                // What is open stays so.
                for role in &roles {
                    cluster.separate_device(B, *role, true);
                }
            }
            cluster.run_for(LEASE * 5);
            cluster.cut_pair(A, B);
            cluster.run_for(LEASE / 4);
            for role in &roles {
                cluster.lose_path(B, *role);
            }
            cluster.run_for(LEASE / 8);
            for role in &roles {
                cluster.return_path(B, *role);
            }
            assert!(cluster.reaches(SETTLED, |known| known.members == set(&[A])));
            cluster.run_for(LEASE * 10);
            assert!(cluster.serves(A) && !cluster.serves(B));
            let found = cluster.decisions(B, DecisionKind::Damage);
            let is_found = found
                .iter()
                .any(|decision| decision.text.contains("lacks what this run"));
            assert_eq!(is_found, is_copy, "{devices}");
            if !is_copy {
                cluster.mend_pair(A, B);
                assert!(cluster.serves_within(B, SETTLED));
            }
        }
    }
}

/// Two of three nodes are put back to before the group grew. Their init database differs from that of those that went on.
#[test]
fn nodes_that_were_put_back_behind_a_change_of_the_init_database_serve_nothing_beside_those_that_went_on() {
    for have_later_epoch in [false, true] {
        let mut cluster = Cluster::serving(Shape { nodes: 3, devices: 0 });
        cluster.add(A, "before").unwrap();
        let backup = cluster.backup();
        cluster.add(A, "after").unwrap();
        cluster.settle();
        let newest = cluster.status(C).unwrap().position.stamp;
        for server in [A, B] {
            cluster.crash(server, true);
            cluster.set_back_local(server, &backup, true);
        }
        cluster.cut_pair(A, C);
        cluster.cut_pair(B, C);
        let epoch = if have_later_epoch {
            newest.epoch.next()
        } else {
            newest.epoch
        };
        let by = NodeId::new(2).unwrap();
        for server in [A, B] {
            cluster.start(server);
            cluster.refused_by(server, by, epoch, newest);
        }
        cluster.run_for(SETTLED);
        let words = if have_later_epoch {
            "the others have gone on"
        } else {
            "would lose what was acknowledged"
        };
        for server in [A, B] {
            assert!(!cluster.serves(server));
            let verdict = cluster.verdict(server);
            assert!(verdict.contains(words), "{verdict}");
        }
        cluster.mend_pair(A, C);
        cluster.mend_pair(B, C);
        if !have_later_epoch {
            assert!(cluster.serves_within(A, SETTLED), "{}", cluster.verdict(A));
            assert_eq!(cluster.rows(A).unwrap(), ["after", "before"]);
        }
    }
}

/// A owns the devices, and B has been started again with an option that A has not: they do not talk.
fn beside_one_with_an_edited_option(fencing: Fencing) -> Cluster {
    let mut cluster = Cluster::serving_with(Shape::PAIR, fencing);
    cluster.crash(B, true);
    assert!(cluster.add_within(A, "alone", SETTLED));
    cluster.edit_init(B, "OPTION:sync_timeout_ms:7000");
    cluster.start(B);
    cluster.run_for(LEASE * 3);
    cluster
}

/// An option was edited on one server of a pair. What that one proposes names an init database that nobody else has, and may be voted for.
#[test]
fn what_a_node_with_an_edited_option_proposes_stops_nobody_for_good() {
    for fencing in [Fencing::Lease, Fencing::Scsi] {
        for (restarts, is_forced) in [(false, true), (true, false), (true, true)] {
            for step in 0..24 {
                let mut cluster = beside_one_with_an_edited_option(fencing);
                let asked = is_forced.then(|| cluster.begin(B, OVERRULE));
                cluster.run_for(LEASE * step / 8);
                if restarts {
                    cluster.crash(A, false);
                    cluster.run_for(LEASE * 9 / 8);
                    cluster.start(A);
                }
                let end = asked.map(|asked| cluster.await_end(asked));
                cluster.run_for(LEASE * 4);
                let what = format!("{fencing:?}, restarts: {restarts}, step {step}: {end:?}");
                let serving = [A, B].into_iter().find(|node| cluster.serves(*node));
                let serving = serving.unwrap_or_else(|| {
                    let verdicts = [A, B].map(|node| cluster.verdict(node));
                    panic!("{what}: nobody serves: {verdicts:?}")
                });
                // It is put right, and both are started again.
                for node in [A, B] {
                    cluster.crash(node, true);
                }
                cluster.copy_init(A, B);
                for node in [A, B] {
                    cluster.start(node);
                }
                let both = cluster.serves_within(A, SETTLED) && cluster.serves_within(B, SETTLED);
                assert!(
                    both,
                    "{what}, n{serving} served: {} | {}",
                    cluster.verdict(A),
                    cluster.verdict(B)
                );
            }
        }
    }
}

/// Servers are started again with a shorter lease while one that they have promised a longer one is cut off.
#[test]
fn a_lease_that_was_longer_before_a_restart_is_waited_for() {
    for (shape, restarted) in [(Shape::PAIR, &[B][..]), (Shape { nodes: 3, devices: 0 }, &[B, 2])] {
        for fencing in [Fencing::Lease, Fencing::Scsi] {
            for edited in ["OPTION:lease_ms:400", "OPTION:lease_ms:3000"] {
                let mut cluster = Cluster::serving_with(shape, fencing);
                cluster.isolate(A);
                for server in restarted {
                    cluster.crash(*server, false);
                    cluster.edit_init(*server, edited);
                    cluster.start(*server);
                }
                for step in 0..400 {
                    cluster.run_for(LEASE / 50);
                    let both = cluster.serves(A) && restarted.iter().any(|server| cluster.serves(*server));
                    assert!(!both, "{shape:?}, {fencing:?}, {edited}, step {step}");
                }
                // An owner of devices is not taken over from while it lives.
                assert!(
                    [A, B].iter().any(|server| cluster.serves(*server)),
                    "{shape:?}, {fencing:?}, {edited}: {}",
                    cluster.verdict(B)
                );
            }
        }
    }
}

/// It stops in the middle of an override: what it has voted for on the devices names an init database that nobody else has.
#[test]
fn an_override_that_a_node_with_an_edited_option_leaves_half_done_stops_nobody_for_good() {
    for fencing in [Fencing::Lease, Fencing::Scsi] {
        for restarts in [false, true] {
            for step in (0..80).step_by(2) {
                let mut cluster = beside_one_with_an_edited_option(fencing);
                cluster.begin(B, OVERRULE);
                cluster.run_for(LEASE * step / 800);
                cluster.crash(B, true);
                if restarts {
                    cluster.crash(A, false);
                    cluster.run_for(LEASE * 2);
                    cluster.start(A);
                }
                let what = format!("{fencing:?}, restarts: {restarts}, step {step}");
                let serves = cluster.add_within(A, "still", SETTLED);
                let verdict = cluster.verdict(A);
                // It was carried out: nobody starts alone.
                let waits = verdict.contains("operator's override");
                assert!(serves || waits, "{what}: {verdict}");
                cluster.copy_init(A, B);
                cluster.start(B);
                let both = cluster.serves_within(A, SETTLED) && cluster.serves_within(B, SETTLED);
                assert!(both, "{what}: {} | {}", cluster.verdict(A), cluster.verdict(B));
            }
        }
    }
}

/// The master prepares an update that reaches nobody else, and all power goes. It is started with an edited option, reaches no device, and
/// refuses the others; then its server is lost.
#[test]
fn an_update_that_one_node_alone_prepared_holds_nobody_up_whom_it_refuses() {
    for shape in [Shape::PAIR, Shape { nodes: 3, devices: 0 }] {
        for is_edited in [false, true] {
            let mut cluster = Cluster::serving(shape);
            cluster.add(A, "first").unwrap();
            cluster.settle();
            for node in 1..shape.nodes {
                cluster.cut_pair(A, node);
            }
            let (_, body) = cluster.addition("never acknowledged");
            let asked = cluster.begin(A, body);
            cluster.run_for(Duration::from_millis(5));
            for node in 0..shape.nodes {
                cluster.crash(node, true);
            }
            let end = cluster.await_end(asked);
            assert!(!matches!(end, AskEnd::Reply(Ok(Answer::Committed { .. }))));
            for node in 1..shape.nodes {
                cluster.mend_pair(A, node);
            }
            for role in DeviceRole::ALL.into_iter().take(shape.devices) {
                cluster.lose_path(A, role);
            }
            if is_edited {
                cluster.edit_init(A, "OPTION:sync_timeout_ms:7000");
                cluster.start(A);
                cluster.run_for(LEASE);
            }
            for is_lost in [false, true] {
                if is_lost {
                    cluster.crash(A, true);
                }
                for node in 1..shape.nodes {
                    cluster.crash(node, true);
                    cluster.start(node);
                }
                let serves = cluster.serves_within(B, SETTLED * 4);
                let what = format!("{shape:?}, edited: {is_edited}, lost: {is_lost}");
                assert!(serves, "{what}: {}", cluster.verdict(B));
            }
        }
    }
}

#[test]
fn a_node_that_serves_stops_when_it_is_told_of_a_later_epoch_by_one_that_refuses_it() {
    let mut cluster = Cluster::serving(Shape { nodes: 3, devices: 0 });
    let epoch = cluster.configuration().epoch;
    cluster.refused_by(A, NodeId::new(2).unwrap(), epoch, Stamp::default());
    assert!(cluster.serves(A), "that is no later one");
    cluster.refused_by(A, NodeId::new(2).unwrap(), epoch.next(), Stamp::default());
    assert!(!cluster.serves(A));
    assert_eq!(alarms(&cluster, A, "the others have gone on").len(), 1);
    // It talks to this node all the same, and knows no later epoch.
    assert!(cluster.serves_within(A, SETTLED), "{}", cluster.verdict(A));
}
