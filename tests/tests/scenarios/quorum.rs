//! Clusters without shared disks: a majority takes updates, exactly half answers queries, fewer do neither.

use ccd_core::client::{Answer, Finding, Refusal, RequestBody, VerifiedCopy};
use ccd_core::configuration::{Decider, Quorum, RestoreFlag};
use ccd_core::protocol::{DecisionKind, ServingState};
use ccd_tests::sim::asks::{AskEnd, is_done};
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED};
use ccd_tests::sim::world::LEASE;
use core::time::Duration;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const D: usize = 3;

/// A cluster of so many nodes, without devices, that holds one row.
fn nodes(nodes: usize) -> Cluster {
    let mut cluster = Cluster::serving(Shape { nodes, devices: 0 });
    cluster.add(A, "first").unwrap();
    cluster
}

fn is_closed(cluster: &Cluster, server: usize) -> bool {
    cluster
        .status(server)
        .is_some_and(|status| status.state == ServingState::Closed)
}

fn closes_within(cluster: &mut Cluster, server: usize, limit: Duration) -> bool {
    let end = cluster.now + limit;
    while cluster.now < end {
        if is_closed(cluster, server) && cluster.rows(server).is_some() {
            return true;
        }
        cluster.run_for(Duration::from_millis(20));
    }
    false
}

/// What an update through this node is refused with.
fn refusal(cluster: &mut Cluster, server: usize) -> Refusal {
    cluster.add(server, "not taken").expect_err("no majority is here")
}

fn first() -> Option<Vec<String>> {
    Some(vec!["first".to_owned()])
}

#[test]
fn each_half_of_a_pair_without_devices_answers_queries_and_takes_no_update() {
    let mut cluster = nodes(2);
    // By now both know that the last update was committed: who does not, cannot answer alone.
    cluster.settle();
    cluster.cut_pair(A, B);
    cluster.settle();
    for server in [A, B] {
        assert!(is_closed(&cluster, server), "{}", cluster.verdict(server));
        assert_eq!(cluster.rows(server), first());
        let Refusal::NoQuorum { why } = refusal(&mut cluster, server) else {
            panic!("n{server} says why");
        };
        let copy = format!(
            "valid, but closed: 1 of 2 copies found: 1/2 on node {server}; 2 are needed to take updates"
        );
        assert!(why.starts_with(&copy), "{why}");
        assert_eq!(cluster.verdict(server), why);
    }
    cluster.mend_pair(A, B);
    assert!(cluster.add_within(B, "second", SETTLED));
}

#[test]
fn one_of_two_nodes_restarts_alone_as_valid_and_closed() {
    let mut cluster = nodes(2);
    for power in [false, true] {
        cluster.run_for(LEASE);
        cluster.crash(A, power);
        cluster.crash(B, power);
        cluster.start(B);
        assert!(closes_within(&mut cluster, B, SETTLED), "{}", cluster.verdict(B));
        assert_eq!(cluster.rows(B), first());
        assert!(matches!(refusal(&mut cluster, B), Refusal::NoQuorum { .. }));
        cluster.start(A);
        assert!(cluster.serves_within(A, SETTLED));
        assert!(cluster.serves_within(B, SETTLED));
    }
}

