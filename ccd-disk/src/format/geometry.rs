//! Where things lie on a region: every offset is computed from the one before.
//!
//! ```text
//! block 0                superblock; the rest of the first MiB stays free
//! block 256              control blocks: 16 for each area, all areas one after the other
//!                          0,1 heartbeat   2,3 ballot   4..12 configuration ring   12,13 last words   14 scratch   15 spare
//! after them             for each area: checkpoint slot A, slot B (a head, image blocks, segment blocks each), journal ring
//! the last MiB           free but for the superblock in the region's last block
//! ```

use super::header::PAYLOAD_BYTES;
use crate::device::BLOCK_BYTES;
use ccd_core::ids::{NODES_MAX, NodeId};
use std::ops::Range;

/// Blocks at both ends that hold nothing but the superblock: 1 MiB.
pub const END_BLOCKS: u64 = (1 << 20) / BLOCK_BYTES as u64;
/// Control blocks of one area.
pub const CONTROL_BLOCKS: u64 = 16;
/// Index of the first heartbeat block among an area's control blocks.
pub const HEARTBEAT_AT: u64 = 0;
pub const HEARTBEAT_BLOCKS: u64 = 2;
pub const BALLOT_AT: u64 = HEARTBEAT_AT + HEARTBEAT_BLOCKS;
pub const BALLOT_BLOCKS: u64 = 2;
pub const CONFIGURATION_AT: u64 = BALLOT_AT + BALLOT_BLOCKS;
pub const CONFIGURATION_BLOCKS: u64 = 8;
pub const LAST_WORDS_AT: u64 = CONFIGURATION_AT + CONFIGURATION_BLOCKS;
pub const LAST_WORDS_BLOCKS: u64 = 2;
/// Always zero: written over with zeros to see whether writes are taken.
pub const SCRATCH_AT: u64 = LAST_WORDS_AT + LAST_WORDS_BLOCKS;
const _: () = assert!(SCRATCH_AT < CONTROL_BLOCKS - 1);
const _: () = assert!(LAST_WORDS_AT + LAST_WORDS_BLOCKS <= CONTROL_BLOCKS);

/// The kinds of control blocks, as people call them, and their indexes in an area.
pub const CONTROL_KINDS: [(&str, Range<u64>); 4] = [
    ("heartbeat", HEARTBEAT_AT..HEARTBEAT_AT + HEARTBEAT_BLOCKS),
    ("ballot", BALLOT_AT..BALLOT_AT + BALLOT_BLOCKS),
    (
        "configuration",
        CONFIGURATION_AT..CONFIGURATION_AT + CONFIGURATION_BLOCKS,
    ),
    ("last words", LAST_WORDS_AT..LAST_WORDS_AT + LAST_WORDS_BLOCKS),
];

/// The smallest ring that can hold two records and the gap at its end.
pub const JOURNAL_BLOCKS_MIN: u32 = 8;
/// The largest ring: 1 GiB. Bounds what recovery allocates.
pub const JOURNAL_BLOCKS_MAX: u32 = 1 << 18;
/// The largest image slot: about 4 GiB. Bounds what recovery allocates.
pub const IMAGE_BLOCKS_MAX: u32 = 1 << 20;

/// Room for a database image unless mkfs is told otherwise.
pub const IMAGE_BYTES_DEFAULT: u64 = 32 << 20;
/// Room for the journal unless mkfs is told otherwise.
pub const JOURNAL_BYTES_DEFAULT: u64 = 8 << 20;

/// One of an area's two checkpoint slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    A,
    B,
}

impl Slot {
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// Why a geometry cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    #[error(
        "a region has areas for 1 to {NODES_MAX} nodes, not for nodes {first_node} to {first_node} + {areas}"
    )]
    Areas { first_node: u8, areas: u32 },
    #[error("a journal of {blocks} blocks is not between {JOURNAL_BLOCKS_MIN} and {JOURNAL_BLOCKS_MAX}")]
    Journal { blocks: u64 },
    #[error("room for an image of {blocks} blocks is not between 1 and {IMAGE_BLOCKS_MAX}")]
    Image { blocks: u64 },
    #[error("needs {needed_bytes} bytes, the device has {len_bytes}")]
    TooSmall { needed_bytes: u64, len_bytes: u64 },
}

/// The layout of a region; a value of this type lies within its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size of the region, superblocks included.
    pub blocks: u64,
    /// The node of the first area: 0 on a shared region, the owner of a local copy.
    pub first_node: NodeId,
    pub areas: u32,
    /// Image blocks of one slot, its head not counted.
    pub image_blocks: u32,
    /// Blocks of the ring, and of the room for segments behind the image blocks of each slot.
    pub journal_blocks: u32,
}

impl Geometry {
    /// Checks a geometry, as read from a superblock or asked for by mkfs.
    pub fn new(
        blocks: u64,
        first_node: NodeId,
        areas: u32,
        image_blocks: u64,
        journal_blocks: u64,
    ) -> Result<Self, GeometryError> {
        if areas == 0 || u64::from(areas) > NODES_MAX.saturating_sub(first_node.index()) as u64 {
            return Err(GeometryError::Areas {
                first_node: first_node.into(),
                areas,
            });
        }
        let journal = u32::try_from(journal_blocks)
            .ok()
            .filter(|blocks| (JOURNAL_BLOCKS_MIN..=JOURNAL_BLOCKS_MAX).contains(blocks))
            .ok_or(GeometryError::Journal {
                blocks: journal_blocks,
            })?;
        let image = u32::try_from(image_blocks)
            .ok()
            .filter(|blocks| (1..=IMAGE_BLOCKS_MAX).contains(blocks))
            .ok_or(GeometryError::Image { blocks: image_blocks })?;
        let geometry = Self {
            blocks,
            first_node,
            areas,
            image_blocks: image,
            journal_blocks: journal,
        };
        let needed = geometry.blocks_needed();
        if needed > blocks {
            let block = BLOCK_BYTES as u64;
            return Err(GeometryError::TooSmall {
                needed_bytes: needed.saturating_mul(block),
                len_bytes: blocks.saturating_mul(block),
            });
        }
        Ok(geometry)
    }

