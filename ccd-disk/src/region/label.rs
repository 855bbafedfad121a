//! Reads the two superblocks of a device and decides which of them to believe.

use super::handle::Handle;
use super::recognise::{Content, recognise_marks};
use crate::device::BLOCK_BYTES;
use crate::error::RegionError;
use crate::format::geometry::END_BLOCKS;
use crate::format::header::{BlockFault, FORMAT_VERSION};
use crate::format::superblock::{Superblock, SuperblockError};

/// What the two superblocks say.
#[derive(Clone, Debug)]
pub struct Label {
    pub superblock: Superblock,
    /// What is wrong with one of them although the region can be used; `check --repair` heals it.
    pub notes: Vec<String>,
    /// Block numbers of the copies to write anew.
    pub repair: Vec<u64>,
}

impl Label {
    /// Reads both ends of the device.
    pub fn read(handle: &mut Handle) -> Result<Self, RegionError> {
        let device = handle.name();
        let len_blocks = handle.len_blocks();
        if len_blocks == 0 {
            let fault = || SuperblockError::Block(BlockFault::Zero);
            return Err(RegionError::NoRegion {
                device,
                held: String::new(),
                first: fault(),
                last: fault(),
            });
        }
        let first = read_copy(handle, 0)?;
        // A device that grew since mkfs has its second superblock where the first says, not at its end.
        let last_at = match &first {
            Ok(superblock) => superblock.geometry.last_block(),
            Err(_) => len_blocks - 1,
        };
        if last_at >= len_blocks {
            let block = BLOCK_BYTES as u64;
            return Err(RegionError::Shrunk {
                device,
                recorded_bytes: (last_at + 1) * block,
                got_bytes: len_blocks * block,
            });
        }
        let last = read_copy(handle, last_at)?;
        let note = |which: &str, fault: &SuperblockError| {
            format!(
                "the {which} superblock of {device} is unusable ({fault}); `ccd-disk check --repair` rewrites it"
            )
        };
        match (first, last) {
            (Ok(first), Ok(last)) if first == last => Ok(Self {
                superblock: first,
                notes: Vec::new(),
                repair: Vec::new(),
            }),
            (Ok(first), Ok(_)) => {
                let text = format!("the two superblocks of {device} differ; the first is used");
                Ok(Self {
                    superblock: first,
                    notes: vec![text],
                    repair: vec![last_at],
                })
            }
            (Ok(first), Err(fault)) => Ok(Self {
                superblock: first,
                notes: vec![note("last", &fault)],
                repair: vec![last_at],
            }),
            (Err(fault), Ok(last)) => Ok(Self {
                superblock: last,
                notes: vec![note("first", &fault)],
                repair: vec![0],
            }),
            (Err(what), Err(_)) if is_too_new(&what) => Err(RegionError::TooNew { device, what }),
            (Err(_), Err(what)) if is_too_new(&what) => Err(RegionError::TooNew { device, what }),
            (Err(what), Err(_)) if is_too_old(&what) => Err(RegionError::TooOld { device, what }),
            (Err(_), Err(what)) if is_too_old(&what) => Err(RegionError::TooOld { device, what }),
            (Err(first), Err(last)) => Err(RegionError::NoRegion {
                held: held_instead(handle),
                device,
                first,
                last,
            }),
        }
    }
}

/// What the device holds in place of a region, as far as its first and last MiB tell.
fn held_instead(handle: &mut Handle) -> String {
    let count = handle.len_blocks().min(END_BLOCKS);
    let last = handle.len_blocks() - count;
    let mut read = |block| handle.read(block, usize::try_from(count).unwrap_or_default());
    let (Ok(start), Ok(end)) = (read(0), read(last)) else {
        return String::new();
    };
    match recognise_marks(&start, &end) {
        Content::Known(what) => format!(", it holds {what}"),
        Content::Nothing | Content::Unknown | Content::Region { .. } => String::new(),
    }
}

fn is_too_new(what: &SuperblockError) -> bool {
    match what {
        SuperblockError::Features(_) => true,
        SuperblockError::Block(BlockFault::Version(version)) => *version > FORMAT_VERSION,
        _ => false,
    }
}

fn is_too_old(what: &SuperblockError) -> bool {
    matches!(what, SuperblockError::Block(BlockFault::Version(version)) if *version < FORMAT_VERSION)
}

/// An unreadable block counts as a bad copy as long as the other one is good.
fn read_copy(handle: &mut Handle, number: u64) -> Result<Result<Superblock, SuperblockError>, RegionError> {
    match handle.read(number, 1) {
        Ok(block) => Ok(Superblock::decode(block.block(0), number)),
        Err(failed) if number == 0 && handle.read(handle.len_blocks() - 1, 1).is_err() => Err(failed),
        Err(_) => Ok(Err(SuperblockError::Block(BlockFault::Unreadable))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Blocks, MemoryDevice};

    #[test]
    fn what_took_the_place_of_a_region_is_named() {
        let device = MemoryDevice::new("memory", 4 << 20);
        let mut block = vec![0; BLOCK_BYTES];
        block[0x438..0x43a].copy_from_slice(&[0x53, 0xef]);
        device.open().write_at(0, &block).expect("it is memory");
        let error = Label::read(&mut Handle::new(Box::new(device.open()))).expect_err("it is no region");
        assert!(
            error
                .to_string()
                .contains("is no region, it holds ext2/3/4: its first block"),
            "{error}"
        );
        let nothing = MemoryDevice::new("memory", 4 << 20);
        let error = Label::read(&mut Handle::new(Box::new(nothing.open()))).expect_err("it is no region");
        assert!(
            error.to_string().contains("is no region: its first block"),
            "{error}"
        );
    }
}
