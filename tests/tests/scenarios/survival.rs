//! What clients may rely on while nodes die, stand still and come back.

use ccd_core::client::{Answer, Refusal, RequestBody};
use ccd_core::configuration::Mode;
use ccd_core::ids::{DeviceRole, RequestId};
use ccd_core::protocol::DecisionKind;
use ccd_tests::sim::asks::AskEnd;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED};
use ccd_tests::sim::world::LEASE;
use core::time::Duration;

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

fn pair() -> Cluster {
    let mut cluster = Cluster::serving(Shape::PAIR);
    cluster.add(A, "first").unwrap();
    cluster
}

fn is_committed(end: &AskEnd) -> bool {
    matches!(end, AskEnd::Reply(Ok(Answer::Committed { .. })))
}

#[test]
fn an_update_on_one_node_is_seen_on_the_other_at_once() {
    let mut cluster = pair();
    for count in 0..20 {
        let value = format!("v{count:02}");
        let (writes, reads) = if count % 2 == 0 { (A, B) } else { (B, A) };
        cluster.add(writes, &value).unwrap();
        assert!(cluster.rows(reads).unwrap().contains(&value));
    }
}

#[test]
fn a_paused_owner_that_goes_on_after_a_takeover_acks_nothing_and_serves_nothing_stale() {
    let mut cluster = pair();
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "solo", SETTLED));
    cluster.start(B);
    assert!(cluster.serves_within(B, SETTLED));
    // A is master of the pair, stands still, and B takes over.
    let (_, body) = cluster.addition("late");
    cluster.pause(A);
    let late = cluster.begin(A, body);
    assert!(cluster.add_within(B, "after the takeover", 2 * SETTLED));
    assert!(matches!(cluster.configuration().mode, Mode::Solo(owner) if owner.index() == B));
    cluster.resume(A);
    let stale = cluster.rows(A);
    assert!(
        stale.is_none_or(|rows| rows.contains(&"after the takeover".to_owned())),
        "never an old answer"
    );
    let end = cluster.await_end(late);
    if is_committed(&end) {
        assert!(
            cluster.rows(B).unwrap().contains(&"late".to_owned()),
            "acked in the new configuration"
        );
    }
    assert!(cluster.serves_within(A, SETTLED), "it rejoins by itself");
}

#[test]
fn a_paused_solo_owner_that_goes_on_after_a_takeover_acks_nothing_of_its_own() {
    let mut cluster = pair();
    // B is alive, but cut off: A owns the devices.
    cluster.cut_pair(A, B);
    assert!(cluster.add_within(A, "solo", SETTLED));
    let (request, body) = cluster.addition("in flight");
    let asked = cluster.begin(A, body);
    cluster.pause(A);
    assert!(cluster.add_within(B, "taken over", 2 * SETTLED));
    cluster.resume(A);
    let end = cluster.await_end(asked);
    cluster.settle();
    let applied = cluster.rows(B).unwrap().contains(&"in flight".to_owned());
    assert!(!is_committed(&end) || applied, "acked, so it is there");
    cluster.mend_pair(A, B);
    assert!(cluster.serves_within(A, SETTLED));
    assert_eq!(cluster.outcome(A, request), Some(applied));
}

#[test]
fn a_client_whose_server_died_asks_again_by_its_id_and_learns_the_truth() {
    for run_micros in (0..2_000).step_by(50) {
        let mut cluster = pair();
        let (request, body) = cluster.addition("asked");
        let asked = cluster.begin(A, body);
        cluster.run_for(Duration::from_micros(run_micros));
        cluster.crash(A, false);
        let heard = cluster.await_end(asked);
        assert!(cluster.serves_within(B, SETTLED));
        let there = cluster.rows(B).unwrap().contains(&"asked".to_owned());
        assert!(
            there || !is_committed(&heard),
            "acked after {run_micros} µs, and lost"
        );
        assert_eq!(cluster.outcome(B, request), Some(there), "after {run_micros} µs");
        // Asking for it once more is safe: it is applied once.
        let again = cluster.call(B, Cluster::addition_as(request, "asked"), SETTLED);
        assert!(is_committed(&again), "{again:?}");
        let rows = cluster.rows(B).unwrap();
        assert_eq!(rows.iter().filter(|value| *value == "asked").count(), 1);
    }
}

