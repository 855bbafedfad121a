//! Region format, version 2: what every byte of a block means. Pure: bytes in, checked types out, and back.
//!
//! ```text
//! header.rs       the 128 bytes that begin every block: who wrote it, where it belongs, checksum
//! geometry.rs     where things lie: every offset computed from the one before
//! superblock.rs   identity and geometry, at both ends
//! control.rs      heartbeat, ballot, configuration, last words; control/ has the two large ones
//! checkpoint.rs   a whole database image in a slot
//! segment.rs      records packed behind an image
//! journal.rs      one record of the ring
//! ```
//!
//! `docs/format.md` draws it and says why. Nothing here reads or writes a device.
//!
//! Blocks hold what somebody else wrote: lengths, offsets and counts in them are checked where they are read, and nothing here
//! indexes, computes without a bound or unwraps.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

pub mod batch;
pub mod checkpoint;
pub mod control;
pub mod geometry;
pub mod header;
pub mod journal;
pub mod segment;
pub mod superblock;

use ccd_core::ids::{Epoch, Generation, Lineage, Position, Stamp};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A [`Position`] as it is stored.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawPosition {
    epoch: U64,
    generation: U64,
    lineage: [u8; 32],
}

const _: () = assert!(size_of::<RawPosition>() == 48);

impl From<Position> for RawPosition {
    fn from(position: Position) -> Self {
        Self {
            epoch: position.stamp.epoch.0.into(),
            generation: position.stamp.generation.0.into(),
            lineage: position.lineage.0,
        }
    }
}

impl From<RawPosition> for Position {
    fn from(raw: RawPosition) -> Self {
        Self {
            stamp: Stamp {
                epoch: Epoch(raw.epoch.get()),
                generation: Generation(raw.generation.get()),
            },
            lineage: Lineage(raw.lineage),
        }
    }
}
