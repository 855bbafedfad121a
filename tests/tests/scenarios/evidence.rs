//! What a restart starts from, and what may not be overlooked: the restore flag that only the devices hold, devices and local
//! copies that were made anew, and replicas that were set back to an earlier moment.

use DeviceRole::{Primary, Secondary};
use ccd_core::client::{Answer, RequestBody};
use ccd_core::configuration::Mode;
use ccd_core::ids::{DeviceRole, DeviceSet, Epoch, NodeId};
use ccd_core::problem::Cause;
use ccd_core::protocol::DecisionKind;
use ccd_tests::sim::asks::AskEnd;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED};
use ccd_tests::sim::world::LEASE;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const PRIMARY: DeviceSet = DeviceSet::EMPTY.with(Primary);

const FLAGGED: &str =
    "restore flag 3): all nodes must be active once before an unattended restart; missing: nodes ";

fn solo(server: usize) -> Mode {
    Mode::Solo(NodeId::new(server as u8).unwrap())
}

fn is_committed(end: &AskEnd) -> bool {
    matches!(end, AskEnd::Reply(Ok(Answer::Committed { .. })))
}

/// A pair whose database was restored by A alone: the devices hold the flag, and no local copy does.
fn restored_alone() -> Cluster {
    let mut cluster = Cluster::serving(Shape::PAIR);
    cluster.add(A, "first").unwrap();
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "solo", SETTLED));
    assert!(is_committed(&cluster.restore(A, "restored", false)));
    assert_eq!(cluster.restore_flag(A), Some('3'));
    cluster
}

#[test]
fn after_a_restore_by_a_solo_owner_no_node_alone_restarts() {
    for alone in [A, B] {
        let mut cluster = restored_alone();
        cluster.crash(A, false);
        for _ in 0..2 {
            cluster.start(alone);
            assert!(!cluster.serves_within(alone, SETTLED), "n{alone} serves");
            let verdict = cluster.verdict(alone);
            assert!(verdict.ends_with(&format!("{FLAGGED}{}", 1 - alone)), "{verdict}");
            cluster.crash(alone, false);
        }
        for server in [A, B] {
            cluster.start(server);
        }
        for server in [A, B] {
            assert!(
                cluster.serves_within(server, SETTLED),
                "{}",
                cluster.verdict(server)
            );
            assert_eq!(cluster.restore_flag(server), Some('4'));
            assert_eq!(cluster.rows(server).unwrap(), ["restored"]);
        }
        // From here on one node is enough.
        cluster.crash(A, false);
        cluster.crash(B, false);
        cluster.start(alone);
        assert!(cluster.add_within(alone, "alone", SETTLED));
    }
}

#[test]
fn an_operator_overrules_the_restore_flag_that_the_devices_hold() {
    let mut cluster = restored_alone();
    cluster.crash(A, false);
    cluster.start(B);
    assert!(!cluster.serves_within(B, SETTLED));
    let end = cluster.command(B, RequestBody::Takeover { force: true });
    assert!(matches!(end, AskEnd::Reply(Ok(_))), "{end:?}");
    assert_eq!(cluster.rows(B).unwrap(), ["restored"]);
}

#[test]
fn a_successor_that_was_voted_for_before_the_restart_does_not_open_past_the_restore_flag() {
    let mut decided_then = 0;
    for actions in 0..60 {
        let mut cluster = restored_alone();
        let before = cluster.configuration().epoch;
        cluster.lose_device(Secondary);
        cluster.dies_after = Some((A, actions));
        cluster.run_for(LEASE * 3);
        cluster.dies_after = None;
        cluster.crash(A, false);
        decided_then += u32::from(cluster.configuration().epoch > before);
        cluster.start(A);
        assert!(!cluster.serves_within(A, SETTLED), "after {actions} actions");
        let verdict = cluster.verdict(A);
        assert!(
            verdict.ends_with(&format!("{FLAGGED}{B}")),
            "after {actions} actions: {verdict}"
        );
    }
    assert!((1..60).contains(&decided_then), "{decided_then}");
}