#[test]
fn a_prepared_update_whose_master_died_rolls_forward() {
    let mut forward = 0;
    for run_micros in (0..2_000).step_by(25) {
        let mut cluster = pair();
        let (request, body) = cluster.addition("prepared");
        let asked = cluster.begin(A, body);
        cluster.run_for(Duration::from_micros(run_micros));
        let open = cluster.end_of(asked).is_none();
        cluster.crash(A, true);
        assert!(cluster.serves_within(B, SETTLED));
        if open && cluster.outcome(B, request) == Some(true) {
            forward += 1;
        }
    }
    assert!(forward > 0, "at some moment it was prepared and not yet acked");
}

#[test]
fn an_update_that_a_member_refuses_is_rolled_back_everywhere() {
    let mut cluster = pair();
    // The member's copy cannot be written: it refuses, or falls out of the configuration.
    cluster.fail_local_writes(B, true);
    let (request, body) = cluster.addition("refused");
    let end = cluster.call(A, body, Duration::from_secs(2));
    cluster.fail_local_writes(B, false);
    cluster.settle();
    let there = cluster.rows(A).unwrap().contains(&"refused".to_owned());
    assert_eq!(cluster.outcome(A, request), Some(there));
    match end {
        AskEnd::Reply(Ok(_)) => assert!(there),
        AskEnd::Reply(Err(Refusal::Unknown { .. })) | AskEnd::Lost => {}
        AskEnd::Reply(Err(_)) => assert!(!there, "refused, and yet there"),
    }
    assert!(cluster.serves_within(B, SETTLED), "the member comes back");
    assert_eq!(cluster.rows(A), cluster.rows(B));
}

#[test]
fn a_late_write_of_a_crashed_owner_spoils_nothing() {
    for run_micros in (0..1_000).step_by(100) {
        let mut cluster = pair();
        cluster.crash(B, false);
        assert!(cluster.add_within(A, "solo", SETTLED));
        cluster.start(B);
        cluster.settle();
        cluster.crash(B, false);
        assert!(cluster.add_within(A, "solo again", SETTLED));
        // Its writes are on their way when it dies, and land seconds later, after B has taken over.
        cluster.faults.late_writes = true;
        let (_, body) = cluster.addition("in flight");
        cluster.begin(A, body);
        cluster.run_for(Duration::from_micros(run_micros));
        cluster.crash(A, false);
        cluster.start(B);
        assert!(cluster.add_within(B, "taken over", 2 * SETTLED));
        cluster.run_for(Duration::from_secs(5));
        assert!(cluster.rows(B).unwrap().contains(&"taken over".to_owned()));
        cluster.crash(B, false);
        cluster.start(B);
        assert!(cluster.serves_within(B, SETTLED));
        assert!(cluster.rows(B).unwrap().contains(&"taken over".to_owned()));
    }
}

/// How the rejoining node gets what it missed.
fn transfers(cluster: &Cluster) -> (usize, usize) {
    let count = |text: &str| {
        cluster
            .log
            .lines()
            .lines()
            .filter(|line| line.contains(text))
            .count()
    };
    (count("<- from n0: Tail"), count("<- from n0: ImageChunk"))
}

#[test]
fn a_node_that_missed_a_little_rejoins_by_the_tail_of_the_journal() {
    let mut cluster = pair();
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "missed", SETTLED));
    cluster.start(B);
    assert!(cluster.serves_within(B, SETTLED));
    let (tails, images) = transfers(&cluster);
    assert!(tails > 0 && images == 0, "{tails} tails, {images} images");
    assert_eq!(cluster.rows(B).unwrap(), ["first", "missed"]);
}

#[test]
fn a_node_with_an_empty_copy_rejoins_by_a_whole_image() {
    let mut cluster = pair();
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "missed", SETTLED));
    for count in 0..60 {
        cluster.add(A, &format!("v{count:02}")).unwrap();
    }
    cluster.wipe_local(B);
    // The journal was checkpointed meanwhile, and A's memory of single records goes with its process.
    cluster.crash(A, false);
    cluster.start(A);
    assert!(cluster.serves_within(A, SETTLED));
    cluster.start(B);
    assert!(cluster.serves_within(B, SETTLED));
    let (_, images) = transfers(&cluster);
    assert!(images > 0, "no image travelled");
    assert_eq!(cluster.rows(B).unwrap().len(), 62);
    assert_eq!(cluster.rows(A), cluster.rows(B));
}

