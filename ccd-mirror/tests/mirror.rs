//! Order, deadlines and checkpoints of the mirror, on devices that do what the test tells them.

mod support;

use ccd_core::database::{Database, Record};
use ccd_core::ids::{DeviceRole, Epoch, Position, Replica};
use ccd_core::protocol::Ticket;
use ccd_core::replica::{Heartbeat, ReplicaAnswer, ReplicaError, ReplicaErrorKind, ReplicaOp};
use ccd_core::time::Time;
use ccd_mirror::{Completion, ImageWatch, LongWork, Mirror, Store, StoreStep};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::PATIENCE;

const PRIMARY: Replica = Replica::Device(DeviceRole::Primary);
const SECONDARY: Replica = Replica::Device(DeviceRole::Secondary);
const DEADLINE: Duration = Duration::from_millis(500);

/// Does each operation only when it is let go.
struct Device {
    started: Sender<String>,
    gate: Receiver<()>,
    steps_left: u64,
    /// After the next operation, so much can wait.
    idle_left: u64,
    images: Option<ImageWatch>,
}

impl Device {
    fn pass(&self, name: String) {
        // The test that holds the other ends may be over.
        let _ = self.started.send(name);
        let _ = self.gate.recv();
    }
}

impl Store for Device {
    fn watch_images(&mut self, watch: ImageWatch) {
        self.images = Some(watch);
    }
    fn execute(&mut self, op: ReplicaOp) -> Result<ReplicaAnswer, ReplicaError> {
        self.pass(match &op {
            ReplicaOp::WriteHeartbeat { heartbeat } => format!("heartbeat {}", heartbeat.sequence),
            ReplicaOp::WriteImage { .. } => {
                let watch = self.images.as_ref().expect("the mirror watches");
                for done_bytes in [10, 20] {
                    watch(done_bytes, 20);
                    self.pass(format!("image {done_bytes}"));
                }
                return Ok(ReplicaAnswer::Written);
            }
            ReplicaOp::StageImage { offset, .. } => format!("piece {offset}"),
            other => format!("{other:?}"),
        });
        Ok(ReplicaAnswer::Written)
    }
    fn repair(&mut self, _: Database) -> Result<(), ReplicaError> {
        self.pass("repair".to_owned());
        Ok(())
    }
    fn begin_checkpoint(&mut self, _: Database) -> Result<(), ReplicaError> {
        self.steps_left = 3;
        Ok(())
    }
    fn step_checkpoint(&mut self) -> Result<StoreStep, ReplicaError> {
        self.pass(format!("step {}", self.steps_left));
        self.steps_left -= 1;
        Ok(match self.steps_left {
            0 => StoreStep::Done,
            left => StoreStep::More {
                done_bytes: 3 - left,
                total_bytes: 3,
            },
        })
    }
    fn has_idle_work(&self) -> bool {
        self.idle_left > 0
    }
    fn idle_step(&mut self) -> bool {
        let _ = self.started.send(format!("idle {}", self.idle_left));
        self.idle_left -= 1;
        self.idle_left > 0
    }
    fn abandon_checkpoint(&mut self) {
        self.steps_left = 0;
    }
}

struct Rig {
    mirror: Mirror,
    woken: Receiver<()>,
    started: Receiver<String>,
    gates: Vec<Sender<()>>,
}

impl Rig {
    fn new(replicas: &[Replica]) -> Self {
        Self::with_idle_work(replicas, 0)
    }

    fn with_idle_work(replicas: &[Replica], idle_left: u64) -> Self {
        let (wake, woken) = channel();
        let wake = Mutex::new(wake);
        let mut mirror = Mirror::new(
            DEADLINE,
            Arc::new(move || {
                let _ = wake.lock().unwrap().send(());
            }),
        );
        let (started_in, started) = channel();
        let mut gates = Vec::new();
        for replica in replicas {
            let (open, gate) = channel();
            gates.push(open);
            let started = started_in.clone();
            mirror
                .attach(
                    *replica,
                    Device {
                        started,
                        gate,
                        steps_left: 0,
                        idle_left,
                        images: None,
                    },
                )
                .unwrap();
        }
        Self {
            mirror,
            woken,
            started,
            gates,
        }
    }

    fn heartbeat(&mut self, now_ms: u64, replica: Replica, number: u64) {
        let heartbeat = Heartbeat {
            sequence: number,
            ..Heartbeat::default()
        };
        let op = ReplicaOp::WriteHeartbeat { heartbeat };
        self.mirror
            .submit(Time::from_millis(now_ms), Ticket(number), replica, op);
    }

    fn open(&mut self, now_ms: u64, number: u64) {
        self.mirror.submit(
            Time::from_millis(now_ms),
            Ticket(number),
            PRIMARY,
            ReplicaOp::Open,
        );
    }