#[test]
fn a_takeover_by_a_member_that_served_all_along_is_no_restart() {
    let mut cluster = Cluster::serving(Shape { nodes: 3, devices: 2 });
    cluster.crash(C, false);
    assert!(cluster.add_within(A, "without C", SETTLED));
    assert!(is_committed(&cluster.restore(A, "restored", false)));
    cluster.crash(A, false);
    assert!(
        cluster.add_within(B, "taken over", SETTLED),
        "{}",
        cluster.verdict(B)
    );
    assert_eq!(cluster.configuration().mode, solo(B));
    // What comes now is one.
    cluster.crash(B, false);
    cluster.start(B);
    cluster.start(C);
    assert!(!cluster.serves_within(B, SETTLED) && !cluster.serves_within(C, SETTLED));
    assert!(
        cluster.verdict(B).ends_with(&format!("{FLAGGED}{A}")),
        "{}",
        cluster.verdict(B)
    );
    cluster.start(A);
    for server in [A, B, C] {
        assert!(
            cluster.serves_within(server, SETTLED),
            "{}",
            cluster.verdict(server)
        );
        assert_eq!(cluster.restore_flag(server), Some('4'));
    }
}

/// The updates `three` and `four` are on both nodes; the secondary, left out before, and back, has neither.
fn left_behind() -> Cluster {
    let mut cluster = Cluster::serving(Shape::PAIR);
    cluster.add(A, "one").unwrap();
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "two", SETTLED));
    cluster.lose_device(Secondary);
    assert!(cluster.add_within(A, "three", SETTLED));
    assert_eq!(
        (cluster.configuration().mode, cluster.configuration().devices),
        (solo(A), PRIMARY)
    );
    cluster.start(B);
    assert!(cluster.serves_within(B, SETTLED));
    cluster.add(B, "four").unwrap();
    cluster.crash(A, false);
    cluster.crash(B, false);
    cluster.return_device(Secondary);
    cluster
}

#[test]
fn a_device_made_anew_does_not_vote_for_a_node_with_a_new_local_copy() {
    for started in [&[B][..], &[A], &[A, B], &[B, A]] {
        for wiped in [A, B] {
            for pause in 0..6 {
                let mut cluster = left_behind();
                let epoch = cluster.configuration().epoch;
                cluster.remake_device(Primary);
                cluster.wipe_local(wiped);
                for server in started {
                    cluster.start(*server);
                    cluster.run_for(LEASE * pause / 5);
                }
                cluster.settle();
                // Both of them and the primary had votes, of which one node's is left.
                for server in started {
                    let verdict = cluster.verdict(*server);
                    assert!(
                        !cluster.serves(*server),
                        "{started:?}, n{wiped} is new: n{server} serves"
                    );
                    assert!(
                        verdict.contains("the primary was made anew"),
                        "{started:?}: {verdict}"
                    );
                }
                assert_eq!(cluster.configuration().epoch, epoch, "nothing was decided");
                let keeps = 1 - wiped;
                cluster.start(keeps);
                cluster.settle();
                let end = cluster.command(keeps, RequestBody::Takeover { force: true });
                assert!(matches!(end, AskEnd::Reply(Ok(_))), "{end:?}");
                assert_eq!(cluster.rows(keeps).unwrap(), ["four", "one", "three", "two"]);
                cluster.start(wiped);
                assert!(
                    cluster.serves_within(wiped, SETTLED),
                    "{}",
                    cluster.verdict(wiped)
                );
            }
        }
    }
}

fn add_all(cluster: &mut Cluster, server: usize, count: usize) {
    for number in 0..count {
        cluster.add(server, &format!("v{number:02}")).unwrap();
    }
    // The heartbeats say so.
    cluster.run_for(LEASE);
}

/// The servers that do not serve, and why each waits.
fn waits_for(cluster: &mut Cluster, server: usize, shown: &str) {
    assert!(!cluster.serves_within(server, SETTLED), "n{server} serves");
    let verdict = cluster.verdict(server);
    assert!(
        verdict.contains(shown)
            && verdict.contains("and the newest state found is")
            && verdict.contains("takeover --force"),
        "{verdict}"
    );
}

#[test]
fn a_server_restored_from_an_old_image_does_not_go_on_alone_where_a_heartbeat_shows_more() {
    for (old, other) in [(A, B), (B, A)] {
        let mut cluster = Cluster::serving(Shape::PAIR);
        cluster.add(A, "first").unwrap();
        let backup = cluster.backup();
        add_all(&mut cluster, A, 20);
        cluster.crash(A, false);
        cluster.crash(B, false);
        cluster.set_back_local(old, &backup, true);
        // What it has read it says in its own heartbeats from then on.
        for _ in 0..3 {
            cluster.start(old);
            waits_for(&mut cluster, old, "'s heartbeat of node ");
            cluster.crash(old, false);
        }
        cluster.start(old);
        cluster.start(other);
        for server in [A, B] {
            assert!(
                cluster.serves_within(server, SETTLED),
                "{}",
                cluster.verdict(server)
            );
            assert_eq!(cluster.rows(server).unwrap().len(), 21);
        }
    }
}

