//! `ccd-disk resync`: what is copied, and every reason for which nothing is.

mod support;

use ccd_core::configuration::{Ballot, BallotBlock};
use ccd_core::database::{Database, Key, Op, Record};
use ccd_core::ids::{ClusterId, DeviceRole, Epoch, Incarnation, Position, Replica};
use ccd_core::replica::{Heartbeat, ReplicaOp};
use ccd_disk::device::{Access, RawDevice};
use ccd_disk::{ExpectedIdentity, Region};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::program::{ID, flip, mkfs_with, says, with_init};
use support::{committed, node, solo};
use tempfile::TempDir;

const P: DeviceRole = DeviceRole::Primary;
const S: DeviceRole = DeviceRole::Secondary;

/// Two regions of a cluster, its init database, and node alpha's folders.
struct Site {
    folder: TempDir,
    etc: Vec<String>,
}

impl Site {
    fn new() -> Self {
        let (folder, _, etc) = with_init("lease");
        let site = Self { folder, etc };
        for role in ["primary", "secondary"] {
            site.mkfs(role);
        }
        std::fs::write(site.folder.path().join("node"), "alpha\n").unwrap();
        std::fs::create_dir(site.state()).unwrap();
        site
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn path(&self, role: &str) -> String {
        self.folder.path().join(role).display().to_string()
    }

    fn mkfs(&self, role: &str) {
        let path = self.path(role);
        let _ = std::fs::remove_file(&path);
        says(&mkfs_with(&self.etc, role, &path), 0, "made region");
    }

    fn says(&self, args: &[&str], code: i32, text: &str) -> String {
        let state = self.state().display().to_string();
        let mut all: Vec<&str> = self.etc.iter().map(String::as_str).collect();
        all.extend(["--state", &state]);
        all.extend(args);
        says(&all, code, text)
    }

    fn resync(&self, role: &str, code: i32, text: &str) -> String {
        let path = self.path(role);
        self.says(&["resync", "--yes", &path], code, text)
    }

    fn region(&self, role: DeviceRole, number: u8) -> Region {
        let path = self.path(&role.to_string());
        open(Path::new(&path), Replica::Device(role), number)
    }

    /// Node alpha owns these devices in this epoch, and wrote so many updates after a version.
    fn solo(&self, epoch: u64, roles: &[DeviceRole], from: &Database, updates: u64) -> Database {
        let configuration = solo(epoch, roles, from.position());
        let mut records = vec![Record::opening(from.position(), &configuration)];
        let mut database = from.apply(&records[0]).unwrap();
        for sequence in 1..=updates {
            let op = Op::Format {
                key: Key::new(&format!("KEY{epoch}.{sequence}")).unwrap(),
                columns: vec!["name".to_owned()],
            };
            let (record, next) = committed(&database, epoch * 1000 + sequence, op);
            records.push(Arc::unwrap_or_clone(record));
            database = next;
        }
        for role in roles {
            let mut region = self.region(*role, 0);
            let own = region.own_position().unwrap();
            let configuration = configuration.clone();
            region
                .execute(ReplicaOp::WriteConfiguration { configuration })
                .unwrap();
            if own != from.position() {
                let database = from.clone();
                region.execute(ReplicaOp::WriteImage { database }).unwrap();
            }
            for record in &records {
                let record = Arc::new(record.clone());
                let append = ReplicaOp::Append {
                    record,
                    then_survey: true,
                };
                region.execute(append).unwrap();
            }
        }
        database
    }

    /// The secondary was lost in epoch 2, and alpha went on with the primary.
    fn degraded(&self) -> Database {
        let first = self.solo(1, &[P, S], &Database::default(), 3);
        self.solo(2, &[P], &first, 5)
    }

    fn position(&self, role: DeviceRole) -> Position {
        let mut region = self.region(role, 1);
        let loaded = match region.execute(ReplicaOp::Load).unwrap() {
            ccd_core::replica::ReplicaAnswer::Loaded(loaded) => loaded,
            other => panic!("{other:?}"),
        };
        assert_eq!(loaded.damage, None);
        loaded.position
    }
}

fn open(path: &Path, replica: Replica, number: u8) -> Region {
    let cluster = ClusterId(u128::from_str_radix(ID, 16).unwrap().to_be_bytes());
    let device = RawDevice::open_when_free(path).unwrap();
    let expected = ExpectedIdentity {
        cluster,
        replica,
        node: node(number),
    };
    Region::open(Box::new(device), expected).unwrap()
}

fn dump(site: &Site, role: &str) -> String {
    site.says(&["dump", &site.path(role)], 0, "CCD_CHK")
}

#[test]
fn a_new_secondary_gets_what_the_primary_holds_and_then_there_is_nothing_to_do() {
    let site = Site::new();
    let database = site.degraded();
    site.mkfs("secondary");
    let path = site.path("secondary");
    site.says(&["resync", "--dry-run", &path], 0, "would write 2/8.");
    site.says(&["dump", &path], 1, "CCD-2090");
    site.says(&["resync", &path], 107, "CCD-2071");
    site.says(&["dump", &path], 1, "CCD-2090");
    let said = site.resync("secondary", 0, "wrote 2/8.");
    assert!(said.contains("where no whole copy is"), "{said}");
    assert_eq!(dump(&site, "secondary"), dump(&site, "primary"));
    assert_eq!(site.position(S), database.position());
    // In the area of this node alone, with the configuration, and no vote or heartbeat.
    let shown = site.says(&["show", "--json", &path], 0, "solo");
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let areas = shown["areas"].as_array().unwrap();
    assert!(
        areas[0]["position"].as_str().unwrap().starts_with("2/8."),
        "{shown}"
    );
    assert!(
        areas[0]["configuration"].as_str().unwrap().contains("epoch 2"),
        "{shown}"
    );
    for what in ["position", "configuration"] {
        assert!(areas[1][what].is_null(), "{what}: {shown}");
    }
    for area in areas {
        for what in ["ballot", "heartbeat", "last_words"] {
            assert!(area[what].is_null(), "{what}: {shown}");
        }
    }
    site.resync("secondary", 0, "nothing to do");
    site.says(&["check", &path], 0, "sound");
    let said = site.says(&["resync", "--json", &path], 0, "");
    let told: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&told["verdict"], &told["written"]),
        (&"in_sync".into(), &false.into())
    );
}

