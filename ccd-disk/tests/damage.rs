//! Bit rot, foreign writers, unreadable blocks: what is found is right, or the damage is reported; never a wrong state
//! taken for a right one, never a panic.

mod support;

use ccd_core::configuration::{Ballot, BallotBlock};
use ccd_core::ids::{Epoch, Incarnation, Position};
use ccd_core::replica::{ReplicaErrorKind, ReplicaOp};
use ccd_disk::device::{BLOCK_BYTES, MemoryDevice};
use ccd_disk::format::geometry::Slot;
use ccd_disk::region::handle::Handle;
use ccd_disk::region::label::Label;
use ccd_disk::region::recovery::{RecoveredArea, Tail};
use ccd_disk::region::{CheckpointBegun, CheckpointStep};
use ccd_disk::{Region, RegionError};
use proptest::prelude::*;
use support::*;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// A region with both checkpoint slots, segments, a journal that went round, and control blocks; and the positions it went
/// through.
fn worn() -> (MemoryDevice, Vec<Position>) {
    let device = device();
    let mut region = open(&device, 0);
    let mut positions = vec![Position::EMPTY];
    let mut segments = 0;
    for generation in 1..=41u64 {
        let (prev, next) = (positions[positions.len() - 1], position(1, generation, 1));
        region
            .append_entry(&update(prev, next, (generation as usize * 700) % 9000))
            .unwrap();
        positions.push(next);
        if generation % 4 == 2 {
            let image = image(next, 500 * generation as usize);
            assert!(region.begin_image(next, image).unwrap());
            while region.checkpoint_step().unwrap() != CheckpointStep::Done {}
        } else if generation % 2 == 0
            && region.begin_checkpoint(next, 60_000).unwrap() == CheckpointBegun::Segment
        {
            segments += 1;
            while region.checkpoint_step().unwrap() != CheckpointStep::Done {}
        }
        let promised = Ballot {
            round: generation,
            node: node(0),
            incarnation: Incarnation(7),
        };
        let ballot = BallotBlock {
            instance: Epoch(1),
            promised,
            accepted: None,
        };
        region.execute(ReplicaOp::WriteBallot { ballot }).unwrap();
    }
    assert!(segments >= 5, "{segments}");
    assert_eq!(recover(&device, 0).segments.count, 1);
    (device, positions)
}

/// What was found is the whole state, or says what is missing.
fn check(area: &RecoveredArea, positions: &[Position], what: &str) {
    let newest = positions[positions.len() - 1];
    if area.position == newest {
        assert_eq!(area.image, image(area.base(), area.image.len()), "{what}");
        let mut at = area.base();
        for entry in area.standing() {
            assert_eq!(*entry, update(at, entry.next, entry.payload.len()), "{what}");
            at = entry.next;
        }
        assert_eq!(at, newest, "{what}");
        return;
    }
    // The last record alone cannot be told from one that was being written: the tail then says that it is torn.
    let is_one_before = area.position == positions[positions.len() - 2];
    let is_reported = area.damage.is_some() || (is_one_before && area.tail != Tail::Clean);
    assert!(
        is_reported,
        "{what}: {} instead of {newest}, tail {:?}",
        area.position, area.tail
    );
    assert!(
        area.lost || positions.contains(&area.position),
        "{what}: a state that never was"
    );
}

