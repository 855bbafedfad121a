//! Two nodes of one cluster, and what their tests run on.

use super::{Digest, Identity, Roster, Versions};
use ccd_client::files::{Authkey, Authkeys};
use ccd_core::ids::{ClusterId, DeviceSet, Epoch, Incarnation, NodeId, NodeSet, Position};
use ccd_core::protocol::{Message, PeerState, Room};
use std::cell::{Cell, RefCell};
use std::time::Duration;
use tokio::task::LocalSet;

const PATIENCE: Duration = Duration::from_secs(20);

pub fn node(number: u8) -> NodeId {
    NodeId::new(number).unwrap()
}

pub fn key(byte: u8) -> Authkey {
    Authkey::new([byte; 32])
}

pub fn roster(nodes: NodeSet, digest: u8) -> RefCell<Roster> {
    RefCell::new(Roster {
        nodes,
        digest: Digest([digest; 32]),
        other: None,
        added: NodeSet::EMPTY,
        servers: Default::default(),
    })
}

pub fn identity(me: u8, keys: Authkeys) -> Identity {
    Identity {
        me: node(me),
        run: Incarnation(u64::from(me) + 1),
        cluster: ClusterId([7; 16]),
        roster: roster([node(0), node(1)].into_iter().collect(), 8),
        progress: Cell::default(),
        servers: Cell::default(),
        versions: Versions::OURS,
        keys: RefCell::new(keys),
    }
}

/// A heartbeat of this run of a node.
pub fn beat(run: u64, echo: u64) -> Message {
    Message::Heartbeat(PeerState {
        incarnation: Incarnation(run),
        echo,
        epoch: Epoch(1),
        mark: 0,
        serving: true,
        served_ms: 1,
        position: Position::EMPTY,
        no_vote: None,
        folder: Default::default(),
        willing: true,
        ready: true,
        devices: DeviceSet::EMPTY,
        hears: NodeSet::EMPTY,
        able: NodeSet::EMPTY,
        lets_in: NodeSet::EMPTY,
        device_reports: Default::default(),
        room: Room {
            local_bytes: None,
            device: None,
            image_bytes: 0,
        },
        trouble: None,
        report: 0,
    })
}

pub fn on_one_thread<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(PATIENCE, work).await.unwrap()
    })
}
