//! A region: one replica on one device. Opened by a node's replica thread and by the simulator, which hand it one
//! [`ReplicaOp`] after the other.
//!
//! ```text
//! mod.rs        Region: open, execute
//! handle.rs     the device with its errors named and its poison remembered
//! label.rs      the two superblocks: which to believe
//! mkfs.rs       makes a region
//! survey.rs     control blocks: heartbeats, ballots, configurations
//! recognise.rs  what else a device may hold, so that mkfs destroys nothing by mistake
//! look.rs       what nobody comes across in a region that is in use: superblocks, size, name, blocks in turn
//! watch.rs      the same for a region that another handle has open
//! slots.rs      what the checkpoint slots hold: images, and the segments that continue them
//! recovery.rs   what an area holds after a crash: a slot, and the journal after it
//! replay.rs     from its bytes to a database and records
//! own.rs        the area that this node writes: places of records, whole image
//! append.rs     an append in parts, whoever carries out its transfers
//! checkpoint.rs its checkpoints, in steps
//! choice.rs     what a checkpoint is written as: a segment or an image (pure)
//! packing.rs    a segment that is being written
//! staging.rs    an image that comes in parts
//! filling.rs    the journal of a new region becomes its own
//! alone.rs      what is done to a region with no daemon
//! ```

mod alone;
mod append;
mod checkpoint;
mod choice;
mod filling;
pub mod handle;
pub mod label;
pub mod look;
pub mod mkfs;
pub mod own;
mod packing;
pub mod recognise;
pub mod recovery;
mod replay;
pub mod slots;
mod staging;
pub mod survey;
mod watch;

pub use append::{AppendBegun, AppendStep, Appending};
pub use checkpoint::{CheckpointBegun, CheckpointStep};
pub use mkfs::{MkfsOptions, create, create_in_file, create_reserved, create_with_progress};
pub use watch::RegionWatch;

use crate::device::{Blocks, Buffer};
use crate::error::RegionError;
use crate::format::control::{Control, LastWords};
use crate::format::geometry::SCRATCH_AT;
use crate::format::journal::Entry;
use crate::format::superblock::Superblock;
use append::entry_of;
use ccd_core::configuration::BallotBlock;
use ccd_core::database::{Database, Record};
use ccd_core::ids::{ClusterId, Epoch, NodeId, Position, Replica};
use ccd_core::replica::{Loaded, ReplicaAnswer, ReplicaError, ReplicaErrorKind, ReplicaOp, Survey};
use handle::Handle;
use label::Label;
use look::Looks;
use own::OwnArea;
use recovery::RecoveredArea;
use staging::ImagePart;
use survey::{Turn, Turns};

/// Whose region is to be opened, and by which node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedIdentity {
    pub cluster: ClusterId,
    pub replica: Replica,
    /// Writes the area of this number.
    pub node: NodeId,
}

/// An open region.
#[derive(Debug)]
pub struct Region {
    handle: Handle,
    superblock: Superblock,
    node: NodeId,
    notes: Vec<String>,
    turns: Turns,
    own_ballot: Option<BallotBlock>,
    looks: Looks,
    /// Read when first needed.
    own: Option<OwnArea>,
    /// Nobody has ever written to its own area, as whoever made it says.
    is_untouched: bool,
    /// Where claim checks are read to.
    claims_blocks: Buffer,
}

impl Region {
    /// Opens the region on a device and checks that it is the expected one. Reads the control blocks, not the state.
    pub fn open(blocks: Box<dyn Blocks>, expected: ExpectedIdentity) -> Result<Self, RegionError> {
        let mut handle = Handle::new(blocks);
        let label = Label::read(&mut handle)?;
        let looks = Looks::new(&label);
        let Label {
            superblock, notes, ..
        } = label;
        let device = handle.name();
        let got = superblock.identity;
        if got.cluster != expected.cluster {
            return Err(RegionError::OtherCluster {
                device,
                expected: expected.cluster,
                got: got.cluster,
            });
        }
        if got.replica != expected.replica {
            return Err(RegionError::OtherRole {
                device,
                expected: expected.replica,
                got: got.replica,
            });
        }
        let node = expected.node;
        let areas = survey::read_all(&mut handle, &superblock)?;
        let (Some(first), Some(last)) = (areas.first(), areas.last()) else {
            unreachable!("areas > 0")
        };
        let (first, last) = (first.node, last.node);
        let Some(own) = areas.into_iter().find(|area| area.node == node) else {
            return Err(RegionError::NoArea {
                device,
                node,
                first,
                last,
            });
        };
        for note in &notes {
            tracing::warn!("{note}");
        }
        Ok(Self {
            handle,
            superblock,
            node,
            notes,
            turns: own.turns,
            own_ballot: own.ballot,
            looks,
            own: None,
            is_untouched: false,
            claims_blocks: Buffer::zeroed(0),
        })
    }

    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// What an operator should know though the region is usable.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether a write has failed; the region must be opened anew.
    pub fn is_poisoned(&self) -> bool {
        self.handle.is_poisoned()
    }

