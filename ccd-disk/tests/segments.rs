//! Segments: which are found after which damage, what goes on behind them, and when an image is written in their place.

mod support;

use ccd_core::database::{Database, Key, Op, Record};
use ccd_core::ids::Position;
use ccd_core::replica::{RECORDS_LOADED_MAX, ReplicaAnswer, ReplicaErrorKind, ReplicaOp};
use ccd_disk::device::{BLOCK_BYTES, MemoryDevice};
use ccd_disk::format::geometry::Slot;
use ccd_disk::region::{CheckpointBegun, CheckpointStep};
use ccd_disk::{MkfsOptions, Region, RegionError, create};
use std::sync::Arc;
use support::*;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// The length of an image that segments are cheaper than.
const IMAGE_LEN: usize = 60_000;

/// An area that is written to: one history, generation by generation.
struct Area {
    device: MemoryDevice,
    region: Region,
    generation: u64,
}

impl Area {
    fn new() -> Self {
        let device = device();
        let region = open(&device, 0);
        Self {
            device,
            region,
            generation: 0,
        }
    }

    fn at(&self) -> Position {
        position(u64::from(self.generation > 0), self.generation, 1)
    }

    fn append(&mut self, payload_len: usize) -> Result<(), RegionError> {
        let next = position(1, self.generation + 1, 1);
        self.region.append_entry(&update(self.at(), next, payload_len))?;
        self.generation += 1;
        Ok(())
    }

    fn append_each(&mut self, payload_lens: &[usize]) {
        for len in payload_lens {
            self.append(*len).unwrap();
        }
    }

    fn image(&mut self) {
        let at = self.at();
        assert!(self.region.begin_image(at, image(at, IMAGE_LEN)).unwrap());
        self.step_on();
    }

    fn segment(&mut self) {
        let begun = self.region.begin_checkpoint(self.at(), IMAGE_LEN as u64).unwrap();
        assert_eq!(begun, CheckpointBegun::Segment);
        self.step_on();
    }

    fn step_on(&mut self) {
        while self.region.checkpoint_step().unwrap() != CheckpointStep::Done {}
    }

    fn block_of_segments(&self, slot: Slot, at: u64) -> u64 {
        self.region.superblock().geometry.segments(node(0), slot) + at
    }
}

fn flipped(device: &MemoryDevice, block: u64) -> MemoryDevice {
    let damaged = device.fork();
    damaged.corrupt(block * BLOCK, |bytes| bytes[2000] ^= 1);
    damaged
}

/// Three records, an image; four in a segment of one block; two in one of three blocks; one behind. Everything is still in the
/// journal, too.
fn young() -> Area {
    let mut area = Area::new();
    area.append_each(&[10, 10, 10]);
    area.image();
    area.append_each(&[890, 890, 890, 890]);
    area.segment();
    area.append_each(&[3000, 6000]);
    area.segment();
    area.append_each(&[10]);
    assert_eq!(area.generation, 10);
    area
}

#[test]
fn what_is_found_follows_from_which_segments_are_whole() {
    let young = young();
    // The same, and the journal has gone round: what the segments hold is nowhere else.
    let mut old = self::young();
    for _ in 0..3 {
        old.append_each(&[10, 10, 10, 10]);
        old.segment();
    }
    old.append_each(&[10; 6]);
    assert_eq!(old.generation, 28);
    assert_eq!(recover(&old.device, 0).segments.count, 5);
    let room = |at| young.block_of_segments(Slot::A, at);
    let head_of_image = young.region.superblock().geometry.slot(node(0), Slot::A);
    // area, block that is damaged; generation, segments, part of the message, nothing is missing
    let table = [
        (&young, None, 10, 2, None, true),
        (&old, None, 28, 5, None, true),
        // The first segment is at 0, the second at 1 to 3.
        (&young, Some(room(0)), 10, 0, None, true),
        (&young, Some(room(1)), 10, 1, None, true),
        (
            &young,
            Some(room(2)),
            10,
            1,
            Some("segment 1 of checkpoint 1 (slot A) is damaged"),
            true,
        ),
        (
            &old,
            Some(room(0)),
            3,
            0,
            Some("segment 0 of its checkpoint (block 306) is damaged"),
            false,
        ),
        (&old, Some(room(1)), 7, 1, Some("record 8 of the journal"), false),
        (
            &old,
            Some(room(3)),
            7,
            1,
            Some("segment 1 of checkpoint 1"),
            false,
        ),
        (&old, Some(room(4)), 9, 2, Some("record 10 of the journal"), false),
        // Those that the journal still makes up for.
        (&old, Some(room(5)), 28, 3, None, true),
        (&old, Some(room(6)), 28, 4, None, true),
        // Behind the last one.
        (&old, Some(room(7)), 28, 5, None, true),
        (
            &old,
            Some(head_of_image + 2),
            0,
            0,
            Some("neither checkpoint is whole"),
            false,
        ),
    ];
    for (area, block, generation, segments, message, is_complete) in table {
        let device = block.map_or_else(|| area.device.fork(), |block| flipped(&area.device, block));
        let found = recover(&device, 0);
        let which = format!("block {block:?}: {:?}", found.damage);
        assert_eq!(found.segments.count, segments, "{which}");
        assert_eq!(found.is_complete, is_complete, "{which}");
        match message {
            None => assert_eq!(found.damage, None, "{which}"),
            Some(part) => assert!(
                found.damage.as_ref().is_some_and(|what| what.contains(part)),
                "{which}"
            ),
        }
        if found.lost {
            continue;
        }
        assert_eq!(found.position, position(1, generation, 1), "{which}");
        assert_eq!(found.standing().len() as u64, generation - 3, "{which}");
        if !is_complete {
            // Nobody takes what is left for the newest: what is missing was newer, and it is known how new.
            let newest = found.damage_newest.unwrap();
            assert_eq!(newest, position(1, area.generation, 1).stamp, "{which}");
        }
        // Damaged areas take nothing but a whole image, which heals them; others go on.
        let mut region = open(&device, 0);
        let (at, next) = (found.position, position(1, 90, 5));
        let appended = region.append_entry(&update(at, next, 10));
        if found.damage.is_some() {
            assert_eq!(appended.unwrap_err().kind(), ReplicaErrorKind::Damaged, "{which}");
            region.write_image_bytes(next, image(next, 100)).unwrap();
        } else {
            appended.unwrap();
        }
        let found = recover(&device, 0);
        assert_eq!((found.position, found.damage), (next, None), "{which}");
    }
}

