//! Regions as the protocol uses them: every operation, with real databases, on a device in memory.

mod support;

use ccd_core::database::{Database, Record};
use ccd_core::ids::{ClusterId, DeviceRole, Epoch, Position, Replica};
use ccd_core::replica::{Heartbeat, Loaded, ReplicaAnswer, ReplicaError, ReplicaErrorKind, ReplicaOp};
use ccd_disk::device::{BLOCK_BYTES, MemoryDevice, Tear};
use ccd_disk::region::{CheckpointBegun, CheckpointStep};
use ccd_disk::{Blocks, ExpectedIdentity, Region, RegionError, ReplicaDriver, create};
use std::io;
use std::sync::{Arc, Mutex};
use support::{CLUSTER, device, identity, node, open, options, survey, updated};

fn opened(database: &Database, epoch: u64) -> (Arc<Record>, Database) {
    let record = Record::open(database.position(), Epoch(epoch));
    let next = database.apply(&record).unwrap();
    (Arc::new(record), next)
}

fn append(region: &mut Region, record: &Arc<Record>) -> Result<ReplicaAnswer, ReplicaError> {
    region.execute(ReplicaOp::Append {
        record: record.clone(),
        then_survey: false,
    })
}

fn load(region: &mut Region) -> Loaded {
    match region.execute(ReplicaOp::Load).unwrap() {
        ReplicaAnswer::Loaded(loaded) => loaded,
        other => panic!("{other:?}"),
    }
}

/// The database that a loaded state amounts to.
fn replayed(loaded: &Loaded) -> Database {
    loaded
        .records
        .iter()
        .fold(loaded.checkpoint.clone(), |database, record| {
            database.apply(record).unwrap()
        })
}

#[test]
fn a_fresh_region_holds_the_empty_database() {
    let mut region = open(&device(), 1);
    let loaded = load(&mut region);
    assert_eq!((loaded.area, loaded.position), (node(1), Position::EMPTY));
    assert!(loaded.records.is_empty() && loaded.heads.is_empty() && loaded.damage.is_none());
    let survey = survey(region.execute(ReplicaOp::Survey).unwrap());
    assert_eq!(survey.areas.len(), 2);
    assert!(
        survey
            .areas
            .iter()
            .all(|area| area.heartbeat.is_none() && !area.damaged)
    );
}

#[test]
fn appends_images_and_checkpoints_load_as_what_was_written() {
    let device = device();
    let mut region = open(&device, 0);
    let (record, mut database) = opened(&Database::default(), 1);
    append(&mut region, &record).unwrap();
    for sequence in 1..6 {
        let (record, next) = updated(&database, sequence, 3);
        append(&mut region, &record).unwrap();
        database = next;
    }
    assert_eq!(load(&mut region).records.len(), 6);
    region
        .execute(ReplicaOp::Checkpoint {
            database: database.clone(),
        })
        .unwrap();
    let (record, last) = updated(&database, 6, 3);
    append(&mut region, &record).unwrap();
    let loaded = load(&mut open(&device, 0));
    assert_eq!(loaded.checkpoint.to_image(), database.to_image());
    assert_eq!(loaded.records, [(*record).clone()]);
    assert_eq!(replayed(&loaded).to_image(), last.to_image());
    region
        .execute(ReplicaOp::WriteImage {
            database: database.clone(),
        })
        .unwrap();
    let loaded = load(&mut open(&device, 0));
    assert_eq!((loaded.position, loaded.records.len()), (database.position(), 0));
}

