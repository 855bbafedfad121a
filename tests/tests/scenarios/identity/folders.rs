//! Two runs of one node, each with a copy of its state folder: a configuration counts on one of them, whatever the other one sees.

use super::PAIR;
use ccd_core::ids::DeviceRole::{self, Primary, Secondary};
use ccd_core::init::Fencing;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED, set};
use ccd_tests::sim::world::LEASE;

/// A copy of server 0 has served, and is no more; server 0 was taken in again by the device `voting` alone, and node 1 by both. All is stopped.
struct TakenIn {
    cluster: Cluster,
    copy: usize,
    voting: DeviceRole,
    other: DeviceRole,
}

impl TakenIn {
    fn new(voting: DeviceRole, other: DeviceRole, fencing: Fencing) -> Self {
        let mut cluster = Cluster::serving_with(PAIR, fencing);
        cluster.crash(1, true);
        assert!(cluster.add_within(0, "owner", SETTLED));
        let copy = cluster.copy_server(0);
        cluster.crash(0, true);
        cluster.start(copy);
        assert!(cluster.add_within(copy, "copy", SETTLED));
        cluster.lose_path(copy, other);
        assert!(cluster.add_within(copy, "copy alone", SETTLED));
        cluster.crash(copy, true);

        cluster.lose_path(0, other);
        cluster.start(0);
        assert!(cluster.serves_within(0, SETTLED), "{}", cluster.verdict(0));
        cluster.start(1);
        let both = set(&[0, 1]);
        assert!(cluster.reaches(SETTLED, |known| known.members == both));
        assert!(cluster.add_within(0, "pair", SETTLED));
        assert_eq!(cluster.configuration().devices, [voting].into_iter().collect());
        cluster.crash(1, true);
        cluster.crash(0, true);
        Self {
            cluster,
            copy,
            voting,
            other,
        }
    }

    fn each(play: impl Fn(Self)) {
        for (voting, other) in [(Primary, Secondary), (Secondary, Primary)] {
            for fencing in [Fencing::Lease, Fencing::Scsi] {
                play(Self::new(voting, other, fencing));
            }
        }
    }

    /// The copy has the network of node 0 and no way to the device that votes, as node 1.
    fn start_copy_with_node_1(&mut self) -> bool {
        let Self {
            cluster,
            copy,
            voting,
            ..
        } = self;
        for server in [1, *copy] {
            cluster.lose_path(server, *voting);
        }
        cluster.connect_instead(*copy, 0);
        cluster.start(*copy);
        cluster.start(1);
        cluster.add_within(*copy, "by copy and node 1", SETTLED)
    }
}

/// They outweigh the node's own machine and the device; and the copy finds no heartbeat of that machine anywhere.
#[test]
fn a_copy_that_is_not_counted_on_decides_nothing_with_the_other_node() {
    TakenIn::each(|mut taken| {
        for server in [1, taken.copy] {
            taken.cluster.lose_path(server, taken.other);
        }
        assert!(!taken.start_copy_with_node_1());
        let TakenIn {
            mut cluster, copy, ..
        } = taken;
        let verdict = cluster.verdict(copy);
        assert!(
            verdict.contains("has no vote before it was taken in again"),
            "{verdict}"
        );
        cluster.crash(copy, true);
        cluster.crash(1, true);
        cluster.start(0);
        assert!(cluster.serves_within(0, SETTLED), "{}", cluster.verdict(0));
        assert!(cluster.rows(0).unwrap().contains(&"pair".to_owned()));
    });
}

/// The site is split: the copy and node 1 see one device and each other, and the node's own machine sees the device that votes.
#[test]
fn a_copy_and_its_original_never_serve_apart_from_each_other() {
    TakenIn::each(|mut taken| {
        taken.cluster.return_path(taken.copy, taken.other);
        let added = taken.start_copy_with_node_1();
        let TakenIn { mut cluster, .. } = taken;
        cluster.start(0);
        let serves = cluster.serves_within(0, SETTLED);
        assert!(!(serves && added), "{}", cluster.verdict(0));
    });
}