#[test]
fn the_older_image_with_its_segments_and_the_journal_make_up_for_a_newer_image() {
    let mut area = Area::new();
    area.append_each(&[10]);
    area.image();
    area.append_each(&[10, 10]);
    area.segment();
    area.append_each(&[10, 10]);
    area.image();
    area.append_each(&[10]);
    let slot = area.region.superblock().geometry.slot(node(0), Slot::B);
    let found = recover(&flipped(&area.device, slot + 3), 0);
    assert_eq!(found.checkpoint.map(|(slot, _)| slot), Some(Slot::A));
    assert_eq!((found.segments.count, found.position), (1, area.at()));
    assert!(found.is_complete && found.damage.unwrap().contains("checkpoint 2 (slot B)"));
    // A segment behind the newer image is none of the older one's.
    area.append_each(&[10]);
    area.segment();
    let found = recover(&area.device, 0);
    assert_eq!((found.segments.count, found.base()), (1, position(1, 5, 1)));
}

#[test]
fn segments_left_by_an_earlier_image_in_the_same_slot_continue_nothing() {
    let mut area = young();
    area.image();
    area.append_each(&[10]);
    area.image();
    let found = recover(&area.device, 0);
    assert_eq!(found.checkpoint.map(|(slot, _)| slot), Some(Slot::A));
    assert_eq!((found.segments.count, found.segments.unusable), (0, None));
    assert_eq!((found.position, found.damage), (area.at(), None));
    area.append_each(&[10]);
    area.segment();
    // Where the second of the earlier ones begins.
    assert_eq!(recover(&area.device, 0).segments.next_at, 1);
    assert_eq!(recover(&area.device, 0).position, area.at());
}

#[test]
fn nothing_is_written_behind_a_place_that_cannot_be_read() {
    let mut area = young();
    let behind = area.block_of_segments(Slot::A, 4);
    area.device.fail_reads(behind..behind + 1);
    let found = recover(&area.device, 0);
    assert_eq!((found.position, &found.damage), (area.at(), &None));
    assert!(found.segments.unusable.is_some());
    area.region = open(&area.device, 0);
    let begun = area.region.begin_checkpoint(area.at(), IMAGE_LEN as u64).unwrap();
    assert_eq!(begun, CheckpointBegun::ImageWanted);
    area.image();
    assert_eq!(
        recover(&area.device, 0).checkpoint.map(|(slot, _)| slot),
        Some(Slot::B)
    );
}

#[test]
fn a_journal_that_cannot_be_read_again_makes_no_segment_but_an_image() {
    let ring = young().region.superblock().geometry.journal(node(0));
    for spoil in [
        (|device: &MemoryDevice, block| device.fail_reads(block..block + 1)) as fn(&MemoryDevice, u64),
        |device, block| device.corrupt(block * BLOCK, |bytes| bytes[2000] ^= 1),
    ] {
        let mut area = young();
        let at = recover(&area.device, 0).journal[0].point.at;
        let begun = area.region.begin_checkpoint(area.at(), IMAGE_LEN as u64).unwrap();
        assert_eq!(begun, CheckpointBegun::Segment);
        spoil(&area.device, ring + u64::from(at));
        assert_eq!(
            area.region.checkpoint_step().unwrap(),
            CheckpointStep::ImageWanted
        );
        area.append_each(&[10]);
        area.image();
        area.append_each(&[10]);
        area.device.fail_reads(0..0);
        let found = recover(&area.device, 0);
        assert_eq!((found.position, found.damage), (area.at(), None));
    }
}

