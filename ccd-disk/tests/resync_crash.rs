//! A resync that is cut off anywhere: the device then holds what it held, or what its twin holds; its votes are untouched; what a
//! successor starts from is the same; and doing it again finishes it.

mod support;

use ccd_core::configuration::{Ballot, BallotBlock};
use ccd_core::database::{Database, Key, Op, Record};
use ccd_core::ids::{DeviceRole, Epoch, Incarnation, Replica};
use ccd_core::protocol::rules::{Evidence, Source, newest_state};
use ccd_core::replica::ReplicaOp;
use ccd_disk::device::MemoryDevice;
use ccd_disk::format::geometry::Slot;
use ccd_disk::resync::{Copy, Decision, Seen, Unwanted, bring, decide, see};
use ccd_disk::{ExpectedIdentity, MkfsOptions, Region, RegionError, RegionId, create};
use std::convert::Infallible;
use std::sync::Arc;
use support::{CLUSTER, committed, device_after, node, solo, tears};

const P: DeviceRole = DeviceRole::Primary;
const S: DeviceRole = DeviceRole::Secondary;

fn made(role: DeviceRole) -> MemoryDevice {
    let options =
        MkfsOptions::device(CLUSTER, RegionId([role as u8 + 1; 16]), Replica::Device(role), 2).tiny();
    let device = MemoryDevice::new(role.name(), options.len_bytes().unwrap());
    create(Box::new(device.open()), &options).unwrap();
    device
}

fn open(device: &MemoryDevice, role: DeviceRole) -> Region {
    let expected = ExpectedIdentity {
        cluster: CLUSTER,
        replica: Replica::Device(role),
        node: node(0),
    };
    Region::open(Box::new(device.open()), expected).unwrap()
}

fn looked_at(device: &MemoryDevice, role: DeviceRole) -> (Seen, Database) {
    see(&mut open(device, role), Source::Device(role)).unwrap()
}

/// Node 0 opens this configuration on its devices and makes so many updates.
fn serve(devices: &[(&MemoryDevice, DeviceRole)], epoch: u64, from: &Database, updates: u64) -> Database {
    let roles: Vec<DeviceRole> = devices.iter().map(|(_, role)| *role).collect();
    let configuration = solo(epoch, &roles, from.position());
    let mut records = vec![Arc::new(Record::opening(from.position(), &configuration))];
    let mut database = from.apply(&records[0]).unwrap();
    for sequence in 1..=updates {
        let op = Op::Format {
            key: Key::new(&format!("KEY{epoch}.{sequence}")).unwrap(),
            columns: (0..30).map(|column| format!("column_number_{column}")).collect(),
        };
        let (record, next) = committed(&database, epoch * 1000 + sequence, op);
        records.push(record);
        database = next;
    }
    for (device, role) in devices {
        let mut region = open(device, *role);
        let configuration = configuration.clone();
        region
            .execute(ReplicaOp::WriteConfiguration { configuration })
            .unwrap();
        for record in &records {
            let record = record.clone();
            let append = ReplicaOp::Append {
                record,
                then_survey: false,
            };
            region.execute(append).unwrap();
        }
    }
    database
}

fn promise() -> BallotBlock {
    let promised = Ballot {
        round: 5,
        node: node(0),
        incarnation: Incarnation(7),
    };
    BallotBlock {
        instance: Epoch(1),
        promised,
        accepted: None,
    }
}

/// A pair whose secondary was dropped after epoch 1: the primary is at epoch 2. The secondary still holds what it held then.
fn pair() -> (MemoryDevice, MemoryDevice) {
    let (primary, secondary) = (made(P), made(S));
    let first = serve(&[(&primary, P), (&secondary, S)], 1, &Database::default(), 3);
    let ballot = promise();
    open(&secondary, S)
        .execute(ReplicaOp::WriteBallot { ballot })
        .unwrap();
    serve(&[(&primary, P)], 2, &first, 8);
    (primary, secondary)
}

fn wanted(twin: &Seen, target: &Seen) -> Copy {
    match decide(twin, target, None).unwrap() {
        Decision::Copy(copy) => *copy,
        other => panic!("{other:?}"),
    }
}

fn resync(primary: &MemoryDevice, target: &MemoryDevice) {
    let (twin, database) = looked_at(primary, P);
    let (seen, _) = looked_at(target, S);
    let copy = wanted(&twin, &seen);
    bring::<Infallible>(&mut open(target, S), &copy, &database, &mut |_, _| Ok(())).unwrap();
}

