//! Some nodes of a group were put back to an earlier state, and go on from it: what the others hold is another side, which nobody throws away
//! without saying so.

use ccd_core::client::RequestBody;
use ccd_core::ids::{Epoch, NodeId};
use ccd_core::protocol::DecisionKind;
use ccd_tests::sim::asks::is_done;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED, set};
use ccd_tests::sim::world::LEASE;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const GROUP: Shape = Shape { nodes: 3, devices: 0 };

fn add_all(cluster: &mut Cluster, server: usize, what: &str, count: usize) {
    for number in 0..count {
        assert!(
            cluster.add_within(server, &format!("{what}{number}"), SETTLED),
            "{}",
            cluster.verdict(server)
        );
    }
}

fn says(cluster: &Cluster, server: usize, kind: DecisionKind, words: &str) -> bool {
    let decisions = cluster.decisions(server, kind);
    decisions.iter().any(|decision| decision.text.contains(words))
}

/// What node B and its watchers were told was acknowledged; the two others, one of them put back, go on without it.
#[test]
fn what_a_member_told_of_and_two_others_have_lost_is_kept_and_named() {
    for (lost, since) in (1..4).flat_map(|lost| (1..6).map(move |since| (lost, since))) {
        let mut cluster = Cluster::serving(GROUP);
        cluster.add(A, "first").unwrap();
        let backup = cluster.backup();
        assert!(is_done(&cluster.command(C, RequestBody::Leave)));
        assert!(cluster.reaches(SETTLED, |known| known.members == set(&[A, B])));
        cluster.crash(C, false);
        add_all(&mut cluster, A, "lost", lost);
        cluster.run_for(LEASE);
        cluster.crash(A, false);
        cluster.crash(B, false);
        cluster.set_back_local(A, &backup, true);
        cluster.promise_nothing(Epoch(1));
        cluster.start(A);
        cluster.start(C);
        add_all(&mut cluster, A, "since", since);
        cluster.start(B);
        assert!(cluster.serves_within(B, SETTLED), "{}", cluster.verdict(B));
        assert!(
            says(
                &cluster,
                B,
                DecisionKind::UpdatesLost,
                "not in the database any more"
            ),
            "{lost} lost, {since} since"
        );
        assert!(!cluster.branches(B).is_empty(), "{lost} lost, {since} since");
    }
}

/// A and C were put back, and have decided again what all three had decided before: B alone holds the first side. In both something was
/// acknowledged.
fn two_sides(first: usize, second: usize) -> Cluster {
    let mut cluster = Cluster::serving(GROUP);
    cluster.add(A, "first").unwrap();
    let backup = cluster.backup();
    let node = NodeId::new(0);
    assert!(is_done(&cluster.command(A, RequestBody::Designate { node })));
    assert!(cluster.reaches(SETTLED, |known| known.epoch == Epoch(2)));
    add_all(&mut cluster, A, "one", first);
    cluster.run_for(LEASE);
    for server in [A, B, C] {
        cluster.crash(server, false);
    }
    cluster.set_back_local(A, &backup, true);
    cluster.set_back_local(C, &backup, true);
    cluster.promise_nothing(Epoch(1));
    cluster.start(A);
    cluster.start(C);
    add_all(&mut cluster, A, "two", second);
    cluster.start(B);
    cluster.run_for(LEASE * 4);
    assert!(says(&cluster, B, DecisionKind::Alarm, "was decided twice"));
    cluster
}

fn has(rows: &[String], what: &str) -> bool {
    rows.iter().any(|row| row.starts_with(what))
}

