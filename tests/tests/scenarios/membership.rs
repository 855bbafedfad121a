//! Nodes added to and removed from a running cluster: one set of nodes decides, whatever dies or is cut off on the way.

use ccd_core::client::{Refusal, RequestBody};
use ccd_core::ids::{NodeId, ServerId};
use ccd_core::init::NodeEdit;
use ccd_core::protocol::DecisionKind;
use ccd_tests::sim::asks::{AskEnd, addition, is_done, refused, removal};
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED, TIMEOUT, set};
use ccd_tests::sim::world::LEASE;
use core::time::Duration;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const D: usize = 3;
const THREE: Shape = Shape { nodes: 3, devices: 0 };

fn three_and_a_spare() -> Cluster {
    let mut cluster = Cluster::serving_with_spares(THREE, 1);
    cluster.add(A, "first").unwrap();
    cluster
}

/// These and no others are the nodes, all serve, and one that writes is read by all.
#[track_caller]
fn consists_of(cluster: &mut Cluster, nodes: &[usize]) {
    let all = set(nodes);
    assert!(
        cluster.reaches(SETTLED, |known| known.nodes == all && known.members == all),
        "{:?}",
        cluster.configuration()
    );
    for node in nodes {
        assert!(
            cluster.serves_within(*node, SETTLED),
            "n{node}: {}",
            cluster.verdict(*node)
        );
    }
    assert!(cluster.add_within(nodes[0], "all", SETTLED));
    cluster.run_for(LEASE);
    for node in nodes {
        assert!(cluster.rows(*node).unwrap().contains(&"all".to_owned()));
        let file = cluster.servers[*node].inits.file.nodes;
        assert_eq!(file, all, "the file of n{node}");
        assert!(
            cluster.servers[*node].inits.staged.is_none(),
            "nothing is left over on n{node}"
        );
    }
}

#[test]
fn a_node_is_added_to_a_running_cluster_and_joins_by_itself() {
    let mut cluster = three_and_a_spare();
    assert!(is_done(&cluster.command(B, addition(D))));
    assert_eq!(cluster.configuration().nodes, set(&[A, B, C, D]));
    cluster.add(C, "before it is there").unwrap();
    cluster.copy_init(A, D);
    cluster.start(D);
    consists_of(&mut cluster, &[A, B, C, D]);
    assert!(
        cluster
            .rows(D)
            .unwrap()
            .contains(&"before it is there".to_owned())
    );
    assert!(!cluster.decisions(A, DecisionKind::Nodes).is_empty());
}

#[test]
fn a_node_that_is_removed_stops_and_says_why_and_the_rest_goes_on() {
    for asked in [A, B] {
        let mut cluster = three_and_a_spare();
        // The master itself, asked through itself or through another.
        assert!(is_done(&cluster.command(asked, removal(A))));
        consists_of(&mut cluster, &[B, C]);
        assert!(cluster.rows(A).is_none(), "it answers no strict query");
        assert!(
            cluster.verdict(A).contains("was removed"),
            "{}",
            cluster.verdict(A)
        );
        refused(
            &cluster.command(A, RequestBody::Takeover { force: true }),
            "was removed",
        );
        // It lacks more than a majority, and clients hear that as well, however long ago it was.
        cluster.settle();
        let (_, update) = cluster.addition("on a removed node");
        for body in [RequestBody::Keys { stale: false }, update] {
            refused(&cluster.command(A, body), "was removed");
        }
        // Also after a restart, and nobody else minds.
        cluster.crash(A, true);
        cluster.start(A);
        cluster.settle();
        assert!(
            cluster.verdict(A).contains("was removed"),
            "{}",
            cluster.verdict(A)
        );
        assert_eq!(cluster.configuration().nodes, set(&[B, C]));
        cluster.add(C, "without it").unwrap();
    }
}

#[test]
fn a_node_that_was_removed_can_be_added_again() {
    let mut cluster = three_and_a_spare();
    assert!(is_done(&cluster.command(B, removal(A))));
    cluster.add(B, "meanwhile").unwrap();
    assert!(is_done(&cluster.command(B, addition(A))));
    cluster.crash(A, false);
    cluster.copy_init(B, A);
    cluster.start(A);
    consists_of(&mut cluster, &[A, B, C]);
    assert!(cluster.rows(A).unwrap().contains(&"meanwhile".to_owned()));
}

