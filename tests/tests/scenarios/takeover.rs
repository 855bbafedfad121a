//! Who may go on, and who may not: the table of DESIGN §7 and each of its consequences, with real nodes on simulated
//! devices.

use DeviceRole::{Primary, Secondary};
use ccd_core::client::{Answer, Refusal, RequestBody};
use ccd_core::configuration::{Decider, Mode, RestoreFlag};
use ccd_core::ids::{DeviceRole, DeviceSet, Epoch, NodeId};
use ccd_core::protocol::{DecisionKind, Part};
use ccd_tests::sim::asks::{AskEnd, is_done};
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED};
use ccd_tests::sim::world::LEASE;
use core::time::Duration;

const A: usize = 0;
const B: usize = 1;
const BOTH: DeviceSet = DeviceSet {
    primary: true,
    secondary: true,
};
const PRIMARY: DeviceSet = DeviceSet {
    primary: true,
    secondary: false,
};

fn solo(server: usize) -> Mode {
    Mode::Solo(NodeId::new(server as u8).unwrap())
}

/// A pair that serves and holds one row.
fn pair() -> Cluster {
    let mut cluster = Cluster::serving(Shape::PAIR);
    cluster.add(A, "first").unwrap();
    cluster
}

/// A is gone, B is the owner.
fn solo_b(devices: DeviceSet) -> Cluster {
    let mut cluster = pair();
    cluster.crash(A, false);
    assert!(cluster.add_within(B, "solo", SETTLED));
    assert_eq!(
        (cluster.configuration().mode, cluster.configuration().devices),
        (solo(B), devices)
    );
    cluster
}

/// B was the owner, and an operator has made A the owner without the primary.
fn forced_a() -> Cluster {
    let mut cluster = solo_b(BOTH);
    cluster.crash(B, false);
    cluster.lose_device(Primary);
    cluster.start(A);
    assert!(!cluster.serves_within(A, SETTLED), "A alone lacks the primary");
    let end = cluster.command(A, RequestBody::Takeover { force: true });
    assert!(is_done(&end), "{end:?}");
    cluster
}

#[test]
fn either_node_takes_over_when_the_other_dies() {
    for (dies, stays) in [(A, B), (B, A)] {
        let mut cluster = pair();
        let died_at = cluster.now;
        cluster.crash(dies, false);
        assert!(cluster.add_within(stays, "second", SETTLED), "n{stays} goes on");
        let took = cluster.now.since(died_at);
        assert!(took < 2 * LEASE + LEASE / 2, "the takeover took {took:?}");
        assert_eq!(cluster.configuration().mode, solo(stays));
        assert_eq!(cluster.rows(stays).unwrap(), ["first", "second"]);
    }
}

#[test]
fn a_node_with_the_arbiter_takes_over_and_one_with_only_the_other_device_does_not() {
    let mut cluster = pair();
    cluster.lose_path(B, Secondary);
    cluster.crash(A, false);
    assert!(cluster.add_within(B, "second", SETTLED), "with the primary");

    let mut cluster = pair();
    // Both at once: no time to record the loss.
    cluster.crash(A, false);
    cluster.lose_path(B, Primary);
    assert!(
        !cluster.add_within(B, "second", SETTLED),
        "with the secondary alone"
    );
    assert!(!cluster.verdict(B).is_empty(), "it says why");
    cluster.return_path(B, Primary);
    assert!(cluster.add_within(B, "third", SETTLED), "the primary is back");
}

#[test]
fn two_live_nodes_never_need_a_device() {
    let mut cluster = pair();
    for role in [Primary, Secondary] {
        cluster.lose_device(role);
        assert!(cluster.add_within(A, role.name(), SETTLED));
        cluster.settle();
        assert!(cluster.add_within(B, &format!("{role} again"), SETTLED));
    }
    assert_eq!(cluster.configuration().devices, DeviceSet::EMPTY);
    assert_eq!(cluster.configuration().mode, Mode::Paired);
    cluster.return_device(Primary);
    cluster.return_device(Secondary);
    assert!(
        cluster.reaches(SETTLED, |configuration| configuration.devices == BOTH),
        "they come back"
    );
}

#[test]
fn both_devices_lost_at_once_do_not_stop_two_live_nodes() {
    let mut cluster = pair();
    cluster.lose_device(Primary);
    cluster.lose_device(Secondary);
    assert!(cluster.add_within(B, "second", SETTLED));
    assert_eq!(cluster.rows(A).unwrap(), ["first", "second"]);
}