#[test]
fn a_device_that_missed_updates_or_is_damaged_catches_up_and_keeps_its_votes() {
    let site = Site::new();
    let database = site.degraded();
    let ballot = BallotBlock {
        instance: Epoch(1),
        promised: Ballot {
            round: 9,
            node: node(1),
            incarnation: Incarnation(7),
        },
        accepted: None,
    };
    let heartbeat = Heartbeat {
        sequence: 77,
        ..Heartbeat::default()
    };
    for number in [0, 1] {
        let mut region = site.region(S, number);
        for op in [
            ReplicaOp::WriteBallot {
                ballot: ballot.clone(),
            },
            ReplicaOp::WriteHeartbeat {
                heartbeat: heartbeat.clone(),
            },
        ] {
            region.execute(op).unwrap();
        }
    }
    let said = site.resync("secondary", 0, "wrote 2/8.");
    assert!(said.contains("over 1/3."), "{said}");
    let areas = site.region(S, 0).control().unwrap();
    for area in areas {
        assert_eq!(area.ballot.as_ref(), Some(&ballot), "{:?}", area.node);
        assert_eq!(area.heartbeat.as_ref(), Some(&heartbeat), "{:?}", area.node);
    }
    // Rot in its own area is written over.
    let slots = {
        let region = site.region(S, 0);
        let geometry = region.superblock().geometry;
        ccd_disk::format::geometry::Slot::ALL.map(|slot| geometry.slot(node(0), slot))
    };
    for slot in slots {
        flip(Path::new(&site.path("secondary")), slot * 4096 + 4096 + 200);
    }
    site.says(&["check", &site.path("secondary")], 104, "DAMAGE");
    site.resync("secondary", 0, "wrote 2/8.");
    assert_eq!(site.position(S), database.position());
}

#[test]
fn the_newer_one_is_never_written_over_by_the_older() {
    let site = Site::new();
    site.degraded();
    let before = std::fs::read(site.path("primary")).unwrap();
    let said = site.resync("primary", 103, "CCD-2134");
    assert!(said.contains("the primary is the newer one"), "{said}");
    assert_eq!(std::fs::read(site.path("primary")).unwrap(), before);
}

