//! The superblock: who a region belongs to and how it is laid out. Written by mkfs (and by `check --repair`) only.

use super::control::filled;
use super::geometry::{Geometry, GeometryError};
use super::header::{self, BlockFault, HEADER_BYTES, Identity, Kind, RegionId, Tag};
use crate::device::BLOCK_BYTES;
use ccd_core::ids::NodeId;
use ccd_core::time::Date;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Features that a program must know to touch the region at all. None yet.
pub const FEATURES_INCOMPATIBLE_KNOWN: u64 = 0;
/// Features that a program must know to write to the region. None yet.
pub const FEATURES_WRITE_KNOWN: u64 = 0;
/// Longest label (the cluster's name), in bytes.
pub const LABEL_BYTES_MAX: usize = 64;

/// Identity and layout of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub identity: Identity,
    pub geometry: Geometry,
    /// The region on the other device, if mkfs was told.
    pub twin: Option<RegionId>,
    /// The cluster's name, for people and for udev.
    pub label: String,
    /// When mkfs ran, by its clock: for people.
    pub created: Date,
    /// May be ignored by who does not know them.
    pub features_compatible: u64,
}

/// Why a valid block is no superblock that this program can use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    #[error(transparent)]
    Block(#[from] BlockFault),
    #[error("uses features {0:#x} that this program does not know")]
    Features(u64),
    #[error("its geometry is impossible: {0}")]
    Geometry(#[from] GeometryError),
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSuperblock {
    features_compatible: U64,
    features_incompatible: U64,
    features_write: U64,
    blocks: U64,
    areas: U32,
    image_blocks: U32,
    journal_blocks: U32,
    first_node: u8,
    label_len_bytes: u8,
    reserved: [u8; 2],
    /// All zero: not known.
    twin: [u8; 16],
    created_ms: U64,
    label: [u8; LABEL_BYTES_MAX],
}

const _: () = assert!(size_of::<RawSuperblock>() == 136);
const _: () = assert!(std::mem::offset_of!(RawSuperblock, twin) == 48);

impl Superblock {
    /// The block that belongs at `number`: block 0 or the last one.
    pub fn encode(&self, number: u64) -> [u8; BLOCK_BYTES] {
        let label = filled(&self.label);
        let raw = RawSuperblock {
            features_compatible: self.features_compatible.into(),
            features_incompatible: 0.into(),
            features_write: 0.into(),
            blocks: self.geometry.blocks.into(),
            areas: self.geometry.areas.into(),
            image_blocks: self.geometry.image_blocks.into(),
            journal_blocks: self.geometry.journal_blocks.into(),
            first_node: self.geometry.first_node.into(),
            label_len_bytes: self.label.len() as u8,
            reserved: [0; 2],
            twin: self.twin.unwrap_or_default().0,
            created_ms: self.created.0.into(),
            label,
        };
        let mut block = [0; BLOCK_BYTES];
        let payload = raw.as_bytes();
        header::put(&mut block, HEADER_BYTES, payload);
        let tag = Tag {
            kind: Kind::Superblock,
            node: NodeId::FIRST,
            block: number,
            epoch: 0,
            sequence: 1,
            part: 0,
        };
        header::seal(&mut block, &self.identity, tag, payload.len());
        block
    }

    /// Checks a block read from `number`; whose region it is comes out of it.
    pub fn decode(block: &[u8; BLOCK_BYTES], number: u64) -> Result<Self, SuperblockError> {
        let sealed = header::unseal_any(block)?;
        if sealed.tag.kind != Kind::Superblock {
            return Err(BlockFault::Kind.into());
        }
        if sealed.tag.block != number {
            return Err(BlockFault::Misplaced(sealed.tag.block).into());
        }
        let raw = RawSuperblock::read_from_bytes(sealed.payload).map_err(|_| BlockFault::Payload)?;
        let unknown = raw.features_incompatible.get() & !FEATURES_INCOMPATIBLE_KNOWN
            | raw.features_write.get() & !FEATURES_WRITE_KNOWN;
        if unknown != 0 {
            return Err(SuperblockError::Features(unknown));
        }
        let first_node = NodeId::new(raw.first_node).ok_or(BlockFault::Payload)?;
        let geometry = Geometry::new(
            raw.blocks.get(),
            first_node,
            raw.areas.get(),
            raw.image_blocks.get().into(),
            raw.journal_blocks.get().into(),
        )?;
        if number != 0 && number != geometry.last_block() {
            return Err(BlockFault::Misplaced(geometry.last_block()).into());
        }
        let label = raw
            .label
            .get(..raw.label_len_bytes.into())
            .ok_or(BlockFault::Payload)?;
        let label = std::str::from_utf8(label).map_err(|_| BlockFault::Payload)?;
        Ok(Self {
            identity: sealed.identity,
            geometry,
            twin: Some(RegionId(raw.twin)).filter(|twin| *twin != RegionId::default()),
            label: label.to_owned(),
            created: Date(raw.created_ms.get()),
            features_compatible: raw.features_compatible.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ccd_core::ids::{ClusterId, DeviceRole, Replica};

    fn superblock() -> Superblock {
        Superblock {
            identity: Identity {
                cluster: ClusterId([3; 16]),
                region: RegionId([4; 16]),
                replica: Replica::Device(DeviceRole::Primary),
            },
            geometry: Geometry::new(5000, NodeId::new(0).unwrap(), 2, 17, 16).unwrap(),
            twin: Some(RegionId([5; 16])),
            label: "prod".into(),
            created: Date(1_700_000_000_000),
            features_compatible: 1,
        }
    }

    #[test]
    fn both_copies_decode_to_what_was_encoded_and_only_in_their_place() {
        let superblock = superblock();
        for number in [0, 4999] {
            assert_eq!(
                Superblock::decode(&superblock.encode(number), number),
                Ok(superblock.clone())
            );
        }
        let wrong = Superblock::decode(&superblock.encode(0), 4999);
        assert_eq!(wrong, Err(SuperblockError::Block(BlockFault::Misplaced(0))));
        let wrong = Superblock::decode(&superblock.encode(7), 7);
        assert_eq!(wrong, Err(SuperblockError::Block(BlockFault::Misplaced(4999))));
    }

    #[test]
    fn an_unknown_incompatible_feature_is_refused() {
        let superblock = superblock();
        let mut block = superblock.encode(0);
        block[HEADER_BYTES + 8] = 2;
        let node = NodeId::new(0).unwrap();
        let tag = Tag {
            kind: Kind::Superblock,
            node,
            block: 0,
            epoch: 0,
            sequence: 1,
            part: 0,
        };
        header::seal(&mut block, &superblock.identity, tag, size_of::<RawSuperblock>());
        assert_eq!(Superblock::decode(&block, 0), Err(SuperblockError::Features(2)));
    }
}
