//! What one area holds after whatever happened to it: the newest checkpoint that is whole, its segments, the journal after
//! them, and whether the journal ends in a torn tail or in damage.
//!
//! The argument, in short (docs/format.md has it in full): a record is written only when the one before it is durable, so
//! a valid record with a *higher* sequence number than the one that is missing proves that the missing one was durable
//! once: damage. Without such a proof the missing one was being written when the power failed: a torn tail. Sequence
//! numbers are never used twice across a restart of the journal, so no leftover of an earlier lap can be such a proof.

use super::handle::Handle;
use super::slots::{READ_BLOCKS, Segments, Slots};
use crate::device::{Buffer, is_zero};
use crate::error::RegionError;
use crate::format::batch;
use crate::format::checkpoint::{CheckpointHead, JournalPoint, SlotState};
use crate::format::geometry::Slot;
use crate::format::header::{self, BlockFault};
use crate::format::journal::{Entry, Ring, Step};
use crate::format::segment::SEGMENTS_MAX;
use crate::format::superblock::Superblock;
use ccd_core::ids::{NodeId, Position, Stamp};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// How often the area of a node that may be writing it is read again before damage is believed.
const READ_AGAIN_MAX: usize = 3;

/// How a journal ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// With a whole record, or at the checkpoint.
    Clean,
    /// With a record that is not whole, and left out. Its write was cut short, so it was never acked; or it was damaged since, which
    /// a last record does not tell.
    Torn { block: u64 },
}

/// One record of the journal and where it lies.
#[derive(Clone, Debug)]
pub struct Placed {
    pub point: JournalPoint,
    pub blocks: u32,
    pub entry: Entry,
    /// Where the area stands after it.
    pub after: Position,
}

/// The state of an area.
#[derive(Clone, Debug)]
pub struct RecoveredArea {
    pub node: NodeId,
    pub ring: Ring,
    /// The checkpoint that counts, and its slot; `None`: the area was never written to, or it is lost.
    pub checkpoint: Option<(Slot, CheckpointHead)>,
    /// The bytes of that checkpoint's image.
    pub image: Vec<u8>,
    /// The segments that continue it.
    pub segments: Segments,
    /// What the two slots hold.
    pub slots: [SlotState; 2],
    /// The journal after the segments, undone records and rollbacks included.
    pub journal: Vec<Placed>,
    /// Where the next record goes.
    pub next: JournalPoint,
    /// Where checkpoint, segments and journal lead.
    pub position: Position,
    /// Higher than every sequence number that the ring can hold.
    pub restart_sequence: u64,
    pub tail: Tail,
    /// What is missing although it was durable once.
    pub damage: Option<String>,
    /// With damage: everything that is missing is elsewhere, too, and `position` is the newest that the area ever acked.
    pub is_complete: bool,
    /// With damage: nothing that is missing was newer than this; `None`: nobody knows.
    pub damage_newest: Option<Stamp>,
    /// There was a checkpoint and there is none: `position` means nothing.
    pub lost: bool,
}

impl RecoveredArea {
    /// Whether anything was ever stored here that can be used.
    pub fn has_state(&self) -> bool {
        !self.lost && (self.checkpoint.is_some() || !self.journal.is_empty())
    }

    /// The records that stand, in order, of segments and journal: without those undone and the rollbacks that undid them, and
    /// those of a batch one by one.
    pub fn standing(&self) -> Vec<Cow<'_, Entry>> {
        let mut standing: Vec<&Entry> = self.segments.entries.iter().collect();
        for placed in &self.journal {
            if placed.entry.step == Step::Rollback {
                standing.pop();
            } else {
                standing.push(&placed.entry);
            }
        }
        standing.into_iter().flat_map(batch::records).collect()
    }

    /// That of an area which nobody has ever written to.
    pub fn untouched(superblock: &Superblock, node: NodeId) -> Self {
        let segments = Segments::none(Position::EMPTY, JournalPoint::FIRST);
        let ring = ring_of(superblock, node);
        Self {
            node,
            ring,
            checkpoint: None,
            image: Vec::new(),
            slots: [SlotState::Empty; 2],
            journal: Vec::new(),
            next: segments.replay_from,
            position: segments.position,
            restart_sequence: restart_after(segments.replay_from.sequence, ring.blocks),
            segments,
            tail: Tail::Clean,
            damage: None,
            is_complete: true,
            damage_newest: Some(Stamp::default()),
            lost: false,
        }
    }

    /// Of the image.
    pub fn base(&self) -> Position {
        self.checkpoint.map_or(Position::EMPTY, |(_, head)| head.position)
    }
}

/// Recovers the area of `node`. If `is_shared`, its owner may be writing it, and what looks torn is read again.
pub fn recover(
    handle: &mut Handle,
    superblock: &Superblock,
    node: NodeId,
    is_shared: bool,
) -> Result<RecoveredArea, RegionError> {
    let mut area = recover_once(handle, superblock, node)?;
    for _ in 0..READ_AGAIN_MAX {
        if !is_shared || (area.damage.is_none() && area.tail == Tail::Clean) {
            break;
        }
        area = recover_once(handle, superblock, node)?;
    }
    Ok(area)
}

