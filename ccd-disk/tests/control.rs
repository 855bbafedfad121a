//! Control blocks of a region: heartbeats, ballots and configurations, as the other nodes and other runs find them.

mod support;

use ccd_core::configuration::{Ballot, BallotBlock, Configuration};
use ccd_core::database::{Database, Record};
use ccd_core::ids::{DeviceSet, Epoch, Generation, Incarnation, Position, Stamp};
use ccd_core::replica::{Heartbeat, ReplicaOp};
use ccd_disk::device::{BLOCK_BYTES, Tear};
use std::sync::Arc;
use support::{both, device, node, open, survey, updated};

#[test]
fn ballots_configurations_and_heartbeats_are_seen_by_the_other_node() {
    let device = device();
    let (mut zero, mut one) = (open(&device, 0), open(&device, 1));
    let both_devices = DeviceSet {
        primary: true,
        secondary: true,
    };
    for round in 1..30 {
        let configuration = Configuration {
            epoch: Epoch(round),
            ..Configuration::genesis(both(), both_devices)
        };
        let promised = Ballot {
            round,
            node: node(0),
            incarnation: Incarnation(7),
        };
        let ballot = BallotBlock {
            instance: Epoch(4),
            promised,
            accepted: Some((promised, configuration.clone())),
        };
        let heartbeat = Heartbeat {
            incarnation: Incarnation(9),
            sequence: round,
            stamp: Stamp {
                epoch: Epoch(4),
                generation: Generation(2),
            },
            serving: true,
            hears: both(),
            ..Heartbeat::default()
        };
        zero.execute(ReplicaOp::WriteConfiguration {
            configuration: configuration.clone(),
        })
        .unwrap();
        zero.execute(ReplicaOp::WriteBallot {
            ballot: ballot.clone(),
        })
        .unwrap();
        zero.execute(ReplicaOp::WriteHeartbeat {
            heartbeat: heartbeat.clone(),
        })
        .unwrap();
        if round % 10 == 0 {
            // A node that opens anew continues where it was.
            zero = open(&device, 0);
        }
        let seen = survey(one.execute(ReplicaOp::Survey).unwrap());
        assert_eq!(seen.areas[0].ballot, Some(ballot));
        assert_eq!(seen.areas[0].heartbeat, Some(heartbeat));
        assert_eq!(seen.areas[0].configuration, Some(configuration));
        assert!(seen.areas[1].ballot.is_none() && !seen.areas[0].damaged);
    }
}

#[test]
fn an_older_configuration_written_later_does_not_win() {
    let device = device();
    let mut region = open(&device, 0);
    for epoch in [5, 9, 7, 6] {
        let configuration = Configuration {
            epoch: Epoch(epoch),
            ..Configuration::genesis(both(), DeviceSet::EMPTY)
        };
        region
            .execute(ReplicaOp::WriteConfiguration { configuration })
            .unwrap();
    }
    for _ in 0..20 {
        let configuration = Configuration {
            epoch: Epoch(8),
            ..Configuration::genesis(both(), DeviceSet::EMPTY)
        };
        region
            .execute(ReplicaOp::WriteConfiguration { configuration })
            .unwrap();
        region = open(&device, 0);
    }
    let seen = survey(region.execute(ReplicaOp::Survey).unwrap());
    assert_eq!(
        seen.areas[0].configuration.as_ref().map(|found| found.epoch),
        Some(Epoch(9))
    );
}

#[test]
fn the_claim_check_sees_a_ballot_written_before_the_append() {
    let device = device();
    let (mut owner, mut challenger) = (open(&device, 0), open(&device, 1));
    let ballot = BallotBlock {
        instance: Epoch(3),
        promised: Ballot {
            round: 1,
            node: node(1),
            incarnation: Incarnation(7),
        },
        accepted: None,
    };
    challenger
        .execute(ReplicaOp::WriteBallot {
            ballot: ballot.clone(),
        })
        .unwrap();
    let (record, _) = updated(&Database::default(), 1, 2);
    let answer = owner
        .execute(ReplicaOp::Append {
            record,
            then_survey: true,
        })
        .unwrap();
    let survey = survey(answer);
    assert_eq!(survey.areas[1].ballot, Some(ballot));
    assert_eq!(survey.areas[0].ballot, None);
    let control = owner.superblock().geometry.control(node(1)) + 2;
    device.corrupt(control * BLOCK_BYTES as u64, |block| block[300] ^= 1);
    let (record, _) = updated(&Database::default(), 1, 2);
    let mut anew = open(&support::device(), 0);
    anew.execute(ReplicaOp::Append {
        record,
        then_survey: true,
    })
    .unwrap();
    let rollback = Arc::new(Record::rollback(owner.own_position().unwrap(), Position::EMPTY));
    let answer = owner
        .execute(ReplicaOp::Append {
            record: rollback,
            then_survey: true,
        })
        .unwrap();
    assert!(
        self::survey(answer).areas[1].damaged,
        "a damaged ballot is no absent one"
    );
}