#[test]
fn a_rollback_takes_its_record_out_of_what_is_loaded() {
    let device = device();
    let mut region = open(&device, 0);
    let (first, one) = updated(&Database::default(), 1, 2);
    let (second, two) = updated(&one, 2, 2);
    append(&mut region, &first).unwrap();
    append(&mut region, &second).unwrap();
    let rollback = Arc::new(Record::rollback(two.position(), one.position()));
    append(&mut region, &rollback).unwrap();
    let (third, three) = updated(&one, 3, 2);
    append(&mut region, &third).unwrap();
    let loaded = load(&mut open(&device, 0));
    assert_eq!(loaded.records, [(*first).clone(), (*third).clone()]);
    assert_eq!(loaded.position, three.position());
    let wrong = append(&mut region, &rollback).unwrap_err();
    assert_eq!(wrong.kind, ReplicaErrorKind::Damaged);
    region
        .execute(ReplicaOp::Checkpoint {
            database: three.clone(),
        })
        .unwrap();
    let late = Arc::new(Record::rollback(three.position(), one.position()));
    let refused = append(&mut region, &late).unwrap_err();
    assert_eq!(
        refused.kind,
        ReplicaErrorKind::Damaged,
        "what a checkpoint holds cannot be undone"
    );
}

#[test]
fn a_rollback_of_what_a_running_checkpoint_holds_gives_the_checkpoint_up() {
    let device = device();
    let mut region = open(&device, 0);
    let (first, one) = updated(&Database::default(), 1, 2);
    let (second, two) = updated(&one, 2, 2);
    append(&mut region, &first).unwrap();
    append(&mut region, &second).unwrap();
    let begun = region.begin_checkpoint(two.position(), two.image_len_bytes());
    assert_eq!(begun.unwrap(), CheckpointBegun::ImageWanted, "there is none");
    assert!(region.begin_image(two.position(), two.to_image()).unwrap());
    append(
        &mut region,
        &Arc::new(Record::rollback(two.position(), one.position())),
    )
    .unwrap();
    while region.checkpoint_step().unwrap() != CheckpointStep::Done {}
    let loaded = load(&mut open(&device, 0));
    assert_eq!(
        (loaded.position, loaded.checkpoint.position()),
        (one.position(), Position::EMPTY)
    );
}

#[test]
fn the_newest_state_over_all_areas_is_loaded_and_all_heads_are_named() {
    let device = device();
    let (mut zero, mut one) = (open(&device, 0), open(&device, 1));
    let (first, older) = opened(&Database::default(), 1);
    append(&mut zero, &first).unwrap();
    let (second, newer) = updated(&older, 1, 2);
    one.execute(ReplicaOp::WriteImage {
        database: older.clone(),
    })
    .unwrap();
    append(&mut one, &second).unwrap();
    let loaded = load(&mut zero);
    assert_eq!((loaded.area, loaded.position), (node(1), newer.position()));
    assert_eq!(
        loaded.heads,
        [(node(0), older.position()), (node(1), newer.position())]
    );
    // The own area is taken over by an image, whatever it held.
    zero.execute(ReplicaOp::WriteImage {
        database: newer.clone(),
    })
    .unwrap();
    let (third, newest) = updated(&newer, 2, 2);
    append(&mut zero, &third).unwrap();
    assert_eq!(load(&mut one).position, newest.position());
}