    fn checkpoint(&mut self, now_ms: u64, number: u64) {
        let op = ReplicaOp::Checkpoint {
            database: Database::default(),
        };
        self.mirror
            .submit(Time::from_millis(now_ms), Ticket(number), PRIMARY, op);
    }

    fn started(&self) -> String {
        self.started.recv_timeout(PATIENCE).expect("an operation starts")
    }

    fn release(&self, device: usize) {
        self.gates[device].send(()).unwrap();
    }

    fn next(&mut self, now_ms: u64) -> Completion {
        support::next(&mut self.mirror, &self.woken, now_ms)
    }

    fn failures(&mut self, now_ms: u64) -> Vec<(u64, ReplicaErrorKind)> {
        support::failures(&mut self.mirror, now_ms)
    }
}

#[test]
fn operations_of_one_replica_keep_their_order() {
    let mut rig = Rig::new(&[PRIMARY]);
    for number in 0..20 {
        rig.heartbeat(0, PRIMARY, number);
    }
    for number in 0..20 {
        assert_eq!(rig.started(), format!("heartbeat {number}"));
        rig.release(0);
        let done = rig.next(0);
        assert_eq!(done.ticket, Ticket(number));
        assert!(done.result.is_ok());
    }
}

#[test]
fn what_can_wait_is_done_when_nothing_is_asked_for_and_to_its_end() {
    let mut rig = Rig::with_idle_work(&[PRIMARY], 3);
    for number in 0..3 {
        rig.heartbeat(0, PRIMARY, number);
    }
    for number in 0..3 {
        assert_eq!(rig.started(), format!("heartbeat {number}"));
        rig.release(0);
    }
    for left in [3, 2, 1] {
        assert_eq!(rig.started(), format!("idle {left}"));
    }
    // Then it sleeps until it is asked again.
    rig.heartbeat(0, PRIMARY, 3);
    assert_eq!(rig.started(), "heartbeat 3");
    rig.release(0);
    for number in 0..4 {
        assert_eq!(rig.next(0).ticket, Ticket(number));
    }
}

#[test]
fn both_devices_are_in_flight_together() {
    let mut rig = Rig::new(&[PRIMARY, SECONDARY]);
    rig.heartbeat(0, PRIMARY, 1);
    rig.heartbeat(0, SECONDARY, 2);
    // Both have started although neither has ended.
    let mut started = [rig.started(), rig.started()];
    started.sort();
    assert_eq!(started, ["heartbeat 1", "heartbeat 2"]);
    rig.release(1);
    assert_eq!(rig.next(0).ticket, Ticket(2));
    rig.release(0);
    assert_eq!(rig.next(0).ticket, Ticket(1));
}

#[test]
fn a_device_that_hangs_is_answered_for_at_the_deadline() {
    let mut rig = Rig::new(&[PRIMARY]);
    rig.heartbeat(0, PRIMARY, 1);
    rig.heartbeat(10, PRIMARY, 2);
    assert_eq!(rig.started(), "heartbeat 1");
    assert_eq!(rig.mirror.next_deadline(), Time::from_millis(500));
    assert!(rig.mirror.next_completion(Time::from_millis(499)).is_none());
    let timed_out = ReplicaErrorKind::TimedOut;
    assert_eq!(rig.failures(500), [(1, timed_out), (2, timed_out)]);
    assert_eq!(rig.mirror.next_deadline(), Time::NEVER);

    // While the thread is inside, everything fails at once, `Open` too.
    rig.open(600, 3);
    assert_eq!(rig.failures(600), [(3, timed_out)]);

    // It comes back: the late result is dropped, what was behind it never starts.
    rig.release(0);
    rig.woken.recv_timeout(PATIENCE).unwrap();
    rig.woken.recv_timeout(PATIENCE).unwrap();
    assert_eq!(rig.failures(700), []);
    rig.heartbeat(700, PRIMARY, 4);
    assert_eq!(rig.failures(700), [(4, ReplicaErrorKind::Poisoned)]);
    rig.open(700, 5);
    assert_eq!(rig.started(), "Open");
    rig.release(0);
    let done = rig.next(700);
    assert_eq!(done.ticket, Ticket(5));
    assert!(done.result.is_ok());
    rig.heartbeat(700, PRIMARY, 6);
    assert_eq!(rig.started(), "heartbeat 6");
}

#[test]
fn the_deadline_of_what_waits_begins_when_it_is_its_turn() {
    let mut rig = Rig::new(&[PRIMARY]);
    rig.heartbeat(0, PRIMARY, 1);
    rig.heartbeat(0, PRIMARY, 2);
    rig.started();
    rig.release(0);
    assert_eq!(rig.next(400).ticket, Ticket(1));
    assert_eq!(rig.mirror.next_deadline(), Time::from_millis(900));
}