#[test]
fn no_side_takes_the_copy_of_the_other_before_an_operator_has_chosen() {
    for (first, second) in [(1, 3), (2, 2), (8, 3), (3, 8)] {
        let mut cluster = two_sides(first, second);
        cluster.run_for(LEASE * 10);
        let rows = cluster.stale_rows(B).unwrap();
        assert!(
            has(&rows, "one") && !has(&rows, "two"),
            "{first}, {second}: {rows:?}"
        );
        // The side that has the votes serves, and goes on: another configuration changes nothing.
        add_all(&mut cluster, A, "two-more", 1);
        cluster.crash(C, false);
        cluster.start(C);
        assert!(cluster.serves_within(C, SETTLED), "{}", cluster.verdict(C));
        cluster.run_for(LEASE * 10);
        let rows = cluster.stale_rows(B).unwrap();
        assert!(
            has(&rows, "one") && !has(&rows, "two"),
            "{first}, {second}: {rows:?}"
        );
        assert!(!cluster.serves(B));
    }
}

#[test]
fn the_side_that_has_the_votes_goes_on_after_a_restart() {
    let mut cluster = two_sides(2, 3);
    cluster.crash(A, false);
    cluster.crash(C, false);
    cluster.start(A);
    cluster.start(C);
    for server in [A, C] {
        assert!(
            cluster.serves_within(server, SETTLED),
            "n{server}: {}",
            cluster.verdict(server)
        );
        assert!(has(&cluster.rows(server).unwrap(), "two"));
    }
    cluster.run_for(LEASE * 10);
    assert!(!cluster.serves(B));
    let rows = cluster.stale_rows(B).unwrap();
    assert!(has(&rows, "one") && !has(&rows, "two"), "{rows:?}");
    let verdict = cluster.verdict(B);
    assert!(verdict.contains("was decided twice"), "{verdict}");
}

/// Whichever of them holds more.
#[test]
fn the_side_that_an_operator_has_not_chosen_is_kept_and_named() {
    for (first, second) in [(1, 3), (2, 2), (8, 3), (3, 8)] {
        let mut cluster = two_sides(first, second);
        let end = cluster.command(B, RequestBody::Takeover { force: true });
        assert!(is_done(&end), "{first}, {second}: {end:?}");
        for server in [A, B, C] {
            assert!(
                cluster.serves_within(server, SETTLED),
                "n{server}: {}",
                cluster.verdict(server)
            );
            let rows = cluster.rows(server).unwrap();
            assert!(
                has(&rows, "one") && !has(&rows, "two"),
                "{first}, {second}: {rows:?}"
            );
        }
        for server in [A, C] {
            assert!(
                says(
                    &cluster,
                    server,
                    DecisionKind::UpdatesLost,
                    "not in the database any more"
                ),
                "{first}, {second}: n{server}"
            );
            assert!(
                !cluster.branches(server).is_empty(),
                "{first}, {second}: n{server}"
            );
        }
    }
}

#[test]
fn a_new_copy_is_of_no_side() {
    let mut cluster = two_sides(8, 3);
    cluster.crash(B, false);
    cluster.wipe_local(B);
    cluster.start(B);
    assert!(cluster.serves_within(B, SETTLED), "{}", cluster.verdict(B));
    assert!(has(&cluster.rows(B).unwrap(), "two"));
}

/// Half of the nodes are here, and one of them was put back within the configuration that all know.
#[test]
fn half_of_the_nodes_answer_nothing_from_a_copy_that_is_older_than_the_other() {
    let mut cluster = Cluster::serving(Shape { nodes: 4, devices: 0 });
    add_all(&mut cluster, A, "old", 2);
    cluster.run_for(LEASE);
    let backup = cluster.backup();
    add_all(&mut cluster, A, "new", 3);
    cluster.run_for(LEASE);
    for server in 0..4 {
        cluster.crash(server, false);
    }
    cluster.set_back_local(C, &backup, true);
    cluster.start(A);
    cluster.start(C);
    for _ in 0..40 {
        cluster.run_for(LEASE / 4);
        if let Some(rows) = cluster.rows(C) {
            assert!(has(&rows, "new"), "{rows:?}");
        }
    }
}