    /// The image blocks that an image of up to this many bytes takes.
    pub fn image_blocks_for(image_bytes_max: u64) -> u64 {
        image_bytes_max.div_ceil(PAYLOAD_BYTES as u64)
    }

    /// The blocks of a device that this layout needs.
    pub fn blocks_needed(&self) -> u64 {
        self.area_data(u64::from(self.areas)).saturating_add(END_BLOCKS)
    }

    /// Where the second superblock lies; the first is block 0.
    pub fn last_block(&self) -> u64 {
        self.blocks.saturating_sub(1)
    }

    /// The nodes that have an area.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        let first = self.first_node.index();
        NodeId::all().skip(first).take(self.areas as usize)
    }

    pub fn has_area(&self, node: NodeId) -> bool {
        self.nodes().any(|other| other == node)
    }

    /// The first of the control blocks of all areas.
    pub fn control_all(&self) -> u64 {
        END_BLOCKS
    }

    pub fn control_all_blocks(&self) -> u64 {
        u64::from(self.areas).saturating_mul(CONTROL_BLOCKS)
    }

    /// The first control block of a node's area.
    pub fn control(&self, node: NodeId) -> u64 {
        END_BLOCKS.saturating_add(self.area_index(node).saturating_mul(CONTROL_BLOCKS))
    }

    /// The head of a checkpoint slot; the image blocks follow it, and the room for segments follows them.
    pub fn slot(&self, node: NodeId, slot: Slot) -> u64 {
        let start = self.area_data(self.area_index(node));
        match slot {
            Slot::A => start,
            Slot::B => start.saturating_add(self.slot_blocks()),
        }
    }

    /// The first block of the room for a slot's segments. It is as large as the journal: whatever half a journal holds fits
    /// there once at least, behind an image of any size.
    pub fn segments(&self, node: NodeId, slot: Slot) -> u64 {
        (self.slot(node, slot).saturating_add(1)).saturating_add(self.image_blocks.into())
    }

    pub fn segment_blocks(&self) -> u32 {
        self.journal_blocks
    }

    /// The first block of a node's journal ring.
    pub fn journal(&self, node: NodeId) -> u64 {
        (self.area_data(self.area_index(node))).saturating_add(self.slot_blocks().saturating_mul(2))
    }

    /// The largest image that fits a slot.
    pub fn image_bytes_max(&self) -> u64 {
        u64::from(self.image_blocks).saturating_mul(PAYLOAD_BYTES as u64)
    }

    fn slot_blocks(&self) -> u64 {
        (u64::from(self.image_blocks).saturating_add(1)).saturating_add(self.segment_blocks().into())
    }

    fn area_data(&self, index: u64) -> u64 {
        let stride = (self.slot_blocks().saturating_mul(2)).saturating_add(self.journal_blocks.into());
        (self.control_all().saturating_add(self.control_all_blocks()))
            .saturating_add(index.saturating_mul(stride))
    }

    fn area_index(&self, node: NodeId) -> u64 {
        assert!(self.has_area(node), "node {node} has no area here");
        node.index().saturating_sub(self.first_node.index()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::new(number).unwrap()
    }

    #[test]
    fn areas_follow_one_another_without_overlap_and_end_before_the_last_mib() {
        let geometry = Geometry::new(100_000, node(0), 3, 20, 16).unwrap();
        let mut ends: Vec<_> = std::iter::once(0..END_BLOCKS).collect();
        ends.extend(
            geometry
                .nodes()
                .map(|n| geometry.control(n)..geometry.control(n) + CONTROL_BLOCKS),
        );
        for n in geometry.nodes() {
            for slot in Slot::ALL {
                ends.push(geometry.slot(n, slot)..geometry.slot(n, slot) + 21);
                ends.push(geometry.segments(n, slot)..geometry.segments(n, slot) + 16);
            }
            ends.push(geometry.journal(n)..geometry.journal(n) + 16);
        }
        for pair in ends.windows(2) {
            assert_eq!(pair[0].end, pair[1].start);
        }
        assert_eq!(geometry.blocks_needed(), ends.last().unwrap().end + END_BLOCKS);
        assert!(Geometry::new(geometry.blocks_needed(), node(0), 3, 20, 16).is_ok());
        let small = Geometry::new(geometry.blocks_needed() - 1, node(0), 3, 20, 16);
        assert!(matches!(small, Err(GeometryError::TooSmall { .. })));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(matches!(
            Geometry::new(9999, node(0), 0, 20, 16),
            Err(GeometryError::Areas { .. })
        ));
        assert!(matches!(
            Geometry::new(9999, node(31), 2, 20, 16),
            Err(GeometryError::Areas { .. })
        ));
        assert!(matches!(
            Geometry::new(9999, node(0), 1, 0, 16),
            Err(GeometryError::Image { .. })
        ));
        assert!(matches!(
            Geometry::new(9999, node(0), 1, u64::MAX, 16),
            Err(GeometryError::Image { .. })
        ));
        assert!(matches!(
            Geometry::new(9999, node(0), 1, 1, 7),
            Err(GeometryError::Journal { .. })
        ));
        let local = Geometry::new(9999, node(5), 1, 20, 16).unwrap();
        assert!(local.has_area(node(5)) && !local.has_area(node(4)));
    }
}