#[test]
fn half_of_four_nodes_goes_on_answering_queries_and_restarts_to_it() {
    let mut cluster = nodes(4);
    cluster.run_for(LEASE);
    cluster.crash(A, false);
    cluster.crash(B, false);
    for server in [C, D] {
        assert!(
            closes_within(&mut cluster, server, SETTLED),
            "{}",
            cluster.verdict(server)
        );
    }
    cluster.settle();
    let Refusal::NoQuorum { why } = refusal(&mut cluster, C) else {
        panic!("it says why");
    };
    assert!(
        why.ends_with("2 of 4 copies found: 1/2 on nodes 2,3; 3 are needed to take updates; missing: 1 of node 0, node 1"),
        "{why}"
    );
    cluster.crash(C, true);
    cluster.crash(D, true);
    cluster.start(C);
    cluster.settle();
    assert_eq!(cluster.rows(C), None, "fewer than half is invalid");
    assert_eq!(
        cluster.verdict(C),
        "no quorum: invalid: 1 of 4 copies found: 1/2 on node 2; 2 are needed to make it valid"
    );
    cluster.start(D);
    for server in [C, D] {
        assert!(
            closes_within(&mut cluster, server, SETTLED),
            "{}",
            cluster.verdict(server)
        );
        assert_eq!(cluster.rows(server), first());
    }
    cluster.start(A);
    assert!(cluster.add_within(D, "second", SETTLED));
    cluster.start(B);
    assert!(cluster.serves_within(B, SETTLED));
}

#[test]
fn one_of_five_copies_is_invalid_and_the_refusals_say_how_many_were_found() {
    let mut cluster = nodes(5);
    cluster.run_for(LEASE);
    for server in 0..5 {
        cluster.crash(server, true);
    }
    cluster.start(A);
    cluster.settle();
    let found = "1 of 5 copies found: 1/2 on node 0; 3 are needed to make it valid";
    assert!(cluster.verdict(A).contains(found), "{}", cluster.verdict(A));
    assert!(matches!(refusal(&mut cluster, A), Refusal::NoQuorum { why } if why.contains(found)));
    assert_eq!(cluster.rows(A), None);
    cluster.start(C);
    cluster.settle();
    assert!(
        cluster
            .verdict(A)
            .contains("2 of 5 copies found: 1/2 on nodes 0,2")
    );
    cluster.start(D);
    assert!(cluster.add_within(D, "second", SETTLED));
}

#[test]
fn a_node_that_was_left_out_makes_a_member_valid_and_answers_nothing_itself() {
    let mut cluster = nodes(4);
    cluster.crash(D, false);
    assert!(cluster.add_within(A, "without D", SETTLED));
    cluster.run_for(LEASE);
    for server in [A, B, C] {
        cluster.crash(server, false);
    }
    cluster.start(C);
    cluster.start(D);
    assert!(closes_within(&mut cluster, C, SETTLED), "{}", cluster.verdict(C));
    assert_eq!(cluster.rows(C).map(|rows| rows.len()), Some(2));
    assert_eq!(cluster.rows(D), None);
    assert!(
        cluster
            .verdict(D)
            .contains("no member of epoch 2: ask one of its members, 0,1,2"),
        "{}",
        cluster.verdict(D)
    );
}

/// The counter-example to rolling a prepared round forward as soon as all copies of a half hold it: the other half never heard of it.
#[test]
fn a_round_that_reached_one_half_only_is_shown_by_neither() {
    let mut cluster = nodes(4);
    cluster.run_for(LEASE);
    for (one, other) in [(A, C), (A, D), (B, C), (B, D)] {
        cluster.cut_pair(one, other);
    }
    let (_, body) = cluster.addition("in doubt");
    let asked = cluster.begin(A, body);
    cluster.run_for(Duration::from_millis(200));
    assert!(cluster.end_of(asked).is_none());
    for server in 0..4 {
        cluster.crash(server, true);
    }
    for server in 0..4 {
        cluster.start(server);
    }
    cluster.settle();
    for server in [C, D] {
        assert!(is_closed(&cluster, server), "{}", cluster.verdict(server));
        assert_eq!(cluster.rows(server), first());
    }
    for server in [A, B] {
        assert_eq!(cluster.rows(server), None);
        assert!(
            cluster
                .verdict(server)
                .contains("queries of the keys it changed wait"),
            "{}",
            cluster.verdict(server)
        );
    }
    for (one, other) in [(A, C), (A, D), (B, C), (B, D)] {
        cluster.mend_pair(one, other);
    }
    assert!(cluster.add_within(D, "second", SETTLED));
}

