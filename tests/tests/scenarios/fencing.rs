//! Fencing by reservation: who fences whom in which order, what the one who was fenced does, and what is never done. Real nodes on
//! simulated devices with reservations (DESIGN §10).

use DeviceRole::{Primary, Secondary};
use ccd_core::client::{Answer, RequestBody};
use ccd_core::configuration::Mode;
use ccd_core::drill::{DrillReport, Enforcement, Rehearsed};
use ccd_core::ids::{ClusterId, DeviceRole, DeviceSet, NodeId, NodeSet};
use ccd_core::init::Fencing;
use ccd_core::protocol::{DecisionKind, ServingState};
use ccd_core::reservation::{KeyOwner, Registrations, ReservationKey};
use ccd_tests::sim::asks::AskEnd;
use ccd_tests::sim::plan::Shape;
use ccd_tests::sim::scenario::{Cluster, SETTLED};
use ccd_tests::sim::world::{CLUSTER, HEARTBEAT, LEASE};
use core::time::Duration;

const A: usize = 0;
const B: usize = 1;

fn id(server: usize) -> NodeId {
    NodeId::new(server as u8).unwrap()
}

fn solo(server: usize) -> Mode {
    Mode::Solo(id(server))
}

/// The nodes that are registered.
fn registered(seen: &Registrations) -> NodeSet {
    (seen.keys.iter())
        .filter_map(|key| match key.owner(CLUSTER) {
            KeyOwner::Node(node) => Some(node),
            _ => None,
        })
        .collect()
}

fn holder(seen: &Registrations) -> Option<NodeId> {
    match seen.holder?.key.owner(CLUSTER) {
        KeyOwner::Node(node) => Some(node),
        _ => None,
    }
}

fn nodes(servers: &[usize]) -> NodeSet {
    servers.iter().map(|server| id(*server)).collect()
}

/// A pair with reservations that serves and holds one row, both nodes registered on both devices.
fn pair() -> Cluster {
    let mut cluster = Cluster::serving_with(Shape::PAIR, Fencing::Scsi);
    cluster.add(A, "first").unwrap();
    cluster.settle();
    for role in DeviceRole::ALL {
        let seen = cluster.registrations(role);
        assert_eq!(registered(&seen), nodes(&[A, B]), "{role}: {seen:?}");
        assert!(holder(&seen).is_some(), "somebody holds the {role}");
    }
    cluster
}

#[test]
fn the_survivor_takes_the_primary_and_then_the_secondary() {
    for (dies, stays) in [(A, B), (B, A)] {
        let mut cluster = pair();
        let died_at = cluster.now;
        cluster.crash(dies, false);
        assert!(cluster.add_within(stays, "second", SETTLED));
        // A higher-numbered node gives the other a head start.
        let took = cluster.now.since(died_at);
        assert!(took < 2 * LEASE + LEASE / 2, "the takeover took {took:?}");
        for role in DeviceRole::ALL {
            let seen = cluster.registrations(role);
            assert_eq!(
                (registered(&seen), holder(&seen)),
                (nodes(&[stays]), Some(id(stays))),
                "{role}"
            );
        }
        let taken: Vec<String> = (cluster.decisions(stays, DecisionKind::Fenced).iter())
            .map(|decision| decision.text.clone())
            .collect();
        assert!(
            taken[0].ends_with("from the primary") && taken[1].ends_with("from the secondary"),
            "{taken:?}"
        );
    }
}

#[test]
fn a_stopped_owner_that_wakes_up_is_refused_by_the_disk_and_rejoins() {
    let mut cluster = pair();
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "by A alone", SETTLED));
    assert_eq!(cluster.configuration().mode, solo(A));
    cluster.pause(A);
    cluster.run_for(LEASE);
    cluster.start(B);
    assert!(cluster.add_within(B, "by B alone", SETTLED));
    cluster.resume(A);
    // It may find out by a refused write or by its missing key, and serves nobody meanwhile.
    cluster.run_for(HEARTBEAT * 3);
    assert!(!cluster.serves(A) || cluster.configuration().mode == Mode::Paired);
    let fenced = cluster.decisions(A, DecisionKind::Fenced);
    assert!(
        fenced.iter().any(|decision| decision.text.contains("by node 1")),
        "{fenced:?}"
    );
    assert!(cluster.reaches(SETTLED, |configuration| configuration.members == nodes(&[A, B])));
    cluster.settle();
    assert_eq!(cluster.rows(A).unwrap(), ["by A alone", "by B alone", "first"]);
}