    /// Whoever opens the region has made it ([`create_reserved`]), and nobody has written to its own area since: it is not read to
    /// find nothing.
    pub fn note_untouched(&mut self) {
        self.is_untouched = self.own.is_none();
    }

    /// Does one thing, to its end.
    ///
    /// `Open` answers as `Survey` does (opening anew and closing is [`crate::driver::ReplicaDriver`]'s work), and `KeepBranch` is
    /// refused: a region keeps none.
    pub fn execute(&mut self, op: ReplicaOp) -> Result<ReplicaAnswer, ReplicaError> {
        let answer = match op {
            ReplicaOp::Open | ReplicaOp::Survey => self.survey()?,
            ReplicaOp::Close => ReplicaAnswer::Written,
            ReplicaOp::Load => ReplicaAnswer::Loaded(self.load()?),
            ReplicaOp::Append { record, then_survey } => {
                self.refuse_loads_that_no_ring_holds(&record)?;
                self.append(&entry_of(&record), then_survey)?
            }
            ReplicaOp::AppendTail { records } => {
                for record in &records {
                    self.refuse_loads_that_no_ring_holds(record)?;
                }
                self.append_tail(records.iter().map(|record| entry_of(record)))?;
                ReplicaAnswer::Written
            }
            ReplicaOp::WriteImage { database } => {
                let image = database.to_image();
                self.with_own(|own, handle| own.write_image(handle, database.position(), image))?;
                ReplicaAnswer::Written
            }
            ReplicaOp::StageImage {
                position,
                len_bytes,
                offset,
                bytes,
            } => {
                let part = ImagePart {
                    position,
                    len_bytes,
                    offset,
                    bytes: &bytes,
                };
                self.with_own(|own, handle| own.stage_image(handle, part))?;
                ReplicaAnswer::Written
            }
            ReplicaOp::AdoptImage { database } => {
                let position = database.position();
                self.with_own(|own, handle| own.adopt_image(handle, position, || database.to_image()))?;
                ReplicaAnswer::Written
            }
            ReplicaOp::Checkpoint { database } => {
                self.checkpoint(&database)?;
                ReplicaAnswer::Written
            }
            ReplicaOp::WriteConfiguration { configuration } => {
                self.write_control(&configuration, |turns| &mut turns.configuration)?;
                ReplicaAnswer::Written
            }
            ReplicaOp::WriteBallot { ballot } => {
                self.write_control(&ballot, |turns| &mut turns.ballot)?;
                self.own_ballot = Some(ballot);
                // A takeover waits for it: nothing more is read.
                ReplicaAnswer::Survey(self.survey_control()?)
            }
            ReplicaOp::Claim { ballot, over } => {
                self.look_for_own_ballot(over.as_deref(), &ballot)?;
                return self.execute(ReplicaOp::WriteBallot { ballot });
            }
            ReplicaOp::WriteHeartbeat { heartbeat } => {
                self.write_control(&heartbeat, |turns| &mut turns.heartbeat)?;
                self.survey()?
            }
            ReplicaOp::WriteScratch => {
                let block = self.superblock.geometry.control(self.node) + SCRATCH_AT;
                self.handle.try_zeros(block)?;
                ReplicaAnswer::Written
            }
            ReplicaOp::WriteLastWords { epoch, text } => {
                self.write_last_words(epoch, &text)?;
                ReplicaAnswer::Written
            }
            ReplicaOp::KeepBranch { .. } => {
                return Err(RegionError::NoBranches {
                    device: self.handle.name(),
                }
                .into());
            }
        };
        Ok(answer)
    }

    fn checkpoint(&mut self, database: &Database) -> Result<(), RegionError> {
        let position = database.position();
        match self.begin_checkpoint(position, database.image_len_bytes())? {
            CheckpointBegun::Nothing => return Ok(()),
            CheckpointBegun::Segment => {}
            CheckpointBegun::ImageWanted => {
                self.begin_image(position, database.to_image())?;
            }
        }
        loop {
            match self.checkpoint_step()? {
                CheckpointStep::More { .. } => {}
                CheckpointStep::ImageWanted => {
                    self.begin_image(position, database.to_image())?;
                }
                CheckpointStep::Done => return Ok(()),
            }
        }
    }