fn is_committed(end: &AskEnd) -> bool {
    matches!(end, AskEnd::Reply(Ok(Answer::Committed { .. })))
}

#[test]
fn a_restore_without_all_nodes_sets_the_flag_whatever_the_client_says_and_all_nodes_reset_it() {
    for key_only in [false, true] {
        let mut cluster = nodes(3);
        assert!(is_committed(&cluster.restore(B, "restored", key_only)));
        assert_eq!(cluster.restore_flag(A), Some('4'), "all nodes are active");
        cluster.crash(C, false);
        assert!(cluster.add_within(A, "without C", SETTLED));
        assert!(is_committed(&cluster.restore(B, "restored again", key_only)));
        for server in [A, B] {
            assert_eq!(
                cluster.restore_flag(server),
                Some('3'),
                "n{server}, key only: {key_only}"
            );
            assert!(
                cluster
                    .verdict(server)
                    .contains("restore flag 3: all nodes must be active once"),
                "{}",
                cluster.verdict(server)
            );
        }
        // A restart by a majority is refused, and names who is missing.
        cluster.crash(A, false);
        cluster.crash(B, false);
        cluster.start(A);
        cluster.start(B);
        cluster.settle();
        for server in [A, B] {
            assert_eq!(
                cluster.verdict(server),
                "the database was restored while not all nodes were active (restore flag 3): all nodes must be active once \
                 before an unattended restart; missing: nodes 2"
            );
            assert_eq!(cluster.rows(server), None);
            assert!(
                matches!(refusal(&mut cluster, server), Refusal::NoQuorum { why } if why.ends_with("missing: nodes 2"))
            );
        }
        cluster.start(C);
        for server in [A, B, C] {
            assert!(
                cluster.serves_within(server, SETTLED),
                "{}",
                cluster.verdict(server)
            );
            assert_eq!(cluster.restore_flag(server), Some('4'));
        }
        // From here on a majority restarts again.
        for server in [A, B, C] {
            cluster.crash(server, false);
        }
        cluster.start(B);
        cluster.start(C);
        assert!(cluster.add_within(B, "by two of three", SETTLED));
    }
}

#[test]
fn the_flag_goes_when_the_missing_node_joins_without_a_restart() {
    let mut cluster = nodes(3);
    cluster.crash(C, false);
    assert!(cluster.add_within(A, "without C", SETTLED));
    assert!(is_committed(&cluster.restore(A, "restored", false)));
    assert_eq!(cluster.restore_flag(A), Some('3'));
    cluster.start(C);
    assert!(cluster.serves_within(C, SETTLED));
    for server in [A, B, C] {
        assert_eq!(cluster.restore_flag(server), Some('4'));
        assert_eq!(cluster.verdict(server), "");
    }
}

#[test]
fn exactly_half_of_the_nodes_does_not_restart_with_the_flag_set() {
    let mut cluster = nodes(4);
    cluster.crash(D, false);
    assert!(cluster.add_within(A, "without D", SETTLED));
    assert!(is_committed(&cluster.restore(A, "restored", false)));
    cluster.run_for(LEASE);
    for server in [A, B, C] {
        cluster.crash(server, false);
    }
    cluster.start(A);
    cluster.start(B);
    cluster.settle();
    assert_eq!(cluster.rows(A), None);
    assert!(
        cluster.verdict(A).ends_with("missing: nodes 2,3"),
        "{}",
        cluster.verdict(A)
    );
}

fn waive(cluster: &mut Cluster, server: usize) -> AskEnd {
    cluster.command(server, RequestBody::Quorum(Quorum::Waived))
}