#[test]
fn a_hung_primary_does_not_hold_up_the_secondary() {
    let mut rig = Rig::new(&[PRIMARY, SECONDARY]);
    rig.heartbeat(0, PRIMARY, 1);
    assert_eq!(rig.started(), "heartbeat 1");
    rig.heartbeat(0, SECONDARY, 2);
    assert_eq!(rig.started(), "heartbeat 2");
    rig.release(1);
    assert_eq!(rig.next(100).ticket, Ticket(2));
    assert_eq!(rig.failures(500), [(1, ReplicaErrorKind::TimedOut)]);
}

#[test]
fn updates_go_on_during_a_checkpoint() {
    let mut rig = Rig::new(&[PRIMARY]);
    rig.checkpoint(0, 1);
    assert_eq!(rig.started(), "step 3");
    rig.heartbeat(0, PRIMARY, 2);
    rig.heartbeat(0, PRIMARY, 3);
    rig.release(0);
    for number in [2, 3] {
        assert_eq!(rig.started(), format!("heartbeat {number}"));
        rig.release(0);
        assert_eq!(rig.next(0).ticket, Ticket(number));
    }
    assert_eq!(rig.started(), "step 2");
    let report = rig.mirror.report().next().unwrap();
    let progress = report.progress.unwrap();
    assert_eq!(
        (progress.work, progress.done_bytes, progress.total_bytes),
        (LongWork::Checkpoint, 1, 3)
    );
    rig.release(0);
    assert_eq!(rig.started(), "step 1");
    rig.release(0);
    let done = rig.next(0);
    assert_eq!(done.ticket, Ticket(1));
    assert!(done.result.is_ok());
    let report = rig.mirror.report().next().unwrap();
    assert_eq!((report.progress, report.counted.checkpoints), (None, 1));
    assert_eq!(report.counted.heartbeats.count(), 2);
}

#[test]
fn a_whole_image_and_one_in_pieces_say_how_far_they_are() {
    let mut rig = Rig::new(&[PRIMARY]);
    let far = |rig: &Rig| {
        let progress = rig.mirror.report().next().unwrap().progress;
        progress.map(|progress| (progress.work, progress.done_bytes, progress.total_bytes))
    };
    let database = Database::default();
    let image = ReplicaOp::WriteImage { database };
    rig.mirror.submit(Time::ZERO, Ticket(1), PRIMARY, image);
    for done_bytes in [10, 20] {
        assert_eq!(rig.started(), format!("image {done_bytes}"));
        assert_eq!(far(&rig), Some((LongWork::Image, done_bytes, 20)));
        rig.release(0);
    }
    assert!(rig.next(0).result.is_ok());
    assert_eq!(far(&rig), None);
    for (number, offset) in [(2, 0), (3, 4)] {
        let piece = ReplicaOp::StageImage {
            position: Position::EMPTY,
            len_bytes: 12,
            offset,
            bytes: vec![0; 4],
        };
        rig.mirror.submit(Time::ZERO, Ticket(number), PRIMARY, piece);
        assert_eq!(rig.started(), format!("piece {offset}"));
        rig.release(0);
        assert_eq!(rig.next(0).ticket, Ticket(number));
        assert_eq!(far(&rig), Some((LongWork::Image, offset + 4, 12)));
    }
    // What comes between two pieces ends nothing, opening it anew does.
    rig.heartbeat(0, PRIMARY, 4);
    assert_eq!(rig.started(), "heartbeat 4");
    rig.release(0);
    assert_eq!(rig.next(0).ticket, Ticket(4));
    assert_eq!(far(&rig), Some((LongWork::Image, 8, 12)));
    rig.open(0, 5);
    assert_eq!(rig.started(), "Open");
    rig.release(0);
    assert_eq!(rig.next(0).ticket, Ticket(5));
    assert_eq!(far(&rig), None);
}

#[test]
fn a_steady_stream_of_updates_does_not_starve_a_checkpoint() {
    let mut rig = Rig::new(&[PRIMARY]);
    rig.checkpoint(0, 100);
    assert_eq!(rig.started(), "step 3");
    for number in 0..40 {
        rig.heartbeat(0, PRIMARY, number);
    }
    rig.release(0);
    let mut order = Vec::new();
    for _ in 0..42 {
        order.push(rig.started());
        rig.release(0);
    }
    let step = order.iter().position(|name| name == "step 2").unwrap();
    assert!(step <= 8, "{order:?}");
    assert!(
        order.iter().position(|name| name == "step 1").unwrap() <= 17,
        "{order:?}"
    );
}

