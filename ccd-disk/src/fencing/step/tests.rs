//! Steps on an array that behaves as the measured ones do, with the traps it is told to set.

use super::super::Enforcement;
use super::super::paths::DeviceKind;
use super::super::readback::entry;
use super::*;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// A unit behind two target ports, and the kernel's view of the paths to it.
#[derive(Default)]
struct Array {
    generation: u32,
    /// Path by path (0, 1: ours; 2: the other node's).
    registered: [Option<u64>; 3],
    holder: Option<(u64, bool)>,
    /// Attentions that wait on each path.
    attentions: [u32; 3],
    states: [&'static str; 3],
    /// The path takes that long for anything.
    slow: [Duration; 3],
    refuses_persistence: bool,
    /// Trap 13: the key is in, and the answer says it is not, once.
    denies_persistence: bool,
    persists: bool,
    sent: Vec<(usize, Change)>,
    no_reading: bool,
    /// The target takes writes from anybody (spdk/spdk #3409).
    enforces_nothing: bool,
    wwid: &'static str,
}

#[derive(Clone)]
struct Shared(Arc<Mutex<Array>>);

impl Shared {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Array {
            states: ["running"; 3],
            wwid: "naa.1",
            ..Array::default()
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Array> {
        self.0.lock().unwrap()
    }

    fn fence(&self) -> Fence {
        Fence::on(Box::new(FakeDisks {
            array: self.clone(),
            paths: vec![0, 1],
        }))
        .unwrap()
    }

    /// The other node, with one path.
    fn peer(&self) -> Fence {
        Fence::on(Box::new(FakeDisks {
            array: self.clone(),
            paths: vec![2],
        }))
        .unwrap()
    }

    fn sent(&self) -> Vec<(usize, Change)> {
        std::mem::take(&mut self.lock().sent)
    }
}

struct FakeDisks {
    array: Shared,
    paths: Vec<usize>,
}

struct FakeUnit {
    array: Shared,
    path: usize,
}

impl Disks for FakeDisks {
    fn scan(&mut self) -> Result<DeviceIdentity, FenceError> {
        let array = self.array.lock();
        let paths = self.paths.iter().map(|path| PathIdentity {
            name: format!("sd{path}"),
            state: array.states[*path].to_owned(),
            port: Some(*path as u16),
            number: *path as u64,
            node: PathBuf::new(),
        });
        Ok(DeviceIdentity {
            device: "/dev/mapper/p".to_owned(),
            kind: DeviceKind::Multipath,
            wwid: Some(array.wwid.to_owned()),
            paths: paths.collect(),
            obstacle: None,
            local: String::new(),
        })
    }

    fn open(&mut self, _: &DeviceIdentity, path: &PathIdentity) -> io::Result<Box<dyn Unit>> {
        Ok(Box::new(FakeUnit {
            array: self.array.clone(),
            path: path.number as usize,
        }))
    }

    fn write_zeros(&mut self, path: &PathIdentity) -> io::Result<()> {
        let array = self.array.lock();
        let registered = array.registered[path.number as usize].is_some();
        if registered || array.holder.is_none() || array.enforces_nothing {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::EBADE))
        }
    }
}

impl FakeUnit {
    fn attention(&self, array: &mut Array) -> Option<Outcome> {
        let left = &mut array.attentions[self.path];
        *left = left.checked_sub(1)?;
        Some(Outcome::Again("sense 6/2a/05".to_owned()))
    }

    fn linger(&self) {
        let slow = self.array.lock().slow[self.path];
        std::thread::sleep(slow);
    }
}

impl Unit for FakeUnit {
    fn change(&mut self, change: Change) -> Outcome {
        self.linger();
        let array = &mut *self.array.lock();
        array.sent.push((self.path, change));
        if let Some(attention) = self.attention(array) {
            return attention;
        }
        let is_mine = |key: ReservationKey, array: &Array| array.registered[self.path] == Some(key.bits());
        match change {
            Change::Register { key, persist } => {
                if persist && array.refuses_persistence {
                    return Outcome::Unsupported("sense 5/26/00".to_owned());
                }
                let known = array.registered[self.path].replace(key.bits()).is_some();
                array.generation += 1;
                array.persists = persist && !array.denies_persistence;
                if persist && array.denies_persistence && !known {
                    return Outcome::Refused("sense 2/08/00".to_owned());
                }
                Outcome::Done
            }
            Change::Reserve { key } => {
                if !is_mine(key, array) || array.holder.is_some_and(|held| held != (key.bits(), true)) {
                    return Outcome::Conflict;
                }
                array.holder = Some((key.bits(), true));
                Outcome::Done
            }
            Change::PreemptAbort { key, victim } => {
                let victim = Some(victim.bits());
                if !is_mine(key, array) || !array.registered.contains(&victim) {
                    return Outcome::Conflict;
                }
                for registered in &mut array.registered {
                    if *registered == victim {
                        *registered = None;
                    }
                }
                if array.holder.map(|held| held.0) == victim {
                    array.holder = Some((key.bits(), true));
                }
                array.generation += 1;
                Outcome::Done
            }
            Change::Clear { key } => {
                if !is_mine(key, array) {
                    return Outcome::Conflict;
                }
                array.registered = [None; 3];
                array.holder = None;
                Outcome::Done
            }
        }
    }

