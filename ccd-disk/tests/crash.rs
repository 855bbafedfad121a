//! Power cuts: every prefix of the recorded writes of a history, the last one torn in many ways, is put through recovery.
//!
//! After every cut the area must hold exactly a state that was acked, or the one that was being written: never an older
//! one, never a mixture, and never damage. Then the region must take writes again, and a second cut may follow.

mod support;

use ccd_core::configuration::{Ballot, BallotBlock, Configuration};
use ccd_core::ids::{DeviceSet, Epoch, Incarnation, NodeSet, Position};
use ccd_core::replica::{Heartbeat, ReplicaAnswer, ReplicaOp};
use ccd_disk::device::{LoggedWrite, MemoryDevice, Tear};
use ccd_disk::format::journal::Entry;
use ccd_disk::region::{CheckpointBegun, CheckpointStep, Region};
use proptest::prelude::*;
use std::borrow::Cow;
use support::*;

/// One thing done to a region.
#[derive(Clone, Debug)]
enum Act {
    Append {
        payload_len: usize,
    },
    /// Several records with so many bytes each, with one flush.
    Tail {
        payload_lens: Vec<usize>,
    },
    Rollback,
    /// As a whole image.
    Checkpoint {
        image_len: usize,
        appends_between: usize,
    },
    /// As a segment, if one is cheaper than an image of this length.
    Segment {
        image_len: usize,
        appends_between: usize,
    },
    WriteImage {
        image_len: usize,
    },
    Configuration,
    Ballot,
    Heartbeat,
}

/// What a region must hold.
#[derive(Clone, Debug, PartialEq)]
struct Expected {
    position: Position,
    /// The records that stand since the last whole image; a checkpoint may hold the first of them.
    records: Vec<Entry>,
    configuration_epoch: u64,
    ballot_round: u64,
}

/// Does acts on a region and writes down what was acked after which device write.
struct Run {
    region: Region,
    device: MemoryDevice,
    expected: Expected,
    generation: u64,
    branch: u8,
    /// Begun so far.
    segments: usize,
    /// After so many device calls (writes and flushes), this is what must be there.
    acked: Vec<(usize, Expected)>,
    log: Vec<LoggedWrite>,
}

impl Run {
    fn on(device: MemoryDevice) -> Self {
        let region = open(&device, 0);
        let expected = Expected {
            position: Position::EMPTY,
            records: Vec::new(),
            configuration_epoch: 0,
            ballot_round: 0,
        };
        let acked = vec![(0, expected.clone())];
        device.record();
        Self {
            region,
            device,
            expected,
            generation: 0,
            branch: 1,
            segments: 0,
            acked,
            log: Vec::new(),
        }
    }

    fn acked(&mut self) {
        self.log.extend(self.device.take_log());
        self.device.record();
        self.acked.push((self.log.len(), self.expected.clone()));
    }

    fn append(&mut self, payload_len: usize) {
        let prev = self.expected.position;
        self.generation += 1;
        let next = position(1, self.generation, self.branch);
        let entry = update(prev, next, payload_len);
        if self.region.append_entry(&entry).is_ok() {
            self.expected.position = next;
            self.expected.records.push(entry);
            self.acked();
        } else {
            // Full: a checkpoint makes room.
            self.generation -= 1;
            self.checkpoint(100, 0);
        }
    }

    fn tail(&mut self, payload_lens: &[usize]) {
        let (mut at, mut entries) = (self.expected.position, Vec::new());
        for (count, payload_len) in (1..).zip(payload_lens) {
            let next = position(1, self.generation + count, self.branch);
            entries.push(update(at, next, *payload_len));
            at = next;
        }
        if self.region.append_entries(&entries).is_ok() {
            self.generation += entries.len() as u64;
            self.expected.position = at;
            self.expected.records.extend(entries);
            self.acked();
        } else {
            self.checkpoint(100, 0);
        }
    }

    fn checkpoint(&mut self, image_len: usize, appends_between: usize) {
        let at = self.expected.position;
        if self.region.begin_image(at, image(at, image_len)).unwrap() {
            self.step_on(appends_between);
        }
    }

    fn segment(&mut self, image_len: usize, appends_between: usize) {
        let at = self.expected.position;
        match self.region.begin_checkpoint(at, image_len as u64).unwrap() {
            CheckpointBegun::Nothing => {}
            CheckpointBegun::Segment => {
                self.segments += 1;
                self.step_on(appends_between);
            }
            CheckpointBegun::ImageWanted => self.checkpoint(image_len, appends_between),
        }
    }