#[test]
fn a_dead_node_is_removed_by_the_majority_and_one_more_may_then_die() {
    let mut cluster = Cluster::serving(Shape { nodes: 4, devices: 0 });
    cluster.crash(D, false);
    assert!(cluster.reaches(SETTLED, |known| known.members == set(&[A, B, C])));
    assert!(cluster.serves_within(A, SETTLED));
    // Two of four are no majority, two of three are.
    assert!(is_done(&cluster.command(A, removal(D))));
    cluster.crash(C, false);
    assert!(cluster.add_within(A, "two of three", SETTLED));
}

#[test]
fn votes_are_those_of_the_configuration_and_not_of_the_file() {
    let mut cluster = Cluster::serving(THREE);
    cluster.add(A, "first").unwrap();
    // Somebody edits the files of two nodes by hand, so that each would be a cluster of its own.
    for node in [A, B, C] {
        cluster.crash(node, false);
    }
    for (node, alone) in [(A, B), (B, A)] {
        let one = cluster.servers[node].inits.file.clone();
        let edit = |other: usize| NodeEdit::Remove {
            node: format!("node{other}"),
        };
        cluster.servers[node].inits.file = one
            .edited(&edit(alone), ServerId::default())
            .unwrap()
            .edited(&edit(C), ServerId::default())
            .unwrap();
        cluster.start(node);
    }
    cluster.settle();
    for node in [A, B] {
        assert!(cluster.rows(node).is_none(), "one of three decides nothing");
    }
}

