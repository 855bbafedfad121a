//! Two runs of one node: a machine that was copied, or restored while the old one runs.

use ccd_core::client::RequestBody;
use ccd_core::ids::{DeviceRole, Epoch, NodeId, ServerId};
use ccd_core::init::Fencing;
use ccd_core::protocol::DecisionKind;
use ccd_tests::sim::asks::{addition, is_done, refused, removal};
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED, set};
use ccd_tests::sim::world::LEASE;
use core::time::Duration;

/// Shorter than any write takes.
const MOMENT: Duration = Duration::from_micros(2);

const PAIR: Shape = Shape { nodes: 2, devices: 2 };

fn alarms_of(cluster: &Cluster, server: usize, text: &str) -> usize {
    let alarms = cluster.decisions(server, DecisionKind::Alarm);
    alarms
        .iter()
        .filter(|decision| decision.text.contains(text))
        .count()
}

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

/// How a removed server is kept from hearing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    /// Its process is stopped.
    Stopped,
    /// Its machine is cut off from the network and from both devices.
    CutOff,
    /// It hears nobody, and sees the devices.
    Isolated,
}

/// Node 1 is removed while it does not hear of it, and its number is given to another server. Returns where that one is.
fn replaced(cluster: &mut Cluster, away: Away) -> usize {
    match away {
        Away::Stopped => cluster.pause(1),
        Away::CutOff => {
            cluster.isolate(1);
            (DeviceRole::ALL.into_iter()).for_each(|role| cluster.lose_path(1, role));
        }
        Away::Isolated => cluster.isolate(1),
    }
    assert!(
        cluster.add_within(0, "without it", SETTLED * 2),
        "{}",
        cluster.verdict(0)
    );
    assert!(is_done(&cluster.command(0, removal(1))));
    assert!(is_done(&cluster.command(0, addition(1))));
    cluster.succeed_server(1, 0)
}

fn come_back(cluster: &mut Cluster, away: Away) {
    match away {
        Away::Stopped => cluster.resume(1),
        Away::CutOff => {
            cluster.rejoin(1);
            (DeviceRole::ALL.into_iter()).for_each(|role| cluster.return_path(1, role));
        }
        Away::Isolated => cluster.rejoin(1),
    }
}

/// It says first that it was removed, and who has its number.
#[track_caller]
fn says_that_it_was_removed(cluster: &Cluster, server: usize) {
    let verdict = cluster.verdict(server);
    let expected = [
        "was removed from the cluster",
        "the number 1 belongs to the server with id",
        "stop ccdd here",
    ];
    assert!(
        expected.iter().all(|expected| verdict.contains(expected)),
        "{verdict}"
    );
}

fn is_whole(cluster: &mut Cluster, successor: usize, row: &str) {
    for server in [0, successor] {
        assert!(
            cluster.serves_within(server, SETTLED),
            "n{server}: {}; n1: {}",
            cluster.verdict(server),
            cluster.verdict(1)
        );
    }
    let both = set(&[0, 1]);
    assert!(cluster.reaches(SETTLED, |known| known.members == both
        && known.devices.count() == 2));
    assert!(cluster.add(successor, row).is_ok());
}

#[test]
fn a_removed_server_that_comes_back_leaves_its_number_to_the_new_owner() {
    for away in [Away::Stopped, Away::CutOff, Away::Isolated] {
        // It comes back before the new one starts, beside it as it starts, and when it serves.
        for serves_first in [None, Some(false), Some(true)] {
            let mut cluster = Cluster::serving(PAIR);
            let successor = replaced(&mut cluster, away);
            if serves_first.is_some() {
                cluster.start(successor);
            }
            if serves_first == Some(true) {
                is_whole(&mut cluster, successor, "before");
            }
            come_back(&mut cluster, away);
            if serves_first.is_none() {
                cluster.run_for(LEASE * 2);
                says_that_it_was_removed(&cluster, 1);
                cluster.start(successor);
            }
            is_whole(&mut cluster, successor, "with the new one");
            cluster.settle();
            says_that_it_was_removed(&cluster, 1);
            if away != Away::CutOff {
                // It had no write under way, and looked before it wrote.
                assert_eq!(
                    alarms_of(&cluster, successor, "two servers"),
                    0,
                    "{away:?} {serves_first:?}"
                );
            }
            // For good, also after a restart of it, and when it is the only one that runs.
            for power in [false, true] {
                cluster.crash(1, power);
                cluster.start(1);
                cluster.settle();
                says_that_it_was_removed(&cluster, 1);
                assert!(cluster.serves(successor) && cluster.serves(0));
            }
            cluster.crash(0, true);
            cluster.crash(successor, true);
            cluster.settle();
            says_that_it_was_removed(&cluster, 1);
            cluster.start(successor);
            assert!(
                cluster.serves_within(successor, SETTLED),
                "{}",
                cluster.verdict(successor)
            );
            assert!(
                cluster
                    .rows(successor)
                    .unwrap()
                    .contains(&"with the new one".to_owned())
            );
        }
    }
}

/// No device shows it the newer configuration: a peer that refuses it does.
#[test]
fn a_removed_server_without_devices_hears_of_it_from_those_that_refuse_it() {
    let mut cluster = Cluster::serving(PAIR);
    let successor = replaced(&mut cluster, Away::CutOff);
    cluster.start(successor);
    is_whole(&mut cluster, successor, "before");
    cluster.rejoin(1);
    cluster.settle();
    says_that_it_was_removed(&cluster, 1);
    assert!(
        cluster.verdict(1).contains("says node 0"),
        "{}",
        cluster.verdict(1)
    );
    // The devices come back, and it does not write there to be a member again.
    (DeviceRole::ALL.into_iter()).for_each(|role| cluster.return_path(1, role));
    cluster.settle();
    says_that_it_was_removed(&cluster, 1);
    is_whole(&mut cluster, successor, "after");
    assert_eq!(alarms_of(&cluster, successor, "two servers"), 0);
}