    fn step_on(&mut self, appends_between: usize) {
        for _ in 0..appends_between {
            self.append(30);
        }
        while self.region.checkpoint_step().unwrap() != CheckpointStep::Done {}
        self.acked();
    }

    /// After a power cut in call `cut`, the device holds what was acked before it, or what was being written; which of
    /// the two it is, is returned.
    fn check_cut(&self, device: &MemoryDevice, cut: usize, which: &str) -> Expected {
        let before = self.acked.iter().rev().find(|(calls, _)| *calls <= cut);
        let acked = before.map(|(_, state)| state).unwrap();
        let after = self.acked.iter().find(|(calls, _)| *calls > cut);
        let next = after.map(|(_, state)| state);
        let (found, base, damage) = found(device);
        assert_eq!(damage, None, "{which}: a power cut is no damage");
        let is_right = matches(&found, base, acked) || next.is_some_and(|next| matches(&found, base, next));
        assert!(
            is_right,
            "{which}: found {found:?} on {base}, acked {acked:?}, next {next:?}"
        );
        found
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Append { payload_len } => self.append(*payload_len),
            Act::Tail { payload_lens } => self.tail(payload_lens),
            Act::Rollback => {
                let Some(undone) = self.expected.records.last().cloned() else {
                    return;
                };
                // What a batch holds is refused as well: it was committed before it was written.
                // What a checkpoint already holds is refused.
                if self
                    .region
                    .append_entry(&rollback(undone.next, undone.prev))
                    .is_ok()
                {
                    self.expected.records.pop();
                    self.expected.position = undone.prev;
                    self.branch = self.branch.wrapping_add(1);
                    self.generation = undone.prev.stamp.generation.0;
                    self.acked();
                }
            }
            Act::Checkpoint {
                image_len,
                appends_between,
            } => self.checkpoint(*image_len, *appends_between),
            Act::Segment {
                image_len,
                appends_between,
            } => self.segment(*image_len, *appends_between),
            Act::WriteImage { image_len } => {
                self.branch = self.branch.wrapping_add(1);
                self.generation = 3;
                let at = position(1, 3, self.branch);
                self.region.write_image_bytes(at, image(at, *image_len)).unwrap();
                self.expected.position = at;
                self.expected.records.clear();
                self.acked();
            }
            Act::Configuration => {
                self.expected.configuration_epoch += 1;
                let mut configuration = Configuration::genesis(
                    NodeSet::from_bits(3),
                    DeviceSet {
                        primary: true,
                        secondary: true,
                    },
                );
                configuration.epoch = Epoch(self.expected.configuration_epoch);
                self.region
                    .execute(ReplicaOp::WriteConfiguration { configuration })
                    .unwrap();
                self.acked();
            }
            Act::Ballot => {
                self.expected.ballot_round += 1;
                let promised = Ballot {
                    round: self.expected.ballot_round,
                    node: node(0),
                    incarnation: Incarnation(7),
                };
                let ballot = BallotBlock {
                    instance: Epoch(1),
                    promised,
                    accepted: None,
                };
                self.region.execute(ReplicaOp::WriteBallot { ballot }).unwrap();
                self.acked();
            }
            Act::Heartbeat => {
                let heartbeat = Heartbeat {
                    incarnation: Incarnation(1),
                    ..Heartbeat::default()
                };
                self.region
                    .execute(ReplicaOp::WriteHeartbeat { heartbeat })
                    .unwrap();
                self.acked();
            }
        }
    }
}

/// What recovery finds in area 0: the state, the position of its checkpoint, and damage.
fn found(device: &MemoryDevice) -> (Expected, Position, Option<String>) {
    let area = recover(device, 0);
    let ReplicaAnswer::Survey(survey) = open(device, 0).execute(ReplicaOp::Survey).unwrap() else {
        panic!("a survey answers a survey")
    };
    let own = &survey.areas[0];
    let expected = Expected {
        position: area.position,
        records: area.standing().into_iter().map(Cow::into_owned).collect(),
        configuration_epoch: own.configuration.as_ref().map_or(0, |found| found.epoch.0),
        ballot_round: own.ballot.as_ref().map_or(0, |found| found.promised.round),
    };
    assert_eq!(
        area.image,
        image(area.base(), area.image.len()),
        "the image is the one of its position"
    );
    (expected, area.base(), area.damage)
}

