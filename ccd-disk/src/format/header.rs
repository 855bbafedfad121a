//! The header that begins every block, and the checksum that ends doubt about it.
//!
//! A block names its cluster, region, device, area and own number, so that a torn, stale, misdirected or foreign block
//! is told from a good one by looking at it alone. Payload follows the header; the rest of the block is zero.

use crate::device::{BLOCK_BYTES, is_zero};
pub use ccd_core::ids::RegionId;
use ccd_core::ids::{ClusterId, DeviceRole, NodeId, Replica};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a block that the header takes.
pub const HEADER_BYTES: usize = 128;
/// Bytes of a block that are left for the payload.
pub const PAYLOAD_BYTES: usize = BLOCK_BYTES - HEADER_BYTES;
/// The only version that this program reads and writes. A change that another program would misread raises it.
pub const FORMAT_VERSION: u16 = 3;

const MAGIC: [u8; 8] = *b"ccdblk\r\n";
const CHECKSUM_BYTES: usize = 16;

/// What is the same in every block of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub region: RegionId,
    pub replica: Replica,
}

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    Superblock = 1,
    Heartbeat = 2,
    Ballot = 3,
    Configuration = 4,
    LastWords = 5,
    CheckpointHead = 6,
    CheckpointRetired = 7,
    Image = 8,
    Journal = 9,
    JournalPart = 10,
    Segment = 11,
    SegmentPart = 12,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::Superblock,
        Self::Heartbeat,
        Self::Ballot,
        Self::Configuration,
        Self::LastWords,
        Self::CheckpointHead,
        Self::CheckpointRetired,
        Self::Image,
        Self::Journal,
        Self::JournalPart,
        Self::Segment,
        Self::SegmentPart,
    ];

    fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == number)
    }
}

/// What differs from block to block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    pub kind: Kind,
    /// The node whose area the block lies in; 0 for superblocks.
    pub node: NodeId,
    /// The block's own number on the device.
    pub block: u64,
    /// Of what the block holds: for people and for choosing the newest.
    pub epoch: u64,
    /// Counts up within what the block belongs to.
    pub sequence: u64,
    /// Index of the block within what spans several; 0 otherwise.
    pub part: u32,
}

/// The header as stored: little-endian, no padding.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: [u8; 8],
    /// Of header and payload without this field.
    checksum: [u8; CHECKSUM_BYTES],
    kind: U16,
    version: U16,
    /// 0 local copy, 1 primary, 2 secondary.
    replica: u8,
    node: u8,
    reserved: [u8; 2],
    part: U32,
    payload_len_bytes: U32,
    cluster: [u8; 16],
    region: [u8; 16],
    block: U64,
    epoch: U64,
    sequence: U64,
    reserved_end: [u8; 32],
}

const CHECKSUM_AT: usize = std::mem::offset_of!(RawHeader, checksum);
const AFTER_CHECKSUM: usize = CHECKSUM_AT + CHECKSUM_BYTES;
const _: () = assert!(size_of::<RawHeader>() == HEADER_BYTES);
const _: () = assert!(CHECKSUM_AT == 8 && AFTER_CHECKSUM == 24);
const _: () = assert!(std::mem::offset_of!(RawHeader, cluster) == 40);
const _: () = assert!(std::mem::offset_of!(RawHeader, block) == 72);

/// Why a block is not what was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockFault {
    /// Never written since mkfs.
    #[error("zero")]
    Zero,
    #[error("no block of ccd (no magic)")]
    NoMagic,
    #[error("checksum does not match")]
    Checksum,
    #[error("bytes after the payload, or unused fields, are not zero")]
    Padding,
    #[error("format version {0}, this program knows {FORMAT_VERSION}")]
    Version(u16),
    #[error("a block of another region")]
    Foreign,
    #[error("belongs at block {0}")]
    Misplaced(u64),
    #[error("a block of another kind")]
    Kind,
    #[error("cannot be read")]
    Unreadable,
    #[error("payload does not decode")]
    Payload,
}

/// The 16 bytes that identify a sealed block's content.
pub type Checksum = [u8; CHECKSUM_BYTES];

/// Completes a block: the payload is already in place at [`HEADER_BYTES`], everything after it zero.
pub fn seal(
    block: &mut [u8; BLOCK_BYTES],
    identity: &Identity,
    tag: Tag,
    payload_len_bytes: usize,
) -> Checksum {
    assert!(payload_len_bytes <= PAYLOAD_BYTES, "payload of one block");
    let mut header = RawHeader {
        magic: MAGIC,
        checksum: [0; CHECKSUM_BYTES],
        kind: (tag.kind as u16).into(),
        version: FORMAT_VERSION.into(),
        replica: replica_number(identity.replica),
        node: tag.node.into(),
        reserved: [0; 2],
        part: tag.part.into(),
        payload_len_bytes: (payload_len_bytes as u32).into(),
        cluster: identity.cluster.0,
        region: identity.region.0,
        block: tag.block.into(),
        epoch: tag.epoch.into(),
        sequence: tag.sequence.into(),
        reserved_end: [0; 32],
    };
    put(block, 0, header.as_bytes());
    header.checksum = checksum(header.kind.get(), block, payload_len_bytes);
    put(block, CHECKSUM_AT, &header.checksum);
    header.checksum
}