#[test]
fn of_two_nodes_that_are_cut_off_the_one_that_is_fenced_stops_within_a_lease_and_says_by_whom() {
    let mut cluster = pair();
    cluster.cut_pair(A, B);
    assert!(cluster.reaches(SETTLED, |configuration| configuration.mode == solo(A)));
    cluster.run_for(LEASE);
    assert!(!cluster.serves(B));
    assert!(
        cluster.decisions(B, DecisionKind::Propose).is_empty(),
        "the lowest-numbered one takes over; the other waits"
    );
    let fenced = cluster.decisions(B, DecisionKind::Fenced);
    assert!(
        fenced
            .iter()
            .any(|decision| decision.text.contains("on the primary by node 0")),
        "{fenced:?}"
    );
    for role in DeviceRole::ALL {
        assert_eq!(
            registered(&cluster.registrations(role)),
            nodes(&[A]),
            "B does not register by itself"
        );
    }
    cluster.mend_pair(A, B);
    assert!(cluster.reaches(SETTLED, |configuration| configuration.members == nodes(&[A, B])));
    cluster.settle();
    for role in DeviceRole::ALL {
        assert_eq!(
            registered(&cluster.registrations(role)),
            nodes(&[A, B]),
            "it was let in"
        );
    }
}

#[test]
fn a_node_whose_own_looks_are_slow_takes_nobody_for_dead() {
    let mut cluster = Cluster::stopped_with(Shape::PAIR, Fencing::Scsi);
    // As it usually is: a look may take longer than a lease.
    cluster.faults.disk_deadline = LEASE * 2;
    cluster.start_all(Duration::ZERO);
    assert!(cluster.reaches(SETTLED, |configuration| configuration.members == nodes(&[A, B])));
    cluster.settle();
    cluster.cut_pair(A, B);
    assert!(cluster.reaches(SETTLED, |configuration| configuration.mode == solo(A)));
    cluster.settle();
    let epoch = cluster.configuration().epoch;
    for pause_ms in [70, 130, 190, 250] {
        for role in DeviceRole::ALL {
            cluster.stall_path(B, role, LEASE * 9 / 5);
        }
        cluster.run_for(LEASE * 3 + Duration::from_millis(pause_ms));
        let state = cluster.status(A).unwrap().state;
        assert_eq!(
            state,
            ServingState::Serving,
            "the owner's heartbeat moved all the time"
        );
        assert_eq!(registered(&cluster.registrations(Primary)), nodes(&[A]));
    }
    assert_eq!(cluster.configuration().epoch, epoch);
}

#[test]
fn a_target_that_forgets_is_armed_again_without_a_reconfiguration() {
    let mut cluster = pair();
    let epoch = cluster.configuration().epoch;
    cluster.forget_registrations(Primary);
    cluster.run_for(HEARTBEAT * 8);
    let seen = cluster.registrations(Primary);
    assert_eq!(registered(&seen), nodes(&[A, B]));
    assert!(holder(&seen).is_some());
    cluster.settle();
    assert_eq!(cluster.configuration().epoch, epoch);
    assert!(
        !cluster.decisions(A, DecisionKind::Alarm).is_empty(),
        "it is told"
    );
    assert!(cluster.serves(A) && cluster.serves(B));
}

#[test]
fn a_solo_owner_whose_target_forgets_arms_it_again() {
    let mut cluster = pair();
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "second", SETTLED));
    let epoch = cluster.configuration().epoch;
    for role in DeviceRole::ALL {
        cluster.forget_registrations(role);
    }
    cluster.run_for(HEARTBEAT * 4);
    for role in DeviceRole::ALL {
        assert_eq!(holder(&cluster.registrations(role)), Some(id(A)), "{role}");
    }
    assert!(cluster.add(A, "third").is_ok());
    assert_eq!(cluster.configuration().epoch, epoch);
}