#[test]
fn with_quorum_off_whoever_is_left_goes_on_as_if_by_override_and_says_so_loudly() {
    let mut cluster = nodes(3);
    assert!(is_done(&waive(&mut cluster, B)));
    assert_eq!(cluster.configuration().quorum, Quorum::Waived);
    for server in [A, B, C] {
        assert!(cluster.serves_within(server, SETTLED));
        assert!(
            cluster.verdict(server).starts_with("QUORUM IS OFF"),
            "{}",
            cluster.verdict(server)
        );
        assert!(!cluster.decisions(server, DecisionKind::Alarm).is_empty());
    }
    cluster.crash(A, false);
    cluster.crash(B, false);
    assert!(cluster.add_within(C, "alone", SETTLED), "{}", cluster.verdict(C));
    let configuration = cluster.configuration().clone();
    assert_eq!(configuration.decider, Decider::Operator);
    assert!(configuration.epoch.0 >= 1000, "{configuration}");
    assert_eq!(configuration.restore, RestoreFlag::NotAllActive);
    assert!(!cluster.decisions(C, DecisionKind::Override).is_empty());
    // Those who come back take part again, and the rule can be put back.
    cluster.start(A);
    cluster.start(B);
    for server in [A, B] {
        assert!(
            cluster.serves_within(server, SETTLED),
            "{}",
            cluster.verdict(server)
        );
    }
    assert!(is_done(
        &cluster.command(A, RequestBody::Quorum(Quorum::Required))
    ));
    assert_eq!(cluster.rows(A).map(|rows| rows.len()), Some(2));
    cluster.settle();
    assert_eq!(cluster.configuration().restore, RestoreFlag::AllActive);
    assert_eq!(cluster.verdict(B), "");
    cluster.crash(A, false);
    cluster.crash(B, false);
    cluster.settle();
    assert_eq!(cluster.rows(C), None, "a majority is needed again");
}

#[test]
fn with_quorum_off_both_sides_of_a_cut_go_on_and_the_losing_branch_is_kept_aside() {
    let mut cluster = nodes(2);
    assert!(is_done(&waive(&mut cluster, A)));
    cluster.cut_pair(A, B);
    assert!(cluster.add_within(A, "on A", SETTLED), "{}", cluster.verdict(A));
    assert!(cluster.add_within(B, "on B", SETTLED), "{}", cluster.verdict(B));
    cluster.mend_pair(A, B);
    cluster.settle();
    for server in [A, B] {
        assert!(
            cluster.serves_within(server, 2 * SETTLED),
            "{}",
            cluster.verdict(server)
        );
    }
    assert!(cluster.rows(A).is_some());
    assert_eq!(cluster.rows(A), cluster.rows(B));
    let kept = [A, B].map(|server| cluster.decisions(server, DecisionKind::BranchKept).len());
    assert_eq!(kept.iter().sum::<usize>(), 1, "{kept:?}");
}

#[test]
fn quorum_is_not_turned_off_by_fewer_than_a_majority() {
    let mut cluster = nodes(2);
    cluster.crash(A, false);
    cluster.settle();
    let AskEnd::Reply(Err(Refusal::NoQuorum { why })) = waive(&mut cluster, B) else {
        panic!("it is refused");
    };
    assert!(
        why.starts_with("quorum is turned on and off by a majority"),
        "{why}"
    );
    assert!(why.contains("1 of 2 copies found"), "{why}");
    // The operator who knows better says so once.
    let forced = cluster.command(B, RequestBody::Takeover { force: true });
    assert!(is_done(&forced), "{forced:?}");
    assert!(cluster.add_within(B, "forced", SETTLED));
}

#[test]
fn who_asked_is_not_told_that_nothing_changed_when_quorum_may_be_off() {
    let mut cluster = nodes(3);
    let asked = cluster.begin(A, RequestBody::Quorum(Quorum::Waived));
    // Decided, and not open anywhere.
    while cluster.configuration().quorum != Quorum::Waived {
        assert!(cluster.step());
    }
    cluster.crash(B, false);
    cluster.crash(C, false);
    let end = cluster.await_end(asked);
    let AskEnd::Reply(Err(Refusal::Unknown { why })) = &end else {
        panic!("{end:?}");
    };
    assert!(
        why.starts_with("it is decided") || why.starts_with("it was put to the vote"),
        "{why}"
    );
    cluster.start(B);
    cluster.start(C);
    assert!(cluster.serves_within(A, SETTLED), "{}", cluster.verdict(A));
    assert_eq!(
        cluster.configuration().quorum,
        Quorum::Waived,
        "it was turned off"
    );
}