fn cut_everywhere(primary: &MemoryDevice, start: &MemoryDevice) {
    let (twin, database) = looked_at(primary, P);
    let (before, database_before) = looked_at(start, S);
    let known = twin.configuration.clone().unwrap().1;
    let run = start.fork();
    run.record();
    resync(primary, &run);
    let log = run.take_log();
    assert!(log.len() > 4, "{} writes", log.len());
    let (mut old, mut new) = (0, 0);
    for cut in 0..=log.len() {
        for tear in tears() {
            let device = device_after(start, &log, cut, tear);
            let (after, held) = looked_at(&device, S);
            let at = format!("cut {cut}, {tear:?}");
            assert_eq!(after.ballots, before.ballots, "{at}");
            if after.position == twin.position && after.damage.is_none() {
                new += 1;
                assert_eq!(held, database, "{at}");
            } else {
                old += 1;
                assert_eq!(after.position, before.position, "{at}");
                assert_eq!(
                    after.damage.is_some(),
                    before.damage.is_some(),
                    "{at}: {:?}",
                    after.damage
                );
                assert_eq!(held, database_before, "{at}");
            }
            let epoch = |seen: &Seen| seen.configuration.as_ref().map(|(_, found)| found.epoch);
            assert!([epoch(&before), epoch(&twin)].contains(&epoch(&after)), "{at}");
            // What the next configuration would start from is the same.
            let evidence = [&twin, &after].map(|seen| Evidence {
                source: seen.source,
                position: seen.position,
                whole: seen.damage.is_none(),
                rolled_back: None,
            });
            assert_eq!(
                newest_state(&known, &evidence).unwrap().position,
                twin.position,
                "{at}"
            );
            // Again, from wherever it stands; a torn control block is not waited for.
            match decide(&twin, &after, None) {
                Ok(Decision::InSync) => {}
                Ok(Decision::Copy(_)) => resync(primary, &device),
                other => panic!("{at}: {other:?}"),
            }
            let (done, held) = looked_at(&device, S);
            assert_eq!(decide(&twin, &done, None), Ok(Decision::InSync), "{at}");
            assert_eq!(held, database, "{at}");
        }
    }
    assert!(old > 0 && new > 0, "{old} {new}");
}

#[test]
fn a_cut_anywhere_leaves_a_new_device_empty_or_whole() {
    let (primary, _) = pair();
    cut_everywhere(&primary, &made(S));
}

#[test]
fn a_cut_anywhere_leaves_a_stale_device_old_or_whole() {
    let (primary, secondary) = pair();
    cut_everywhere(&primary, &secondary);
}

#[test]
fn a_cut_anywhere_leaves_a_damaged_device_damaged_or_whole() {
    let (primary, secondary) = pair();
    resync(&primary, &secondary);
    let geometry = open(&secondary, S).superblock().geometry;
    for slot in Slot::ALL {
        let offset = (geometry.slot(node(0), slot) + 1) * 4096;
        secondary.corrupt(offset, |block| block[200] ^= 1);
    }
    assert!(looked_at(&secondary, S).0.damage.is_some());
    cut_everywhere(&primary, &secondary);
}

#[test]
fn a_device_that_refuses_writes_and_a_copy_that_is_not_wanted_any_more_leave_what_was_there() {
    let (primary, secondary) = pair();
    let (twin, database) = looked_at(&primary, P);
    let (before, database_before) = looked_at(&secondary, S);
    let copy = wanted(&twin, &before);
    // A reservation conflict: nothing is changed.
    let device = secondary.fork();
    let handle = device.open();
    device.fence(handle.handle());
    let expected = ExpectedIdentity {
        cluster: CLUSTER,
        replica: Replica::Device(S),
        node: node(0),
    };
    let mut region = Region::open(Box::new(handle), expected).unwrap();
    let refused = bring::<Infallible>(&mut region, &copy, &database, &mut |_, _| Ok(()));
    assert!(
        matches!(refused, Err(Unwanted::Region(RegionError::Fenced { .. }))),
        "{refused:?}"
    );
    assert_eq!(looked_at(&device, S).1, database_before);
    // A daemon started while the last block was on its way.
    let mut told = Vec::new();
    let stopped = bring(&mut open(&secondary, S), &copy, &database, &mut |done, total| {
        told.push((done, total));
        if done == total { Err("a daemon") } else { Ok(()) }
    });
    assert!(
        matches!(stopped, Err(Unwanted::Stopped("a daemon"))),
        "{stopped:?}"
    );
    let image_len_bytes = database.image_len_bytes();
    assert_eq!(told.last(), Some(&(image_len_bytes, image_len_bytes)));
    let (after, held) = looked_at(&secondary, S);
    assert_eq!((held, after.damage), (database_before, None));
    resync(&primary, &secondary);
    assert_eq!(looked_at(&secondary, S).1, database);
}