#[test]
fn the_survivor_of_two_nodes_whose_devices_were_lost_before_does_not_go_on_alone() {
    let mut cluster = pair();
    cluster.lose_device(Primary);
    cluster.lose_device(Secondary);
    assert!(cluster.reaches(SETTLED, |configuration| configuration.devices == DeviceSet::EMPTY));
    cluster.crash(B, false);
    assert!(!cluster.add_within(A, "second", SETTLED));
    let refusal = cluster.add(A, "third").unwrap_err();
    assert!(!matches!(refusal, Refusal::Op(_)), "{refusal:?}");
}

#[test]
fn a_solo_owner_survives_losing_either_device_and_restarts_with_the_other() {
    for (lost, kept) in [(Primary, Secondary), (Secondary, Primary)] {
        let mut cluster = solo_b(BOTH);
        cluster.lose_device(lost);
        assert!(cluster.add_within(B, "degraded", SETTLED), "without the {lost}");
        assert_eq!(cluster.configuration().devices, DeviceSet::EMPTY.with(kept));
        cluster.crash(B, true);
        cluster.start(B);
        assert!(
            cluster.add_within(B, "restarted", SETTLED),
            "restart with the {kept}"
        );
        assert_eq!(
            cluster.rows(B).unwrap(),
            ["degraded", "first", "restarted", "solo"]
        );
    }
}

#[test]
fn a_solo_owner_restarts_with_either_device_although_both_were_in_sync() {
    for lost in [Primary, Secondary] {
        let mut cluster = solo_b(BOTH);
        cluster.crash(B, false);
        cluster.lose_device(lost);
        cluster.start(B);
        assert!(cluster.add_within(B, "restarted", SETTLED), "without the {lost}");
    }
}

#[test]
fn after_a_was_solo_with_both_devices_b_alone_needs_both() {
    for missing in [Primary, Secondary] {
        let mut cluster = pair();
        cluster.crash(B, false);
        assert!(cluster.add_within(A, "solo", SETTLED));
        cluster.crash(A, false);
        cluster.lose_device(missing);
        cluster.start(B);
        // A1 P1 S1: one device alone is one of three, with or without the arbiter.
        assert!(!cluster.add_within(B, "alone", SETTLED), "without the {missing}");
        assert!(!cluster.verdict(B).is_empty(), "it says what is missing");
        cluster.return_device(missing);
        assert!(cluster.add_within(B, "with both", SETTLED));
        assert_eq!(
            cluster
                .rows(B)
                .unwrap()
                .iter()
                .filter(|value| *value == "solo")
                .count(),
            1
        );
    }
}

#[test]
fn after_a_recorded_the_loss_of_one_device_b_needs_only_the_other() {
    for (lost, kept) in [(Primary, Secondary), (Secondary, Primary)] {
        let mut cluster = pair();
        cluster.crash(B, false);
        assert!(cluster.add_within(A, "solo", SETTLED));
        cluster.lose_device(lost);
        assert!(cluster.add_within(A, "degraded", SETTLED));
        assert_eq!(cluster.configuration().devices, DeviceSet::EMPTY.with(kept));
        cluster.crash(A, false);
        cluster.start(B);
        assert!(cluster.add_within(B, "alone", SETTLED), "with the {kept} alone");
        assert_eq!(cluster.rows(B).unwrap(), ["alone", "degraded", "first", "solo"]);
    }
}

#[test]
fn a_node_that_sees_only_the_device_that_was_lost_is_refused() {
    let mut cluster = pair();
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "solo", SETTLED));
    cluster.lose_device(Secondary);
    assert!(cluster.add_within(A, "degraded", SETTLED));
    cluster.crash(A, false);
    cluster.return_device(Secondary);
    cluster.lose_device(Primary);
    cluster.start(B);
    assert!(!cluster.add_within(B, "alone", SETTLED));
}

#[test]
fn a_lost_device_comes_back_to_a_solo_owner_by_a_full_copy() {
    let mut cluster = solo_b(BOTH);
    cluster.lose_device(Primary);
    assert!(cluster.add_within(B, "degraded", SETTLED));
    cluster.return_device(Primary);
    assert!(cluster.reaches(SETTLED, |configuration| configuration.devices == BOTH));
    assert!(cluster.add_within(B, "whole", SETTLED));
    // It holds everything: the other device is not needed any more.
    cluster.crash(B, false);
    cluster.lose_device(Secondary);
    cluster.start(B);
    assert!(cluster.add_within(B, "restarted", SETTLED));
    assert_eq!(
        cluster.rows(B).unwrap(),
        ["degraded", "first", "restarted", "solo", "whole"]
    );
}

