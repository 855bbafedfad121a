//! What the protocol asks of a replica, and what comes back. Executed by `ccd-disk` on a region, real or simulated.
//!
//! Every operation is one ticket; operations on one replica are executed in the order they were asked for,
//! those on different replicas side by side. A failed write or flush poisons the replica: every later write
//! fails with [`ReplicaErrorKind::Poisoned`] until an [`ReplicaOp::Open`] succeeds.

use crate::configuration::{BallotBlock, Configuration};
use crate::database::{Database, Record};
use crate::ids::{
    Epoch, FolderId, Incarnation, NodeId, NodeSet, PerDevice, Position, RegionId, ServerId, Stamp,
};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// One thing to do on one replica.
#[derive(Clone, Debug)]
pub enum ReplicaOp {
    /// Opens or re-opens the region, checks that it is ours, and reads the control blocks of all areas.
    /// Answers [`ReplicaAnswer::Survey`].
    Open,
    /// Closes it, so that others may have the device, and make it anew. Answers [`ReplicaAnswer::Written`].
    Close,
    /// Reads the control blocks of all areas. Answers [`ReplicaAnswer::Survey`].
    Survey,
    /// Reads the newest state over all areas. Answers [`ReplicaAnswer::Loaded`].
    Load,
    /// Appends one record to this node's own journal, durably; `then_survey` reads the other nodes' ballot
    /// blocks *after* the append is durable (the claim check of a solo owner).
    /// Answers [`ReplicaAnswer::Appended`].
    Append { record: Arc<Record>, then_survey: bool },
    /// Appends these records, of which each follows the one before, to this node's own journal, durably; with as few flushes as
    /// they need. For what was committed before: a power cut leaves any number of them. Answers [`ReplicaAnswer::Written`].
    AppendTail { records: Vec<Arc<Record>> },
    /// Writes the whole database as a checkpoint of this node's own area and starts its journal anew. What the
    /// area held before is gone once this is durable. Answers [`ReplicaAnswer::Written`].
    WriteImage { database: Database },
    /// Writes part of an image to where it would lie, ahead of [`ReplicaOp::AdoptImage`]; changes nothing that counts. The parts
    /// of an image come one behind the other, from the first; that one takes the place of whatever was staged before. Answers
    /// [`ReplicaAnswer::Written`].
    StageImage {
        position: Position,
        /// Of the whole image.
        len_bytes: u64,
        offset: u64,
        bytes: Vec<u8>,
    },
    /// As [`ReplicaOp::WriteImage`] of the database whose image was staged; what was not staged, or is not there any more, is
    /// written now. Answers [`ReplicaAnswer::Written`].
    AdoptImage { database: Database },
    /// Writes a checkpoint of a position that the journal has already reached and trims the journal up to
    /// it; appends go on in between. Answers [`ReplicaAnswer::Written`] when the trim is durable.
    Checkpoint { database: Database },
    /// Writes a configuration into this node's own ring. Answers [`ReplicaAnswer::Written`].
    WriteConfiguration { configuration: Configuration },
    /// Writes this node's own ballot block, then reads all areas' control blocks.
    /// Answers [`ReplicaAnswer::Survey`].
    WriteBallot { ballot: BallotBlock },
    /// The same if this node's newest ballot block is `over`, which is read anew before. If it is another one, a second run of this
    /// node has voted there: nothing is written, for that vote counts, and the replica must be opened anew.
    Claim {
        ballot: BallotBlock,
        over: Option<Box<BallotBlock>>,
    },
    /// Writes this node's own heartbeat block, then reads all areas' control blocks.
    /// Answers [`ReplicaAnswer::Survey`].
    WriteHeartbeat { heartbeat: Heartbeat },
    /// Writes zeros over this node's own scratch block, as a drill does: it proves that writes are taken or refused, and how long
    /// they take. A failure does not poison the replica. Answers [`ReplicaAnswer::Written`].
    WriteScratch,
    /// Writes this node's recent events, for whoever goes on without it to read. Answers [`ReplicaAnswer::Written`].
    WriteLastWords { epoch: Epoch, text: String },
    /// Stores a branch that lost, so that an operator can look at it (local copy only).
    /// Answers [`ReplicaAnswer::Written`].
    KeepBranch { database: Database, reason: String },
}

