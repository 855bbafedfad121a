//! A removed server that comes back, and the new owner of its number.

use super::{PAIR, alarms_of, is_whole};
use ccd_core::client::RequestBody;
use ccd_core::ids::{DeviceRole, Epoch, NodeId, ServerId};
use ccd_tests::sim::asks::{addition, is_done, refused, removal};
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED, set};
use ccd_tests::sim::world::LEASE;

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