#[test]
fn when_the_network_is_cut_the_lowest_node_takes_over_and_the_other_rejoins_by_itself() {
    let mut cluster = pair();
    cluster.cut_pair(A, B);
    assert!(cluster.add_within(A, "second", SETTLED));
    assert_eq!(cluster.configuration().mode, solo(A));
    cluster.settle();
    assert_eq!(cluster.configuration().mode, solo(A), "nobody takes it back");
    assert_eq!(cluster.rows(B), None, "the other does not serve");
    assert!(!cluster.decisions(B, DecisionKind::StoppedServing).is_empty() || !cluster.verdict(B).is_empty());
    cluster.mend_pair(A, B);
    assert!(cluster.serves_within(B, SETTLED), "it rejoins");
    assert_eq!(cluster.rows(B).unwrap(), ["first", "second"]);
}

#[test]
fn a_network_that_is_cut_in_one_direction_does_not_split_the_pair() {
    for (from, to) in [(A, B), (B, A)] {
        let mut cluster = pair();
        cluster.network.cut(from, to);
        assert!(
            cluster.add_within(A, "second", SETTLED) || cluster.add_within(B, "second too", SETTLED),
            "one of them goes on"
        );
        cluster.network.mend(from, to);
        assert!(cluster.serves_within(A, SETTLED) && cluster.serves_within(B, SETTLED));
    }
}

#[test]
fn without_devices_a_pair_that_is_cut_stops_and_goes_on_when_it_is_whole() {
    let mut cluster = Cluster::serving(Shape { nodes: 2, devices: 0 });
    cluster.cut_pair(A, B);
    cluster.settle();
    assert!(cluster.add(A, "cut").is_err() && cluster.add(B, "cut too").is_err());
    cluster.mend_pair(A, B);
    assert!(cluster.add_within(B, "whole", SETTLED));
}

#[test]
fn of_three_nodes_two_go_on_and_one_does_not() {
    let shape = Shape { nodes: 3, devices: 0 };
    let mut cluster = Cluster::serving(shape);
    cluster.add(2, "three").unwrap();
    cluster.crash(A, false);
    assert!(cluster.add_within(B, "two", SETTLED));
    cluster.crash(B, false);
    assert!(!cluster.add_within(2, "one", SETTLED));
    cluster.start(B);
    assert!(cluster.add_within(2, "two again", SETTLED));
    cluster.start(A);
    assert!(cluster.serves_within(A, SETTLED));
    assert!(cluster.rows(A).unwrap().contains(&"two".to_owned()));
}

#[test]
fn one_node_with_two_devices_restarts_alone() {
    let mut cluster = Cluster::serving(Shape { nodes: 1, devices: 2 });
    cluster.add(A, "first").unwrap();
    cluster.crash(A, true);
    cluster.start(A);
    assert!(cluster.add_within(A, "second", SETTLED));
    assert_eq!(cluster.rows(A).unwrap(), ["first", "second"]);
}

/// Only all nodes together go on with it, or who serves: nobody takes over.
#[test]
fn as_long_as_a_restore_flag_is_set_the_loss_of_the_owner_is_not_said_to_be_survived() {
    let mut cluster = forced_a();
    cluster.start(B);
    let lost = Part::Node(NodeId::new(A as u8).unwrap());
    let mut looked = 0;
    while looked < 20_000 {
        let status = cluster.status(A).unwrap();
        if status.configuration.unwrap().restore == RestoreFlag::AllActive {
            break;
        }
        assert!(
            status.survives.contains(&(lost, false)),
            "{looked}: {:?}",
            status.survives
        );
        cluster.run_for(Duration::from_micros(100));
        looked += 1;
    }
    assert!((1..20_000).contains(&looked), "looked {looked} times");
}

