//! One server: the process of a node, its clock, its inbox and its drives.

use super::drive::Drive;
use super::inits::Inits;
use super::moment::{Clock, Moment};
use ccd_core::ids::{DeviceRole, NodeId, Position, Replica, ServerId, Stamp};
use ccd_core::init::InitFile;
use ccd_core::protocol::{Action, Event, Node};
use ccd_core::replica::Host;
use std::collections::BTreeSet;

/// The life of a server's process.
#[derive(Debug)]
pub struct Process {
    pub node: Node,
    /// Indexed by [`slot`].
    pub drives: Vec<Option<Drive>>,
    /// Requests of clients that are not answered yet.
    pub asks: BTreeSet<u64>,
}

/// What the scheduler of a stopped process keeps for it.
#[derive(Debug, Default)]
pub struct Stopped {
    /// What was left to carry out of the event during which it was stopped.
    pub actions: Vec<Action>,
    pub inbox: Vec<Event>,
    /// Operations that can go on only when the process does.
    pub steps: Vec<DiskStep>,
}

/// A step of the operation under way on a drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskStep {
    pub slot: usize,
    /// The operation's serial number on that drive.
    pub serial: u64,
    pub stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Its writes, and usually its reads, reach the medium.
    Land,
    /// Its reads do, apart from its writes.
    Read,
    /// Its answer is there.
    Finish,
}

#[derive(Debug)]
pub struct Server {
    pub id: NodeId,
    pub clock: Clock,
    pub inits: Inits,
    /// Which machine it is: a copy of a server is another one.
    pub machine: usize,
    /// It is a copy of that server, and has no network.
    pub copy_of: Option<usize>,
    /// It does not start any more.
    pub is_retired: bool,
    /// Which start of the process this is; events of an earlier one are dropped.
    pub run: u64,
    /// `None`: the process is down.
    pub process: Option<Process>,
    /// `Some`: the process is stopped (SIGSTOP).
    pub stopped: Option<Stopped>,
    pub resumed_at: Moment,
    /// When its machine fell asleep.
    pub slept_at: Moment,
    /// How wrong its date is.
    pub date_error_ms: i64,
    /// When the next timer event is due, so that none is scheduled twice.
    pub timer: Option<Moment>,
    /// Decision records that the node has written, newest last.
    pub decisions: Vec<ccd_core::protocol::Decision>,
    /// Losses that no operator has removed.
    pub losses: Vec<ccd_core::protocol::Loss>,
    /// Up to where it has told what is committed.
    pub told: Position,
    /// How often it told of something that it does not know the way to.
    pub gaps: u64,
    /// The newest state that this run has read to be committed.
    pub knows: Stamp,
    /// An operator has told it to leave at some time, and perhaps to join again.
    pub has_left: bool,
    /// The run that was told so and has said that it is done.
    pub left_in: Option<u64>,
}

impl Server {
    pub fn new(id: NodeId, clock: Clock, init: InitFile) -> Self {
        Self {
            id,
            clock,
            machine: id.index(),
            copy_of: None,
            is_retired: false,
            inits: Inits::new(init),
            run: 0,
            process: None,
            stopped: None,
            resumed_at: Moment::ZERO,
            slept_at: Moment::ZERO,
            date_error_ms: 0,
            timer: None,
            decisions: Vec::new(),
            losses: Vec::new(),
            told: Position::EMPTY,
            gaps: 0,
            knows: Stamp::default(),
            has_left: false,
            left_in: None,
        }
    }

    /// Where its process runs, as heartbeats say it.
    pub fn host(&self) -> Host {
        let machine = self.machine as u8 + 1;
        Host {
            name: format!("machine{}", self.machine),
            machine: [machine; 16],
            lock: [machine; 16],
            hardware: [machine; 16],
            server: self.server_id(),
        }
    }

    /// It is a copy of a server.
    pub fn is_copy(&self) -> bool {
        self.copy_of.is_some()
    }

    /// Which server it is, by its init database.
    pub fn server_id(&self) -> ServerId {
        self.inits.file.servers.get(self.id)
    }

    /// It runs and is not stopped.
    pub fn is_awake(&self) -> bool {
        self.process.is_some() && self.stopped.is_none()
    }

    pub fn drive(&mut self, slot: usize) -> Option<&mut Drive> {
        self.process.as_mut()?.drives.get_mut(slot)?.as_mut()
    }
}

/// Index of a replica's drive.
pub fn slot(replica: Replica) -> usize {
    match replica {
        Replica::Local => 0,
        Replica::Device(DeviceRole::Primary) => 1,
        Replica::Device(DeviceRole::Secondary) => 2,
    }
}

/// The replica of a drive.
pub fn replica(slot: usize) -> Replica {
    match slot {
        0 => Replica::Local,
        1 => Replica::Device(DeviceRole::Primary),
        _ => Replica::Device(DeviceRole::Secondary),
    }
}
