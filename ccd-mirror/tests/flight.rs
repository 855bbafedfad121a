//! Appends that go past the threads, on regions in real files: order, deadlines, failures. What carries the transfers does so only
//! when the test says so, but for the last test, which uses the kernel's ring where it has one.

mod support;

use ccd_core::configuration::{Ballot, BallotBlock};
use ccd_core::database::{Database, Record};
use ccd_core::ids::{ClusterId, DeviceRole, Epoch, Incarnation, NodeId, Position, Replica};
use ccd_core::protocol::Ticket;
use ccd_core::replica::{Heartbeat, ReplicaAnswer, ReplicaError, ReplicaErrorKind, ReplicaOp, Survey};
use ccd_core::time::Time;
use ccd_disk::device::{Carrier, Landed, Landing, Ring, RingTarget, Transfer, Way};
use ccd_disk::{
    Access, Blocks, ExpectedIdentity, MkfsOptions, RawDevice, Region, RegionId, ReplicaDriver, create,
};
use ccd_mirror::{Completion, Mirror, Store, StoreStep};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::PATIENCE;

const PRIMARY: Replica = Replica::Device(DeviceRole::Primary);
const SECONDARY: Replica = Replica::Device(DeviceRole::Secondary);
const CLUSTER: ClusterId = ClusterId([7; 16]);
const DEADLINE: Duration = Duration::from_millis(500);

/// A region in a file. Tells which operations its thread did.
struct Device {
    driver: ReplicaDriver,
    by_thread: Arc<Mutex<Vec<&'static str>>>,
}

impl Store for Device {
    fn region(&mut self) -> Option<&mut Region> {
        self.driver.region().ok()
    }
    fn execute(&mut self, op: ReplicaOp) -> Result<ReplicaAnswer, ReplicaError> {
        self.by_thread.lock().unwrap().push(match op {
            ReplicaOp::Append { .. } => "append",
            ReplicaOp::WriteHeartbeat { .. } => "heartbeat",
            _ => "other",
        });
        self.driver.execute(op)
    }
    fn repair(&mut self, _: Database) -> Result<(), ReplicaError> {
        unreachable!("not asked for")
    }
    fn begin_checkpoint(&mut self, _: Database) -> Result<(), ReplicaError> {
        unreachable!("not asked for")
    }
    fn step_checkpoint(&mut self) -> Result<StoreStep, ReplicaError> {
        unreachable!("not asked for")
    }
    fn abandon_checkpoint(&mut self) {}
}

/// What the test has in hand: transfers on their way, and those that it has let land.
#[derive(Debug, Default)]
struct Desk {
    flying: VecDeque<(u64, Transfer)>,
    landed: VecDeque<Landed>,
    refuses: bool,
}

#[derive(Clone, Debug, Default)]
struct ByHand(Rc<RefCell<Desk>>);

impl Carrier for ByHand {
    fn start(&mut self, tag: u64, _: &RingTarget, transfer: Transfer) -> Result<(), Landed> {
        let mut desk = self.0.borrow_mut();
        if desk.refuses {
            let landing = Landing::Unfinished;
            return Err(Landed {
                tag,
                transfer,
                landing,
            });
        }
        desk.flying.push_back((tag, transfer));
        Ok(())
    }
    fn depart(&mut self) {}
    fn take(&mut self) -> Option<Landed> {
        self.0.borrow_mut().landed.pop_front()
    }
    fn has_news(&self) -> bool {
        !self.0.borrow().landed.is_empty()
    }
}

struct Rig {
    mirror: Mirror,
    woken: Receiver<()>,
    by_hand: ByHand,
    by_thread: Arc<Mutex<Vec<&'static str>>>,
    paths: [PathBuf; 2],
    at: Position,
    _folder: tempfile::TempDir,
}

fn node(number: u8) -> NodeId {
    NodeId::new(number).unwrap()
}

fn identity(replica: Replica, number: u8) -> ExpectedIdentity {
    ExpectedIdentity {
        cluster: CLUSTER,
        replica,
        node: node(number),
    }
}

