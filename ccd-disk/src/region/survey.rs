//! Reads control blocks: what every node says on this region, and whose turn it is among one's own.

use super::handle::Handle;
use super::look::Looks;
use crate::device::Buffer;
use crate::error::RegionError;
use crate::format::control::{Control, LastWords};
use crate::format::geometry::{
    BALLOT_AT, BALLOT_BLOCKS, CONFIGURATION_AT, CONFIGURATION_BLOCKS, CONTROL_BLOCKS, HEARTBEAT_AT,
    HEARTBEAT_BLOCKS, LAST_WORDS_AT, LAST_WORDS_BLOCKS,
};
use crate::format::header::{self, BlockFault, Sealed};
use crate::format::superblock::Superblock;
use ccd_core::configuration::{BallotBlock, Configuration};
use ccd_core::ids::{NodeId, RegionId};
use ccd_core::replica::{AreaSurvey, Heartbeat, Survey};

/// How often an area is read again when a block of it is damaged: its owner may be writing it just now.
const READ_AGAIN_MAX: usize = 3;

/// Blocks of one kind that are written in turn, so that a torn write leaves the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Index among the area's control blocks, and how many there are.
    at: u64,
    blocks: u64,
    /// Of the last one written; 0: none.
    sequence: u64,
    /// Which of them must not be overwritten next: the one that counts.
    newest: Option<u64>,
}

impl Turn {
    fn new(at: u64, blocks: u64) -> Self {
        Self {
            at,
            blocks,
            sequence: 0,
            newest: None,
        }
    }

    /// Control block index and sequence of the next write.
    pub fn next(&self) -> (u64, u64) {
        let slot = self.newest.map_or(0, |newest| (newest + 1) % self.blocks);
        (self.at + slot, self.sequence.saturating_add(1))
    }

    /// The next write has been made and counts.
    pub fn advance(&mut self) {
        let (index, sequence) = self.next();
        self.newest = Some(index - self.at);
        self.sequence = sequence;
    }
}

/// The control blocks of one area.
#[derive(Clone, Debug)]
pub struct AreaControl {
    pub node: NodeId,
    pub heartbeat: Option<Heartbeat>,
    pub heartbeat_before: Option<Heartbeat>,
    pub ballot: Option<BallotBlock>,
    pub configuration: Option<Configuration>,
    pub last_words: Option<LastWords>,
    /// Block numbers that hold neither zeros nor a valid block, and why.
    pub faults: Vec<(u64, BlockFault)>,
    pub turns: Turns,
}

/// Whose turn it is in each kind of an area's control blocks.
#[derive(Clone, Copy, Debug)]
pub struct Turns {
    pub heartbeat: Turn,
    pub ballot: Turn,
    pub configuration: Turn,
    pub last_words: Turn,
}

impl Turns {
    /// Goes by what was found where that is newer: another run of the node has written since, and what it wrote last is not to be
    /// overwritten first.
    pub fn follow(&mut self, found: &Self) {
        let pairs = [
            (&mut self.heartbeat, &found.heartbeat),
            (&mut self.ballot, &found.ballot),
            (&mut self.configuration, &found.configuration),
            (&mut self.last_words, &found.last_words),
        ];
        for (own, found) in pairs {
            if found.sequence > own.sequence {
                *own = *found;
            }
        }
    }
}

impl AreaControl {
    /// Looks at the control blocks of `node`, which begin at block index `start` of `buffer`.
    /// `sound`: see [`ControlBlocks`](super::handle::ControlBlocks).
    fn parse(
        superblock: &Superblock,
        node: NodeId,
        buffer: &Buffer,
        sound: Option<&mut [bool]>,
        start: usize,
    ) -> Self {
        let mut faults = Vec::new();
        let mut reader = Reader {
            superblock,
            node,
            buffer,
            sound,
            start,
            first: 0,
            faults: &mut faults,
        };
        let (heartbeat, heartbeat_turn) = reader.newest(HEARTBEAT_AT, HEARTBEAT_BLOCKS, |_| 0);
        let heartbeat_before = reader.before(HEARTBEAT_AT, HEARTBEAT_BLOCKS, &heartbeat_turn);
        let (ballot, ballot_turn) = reader.newest(BALLOT_AT, BALLOT_BLOCKS, |_| 0);
        let (configuration, configuration_turn) =
            reader.newest(CONFIGURATION_AT, CONFIGURATION_BLOCKS, |found: &Configuration| {
                found.epoch.0
            });
        let (last_words, last_words_turn) = reader.newest(LAST_WORDS_AT, LAST_WORDS_BLOCKS, |_| 0);
        let turns = Turns {
            heartbeat: heartbeat_turn,
            ballot: ballot_turn,
            configuration: configuration_turn,
            last_words: last_words_turn,
        };
        Self {
            node,
            heartbeat,
            heartbeat_before,
            ballot,
            configuration,
            last_words,
            faults,
            turns,
        }
    }