#[test]
fn a_change_needs_every_node_that_stays() {
    let mut cluster = three_and_a_spare();
    cluster.crash(C, false);
    assert!(cluster.reaches(SETTLED, |known| known.members == set(&[A, B])));
    assert!(cluster.serves_within(A, SETTLED));
    refused(&cluster.command(A, addition(D)), "node 2 is not");
    refused(&cluster.command(A, removal(B)), "node 2 is not");
    assert_eq!(cluster.configuration().nodes, set(&[A, B, C]));
    assert!(cluster.servers[A].inits.staged.is_none());
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_stored() {
    let mut cluster = three_and_a_spare();
    refused(&cluster.command(A, addition(B)), "twice");
    refused(&cluster.command(A, removal(D)), "no such node");
    let empty = NodeEdit::Add {
        number: None,
        name: "x".into(),
        addresses: Vec::new(),
    };
    refused(
        &cluster.command(B, RequestBody::ChangeNodes(empty)),
        "no ADDRESS row",
    );
    for node in [A, B, C] {
        assert!(cluster.servers[node].inits.staged.is_none());
    }
    let mut alone = Cluster::serving_with_spares(Shape { nodes: 1, devices: 0 }, 1);
    refused(&alone.command(A, addition(B)), "no majority of the 2 nodes");
    refused(&alone.command(A, removal(A)), "there is none");
}

#[test]
fn the_region_must_have_an_area_for_a_node_that_is_added() {
    let mut cluster = Cluster::serving(Shape::PAIR);
    refused(&cluster.command(A, addition(C)), "no area for node 2");
    refused(&cluster.command(A, addition(C)), "ccd-disk mkfs");
}

#[test]
fn the_dead_node_of_a_pair_with_devices_is_removed_and_added_again() {
    let mut cluster = Cluster::serving(Shape::PAIR);
    cluster.crash(B, true);
    assert!(cluster.add_within(A, "solo", 2 * SETTLED));
    assert!(is_done(&cluster.command(A, removal(B))));
    assert_eq!(cluster.configuration().nodes, set(&[A]));
    cluster.add(A, "one node, two devices").unwrap();
    // It comes back with its old file: it finds the configuration on the devices.
    cluster.start(B);
    cluster.settle();
    assert!(
        cluster.verdict(B).contains("was removed"),
        "{}",
        cluster.verdict(B)
    );
    cluster.add(A, "undisturbed").unwrap();
    assert!(is_done(&cluster.command(A, addition(B))));
    cluster.crash(B, false);
    cluster.copy_init(A, B);
    cluster.start(B);
    consists_of(&mut cluster, &[A, B]);
}

#[test]
fn a_third_node_is_added_beside_shared_devices_that_have_an_area_for_it() {
    let mut cluster = Cluster::serving_with_spares(Shape::PAIR, 1);
    assert!(is_done(&cluster.command(A, addition(C))));
    cluster.copy_init(A, C);
    cluster.start(C);
    consists_of(&mut cluster, &[A, B, C]);
    cluster.crash(A, true);
    assert!(cluster.add_within(B, "without the master", 2 * SETTLED));
    assert!(
        cluster
            .rows(C)
            .unwrap()
            .contains(&"without the master".to_owned())
    );
}

/// Something happens to one node at every moment of a change: it is made whole or not at all, and never are there two.
fn whatever_happens(change: fn() -> RequestBody, asked: usize, mut happens: impl FnMut(&mut Cluster, usize)) {
    let (mut made, mut not_made) = (0, 0);
    for victim in [A, B, C] {
        for at_micros in (0..6_000).step_by(150).chain((6_000..160_000).step_by(10_000)) {
            let mut cluster = three_and_a_spare();
            cluster.begin(asked, change());
            cluster.run_for(Duration::from_micros(at_micros));
            happens(&mut cluster, victim);
            cluster.settle();
            // The new node, if there is one, only has what was copied when the change was made.
            let nodes = cluster.configuration().nodes;
            if nodes == set(&[A, B, C]) {
                not_made += 1;
            } else {
                made += 1;
            }
            let inside = (0..=C).filter(|node| nodes.contains(NodeId::new(*node as u8).unwrap()));
            let inside: Vec<usize> = inside.collect();
            for node in &inside {
                assert!(
                    cluster.serves_within(*node, SETTLED),
                    "n{node} after {at_micros} µs with n{victim}: {}",
                    cluster.verdict(*node)
                );
                let file = cluster.servers[*node].inits.file.nodes;
                assert_eq!(
                    file, nodes,
                    "the file of n{node} after {at_micros} µs with n{victim}"
                );
            }
            assert!(cluster.add_within(inside[0], "afterwards", SETTLED));
            assert!(cluster.rows(inside[0]).unwrap().contains(&"first".to_owned()));
        }
    }
    assert!(made > 0 && not_made > 0, "{made} were made, {not_made} not");
}

#[test]
fn a_node_that_dies_at_any_moment_of_an_addition_leaves_one_set_of_nodes() {
    whatever_happens(
        || addition(D),
        A,
        |cluster, victim| {
            cluster.crash(victim, true);
            cluster.run_for(LEASE / 2);
            cluster.start(victim);
        },
    );
}

#[test]
fn a_node_that_dies_at_any_moment_of_a_removal_leaves_one_set_of_nodes() {
    whatever_happens(
        || removal(A),
        A,
        |cluster, victim| {
            cluster.crash(victim, true);
            cluster.run_for(2 * LEASE);
            cluster.start(victim);
        },
    );
}

#[test]
fn a_node_that_is_cut_off_at_any_moment_of_an_addition_leaves_one_set_of_nodes() {
    whatever_happens(
        || addition(D),
        B,
        |cluster, victim| {
            cluster.isolate(victim);
            cluster.run_for(2 * LEASE);
            cluster.rejoin(victim);
        },
    );
}

#[test]
fn a_node_that_is_cut_off_at_any_moment_of_a_removal_leaves_one_set_of_nodes() {
    whatever_happens(
        || removal(C),
        A,
        |cluster, victim| {
            cluster.isolate(victim);
            cluster.run_for(2 * LEASE);
            cluster.rejoin(victim);
        },
    );
}

#[test]
fn a_removed_node_that_did_not_hear_of_it_serves_nothing_stale() {
    for at_micros in (0..6_000).step_by(100) {
        let mut cluster = three_and_a_spare();
        let asked = cluster.begin(A, removal(C));
        cluster.run_for(Duration::from_micros(at_micros));
        cluster.isolate(C);
        let end = cluster.await_end(asked);
        let removed = cluster.configuration().nodes == set(&[A, B]);
        let value = format!("after {at_micros}");
        if cluster.add_within(A, &value, LEASE / 4)
            && let Some(rows) = cluster.rows(C)
        {
            assert!(rows.contains(&value), "a stale answer");
        }
        assert!(removed || !is_done(&end), "{end:?}");
    }
}

#[test]
fn two_operators_at_once_make_one_change_after_the_other_or_are_told() {
    let mut cluster = Cluster::serving_with_spares(THREE, 2);
    let (first, second) = (cluster.begin(A, addition(D)), cluster.begin(B, removal(C)));
    let (first, second) = (cluster.await_end(first), cluster.await_end(second));
    assert!(is_done(&first) || is_done(&second), "{first:?} {second:?}");
    let nodes = cluster.configuration().nodes;
    let expected = match (is_done(&first), is_done(&second)) {
        (true, true) => set(&[A, B, D]),
        (true, false) => set(&[A, B, C, D]),
        _ => set(&[A, B]),
    };
    assert_eq!(nodes, expected);
    assert!(cluster.add_within(A, "on it goes", TIMEOUT));
}

/// Each operator removes the other one's node, so each change has a node of its own that sees to it.
#[test]
fn of_two_that_remove_each_other_at_once_one_is_left_with_its_own_init_database() {
    for devices in [1, 2] {
        for first in [A, B] {
            for micros in (0..4_000).step_by(40) {
                let mut cluster = Cluster::serving(Shape { nodes: 2, devices });
                let second = 1 - first;
                let asked = cluster.begin(first, removal(second));
                cluster.run_for(Duration::from_micros(micros));
                let other = cluster.begin(second, removal(first));
                let ends = [cluster.await_end(asked), cluster.await_end(other)];
                cluster.run_for(LEASE * 4);
                let known = cluster.configuration().clone();
                let what = format!("{devices} devices, n{first} first by {micros} us: {ends:?}, {known}");
                let Some(left) = [A, B].into_iter().find(|node| known.nodes == set(&[*node])) else {
                    // Neither was made; a text that was stored for it may be left over.
                    assert_eq!(known.nodes, set(&[A, B]), "{what}");
                    assert!(
                        cluster.serves_within(A, SETTLED) && cluster.serves_within(B, SETTLED),
                        "{what}"
                    );
                    continue;
                };
                assert!(cluster.serves(left), "{what}");
                let inits = &cluster.servers[left].inits;
                assert_eq!(
                    inits.file.nodes,
                    set(&[left]),
                    "{what}: the file of the one that is left"
                );
                assert!(inits.staged.is_none(), "{what}");
            }
        }
    }
}

#[test]
fn a_cluster_grows_from_three_to_seven_and_shrinks_to_one_under_updates() {
    let mut cluster = Cluster::serving_with_spares(THREE, 4);
    for server in 3..7 {
        assert!(
            is_done(&cluster.command(server % 3, addition(server))),
            "n{server}"
        );
        cluster.add(B, &format!("with {server}")).unwrap();
        cluster.copy_init(A, server);
        cluster.start(server);
        assert!(
            cluster.serves_within(server, SETTLED),
            "n{server}: {}",
            cluster.verdict(server)
        );
        let all: Vec<usize> = (0..=server).collect();
        assert!(cluster.reaches(SETTLED, |known| known.members == set(&all)));
        cluster.run_for(LEASE);
    }
    for server in 0..6 {
        assert!(is_done(&cluster.command(6, removal(server))), "n{server}");
        assert!(cluster.add_within(6, &format!("without {server}"), SETTLED));
    }
    assert_eq!(cluster.configuration().nodes, set(&[6]));
    assert_eq!(cluster.rows(6).unwrap().len(), 10);
    match cluster.command(6, removal(6)) {
        AskEnd::Reply(Err(Refusal::Unsafe { .. })) => {}
        other => panic!("the last node is no longer a cluster without it: {other:?}"),
    }
}