impl Rig {
    /// Both devices open and read.
    fn new() -> Self {
        // Beside the build, which is on a disk: /tmp may know no O_DIRECT.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (wake, woken) = channel();
        let wake = Mutex::new(wake);
        let wake = Arc::new(move || {
            let _ = wake.lock().unwrap().send(());
        });
        let mut mirror = Mirror::new(DEADLINE, wake);
        let by_thread = Arc::new(Mutex::new(Vec::new()));
        let paths = ["primary", "secondary"].map(|name| folder.path().join(name));
        for (replica, path) in [PRIMARY, SECONDARY].into_iter().zip(&paths) {
            let options = MkfsOptions::device(CLUSTER, RegionId([1; 16]), replica, 2).tiny();
            let file = RawDevice::create_file(path, options.len_bytes().unwrap()).unwrap();
            create(Box::new(file), &options).unwrap();
            let path = path.clone();
            let opener = move || Ok(Box::new(RawDevice::open(&path, Access::Shared)?) as Box<dyn Blocks>);
            let keeper = |_: &Database, _: &str| Err(io::Error::other("keeps none"));
            let driver = ReplicaDriver::new(identity(replica, 0), Box::new(opener), Box::new(keeper));
            let by_thread = by_thread.clone();
            mirror.attach(replica, Device { driver, by_thread }).unwrap();
        }
        let mut rig = Self {
            mirror,
            woken,
            by_hand: ByHand::default(),
            by_thread,
            paths,
            at: Position::EMPTY,
            _folder: folder,
        };
        for replica in [PRIMARY, SECONDARY] {
            rig.open_and_load(0, replica);
        }
        rig.by_thread.lock().unwrap().clear();
        rig.mirror.use_ring(Box::new(rig.by_hand.clone()));
        rig
    }

    fn submit(&mut self, now_ms: u64, ticket: u64, replica: Replica, op: ReplicaOp) {
        let now = Time::from_millis(now_ms);
        self.mirror.submit(now, Ticket(ticket), replica, op);
        self.mirror.depart();
    }

    fn open_and_load(&mut self, now_ms: u64, replica: Replica) {
        for op in [ReplicaOp::Open, ReplicaOp::Load] {
            self.submit(now_ms, 0, replica, op);
            self.next(now_ms).result.unwrap();
        }
    }

    /// The next record, for one device or both.
    fn record(&mut self) -> Arc<Record> {
        let record = Record::open(self.at, Epoch(self.at.stamp.epoch.0 + 1));
        self.at = record.next;
        Arc::new(record)
    }

    fn append(&mut self, now_ms: u64, ticket: u64, replica: Replica, record: &Arc<Record>) {
        let op = ReplicaOp::Append {
            record: record.clone(),
            then_survey: true,
        };
        self.submit(now_ms, ticket, replica, op);
    }

    fn heartbeat(&mut self, ticket: u64, replica: Replica) {
        let heartbeat = Heartbeat::default();
        self.submit(0, ticket, replica, ReplicaOp::WriteHeartbeat { heartbeat });
    }

    /// What is on its way: to which device, and which way.
    fn flying(&self) -> Vec<(usize, Way)> {
        let desk = self.by_hand.0.borrow();
        let flights = desk.flying.iter();
        flights
            .map(|(tag, transfer)| (*tag as usize, transfer.way))
            .collect()
    }

    /// Lets the oldest transfer land: carried out, or otherwise.
    fn land(&self, otherwise: Option<Landing>) {
        let mut desk = self.by_hand.0.borrow_mut();
        let (tag, mut transfer) = desk.flying.pop_front().expect("something is on its way");
        let landing = otherwise.unwrap_or_else(|| {
            let mut device = RawDevice::open(&self.paths[tag as usize], Access::Shared).unwrap();
            match transfer.way {
                Way::Read => device.read_at(transfer.offset, &mut transfer.blocks),
                Way::Write => device.write_at(transfer.offset, &transfer.blocks),
            }
            .unwrap();
            Landing::Whole
        });
        desk.landed.push_back(Landed {
            tag,
            transfer,
            landing,
        });
    }

    fn completions(&mut self, now_ms: u64) -> Vec<Completion> {
        std::iter::from_fn(|| self.mirror.next_completion(Time::from_millis(now_ms))).collect()
    }

    fn failures(&mut self, now_ms: u64) -> Vec<(u64, ReplicaErrorKind)> {
        support::failures(&mut self.mirror, now_ms)
    }

    fn next(&mut self, now_ms: u64) -> Completion {
        support::next(&mut self.mirror, &self.woken, now_ms)
    }

    /// What somebody else finds on a device.
    fn position_on(&self, device: usize) -> Position {
        let replica = [PRIMARY, SECONDARY][device];
        let blocks = RawDevice::open(&self.paths[device], Access::Shared).unwrap();
        let mut region = Region::open(Box::new(blocks), identity(replica, 0)).unwrap();
        region.own_position().unwrap()
    }
}

fn survey(completion: Completion) -> Survey {
    match completion.result.unwrap() {
        ReplicaAnswer::Appended {
            survey: Some(survey), ..
        } => survey,
        other => panic!("{other:?}"),
    }
}

