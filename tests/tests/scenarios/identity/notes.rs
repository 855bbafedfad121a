//! A local copy says which state folder it is, in two blocks: what becomes of the node's vote where it cannot say so, or says so late.

use super::PAIR;
use ccd_core::client::RequestBody;
use ccd_core::protocol::ServingState;
use ccd_tests::sim::asks::AskEnd;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED, set};
use ccd_tests::sim::world::LEASE;

/// The devices hold everything, and outweigh the owner.
#[test]
fn an_owner_goes_on_by_its_devices_where_its_local_copy_cannot_say_which_folder_it_is() {
    for (is_moved, is_new) in [(false, false), (true, false), (false, true)] {
        let mut cluster = Cluster::serving(PAIR);
        assert!(cluster.add(0, "first").is_ok());
        cluster.crash(1, true);
        assert!(cluster.add_within(0, "alone", SETTLED));
        cluster.crash(0, true);
        if is_moved {
            cluster.move_server(0);
        }
        if is_new {
            cluster.wipe_local(0);
        }
        cluster.fail_local_writes(0, true);
        cluster.start(0);
        let what = format!("moved {is_moved}, new {is_new}");
        cluster.run_for(SETTLED);
        if !cluster.serves(0) {
            let end = cluster.command(0, RequestBody::Takeover { force: true });
            assert!(
                matches!(end, AskEnd::Reply(Ok(_))),
                "{what}: {end:?}, {}",
                cluster.verdict(0)
            );
        }
        assert!(
            cluster.add_within(0, "again", SETTLED),
            "{what}: {}",
            cluster.verdict(0)
        );
        let rows = cluster.rows(0).unwrap();
        assert!(rows.contains(&"alone".to_owned()), "{what}: {rows:?}");
        // Its local copy is one of the cluster's again once it can be written.
        cluster.fail_local_writes(0, false);
        cluster.start(1);
        assert!(
            cluster.reaches(SETTLED * 4, |known| known.members == set(&[0, 1])),
            "{what}: {}",
            cluster.verdict(0)
        );
        assert!(
            cluster.add_within(1, "pair", SETTLED),
            "{what}: {}",
            cluster.verdict(1)
        );
        let epoch = cluster.configuration().epoch;
        assert!(epoch.0 < 1_000_000, "{what}: epoch {epoch}");
    }
}

/// Both were started once before the first configuration, and put into other hardware; one dies at some moment after it was decided.
#[test]
fn servers_that_moved_before_the_first_configuration_vote_on_the_next_one() {
    for devices in [0, 2] {
        for victim in [0, 1] {
            for steps in (0..200).step_by(8) {
                let mut cluster = Cluster::stopped(Shape { nodes: 2, devices });
                for server in [0, 1] {
                    cluster.start(server);
                    cluster.run_for(LEASE * 2);
                    cluster.crash(server, true);
                    cluster.move_server(server);
                }
                cluster.start(0);
                cluster.start(1);
                for _ in 0..1_000_000 {
                    if !cluster.configuration().is_genesis() {
                        break;
                    }
                    cluster.step();
                }
                for _ in 0..steps {
                    cluster.step();
                }
                cluster.crash(victim, true);
                cluster.start(victim);
                cluster.run_for(SETTLED * 3);
                for server in [0, 1] {
                    assert!(
                        (cluster.status(server)).is_some_and(|status| status.state == ServingState::Serving),
                        "{server}: {devices} devices, node {victim} died after {steps} steps: {}",
                        cluster.verdict(server)
                    );
                }
            }
        }
    }
}

#[test]
fn one_damaged_block_of_the_local_copy_takes_no_vote() {
    let mut cluster = Cluster::stopped(PAIR);
    let fresh = cluster.backup();
    cluster = cluster.started();
    assert!(cluster.add(0, "first").is_ok());
    cluster.crash(1, true);
    cluster.crash(0, true);
    cluster.rot_local(0, &fresh);
    cluster.start(0);
    assert!(cluster.serves_within(0, SETTLED), "{}", cluster.verdict(0));
}

/// The disk of the state folder fails under the owner, and another local copy is put in its place; later all stops.
#[test]
fn a_local_copy_that_was_replaced_while_its_node_served_says_which_folder_it_is() {
    let mut cluster = Cluster::serving(PAIR);
    assert!(cluster.add(0, "first").is_ok());
    cluster.crash(1, true);
    assert!(cluster.add_within(0, "alone", SETTLED));
    cluster.fail_local_writes(0, true);
    cluster.start(1);
    cluster.run_for(LEASE * 6);
    cluster.overwrite_local(0, &Cluster::stopped(PAIR).backup());
    cluster.fail_local_writes(0, false);
    assert!(cluster.reaches(SETTLED * 4, |known| known.members == set(&[0, 1])));
    assert!(cluster.add_within(0, "pair", SETTLED));
    cluster.run_for(LEASE * 10);
    cluster.crash(1, true);
    cluster.crash(0, true);
    cluster.start(0);
    assert!(cluster.serves_within(0, SETTLED * 2), "{}", cluster.verdict(0));
}
