//! Clocks that jump, and machines that sleep: nothing old is served, and dates decide nothing.

use ccd_core::configuration::Configuration;
use ccd_tests::sim::asks::AskEnd;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED};
use ccd_tests::sim::world::LEASE;
use core::time::Duration;

const A: usize = 0;
const B: usize = 1;
const THREE: Shape = Shape { nodes: 3, devices: 0 };
const YEAR_MS: i64 = 365 * 24 * 3_600_000;

#[test]
fn a_date_that_jumps_by_years_changes_nothing_but_what_is_shown() {
    for shape in [Shape::PAIR, THREE] {
        let mut cluster = Cluster::serving(shape);
        let epoch = cluster.configuration().epoch;
        let mut last = None;
        for (count, years) in [0, 30, -20, 5, -50, 1000].into_iter().enumerate() {
            for node in 0..shape.nodes {
                // Never the same on two nodes.
                cluster.servers[node].date_error_ms = YEAR_MS * years * (1 - 2 * (node as i64 % 2));
            }
            let at = cluster.add(count % shape.nodes, &format!("v{count}")).unwrap();
            assert!(Some(at.stamp) > last, "stamps go on");
            last = Some(at.stamp);
            cluster.run_for(2 * LEASE);
            for node in 0..shape.nodes {
                assert!(
                    cluster.serves(node),
                    "n{node} with {years} years: {}",
                    cluster.verdict(node)
                );
            }
        }
        assert_eq!(cluster.configuration().epoch, epoch, "no lease was lost");
        // Whoever has the latest date does not have the newest copy.
        cluster.crash(B, true);
        assert!(cluster.add_within(A, "newest", 2 * SETTLED));
        cluster.servers[B].date_error_ms = 100 * YEAR_MS;
        cluster.start(B);
        assert!(cluster.serves_within(B, SETTLED));
        assert!(cluster.rows(B).unwrap().contains(&"newest".to_owned()));
    }
}

/// A node sleeps for so long, the others go on and write, and it wakes up hearing nobody.
fn sleeps_through_a_takeover(shape: Shape, sleeper: usize, clock_went_on: bool) -> (Cluster, Configuration) {
    let mut cluster = Cluster::serving(shape);
    cluster.add(A, "before").unwrap();
    cluster.fall_asleep(sleeper);
    let other = (sleeper + 1) % shape.nodes;
    assert!(cluster.add_within(other, "while it slept", 2 * SETTLED));
    let decided = cluster.configuration().clone();
    cluster.isolate(sleeper);
    cluster.wake_up(sleeper, clock_went_on);
    (cluster, decided)
}

#[test]
fn a_machine_that_wakes_up_finds_its_lease_expired_and_serves_nothing_old() {
    for shape in [Shape::PAIR, THREE] {
        for sleeper in [A, B] {
            let (mut cluster, decided) = sleeps_through_a_takeover(shape, sleeper, true);
            let rows = cluster.rows(sleeper);
            assert!(rows.is_none_or(|rows| rows.contains(&"while it slept".to_owned())));
            assert!(cluster.add(sleeper, "alone").is_err());
            assert!(cluster.configuration().epoch >= decided.epoch);
            cluster.rejoin(sleeper);
            assert!(
                cluster.serves_within(sleeper, SETTLED),
                "{}",
                cluster.verdict(sleeper)
            );
        }
    }
}

#[test]
fn a_short_sleep_costs_nothing() {
    let mut cluster = Cluster::serving(THREE);
    cluster.fall_asleep(B);
    cluster.run_for(LEASE / 4);
    cluster.wake_up(B, true);
    cluster.add(B, "awake").unwrap();
    let members = cluster.configuration().members;
    assert_eq!(members.count(), 3);
}

#[test]
fn a_machine_whose_clock_stood_still_acks_nothing_either() {
    for shape in [Shape::PAIR, THREE] {
        for sleeper in [A, B] {
            let (mut cluster, _) = sleeps_through_a_takeover(shape, sleeper, false);
            let (request, body) = cluster.addition("too late");
            let asked = cluster.begin(sleeper, body);
            let end = cluster.await_end(asked);
            assert!(!matches!(end, AskEnd::Reply(Ok(_))), "{end:?}");
            cluster.rejoin(sleeper);
            assert!(
                cluster.serves_within(sleeper, SETTLED),
                "{}",
                cluster.verdict(sleeper)
            );
            let there = cluster.rows(sleeper).unwrap().contains(&"too late".to_owned());
            assert_eq!(cluster.outcome(sleeper, request), Some(there));
        }
    }
}

#[test]
fn a_lease_that_counts_on_a_clock_that_stands_still_is_caught_by_the_invariants() {
    // Why the daemon's clock goes on while its machine sleeps: with this one an old answer would come.
    let (mut cluster, _) = sleeps_through_a_takeover(THREE, A, false);
    assert!(
        cluster
            .rows(A)
            .is_none_or(|rows| !rows.contains(&"while it slept".to_owned()))
    );
    cluster.run_for(Duration::from_millis(1));
    let unsound = cluster.unsound.take().expect("an old answer was given");
    assert_eq!(unsound.invariant, "invariant_no_strict_query_stale");
}