#[test]
fn a_forced_takeover_is_recorded_and_sets_the_restore_flag() {
    let mut cluster = forced_a();
    assert!(cluster.add_within(A, "forced", SETTLED));
    assert!(!cluster.decisions(A, DecisionKind::Override).is_empty());
    let configuration = cluster.status(A).and_then(|status| status.configuration).unwrap();
    assert_eq!(configuration.restore, RestoreFlag::NotAllActive);
    assert!(cluster.servers[A].decisions.iter().any(|decision| {
        decision
            .configuration
            .as_ref()
            .is_some_and(|configuration| configuration.decider == Decider::Operator)
    }));
    // Until all nodes were active once, nothing restarts unattended.
    cluster.crash(A, false);
    cluster.start(A);
    assert!(
        !cluster.serves_within(A, SETTLED),
        "not before all nodes were active"
    );
    cluster.return_device(Primary);
    cluster.start(B);
    assert!(
        cluster.serves_within(A, 2 * SETTLED) && cluster.serves_within(B, SETTLED),
        "all are here"
    );
    cluster.run_for(Duration::from_secs(1));
}

#[test]
fn a_takeover_by_the_devices_keeps_nothing_aside_of_a_copy_that_they_lead_on_from() {
    // The owner's updates on the devices: records after an image, and an image after them.
    for updates in [1, 60] {
        let mut cluster = pair();
        cluster.crash(B, false);
        for count in 0..updates {
            assert!(cluster.add_within(A, &format!("alone{count}"), SETTLED));
        }
        cluster.crash(A, false);
        cluster.start(B);
        assert!(cluster.serves_within(B, SETTLED), "{}", cluster.verdict(B));
        assert_eq!(cluster.rows(B).unwrap().len(), updates + 1);
        assert_eq!(cluster.branches(B), [], "{updates} updates");
        let kept = cluster.decisions(B, DecisionKind::BranchKept);
        assert!(kept.is_empty(), "{updates} updates: {kept:?}");
    }
}

#[test]
fn a_node_with_a_new_local_copy_says_that_it_has_no_vote_until_it_is_a_member_again() {
    let mut cluster = pair();
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "alone", SETTLED));
    cluster.crash(A, false);
    cluster.wipe_local(B);
    cluster.lose_device(Secondary);
    cluster.start(B);
    cluster.settle();
    let verdict = cluster.verdict(B);
    assert!(
        verdict.contains("the local copy is new") && verdict.contains("no vote"),
        "{verdict}"
    );
    cluster.return_device(Secondary);
    cluster.start(A);
    assert!(cluster.serves_within(B, SETTLED), "{}", cluster.verdict(B));
    assert!(
        !cluster.verdict(B).contains("the local copy is new"),
        "{}",
        cluster.verdict(B)
    );
}

/// A power cut takes the primary with it, and damages a local copy. Nothing was ever decided after the first configuration.
#[test]
fn a_damaged_local_copy_keeps_the_vote_of_its_node_in_the_first_configuration() {
    for damaged in [A, B] {
        let mut cluster = pair();
        let before = cluster.backup();
        for value in ["second", "third"] {
            assert!(cluster.add(A, value).is_ok());
        }
        assert_eq!(cluster.configuration().epoch, Epoch(1));
        cluster.crash(A, true);
        cluster.crash(B, true);
        cluster.lose_device(Primary);
        cluster.rot_local(damaged, &before);
        cluster.start(A);
        cluster.start(B);
        let is_open = cluster.serves_within(A, SETTLED) && cluster.serves_within(B, SETTLED);
        assert!(is_open, "{damaged}: {}", cluster.verdict(B));
        let told = cluster.decisions(damaged, DecisionKind::Damage);
        let is_local = |text: &str| text.contains("the local copy is damaged");
        assert!(told.iter().any(|decision| is_local(&decision.text)), "{told:?}");
        assert_eq!(cluster.rows(damaged).unwrap(), ["first", "second", "third"]);
    }
}

/// A has gone on alone, and B comes back with a new local copy and without a path to the primary.
fn back_without_the_primary() -> Cluster {
    let mut cluster = pair();
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "alone", SETTLED));
    cluster.wipe_local(B);
    cluster.lose_path(B, Primary);
    cluster.start(B);
    cluster
}