#[test]
fn an_old_local_copy_does_not_go_on_alone_where_the_history_beside_it_shows_more() {
    let mut cluster = Cluster::serving(Shape::PAIR);
    cluster.add(A, "first").unwrap();
    let backup = cluster.backup();
    add_all(&mut cluster, A, 20);
    cluster.crash(A, false);
    cluster.crash(B, false);
    cluster.set_back_local(A, &backup, false);
    for role in [Primary, Secondary] {
        cluster.set_back_device(role, &backup);
    }
    cluster.start(A);
    waits_for(&mut cluster, A, "the history of this node shows ");
    cluster.start(B);
    assert!(cluster.serves_within(A, SETTLED) && cluster.serves_within(B, SETTLED));
    assert_eq!(cluster.rows(A).unwrap().len(), 21);
}

#[test]
fn an_operator_may_give_up_what_a_heartbeat_shows_and_that_is_recorded() {
    let mut cluster = Cluster::serving(Shape::PAIR);
    cluster.add(A, "first").unwrap();
    let backup = cluster.backup();
    add_all(&mut cluster, A, 20);
    cluster.crash(A, false);
    cluster.crash(B, false);
    cluster.set_back_local(A, &backup, true);
    cluster.start(A);
    waits_for(&mut cluster, A, "'s heartbeat of node ");
    let end = cluster.command(A, RequestBody::Takeover { force: false });
    assert!(
        matches!(&end, AskEnd::Reply(Err(refusal)) if refusal.to_string().contains("heartbeat of node")),
        "{end:?}"
    );
    let end = cluster.command(A, RequestBody::Takeover { force: true });
    assert!(matches!(end, AskEnd::Reply(Ok(_))), "{end:?}");
    assert_eq!(cluster.rows(A).unwrap(), ["first"]);
    let told = cluster.decisions(A, DecisionKind::Override);
    assert!(
        told.iter()
            .any(|decision| decision.text.contains("although the ")),
        "{told:?}"
    );
    // What was given up is not waited for any more, and is kept where it is found.
    cluster.start(B);
    assert!(cluster.serves_within(B, SETTLED), "{}", cluster.verdict(B));
    assert_eq!(cluster.rows(B).unwrap(), ["first"]);
    assert!(!cluster.branches(B).is_empty());
    for alone in [A, B] {
        cluster.add(A, &format!("then {alone}")).unwrap();
        cluster.crash(A, false);
        cluster.crash(B, false);
        cluster.start(alone);
        assert!(
            cluster.add_within(alone, &format!("alone {alone}"), SETTLED),
            "{}",
            cluster.verdict(alone)
        );
        cluster.start(1 - alone);
        assert!(cluster.serves_within(1 - alone, SETTLED));
    }
}

#[test]
fn a_solo_owner_does_not_go_on_from_old_devices_where_its_history_shows_more() {
    for away in [Some(Secondary), None] {
        let mut cluster = Cluster::serving(Shape::PAIR);
        cluster.crash(B, false);
        assert!(cluster.add_within(A, "solo", SETTLED));
        let backup = cluster.backup();
        add_all(&mut cluster, A, 20);
        cluster.crash(A, false);
        cluster.set_back_device(Primary, &backup);
        match away {
            Some(role) => cluster.lose_device(role),
            None => cluster.set_back_device(Secondary, &backup),
        }
        for _ in 0..2 {
            cluster.start(A);
            waits_for(&mut cluster, A, "the history of this node shows ");
            cluster.crash(A, false);
        }
        cluster.start(A);
        if let Some(role) = away {
            cluster.return_device(role);
            assert!(cluster.serves_within(A, SETTLED), "{}", cluster.verdict(A));
            assert_eq!(cluster.rows(A).unwrap().len(), 21);
        } else {
            cluster.settle();
            let end = cluster.command(A, RequestBody::Takeover { force: true });
            assert!(matches!(end, AskEnd::Reply(Ok(_))), "{end:?}");
            assert_eq!(cluster.rows(A).unwrap(), ["solo"]);
        }
    }
}