#[test]
fn a_checkpoint_that_hangs_is_found_out() {
    let mut rig = Rig::new(&[PRIMARY]);
    rig.checkpoint(0, 1);
    assert_eq!(rig.started(), "step 3");
    // Nothing else is asked for: the checkpoint's own deadline ends it.
    let deadline = rig.mirror.next_deadline();
    assert!(deadline < Time::NEVER);
    let now_ms = deadline.nanos() / 1_000_000;
    assert_eq!(rig.failures(now_ms), [(1, ReplicaErrorKind::TimedOut)]);
    rig.release(0);
    rig.woken.recv_timeout(PATIENCE).unwrap();
    assert_eq!(rig.failures(now_ms), []);
    rig.open(now_ms, 2);
    assert_eq!(rig.started(), "Open");
    rig.release(0);
    assert!(rig.next(now_ms).result.is_ok());
}

#[test]
fn a_newer_image_ends_the_checkpoint_under_way() {
    let mut rig = Rig::new(&[PRIMARY]);
    rig.checkpoint(0, 1);
    assert_eq!(rig.started(), "step 3");
    rig.open(0, 2);
    rig.release(0);
    let given_up = rig.next(0);
    assert_eq!(given_up.ticket, Ticket(1));
    assert_eq!(given_up.result.unwrap_err().kind, ReplicaErrorKind::Poisoned);
    assert_eq!(rig.started(), "Open");
}

#[test]
fn a_repair_keeps_its_place_among_the_updates() {
    let mut rig = Rig::new(&[PRIMARY]);
    rig.heartbeat(0, PRIMARY, 1);
    rig.mirror
        .submit_repair(Time::ZERO, Ticket(2), PRIMARY, Database::default());
    rig.heartbeat(0, PRIMARY, 3);
    for (number, name) in [(1, "heartbeat 1"), (2, "repair"), (3, "heartbeat 3")] {
        assert_eq!(rig.started(), name);
        rig.release(0);
        assert_eq!(rig.next(0).ticket, Ticket(number));
    }
}

#[test]
fn a_replica_that_does_not_exist_is_refused() {
    let mut rig = Rig::new(&[PRIMARY]);
    rig.heartbeat(0, SECONDARY, 1);
    assert_eq!(rig.failures(0), [(1, ReplicaErrorKind::Io)]);
}

/// Answers at once, or after a pause that a slow disk would make.
struct Disk {
    pause: Duration,
    thread: Arc<Mutex<Option<std::thread::ThreadId>>>,
}

impl Store for Disk {
    fn execute(&mut self, _: ReplicaOp) -> Result<ReplicaAnswer, ReplicaError> {
        std::thread::sleep(self.pause);
        *self.thread.lock().unwrap() = Some(std::thread::current().id());
        Ok(ReplicaAnswer::Written)
    }
    fn repair(&mut self, _: Database) -> Result<(), ReplicaError> {
        Ok(())
    }
    fn begin_checkpoint(&mut self, _: Database) -> Result<(), ReplicaError> {
        Ok(())
    }
    fn step_checkpoint(&mut self) -> Result<StoreStep, ReplicaError> {
        Ok(StoreStep::Done)
    }
    fn abandon_checkpoint(&mut self) {}
}

fn append() -> ReplicaOp {
    let record = Record::open(Position::EMPTY, Epoch(1));
    ReplicaOp::Append {
        record: Arc::new(record),
        then_survey: false,
    }
}

#[test]
fn a_fast_local_copy_is_appended_to_directly_and_a_slow_one_by_its_thread() {
    for (pause, replica, second_is_direct) in [
        (Duration::ZERO, Replica::Local, true),
        (Duration::from_millis(20), Replica::Local, false),
        (Duration::ZERO, PRIMARY, false),
    ] {
        let thread = Arc::new(Mutex::new(None));
        let (wake, woken) = channel();
        let wake = Mutex::new(wake);
        let mut mirror = Mirror::new(
            PATIENCE,
            Arc::new(move || {
                let _ = wake.lock().unwrap().send(());
            }),
        );
        let disk = Disk {
            pause,
            thread: thread.clone(),
        };
        mirror.attach(replica, disk).unwrap();
        let now = Time::from_millis(1);
        for ticket in [Ticket(1), Ticket(2)] {
            mirror.submit(now, ticket, replica, append());
            let direct = mirror.next_direct();
            if ticket == Ticket(2) {
                assert_eq!(direct.is_some(), second_is_direct, "{replica}, {pause:?}");
            }
            let done = direct.unwrap_or_else(|| {
                woken.recv_timeout(PATIENCE).expect("the thread answers");
                mirror.next_completion(now).expect("the answer is there")
            });
            assert_eq!(done.ticket, ticket);
            assert!(done.result.is_ok());
        }
        let by_caller = *thread.lock().unwrap() == Some(std::thread::current().id());
        assert_eq!(by_caller, second_is_direct, "{replica}, {pause:?}");
    }
}