/// Copies bytes into a block that is written.
///
/// # Panics
/// When the block ends before them: nothing may be written of which a part is missing.
pub(super) fn put(block: &mut [u8; BLOCK_BYTES], at: usize, bytes: &[u8]) {
    match block.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len())) {
        Some(place) => place.copy_from_slice(bytes),
        None => panic!("a block has no room for {} bytes from byte {at} on", bytes.len()),
    }
}

/// The payload of a block, and what follows it.
fn payload_and_rest(block: &[u8; BLOCK_BYTES], payload_len_bytes: usize) -> Option<(&[u8], &[u8])> {
    let (_, after) = block.split_at_checked(HEADER_BYTES)?;
    after.split_at_checked(payload_len_bytes)
}

/// A block whose checksum, identity and place are right.
#[derive(Clone, Copy, Debug)]
pub struct Sealed<'a> {
    pub tag: Tag,
    pub identity: Identity,
    pub checksum: Checksum,
    pub payload: &'a [u8],
}

/// Checks a block that is to be block `number` of the region `identity`.
pub fn unseal<'a>(
    block: &'a [u8; BLOCK_BYTES],
    identity: &Identity,
    number: u64,
) -> Result<Sealed<'a>, BlockFault> {
    unseal_known(block, identity, number, false)
}

/// The same; `is_sound`: these very bytes have been unsealed before, so their checksum is right.
pub fn unseal_known<'a>(
    block: &'a [u8; BLOCK_BYTES],
    identity: &Identity,
    number: u64,
    is_sound: bool,
) -> Result<Sealed<'a>, BlockFault> {
    let sealed = unseal_header(block, is_sound)?;
    if sealed.identity != *identity {
        return Err(BlockFault::Foreign);
    }
    if sealed.tag.block != number {
        return Err(BlockFault::Misplaced(sealed.tag.block));
    }
    Ok(sealed)
}

/// Checks a block of whatever region and place.
pub fn unseal_any(block: &[u8; BLOCK_BYTES]) -> Result<Sealed<'_>, BlockFault> {
    unseal_header(block, false)
}

fn unseal_header(block: &[u8; BLOCK_BYTES], is_sound: bool) -> Result<Sealed<'_>, BlockFault> {
    let (header, _) = RawHeader::read_from_prefix(block).map_err(|_| BlockFault::Payload)?;
    if header.magic != MAGIC {
        return Err(if is_zero(block) {
            BlockFault::Zero
        } else {
            BlockFault::NoMagic
        });
    }
    let payload_len_bytes = header.payload_len_bytes.get() as usize;
    let (payload, rest) = payload_and_rest(block, payload_len_bytes).ok_or(BlockFault::Checksum)?;
    if !is_sound && checksum(header.kind.get(), block, payload_len_bytes) != header.checksum {
        return Err(BlockFault::Checksum);
    }
    if header.version.get() != FORMAT_VERSION {
        return Err(BlockFault::Version(header.version.get()));
    }
    if !is_sound && (!is_zero(rest) || !is_zero(&header.reserved) || !is_zero(&header.reserved_end)) {
        return Err(BlockFault::Padding);
    }
    let kind = Kind::from_number(header.kind.get()).ok_or(BlockFault::Kind)?;
    let replica = replica_from_number(header.replica).ok_or(BlockFault::Foreign)?;
    let node = NodeId::new(header.node).ok_or(BlockFault::Foreign)?;
    Ok(Sealed {
        tag: Tag {
            kind,
            node,
            block: header.block.get(),
            epoch: header.epoch.get(),
            sequence: header.sequence.get(),
            part: header.part.get(),
        },
        identity: Identity {
            cluster: ClusterId(header.cluster),
            region: RegionId(header.region),
            replica,
        },
        checksum: header.checksum,
        payload,
    })
}

/// The sequence number in a block's header, unchecked: tells cheaply which blocks are worth a checksum.
pub fn sequence_unchecked(block: &[u8; BLOCK_BYTES]) -> u64 {
    match RawHeader::read_from_prefix(block) {
        Ok((header, _)) if header.magic == MAGIC => header.sequence.get(),
        _ => 0,
    }
}