#[test]
fn a_new_session_is_registered_and_its_device_is_not_dropped() {
    for alone in [false, true] {
        let mut cluster = pair();
        if alone {
            cluster.crash(B, false);
            assert!(cluster.add_within(A, "second", SETTLED));
        }
        cluster.reconnect(A, Secondary);
        assert!(cluster.add_within(A, "third", SETTLED));
        cluster.settle();
        assert_eq!(cluster.configuration().devices.count(), 2, "alone: {alone}");
        assert!(cluster.add(A, "fourth").is_ok());
    }
}

#[test]
fn a_restarted_owner_takes_the_key_of_its_earlier_run_away() {
    let mut cluster = pair();
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "second", SETTLED));
    let before = cluster.registrations(Primary);
    cluster.crash(A, true);
    for role in DeviceRole::ALL {
        cluster.reconnect(A, role);
    }
    cluster.start(A);
    assert!(cluster.add_within(A, "third", SETTLED));
    cluster.settle();
    for role in DeviceRole::ALL {
        let seen = cluster.registrations(role);
        assert_eq!(seen.keys.len(), 1, "{role}: {seen:?}");
        assert!(
            !seen.has(before.keys[0]),
            "a new incarnation at each registration"
        );
        assert_eq!(holder(&seen), Some(id(A)));
    }
}

#[test]
fn a_node_whose_votes_are_not_enough_fences_nobody() {
    let mut cluster = pair();
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "second", SETTLED));
    cluster.crash(A, false);
    let before = cluster.registrations(Secondary);
    cluster.lose_path(B, Primary);
    cluster.start(B);
    cluster.settle();
    assert!(!cluster.serves(B));
    assert!(cluster.verdict(B).contains("missing"), "{}", cluster.verdict(B));
    assert_eq!(
        cluster.registrations(Secondary),
        before,
        "A is registered as it was"
    );
}

#[test]
fn an_owner_that_is_alive_is_not_fenced_by_a_node_that_starts() {
    let mut cluster = pair();
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "second", SETTLED));
    cluster.cut_pair(A, B);
    cluster.start(B);
    cluster.settle();
    assert!(cluster.serves(A));
    for role in DeviceRole::ALL {
        assert_eq!(registered(&cluster.registrations(role)), nodes(&[A]), "{role}");
    }
}

#[test]
fn a_reservation_of_somebody_else_is_never_taken() {
    let strangers = [
        ReservationKey::from_bits(0x1234),
        ReservationKey::new(ClusterId([9; 16]), id(B), 1),
    ];
    for stranger in strangers {
        let mut cluster = Cluster::stopped_with(Shape::PAIR, Fencing::Scsi);
        cluster.register_stranger(Primary, stranger);
        cluster.start_all(Duration::from_millis(10));
        cluster.settle();
        assert!(
            !cluster.serves(A) && !cluster.serves(B),
            "the first start needs both devices"
        );
        let told = cluster.verdict(A);
        assert!(
            told.contains("reserved by") && told.contains(&stranger.to_string()),
            "{told}"
        );
        let seen = cluster.registrations(Primary);
        assert!(seen.held_by(stranger) && seen.has(stranger), "{seen:?}");
        assert!(!cluster.decisions(A, DecisionKind::Alarm).is_empty());
    }
}

#[test]
fn a_stranger_that_registers_raises_an_alarm_and_is_let_be() {
    let mut cluster = pair();
    let stranger = ReservationKey::from_bits(0x1234);
    cluster.register_stranger(Secondary, stranger);
    cluster.run_for(HEARTBEAT * 3);
    let alarms = cluster.decisions(A, DecisionKind::Alarm);
    assert!(
        alarms
            .iter()
            .any(|alarm| alarm.text.contains(&stranger.to_string())),
        "{alarms:?}"
    );
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "second", SETTLED));
    assert!(cluster.registrations(Secondary).has(stranger));
}

#[test]
fn a_key_that_comes_back_without_being_let_in_is_taken_again() {
    let mut cluster = pair();
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "second", SETTLED));
    // As if a late command of B, or an operator, had registered it.
    cluster.register_stranger(Primary, ReservationKey::new(CLUSTER, id(B), 77));
    cluster.run_for(HEARTBEAT * 3);
    assert_eq!(registered(&cluster.registrations(Primary)), nodes(&[A]));
}