    /// Starts a checkpoint of a position that the journal has reached, an image of which would take so many bytes; to be
    /// followed by [`Region::checkpoint_step`], or by [`Region::begin_image`] if an image is wanted, with other operations in
    /// between as they come.
    pub fn begin_checkpoint(
        &mut self,
        position: Position,
        image_len_bytes: u64,
    ) -> Result<CheckpointBegun, RegionError> {
        self.with_own(|own, handle| own.begin_checkpoint(handle, position, image_len_bytes))
    }

    /// Starts a checkpoint as a whole image, which was made elsewhere (`Database::to_image`), so that making it delays no append.
    /// `false`: there is nothing to do.
    pub fn begin_image(&mut self, position: Position, image: Vec<u8>) -> Result<bool, RegionError> {
        self.with_own(|own, handle| own.begin_image(handle, position, image))
    }

    /// Whether a checkpoint waits for [`Region::checkpoint_step`].
    pub fn is_checkpointing(&self) -> bool {
        self.own.as_ref().is_some_and(OwnArea::is_checkpointing)
    }

    /// Writes up to 256 KiB of the running checkpoint.
    ///
    /// One that a whole image or a rollback made pointless is `Done` without having been written.
    pub fn checkpoint_step(&mut self) -> Result<CheckpointStep, RegionError> {
        self.with_own(OwnArea::checkpoint_step)
    }

    /// Writes this node's last words: its recent events, for the survivor to read. At most 3,960 bytes are kept.
    pub fn write_last_words(&mut self, epoch: Epoch, text: &str) -> Result<(), RegionError> {
        let words = LastWords {
            epoch,
            text: text.to_owned(),
        };
        self.write_control(&words, |turns| &mut turns.last_words)
    }

    /// Appends a record in the form the journal knows; [`ReplicaOp::Append`] for who has no [`Record`].
    pub fn append_entry(&mut self, entry: &Entry) -> Result<(), RegionError> {
        self.append(entry, false).map(drop)
    }

    /// The same of several that follow each other; [`ReplicaOp::AppendTail`].
    pub fn append_entries(&mut self, entries: &[Entry]) -> Result<(), RegionError> {
        self.append_tail(entries.iter().cloned())
    }

    /// Writes an image in the form the slot knows; [`ReplicaOp::WriteImage`] for who has no [`Database`].
    pub fn write_image_bytes(&mut self, position: Position, image: Vec<u8>) -> Result<(), RegionError> {
        self.with_own(|own, handle| own.write_image(handle, position, image))
    }

    /// Fills up to 1 MiB of the journal of a region that was made by [`create_reserved`] and has never held anything; returns
    /// whether there is more to fill. To be called when nothing else is to be done.
    pub fn fill_journal_step(&mut self) -> Result<bool, RegionError> {
        self.with_own(OwnArea::fill_step)
    }

    /// A whole database is not encoded to find that the journal has no room for it.
    fn refuse_loads_that_no_ring_holds(&self, record: &Record) -> Result<(), RegionError> {
        let (loaded_bytes, max_bytes) = (record.loaded_bytes(), self.record_bytes_max());
        if loaded_bytes > max_bytes {
            return Err(RegionError::RecordTooLarge {
                device: self.handle.name(),
                record_bytes: loaded_bytes as u64,
                max_bytes: max_bytes as u64,
            });
        }
        Ok(())
    }

    /// Bytes of the largest encoded record that the journal takes: half of the ring.
    pub fn record_bytes_max(&self) -> usize {
        recovery::ring_of(&self.superblock, self.node).record_bytes_max()
    }

    /// Where this node's own area stands.
    pub fn own_position(&mut self) -> Result<Position, RegionError> {
        self.with_own(|own, _| Ok(own.position()))
    }

    /// How many segments continue the newest image of this node's own area.
    pub fn own_segments(&mut self) -> Result<u32, RegionError> {
        self.with_own(|own, _| Ok(own.segments()))
    }

    fn survey(&mut self) -> Result<ReplicaAnswer, RegionError> {
        // Nobody else uses the file of a local copy.
        if self.superblock.identity.replica != Replica::Local {
            self.looks.on_survey(&mut self.handle, &self.superblock)?;
        }
        let survey = self.survey_control()?;
        Ok(ReplicaAnswer::Survey(survey))
    }