#[test]
fn another_history_is_refused_and_left_alone() {
    let site = Site::new();
    let first = site.solo(1, &[P, S], &Database::default(), 3);
    // Beta went on with the secondary against the votes, and alpha with the primary.
    site.solo(2, &[S], &first, 4);
    site.solo(101_000, &[P], &first, 2);
    let before = std::fs::read(site.path("secondary")).unwrap();
    site.resync("secondary", 103, "CCD-2135");
    assert_eq!(std::fs::read(site.path("secondary")).unwrap(), before);
}

#[test]
fn what_only_a_vote_can_settle_is_left_to_the_daemon() {
    let site = Site::new();
    let said = site.resync("secondary", 107, "no configuration was ever decided");
    assert!(said.contains("systemctl start ccdd"), "{said}");
    // A voter that was made anew.
    let first = site.solo(1, &[P, S], &Database::default(), 3);
    site.mkfs("secondary");
    site.resync("secondary", 107, "has forgotten what it took part in");
    // A vote that was not concluded.
    site.solo(2, &[P], &first, 1);
    let accepted = BallotBlock {
        instance: Epoch(2),
        promised: Ballot {
            round: 9,
            node: node(1),
            incarnation: Incarnation(7),
        },
        accepted: Some((
            Ballot {
                round: 9,
                node: node(1),
                incarnation: Incarnation(7),
            },
            solo(3, &[P], first.position()),
        )),
    };
    let ballot = accepted.clone();
    site.region(P, 1)
        .execute(ReplicaOp::WriteBallot { ballot })
        .unwrap();
    site.resync("secondary", 107, "a vote on the successor of epoch 2 was begun");
    site.says(&["dump", &site.path("secondary")], 1, "CCD-2090");
}

#[test]
fn the_own_copy_can_know_better_than_the_device() {
    let site = Site::new();
    let first = site.solo(1, &[P, S], &Database::default(), 3);
    let local = site.state().join("local.region");
    let name = local.display().to_string();
    let sizes = ["--image-mib", "1", "--journal-mib", "1", &name];
    let mut args = vec!["mkfs", "--role", "local", "--node", "0"];
    args.extend(sizes);
    site.says(&args, 0, "made region");
    let configuration = solo(2, &[S], first.position());
    open(&local, Replica::Local, 0)
        .execute(ReplicaOp::WriteConfiguration { configuration })
        .unwrap();
    // By the primary alone both are in sync; alpha knows that the secondary went on.
    site.resync("secondary", 103, "the primary is not part of epoch 2");
    site.says(
        &["resync", "--yes", "--node", "beta", &site.path("secondary")],
        64,
        "CCD-2140",
    );
}

#[test]
fn pairs_that_are_none_are_refused() {
    let site = Site::new();
    site.degraded();
    let (primary, secondary) = (site.path("primary"), site.path("secondary"));
    site.says(
        &["resync", "--from", &secondary, &secondary],
        107,
        "are one device",
    );
    let other = site.folder.path().join("other").display().to_string();
    let mut args = mkfs_with(&[], "secondary", &other);
    args.extend(["--cluster-id", "ffffffffffffffffffffffffffffffff"]);
    says(&args, 0, "made region");
    let said = site.says(&["resync", "--from", &primary, &other], 107, "CCD-2131");
    assert!(said.contains("belongs to cluster ffff"), "{said}");
    site.says(&["resync", &other], 64, "CCD-2137");
    let again = site.folder.path().join("again").display().to_string();
    says(&mkfs_with(&site.etc, "primary", &again), 0, "made region");
    site.says(
        &["resync", "--from", &primary, &again],
        107,
        "are both the primary",
    );
    let empty = site.folder.path().join("empty");
    std::fs::write(&empty, vec![0; 4 << 20]).unwrap();
    let empty = empty.display().to_string();
    site.says(&["resync", "--from", &primary, &empty], 65, "CCD-2138");
    site.says(&["resync", "--from", &empty, &secondary], 65, "CCD-2010");
    site.says(&["resync", "--from", "/no/such", &secondary], 66, "CCD-2001");
    site.says(&["resync", "--node", "gamma", &secondary], 64, "CCD-2122");
    std::fs::remove_file(site.folder.path().join("node")).unwrap();
    site.says(&["resync", &secondary], 64, "CCD-2123");
}