#[test]
fn a_flipped_byte_in_any_block_never_yields_a_wrong_state() {
    let (device, positions) = worn();
    check(&recover(&device, 0), &positions, "undamaged");
    for block in device.used_blocks() {
        for at in [0, 9, 25, 40, 80, 100, 127, 128, 140, 300, 1000, 2048, 4095] {
            let damaged = device.fork();
            damaged.corrupt(block * BLOCK, |bytes| bytes[at] ^= 0x10);
            check(
                &recover(&damaged, 0),
                &positions,
                &format!("block {block} byte {at}"),
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_byte_anywhere_never_yields_a_wrong_state(pick: prop::sample::Index, at in 0..BLOCK_BYTES, change in 1u8..) {
        let (device, positions) = worn();
        let used = device.used_blocks();
        let block = used[pick.index(used.len())];
        device.corrupt(block * BLOCK, |bytes| bytes[at] ^= change);
        check(&recover(&device, 0), &positions, &format!("block {block} byte {at}"));
    }

    #[test]
    fn a_block_of_any_bytes_is_survived(pick: prop::sample::Index, fill: [u8; 32], from: prop::sample::Index) {
        let (device, _) = worn();
        let used = device.used_blocks();
        let block = used[pick.index(used.len())];
        device.corrupt(block * BLOCK, |bytes| {
            let start = from.index(BLOCK_BYTES - 32);
            bytes[start..start + 32].copy_from_slice(&fill);
        });
        recover(&device, 0);
        if let Ok(mut region) = Region::open(Box::new(device.open()), identity(0)) {
            let _ = region.execute(ReplicaOp::Survey);
        }
    }
}

#[test]
fn a_torn_tail_is_told_from_damage_before_it() {
    let device = device();
    let mut region = open(&device, 0);
    let ring = region.superblock().geometry.journal(node(0));
    let mut prev = Position::EMPTY;
    for generation in 1..=4 {
        let next = position(1, generation, 1);
        region.append_entry(&update(prev, next, 50)).unwrap();
        prev = next;
    }
    let flip = |index: u64| {
        let damaged = device.fork();
        damaged.corrupt((ring + index) * BLOCK, |block| block[200] ^= 1);
        damaged
    };
    let torn = recover(&flip(3), 0);
    assert_eq!(
        (torn.position, torn.tail),
        (position(1, 3, 1), Tail::Torn { block: ring + 3 })
    );
    assert_eq!(torn.damage, None);
    let damaged = recover(&flip(1), 0);
    assert_eq!(damaged.position, position(1, 1, 1));
    let what = damaged.damage.expect("a later record proves it");
    assert!(
        what.contains("record 2 of the journal") && what.contains("record 4"),
        "{what}"
    );

    // A damaged journal takes no record, and a whole image heals it.
    let device = flip(1);
    let mut region = open(&device, 0);
    let next = position(1, 2, 7);
    let refused = region
        .append_entry(&update(position(1, 1, 1), next, 50))
        .unwrap_err();
    assert_eq!(refused.kind(), ReplicaErrorKind::Damaged);
    region.write_image_bytes(next, image(next, 900)).unwrap();
    region.append_entry(&update(next, position(1, 3, 7), 50)).unwrap();
    let healed = recover(&device, 0);
    assert_eq!((healed.position, healed.damage), (position(1, 3, 7), None));
}

#[test]
fn a_damaged_image_that_replaced_another_never_brings_that_one_back() {
    let device = device();
    let mut region = open(&device, 0);
    let (old, new) = (position(1, 1, 1), position(1, 2, 9));
    region.append_entry(&update(Position::EMPTY, old, 10)).unwrap();
    region.begin_image(old, image(old, 10)).unwrap();
    while region.checkpoint_step().unwrap() != CheckpointStep::Done {}
    region.write_image_bytes(new, image(new, 10)).unwrap();
    let slot = region.superblock().geometry.slot(node(0), Slot::B);
    for block in [slot, slot + 1] {
        let damaged = device.fork();
        damaged.corrupt(block * BLOCK, |bytes| bytes[130] ^= 1);
        let area = recover(&damaged, 0);
        assert!(area.lost && area.damage.is_some(), "block {block}");
        let mut region = open(&damaged, 0);
        assert!(region.append_entry(&update(new, position(1, 3, 9), 1)).is_err());
        region.write_image_bytes(new, image(new, 10)).unwrap();
        assert_eq!(recover(&damaged, 0).position, new);
    }
}

#[test]
fn unreadable_blocks_are_damage_and_a_dead_device_is_an_error() {
    let (device, positions) = worn();
    let ring = open(&device, 0).superblock().geometry.journal(node(0));
    let newest = recover(&device, 0);
    let last = newest.journal.last().unwrap().point.at;
    device.fail_reads(ring + u64::from(last)..ring + u64::from(last) + 1);
    let area = recover(&device, 0);
    assert_eq!(area.position, positions[positions.len() - 2]);
    assert!(area.damage.unwrap().contains("cannot be read"));
    device.fail_reads(ring..ring + 16);
    let mut region = open(&device, 0);
    assert_eq!(
        region.execute(ReplicaOp::Load).unwrap_err().kind,
        ReplicaErrorKind::Io
    );
}

#[test]
fn one_superblock_is_enough_and_none_is_no_region() {
    let (device, _) = worn();
    let mut handle = Handle::new(Box::new(device.open()));
    let last = Label::read(&mut handle).unwrap().superblock.geometry.last_block();
    for block in [0, last] {
        let damaged = device.fork();
        damaged.corrupt(block * BLOCK, |bytes| bytes.fill(0));
        let region = open(&damaged, 0);
        assert_eq!(region.notes().len(), 1);
        damaged.corrupt((last - block) * BLOCK, |bytes| bytes[3] ^= 1);
        let refused = Region::open(Box::new(damaged.open()), identity(0)).unwrap_err();
        assert!(matches!(refused, RegionError::NoRegion { .. }));
    }
    device.fail_reads(0..1);
    assert_eq!(open(&device, 0).notes().len(), 1);
}