    fn survey_control(&mut self) -> Result<Survey, RegionError> {
        let (handle, looks) = (&mut self.handle, &mut self.looks);
        survey::survey(handle, &self.superblock, looks, self.node, &mut self.turns)
    }

    /// Whether this node's newest ballot block is the one that the caller knows of, and takes nothing back; the next is then written over
    /// the older one.
    fn look_for_own_ballot(
        &mut self,
        known: Option<&BallotBlock>,
        next: &BallotBlock,
    ) -> Result<(), RegionError> {
        let own = survey::read_one(&mut self.handle, &self.superblock, self.node)?;
        let order = |block: &BallotBlock| (block.instance, block.promised);
        let goes_back = known.is_some_and(|known| order(known) > order(next));
        if own.ballot.as_ref() != known || goes_back {
            return Err(RegionError::VotedElsewhere {
                device: self.handle.name(),
            });
        }
        self.turns.follow(&own.turns);
        self.turns.ballot = own.turns.ballot;
        Ok(())
    }

    fn write_control<T: Control>(
        &mut self,
        value: &T,
        turn: impl FnOnce(&mut Turns) -> &mut Turn,
    ) -> Result<(), RegionError> {
        let turn = turn(&mut self.turns);
        let (index, sequence) = turn.next();
        let number = self.superblock.geometry.control(self.node) + index;
        let block = value.to_block(&self.superblock.identity, self.node, number, sequence);
        self.handle.write_block(number, &block)?;
        turn.advance();
        Ok(())
    }

    fn with_own<T>(
        &mut self,
        run: impl FnOnce(&mut OwnArea, &mut Handle) -> Result<T, RegionError>,
    ) -> Result<T, RegionError> {
        let own = match &mut self.own {
            Some(own) => own,
            vacant => {
                let area = recovery::recover(&mut self.handle, &self.superblock, self.node, false)?;
                vacant.insert(OwnArea::new(&area, &self.superblock))
            }
        };
        run(own, &mut self.handle)
    }

    /// Recovers every area and takes the newest state.
    pub(crate) fn load(&mut self) -> Result<Loaded, RegionError> {
        let mut heads = Vec::new();
        let mut damage = Vec::new();
        let mut newest: Option<RecoveredArea> = None;
        for node in self.superblock.geometry.nodes() {
            let area = if node == self.node && self.own.is_none() && self.is_untouched {
                RecoveredArea::untouched(&self.superblock, node)
            } else {
                recovery::recover(&mut self.handle, &self.superblock, node, node != self.node)?
            };
            if let Some(what) = &area.damage {
                let text = format!("area of node {node} on {}: {what}", self.handle.name());
                damage.push((node, area.damage_newest, text));
            }
            // A checkpoint that is being written is known here only: what was read does not replace it.
            if node == self.node && !self.is_checkpointing() {
                self.own = Some(OwnArea::new(&area, &self.superblock));
            }
            if area.has_state() {
                heads.push((node, area.position));
                if newest
                    .as_ref()
                    .is_none_or(|newest| newest.position.stamp < area.position.stamp)
                {
                    newest = Some(area);
                }
            }
        }
        // What another area has lost does not matter to the newest state if it was older: people are told, no more.
        let found = newest.as_ref().map(|newest| (newest.node, newest.position.stamp));
        let mut matters = Vec::new();
        for (node, lost_newest, text) in damage {
            if recovery::damage_matters(node, lost_newest, found) {
                matters.push(text);
            } else {
                tracing::warn!("{text}; the state in use is newer");
            }
        }
        let damage = (!matters.is_empty()).then(|| matters.join("; "));
        let Some(newest) = newest else {
            return Ok(Loaded {
                area: self.node,
                checkpoint: Database::default(),
                records: Vec::new(),
                position: Position::EMPTY,
                heads,
                damage,
            });
        };
        let (checkpoint, records) = replay::replay(&newest).map_err(|what| RegionError::Damaged {
            device: self.handle.name(),
            node: newest.node,
            what,
        })?;
        Ok(Loaded {
            area: newest.node,
            checkpoint,
            records,
            position: newest.position,
            heads,
            damage,
        })
    }
}

/// What every operation on a replica that is not open answers.
pub(crate) fn not_open(text: String) -> ReplicaError {
    ReplicaError {
        kind: ReplicaErrorKind::Poisoned,
        text,
    }
}