#[test]
fn a_branch_that_lost_is_kept_aside() {
    let mut cluster = pair();
    cluster.crash(A, false);
    assert!(cluster.add_within(B, "only on B's side", SETTLED));
    cluster.crash(B, false);
    // The operator forces A, which cannot see what B wrote.
    cluster.lose_path(A, DeviceRole::Primary);
    cluster.lose_path(A, DeviceRole::Secondary);
    cluster.start(A);
    cluster.settle();
    let end = cluster.command(A, RequestBody::Takeover { force: true });
    assert!(matches!(end, AskEnd::Reply(_)), "{end:?}");
    cluster.settle();
    cluster.return_path(A, DeviceRole::Primary);
    cluster.return_path(A, DeviceRole::Secondary);
    cluster.start(B);
    cluster.settle();
    cluster.settle();
    let rows = cluster.rows(A).expect("A serves");
    assert_eq!(cluster.rows(B), Some(rows.clone()));
    if !rows.contains(&"only on B's side".to_owned()) {
        let kept = cluster.branches(A).len() + cluster.branches(B).len();
        assert!(kept > 0, "the losing branch is nowhere");
        // By the node whose copy it was, or by the one that opened the override and found it on a device.
        let told = [A, B].map(|server| cluster.decisions(server, DecisionKind::BranchKept).len());
        assert!(told.iter().sum::<usize>() > 0, "nobody tells of it");
    }
}

#[test]
fn a_stale_query_is_answered_where_a_strict_one_is_not() {
    let mut cluster = pair();
    // What is not known to be committed yet is not shown as stale either.
    cluster.settle();
    cluster.crash(A, false);
    cluster.lose_device(DeviceRole::Primary);
    cluster.settle();
    assert_eq!(cluster.rows(B), None);
    assert_eq!(cluster.stale_rows(B).unwrap(), ["first"]);
}

#[test]
fn an_idle_pair_does_not_reconfigure() {
    let mut cluster = pair();
    let before = cluster.configuration().epoch;
    cluster.run_for(LEASE * 30);
    assert_eq!(cluster.configuration().epoch, before);
    assert!(cluster.serves(A) && cluster.serves(B));
}

#[test]
fn a_request_that_is_repeated_on_the_wire_is_applied_once() {
    let mut cluster = pair();
    cluster.network.weather.repeat_per_mille = 1000;
    for count in 0..20 {
        cluster.add(B, &format!("v{count:02}")).unwrap();
    }
    cluster.run_for(Duration::from_secs(5));
    assert_eq!(cluster.rows(A).unwrap().len(), 21);
    assert_eq!(
        cluster.outcome(
            B,
            RequestId {
                client: 9,
                sequence: 9
            }
        ),
        Some(false)
    );
}

#[test]
fn a_vote_that_was_lost_with_its_configuration_is_not_cast_again() {
    let mut cluster = Cluster::serving(Shape { nodes: 1, devices: 2 });
    cluster.add(A, "first").unwrap();
    let before = cluster.configuration().epoch;
    // A successor without the secondary is decided, and the local copy cannot store it.
    cluster.lose_device(DeviceRole::Secondary);
    while cluster.configuration().epoch == before {
        assert!(cluster.step());
    }
    cluster.fail_local_writes(A, true);
    cluster.run_for(LEASE / 4);
    cluster.fail_local_writes(A, false);
    // It votes on the successor of that one, which takes the place of its vote for it.
    cluster.lose_device(DeviceRole::Primary);
    cluster.run_for(LEASE * 4);
    let decided = cluster.configuration().epoch;
    cluster.crash(A, false);
    cluster.return_device(DeviceRole::Secondary);
    cluster.start(A);
    cluster.settle();
    // The device that has what was acked is away: the other one proves nothing.
    assert!(!cluster.serves(A), "{}", cluster.verdict(A));
    assert_eq!(cluster.configuration().epoch, decided);
    cluster.return_device(DeviceRole::Primary);
    assert!(cluster.add_within(A, "second", SETTLED));
    assert_eq!(cluster.rows(A).unwrap(), ["first", "second"]);
}