/// Whether what was found is the state that `expected` says: the records after the found checkpoint are the last ones.
fn matches(found: &Expected, base: Position, expected: &Expected) -> bool {
    found.position == expected.position
        && found.configuration_epoch == expected.configuration_epoch
        && found.ballot_round == expected.ballot_round
        && expected.records.ends_with(&found.records)
        && found.records.first().map_or(found.position, |first| first.prev) == base
}

/// Cuts the power everywhere in a history; at some of the cuts goes on and cuts again. Returns how many segments were begun.
fn cut_everywhere(acts: &[Act], again: &[Act]) -> usize {
    let start = device();
    let mut run = Run::on(start.fork());
    for act in acts {
        run.act(act);
    }
    run.log.extend(run.device.take_log());
    for cut in 0..=run.log.len() {
        for tear in tears() {
            let device = device_after(&start, &run.log, cut, tear);
            let found = run.check_cut(&device, cut, &format!("cut {cut}, {tear:?}"));
            if cut % 5 == 0 && !again.is_empty() && tear.sector_bytes == 512 {
                go_on(&device, &found, again);
            }
        }
    }
    run.segments
}

/// After a cut the region takes writes again, and what it then acks is there, whatever leftovers the cut has left.
fn go_on(device: &MemoryDevice, found: &Expected, acts: &[Act]) {
    let mut run = Run::on(device.fork());
    run.expected = found.clone();
    run.generation = found.position.stamp.generation.0;
    run.branch = 200;
    run.acked = vec![(0, found.clone())];
    let start = run.device.fork();
    for act in acts {
        run.act(act);
    }
    run.log.extend(run.device.take_log());
    for cut in 0..=run.log.len() {
        for tear in [
            Tear {
                sector_bytes: 512,
                kept: 0x33,
            },
            Tear {
                sector_bytes: 4096,
                kept: !1,
            },
        ] {
            let device = device_after(&start, &run.log, cut, tear);
            run.check_cut(&device, cut, &format!("second cut {cut}, {tear:?}"));
        }
    }
}

fn append(payload_len: usize) -> Act {
    Act::Append { payload_len }
}

fn tail(payload_lens: &[usize]) -> Act {
    Act::Tail {
        payload_lens: payload_lens.to_vec(),
    }
}

#[test]
fn every_cut_of_a_tail_leaves_all_of_it_or_nothing() {
    let segment = || Act::Segment {
        image_len: 40_000,
        appends_between: 1,
    };
    let checkpoint = Act::Checkpoint {
        image_len: 40_000,
        appends_between: 1,
    };
    let acts = [
        append(10),
        tail(&[10, 3000, 0, 700]),
        append(100),
        Act::Rollback,
        tail(&[1, 1]),
        checkpoint,
        tail(&[500; 20]),
        segment(),
        tail(&[9000, 4000]),
        append(1),
        segment(),
        tail(&[7; 3]),
    ];
    let segments = cut_everywhere(&acts, &[tail(&[5, 3000]), append(12), tail(&[1, 2, 3])]);
    assert!(segments > 0, "a batch goes into a segment");
}

#[test]
fn every_cut_of_appends_and_rollbacks_leaves_an_acked_state() {
    let acts = [
        append(10),
        append(9000),
        Act::Rollback,
        append(4000),
        append(30),
        Act::Rollback,
        append(20_000),
    ];
    cut_everywhere(&acts, &[append(5), append(12_000), Act::Rollback, append(1)]);
}

#[test]
fn every_cut_around_checkpoints_and_images_leaves_an_acked_state() {
    let checkpoint = |image_len, appends_between| Act::Checkpoint {
        image_len,
        appends_between,
    };
    let acts = [
        append(10),
        checkpoint(9_000, 2),
        append(5_000),
        checkpoint(60_000, 1),
        Act::WriteImage { image_len: 20_000 },
        append(10),
        checkpoint(100, 0),
        Act::WriteImage { image_len: 0 },
        append(8_000),
    ];
    cut_everywhere(
        &acts,
        &[
            append(5),
            checkpoint(9_000, 1),
            Act::WriteImage { image_len: 5_000 },
            append(1),
        ],
    );
}

