//! Whom a copy comes from (Fig. 4, step 416), and updates that are passed on from node to node.

use super::{A, B, C, D, E, FIVE};
use ccd_core::init::Propagation;
use ccd_core::protocol::DecisionKind;
use ccd_tests::sim::asks::AskEnd;
use ccd_tests::sim::media::Room;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED};
use ccd_tests::sim::world::{HEARTBEAT, LEASE};
use core::time::Duration;

/// Five members, all stopped; the last two have lost their copies.
fn behind(propagation: Propagation) -> Cluster {
    let mut cluster = Cluster::serving_by(FIVE, propagation, Propagation::Broadcast);
    for count in 0..5 {
        let value = format!("row {count} {}", "x".repeat(800));
        assert!(cluster.add_within(A, &value, SETTLED));
    }
    for server in 0..5 {
        cluster.crash(server, false);
    }
    cluster.wipe_local(D);
    cluster.wipe_local(E);
    cluster.copies.clear();
    cluster
}

/// All start; A, which leads, when the others are all there.
fn start(cluster: &mut Cluster) {
    for server in [B, C, D, E] {
        cluster.start(server);
    }
    cluster.run_for(2 * HEARTBEAT);
    cluster.start(A);
}

fn restarts(cluster: &mut Cluster, limit: Duration) {
    let begun = cluster.now;
    start(cluster);
    for server in 0..5 {
        assert!(cluster.serves_within(server, SETTLED), "n{server}");
        assert_eq!(cluster.rows(server).unwrap().len(), 5);
    }
    let took = cluster.now.since(begun);
    assert!(took < limit, "{took:?}");
}

#[test]
fn copies_go_from_each_member_to_the_next_higher_numbered_one() {
    let mut cluster = behind(Propagation::Forward);
    restarts(&mut cluster, 4 * LEASE);
    assert!(
        cluster.copies.contains(&(C, D)) && cluster.copies.contains(&(D, E)),
        "{:?}",
        cluster.copies
    );
    assert!(
        !cluster.copies.iter().any(|(from, _)| *from == A),
        "{:?}",
        cluster.copies
    );
}

#[test]
fn copies_go_from_the_coordinator_to_all_if_the_option_says_so() {
    let mut cluster = behind(Propagation::Broadcast);
    restarts(&mut cluster, 4 * LEASE);
    assert!(
        cluster.copies.contains(&(A, D)) && cluster.copies.contains(&(A, E)),
        "{:?}",
        cluster.copies
    );
    assert!(
        cluster.copies.iter().all(|(from, _)| *from == A),
        "{:?}",
        cluster.copies
    );
}

#[test]
fn a_copy_that_does_not_come_is_got_from_the_coordinator() {
    let mut cluster = behind(Propagation::Forward);
    cluster.network.lose_long(C, D, Some(600));
    restarts(&mut cluster, 6 * LEASE);
    assert!(cluster.copies.contains(&(A, D)), "{:?}", cluster.copies);
}

#[test]
fn a_source_that_dies_does_not_keep_the_others_from_their_copy() {
    let mut cluster = behind(Propagation::Forward);
    // It dies with the first thing it gives to D.
    start(&mut cluster);
    cluster.run_until(SETTLED, |world| world.copies.contains(&(C, D)));
    cluster.crash(C, false);
    for server in [A, B, D, E] {
        assert!(cluster.serves_within(server, SETTLED), "n{server}");
        assert_eq!(cluster.rows(server).unwrap().len(), 5);
    }
}

#[test]
fn a_tail_that_the_journal_has_no_room_for_ends_in_an_image_and_is_no_damage() {
    let mut cluster = Cluster::serving_by(FIVE, Propagation::Forward, Propagation::Broadcast);
    cluster.crash(E, false);
    let before = cluster.rows(A).unwrap().len();
    // More records than the 16 blocks of a journal; the others still hold all of them.
    for count in 0..40 {
        assert!(cluster.add_within(A, &format!("row {count}"), SETTLED));
    }
    let begun = cluster.now;
    cluster.start(E);
    assert!(cluster.serves_within(E, SETTLED));
    assert_eq!(cluster.rows(E).unwrap().len(), before + 40);
    let damage = cluster.decisions(E, DecisionKind::Damage);
    assert!(damage.is_empty(), "{damage:?}");
    let took = cluster.now.since(begun);
    assert!(took < 3 * LEASE, "nothing was opened again: {took:?}");
    // And its copy is what it says.
    cluster.crash(E, false);
    cluster.start(E);
    assert!(cluster.serves_within(E, SETTLED));
    assert_eq!(cluster.rows(E).unwrap().len(), before + 40);
    assert!(cluster.decisions(E, DecisionKind::Damage).is_empty());
}

/// The journal is smaller than the images; and the node has a round in doubt, after which nothing fits into one message.
#[test]
fn an_update_that_fits_no_message_with_a_round_in_doubt_reaches_a_node_that_was_away() {
    let room = Room {
        content_bytes: 6 << 20,
        image_bytes: 8 << 20,
        ..Room::TINY
    };
    for rows in [20, 80, 300, 1_100, 1_500, 2_500] {
        let mut cluster = Cluster::serving_with_room(Shape { nodes: 2, devices: 2 }, room);
        assert!(cluster.add_within(A, "first", SETTLED));
        cluster.crash(B, false);
        let end = cluster.add_many(A, rows);
        assert!(matches!(end, AskEnd::Reply(Ok(_))), "{rows} rows: {end:?}");
        cluster.start(B);
        assert!(
            cluster.serves_within(B, SETTLED),
            "{rows} rows: {}",
            cluster.verdict(B)
        );
        assert_eq!(cluster.rows(B).unwrap().len(), rows + 1);
    }
}

#[test]
fn an_update_is_passed_on_from_node_to_node_and_a_gap_costs_a_heartbeat() {
    let mut cluster = Cluster::serving_by(FIVE, Propagation::Forward, Propagation::Forward);
    let begun = cluster.now;
    cluster.add(A, "passed on").unwrap();
    let took = cluster.now.since(begun);
    assert!(took < HEARTBEAT / 2, "nobody waited for a repetition: {took:?}");
    for server in 0..5 {
        assert_eq!(cluster.rows(server).unwrap(), ["passed on"]);
    }
    // B gets nothing through to C: C, D and E hear of it from the master.
    cluster.network.lose_long(B, C, Some(600));
    let begun = cluster.now;
    cluster.add(A, &"x".repeat(800)).unwrap();
    let took = cluster.now.since(begun);
    assert!(took < 2 * HEARTBEAT, "{took:?}");
}

#[test]
fn a_dead_node_in_the_chain_loses_nothing() {
    let mut cluster = Cluster::serving_by(FIVE, Propagation::Forward, Propagation::Forward);
    cluster.crash(B, false);
    let begun = cluster.now;
    cluster.add(A, "without B").unwrap();
    let took = cluster.now.since(begun);
    assert!(took < 3 * LEASE / 2, "a lease and a reconfiguration: {took:?}");
    for server in [C, D, E] {
        assert_eq!(cluster.rows(server).unwrap(), ["without B"]);
    }
}