#[test]
fn what_a_node_has_read_it_still_knows_after_its_own_heartbeats_took_the_place_of_that() {
    let mut cluster = Cluster::serving(Shape::PAIR);
    cluster.add(A, "first").unwrap();
    let backup = cluster.backup();
    // Only A's own area shows what comes now.
    for role in [Primary, Secondary] {
        cluster.lose_path(B, role);
    }
    add_all(&mut cluster, A, 20);
    cluster.crash(A, false);
    cluster.crash(B, false);
    cluster.set_back_local(A, &backup, true);
    for _ in 0..3 {
        cluster.start(A);
        waits_for(&mut cluster, A, "'s heartbeat of node 0 shows ");
        cluster.crash(A, false);
    }
}

/// The driver has what it says until an operator removes it: which generations were lost, and the command that shows them.
fn names_the_loss(cluster: &Cluster, server: usize) {
    let [loss] = cluster.losses(server) else {
        panic!("{:?}", cluster.losses(server));
    };
    let generation = loss.told.stamp.generation;
    assert!(
        loss.text.contains("in the history of this node")
            && loss.text.contains(&format!("{generation} in the")),
        "{loss:?}"
    );
    let next = format!("ccdadm history --rows --before {} --last ", generation.next());
    assert!(loss.next.starts_with(&next), "{loss:?}");
}

#[test]
fn what_an_owner_acknowledged_before_its_devices_were_put_back_is_named_when_it_returns() {
    let numbers = (1..=3).flat_map(|lost| (0..=4).map(move |since| (lost, since)));
    for (lost, since, starts) in numbers.flat_map(|(lost, since)| [(lost, since, 1), (lost, since, 2)]) {
        let mut cluster = Cluster::serving(Shape::PAIR);
        cluster.add(A, "first").unwrap();
        let backup = cluster.backup();
        cluster.crash(B, false);
        for number in 0..lost {
            assert!(cluster.add_within(A, &format!("lost{number}"), SETTLED));
        }
        cluster.crash(A, false);
        for role in [Primary, Secondary] {
            cluster.set_back_device(role, &backup);
        }
        cluster.promise_nothing(Epoch(1));
        cluster.start(B);
        assert!(cluster.serves_within(B, SETTLED), "{}", cluster.verdict(B));
        for number in 0..since {
            assert!(cluster.add_within(B, &format!("since{number}"), SETTLED));
        }
        // Another configuration, and nothing shows any more that one epoch was decided twice.
        for _ in 1..starts {
            cluster.crash(B, false);
            cluster.start(B);
            assert!(cluster.serves_within(B, SETTLED), "{}", cluster.verdict(B));
        }
        cluster.start(A);
        let is_member = cluster.serves_within(A, SETTLED);
        assert!(is_member || starts == 1, "{}", cluster.verdict(A));
        let told: Vec<String> = (cluster.decisions(A, DecisionKind::Alarm).into_iter())
            .map(|decision| decision.text.clone())
            .collect();
        let says = |words: &str| told.iter().any(|text| text.contains(words));
        let says_lost = !cluster.decisions(A, DecisionKind::UpdatesLost).is_empty();
        // It takes part only after it has said what is lost, or does not before an operator has chosen.
        assert!(
            says_lost || !is_member && says("was decided twice"),
            "{lost} lost, {since} since, {starts} starts: {told:?}"
        );
        if is_member {
            names_the_loss(&cluster, A);
            continue;
        }
        // The operator chooses the side of A: its local copy, which lacks what A alone acknowledged. Both losses are said, and kept.
        let left = cluster.status(A).unwrap().problems;
        assert!(
            left.iter().all(|problem| problem.cause != Cause::Left),
            "{left:?}"
        );
        cluster.crash(B, false);
        let end = cluster.command(A, RequestBody::Takeover { force: true });
        assert!(matches!(end, AskEnd::Reply(Ok(_))), "{end:?}");
        assert!(cluster.serves_within(A, SETTLED), "{}", cluster.verdict(A));
        let rows = cluster.rows(A).unwrap();
        assert!(rows.iter().all(|row| !row.starts_with("since")), "{rows:?}");
        let branches = cluster.decisions(A, DecisionKind::BranchKept);
        assert!(
            branches
                .iter()
                .any(|branch| branch.text.contains("the other side of an epoch")),
            "{branches:?}"
        );
        if rows.len() < lost + 1 {
            names_the_loss(&cluster, A);
        }
    }
}
