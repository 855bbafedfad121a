//! The designated master (claim 18), a node that joins (Fig. 5), and nodes that leave, while clients write.

use super::load::Load;
use super::{A, B, C, D, E, FIVE, THREE, THREE_WITH_DEVICES, node, nodes};
use ccd_core::client::{Refusal, RequestBody};
use ccd_core::ids::NodeId;
use ccd_tests::sim::asks::AskEnd;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED};
use ccd_tests::sim::world::{HEARTBEAT, LEASE};
use core::time::Duration;

fn designate(cluster: &mut Cluster, server: usize, master: Option<NodeId>) {
    let end = cluster.command(server, RequestBody::Designate { node: master });
    assert!(matches!(end, AskEnd::Reply(Ok(_))), "{end:?}");
}

fn master(cluster: &Cluster) -> Option<NodeId> {
    cluster.configuration().master()
}

#[test]
fn the_master_is_handed_over_under_load_without_a_lost_or_doubled_update() {
    for shape in [THREE, FIVE, THREE_WITH_DEVICES] {
        let mut cluster = Cluster::serving(shape);
        let mut load = Load::default();
        for (asked, wanted) in [
            (A, Some(node(C))),
            (C, Some(node(B))),
            (B, Some(node(A))),
            (C, None),
        ] {
            load.run_for(&mut cluster, LEASE / 5);
            let begun = cluster.now;
            designate(&mut cluster, asked, wanted);
            let took = cluster.now.since(begun);
            assert!(took < LEASE / 2, "{took:?}");
            assert_eq!(cluster.configuration().designated, wanted);
            assert_eq!(master(&cluster), Some(wanted.unwrap_or(node(A))));
            load.run_for(&mut cluster, LEASE / 5);
        }
        cluster.settle();
        let acked = load.check(&mut cluster, B);
        assert!(acked > 100, "{acked} were acked");
    }
}

#[test]
fn without_the_designated_master_the_lowest_takes_over_until_it_is_back() {
    let mut cluster = Cluster::serving(THREE);
    designate(&mut cluster, B, Some(node(C)));
    assert_eq!(master(&cluster), Some(node(C)));
    cluster.crash(C, false);
    assert!(cluster.add_within(B, "without C", SETTLED));
    assert_eq!(master(&cluster), Some(node(A)));
    assert_eq!(cluster.configuration().designated, Some(node(C)));
    cluster.start(C);
    assert!(cluster.serves_within(C, SETTLED));
    assert_eq!(master(&cluster), Some(node(C)), "it is master again");
    assert!(cluster.add_within(A, "with C", SETTLED));
    // Also after all have stopped.
    for server in [A, B, C] {
        cluster.crash(server, false);
    }
    for server in [A, B, C] {
        cluster.start(server);
    }
    assert!(cluster.serves_within(A, SETTLED) && cluster.serves_within(C, SETTLED));
    assert_eq!(master(&cluster), Some(node(C)));
}

#[test]
fn an_override_that_goes_on_without_the_designated_master_does_not_forget_it() {
    let mut cluster = Cluster::serving(THREE);
    designate(&mut cluster, A, Some(node(C)));
    cluster.crash(B, false);
    cluster.crash(C, false);
    cluster.settle();
    let forced = cluster.command(A, RequestBody::Takeover { force: true });
    assert!(matches!(forced, AskEnd::Reply(Ok(_))), "{forced:?}");
    assert_eq!(master(&cluster), Some(node(A)));
    for server in [B, C] {
        cluster.start(server);
        assert!(
            cluster.serves_within(server, 2 * SETTLED),
            "{}",
            cluster.verdict(server)
        );
    }
    assert_eq!(master(&cluster), Some(node(C)), "it is master again");
}

#[test]
fn a_designated_master_leaves_and_joins() {
    let mut cluster = Cluster::serving(THREE);
    designate(&mut cluster, A, Some(node(B)));
    assert!(matches!(
        cluster.command(B, RequestBody::Leave),
        AskEnd::Reply(Ok(_))
    ));
    assert!(cluster.add_within(C, "without B", LEASE));
    assert_eq!(master(&cluster), Some(node(A)));
    assert!(matches!(
        cluster.command(B, RequestBody::Join),
        AskEnd::Reply(Ok(_))
    ));
    assert!(cluster.serves_within(B, SETTLED));
    assert_eq!(master(&cluster), Some(node(B)));
}

