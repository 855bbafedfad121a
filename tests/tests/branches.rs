//! What an override goes on without: it is kept before it is written over, and said in numbers that are so.

use ccd_core::ids::{DeviceRole, Epoch};
use ccd_core::problem::Cause;
use ccd_core::protocol::DecisionKind;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED};

const A: usize = 0;
const B: usize = 1;

/// Epoch 2 was decided twice. A was alone, and acknowledged `on A`; then the devices were put back, and B was alone, and acknowledged
/// `on B`. Both are down.
fn two_sides() -> Cluster {
    let mut cluster = Cluster::serving(Shape::PAIR);
    cluster.add(A, "first").unwrap();
    let backup = cluster.backup();
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "on A", SETTLED));
    cluster.crash(A, false);
    for role in DeviceRole::ALL {
        cluster.set_back_device(role, &backup);
    }
    cluster.promise_nothing(Epoch(1));
    cluster.start(B);
    assert!(cluster.add_within(B, "on B", SETTLED), "{}", cluster.verdict(B));
    cluster.crash(B, false);
    cluster
}

#[test]
fn the_alarm_that_an_epoch_was_decided_twice_says_what_the_local_copy_holds() {
    let mut cluster = two_sides();
    cluster.start(A);
    assert!(!cluster.serves_within(A, SETTLED), "{:?}", cluster.rows(A));
    let status = cluster.status(A).unwrap();
    assert!(
        status
            .problems
            .iter()
            .any(|problem| problem.cause == Cause::DecidedTwice),
        "{status:?}"
    );
    assert!(status.position.stamp.generation.0 > 0, "{status:?}");
    let here = format!(", at {}) and by node 1", status.position);
    let alarms = cluster.decisions(A, DecisionKind::Alarm);
    assert!(
        alarms.iter().any(|alarm| alarm.text.contains(&here)),
        "{here}: {alarms:?}"
    );
}