    fn read(&mut self, ports: bool) -> Result<ReadBack, Outcome> {
        self.linger();
        let array = self.array.lock();
        if array.no_reading {
            return Err(Outcome::Path("host status 0x1".to_owned()));
        }
        let entries = array.registered.iter().enumerate().filter_map(|(path, key)| {
            Some(Entry {
                port: ports.then_some(path as u16),
                initiator: ports.then(|| format!("iqn.x:{}", path / 2)),
                ..entry((*key)?)
            })
        });
        Ok(ReadBack {
            generation: array.generation,
            entries: entries.collect(),
            holder: array.holder.map(|(key, right_type)| Holder {
                key: ReservationKey::from_bits(key),
                right_type,
            }),
            per_host: false,
        })
    }

    fn persists(&mut self) -> Option<bool> {
        Some(self.array.lock().persists)
    }
}

fn key(bits: u64) -> ReservationKey {
    ReservationKey::from_bits(bits)
}

const A: u64 = 0xa1;
const B: u64 = 0xb1;

#[test]
fn every_path_is_registered_and_then_one_reserves() {
    let array = Shared::new();
    let mut fence = array.fence();
    assert!(fence.execute(FenceOp::Look).unwrap().is_empty());
    let read = fence.execute(FenceOp::Register { key: key(A) }).unwrap();
    assert_eq!(
        (read.keys.clone(), read.holder, read.paths_missing),
        (vec![key(A)], None, 0)
    );
    assert_eq!(array.lock().registered, [Some(A), Some(A), None]);
    let read = fence.execute(FenceOp::Reserve { key: key(A) }).unwrap();
    assert!(read.held_by(key(A)));
    assert_eq!(fence.notes(), &[] as &[String]);
    array.sent();
    assert!(
        fence
            .execute(FenceOp::Reserve { key: key(A) })
            .unwrap()
            .held_by(key(A))
    );
    assert_eq!(array.sent(), [], "what is done already is not sent again");
    // A new incarnation: whatever was registered before is replaced.
    let read = fence.execute(FenceOp::Register { key: key(A + 1) }).unwrap();
    assert_eq!(read.keys, [key(A + 1)]);
}

/// Trap 9, and opensvc/opensvc #30: a path that came later has no key.
#[test]
fn a_new_path_is_missing_until_it_is_registered() {
    let array = Shared::new();
    array.lock().states[1] = "transport-offline";
    let mut fence = array.fence();
    fence.execute(FenceOp::Register { key: key(A) }).unwrap();
    assert_eq!(array.lock().registered, [Some(A), None, None]);
    assert_eq!(fence.execute(FenceOp::Look).unwrap().paths_missing, 0);
    array.lock().states[1] = "running";
    assert_eq!(fence.execute(FenceOp::Look).unwrap().paths_missing, 1);
    let read = fence.execute(FenceOp::Register { key: key(A) }).unwrap();
    assert_eq!((read.paths_missing, read.keys.as_slice()), (0, &[key(A)][..]));
    // Fenced: missing everywhere is not "some paths are missing".
    array.lock().registered = [None, None, Some(B)];
    let read = fence.execute(FenceOp::Look).unwrap();
    assert_eq!((read.paths_missing, read.keys.as_slice()), (0, &[key(B)][..]));
}

#[test]
fn a_peer_is_preempted_and_the_reservation_taken() {
    let array = Shared::new();
    let (mut fence, mut peer) = (array.fence(), array.peer());
    fence.execute(FenceOp::Register { key: key(A) }).unwrap();
    peer.execute(FenceOp::Register { key: key(B) }).unwrap();
    peer.execute(FenceOp::Reserve { key: key(B) }).unwrap();
    // Held by another: not taken by RESERVE, and read back at once.
    assert!(
        fence
            .execute(FenceOp::Reserve { key: key(A) })
            .unwrap()
            .held_by(key(B))
    );
    let preempt = FenceOp::PreemptAbort {
        key: key(A),
        victim: key(B),
    };
    let read = fence.execute(preempt).unwrap();
    assert!(read.held_by(key(A)) && !read.has(key(B)));
    array.sent();
    // Again, as after a crash in between: the victim is gone, nothing is sent.
    assert_eq!(fence.execute(preempt).unwrap(), read);
    assert_eq!(array.sent(), []);
    // The victim cannot do the same, and sees why.
    let back = FenceOp::PreemptAbort {
        key: key(B),
        victim: key(A),
    };
    let read = peer.execute(back).unwrap();
    assert!(read.held_by(key(A)) && !read.has(key(B)));
}