/// The answer to a [`ReplicaOp`].
#[allow(
    clippy::large_enum_variant,
    reason = "an answer is moved once, and never kept in bulk"
)]
#[derive(Clone, Debug)]
pub enum ReplicaAnswer {
    Written,
    Appended {
        survey: Option<Survey>,
        journal_used_percent: u8,
    },
    Survey(Survey),
    Loaded(Loaded),
}

/// Most records that loading a replica returns one by one. More than a node keeps for others to catch up by would be in vain.
pub const RECORDS_LOADED_MAX: usize = 4096;

/// The newest state found on a replica.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The area it was found in.
    pub area: NodeId,
    /// A version that the area went through: its newest image, or later.
    pub checkpoint: Database,
    /// What came after it, in order, from segments and journal; applies cleanly.
    pub records: Vec<Record>,
    /// Where the records lead: the position of the state.
    pub position: Position,
    /// Positions of the newest state of every readable area that has one.
    pub heads: Vec<(NodeId, Position)>,
    /// Damage that was found before a tail, if any: people are told, and the copy may need repair.
    pub damage: Option<String>,
}

/// The control blocks of all areas of a region: heartbeats, ballots, configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Which region it is.
    pub region: RegionId,
    /// One for each area of the region, in node order.
    pub areas: Vec<AreaSurvey>,
    /// Bytes of the largest image that the region has room for.
    pub image_bytes_max: u64,
    /// What is wrong with the region outside of these blocks, although it can be used. Not looked at (`None`) by `Append`'s claim check.
    pub damage: Option<RegionDamage>,
}

/// Damage of a region in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionDamage {
    /// A phrase that follows the region's name.
    pub text: String,
    /// Several looks in a row have found what another program may have written, or what is corrupted.
    pub is_overwritten: bool,
    /// It is in blocks that a region that was opened anew would come across late.
    pub is_lasting: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AreaSurvey {
    pub node: NodeId,
    pub heartbeat: Option<Heartbeat>,
    /// The one before it, as far as its block is whole. A node finds in its own area whether somebody else writes there.
    pub heartbeat_before: Option<Heartbeat>,
    pub ballot: Option<BallotBlock>,
    /// The newest valid entry of the configuration ring. Not read (`None`) by `Append`'s claim check.
    pub configuration: Option<Configuration>,
    /// Some control block of the area holds neither zeros nor a valid block, even on reading again.
    pub damaged: bool,
}

/// What a node writes at every heartbeat into its own area of every device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    pub incarnation: Incarnation,
    /// Counts up within the incarnation: a heartbeat that does not change is standing still.
    pub sequence: u64,
    /// Number of the run among those of the node that wrote to this device: higher than any that it found there, or knew to have been there.
    pub run: u64,
    /// The newest state that the node knows to have been committed, in this run or an earlier one, here or elsewhere: its copy may
    /// hold less, and be about to. A start from less would lose an acknowledged update.
    pub stamp: Stamp,
    /// Whether the node serves clients now.
    pub serving: bool,
    /// The nodes it hears over the network.
    pub hears: NodeSet,
    /// The state folder of the run; in a local copy: its own, as it was on `host`. Zero: not told.
    pub folder: FolderId,
    /// Where the node runs.
    pub host: Host,
    /// Where the last run was that had a vote, if this one has none: its state folder is a copy, and was not taken in since.
    pub moved_from: Option<Host>,
    /// What the devices must show of this node, for whoever reads another one.
    pub traces: PerDevice<Trace>,
}

/// A heartbeat that was durable on a device, as the node's heartbeats on all devices tell it: where one of them says so, the device has
/// it, or what a later run of the node wrote there. A disk that has neither is another one, or was put back to an earlier state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Of the device; zeros: there is none.
    pub region: RegionId,
    /// The run that wrote it: its number there, and which one it was.
    pub run: u64,
    pub incarnation: Incarnation,
    pub sequence: u64,
    /// The configuration that the node served then.
    pub epoch: Epoch,
}