    fn into_survey(self) -> AreaSurvey {
        AreaSurvey {
            node: self.node,
            heartbeat: self.heartbeat,
            heartbeat_before: self.heartbeat_before,
            ballot: self.ballot,
            configuration: self.configuration,
            damaged: !self.faults.is_empty(),
        }
    }
}

/// Reads the control blocks of all areas, in one read unless some of them must be looked at again.
pub fn read_all(handle: &mut Handle, superblock: &Superblock) -> Result<Vec<AreaControl>, RegionError> {
    let geometry = &superblock.geometry;
    let mut control = handle.read_control(geometry.control_all(), geometry.control_all_blocks() as usize)?;
    let mut areas = Vec::with_capacity(geometry.areas as usize);
    for node in geometry.nodes() {
        let start = (geometry.control(node) - geometry.control_all()) as usize;
        let area = AreaControl::parse(superblock, node, &control.buffer, Some(&mut control.sound), start);
        let area = if area.faults.is_empty() {
            area
        } else {
            read_one(handle, superblock, node)?
        };
        areas.push(area);
    }
    handle.keep_control(control);
    Ok(areas)
}

/// Reads the control blocks of one area.
pub fn read_one(
    handle: &mut Handle,
    superblock: &Superblock,
    node: NodeId,
) -> Result<AreaControl, RegionError> {
    let geometry = &superblock.geometry;
    let mut looks = 0;
    loop {
        let buffer = handle.read(geometry.control(node), CONTROL_BLOCKS as usize)?;
        let area = AreaControl::parse(superblock, node, &buffer, None, 0);
        looks += 1;
        if area.faults.is_empty() || looks > READ_AGAIN_MAX {
            return Ok(area);
        }
    }
}

/// Those of all areas, as the protocol wants them, with what `looks` has found. `turns` are those of the area of `own`.
pub fn survey(
    handle: &mut Handle,
    superblock: &Superblock,
    looks: &mut Looks,
    own: NodeId,
    turns: &mut Turns,
) -> Result<Survey, RegionError> {
    let areas = read_all(handle, superblock)?;
    for area in &areas {
        looks.note_control(handle, superblock, area);
        if area.node == own {
            turns.follow(&area.turns);
        }
    }
    Ok(Survey {
        region: superblock.identity.region,
        areas: areas.into_iter().map(AreaControl::into_survey).collect(),
        image_bytes_max: superblock.geometry.image_bytes_max(),
        damage: looks.damage(),
    })
}

/// The claim check of a solo owner: looks at the ballot blocks of all nodes but its own, whose ballot is known. Whoever has it reads
/// what it wants next until it wants nothing more.
#[derive(Debug)]
pub struct ClaimCheck {
    region: RegionId,
    areas: Vec<AreaSurvey>,
    own: NodeId,
    /// Index of the area that is wanted next, and how often it has been looked at.
    at: usize,
    looks: usize,
    image_bytes_max: u64,
}

impl ClaimCheck {
    pub fn new(superblock: &Superblock, own: NodeId, own_ballot: Option<&BallotBlock>) -> Self {
        let area = |node| AreaSurvey {
            node,
            heartbeat: None,
            heartbeat_before: None,
            ballot: own_ballot.filter(|_| node == own).cloned(),
            configuration: None,
            damaged: false,
        };
        Self {
            region: superblock.identity.region,
            areas: superblock.geometry.nodes().map(area).collect(),
            own,
            at: 0,
            looks: 0,
            image_bytes_max: superblock.geometry.image_bytes_max(),
        }
    }