/// Trap 5.
#[test]
fn preempting_where_nobody_holds_it_shows_that_nobody_does() {
    let array = Shared::new();
    let (mut fence, mut peer) = (array.fence(), array.peer());
    fence.execute(FenceOp::Register { key: key(A) }).unwrap();
    peer.execute(FenceOp::Register { key: key(B) }).unwrap();
    let read = fence
        .execute(FenceOp::PreemptAbort {
            key: key(A),
            victim: key(B),
        })
        .unwrap();
    assert_eq!((read.keys.as_slice(), read.holder), (&[key(A)][..], None));
}

/// ClusterLabs/fence-agents #594 and #576.
#[test]
fn a_node_never_preempts_itself() {
    let array = Shared::new();
    let mut fence = array.fence();
    fence.execute(FenceOp::Register { key: key(A) }).unwrap();
    array.sent();
    for victim in [key(A), key(0)] {
        let refused = fence.execute(FenceOp::PreemptAbort { key: key(A), victim });
        assert!(matches!(refused, Err(FenceError::Senseless { .. })), "{victim}");
    }
    assert_eq!(array.sent(), []);
}

#[test]
fn an_unknown_outcome_is_read_back_and_tried_on_the_next_path() {
    let array = Shared::new();
    let mut fence = array.fence();
    fence.execute(FenceOp::Register { key: key(A) }).unwrap();
    // As 6.1 without sense: the disk did not reserve, and said 2.
    array.lock().attentions[0] = 1;
    let read = fence.execute(FenceOp::Reserve { key: key(A) }).unwrap();
    assert!(read.held_by(key(A)));
    let paths: Vec<_> = array.sent().iter().map(|sent| sent.0).collect();
    assert_eq!(paths, [0, 1, 0, 1], "registered on both, reserved on the second");
}

/// Trap 13.
#[test]
fn a_target_that_forgets_at_a_power_loss_is_used_and_told_of() {
    for (refuses, denies) in [(true, false), (false, true)] {
        let array = Shared::new();
        array.lock().refuses_persistence = refuses;
        array.lock().denies_persistence = denies;
        let mut fence = array.fence();
        let read = fence.execute(FenceOp::Register { key: key(A) }).unwrap();
        assert_eq!((read.keys.as_slice(), read.paths_missing), (&[key(A)][..], 0));
        let notes = fence.notes();
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].contains("does not keep registrations"), "{notes:?}");
    }
}

#[test]
fn a_path_that_hangs_is_passed_by() {
    let array = Shared::new();
    let mut fence = array.fence();
    fence.execute(FenceOp::Register { key: key(A) }).unwrap();
    array.lock().slow[0] = Duration::from_secs(4);
    let begun = Instant::now();
    let read = fence.execute(FenceOp::Reserve { key: key(A) }).unwrap();
    assert!(read.held_by(key(A)));
    let first = begun.elapsed();
    assert!(
        first >= READ_PATIENCE && first < Duration::from_secs(4),
        "{first:?}"
    );
    // It is busy now, which costs nothing.
    let begun = Instant::now();
    assert!(fence.execute(FenceOp::Look).unwrap().held_by(key(A)));
    assert!(begun.elapsed() < READ_PATIENCE, "{:?}", begun.elapsed());
}

/// A machine or target that is slow altogether is not one whose paths are dead.
#[test]
fn where_every_path_is_slow_the_last_one_is_waited_for() {
    let array = Shared::new();
    let mut fence = array.fence();
    fence.execute(FenceOp::Register { key: key(A) }).unwrap();
    array.lock().slow = [READ_PATIENCE + Duration::from_millis(300); 3];
    assert!(fence.execute(FenceOp::Look).unwrap().has(key(A)));
}

#[test]
fn what_cannot_be_read_back_is_not_known() {
    let array = Shared::new();
    let mut fence = array.fence();
    fence.execute(FenceOp::Register { key: key(A) }).unwrap();
    array.lock().no_reading = true;
    let refused = fence.execute(FenceOp::Look).unwrap_err().to_string();
    assert!(
        refused.contains("CCD-2062") && refused.contains("sd0: the path does not work"),
        "{refused}"
    );
    let refused = fence
        .execute(FenceOp::Register { key: key(A) })
        .unwrap_err()
        .to_string();
    assert!(refused.contains("CCD-2063"), "{refused}");
    let refused = array
        .peer()
        .execute(FenceOp::Register { key: key(B) })
        .unwrap_err()
        .to_string();
    assert!(refused.contains("CCD-2062"), "{refused}");
    array.lock().no_reading = false;
    assert!(fence.execute(FenceOp::Look).unwrap().has(key(A)));
    array.lock().states = ["blocked"; 3];
    let refused = fence.execute(FenceOp::Look).unwrap_err().to_string();
    assert!(refused.contains("sd1 is in state blocked"), "{refused}");
}