#[test]
fn a_node_that_leaves_is_fenced_at_once_and_let_in_when_it_joins() {
    let mut cluster = pair();
    let asked_at = cluster.now;
    cluster.command(B, RequestBody::Leave);
    assert!(cluster.add_within(A, "second", SETTLED));
    assert!(
        cluster.now.since(asked_at) < LEASE,
        "there is no lease to wait for"
    );
    cluster.run_for(HEARTBEAT * 3);
    for role in DeviceRole::ALL {
        assert_eq!(registered(&cluster.registrations(role)), nodes(&[A]), "{role}");
    }
    cluster.command(B, RequestBody::Join);
    assert!(cluster.reaches(SETTLED, |configuration| configuration.members == nodes(&[A, B])));
}

#[test]
fn a_device_that_returns_is_claimed_before_it_is_written() {
    let mut cluster = pair();
    cluster.crash(B, false);
    cluster.lose_device(Secondary);
    assert!(cluster.add_within(A, "second", SETTLED));
    assert_eq!(cluster.configuration().devices, DeviceSet::EMPTY.with(Primary));
    assert!(
        registered(&cluster.registrations(Secondary)).contains(id(B)),
        "B is still registered there"
    );
    cluster.return_device(Secondary);
    assert!(cluster.reaches(SETTLED, |configuration| configuration.devices.count() == 2));
    cluster.settle();
    assert_eq!(registered(&cluster.registrations(Secondary)), nodes(&[A]));
}

fn drilled(cluster: &mut Cluster, server: usize) -> DrillReport {
    match cluster.command(server, RequestBody::Drill) {
        AskEnd::Reply(Ok(Answer::Drilled(report))) => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_drill_shows_that_the_devices_refuse_and_disturbs_nothing() {
    for asked in [A, B] {
        let mut cluster = pair();
        let epoch = cluster.configuration().epoch;
        let before = cluster.registrations(Primary);
        let report = drilled(&mut cluster, asked);
        for device in &report.devices {
            let prover = device.reservation.as_ref().and_then(holder);
            assert!(
                matches!(device.proof, Enforcement::Refused { node, .. } if Some(node) != prover),
                "{device:?}"
            );
            assert_eq!(device.write.count, 16);
            assert!(device.heartbeat.count > 0);
        }
        assert!(
            report.rehearsals.iter().any(|one| one.goes_on)
                && report.rehearsals.iter().any(|one| !one.goes_on)
        );
        assert!(cluster.serves(A) && cluster.serves(B), "nobody stopped");
        cluster.settle();
        let after = cluster.registrations(Primary);
        assert_eq!(registered(&after), nodes(&[A, B]));
        assert_eq!(after.holder, before.holder, "the holder gave nothing up");
        assert_ne!(after, before, "the other has a new key");
        assert_eq!(cluster.configuration().epoch, epoch, "nothing was reconfigured");
        for server in [A, B] {
            assert!(cluster.decisions(server, DecisionKind::Fenced).is_empty());
        }
    }
}

#[test]
fn a_drill_of_a_lone_node_says_what_it_cannot_show() {
    let mut cluster = pair();
    cluster.crash(B, false);
    assert!(cluster.add_within(A, "second", SETTLED));
    let report = drilled(&mut cluster, A);
    assert!(
        report
            .devices
            .iter()
            .all(|device| matches!(device.proof, Enforcement::NotShown { .. }))
    );
    let dies = |rehearsal: &&ccd_core::drill::Rehearsal| rehearsal.event == Rehearsed::NodeDies(id(A));
    assert!(!report.rehearsals.iter().find(dies).unwrap().goes_on);
    assert!(cluster.serves(A));
}

#[test]
fn a_survivor_takes_over_in_the_middle_of_its_own_proof() {
    // At every moment of a drill the holder can die: the prover has given its registration up, or has it back.
    for moment in 0..12 {
        let mut cluster = pair();
        let holder = holder(&cluster.registrations(Primary)).unwrap().index();
        let other = 1 - holder;
        cluster.begin(holder, RequestBody::Drill);
        cluster.run_for(Duration::from_micros(150 * moment));
        cluster.crash(holder, false);
        assert!(
            cluster.add_within(other, "second", SETTLED),
            "{moment}: {}",
            cluster.verdict(other)
        );
        assert_eq!(registered(&cluster.registrations(Primary)), nodes(&[other]));
    }
}