/// Whether damage in the area of `node`, of which nothing was newer than `lost_newest`, concerns the newest state that was `found`, and in
/// which area.
pub(super) fn damage_matters(
    node: NodeId,
    lost_newest: Option<Stamp>,
    found: Option<(NodeId, Stamp)>,
) -> bool {
    !(lost_newest.zip(found)).is_some_and(|(lost, (in_area, found))| node != in_area && lost < found)
}

/// Where a ring lies.
pub fn ring_of(superblock: &Superblock, node: NodeId) -> Ring {
    Ring {
        identity: superblock.identity,
        node,
        first_block: superblock.geometry.journal(node),
        blocks: superblock.geometry.journal_blocks,
    }
}

fn recover_once(
    handle: &mut Handle,
    superblock: &Superblock,
    node: NodeId,
) -> Result<RecoveredArea, RegionError> {
    let ring = ring_of(superblock, node);
    let slots = Slots::read(handle, superblock, node)?;
    let Journal {
        blocks,
        is_written,
        unreadable,
    } = Journal::read(handle, &ring)?;
    let segments = slots.segments;
    let walk = Walk::new(&ring, &blocks, segments.replay_from, segments.position).run();
    let scan = Scan::of(&ring, &blocks, &is_written, &walk, &unreadable);
    let mut damage = slots.damage;
    damage.extend(walk.broken.clone());
    if let Some(later) = scan.later_sequence {
        if let (Some((block, fault)), true) =
            (segments.unusable, walk.journal.is_empty() && damage.is_empty())
        {
            damage.push(format!(
                "segment {} of its checkpoint (block {block}) is damaged: {fault}",
                segments.count
            ));
        }
        damage.push(format!(
            "record {} of the journal (block {}) is missing or damaged, though record {later} after it is there: the state ends \
             at {}",
            walk.next.sequence,
            ring.first_block + u64::from(walk.next.at),
            walk.position,
        ));
    } else if let Some(block) = scan.tail_unreadable {
        damage.push(format!("block {block} at the end of the journal cannot be read"));
    }
    // Heads say what they led to even if what they head is damaged; a head that is damaged itself says nothing.
    let is_known = !(slots.lost
        && slots
            .states
            .iter()
            .any(|state| !matches!(state, SlotState::Head(_))));
    let damage_newest = (is_known && scan.tail_unreadable.is_none()).then(|| {
        let heads = slots.states.iter().filter_map(|state| match state {
            SlotState::Head(head) => Some(head.position.stamp),
            _ => None,
        });
        let newest = scan.newest.max(walk.position.stamp).max(slots.damage_newest);
        heads.fold(newest, Ord::max)
    });
    let lost = slots.lost;
    let (checkpoint, image) = match slots.chosen {
        Some((slot, head, image)) => (Some((slot, head)), image),
        None => (None, Vec::new()),
    };
    Ok(RecoveredArea {
        node,
        ring,
        checkpoint,
        image,
        segments,
        slots: slots.states,
        journal: walk.journal,
        next: walk.next,
        position: walk.position,
        restart_sequence: scan.restart_sequence,
        is_complete: !lost
            && walk.broken.is_none()
            && scan.later_sequence.is_none()
            && scan.tail_unreadable.is_none(),
        tail: scan.tail,
        damage: (!damage.is_empty()).then(|| damage.join("; ")),
        damage_newest,
        lost,
    })
}

/// The blocks of a ring in memory.
struct Journal {
    blocks: Buffer,
    /// Which of them are not zero.
    is_written: Vec<bool>,
    unreadable: BTreeSet<u32>,
}

impl Journal {
    /// Most of a ring is zeros as a rule, and their place in memory is never touched, which would take longer than reading them.
    fn read(handle: &mut Handle, ring: &Ring) -> Result<Self, RegionError> {
        let count = ring.blocks as usize;
        let mut journal = Self {
            blocks: Buffer::zeroed(count),
            is_written: vec![false; count],
            unreadable: BTreeSet::new(),
        };
        let mut some = Buffer::zeroed(0);
        for from in (0..count).step_by(READ_BLOCKS) {
            some.resize_to(READ_BLOCKS.min(count - from));
            let unreadable = handle.read_readable_into(ring.first_block + from as u64, &mut some)?;
            (journal.unreadable).extend(unreadable.iter().map(|index| from as u32 + index));
            for index in 0..some.blocks() {
                if !is_zero(some.block(index)) {
                    *journal.blocks.block_mut(from + index) = *some.block(index);
                    journal.is_written[from + index] = true;
                }
            }
        }
        Ok(journal)
    }
}