/// What its copy left on a device that it could not read, and that has no vote, is of the past when it is found after a restart: also before
/// the local copy is read.
#[test]
fn what_a_copy_wrote_before_the_node_was_taken_in_again_is_of_the_past() {
    for slow in [0, 4, 8] {
        TakenIn::each(|taken| {
            let TakenIn {
                mut cluster,
                voting,
                other,
                ..
            } = taken;
            cluster.start(0);
            cluster.start(1);
            assert!(cluster.add_within(0, "both", SETTLED * 2));
            cluster.lose_device(voting);
            assert!(cluster.reaches(SETTLED * 2, |known| known.devices.is_empty()
                || !known.devices.contains(voting)));
            cluster.crash(1, true);
            cluster.crash(0, true);
            cluster.return_path(0, other);
            let usual = cluster.local_latency_max[0];
            cluster.local_latency_max[0] = usual.max(LEASE * slow);
            cluster.start(0);
            cluster.start(1);
            cluster.run_for(LEASE * 4);
            cluster.local_latency_max[0] = usual;
            cluster.run_for(LEASE * 20);
            assert!(
                cluster.add_within(0, "again", SETTLED),
                "{slow}: {}",
                cluster.verdict(0)
            );
        });
    }
}

/// The server lives, without its network, and answers strict queries for as long as it has its lease: the simulator objects to a stale one.
#[test]
fn a_copy_with_the_nodes_address_is_taken_in_after_the_lease_of_the_server() {
    let mut cluster = Cluster::serving(Shape { nodes: 3, devices: 0 });
    assert!(cluster.add(0, "first").is_ok());
    let copy = cluster.copy_server(0);
    cluster.connect_instead(copy, 0);
    cluster.start(copy);
    for round in 0..400 {
        cluster.run_for(LEASE / 200);
        let (_, update) = cluster.addition(&format!("since{round}"));
        cluster.begin(1, update);
        cluster.begin_query(0);
    }
    assert!(cluster.serves_within(copy, SETTLED), "{}", cluster.verdict(copy));
}

/// The first configuration that counts on the copy is given up for a node that has died, and the next one opens with the copy's promise: nobody
/// who decides it has waited for the server.
#[test]
fn a_copy_is_waited_for_after_a_configuration_that_did_not_open() {
    for percent in (12..80).step_by(8) {
        let mut cluster = Cluster::serving(Shape { nodes: 5, devices: 0 });
        assert!(cluster.add(0, "first").is_ok());
        let copy = cluster.copy_server(4);
        // It assumes no more that it has promised anything when it gets the network.
        cluster.start(copy);
        cluster.run_for(LEASE * 3);
        cluster.crash(3, true);
        cluster.run_for(LEASE * percent / 100);
        // Slower disks than the copy's.
        for server in [1, 2] {
            cluster.local_latency_max[server] = LEASE / 50;
        }
        cluster.local_latency_max[copy] = LEASE / 2000;
        cluster.connect_instead(copy, 4);
        for round in 0..400 {
            cluster.run_for(LEASE / 200);
            let (_, update) = cluster.addition(&format!("since{round}"));
            cluster.begin(0, update);
            cluster.begin_query(4);
        }
        assert!(
            cluster.serves_within(copy, SETTLED),
            "{percent}: {}",
            cluster.verdict(copy)
        );
    }
}

/// Node 1 decides a configuration that counts on an older copy of server 0, and on node 2, and dies before they have what it starts from. The
/// copy bears the number of a node that wrote all of it.
#[test]
fn a_copy_that_is_newly_counted_on_is_no_evidence_for_what_its_original_wrote() {
    for steps in (0..400).step_by(10) {
        let mut cluster = Cluster::serving(Shape { nodes: 3, devices: 0 });
        assert!(cluster.add(0, "first").is_ok());
        cluster.crash(2, true);
        assert!(cluster.reaches(SETTLED, |known| known.members == set(&[0, 1])));
        assert!(cluster.add_within(1, "pair", SETTLED));
        let copy = cluster.copy_server(0);
        for round in 0..5 {
            assert!(cluster.add_within(1, &format!("acked {round}"), SETTLED));
        }
        cluster.crash(0, true);
        cluster.run_for(LEASE * 3);
        cluster.connect_instead(copy, 0);
        cluster.start(copy);
        cluster.run_for(LEASE / 2);
        cluster.start(2);
        let before = cluster.configuration().epoch;
        for _ in 0..1_000_000 {
            if cluster.configuration().epoch > before {
                break;
            }
            cluster.step();
        }
        for _ in 0..steps {
            cluster.step();
        }
        cluster.crash(1, true);
        cluster.run_for(SETTLED);
        cluster.start(1);
        assert!(
            cluster.serves_within(copy, SETTLED),
            "{steps}: {}",
            cluster.verdict(copy)
        );
        let rows = cluster.rows(copy).unwrap();
        assert!(rows.contains(&"acked 4".to_owned()), "{steps}: {rows:?}");
    }
}
