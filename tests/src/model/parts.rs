//! What a state of the model consists of. Small and flat, because millions of them are copied and compared.

use super::steps::Limits;
use ccd_core::configuration::{Configuration, Decider, Mode, Writers};
use ccd_core::ids::{DeviceRole, DeviceSet, Epoch, Generation, Lineage, NodeId, NodeSet, Position, Stamp};

/// Most nodes of a model.
pub const NODES_MAX: usize = 5;
pub const DEVICES_MAX: usize = 2;

/// Most entries of a [`Content`].
const ENTRIES_MAX: usize = 9;

/// Some of the nodes or devices: bit `n` is number `n`.
pub type Set = u8;

pub fn has(set: Set, index: usize) -> bool {
    set >> index & 1 == 1
}

pub fn members(set: Set) -> impl Iterator<Item = usize> {
    (0..8).filter(move |index| has(set, *index))
}

pub fn node_id(index: usize) -> NodeId {
    NodeId::new(index as u8).expect("a model has few nodes")
}

pub fn node_set(set: Set) -> NodeSet {
    NodeSet::from_bits(u32::from(set))
}

pub fn device_set(set: Set) -> DeviceSet {
    members(set).map(|index| DeviceRole::ALL[index]).collect()
}

/// What a replica holds: for every update the epoch it was made in, for every opening the epoch that was opened.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Content {
    count: u8,
    /// Twice the epoch, and 1 more for an opening.
    entries: [u32; ENTRIES_MAX],
}

impl core::fmt::Debug for Content {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for entry in self.entries() {
            let sign = if entry & 1 == 1 { '|' } else { '+' };
            write!(f, "{sign}{}", entry / 2)?;
        }
        Ok(())
    }
}

impl Content {
    fn entries(&self) -> &[u32] {
        &self.entries[..usize::from(self.count)]
    }

    fn with(mut self, entry: u32) -> Self {
        self.entries[usize::from(self.count)] = entry;
        self.count += 1;
        self
    }

    pub fn opened(self, epoch: u32) -> Self {
        self.with(epoch * 2 + 1)
    }

    pub fn updated(self) -> Self {
        self.with(self.epoch() * 2)
    }

    /// The epoch of its stamp.
    pub fn epoch(&self) -> u32 {
        self.entries().last().map_or(0, |entry| entry / 2)
    }

    pub fn generation(&self) -> u64 {
        self.entries().iter().filter(|entry| *entry & 1 == 0).count() as u64
    }

    /// Whether it is an earlier state of the other, or the same.
    pub fn is_part_of(&self, other: &Self) -> bool {
        other.entries().starts_with(self.entries())
    }

    /// The newest state that both have come from.
    pub fn common(&self, other: &Self) -> Self {
        let same = self
            .entries()
            .iter()
            .zip(other.entries())
            .take_while(|(one, two)| one == two);
        same.fold(Self::default(), |content, (entry, _)| content.with(*entry))
    }

    /// Without the openings at its end, which change nothing that a client sees.
    pub fn seen(mut self) -> Self {
        while self.count > 0 && self.entries[usize::from(self.count) - 1] & 1 == 1 {
            self.count -= 1;
            self.entries[usize::from(self.count)] = 0;
        }
        self
    }

    pub fn position(&self) -> Position {
        let mut lineage = [0; 32];
        lineage[0] = self.count;
        for (place, entry) in lineage[4..].chunks_exact_mut(4).zip(self.entries()) {
            place.copy_from_slice(&entry.to_le_bytes());
        }
        Position {
            stamp: Stamp {
                epoch: Epoch(u64::from(self.epoch())),
                generation: Generation(self.generation()),
            },
            lineage: Lineage(lineage),
        }
    }
}

/// A configuration: the parts of the product's that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conf {
    pub epoch: u32,
    pub solo: bool,
    pub forced: bool,
    pub members: Set,
    pub nodes: Set,
    pub devices: Set,
    pub proposer: u8,
    pub base: Content,
    /// Nodes and devices.
    pub base_writers: (Set, Set),
}

impl Conf {
    pub fn configuration(&self) -> Configuration {
        let mode = if self.solo {
            Mode::Solo(node_set(self.members).lowest().expect("an owner"))
        } else {
            Mode::Paired
        };
        Configuration {
            epoch: Epoch(u64::from(self.epoch)),
            mode,
            members: node_set(self.members),
            base: self.base.position(),
            base_writers: Writers {
                nodes: node_set(self.base_writers.0),
                devices: device_set(self.base_writers.1),
            },
            decider: if self.forced {
                Decider::Operator
            } else {
                Decider::Votes
            },
            proposer: node_id(usize::from(self.proposer)),
            ..Configuration::genesis(node_set(self.nodes), device_set(self.devices))
        }
    }