#[test]
fn an_owner_keeps_its_device_when_the_one_that_it_shares_with_a_new_copy_fails() {
    let mut cluster = back_without_the_primary();
    let proposals = cluster.decisions(A, DecisionKind::Propose).len();
    let limit = cluster.now + SETTLED;
    while cluster.decisions(A, DecisionKind::Propose).len() == proposals {
        assert!(cluster.now < limit, "B is taken in");
        cluster.run_for(Duration::from_micros(2));
    }
    let owned = cluster.configuration().epoch;
    cluster.fail_device_writes(Secondary, true);
    assert!(cluster.reaches(LEASE, |known| known.epoch == owned.next()));
    let known = cluster.configuration().clone();
    assert_eq!((known.mode, known.devices), (solo(A), PRIMARY));
    assert!(known.reason.contains("node 1 stays out"), "{}", known.reason);
    let given_up = cluster.decisions(A, DecisionKind::Refused);
    assert!(given_up.is_empty(), "the same proposal goes on: {given_up:?}");
    assert!(cluster.serves_within(A, LEASE / 5), "{}", cluster.verdict(A));
    cluster.fail_device_writes(Secondary, false);
    assert!(cluster.serves_within(B, 2 * SETTLED), "{}", cluster.verdict(B));
    assert_eq!(cluster.rows(B).unwrap(), ["alone", "first"]);
}

/// Two of four nodes decide by their weight, but alone form no configuration without a device.
#[test]
fn nodes_with_a_vote_go_on_together_with_new_copies_when_no_device_votes_any_more() {
    let mut cluster = Cluster::serving(Shape { nodes: 4, devices: 2 });
    cluster.crash(2, false);
    cluster.crash(3, false);
    assert!(cluster.add_within(A, "two of four", SETTLED));
    cluster.crash(A, false);
    cluster.crash(B, false);
    for server in [2, 3] {
        cluster.wipe_local(server);
    }
    cluster.lose_device(Primary);
    cluster.lose_device(Secondary);
    for server in 0..4 {
        cluster.start(server);
    }
    assert!(cluster.serves_within(A, SETTLED), "{}", cluster.verdict(A));
    assert!(cluster.serves_within(2, SETTLED), "{}", cluster.verdict(2));
    assert_eq!(cluster.rows(2).unwrap(), ["two of four"]);
}

#[test]
fn status_says_why_a_node_that_follows_is_not_taken_in() {
    // B and C have lost their copies, and their paths to the devices.
    let mut cluster = Cluster::serving(Shape { nodes: 3, devices: 2 });
    cluster.crash(B, false);
    cluster.crash(2, false);
    assert!(cluster.add_within(A, "alone", SETTLED));
    for server in [B, 2] {
        cluster.wipe_local(server);
        cluster.lose_path(server, Primary);
        cluster.lose_path(server, Secondary);
        cluster.start(server);
    }
    cluster.settle();
    let status = cluster.status(A).unwrap();
    let expected = "without node 1: it follows, but has a new local copy: it is taken in once a device can be used together with it";
    let said = (status.problems.iter()).any(|problem| problem.text == expected);
    assert!(said, "{:?}", status.problems);
    // The same of the second of two nodes that has all but the devices.
    let mut cluster = pair();
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "alone", SETTLED));
    cluster.lose_path(B, Primary);
    cluster.lose_path(B, Secondary);
    cluster.start(B);
    cluster.settle();
    let status = cluster.status(A).unwrap();
    let expected = "without node 1: it follows: it is taken in once a device can be used together with it";
    let said = (status.problems.iter()).any(|problem| problem.text == expected);
    assert!(said, "{:?}", status.problems);
}

#[test]
fn a_request_that_is_repeated_is_answered_with_the_place_of_its_update() {
    let mut cluster = pair();
    let (request, body) = cluster.addition("asked twice");
    let place = |end: AskEnd| match end {
        AskEnd::Reply(Ok(Answer::Committed { position, .. })) => position,
        other => panic!("{other:?}"),
    };
    let first = place(cluster.command(A, body));
    for count in 0..5 {
        cluster.add(A, &format!("later{count}")).unwrap();
    }
    for server in [A, B] {
        let again = Cluster::addition_as(request, "asked twice");
        assert_eq!(place(cluster.command(server, again)), first, "by n{server}");
    }
    // Also of the node that goes on alone, and after its restart.
    cluster.crash(A, false);
    assert!(cluster.add_within(B, "alone", SETTLED));
    let again = || Cluster::addition_as(request, "asked twice");
    assert_eq!(
        place(cluster.command(B, again())).stamp.generation,
        first.stamp.generation
    );
    cluster.crash(B, false);
    cluster.start(B);
    assert!(cluster.serves_within(B, SETTLED));
    assert_eq!(
        place(cluster.command(B, again())).stamp.generation,
        first.stamp.generation
    );
}