#[test]
fn an_override_that_is_cut_short_anywhere_can_be_asked_for_again() {
    let mut given_up = 0;
    for events in 0..200 {
        let mut cluster = Cluster::serving(Shape { nodes: 3, devices: 0 });
        cluster.add(A, "first").unwrap();
        for other in [B, C] {
            cluster.crash(other, false);
        }
        cluster.run_for(LEASE * 2);
        let before = cluster.configuration().epoch;
        cluster.begin(A, RequestBody::Takeover { force: true });
        for _ in 0..events {
            cluster.step();
        }
        cluster.crash(A, false);
        given_up += u32::from(cluster.configuration().epoch == before);
        // The second one goes on without what the first may have voted for.
        cluster.start(A);
        cluster.run_for(LEASE);
        cluster.command(A, RequestBody::Takeover { force: true });
        cluster.start(B);
        cluster.start(C);
        assert!(cluster.add_within(A, "second", SETTLED), "{events} events");
        assert_eq!(cluster.rows(A).unwrap(), ["first", "second"], "{events} events");
    }
    assert!((1..200).contains(&given_up), "{given_up}");
}

#[test]
fn a_device_that_was_made_anew_has_no_vote_in_a_configuration_that_counts_on_it() {
    let mut cluster = pair();
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "solo", SETTLED));
    assert!(matches!(cluster.configuration().mode, Mode::Solo(owner) if owner.index() == A));
    assert_eq!(cluster.configuration().devices.iter().count(), 2);
    let epoch = cluster.configuration().epoch;
    cluster.crash(A, false);
    // Only the primary holds the update, and it is not there.
    cluster.remake_device(DeviceRole::Secondary);
    cluster.lose_device(DeviceRole::Primary);
    for _ in 0..2 {
        cluster.start(A);
        assert!(!cluster.serves_within(A, SETTLED), "{}", cluster.verdict(A));
        assert_eq!(cluster.configuration().epoch, epoch, "nothing was decided");
        let verdict = cluster.verdict(A);
        assert!(verdict.contains("the secondary was made anew"), "{verdict}");
        cluster.crash(A, false);
    }
    cluster.return_device(DeviceRole::Primary);
    cluster.start(A);
    assert!(cluster.serves_within(A, SETTLED), "{}", cluster.verdict(A));
    assert_eq!(cluster.rows(A).unwrap(), ["first", "solo"]);
    // It is taken in again, and then counts as it did.
    let is_whole =
        |configuration: &ccd_core::configuration::Configuration| configuration.devices.iter().count() == 2;
    assert!(cluster.reaches(4 * SETTLED, is_whole));
    cluster.add(A, "later").unwrap();
    cluster.crash(A, false);
    cluster.lose_device(DeviceRole::Primary);
    cluster.start(A);
    assert!(cluster.serves_within(A, SETTLED), "{}", cluster.verdict(A));
    assert_eq!(cluster.rows(A).unwrap(), ["first", "later", "solo"]);
}

#[test]
fn a_device_of_a_pair_that_was_made_anew_is_left_out_and_taken_in_again() {
    let mut cluster = pair();
    let epoch = cluster.configuration().epoch;
    cluster.crash(A, false);
    cluster.crash(B, false);
    cluster.remake_device(DeviceRole::Primary);
    cluster.start(A);
    cluster.start(B);
    assert!(cluster.serves_within(A, SETTLED) && cluster.serves_within(B, SETTLED));
    assert_eq!(cluster.rows(A).unwrap(), ["first"]);
    let is_whole = |configuration: &ccd_core::configuration::Configuration| {
        configuration.epoch > epoch && configuration.devices.iter().count() == 2
    };
    assert!(
        cluster.reaches(4 * SETTLED, is_whole),
        "{:?}",
        cluster.configuration()
    );
    cluster.settle();
    let settled = cluster.configuration().epoch;
    cluster.settle();
    assert_eq!(
        cluster.configuration().epoch,
        settled,
        "nothing is decided again and again"
    );
    // Its vote counts: B goes on with it alone.
    cluster.lose_device(DeviceRole::Secondary);
    cluster.settle();
    cluster.crash(A, false);
    assert!(cluster.add_within(B, "alone", 2 * SETTLED));
}