    /// The first block and the count of those to be read next.
    pub fn wanted(&mut self, superblock: &Superblock) -> Option<(u64, usize)> {
        while self.areas.get(self.at)?.node == self.own {
            self.at += 1;
        }
        let node = self.areas[self.at].node;
        let block = superblock.geometry.control(node) + BALLOT_AT;
        Some((block, BALLOT_BLOCKS as usize))
    }

    /// The blocks that were wanted.
    pub fn look(&mut self, superblock: &Superblock, buffer: &Buffer) {
        let area = &mut self.areas[self.at];
        let mut faults = Vec::new();
        let mut reader = Reader {
            superblock,
            node: area.node,
            buffer,
            sound: None,
            start: 0,
            first: BALLOT_AT,
            faults: &mut faults,
        };
        area.ballot = reader.newest(BALLOT_AT, BALLOT_BLOCKS, |_| 0).0;
        area.damaged = !faults.is_empty();
        if !area.damaged || !self.may_look_again() {
            (self.at, self.looks) = (self.at + 1, 0);
        }
    }

    /// Whether the same blocks may be read once more; counts it if so.
    pub fn may_look_again(&mut self) -> bool {
        self.looks += 1;
        self.looks <= READ_AGAIN_MAX
    }

    /// What was found, once nothing more is wanted.
    pub fn into_survey(self) -> Survey {
        Survey {
            region: self.region,
            areas: self.areas,
            image_bytes_max: self.image_bytes_max,
            damage: None,
        }
    }
}

/// Control blocks in memory: `buffer` holds, from its block `start`, the area's from index `first` on.
struct Reader<'a> {
    superblock: &'a Superblock,
    node: NodeId,
    buffer: &'a Buffer,
    sound: Option<&'a mut [bool]>,
    start: usize,
    first: u64,
    faults: &'a mut Vec<(u64, BlockFault)>,
}

impl<'a> Reader<'a> {
    /// The newest valid value, by `rank` and then by sequence, and whose turn it is next.
    fn newest<T: Control>(&mut self, at: u64, blocks: u64, rank: impl Fn(&T) -> u64) -> (Option<T>, Turn) {
        let node = self.node;
        let mut turn = Turn::new(at, blocks);
        let mut best: Option<(u64, u64, T)> = None;
        for slot in 0..blocks {
            let number = self.number(at + slot);
            let found = self
                .unseal(at + slot)
                .and_then(|sealed| Ok((sealed.tag.sequence, T::from_sealed(&sealed, node)?)));
            match found {
                Ok((sequence, value)) => {
                    turn.sequence = turn.sequence.max(sequence);
                    let rank = rank(&value);
                    if best
                        .as_ref()
                        .is_none_or(|best| (best.0, best.1) < (rank, sequence))
                    {
                        turn.newest = Some(slot);
                        best = Some((rank, sequence, value));
                    }
                }
                Err(BlockFault::Zero) => {}
                Err(fault) => self.faults.push((number, fault)),
            }
        }
        (best.map(|(_, _, value)| value), turn)
    }

    /// The valid value with the highest sequence among those that are not the newest.
    fn before<T: Control>(&mut self, at: u64, blocks: u64, turn: &Turn) -> Option<T> {
        let node = self.node;
        (0..blocks)
            .filter(|slot| Some(*slot) != turn.newest)
            .filter_map(|slot| {
                let sealed = self.unseal(at + slot).ok()?;
                Some((sealed.tag.sequence, T::from_sealed(&sealed, node).ok()?))
            })
            .max_by_key(|(sequence, _)| *sequence)
            .map(|(_, value)| value)
    }

    /// Block number on the device of the control block with this index.
    fn number(&self, index: u64) -> u64 {
        self.superblock.geometry.control(self.node) + index
    }

    /// The control block with this index.
    fn unseal(&mut self, index: u64) -> Result<Sealed<'a>, BlockFault> {
        let number = self.number(index);
        let at = self.start + (index - self.first) as usize;
        let sound = self.sound.as_deref_mut().map(|sound| &mut sound[at]);
        let was_sound = sound.as_deref() == Some(&true);
        let sealed = header::unseal_known(
            self.buffer.block(at),
            &self.superblock.identity,
            number,
            was_sound,
        );
        if let Some(sound) = sound {
            *sound = sealed.is_ok();
        }
        sealed
    }
}