#[test]
fn a_full_journal_and_what_is_too_large_are_refused_and_nothing_is_lost() {
    let device = device();
    let mut region = open(&device, 0);
    let mut database = Database::default();
    let mut percent = 0;
    let refused = loop {
        let (record, next) = updated(&database, database.position().stamp.generation.0 + 1, 2);
        match append(&mut region, &record) {
            Ok(ReplicaAnswer::Appended {
                journal_used_percent, ..
            }) => {
                assert!(journal_used_percent > percent);
                percent = journal_used_percent;
                database = next;
            }
            Ok(other) => panic!("{other:?}"),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.kind, ReplicaErrorKind::Full);
    assert!(percent >= 90, "{percent}");
    region
        .execute(ReplicaOp::Checkpoint {
            database: database.clone(),
        })
        .unwrap();
    let (record, database) = updated(&database, 99, 2);
    append(&mut region, &record).unwrap();
    assert_eq!(load(&mut open(&device, 0)).position, database.position());

    let large = Arc::new(Record::open(database.position(), Epoch(1)));
    let entry = ccd_disk::format::journal::Entry {
        step: ccd_disk::format::journal::Step::Open,
        prev: large.prev,
        next: large.next,
        payload: vec![0; region.record_bytes_max() + 1],
    };
    assert!(matches!(
        region.append_entry(&entry),
        Err(RegionError::RecordTooLarge { .. })
    ));
    let too_large = region.write_image_bytes(database.position(), vec![0; 100_000]);
    assert!(matches!(too_large, Err(RegionError::ImageTooLarge { .. })));
    assert_eq!(load(&mut open(&device, 0)).position, database.position());
}

#[test]
fn a_record_that_does_not_continue_the_area_is_refused() {
    let device = device();
    let mut region = open(&device, 0);
    let (first, one) = updated(&Database::default(), 1, 2);
    let (second, _) = updated(&one, 2, 2);
    assert_eq!(
        append(&mut region, &second).unwrap_err().kind,
        ReplicaErrorKind::Damaged
    );
    append(&mut region, &first).unwrap();
    assert_eq!(
        append(&mut region, &first).unwrap_err().kind,
        ReplicaErrorKind::Damaged
    );
    append(&mut region, &second).unwrap();
}

#[test]
fn foreign_regions_are_refused_with_what_they_are() {
    let device = device();
    let open = |expected: ExpectedIdentity| Region::open(Box::new(device.open()), expected).unwrap_err();
    let other = ExpectedIdentity {
        cluster: ClusterId([9; 16]),
        ..identity(0)
    };
    let refused = open(other);
    assert!(matches!(refused, RegionError::OtherCluster { .. }));
    assert!(refused.to_string().contains(&CLUSTER.to_string()), "{refused}");
    let secondary = Replica::Device(DeviceRole::Secondary);
    let refused = open(ExpectedIdentity {
        replica: secondary,
        ..identity(0)
    });
    assert!(matches!(refused, RegionError::OtherRole { .. }));
    assert!(matches!(open(identity(2)), RegionError::NoArea { .. }));
    let empty = MemoryDevice::new("empty", 1 << 20);
    let refused = Region::open(Box::new(empty.open()), identity(0)).unwrap_err();
    assert!(matches!(refused, RegionError::NoRegion { .. }));
    assert_eq!(refused.kind(), ReplicaErrorKind::Foreign);
    let small = create(Box::new(empty.open()), &options()).unwrap_err();
    assert!(matches!(small, RegionError::Geometry { .. }));
}

#[test]
fn damage_in_another_area_matters_only_if_it_may_hide_something_newer() {
    let device = device();
    let (mut zero, mut one) = (open(&device, 0), open(&device, 1));
    let (first, a) = opened(&Database::default(), 1);
    let (second, b) = updated(&a, 1, 2);
    let (third, c) = updated(&b, 2, 2);
    for record in [&first, &second, &third] {
        append(&mut one, record).unwrap();
    }
    let ring = one.superblock().geometry.journal(node(1));
    device.corrupt((ring + 1) * BLOCK_BYTES as u64, |block| block[300] ^= 1);
    // What node 1 lost was at most as new as c.
    zero.execute(ReplicaOp::WriteImage { database: c.clone() })
        .unwrap();
    assert!(load(&mut zero).damage.is_some());
    let (fourth, d) = updated(&c, 3, 2);
    append(&mut zero, &fourth).unwrap();
    let loaded = load(&mut zero);
    assert_eq!((loaded.position, loaded.damage), (d.position(), None));
    assert_eq!(loaded.heads, [(node(0), d.position()), (node(1), a.position())]);
}

/// A driver on a device in memory, and the branches it was asked to keep.
fn driver(device: &MemoryDevice) -> (ReplicaDriver, Arc<Mutex<Vec<String>>>) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let (device, keeper) = (device.clone(), kept.clone());
    let driver = ReplicaDriver::new(
        identity(0),
        Box::new(move || Ok(Box::new(device.open()))),
        Box::new(move |_, reason| {
            keeper.lock().unwrap().push(reason.to_owned());
            Ok(())
        }),
    );
    (driver, kept)
}

