//! Deadlines and order of the fencing thread, on a device that does what the test tells it.

use ccd_core::ids::DeviceRole;
use ccd_core::protocol::Ticket;
use ccd_core::replica::{ReplicaError, ReplicaErrorKind};
use ccd_core::reservation::{FenceOp, Registrations, ReservationKey};
use ccd_core::time::Time;
use ccd_mirror::{FENCE_WAITING_MAX, FenceCompletion, FenceDevice, FenceLane};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_millis(500);
/// How long a test waits for a thread before it fails: far more than a busy machine needs.
const PATIENCE: Duration = Duration::from_secs(20);

type Answer = Result<Registrations, ReplicaError>;

/// Answers each step with what the test sends.
struct Device {
    started: Sender<FenceOp>,
    answers: Arc<Mutex<Receiver<Answer>>>,
}

impl FenceDevice for Device {
    fn execute(&mut self, op: FenceOp) -> Answer {
        // The test that holds the other ends may be over.
        let _ = self.started.send(op);
        self.answers.lock().unwrap().recv().unwrap()
    }
}

struct Rig {
    lane: FenceLane,
    woken: Receiver<()>,
    opened: Receiver<()>,
    started: Receiver<FenceOp>,
    answers: Sender<Answer>,
}

impl Rig {
    fn new() -> Self {
        let (wake, woken) = channel();
        let (open, opened) = channel();
        let (start, started) = channel();
        let (answers, to_come) = channel();
        let wake = Mutex::new(wake);
        let to_come = Arc::new(Mutex::new(to_come));
        let opener = move || {
            let _ = open.send(());
            Ok(Box::new(Device {
                started: start.clone(),
                answers: to_come.clone(),
            }) as Box<dyn FenceDevice>)
        };
        let wake = Arc::new(move || {
            let _ = wake.lock().unwrap().send(());
        });
        let lane = FenceLane::start_with(DeviceRole::Primary, Box::new(opener), wake).unwrap();
        Self {
            lane,
            woken,
            opened,
            started,
            answers,
        }
    }

    fn submit(&mut self, now_ms: u64, ticket: u64, op: FenceOp) {
        self.lane.submit(at(now_ms), Ticket(ticket), op, DEADLINE);
    }

    fn started(&self) -> FenceOp {
        self.started.recv_timeout(PATIENCE).unwrap()
    }

    fn woken(&self) {
        self.woken.recv_timeout(PATIENCE).unwrap();
    }

    /// Ticket and kind of failure of everything that has ended.
    fn ended(&mut self, now_ms: u64) -> Vec<(u64, Option<ReplicaErrorKind>)> {
        std::iter::from_fn(|| self.lane.next_completion(at(now_ms)))
            .map(|FenceCompletion { ticket, result, .. }| (ticket.0, result.err().map(|error| error.kind)))
            .collect()
    }
}

fn at(ms: u64) -> Time {
    Time::ZERO + Duration::from_millis(ms)
}

fn register(bits: u64) -> FenceOp {
    FenceOp::Register {
        key: ReservationKey::from_bits(bits),
    }
}

const TIMED_OUT: Option<ReplicaErrorKind> = Some(ReplicaErrorKind::TimedOut);

#[test]
fn steps_are_done_in_order_on_a_device_that_is_opened_once() {
    let mut rig = Rig::new();
    assert!(rig.opened.try_recv().is_err(), "not opened before it is needed");
    rig.submit(0, 1, register(7));
    rig.submit(0, 2, FenceOp::Look);
    assert_eq!(rig.started(), register(7));
    assert_eq!(rig.ended(10), []);
    for ticket in [1, 2] {
        rig.answers.send(Ok(Registrations::default())).unwrap();
        rig.woken();
        assert_eq!(rig.ended(20), [(ticket, None)]);
    }
    assert_eq!(rig.started(), FenceOp::Look);
    assert_eq!(rig.opened.try_iter().count(), 1);
    assert_eq!(rig.lane.next_deadline(), Time::NEVER);
}