#[test]
fn every_cut_around_segments_trims_and_switches_to_an_image_leaves_an_acked_state() {
    let checkpoint = |image_len, appends_between| Act::Checkpoint {
        image_len,
        appends_between,
    };
    let segment = |appends_between| Act::Segment {
        image_len: 60_000,
        appends_between,
    };
    let acts = [
        append(10),
        checkpoint(30_000, 0),
        append(300),
        segment(0),
        append(5_000),
        append(20_000),
        Act::Rollback,
        append(9_000),
        segment(2),
        Act::Rollback,
        segment(0),
        append(12_000),
        // The segments cost as much as an image now.
        segment(1),
        append(20),
        segment(0),
        Act::WriteImage { image_len: 30_000 },
        append(8_000),
        segment(1),
    ];
    let again = [
        append(5),
        segment(1),
        append(9_000),
        segment(0),
        checkpoint(9_000, 1),
        append(1),
        segment(0),
    ];
    let segments = cut_everywhere(&acts, &again);
    assert_eq!(segments, 5, "one of the six is an image");
}

#[test]
fn what_a_cut_segment_leaves_does_not_continue_a_shorter_one() {
    let mut run = Run::on(device());
    run.append(10);
    run.checkpoint(60_000, 0);
    for _ in 0..5 {
        run.append(4_000);
    }
    let start = run.device.fork();
    run.device.record();
    let at = run.expected.position;
    let begun = run.region.begin_checkpoint(at, 60_000).unwrap();
    assert_eq!(begun, CheckpointBegun::Segment);
    while run.region.checkpoint_step().unwrap() != CheckpointStep::Done {}
    let log = run.device.take_log();
    let head = log.len() - 1;
    assert!(head >= 2, "parts, a flush, the head");
    for tear in tears() {
        let device = start.fork();
        for write in log[..head].iter().filter(|call| !call.flush) {
            device.replay(write, None);
        }
        device.replay(&log[head], Some(tear));
        let area = recover(&device, 0);
        assert_eq!((area.position, &area.damage), (at, &None), "{tear:?}");
        let counts = area.segments.count;
        // Whatever became of the head: the area goes on, and what it writes next is what is found.
        let mut region = open(&device, 0);
        let next = position(1, 90, 9);
        region.append_entry(&update(at, next, 10)).unwrap();
        match region.begin_checkpoint(next, 60_000).unwrap() {
            CheckpointBegun::Segment => {}
            CheckpointBegun::ImageWanted => {
                assert_eq!(counts, 0, "nothing is written over a head that was torn");
                assert!(region.begin_image(next, image(next, 900)).unwrap());
            }
            CheckpointBegun::Nothing => panic!("the journal goes on"),
        }
        while region.checkpoint_step().unwrap() != CheckpointStep::Done {}
        let area = recover(&device, 0);
        assert_eq!((area.position, area.damage), (next, None), "{tear:?}");
        assert!(area.journal.is_empty(), "trimmed");
    }
}

#[test]
fn every_cut_around_control_blocks_leaves_the_new_one_or_the_one_before() {
    let acts: Vec<Act> = (0..12)
        .flat_map(|_| [Act::Ballot, Act::Configuration, Act::Heartbeat])
        .collect();
    cut_everywhere(&acts, &[Act::Ballot, Act::Configuration]);
}

#[test]
fn the_ring_is_gone_round_many_times() {
    let mut run = Run::on(device());
    let mut length = 1;
    for lap in 0..400 {
        length = (length * 37 + lap) % 26_000;
        run.append(length);
        if lap % 7 == 0 {
            run.act(&Act::Rollback);
        }
        if lap % 3 == 0 {
            let (found, base, damage) = found(&run.device);
            assert_eq!(damage, None);
            assert!(matches(&found, base, &run.expected), "lap {lap}");
        }
    }
    assert!(run.generation > 250, "the history got far: {}", run.generation);
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (0usize..24_000).prop_map(|payload_len| Act::Append { payload_len }),
        2 => proptest::collection::vec(0usize..4_000, 1..4).prop_map(|payload_lens| Act::Tail { payload_lens }),
        2 => Just(Act::Rollback),
        2 => (0usize..50_000, 0usize..3)
            .prop_map(|(image_len, appends_between)| Act::Checkpoint { image_len, appends_between }),
        3 => (30_000usize..64_000, 0usize..3)
            .prop_map(|(image_len, appends_between)| Act::Segment { image_len, appends_between }),
        1 => (0usize..60_000).prop_map(|image_len| Act::WriteImage { image_len }),
        1 => Just(Act::Configuration),
        1 => Just(Act::Ballot),
    ];
    proptest::collection::vec(act, 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn every_cut_of_any_history_leaves_an_acked_state(first in acts(), second in acts()) {
        cut_everywhere(&first, &second[..second.len().min(3)]);
    }
}