#[test]
fn an_operator_can_clear_everything() {
    let array = Shared::new();
    let (mut fence, mut peer) = (array.fence(), array.peer());
    peer.execute(FenceOp::Register { key: key(B) }).unwrap();
    // Not registered: refused by the disk, which shows.
    assert!(fence.clear(key(A)).unwrap().has(key(B)));
    fence.execute(FenceOp::Register { key: key(A) }).unwrap();
    let shown = fence.inspect().unwrap();
    let times: Vec<_> = shown
        .keys
        .iter()
        .map(|key| (key.times, key.ports.clone(), key.initiators.join(" ")))
        .collect();
    assert_eq!(
        times,
        [
            (2, vec![0, 1], "iqn.x:0".to_owned()),
            (1, vec![2], "iqn.x:1".to_owned())
        ]
    );
    assert!(fence.clear(key(A)).unwrap().is_empty());
}

#[test]
fn another_disk_under_the_same_name_starts_anew() {
    let array = Shared::new();
    let mut fence = array.fence();
    fence.execute(FenceOp::Register { key: key(A) }).unwrap();
    array.lock().wwid = "naa.2";
    array.lock().registered = [Some(A), None, None];
    assert_eq!(fence.execute(FenceOp::Look).unwrap().paths_missing, 0);
    assert_eq!(fence.identity().wwid.as_deref(), Some("naa.2"));
}

#[test]
fn missing_paths_are_counted_where_ports_do_not_agree() {
    let path = |name: &str, port| PathIdentity {
        name: name.to_owned(),
        state: "running".to_owned(),
        port,
        number: 0,
        node: PathBuf::new(),
    };
    let registered = |port| Entry { port, ..entry(A) };
    let read = |entries: &[Entry], per_host| ReadBack {
        entries: entries.to_vec(),
        per_host,
        ..ReadBack::default()
    };
    let (one, two) = (path("sda", Some(1)), path("sdb", Some(2)));
    let unnamed = path("sdc", None);
    let everywhere = Entry {
        all_ports: true,
        ..registered(Some(1))
    };
    let stale = registered(Some(1));
    for (about, paths, entries, per_host, expected) in [
        (
            "all there",
            vec![&one, &two],
            vec![registered(Some(1)), registered(Some(2))],
            false,
            0,
        ),
        (
            "a session of before hides nothing",
            vec![&one, &two],
            vec![registered(Some(1)), stale],
            false,
            1,
        ),
        ("one for all ports", vec![&one, &two], vec![everywhere], false, 0),
        (
            "ports not told: counted",
            vec![&one, &unnamed],
            vec![registered(None)],
            false,
            1,
        ),
        (
            "ports named otherwise: counted",
            vec![&one, &two],
            vec![registered(Some(7))],
            false,
            1,
        ),
        ("by host", vec![&one, &two], vec![registered(None)], true, 0),
        ("fenced", vec![&one, &two], vec![], false, 0),
    ] {
        let paths: Vec<_> = paths.into_iter().cloned().collect();
        assert_eq!(
            paths_missing(key(A), &read(&entries, per_host), &paths),
            expected,
            "{about}"
        );
    }
}

#[test]
fn two_paths_show_whether_a_target_enforces() {
    let array = Shared::new();
    assert_eq!(
        array.peer().prove_enforcement(key(B)).unwrap(),
        Enforcement::NotShown("this server has only one path to it")
    );
    let mut fence = array.fence();
    assert_eq!(fence.prove_enforcement(key(A)).unwrap(), Enforcement::Enforced);
    assert!(fence.execute(FenceOp::Look).unwrap().is_empty());
    array.lock().enforces_nothing = true;
    let shown = fence.prove_enforcement(key(A)).unwrap();
    assert_eq!(
        shown,
        Enforcement::NotEnforced("a write through sd1, which is not registered, was taken".to_owned())
    );
    assert!(fence.execute(FenceOp::Look).unwrap().is_empty());
    array.peer().execute(FenceOp::Register { key: key(B) }).unwrap();
    array.sent();
    assert_eq!(
        fence.prove_enforcement(key(A)).unwrap(),
        Enforcement::NotShown("somebody is registered there already")
    );
    assert_eq!(array.sent(), [], "whoever uses it is not disturbed");
}
