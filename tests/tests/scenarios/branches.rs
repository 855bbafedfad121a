//! What an override goes on without: it is kept before it is written over, and said in numbers that are so.

use DeviceRole::{Primary, Secondary};
use ccd_core::client::{Refusal, RequestBody};
use ccd_core::ids::{DeviceRole, Epoch};
use ccd_core::problem::Cause;
use ccd_core::protocol::DecisionKind;
use ccd_tests::sim::asks::AskEnd;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED};

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

fn takeover(cluster: &mut Cluster, server: usize) -> AskEnd {
    cluster.command(server, RequestBody::Takeover { force: true })
}

fn is_done(end: &AskEnd) -> bool {
    matches!(end, AskEnd::Reply(Ok(_)))
}

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

#[test]
fn an_override_waits_for_the_branches_that_it_writes_over_and_is_not_begun_without_them() {
    for returns in [A, B] {
        let mut cluster = two_sides();
        cluster.fill_state_folder(A, true);
        cluster.start(A);
        assert!(!cluster.serves_within(A, SETTLED));
        let epoch = cluster.configuration().epoch;
        let end = takeover(&mut cluster, A);
        assert!(
            matches!(&end, AskEnd::Reply(Err(Refusal::Unsafe { why })) if why.contains("CCD-2050")),
            "{end:?}"
        );
        cluster.settle();
        assert!(!cluster.serves(A));
        assert_eq!(cluster.configuration().epoch, epoch, "nothing was decided");
        let kept = cluster.decisions(A, DecisionKind::BranchKept);
        assert!(kept.is_empty(), "it is not said that it was kept: {kept:?}");
        assert_eq!(cluster.branches(A), []);
        if returns == B {
            // The devices hold what B has acknowledged.
            cluster.crash(A, false);
            cluster.start(B);
            assert!(cluster.serves_within(B, SETTLED), "{}", cluster.verdict(B));
            assert_eq!(cluster.rows(B).unwrap(), ["first", "on B"]);
            continue;
        }
        cluster.fill_state_folder(A, false);
        let end = takeover(&mut cluster, A);
        assert!(is_done(&end), "{end:?}");
        assert_eq!(cluster.rows(A).unwrap(), ["first", "on A"]);
        assert_eq!(cluster.branches(A).len(), 1, "both devices hold the same");
        let kept = cluster.decisions(A, DecisionKind::BranchKept);
        assert!(
            matches!(&kept[..], [kept] if kept.text.contains("the other side of an epoch")),
            "{kept:?}"
        );
    }
}

/// The owner's local copy is old, and each device holds another part of what it acknowledged, up to a hole.
#[test]
fn an_override_keeps_what_each_device_holds_beyond_its_start() {
    let mut cluster = Cluster::serving(Shape::PAIR);
    cluster.add(A, "first").unwrap();
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "one", SETTLED));
    assert!(cluster.add_within(A, "two", SETTLED));
    let older = cluster.backup();
    assert!(cluster.add_within(A, "three", SETTLED));
    let newer = cluster.backup();
    assert!(cluster.add_within(A, "four", SETTLED));
    cluster.overwrite_device(Primary, Some(&older));
    cluster.overwrite_device(Secondary, Some(&newer));
    // Before it is noticed; the journals have a hole then.
    assert!(cluster.add_within(A, "five", SETTLED));
    cluster.crash(A, false);
    cluster.promise_nothing(Epoch(2));
    cluster.start(A);
    assert!(!cluster.serves_within(A, SETTLED), "{:?}", cluster.rows(A));
    let end = takeover(&mut cluster, A);
    assert!(is_done(&end), "{end:?}");
    let mut kept = cluster.branches(A);
    kept.dedup();
    assert_eq!(kept.len(), 2, "{kept:?}");
}

/// A member of a pair goes on with its local copy, which has the newest state of its side.
#[test]
fn an_override_on_the_side_of_a_pair_keeps_what_the_owner_on_the_other_side_acknowledged() {
    let mut cluster = Cluster::serving(Shape { nodes: 3, devices: 2 });
    cluster.add(A, "first").unwrap();
    let backup = cluster.backup();
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "on A and C", SETTLED));
    cluster.crash(A, false);
    cluster.crash(C, false);
    for role in DeviceRole::ALL {
        cluster.set_back_device(role, &backup);
    }
    cluster.promise_nothing(Epoch(1));
    cluster.start(B);
    for value in ["on B", "on B too"] {
        assert!(cluster.add_within(B, value, SETTLED), "{}", cluster.verdict(B));
    }
    let theirs = cluster.status(B).unwrap().position;
    cluster.crash(B, false);
    cluster.start(A);
    assert!(!cluster.serves_within(A, SETTLED), "{:?}", cluster.rows(A));
    let end = takeover(&mut cluster, A);
    assert!(is_done(&end), "{end:?}");
    assert_eq!(cluster.rows(A).unwrap(), ["first", "on A and C"]);
    assert_eq!(cluster.branches(A), [theirs]);
}