#[test]
fn a_control_block_that_changes_in_one_bit_is_damaged_although_it_was_sound_before() {
    let device = device();
    let mut region = open(&device, 0);
    let ballot = BallotBlock {
        instance: Epoch(4),
        promised: Ballot {
            round: 9,
            node: node(1),
            incarnation: Incarnation(7),
        },
        accepted: None,
    };
    open(&device, 1)
        .execute(ReplicaOp::WriteBallot {
            ballot: ballot.clone(),
        })
        .unwrap();
    let at = (region.superblock().geometry.control(node(1)) + 2) * BLOCK_BYTES as u64;
    let mut look = || survey(region.execute(ReplicaOp::Survey).unwrap()).areas.remove(1);
    for _ in 0..2 {
        assert_eq!(look().ballot, Some(ballot.clone()));
    }
    // In the payload, in the checksum, and behind the payload, where nothing may be.
    for byte in [150, 10, 4000] {
        device.corrupt(at, |block| block[byte] ^= 1);
        for _ in 0..2 {
            assert!(look().damaged, "byte {byte}");
        }
        device.corrupt(at, |block| block[byte] ^= 1);
        assert_eq!(look().ballot, Some(ballot.clone()));
    }
}

#[test]
fn a_claim_is_not_written_over_a_vote_that_another_run_of_the_node_has_cast_since() {
    let device = device();
    let (mut one, mut other) = (open(&device, 0), open(&device, 0));
    let ballot = |round, run| BallotBlock {
        instance: Epoch(4),
        promised: Ballot {
            round,
            node: node(0),
            incarnation: Incarnation(run),
        },
        accepted: None,
    };
    let claim = |ballot, over: Option<BallotBlock>| ReplicaOp::Claim {
        ballot,
        over: over.map(Box::new),
    };
    let shown = |answer| survey(answer).areas.remove(0).ballot;
    let answer = one.execute(claim(ballot(1, 7), None)).unwrap();
    assert_eq!(shown(answer), Some(ballot(1, 7)));
    // Neither in memory nor on the device: the other run claims, knowing what there is.
    let answer = other.execute(claim(ballot(2, 8), Some(ballot(1, 7)))).unwrap();
    assert_eq!(shown(answer), Some(ballot(2, 8)));
    let error = one.execute(claim(ballot(3, 7), Some(ballot(1, 7)))).unwrap_err();
    assert!(error.text.contains("CCD-2022"), "{error}");
    assert_eq!(
        shown(one.execute(ReplicaOp::Survey).unwrap()),
        Some(ballot(2, 8)),
        "it stands"
    );
    // Once it knows of it.
    let answer = one.execute(claim(ballot(3, 7), Some(ballot(2, 8)))).unwrap();
    assert_eq!(shown(answer), Some(ballot(3, 7)));
    // Nor by one that it knows of, if that takes something back.
    let earlier = BallotBlock {
        instance: Epoch(3),
        ..ballot(9, 8)
    };
    for back in [ballot(2, 8), earlier] {
        let error = other.execute(claim(back, Some(ballot(3, 7)))).unwrap_err();
        assert!(error.text.contains("CCD-2022"), "{error}");
    }
    let mut third = open(&device, 0);
    assert_eq!(
        shown(third.execute(ReplicaOp::Survey).unwrap()),
        Some(ballot(3, 7)),
        "its block is the newest of the two"
    );
}

/// Two runs of one node, one after the other: the later one was opened while the first one still wrote.
#[test]
fn what_another_run_wrote_last_is_not_overwritten_first() {
    for written in 1..4 {
        let device = device();
        let mut first = open(&device, 0);
        let beat = |run: u64, sequence| Heartbeat {
            incarnation: Incarnation(run),
            sequence,
            ..Heartbeat::default()
        };
        let configuration = |epoch| Configuration {
            epoch: Epoch(epoch),
            ..Configuration::genesis(both(), DeviceSet::EMPTY)
        };
        let mut second = open(&device, 0);
        for round in 1..=written {
            let heartbeat = beat(1, round);
            first.execute(ReplicaOp::WriteHeartbeat { heartbeat }).unwrap();
            let configuration = configuration(round);
            first
                .execute(ReplicaOp::WriteConfiguration { configuration })
                .unwrap();
        }
        second.execute(ReplicaOp::Survey).unwrap();
        let heartbeat = beat(2, 1);
        let seen = survey(second.execute(ReplicaOp::WriteHeartbeat { heartbeat }).unwrap());
        assert_eq!(seen.areas[0].heartbeat, Some(beat(2, 1)));
        assert_eq!(seen.areas[0].heartbeat_before, Some(beat(1, written)));
        // The write is torn: the newest one of before is there.
        device.die_at_write(
            1,
            Tear {
                sector_bytes: 512,
                kept: 0b10,
            },
        );
        second
            .execute(ReplicaOp::WriteConfiguration {
                configuration: configuration(written + 1),
            })
            .unwrap_err();
        device.power_cut(512, |_, _| false);
        let seen = survey(open(&device, 1).execute(ReplicaOp::Survey).unwrap());
        assert_eq!(seen.areas[0].configuration, Some(configuration(written)));
    }
}