#[test]
fn a_node_that_is_not_of_the_cluster_is_no_master() {
    let mut cluster = Cluster::serving(THREE);
    let end = cluster.command(B, RequestBody::Designate { node: Some(node(7)) });
    let AskEnd::Reply(Err(Refusal::Unsafe { why })) = end else {
        panic!("{end:?}");
    };
    assert_eq!(why, "there is no node 7 in this cluster; its nodes are 0,1,2");
    assert_eq!(cluster.configuration().designated, None);
}

/// Fig. 5: nodes A to C serve, D joins with an empty copy and gets theirs.
#[test]
fn a_node_with_an_empty_copy_joins_and_gets_the_copy_of_one_that_serves() {
    let mut cluster = Cluster::serving(Shape { nodes: 4, devices: 0 });
    cluster.add(A, "first").unwrap();
    cluster.crash(D, false);
    cluster.wipe_local(D);
    let mut load = Load::default();
    load.run_for(&mut cluster, 2 * LEASE);
    cluster.copies.clear();
    cluster.start(D);
    load.run_for(&mut cluster, 2 * LEASE);
    assert!(cluster.serves_within(D, SETTLED));
    assert_eq!(cluster.configuration().members, nodes(&[A, B, C, D]));
    assert!(
        cluster.copies.iter().all(|(_, to)| *to == D),
        "{:?}",
        cluster.copies
    );
    assert_eq!(cluster.rows(D), cluster.rows(A));
    assert!(cluster.rows(D).unwrap().contains(&"first".to_owned()));
    assert!(load.check(&mut cluster, D) > 0);
}

/// Whoever is heard for the first time is greeted, so nothing in a join waits for a heartbeat that is due.
#[test]
fn a_node_that_comes_back_joins_before_its_second_heartbeat() {
    for (shape, comes, wiped) in [(FIVE, C, false), (FIVE, C, true), (Shape::PAIR, B, false)] {
        let mut cluster = Cluster::serving(shape);
        assert!(matches!(
            cluster.command(comes, RequestBody::Leave),
            AskEnd::Reply(Ok(_))
        ));
        cluster.crash(comes, false);
        if wiped {
            cluster.wipe_local(comes);
        }
        assert!(cluster.add_within(A, "without it", LEASE));
        cluster.settle();
        let begun = cluster.now;
        cluster.start(comes);
        assert!(cluster.serves_within(comes, SETTLED));
        let took = cluster.now.since(begun);
        assert!(took < HEARTBEAT, "the join took {took:?}");
    }
}

#[test]
fn a_graceful_leave_of_the_master_or_another_node_under_load_waits_for_no_lease() {
    for leaves in [A, C, E] {
        let mut cluster = Cluster::serving(FIVE);
        cluster.settle();
        let mut load = Load::default();
        load.run_for(&mut cluster, LEASE / 5);
        let begun = cluster.now;
        let end = cluster.command(leaves, RequestBody::Leave);
        assert!(matches!(end, AskEnd::Reply(Ok(_))), "{end:?}");
        let stays = if leaves == A { B } else { A };
        assert!(cluster.add_within(stays, "without it", LEASE));
        let took = cluster.now.since(begun);
        assert!(took < Duration::from_millis(100), "the hand-over took {took:?}");
        assert!(!cluster.configuration().members.contains(node(leaves)));
        assert_eq!(master(&cluster), Some(node(stays)));
        load.run_for(&mut cluster, LEASE / 5);
        assert!(matches!(
            cluster.command(leaves, RequestBody::Join),
            AskEnd::Reply(Ok(_))
        ));
        assert!(cluster.serves_within(leaves, SETTLED), "it joins again at once");
        assert!(load.check(&mut cluster, leaves) > 0);
    }
}
