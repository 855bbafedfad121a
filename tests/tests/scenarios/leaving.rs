//! A node that leaves by request: it hands over, stops, or stays because the others could not go on.

use ccd_core::client::{Refusal, RequestBody};
use ccd_core::ids::DeviceRole;
use ccd_core::protocol::ServingState;
use ccd_tests::sim::asks::{AskEnd, is_done};
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED, set};
use ccd_tests::sim::world::LEASE;
use core::time::Duration;

const A: usize = 0;
const B: usize = 1;

/// A pair that serves and holds one row.
fn pair() -> Cluster {
    let mut cluster = Cluster::serving(Shape::PAIR);
    cluster.add(A, "first").unwrap();
    cluster
}

#[test]
fn a_graceful_leave_hands_over_at_once() {
    for (leaves, stays) in [(A, B), (B, A)] {
        let mut cluster = pair();
        let left_at = cluster.now;
        let end = cluster.command(leaves, RequestBody::Leave);
        assert!(matches!(end, AskEnd::Reply(Ok(_))), "{end:?}");
        assert!(cluster.add_within(stays, "second", LEASE), "n{stays} goes on");
        let took = cluster.now.since(left_at);
        assert!(took < LEASE / 10, "the hand-over took {took:?}");
        assert_eq!(cluster.rows(leaves), None, "who left serves nothing");
        let end = cluster.command(leaves, RequestBody::Join);
        assert!(matches!(end, AskEnd::Reply(Ok(_))), "{end:?}");
        assert!(cluster.serves_within(leaves, SETTLED), "it joins again");
    }
}

/// It takes a majority of the nodes, or a device that one of the others can use.
#[test]
fn a_leave_after_which_nobody_could_go_on_is_refused_at_once() {
    let mut three = Cluster::serving(Shape { nodes: 3, devices: 0 });
    assert!(matches!(
        three.command(A, RequestBody::Leave),
        AskEnd::Reply(Ok(_))
    ));
    let mut blind = pair();
    for role in DeviceRole::ALL {
        blind.lose_path(B, role);
    }
    blind.run_for(LEASE * 4);
    for (mut cluster, leaves, stays) in [(three, B, 2), (blind, A, B)] {
        let asked_at = cluster.now;
        let end = cluster.command(leaves, RequestBody::Leave);
        assert!(
            matches!(end, AskEnd::Reply(Err(Refusal::NoQuorum { .. }))),
            "{end:?}"
        );
        assert!(cluster.now.since(asked_at) < LEASE / 10);
        for server in [leaves, stays] {
            assert!(
                cluster.add_within(server, &format!("by n{server}"), LEASE),
                "n{server}"
            );
        }
    }
}

/// How one node comes to serve alone.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Taken {
    FromTheDead,
    AcrossACut,
    AtTheStart,
}

/// The leave comes at any moment of a takeover: it is refused, and the node goes on, or it is done, and the node serves nothing.
#[test]
fn a_leave_in_the_middle_of_a_takeover_is_done_or_refused() {
    let (mut done, mut refused) = (0, 0);
    let begun = |how| {
        let mut cluster = pair();
        match how {
            Taken::FromTheDead => cluster.crash(B, false),
            Taken::AcrossACut => cluster.network.cut(B, A),
            Taken::AtTheStart => {
                cluster.crash(B, false);
                cluster.crash(A, false);
                cluster.run_for(LEASE * 2);
                cluster.start(A);
            }
        }
        cluster
    };
    for how in [Taken::FromTheDead, Taken::AcrossACut, Taken::AtTheStart] {
        let mut cluster = begun(how);
        let serves_alone = |cluster: &Cluster| {
            let status = cluster.status(A).unwrap();
            status.state == ServingState::Serving && status.configuration.unwrap().members == set(&[A])
        };
        let step = Duration::from_micros(100);
        let steps = (1..LEASE.as_micros() as u32 * 2 / 100)
            .find(|_| {
                cluster.run_for(step);
                serves_alone(&cluster)
            })
            .unwrap_or(LEASE.as_micros() as u32 / 100);
        // What is put to the vote is decided within a millisecond.
        let moments = (0..steps)
            .step_by(1000)
            .chain(steps.saturating_sub(80)..steps + 10);
        // Somebody who waits for the end of it, and somebody who soon does not.
        for (after, patience) in moments.flat_map(|after| [(after, 5_000), (after, 4)]) {
            let mut cluster = begun(how);
            cluster.run_for(step * after);
            let end = cluster.call(A, RequestBody::Leave, Duration::from_millis(patience));
            let what = format!("{how:?}, after {after} steps, patience {patience} ms: {end:?}");
            cluster.run_for(LEASE * 2);
            (cluster.invariant_who_left_does_not_serve_alone())
                .unwrap_or_else(|unsound| panic!("{what}: {unsound}"));
            let left = cluster.status(A).unwrap().state == ServingState::Left;
            assert!(left || !is_done(&end), "{what}");
            if left {
                done += 1;
                assert_eq!(cluster.rows(A), None, "{what}");
            } else {
                refused += 1;
                // Whom the cut lets go on is not the leave's to say.
                let goes_on = cluster.add_within(A, "second", SETTLED)
                    || how == Taken::AcrossACut && cluster.add_within(B, "second", SETTLED);
                assert!(goes_on, "{what}");
            }
            cluster.settle();
            cluster.mend_pair(A, B);
            cluster.start(B);
            if left {
                let end = cluster.command(A, RequestBody::Join);
                assert!(is_done(&end), "{what}: {end:?}");
            }
            for server in [A, B] {
                assert!(cluster.serves_within(server, SETTLED), "n{server} {what}");
            }
        }
    }
    assert!(done > 0 && refused > 0, "{done} done, {refused} refused");
}