    pub fn writers(&self) -> (Set, Set) {
        if self.solo {
            (0, self.devices)
        } else {
            (self.members, 0)
        }
    }

    pub fn master(&self) -> usize {
        self.members.trailing_zeros() as usize
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ballot {
    pub round: u8,
    pub node: u8,
}

/// What a voter has promised and accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    pub instance: u32,
    pub promised: Ballot,
    pub accepted: Option<(Ballot, Conf)>,
}

/// A write to a device that has been asked for and has not landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    pub device: u8,
    pub what: Written,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Written {
    Block(Block),
    Image(Content, Conf),
}

/// What one voter showed when it promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shown {
    pub content: Content,
    pub whole: bool,
}

/// A proposal under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Proposal {
    pub instance: u32,
    pub ballot: Ballot,
    /// The members it wants.
    pub want: Set,
    pub forced: bool,
    /// It did not serve when it began.
    pub may_register: bool,
    /// Nodes and devices that have promised.
    pub promised: (Set, Set),
    /// Devices on which the ballot of this phase has landed, and has not been followed by a look.
    pub landed: Set,
    /// By node, and then by device.
    pub shown: [Option<Shown>; NODES_MAX + DEVICES_MAX],
    pub accepted: Option<(Ballot, Conf)>,
    /// Votes are asked for.
    pub value: Option<Conf>,
    pub voted: (Set, Set),
}

/// From decided to open, at the proposer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Install {
    pub ready: Set,
    pub written: Set,
    /// Nodes whose leases must have run out.
    pub wait_for: Set,
}

/// An update on its way, at the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Round {
    pub next: Content,
    /// Nodes, or devices, that have it durably.
    pub stored: Set,
    /// Devices that were looked at for claims after that.
    pub checked: Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its local copy: configuration, ballot block, content.
    pub known: Conf,
    pub ballot: Option<Block>,
    pub copy: Content,
    pub damaged: bool,
    /// From here on its process; all of it is lost in a crash.
    pub up: bool,
    /// A member that was made ready, and does not serve yet.
    pub invited: bool,
    pub serving: bool,
    /// It holds a lease of what it knows, granted when it was there to be.
    pub leased: bool,
    /// What it answers queries from while it serves.
    pub head: Content,
    pub proposal: Option<Proposal>,
    pub install: Option<Install>,
    pub round: Option<Round>,
    /// What its process, or the one before, has asked for.
    pub in_flight: Option<Write>,
}

impl Node {
    /// It has taken part in deciding the successor of what it knows.
    pub fn is_sealed(&self) -> bool {
        self.ballot
            .is_some_and(|block| block.instance >= self.known.epoch)
    }

    /// It answers queries as current.
    pub fn answers(&self) -> bool {
        self.up && self.serving && self.leased && !self.is_sealed()
    }

    /// A later configuration: what it did for the one before ends.
    pub fn learn(&mut self, conf: Conf) {
        self.known = conf;
        self.stop();
    }

    pub fn stop(&mut self) {
        self.serving = false;
        self.leased = false;
        self.invited = false;
        self.head = self.copy;
        self.proposal = None;
        self.install = None;
        self.round = None;
    }
}

/// What one node has written on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Area {
    pub block: Option<Block>,
    pub content: Content,
    pub conf: Option<Conf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    pub areas: [Area; NODES_MAX],
    /// Nodes that are registered; only with reservations.
    pub registered: Set,
    pub holder: Option<u8>,
}

impl Device {
    /// The newest content over all areas.
    pub fn content(&self) -> Content {
        let newest = self.areas.iter().map(|area| area.content);
        newest
            .max_by_key(|content| (content.epoch(), content.generation()))
            .unwrap_or_default()
    }
}

/// What was found to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wrong {
    AckedLost,
    TwoConfigurations,
    TwoWriters,
    TooFewCopies,
    VotesHoldNothing,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub nodes: Vec<Node>,
    pub devices: Vec<Device>,
    /// Every configuration that anybody took for decided, in the order of their epochs.
    pub decided: Vec<Conf>,
    /// The newest state that a client has heard of.
    pub acked: Content,
    /// The epoch of the newest override: what was acked on another branch is not promised any more.
    pub overruled: u32,
    pub left: Limits,
    pub wrong: Option<Wrong>,
}