/// The first 16 bytes of a BLAKE3. Of a block of an image the CRC32C and zeros: there are thousands of them, whoever joins or starts
/// again waits for each, and the image has a BLAKE3 of its own that is looked at before it counts.
fn checksum(kind: u16, block: &[u8; BLOCK_BYTES], payload_len_bytes: usize) -> Checksum {
    let (before, rest) = block.split_at(CHECKSUM_AT);
    let (_, after) = rest.split_at(CHECKSUM_BYTES);
    let after_bytes = payload_len_bytes.saturating_add(HEADER_BYTES - AFTER_CHECKSUM);
    let after = after.get(..after_bytes).unwrap_or(after);
    if kind == Kind::Image as u16 {
        let [a, b, c, d] = crc32c::crc32c_append(crc32c::crc32c(before), after).to_le_bytes();
        return [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    }
    if after.len() <= blake3::CHUNK_LEN - CHECKSUM_AT {
        shortened(hashed_together::<{ blake3::CHUNK_LEN }>(before, after))
    } else {
        shortened(hashed_together::<{ BLOCK_BYTES - CHECKSUM_BYTES }>(before, after))
    }
}

/// The hash of both, put together in `N` bytes first: hashed whole, a block's four parts are hashed side by side, and one behind the
/// other if it comes in two.
fn hashed_together<const N: usize>(before: &[u8], after: &[u8]) -> blake3::Hash {
    let mut whole = [0; N];
    let len_bytes = before.len().saturating_add(after.len());
    let parts = whole
        .get_mut(..len_bytes)
        .and_then(|whole| whole.split_at_mut_checked(before.len()));
    match parts {
        Some((whole_before, whole_after)) => {
            whole_before.copy_from_slice(before);
            whole_after.copy_from_slice(after);
        }
        None => panic!("{len_bytes} bytes do not fit into {N}"),
    }
    blake3::hash(whole.get(..len_bytes).unwrap_or(&whole))
}

/// The first half of a digest.
pub(super) fn shortened(digest: blake3::Hash) -> Checksum {
    let mut checksum = [0; CHECKSUM_BYTES];
    let (half, _) = digest.as_bytes().split_at(CHECKSUM_BYTES);
    checksum.copy_from_slice(half);
    checksum
}

fn replica_number(replica: Replica) -> u8 {
    match replica {
        Replica::Local => 0,
        Replica::Device(DeviceRole::Primary) => 1,
        Replica::Device(DeviceRole::Secondary) => 2,
    }
}

fn replica_from_number(number: u8) -> Option<Replica> {
    match number {
        0 => Some(Replica::Local),
        1 => Some(Replica::Device(DeviceRole::Primary)),
        2 => Some(Replica::Device(DeviceRole::Secondary)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn identity() -> Identity {
        Identity {
            cluster: ClusterId([7; 16]),
            region: RegionId([9; 16]),
            replica: Replica::Device(DeviceRole::Secondary),
        }
    }

    fn sealed(payload: &[u8], tag: Tag) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        block[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(payload);
        seal(&mut block, &identity(), tag, payload.len());
        block
    }

    proptest! {
        #[test]
        fn a_sealed_block_opens_to_what_was_sealed(
            payload in proptest::collection::vec(any::<u8>(), 0..=PAYLOAD_BYTES),
            node in 0u8..32, number: u64, epoch: u64, sequence: u64, part: u32,
        ) {
            let tag = Tag {
                kind: Kind::Journal, node: NodeId::new(node).unwrap(), block: number, epoch, sequence, part,
            };
            let block = sealed(&payload, tag);
            let opened = unseal(&block, &identity(), number).unwrap();
            prop_assert_eq!(opened.tag, tag);
            prop_assert_eq!(opened.payload, &payload[..]);
            prop_assert_eq!(sequence_unchecked(&block), sequence);
        }

        #[test]
        fn any_changed_byte_is_noticed(
            payload in proptest::collection::vec(any::<u8>(), 0..600),
            at in 0..BLOCK_BYTES, change in 1u8.., is_image: bool,
        ) {
            let tag = Tag {
                kind: if is_image { Kind::Image } else { Kind::Ballot }, node: NodeId::new(3).unwrap(), block: 17, epoch: 4, sequence: 5, part: 0,
            };
            let mut block = sealed(&payload, tag);
            block[at] ^= change;
            prop_assert!(unseal(&block, &identity(), 17).is_err());
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), BLOCK_BYTES)) {
            let block: [u8; BLOCK_BYTES] = bytes.try_into().unwrap();
            prop_assert!(unseal(&block, &identity(), 0).is_err());
        }
    }

    #[test]
    fn foreign_and_misplaced_blocks_are_told_apart() {
        let tag = Tag {
            kind: Kind::Image,
            node: NodeId::new(0).unwrap(),
            block: 300,
            epoch: 1,
            sequence: 2,
            part: 3,
        };
        let block = sealed(b"x", tag);
        assert_eq!(
            unseal(&block, &identity(), 301).unwrap_err(),
            BlockFault::Misplaced(300)
        );
        let other = Identity {
            region: RegionId([1; 16]),
            ..identity()
        };
        assert_eq!(unseal(&block, &other, 300).unwrap_err(), BlockFault::Foreign);
        assert_eq!(
            unseal(&[0; BLOCK_BYTES], &other, 300).unwrap_err(),
            BlockFault::Zero
        );
    }
}