#[test]
fn a_step_that_hangs_is_answered_once_and_so_is_what_waits_behind_it() {
    let mut rig = Rig::new();
    rig.submit(100, 1, FenceOp::Look);
    rig.submit(200, 2, register(7));
    assert_eq!(rig.started(), FenceOp::Look);
    assert_eq!(rig.lane.next_deadline(), at(600));
    assert_eq!(rig.ended(599), []);
    assert_eq!(rig.ended(600), [(1, TIMED_OUT), (2, TIMED_OUT)]);
    // Until it comes back, nothing is started.
    rig.submit(700, 3, FenceOp::Look);
    assert_eq!(rig.ended(700), [(3, TIMED_OUT)]);
    rig.answers.send(Ok(Registrations::default())).unwrap();
    rig.woken();
    assert_eq!(rig.ended(800), []);
    rig.submit(
        800,
        4,
        FenceOp::Reserve {
            key: ReservationKey::from_bits(7),
        },
    );
    assert_eq!(
        rig.started(),
        FenceOp::Reserve {
            key: ReservationKey::from_bits(7)
        },
        "ticket 2 was never started"
    );
    rig.answers.send(Ok(Registrations::default())).unwrap();
    rig.woken();
    assert_eq!(rig.ended(900), [(4, None)]);
}

#[test]
fn the_deadline_of_a_step_begins_when_its_turn_comes() {
    let mut rig = Rig::new();
    rig.submit(0, 1, FenceOp::Look);
    rig.submit(0, 2, FenceOp::Look);
    rig.started();
    rig.answers.send(Ok(Registrations::default())).unwrap();
    rig.woken();
    assert_eq!(rig.ended(400), [(1, None)]);
    assert_eq!(rig.lane.next_deadline(), at(900));
    assert_eq!(rig.ended(899), []);
    assert_eq!(rig.ended(900), [(2, TIMED_OUT)]);
    drop(rig.answers);
}

#[test]
fn a_device_that_failed_is_opened_again() {
    let mut rig = Rig::new();
    let failed = ReplicaError {
        kind: ReplicaErrorKind::Io,
        text: "unplugged".to_owned(),
    };
    for answer in [Err(failed), Ok(Registrations::default())] {
        rig.submit(0, 1, FenceOp::Look);
        rig.started();
        let kind = answer.as_ref().err().map(|error| error.kind);
        rig.answers.send(answer).unwrap();
        rig.woken();
        assert_eq!(rig.ended(0), [(1, kind)]);
    }
    assert_eq!(rig.opened.try_iter().count(), 2);
}

#[test]
fn more_than_can_wait_is_refused() {
    let mut rig = Rig::new();
    for ticket in 0..FENCE_WAITING_MAX as u64 {
        rig.submit(0, ticket, FenceOp::Look);
    }
    rig.submit(0, 999, FenceOp::Look);
    assert_eq!(rig.ended(0), [(999, Some(ReplicaErrorKind::Io))]);
    rig.answers.send(Ok(Registrations::default())).unwrap();
}

#[test]
fn a_file_has_no_reservations() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let (wake, woken) = channel();
    let wake = Mutex::new(wake);
    let wake = Arc::new(move || {
        let _ = wake.lock().unwrap().send(());
    });
    for (path, expected) in [
        (file.path(), ReplicaErrorKind::NotSupported),
        (Path::new("/no/such/device"), ReplicaErrorKind::Io),
    ] {
        let mut lane = FenceLane::start(DeviceRole::Secondary, path, wake.clone()).unwrap();
        lane.submit(Time::ZERO, Ticket(1), FenceOp::Look, DEADLINE);
        woken.recv_timeout(PATIENCE).unwrap();
        let completion = lane.next_completion(Time::ZERO).unwrap();
        let refused = completion.result.unwrap_err();
        assert_eq!(refused.kind, expected, "{refused}");
    }
}