#[test]
fn a_copy_that_does_not_fit_is_refused_before_anything_is_written() {
    let site = Site::new();
    let mut database = site.solo(1, &[P, S], &Database::default(), 1);
    let configuration = solo(2, &[P], database.position());
    let open = Record::opening(database.position(), &configuration);
    database = database.apply(&open).unwrap();
    for sequence in 0..300u64 {
        let key = Key::new(&format!("KEY{sequence}")).unwrap();
        let columns = (0..30)
            .map(|column| format!("column_number_{column:016}"))
            .collect();
        database = committed(&database, 10_000 + sequence, Op::Format { key, columns }).1;
    }
    let mut region = site.region(P, 0);
    region
        .execute(ReplicaOp::WriteConfiguration { configuration })
        .unwrap();
    region.execute(ReplicaOp::WriteImage { database }).unwrap();
    drop(region);
    let secondary = site.path("secondary");
    std::fs::remove_file(&secondary).unwrap();
    let mut region = ccd_disk::MkfsOptions::device(
        ClusterId(u128::from_str_radix(ID, 16).unwrap().to_be_bytes()),
        ccd_disk::RegionId([9; 16]),
        Replica::Device(S),
        2,
    )
    .tiny();
    region.label = "prod".into();
    let bytes = region.len_bytes().unwrap();
    ccd_disk::create_in_file(Path::new(&secondary), bytes, &region, &mut |_, _| {}).unwrap();
    let before = std::fs::read(&secondary).unwrap();
    site.resync("secondary", 73, "CCD-2030");
    assert_eq!(std::fs::read(&secondary).unwrap(), before);
}

#[test]
fn devices_that_somebody_uses_are_left_alone() {
    let site = Site::new();
    site.degraded();
    site.mkfs("secondary");
    // A daemon of this node.
    let lock = site.state().join("lock");
    let held = std::fs::File::create(&lock).unwrap();
    held.lock().unwrap();
    site.resync("secondary", 109, "CCD-2130");
    drop(held);
    // A program that another test starts at this moment has the lock, too, until it runs.
    std::fs::File::create(&lock).unwrap().lock().unwrap();
    // Somebody who holds a device.
    let held = RawDevice::open_when_free(Path::new(&site.path("primary"))).unwrap();
    site.resync("secondary", 109, "CCD-2002");
    drop(held);
    // A daemon of another node: its heartbeat moves.
    let stop = Arc::new(AtomicBool::new(false));
    let (done, path) = (stop.clone(), site.path("primary"));
    let beating = std::thread::spawn(move || {
        let device = RawDevice::open(Path::new(&path), Access::ReadOnly).unwrap();
        drop(device);
        let cluster = ClusterId(u128::from_str_radix(ID, 16).unwrap().to_be_bytes());
        let mut sequence = 0;
        while !done.load(Ordering::Relaxed) {
            sequence += 1;
            // Between its own looks the program holds the device: from another machine nobody would wait for that.
            let identity = ccd_disk::format::header::Identity {
                cluster,
                region: region_id(&path),
                replica: Replica::Device(P),
            };
            beat(&path, &identity, sequence);
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let said = site.resync("secondary", 109, "CCD-2130 the ccdd of beta (node 1) runs");
    stop.store(true, Ordering::Relaxed);
    beating.join().unwrap();
    assert!(said.contains("ccdadm status"), "{said}");
    site.says(&["dump", &site.path("secondary")], 1, "CCD-2090");
    site.resync("secondary", 0, "wrote");
}

fn region_id(path: &str) -> ccd_disk::RegionId {
    let device = RawDevice::open(Path::new(path), Access::ReadOnly).unwrap();
    let mut handle = ccd_disk::region::handle::Handle::new(Box::new(device));
    let label = ccd_disk::region::label::Label::read(&mut handle).unwrap();
    label.superblock.identity.region
}

/// What node beta would write from another machine, past the locks of this one.
fn beat(path: &str, identity: &ccd_disk::format::header::Identity, sequence: u64) {
    use ccd_disk::format::control::Control;
    use std::os::unix::fs::FileExt;
    let heartbeat = Heartbeat {
        sequence,
        ..Heartbeat::default()
    };
    // The control blocks of node 1 follow the sixteen of node 0, which begin at block 256.
    let number = 256 + 16 + sequence % 2;
    let block = heartbeat.to_block(identity, node(1), number, sequence);
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&block[..], number * 4096).unwrap();
}