fn verify(cluster: &mut Cluster, server: usize, repair: bool) -> Vec<VerifiedCopy> {
    match cluster.call(server, RequestBody::Verify { repair }, SETTLED) {
        AskEnd::Reply(Ok(Answer::Verified(copies))) => copies,
        other => panic!("{other:?}"),
    }
}

fn findings(copies: &[VerifiedCopy]) -> Vec<Finding> {
    copies.iter().map(|copy| copy.finding).collect()
}

#[test]
fn verify_invalidates_the_copy_that_most_others_contradict_and_repairs_it() {
    use Finding::{Inconsistent, Repaired, Sound};
    for odd in [A, B, C] {
        for asked in [A, B] {
            let mut cluster = nodes(3);
            cluster.run_for(LEASE);
            cluster.damage_copy(odd, "damage");
            let mut expected = [Sound; 3];
            expected[odd] = Inconsistent;
            assert_eq!(
                findings(&verify(&mut cluster, asked, false)),
                expected,
                "it is only reported"
            );
            assert!(cluster.decisions(odd, DecisionKind::Damage).is_empty());
            expected[odd] = Repaired;
            let copies = verify(&mut cluster, asked, true);
            assert_eq!(findings(&copies), expected, "n{odd} found through n{asked}");
            assert!(copies.iter().all(|copy| copy.digest == copies[0].digest));
            assert!(!cluster.decisions(odd, DecisionKind::Damage).is_empty());
            assert!(!cluster.decisions(odd, DecisionKind::BranchKept).is_empty());
            assert!(cluster.serves_within(odd, SETTLED), "{}", cluster.verdict(odd));
            assert_eq!(cluster.rows(odd), first());
            assert!(cluster.add_within(odd, "second", SETTLED));
        }
    }
}

#[test]
fn of_two_copies_that_differ_the_master_s_is_right() {
    let mut cluster = nodes(2);
    cluster.run_for(LEASE);
    cluster.damage_copy(B, "damage");
    let found = findings(&verify(&mut cluster, B, true));
    assert_eq!(found, [Finding::Sound, Finding::Repaired]);
    assert_eq!(cluster.rows(B), first());
}

#[test]
fn verify_with_nothing_wrong_changes_nothing_also_under_load() {
    let mut cluster = nodes(3);
    let epoch = cluster.configuration().epoch;
    for count in 0..20 {
        let (_, body) = cluster.addition(&format!("v{count}"));
        let asked = cluster.begin(count % 3, body);
        let found = findings(&verify(&mut cluster, (count + 1) % 3, true));
        assert_eq!(found, [Finding::Sound; 3]);
        cluster.await_end(asked);
    }
    assert_eq!(cluster.configuration().epoch, epoch);
}

#[test]
fn with_quorum_off_whoever_is_left_is_said_to_survive_the_loss_of_the_others() {
    let mut cluster = nodes(3);
    assert!(is_done(&waive(&mut cluster, A)));
    cluster.isolate(C);
    for server in [A, B, C] {
        assert!(cluster.add_within(server, &format!("on {server}"), SETTLED));
    }
    for (server, lost) in [
        (A, [true, true, true]),
        (B, [true, true, true]),
        (C, [true, true, false]),
    ] {
        let survives = cluster.status(server).unwrap().survives;
        let survives: Vec<bool> = survives.iter().map(|(_, survives)| *survives).collect();
        assert_eq!(survives, lost, "n{server}");
    }
    // It is so.
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "alone", SETTLED));
}