#[test]
fn both_devices_are_written_together_and_each_claim_check_reads_after_its_own_write() {
    let mut rig = Rig::new();
    let record = rig.record();
    rig.append(0, 1, PRIMARY, &record);
    rig.append(0, 2, SECONDARY, &record);
    assert_eq!(rig.flying(), [(0, Way::Write), (1, Way::Write)]);
    rig.land(None);
    assert!(rig.completions(0).is_empty());
    assert_eq!(rig.flying(), [(1, Way::Write), (0, Way::Read)]);
    rig.land(None);
    rig.land(None);
    let done = rig.completions(0);
    assert_eq!(
        done.iter().map(|done| done.ticket).collect::<Vec<_>>(),
        [Ticket(1)]
    );
    assert_eq!(rig.flying(), [(1, Way::Read)]);
    rig.land(None);
    let by_ring = survey(rig.completions(0).remove(0));
    assert_eq!([rig.position_on(0), rig.position_on(1)], [record.next; 2]);
    assert_eq!(*rig.by_thread.lock().unwrap(), [""; 0]);

    // A thread says the same.
    rig.by_hand.0.borrow_mut().refuses = true;
    let record = rig.record();
    rig.append(0, 3, PRIMARY, &record);
    assert_eq!(survey(rig.next(0)), by_ring);
    assert_eq!(*rig.by_thread.lock().unwrap(), ["append"]);
    assert_eq!(rig.position_on(0), record.next);
}

#[test]
fn a_claim_that_was_made_before_the_read_is_in_the_answer() {
    let mut rig = Rig::new();
    let record = rig.record();
    rig.append(0, 1, PRIMARY, &record);
    rig.land(None);
    assert!(rig.completions(0).is_empty());
    let ballot = BallotBlock {
        instance: Epoch(9),
        promised: Ballot {
            round: 1,
            node: node(1),
            incarnation: Incarnation(7),
        },
        accepted: None,
    };
    let blocks = RawDevice::open(&rig.paths[0], Access::Shared).unwrap();
    let mut other = Region::open(Box::new(blocks), identity(PRIMARY, 1)).unwrap();
    let op = ReplicaOp::WriteBallot {
        ballot: ballot.clone(),
    };
    other.execute(op).unwrap();
    rig.land(None);
    let found = survey(rig.completions(0).remove(0));
    assert_eq!(found.areas[1].ballot, Some(ballot));
}

#[test]
fn what_is_asked_behind_a_flight_waits_for_it_and_goes_to_the_thread() {
    let mut rig = Rig::new();
    let (first, second) = (rig.record(), rig.record());
    rig.append(0, 1, PRIMARY, &first);
    rig.heartbeat(2, PRIMARY);
    rig.append(0, 3, PRIMARY, &second);
    rig.land(None);
    assert!(rig.completions(0).is_empty());
    assert_eq!(rig.flying(), [(0, Way::Read)]);
    assert_eq!(*rig.by_thread.lock().unwrap(), [""; 0]);
    rig.land(None);
    for ticket in [1, 2, 3] {
        let done = rig.next(0);
        assert_eq!(done.ticket, Ticket(ticket));
        done.result.unwrap();
    }
    assert_eq!(*rig.by_thread.lock().unwrap(), ["heartbeat", "append"]);
    assert_eq!(rig.position_on(0), second.next);
}

#[test]
fn a_flight_that_hangs_is_answered_at_its_deadline_and_the_replica_opened_only_when_it_is_back() {
    let timed_out = ReplicaErrorKind::TimedOut;
    // It hangs in its write, or in its read.
    for transfers in [0, 1] {
        let mut rig = Rig::new();
        let (first, second) = (rig.record(), rig.record());
        rig.append(0, 1, PRIMARY, &first);
        for _ in 0..transfers {
            rig.land(None);
            assert!(rig.completions(0).is_empty());
        }
        rig.append(10, 2, PRIMARY, &second);
        rig.append(10, 3, SECONDARY, &first);
        assert_eq!(rig.mirror.next_deadline(), Time::from_millis(500));
        assert!(rig.completions(499).is_empty());
        assert_eq!(rig.failures(500), [(1, timed_out), (2, timed_out)]);
        rig.submit(505, 4, PRIMARY, ReplicaOp::Open);
        assert_eq!(rig.failures(505), [(4, timed_out)]);
        // It comes back: nobody hears of it, nothing follows it, and the device can be opened.
        rig.land(None);
        assert!(rig.completions(508).is_empty());
        assert_eq!(rig.flying(), [(1, Way::Write)]);
        rig.heartbeat(5, PRIMARY);
        assert_eq!(rig.failures(509), [(5, ReplicaErrorKind::Poisoned)]);
        rig.open_and_load(509, PRIMARY);
        assert_eq!(rig.position_on(0), first.next);
        rig.append(509, 6, PRIMARY, &second);
        assert_eq!(rig.flying(), [(1, Way::Write), (0, Way::Write)]);
    }
}

