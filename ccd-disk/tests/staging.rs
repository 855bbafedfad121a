//! An image that comes in parts: what counts, what is forgotten, and what a power cut leaves.

mod support;

use ccd_core::database::{Database, Key, Op};
use ccd_core::replica::{Loaded, ReplicaAnswer, ReplicaOp};
use ccd_disk::device::MemoryDevice;
use ccd_disk::{Region, create_reserved};
use support::{committed, device, open, options};

/// A version with so many keys.
fn database(keys: u64) -> Database {
    (1..=keys).fold(Database::default(), |database, sequence| {
        let op = Op::Format {
            key: Key::new(&format!("K{sequence}")).unwrap(),
            columns: (0..30).map(|column| format!("column_{column}")).collect(),
        };
        committed(&database, sequence, op).1
    })
}

fn load(device: &MemoryDevice) -> Loaded {
    match open(device, 0).execute(ReplicaOp::Load).unwrap() {
        ReplicaAnswer::Loaded(loaded) => loaded,
        other => panic!("{other:?}"),
    }
}

/// Stages the parts of the image that are not left out.
fn stage(region: &mut Region, database: &Database, part_bytes: usize, is_there: impl Fn(usize) -> bool) {
    let image = database.to_image();
    for (index, part) in image.chunks(part_bytes).enumerate() {
        if is_there(index) {
            let op = ReplicaOp::StageImage {
                position: database.position(),
                len_bytes: image.len() as u64,
                offset: (index * part_bytes) as u64,
                bytes: part.to_vec(),
            };
            region.execute(op).unwrap();
        }
    }
}

fn adopt(region: &mut Region, database: &Database) {
    let database = database.clone();
    region.execute(ReplicaOp::AdoptImage { database }).unwrap();
}

#[test]
fn an_image_counts_when_it_is_adopted_and_not_before_whatever_its_parts() {
    let (old, new) = (database(2), database(60));
    assert!(new.to_image().len() > 3 * 4096);
    for part_bytes in [100, 3968, 4096, 10_000, 1 << 20] {
        let device = device();
        let mut region = open(&device, 0);
        adopt(&mut region, &old);
        assert_eq!(load(&device).checkpoint, old);
        stage(&mut region, &new, part_bytes, |_| true);
        assert_eq!(load(&device).checkpoint, old, "parts of {part_bytes}");
        device.power_cut(512, |write, sector| (write + sector) % 3 == 0);
        let loaded = load(&device);
        assert_eq!((loaded.damage, loaded.checkpoint), (None, old.clone()), "cut");
        let mut region = open(&device, 0);
        stage(&mut region, &new, part_bytes, |_| true);
        adopt(&mut region, &new);
        let loaded = load(&device);
        assert_eq!(
            (loaded.damage, loaded.checkpoint),
            (None, new.clone()),
            "parts of {part_bytes}"
        );
    }
}

#[test]
fn what_was_not_staged_in_order_is_written_when_it_is_adopted() {
    let new = database(60);
    let one = |missing: usize| move |index: usize| index != missing;
    for missing in [0, 1, 2] {
        let device = device();
        let mut region = open(&device, 0);
        stage(&mut region, &new, 4000, one(missing));
        adopt(&mut region, &new);
        assert_eq!(load(&device).checkpoint, new, "without part {missing}");
    }
}

#[test]
fn the_parts_of_another_image_or_another_write_make_what_was_staged_void() {
    let (old, between, new) = (database(2), database(30), database(60));
    let device = device();
    let mut region = open(&device, 0);
    adopt(&mut region, &old);
    stage(&mut region, &new, 4000, |_| true);
    stage(&mut region, &between, 4000, |_| true);
    adopt(&mut region, &new);
    assert_eq!(load(&device).checkpoint, new);
    // What is staged for this position now is not its image: the write in between took its place.
    let wrong = ReplicaOp::StageImage {
        position: between.position(),
        len_bytes: 5000,
        offset: 0,
        bytes: vec![7; 5000],
    };
    region.execute(wrong).unwrap();
    let database = old.clone();
    region.execute(ReplicaOp::WriteImage { database }).unwrap();
    adopt(&mut region, &between);
    assert_eq!(load(&device).checkpoint, between);
}

#[test]
fn a_reserved_region_fills_its_journal_ahead_of_its_records_only() {
    let device = device();
    create_reserved(Box::new(device.open()), &options()).unwrap();
    let mut region = open(&device, 0);
    region.execute(ReplicaOp::Load).unwrap();
    let mut last = Database::default();
    let mut more = true;
    for sequence in 1..=4 {
        let op = Op::Format {
            key: Key::new(&format!("K{sequence}")).unwrap(),
            columns: vec!["a".into()],
        };
        let (record, next) = committed(&last, sequence, op);
        let append = ReplicaOp::Append {
            record,
            then_survey: false,
        };
        region.execute(append).unwrap();
        last = next;
        more = region.fill_journal_step().unwrap();
    }
    assert!(!more, "a small journal is filled at once");
    let loaded = load(&device);
    assert_eq!(
        (loaded.damage, loaded.position, loaded.records.len()),
        (None, last.position(), 4)
    );
    // A region with a state is never filled.
    let mut region = open(&device, 0);
    region.execute(ReplicaOp::Load).unwrap();
    assert!(!region.fill_journal_step().unwrap());
    assert_eq!(load(&device).position, last.position());
}

#[test]
fn a_region_that_nobody_has_written_to_is_what_reading_it_finds() {
    let device = device();
    create_reserved(Box::new(device.open()), &options()).unwrap();
    let loaded = |region: &mut Region| format!("{:?}", region.execute(ReplicaOp::Load).unwrap());
    let read = loaded(&mut open(&device, 0));
    let mut region = open(&device, 0);
    region.note_untouched();
    assert_eq!(loaded(&mut region), read);
    // It goes on as any other, and is read from then on.
    let new = database(60);
    stage(&mut region, &new, 10_000, |_| true);
    adopt(&mut region, &new);
    region.note_untouched();
    assert_eq!(
        loaded(&mut region),
        format!("{:?}", ReplicaAnswer::Loaded(load(&device)))
    );
    assert_eq!(load(&device).checkpoint, new);
}
