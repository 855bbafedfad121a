//! Regions on devices in memory, and entries of a made-up history for them: what the region tests share.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod program;

use ccd_core::configuration::{Configuration, Mode};
use ccd_core::database::{Database, Key, Op, Record, Update, Who};
use ccd_core::ids::{
    ClusterId, DeviceRole, Epoch, Generation, Lineage, NodeId, NodeSet, Position, Replica, RequestId, Stamp,
};
use ccd_core::replica::{ReplicaAnswer, Survey};
use ccd_core::time::Date;
use ccd_disk::device::{LoggedWrite, MemoryDevice, Tear};
use ccd_disk::format::journal::{Entry, Step};
use ccd_disk::format::superblock::Superblock;
use ccd_disk::region::handle::Handle;
use ccd_disk::region::label::Label;
use ccd_disk::region::recovery::{self, RecoveredArea};
use ccd_disk::{ExpectedIdentity, MkfsOptions, Region, RegionId, create};
use std::sync::Arc;

pub const CLUSTER: ClusterId = ClusterId([0xC1; 16]);
pub const REPLICA: Replica = Replica::Device(DeviceRole::Primary);

pub fn node(number: u8) -> NodeId {
    NodeId::new(number).unwrap()
}

pub fn options() -> MkfsOptions {
    MkfsOptions::device(CLUSTER, RegionId([0x4E; 16]), REPLICA, 2).tiny()
}

/// Node 0 alone owns these devices of a cluster of two nodes, and goes on from there.
pub fn solo(epoch: u64, roles: &[DeviceRole], base: Position) -> Configuration {
    let nodes = NodeSet::of(node(0)).with(node(1));
    Configuration {
        epoch: Epoch(epoch),
        mode: Mode::Solo(node(0)),
        members: NodeSet::of(node(0)),
        base,
        ..Configuration::genesis(nodes, roles.iter().copied().collect())
    }
}

/// The database after one more update of two members, and the record that leads there.
pub fn committed(database: &Database, sequence: u64, op: Op) -> (Arc<Record>, Database) {
    let update = Update {
        request: RequestId { client: 7, sequence },
        who: Who::default(),
        date: Date(sequence),
        reason: None,
        preconditions: Vec::new(),
        ops: vec![op],
    };
    let (admitted, _) = database.admit(&update).unwrap();
    let epoch = database.position().stamp.epoch;
    let (record, next) = Record::updates(database, epoch, admitted, vec![update], NodeSet::from_bits(3));
    (Arc::new(record), next)
}

/// A fresh region for two nodes.
pub fn device() -> MemoryDevice {
    let device = MemoryDevice::new("memory", options().len_bytes().unwrap());
    create(Box::new(device.open()), &options()).unwrap();
    device
}

pub fn identity(number: u8) -> ExpectedIdentity {
    ExpectedIdentity {
        cluster: CLUSTER,
        replica: REPLICA,
        node: node(number),
    }
}

pub fn open(device: &MemoryDevice, number: u8) -> Region {
    Region::open(Box::new(device.open()), identity(number)).unwrap()
}

/// What recovery finds in the area of a node.
pub fn recover(device: &MemoryDevice, number: u8) -> RecoveredArea {
    let mut handle = Handle::new(Box::new(device.open()));
    let superblock: Superblock = Label::read(&mut handle).unwrap().superblock;
    recovery::recover(&mut handle, &superblock, node(number), false).unwrap()
}

/// A position whose lineage tells its history: positions with equal stamps on different branches differ.
pub fn position(epoch: u64, generation: u64, branch: u8) -> Position {
    if generation == 0 && epoch == 0 {
        return Position::EMPTY;
    }
    let mut lineage = [branch; 32];
    lineage[..8].copy_from_slice(&generation.to_le_bytes());
    Position {
        stamp: Stamp {
            epoch: Epoch(epoch),
            generation: Generation(generation),
        },
        lineage: Lineage(lineage),
    }
}

/// An update whose payload can be told from every other's.
pub fn update(prev: Position, next: Position, payload_len: usize) -> Entry {
    let seed = next.stamp.generation.0 as u8 ^ next.lineage.0[31].rotate_left(4);
    let payload = (0..payload_len)
        .map(|index| (index as u8).wrapping_mul(31) ^ seed)
        .collect();
    Entry {
        step: Step::Updates,
        prev,
        next,
        payload,
    }
}

pub fn rollback(undone: Position, back_to: Position) -> Entry {
    Entry {
        step: Step::Rollback,
        prev: undone,
        next: back_to,
        payload: vec![7; 40],
    }
}

/// An image that can be told from every other position's.
pub fn image(position: Position, len: usize) -> Vec<u8> {
    let seed = position.stamp.generation.0 as u8 ^ position.lineage.0[31];
    (0..len)
        .map(|index| (index as u8).wrapping_mul(13) ^ seed)
        .collect()
}

/// The device as a power cut in the middle of call `cut` leaves it.
pub fn device_after(start: &MemoryDevice, log: &[LoggedWrite], cut: usize, tear: Tear) -> MemoryDevice {
    let device = start.fork();
    // Writes that no flush followed before the cut may be lost in any part: these are torn too.
    let flushed_until = log[..cut].iter().rposition(|call| call.flush).unwrap_or(0);
    for (index, write) in log[..cut].iter().enumerate() {
        if !write.flush {
            let kept = (!write.durable && index >= flushed_until).then_some(tear);
            device.replay(write, kept);
        }
    }
    if let Some(write) = log.get(cut).filter(|call| !call.flush) {
        device.replay(write, Some(tear));
    }
    device
}

/// Ways in which the write that was cut off, and those that no flush followed, reach the medium.
pub fn tears() -> Vec<Tear> {
    let mut tears = vec![
        Tear {
            sector_bytes: 4096,
            kept: 0,
        },
        Tear {
            sector_bytes: 4096,
            kept: u64::MAX,
        },
    ];
    for kept in [
        0b1,
        0b10,
        0x55,
        0xAA,
        0x1111_1111_1111_1111,
        0x0F0F_0F0F_0F0F_0F0F,
        !1,
    ] {
        tears.push(Tear {
            sector_bytes: 512,
            kept,
        });
        tears.push(Tear {
            sector_bytes: 4096,
            kept,
        });
    }
    tears
}

pub fn both() -> NodeSet {
    NodeSet::from_bits(3)
}

/// The database after one more update, and the record that leads there.
pub fn updated(database: &Database, sequence: u64, columns: usize) -> (Arc<Record>, Database) {
    let op = Op::Format {
        key: Key::new(&format!("K{sequence}")).unwrap(),
        columns: (0..columns).map(|column| format!("column_{column}")).collect(),
    };
    committed(database, sequence, op)
}

pub fn survey(answer: ReplicaAnswer) -> Survey {
    match answer {
        ReplicaAnswer::Survey(survey) => survey,
        ReplicaAnswer::Appended {
            survey: Some(survey), ..
        } => survey,
        other => panic!("{other:?}"),
    }
}