impl Trace {
    pub fn is_set(&self) -> bool {
        self.region != RegionId::default()
    }

    /// A device that has this heartbeat of the node's area has what this says, or what was written over it.
    pub fn is_shown_by(&self, run: u64, incarnation: Incarnation, sequence: u64) -> bool {
        run > self.run || (run, incarnation) == (self.run, self.incarnation) && sequence >= self.sequence
    }
}

impl Heartbeat {
    /// Where the state folder is that holds what this node has promised.
    pub fn folder_of(&self) -> &Host {
        self.moved_from.as_ref().unwrap_or(&self.host)
    }
}

/// Longest name of a host in a heartbeat, in bytes; a longer one is cut.
pub const HOST_NAME_BYTES_MAX: usize = 64;

/// The machine that a node runs on: so that two runs of one node are told apart, and people find the other one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    pub name: String,
    /// The machine's id, as its operating system keeps it (`/etc/machine-id`); a copy of a machine has it too. Zeros: not known.
    pub machine: [u8; 16],
    /// Names the lock that the run holds: the one of its state folder, in this boot of the machine. Zeros: not known.
    pub lock: [u8; 16],
    /// Id of the hardware, or of the virtual machine, as the firmware tells it. Zeros: not known.
    pub hardware: [u8; 16],
    /// The server that the node's number was given to, as the run's init database says.
    pub server: ServerId,
}

impl Host {
    /// Both hold, or held, one lock: so if one of them runs, the other one has ended.
    pub fn has_lock_of(&self, other: &Self) -> bool {
        self.lock != [0; 16] && (self.machine, self.lock) == (other.machine, other.lock)
    }

    /// It is certain that they are two machines. The hardware tells, where both know it: a copied machine keeps its machine id, and one
    /// that was installed anew does not.
    pub fn is_other_machine(&self, other: &Self) -> bool {
        let differ = |mine: [u8; 16], theirs: [u8; 16]| {
            (mine != [0; 16] && theirs != [0; 16]).then_some(mine != theirs)
        };
        differ(self.hardware, other.hardware)
            .or(differ(self.machine, other.machine))
            .unwrap_or(false)
    }
}

/// Why an operation on a replica failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ReplicaError {
    pub kind: ReplicaErrorKind,
    /// What failed, on what, and why: for people.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaErrorKind {
    /// The device is missing, or reading or writing failed.
    Io,
    /// It did not answer within its deadline.
    TimedOut,
    /// An earlier write failed; only `Open` clears it.
    Poisoned,
    /// The region is another cluster's, another device's, or no region at all.
    Foreign,
    /// The content is damaged where it must not be.
    Damaged,
    /// The record or image does not fit.
    Full,
    /// The device refused the write: this node is fenced (reservation conflict).
    Fenced,
    /// The device cannot do this at all: no reservations on files, loop and network block devices, or partitions.
    NotSupported,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_shown_by_its_heartbeat_by_later_ones_and_by_those_of_later_runs() {
        let trace = Trace {
            region: RegionId([1; 16]),
            run: 4,
            incarnation: Incarnation(77),
            sequence: 10,
            epoch: Epoch(2),
        };
        #[rustfmt::skip]
        let table = [
            ("the heartbeat itself",          4, 77, 10, true),
            ("a later one",                   4, 77, 11, true),
            ("an earlier one",                4, 77,  9, false),
            ("the first of a later run",      5,  3,  1, true),
            ("an earlier run",                3,  3, 99, false),
            ("another run that began beside", 4,  3, 99, false),
            ("nothing at all",                0,  0,  0, false),
        ];
        for (what, run, incarnation, sequence, expected) in table {
            let shown = trace.is_shown_by(run, Incarnation(incarnation), sequence);
            assert_eq!(shown, expected, "{what}");
        }
    }
}