#[test]
fn a_failed_write_poisons_the_region_and_a_refused_one_is_a_fence() {
    for (errno, kind) in [
        (libc::EIO, ReplicaErrorKind::Io),
        (libc::EBADE, ReplicaErrorKind::Fenced),
    ] {
        let mut rig = Rig::new();
        let record = rig.record();
        rig.append(0, 1, PRIMARY, &record);
        rig.land(Some(Landing::Failed(io::Error::from_raw_os_error(errno))));
        assert_eq!(rig.failures(0), [(1, kind)]);
        assert_eq!(rig.flying(), []);
        rig.append(0, 2, PRIMARY, &record);
        assert_eq!(rig.failures(0), [(2, ReplicaErrorKind::Poisoned)]);
        rig.open_and_load(0, PRIMARY);
        rig.append(0, 3, PRIMARY, &record);
        assert_eq!(rig.flying(), [(0, Way::Write)]);
    }
}

#[test]
fn a_failed_read_fails_the_append_whose_record_stays() {
    let mut rig = Rig::new();
    let (first, second) = (rig.record(), rig.record());
    rig.append(0, 1, PRIMARY, &first);
    rig.land(None);
    assert!(rig.completions(0).is_empty());
    // Not finished once is tried again.
    rig.land(Some(Landing::Unfinished));
    assert!(rig.completions(0).is_empty());
    assert_eq!(rig.flying(), [(0, Way::Read)]);
    rig.land(Some(Landing::Failed(io::Error::from_raw_os_error(libc::EIO))));
    assert_eq!(rig.failures(0), [(1, ReplicaErrorKind::Io)]);
    rig.append(0, 2, PRIMARY, &second);
    rig.land(None);
    assert!(rig.completions(0).is_empty());
    rig.land(None);
    survey(rig.completions(0).remove(0));
    assert_eq!(rig.position_on(0), second.next);
}

#[test]
fn what_the_ring_leaves_unfinished_the_thread_does_and_the_next_until_it_is_opened_anew() {
    let mut rig = Rig::new();
    for ticket in [1, 2] {
        let record = rig.record();
        rig.append(0, ticket, PRIMARY, &record);
        if ticket == 1 {
            rig.heartbeat(9, PRIMARY);
            rig.land(Some(Landing::Unfinished));
        }
        assert_eq!(rig.flying(), [] as [(usize, Way); 0]);
        let done = rig.next(0);
        assert_eq!(done.ticket, Ticket(ticket));
        survey(done);
        if ticket == 1 {
            assert_eq!(rig.next(0).ticket, Ticket(9));
        }
        assert_eq!(rig.position_on(0), record.next);
    }
    assert_eq!(*rig.by_thread.lock().unwrap(), ["append", "heartbeat", "append"]);
    rig.open_and_load(0, PRIMARY);
    let record = rig.record();
    rig.append(0, 3, PRIMARY, &record);
    assert_eq!(rig.flying(), [(0, Way::Write)]);
}

#[test]
fn a_record_that_does_not_continue_the_region_is_refused_without_a_write() {
    let mut rig = Rig::new();
    rig.record();
    let second = rig.record();
    rig.append(0, 1, PRIMARY, &second);
    assert_eq!(rig.flying(), []);
    assert_eq!(rig.failures(0), [(1, ReplicaErrorKind::Damaged)]);
}

#[test]
fn the_kernels_ring_carries_appends_to_both_devices() {
    let mut rig = Rig::new();
    let ring = match Ring::new() {
        Ok(ring) => ring,
        // The daemon uses threads then, which the other tests are about.
        Err(refused) => {
            let known = [libc::ENOSYS, libc::EPERM, libc::EINVAL].map(Some);
            assert!(known.contains(&refused.raw_os_error()), "{refused}");
            return;
        }
    };
    rig.mirror.use_ring(Box::new(ring));
    let patience_ms = PATIENCE.as_millis() as u64;
    for round in 0..10 {
        let record = rig.record();
        rig.append(patience_ms, round * 2, PRIMARY, &record);
        rig.append(patience_ms, round * 2 + 1, SECONDARY, &record);
        let begun = Instant::now();
        let mut done = Vec::new();
        while done.len() < 2 {
            assert!(begun.elapsed() < PATIENCE, "the ring answers");
            done.extend(rig.completions(patience_ms));
            std::thread::yield_now();
        }
        done.sort_by_key(|done| done.ticket.0);
        assert_eq!(done[0].ticket, Ticket(round * 2));
        for done in done {
            assert_eq!(survey(done).areas.len(), 2);
        }
        assert_eq!([rig.position_on(0), rig.position_on(1)], [record.next; 2]);
    }
    assert_eq!(*rig.by_thread.lock().unwrap(), [""; 0]);
}