/// Follows the journal from where the checkpoint says.
struct Walk<'a> {
    ring: &'a Ring,
    blocks: &'a Buffer,
    next: JournalPoint,
    used_blocks: u32,
    position: Position,
    journal: Vec<Placed>,
    /// Indexes in `journal` of the records that stand.
    standing: Vec<usize>,
    /// The record that should come next has a head but is not whole.
    torn_at: Option<u32>,
    broken: Option<String>,
}

impl<'a> Walk<'a> {
    fn new(ring: &'a Ring, blocks: &'a Buffer, next: JournalPoint, position: Position) -> Self {
        let journal = Vec::new();
        let standing = Vec::new();
        Self {
            ring,
            blocks,
            next,
            used_blocks: 0,
            position,
            journal,
            standing,
            torn_at: None,
            broken: None,
        }
    }

    fn run(mut self) -> Self {
        while let Some((at, blocks, entry)) = self.find() {
            let gap = if at == self.next.at {
                0
            } else {
                self.ring.blocks - self.next.at
            };
            self.used_blocks += gap + blocks;
            if self.used_blocks >= self.ring.blocks {
                self.broken = Some("the journal runs into its own beginning".to_owned());
                break;
            }
            if let Err(why) = self.take(&entry) {
                self.broken = Some(format!("record {} of the journal {why}", self.next.sequence));
                break;
            }
            let point = JournalPoint {
                sequence: self.next.sequence,
                at,
            };
            self.position = entry.next;
            self.journal.push(Placed {
                point,
                blocks,
                entry,
                after: self.position,
            });
            self.next = JournalPoint {
                sequence: point.sequence.saturating_add(1),
                at: (at + blocks) % self.ring.blocks,
            };
        }
        self
    }

    /// The record that comes next, if it is whole: where the last one ended, or at the ring's beginning if it did not fit
    /// before the ring's end.
    fn find(&mut self) -> Option<(u32, u32, Entry)> {
        let here = self.next.at;
        for at in if here == 0 { vec![0] } else { vec![here, 0] } {
            let Ok(head) = self.ring.head(self.blocks, at) else {
                continue;
            };
            let did_not_fit = here + head.blocks > self.ring.blocks;
            if head.sequence != self.next.sequence || (at != here && !did_not_fit) {
                continue;
            }
            match self.ring.record(self.blocks, at) {
                Ok((_, entry)) => return Some((at, head.blocks, entry)),
                Err(_) => self.torn_at = Some(at),
            }
        }
        None
    }

    fn take(&mut self, entry: &Entry) -> Result<(), String> {
        if entry.prev != self.position {
            return Err(format!(
                "continues {}, but the record before it leads to {}",
                entry.prev, self.position
            ));
        }
        if entry.step != Step::Rollback {
            self.standing.push(self.journal.len());
            return Ok(());
        }
        let undone = self.standing.pop().map(|index| &self.journal[index].entry);
        if undone.is_some_and(|undone| undone.next == entry.prev && undone.prev == entry.next) {
            return Ok(());
        }
        Err(format!(
            "rolls back to {}, which no record of the journal started from",
            entry.next
        ))
    }
}

/// What lies in the ring beside the records that were followed.
struct Scan {
    later_sequence: Option<u64>,
    /// Where the records after the missing one lead at most.
    newest: Stamp,
    restart_sequence: u64,
    tail: Tail,
    tail_unreadable: Option<u64>,
}

impl Scan {
    fn of(
        ring: &Ring,
        blocks: &Buffer,
        is_written: &[bool],
        walk: &Walk<'_>,
        unreadable: &BTreeSet<u32>,
    ) -> Self {
        let missing = walk.next.sequence;
        let mut highest = missing;
        let mut newest = Stamp::default();
        for at in 0..ring.blocks {
            if is_written[at as usize]
                && header::sequence_unchecked(blocks.block(at as usize)) > missing
                && let Ok(head) = ring.head(blocks, at)
            {
                highest = highest.max(head.sequence);
                newest = newest.max(head.next.stamp);
            }
        }
        let here = walk.next.at;
        let number = |at: u32| ring.first_block + u64::from(at);
        let is_torn = |at: u32| !matches!(ring.block_fault(blocks, at), None | Some(BlockFault::Zero));
        let torn_at = walk.torn_at.or_else(|| is_torn(here).then_some(here));
        Self {
            later_sequence: (highest > missing).then_some(highest),
            newest,
            restart_sequence: restart_after(highest, ring.blocks),
            tail: torn_at.map_or(Tail::Clean, |at| Tail::Torn { block: number(at) }),
            tail_unreadable: unreadable.contains(&here).then(|| number(here)),
        }
    }
}

/// Higher than the sequence of every record that a ring can hold, if `highest` is the highest that is seen there: what cannot be
/// seen was written after it, or after segments that cannot be seen, none of which took more than a lap of the ring.
pub(super) fn restart_after(highest: u64, ring_blocks: u32) -> u64 {
    highest.saturating_add(u64::from(ring_blocks) * u64::from(SEGMENTS_MAX + 2))
}