/// The number comes back to the server that had it, under a new id, and its state folder is from before.
#[test]
fn a_server_that_is_added_again_with_its_old_state_folder_is_no_removed_one() {
    for power in [false, true] {
        let mut cluster = Cluster::serving(PAIR);
        cluster.crash(1, power);
        assert!(cluster.add_within(0, "alone", SETTLED * 2));
        assert!(is_done(&cluster.command(0, removal(1))));
        assert!(is_done(&cluster.command(0, addition(1))));
        cluster.copy_init(0, 1);
        cluster.start(1);
        is_whole(&mut cluster, 1, "again");
    }
}

/// One that lies, one that knows less, and one of a cluster that was put back: none silences a member.
#[test]
fn a_member_is_not_silenced_by_a_claim_that_its_lease_or_its_peers_disprove() {
    let three = Shape { nodes: 3, devices: 2 };
    let mut cluster = Cluster::serving(three);
    let epoch = cluster.configuration().epoch;
    let claim = |cluster: &mut Cluster, epoch: Epoch| {
        let server = ServerId(0xbad);
        let by = NodeId::new(2).unwrap();
        cluster.disowned(1, by, epoch, server);
    };
    for claimed in [Epoch(0), epoch, epoch.next(), Epoch(epoch.0 + 1_000), Epoch::MAX] {
        claim(&mut cluster, claimed);
        for _ in 0..10 {
            cluster.run_for(LEASE / 4);
            assert!(cluster.serves(1), "{}", cluster.verdict(1));
        }
        assert!(cluster.add(1, &format!("claimed {claimed}")).is_ok());
    }
    // Without a lease and any peer, older claims count for nothing; one that has come true counts until a peer takes it for the node.
    cluster.isolate(1);
    cluster.run_for(LEASE * 2);
    claim(&mut cluster, epoch);
    cluster.run_for(LEASE * 2);
    assert!(
        !cluster.verdict(1).contains("was removed"),
        "{}",
        cluster.verdict(1)
    );
    claim(&mut cluster, Epoch(epoch.0 + 1_000));
    cluster.run_for(LEASE * 2);
    assert!(
        cluster.verdict(1).contains("says node 2"),
        "{}",
        cluster.verdict(1)
    );
    cluster.rejoin(1);
    assert!(cluster.serves_within(1, SETTLED), "{}", cluster.verdict(1));
    let all = set(&[0, 1, 2]);
    assert!(cluster.reaches(SETTLED, |known| known.members == all));
}

/// A copy that is older than the change, and one of the node that proposes: what was decided last counts.
#[test]
fn an_older_init_database_takes_no_number_from_its_owner() {
    let mut cluster = Cluster::serving(PAIR);
    let old = cluster.servers[0].inits.clone();
    let successor = replaced(&mut cluster, Away::Stopped);
    cluster.start(successor);
    is_whole(&mut cluster, successor, "before");
    let owner = cluster.configuration().servers.get(NodeId::new(1).unwrap());
    cluster.crash(1, true);
    cluster.crash(0, true);
    assert!(cluster.serves_within(successor, SETTLED));
    cluster.crash(successor, true);
    // Somebody puts back the init database of node 0, which then decides alone.
    cluster.servers[0].inits = old;
    cluster.start(0);
    cluster.settle();
    cluster.command(0, RequestBody::Takeover { force: true });
    cluster.settle();
    assert!(cluster.serves(0), "{}", cluster.verdict(0));
    assert_eq!(
        cluster.configuration().servers.get(NodeId::new(1).unwrap()),
        owner
    );
    refused(&cluster.command(0, removal(1)), "to another server");
    // The clone of the removed one gets nothing by it.
    cluster.start(1);
    cluster.settle();
    says_that_it_was_removed(&cluster, 1);
}

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
    let expected = format!("epoch {decided} was not opened: node 1 has started again, and has no vote");
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

/// Each would wait for the other if only that one knew that it has no vote.
#[test]
fn a_member_that_came_from_another_machine_leaves_it_to_the_other_to_reconfigure() {
    let mut cluster = Cluster::serving(PAIR);
    cluster.crash(0, true);
    assert!(cluster.add_within(1, "alone", SETTLED));
    cluster.move_server(0);
    cluster.start(0);
    next_decision(&mut cluster, 1, DecisionKind::Decided);
    assert_eq!(cluster.configuration().members, set(&[0, 1]));
    // It cannot write to the secondary any more that the folder is at home here.
    cluster.lose_path(0, DeviceRole::Secondary);
    assert!(cluster.serves_within(0, LEASE / 4), "{}", cluster.verdict(0));
    cluster.crash(0, true);
    cluster.crash(1, true);
    cluster.start(0);
    cluster.start(1);
    let epoch = cluster.configuration().epoch;
    let is_decided = cluster.reaches(LEASE * 5 / 2, |known| known.epoch > epoch);
    assert!(is_decided, "{} / {}", cluster.verdict(0), cluster.verdict(1));
    assert!(cluster.serves_within(0, SETTLED), "{}", cluster.verdict(0));
    assert_eq!(cluster.rows(0).unwrap(), ["alone"]);
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