#[test]
fn appends_go_on_between_the_steps_of_a_segment_and_are_behind_it() {
    let options = MkfsOptions {
        image_bytes_max: 8 << 20,
        journal_bytes: 4 << 20,
        ..options()
    };
    let device = MemoryDevice::new("memory", options.len_bytes().unwrap());
    create(Box::new(device.open()), &options).unwrap();
    let region = open(&device, 0);
    let mut area = Area {
        device,
        region,
        generation: 0,
    };
    area.append_each(&[10]);
    let at = area.at();
    assert!(area.region.begin_image(at, image(at, 4 << 20)).unwrap());
    area.step_on();
    for _ in 0..500 {
        area.append(300).unwrap();
    }
    let begun = area.region.begin_checkpoint(area.at(), 4 << 20).unwrap();
    assert_eq!(begun, CheckpointBegun::Segment);
    let (mut steps, mut before) = (0, 0);
    while let CheckpointStep::More {
        done_bytes,
        total_bytes,
    } = area.region.checkpoint_step().unwrap()
    {
        assert!(done_bytes > before && done_bytes <= total_bytes);
        before = done_bytes;
        steps += 1;
        area.append(20).unwrap();
    }
    assert!(steps >= 6, "500 blocks of the journal, 64 at a time: {steps}");
    let found = recover(&area.device, 0);
    assert_eq!(found.segments.entries.len(), 500);
    assert_eq!((found.journal.len(), found.position), (steps, area.at()));
    // 178 kB in place of 2 MB.
    assert_eq!(found.segments.next_at, 45);
}

/// The database after one more update, and the record that leads there.
fn updated(database: &Database, sequence: u64) -> (Arc<Record>, Database) {
    let key = Key::new(&format!("K{}", sequence % 700)).unwrap();
    let op = match sequence / 700 % 2 {
        0 => Op::Format {
            key,
            columns: (0..8).map(|column| format!("column_{column}")).collect(),
        },
        _ => Op::RemoveFormat(key),
    };
    committed(database, sequence, op)
}

#[test]
fn segments_bring_back_databases_and_no_more_records_than_anybody_keeps() {
    let options = MkfsOptions {
        image_bytes_max: 1 << 20,
        journal_bytes: 4 << 20,
        ..options()
    };
    let device = MemoryDevice::new("memory", options.len_bytes().unwrap());
    create(Box::new(device.open()), &options).unwrap();
    let mut region = open(&device, 0);
    let mut database = Database::default();
    let (mut segments, mut images) = (0, 0);
    for sequence in 0..9000 {
        let (record, next) = updated(&database, sequence);
        database = next;
        let append = ReplicaOp::Append {
            record,
            then_survey: false,
        };
        let ReplicaAnswer::Appended {
            journal_used_percent, ..
        } = region.execute(append).unwrap()
        else {
            panic!("an append answers so")
        };
        if journal_used_percent >= 50 {
            let before = recover(&device, 0).segments.count;
            let checkpoint = ReplicaOp::Checkpoint {
                database: database.clone(),
            };
            region.execute(checkpoint).unwrap();
            match recover(&device, 0).segments.count {
                0 => images += 1,
                count if count > before => segments += 1,
                count => panic!("{count} segments after {before}"),
            }
        }
    }
    assert!(
        images >= 2 && segments >= 2,
        "{images} images, {segments} segments"
    );
    let found = recover(&device, 0);
    let ReplicaAnswer::Loaded(loaded) = open(&device, 0).execute(ReplicaOp::Load).unwrap() else {
        panic!("a load answers so")
    };
    assert_eq!(
        loaded.records.len(),
        found.standing().len().min(RECORDS_LOADED_MAX)
    );
    let replayed = (loaded.records.iter()).fold(loaded.checkpoint, |database, record| {
        database.apply(record).unwrap()
    });
    assert_eq!(replayed.to_image(), database.to_image());
}

#[test]
fn a_region_of_the_version_before_is_refused_with_what_to_do() {
    let device = device();
    let last = open(&device, 0).superblock().geometry.last_block();
    for number in [0, last] {
        device.corrupt(number * BLOCK, |block| {
            block[26] = 2;
            let len = 128 + u32::from_le_bytes(block[36..40].try_into().unwrap()) as usize;
            let mut hasher = blake3::Hasher::new();
            hasher.update(&block[..8]).update(&block[24..len]);
            block[8..24].copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        });
    }
    let refused = Region::open(Box::new(device.open()), identity(0)).unwrap_err();
    assert!(matches!(refused, RegionError::TooOld { .. }), "{refused}");
    let text = refused.to_string();
    assert!(
        text.contains("format version 2, this program knows 3") && text.contains("ccdadm restore"),
        "{text}"
    );
    assert_eq!(refused.kind(), ReplicaErrorKind::Foreign);
}