#[test]
fn a_failed_write_poisons_until_the_replica_is_opened_again() {
    let device = device();
    let (mut driver, kept) = driver(&device);
    assert_eq!(
        driver.execute(ReplicaOp::Load).unwrap_err().kind,
        ReplicaErrorKind::Poisoned
    );
    driver.execute(ReplicaOp::Open).unwrap();
    let (first, one) = updated(&Database::default(), 1, 2);
    let (second, two) = updated(&one, 2, 2);
    let append = |record: &Arc<Record>| ReplicaOp::Append {
        record: record.clone(),
        then_survey: false,
    };
    driver.execute(append(&first)).unwrap();
    device.die_at_write(
        1,
        Tear {
            sector_bytes: 512,
            kept: 0b110,
        },
    );
    assert_eq!(
        driver.execute(append(&second)).unwrap_err().kind,
        ReplicaErrorKind::Io
    );
    assert_eq!(
        driver.execute(append(&second)).unwrap_err().kind,
        ReplicaErrorKind::Poisoned
    );
    assert_eq!(
        driver.execute(ReplicaOp::Open).unwrap_err().kind,
        ReplicaErrorKind::Io,
        "still dead"
    );
    device.power_cut(512, |_, _| false);
    assert_eq!(
        driver.execute(append(&second)).unwrap_err().kind,
        ReplicaErrorKind::Poisoned
    );
    driver.execute(ReplicaOp::Open).unwrap();
    let ReplicaAnswer::Loaded(loaded) = driver.execute(ReplicaOp::Load).unwrap() else {
        panic!()
    };
    assert_eq!((loaded.position, loaded.damage), (one.position(), None));
    driver.execute(append(&second)).unwrap();
    assert_eq!(driver.region().unwrap().own_position().unwrap(), two.position());
    driver
        .execute(ReplicaOp::KeepBranch {
            database: two,
            reason: "diverged".into(),
        })
        .unwrap();
    assert_eq!(*kept.lock().unwrap(), ["diverged"]);
}

#[test]
fn nothing_is_written_over_a_branch_that_could_not_be_kept() {
    let device = device();
    let medium = device.clone();
    let opener = move || Ok(Box::new(medium.open()) as Box<dyn Blocks>);
    let keeper = |_: &Database, _: &str| Err(io::Error::from_raw_os_error(libc::ENOSPC));
    let mut driver = ReplicaDriver::new(identity(0), Box::new(opener), Box::new(keeper));
    driver.execute(ReplicaOp::Open).unwrap();
    let database = Database::default();
    let reason = "diverged".into();
    let kept = ReplicaOp::KeepBranch {
        database: database.clone(),
        reason,
    };
    let refused = driver.execute(kept).unwrap_err();
    assert!(refused.text.contains("No space left"), "{refused}");
    let over = driver.execute(ReplicaOp::WriteImage { database }).unwrap_err();
    assert_eq!(over.kind, ReplicaErrorKind::Poisoned);
    driver.execute(ReplicaOp::Open).unwrap();
}

#[test]
fn a_refused_write_is_told_as_fenced() {
    let device = device();
    let handle = device.open();
    device.fence(handle.handle());
    let mut region = Region::open(Box::new(handle), identity(0)).unwrap();
    let refused = region
        .execute(ReplicaOp::WriteHeartbeat {
            heartbeat: Heartbeat::default(),
        })
        .unwrap_err();
    assert_eq!(refused.kind, ReplicaErrorKind::Fenced);
    assert!(region.is_poisoned());
    load(&mut region);
}
