//! One file of the history: a head that says where it begins, frames, and beside it, once it is full, an index by key (`index.rs`).
//!
//! ```text
//! 0000000007.history   8 "ccdhist1", 16 cluster, 8 epoch, 8 generation, 32 lineage where it begins, 8 checksum; frames
//! ```
//!
//! Always holds: a file is only ever appended to.

use super::frame::{Cut, Frame};
use ccd_core::ids::{ClusterId, Epoch, Generation, Lineage, Position, Stamp};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"ccdhist1";
pub const CHECKSUM_BYTES: usize = 8;
/// Length of a file's head.
pub const HEAD_BYTES: usize = 8 + 16 + 8 + 8 + 32 + CHECKSUM_BYTES;
/// No file of a history is larger, whatever its budget: what a reader must be ready to take into memory.
/// Two of the largest databases that there can be, one replaced by the other, and what surrounds them.
pub const SEGMENT_BYTES_MAX: u64 = 2304 << 20;

pub fn history_path(folder: &Path, serial: u64) -> PathBuf {
    folder.join(format!("{serial:010}.history"))
}

pub fn index_path(folder: &Path, serial: u64) -> PathBuf {
    folder.join(format!("{serial:010}.index"))
}

/// The serial numbers of the files in the folder, ascending.
pub fn serials(folder: &Path) -> io::Result<Vec<u64>> {
    let mut serials = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".history"));
        serials.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    serials.sort_unstable();
    Ok(serials)
}

/// Removes indexes without a file, and those that were not finished when the daemon ended.
pub fn remove_useless_indexes(folder: &Path) -> io::Result<()> {
    let serials = serials(folder)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((number, kind)) = name.to_str().and_then(|name| name.split_once(".index")) else {
            continue;
        };
        let Ok(serial) = number.parse::<u64>() else {
            continue;
        };
        if !kind.is_empty() || serials.binary_search(&serial).is_err() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The head of a file that begins at this position.
pub fn head(cluster: ClusterId, begins: Position) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&cluster.0);
    bytes.extend_from_slice(&begins.stamp.epoch.0.to_le_bytes());
    bytes.extend_from_slice(&begins.stamp.generation.0.to_le_bytes());
    bytes.extend_from_slice(&begins.lineage.0);
    let checksum = checksum(&bytes);
    bytes.extend_from_slice(&checksum);
    bytes
}

pub fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut checksum = [0; CHECKSUM_BYTES];
    checksum.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECKSUM_BYTES]);
    checksum
}

/// Why a file cannot be used at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadFlaw {
    /// Cut off or damaged.
    Damaged,
    /// Another cluster's.
    Foreign,
}

/// Where a file with this content begins.
pub fn begins(bytes: &[u8], cluster: ClusterId) -> Result<Position, HeadFlaw> {
    let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else {
        return Err(HeadFlaw::Damaged);
    };
    let (plain, sum) = head.split_at(HEAD_BYTES - CHECKSUM_BYTES);
    if plain[..8] != MAGIC[..] || checksum(plain) != sum {
        return Err(HeadFlaw::Damaged);
    }
    if plain[8..24] != cluster.0 {
        return Err(HeadFlaw::Foreign);
    }
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&plain[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let mut lineage = [0; 32];
    lineage.copy_from_slice(&plain[40..72]);
    Ok(Position {
        stamp: Stamp {
            epoch: Epoch(number(24)),
            generation: Generation(number(32)),
        },
        lineage: Lineage(lineage),
    })
}

/// Where a file begins, without reading the rest of it.
pub fn read_begins(folder: &Path, serial: u64, cluster: ClusterId) -> io::Result<Result<Position, HeadFlaw>> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES);
    let file = File::open(history_path(folder, serial))?;
    file.take(HEAD_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(begins(&bytes, cluster))
}

/// The whole content of a file.
pub fn read(folder: &Path, serial: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(history_path(folder, serial))?;
    file.take(SEGMENT_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The places of all whole frames from the start on, and what ends them.
pub fn places(bytes: &[u8]) -> (Vec<usize>, Cut<'_>) {
    let mut places = Vec::new();
    let mut at = HEAD_BYTES.min(bytes.len());
    loop {
        match Frame::cut(&bytes[at..]) {
            Cut::Whole(body) => {
                places.push(at);
                at += super::frame::FRAME_HEAD_BYTES + body.len();
            }
            end => return (places, end),
        }
    }
}

/// The frame at a place, if there is a whole one.
pub fn frame_at(bytes: &[u8], at: usize) -> Option<Frame> {
    match Frame::cut(bytes.get(at..)?) {
        Cut::Whole(body) => Frame::decode(body),
        _ => None,
    }
}

/// Gaps belong to every key.
pub fn is_gap(frame: &Frame) -> bool {
    matches!(frame, Frame::Gap { .. })
}
