//! What is going to happen in a world, and in which order: by time, then as it was scheduled.

use super::clones::CloneStep;
use super::moment::Moment;
use super::plan::FaultKind;
use super::server::DiskStep;
use ccd_core::client::ClientToken;
use ccd_core::ids::DeviceRole;
use ccd_core::protocol::{CommandFailure, Event, LongRead, Ticket};
use ccd_core::reservation::FenceOp;

/// Something that is going to happen.
#[derive(Debug)]
pub(super) enum Happening {
    Start {
        server: usize,
    },
    Resume {
        server: usize,
    },
    Timer {
        server: usize,
        run: u64,
    },
    Deliver {
        from: usize,
        to: usize,
        run: u64,
        bytes: Vec<u8>,
    },
    /// Something the driver of a node answers.
    Answer {
        server: usize,
        run: u64,
        event: Box<Event>,
    },
    Disk {
        server: usize,
        run: u64,
        step: DiskStep,
    },
    Expire {
        server: usize,
        run: u64,
        slot: usize,
        serial: u64,
    },
    /// A step with a reservation reaches the device; `answers`: nobody has answered for it yet.
    Fence {
        server: usize,
        run: u64,
        ticket: Ticket,
        device: DeviceRole,
        op: FenceOp,
        answers: bool,
    },
    /// A write of a process that is gone reaches its device.
    LateLanding {
        ghost: u64,
    },
    Client {
        client: usize,
    },
    AskOverdue {
        token: u64,
    },
    Fault,
    /// The next step of a copy of a disk at one server.
    Clone(CloneStep),
    /// A copy of a server is switched on.
    Moves {
        copy: usize,
        of: usize,
    },
    /// It is switched off, and its server has its network again.
    MovesBack {
        copy: usize,
        of: usize,
    },
    FaultEnds {
        kind: FaultKind,
        first: usize,
        second: usize,
    },
    /// The server whose number is given to another one is back.
    ReplacedReturns,
    /// The operator who gives it away looks how far that is.
    OperatorLooks,
    /// A synchronization command of a server ends.
    CommandEnds {
        server: usize,
        run: u64,
        ticket: Ticket,
        result: Box<Result<(), CommandFailure>>,
    },
    /// A read that is finished beside the loop ends.
    ReadEnds {
        server: usize,
        run: u64,
        client: ClientToken,
        read: LongRead,
    },
    /// These directions are cut, by a fault that comes and goes.
    Cut {
        links: Vec<(usize, usize)>,
    },
    Mend {
        links: Vec<(usize, usize)>,
    },
    /// This process dies, by a fault that comes and goes.
    Dies {
        server: usize,
    },
}

#[derive(Debug)]
pub(super) struct Scheduled {
    pub at: Moment,
    pub serial: u64,
    /// Apart: the heap moves what is scheduled many times.
    pub happening: Box<Happening>,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.serial) == (other.at, other.serial)
    }
}
impl Eq for Scheduled {}
impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}
