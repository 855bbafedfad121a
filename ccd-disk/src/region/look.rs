//! Looks at parts of a region in use that nothing else reads: its superblocks, its size, where its name leads, and blocks that are
//! read only after a restart. Damage is known so while the copies elsewhere are still whole.
//!
//! A look belongs to a survey, which a lease may wait for: so it reads two or three blocks, and the next one goes on from there.
//!
//! A block that a power cut left half-written is no finding: such a block begins with zeros or with a header. A block that begins
//! otherwise, or belongs to another region or place, was written by another program, or is corrupted.

use super::handle::Handle;
use super::label::Label;
use super::survey::AreaControl;
use crate::device::{Access, BLOCK_BYTES, Place, RawDevice, is_zero};
use crate::error::RegionError;
use crate::format::geometry::{CONTROL_BLOCKS, CONTROL_KINDS, Geometry, Slot};
use crate::format::header::{self, BlockFault};
use crate::format::superblock::Superblock;
use ccd_core::ids::NodeId;
use ccd_core::replica::RegionDamage;
use std::ops::Range;
use std::path::Path;

/// Surveys from one look to the next; a device in use is surveyed at each heartbeat.
const SURVEYS_BETWEEN: u32 = 4;

/// Looks that must find the same before it counts: something may be at work on the device, and udev takes names away for moments.
const LOOKS_TO_BELIEVE: u32 = 3;

/// Bad blocks that are remembered, and looked at again in turn.
const BAD_MAX: usize = 8;

/// How many are read at once where all are.
const BLOCKS_AT_ONCE: usize = 256;

/// What is said of a block that the device does not give.
pub const UNREADABLE: &str = "cannot be read";

/// A disk of the smallest sector size writes so many bytes whole.
const SECTOR_BYTES: usize = 512;

/// What the looks at one region have shown.
#[derive(Debug)]
pub struct Looks {
    /// Since the last look.
    surveys: u32,
    /// Counts the superblocks that were looked at.
    superblock_turn: u64,
    /// Counts the blocks that were looked at.
    turn: u64,
    bad: Vec<Bad>,
    /// What is wrong with the first and the last superblock.
    superblocks: [Option<Fault>; 2],
    /// Looks in a row that found something that another program may have written.
    overwritten: u32,
    /// Looks in a row in which the name led nowhere, and why.
    nowhere: (u32, String),
    /// Looks in a row in which the name led to a device that holds something else.
    elsewhere: u32,
}

/// What is wrong with a superblock.
#[derive(Debug)]
struct Fault {
    text: String,
    is_unreadable: bool,
}

#[derive(Debug)]
struct Bad {
    block: u64,
    part: Part,
    what: &'static str,
}

/// A part of an area, which is read as a whole at a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    node: NodeId,
    name: &'static str,
    blocks: Range<u64>,
}

impl Looks {
    /// Of a region that has just been opened, with what its label has shown.
    pub fn new(label: &Label) -> Self {
        let fault = |which, number: u64| {
            label.repair.contains(&number).then(|| Fault {
                text: format!("its {which} superblock is gone"),
                is_unreadable: false,
            })
        };
        let last = label.superblock.geometry.last_block();
        Self {
            surveys: 0,
            superblock_turn: 0,
            turn: 0,
            bad: Vec::new(),
            superblocks: [fault("first", 0), fault("last", last)],
            overwritten: 0,
            nowhere: (0, String::new()),
            elsewhere: 0,
        }
    }

    /// A survey is being made; every fourth one looks.
    ///
    /// # Errors
    /// The region is not the one that was opened any more: both superblocks are gone or another region's, the device is shorter than
    /// the region, or its name leads to another disk. Or neither superblock can be read.
    pub fn on_survey(&mut self, handle: &mut Handle, superblock: &Superblock) -> Result<(), RegionError> {
        self.surveys += 1;
        if self.surveys >= SURVEYS_BETWEEN {
            self.surveys = 0;
            self.look(handle, superblock)?;
        }
        Ok(())
    }

    /// Looks where the name leads, at the size, at one superblock and at one block.
    ///
    /// # Errors
    /// As [`on_survey`](Self::on_survey).
    pub fn look(&mut self, handle: &mut Handle, superblock: &Superblock) -> Result<(), RegionError> {
        self.look_at_place(handle, superblock)?;
        let needed_bytes = superblock.geometry.blocks * BLOCK_BYTES as u64;
        let got_bytes = handle.len_bytes_now()?;
        if got_bytes < needed_bytes {
            return Err(RegionError::Shrunk {
                device: handle.name(),
                recorded_bytes: needed_bytes,
                got_bytes,
            });
        }
        self.look_at_superblock(handle, superblock)?;
        self.look_at_block(handle, superblock);
        self.overwritten = if self.finds_overwritten() {
            self.overwritten.saturating_add(1)
        } else {
            0
        };
        Ok(())
    }

    /// Looks at the next block, and every second time again at one that was found bad.
    pub fn look_at_block(&mut self, handle: &mut Handle, superblock: &Superblock) {
        let again = self.turn / 2;
        if self.turn.is_multiple_of(2)
            && let Some(count) = (self.bad.len() as u64).checked_sub(1).map(|last| last + 1)
        {
            self.look_again(handle, superblock, (again % count) as usize);
        }
        let parts = parts(&superblock.geometry);
        if let Some((part, block)) = next(&parts, self.turn)
            && self.bad.len() < BAD_MAX
            && self.bad.iter().all(|bad| bad.block != block)
            && let Some(what) = fault(handle, superblock, block)
        {
            let part = part.clone();
            self.bad.push(Bad { block, part, what });
        }
        self.turn += 1;
    }

    /// Another number under the name may be another way to the same disk.
    fn look_at_place(&mut self, handle: &mut Handle, superblock: &Superblock) -> Result<(), RegionError> {
        let why = match handle.look_at_place()? {
            Place::Here => {
                self.nowhere.0 = 0;
                self.elsewhere = 0;
                return Ok(());
            }
            Place::Nowhere(error) => format!("its name leads nowhere ({error})"),
            Place::OtherFile => return Err(leads_to_another_disk(handle)),
            Place::OtherNumber => match superblock_at(Path::new(&handle.name())) {
                Ok((found, mut named)) if found.identity == superblock.identity => {
                    self.nowhere.0 = 0;
                    let differs = differs(handle, &mut named, superblock)?;
                    self.elsewhere = if differs {
                        self.elsewhere.saturating_add(1)
                    } else {
                        0
                    };
                    return if self.elsewhere >= LOOKS_TO_BELIEVE {
                        Err(leads_to_another_disk(handle))
                    } else {
                        Ok(())
                    };
                }
                Ok(_) | Err(RegionError::NoRegion { .. }) => return Err(leads_to_another_disk(handle)),
                Err(error) => format!("its name leads to another device, which cannot be read ({error})"),
            },
        };
        self.nowhere = (self.nowhere.0.saturating_add(1), why);
        Ok(())
    }

    /// The control blocks of an area have been read, as each survey does.
    pub fn note_control(&mut self, handle: &mut Handle, superblock: &Superblock, area: &AreaControl) {
        let first = superblock.geometry.control(area.node);
        for (block, _) in &area.faults {
            let kind = CONTROL_KINDS
                .iter()
                .find(|(_, indexes)| indexes.contains(&(block - first)));
            let Some((name, _)) = kind else { continue };
            let is_known = self.bad.iter().any(|bad| bad.block == *block);
            if is_known || self.bad.len() >= BAD_MAX {
                continue;
            }
            // It may just have been written.
            if let Some(what) = fault(handle, superblock, *block) {
                let part = Part {
                    node: area.node,
                    name,
                    blocks: first..first + CONTROL_BLOCKS,
                };
                self.bad.push(Bad {
                    block: *block,
                    part,
                    what,
                });
            }
        }
    }

    /// One of the two in turn.
    fn look_at_superblock(&mut self, handle: &mut Handle, known: &Superblock) -> Result<(), RegionError> {
        let is_last = self.superblock_turn % 2 == 1;
        self.superblock_turn += 1;
        let (which, number) = if is_last {
            ("last", known.geometry.last_block())
        } else {
            ("first", 0)
        };
        let found = match handle.read(number, 1) {
            Ok(block) => match Superblock::decode(block.block(0), number) {
                Ok(found) if found == *known => None,
                Ok(_) => Some((format!("its {which} superblock is another region's"), None)),
                Err(fault) => Some((format!("its {which} superblock is gone ({fault})"), None)),
            },
            Err(error) => Some((format!("its {which} superblock cannot be read"), Some(error))),
        };
        let other = self.superblocks[usize::from(!is_last)].as_ref();
        if let (Some((text, _)), Some(other)) = (&found, other) {
            let what = format!("{}, {text}", other.text);
            return Err(match (found.and_then(|(_, error)| error), other.is_unreadable) {
                (Some(error), true) => error,
                _ => RegionError::Overwritten {
                    device: handle.name(),
                    what,
                },
            });
        }
        self.superblocks[usize::from(is_last)] = found.map(|(text, error)| Fault {
            text,
            is_unreadable: error.is_some(),
        });
        Ok(())
    }

    fn look_again(&mut self, handle: &mut Handle, superblock: &Superblock, index: usize) {
        match fault(handle, superblock, self.bad[index].block) {
            Some(what) => self.bad[index].what = what,
            None => {
                self.bad.remove(index);
            }
        }
    }

    fn finds_overwritten(&self) -> bool {
        let is_gone = |fault: &Fault| !fault.is_unreadable;
        self.superblocks.iter().flatten().any(is_gone) || self.bad.iter().any(|bad| bad.what != UNREADABLE)
    }

    /// What is wrong with the region although it can be used; `None`: nothing that was seen.
    pub fn damage(&self) -> Option<RegionDamage> {
        let (nowhere, why) = &self.nowhere;
        let place = Some(why).filter(|_| *nowhere >= LOOKS_TO_BELIEVE);
        let superblocks = self.superblocks.iter().flatten().map(|fault| &fault.text);
        let mut found: Vec<String> = place.into_iter().chain(superblocks).cloned().collect();
        if let Some(bad) = self.bad.first() {
            let others = match self.bad.len() {
                1 => String::new(),
                2 => "; and another one".to_owned(),
                BAD_MAX => "; and others".to_owned(),
                count => format!("; and {} others", count - 1),
            };
            let Part { node, name, .. } = &bad.part;
            found.push(format!(
                "block {} ({name} of node {node}) {}{others}",
                bad.block, bad.what
            ));
        }
        (!found.is_empty()).then(|| RegionDamage {
            text: found.join("; "),
            is_overwritten: self.overwritten >= LOOKS_TO_BELIEVE,
            is_lasting: self.bad.iter().any(|bad| bad.what != UNREADABLE),
        })
    }
}

fn leads_to_another_disk(handle: &Handle) -> RegionError {
    RegionError::Overwritten {
        device: handle.name(),
        what: "its name leads to another disk than the one that was opened".to_owned(),
    }
}

/// Another way to the same disk shows what this one does; a copy of the disk lacks the heartbeats that are written to it. What stood
/// still meanwhile is compared.
fn differs(here: &mut Handle, named: &mut Handle, superblock: &Superblock) -> Result<bool, RegionError> {
    let geometry = &superblock.geometry;
    let (first, count) = (geometry.control_all(), geometry.control_all_blocks() as usize);
    let before = here.read(first, count)?;
    // A way that cannot be read says nothing.
    let Ok(there) = named.read(first, count) else {
        return Ok(false);
    };
    let after = here.read(first, count)?;
    Ok((0..count).any(|index| {
        let (before, there, after) = (before.block(index), there.block(index), after.block(index));
        before == after && before != there
    }))
}

/// The superblock that a name leads to now, and the way there.
fn superblock_at(path: &Path) -> Result<(Superblock, Handle), RegionError> {
    let name = path.display().to_string();
    let device = RawDevice::open(path, Access::ReadOnly);
    let device = device.map_err(|error| RegionError::io("open", name, error))?;
    let mut handle = Handle::new(Box::new(device));
    let label = Label::read(&mut handle)?;
    Ok((label.superblock, handle))
}

/// Everything but superblocks and control blocks, which each survey reads.
fn parts(geometry: &Geometry) -> Vec<Part> {
    let mut parts = Vec::new();
    for node in geometry.nodes() {
        let (a, b) = (geometry.slot(node, Slot::A), geometry.slot(node, Slot::B));
        let journal = geometry.journal(node);
        let end = journal + u64::from(geometry.journal_blocks);
        for (name, blocks) in [
            ("checkpoint", a..b),
            ("checkpoint", b..journal),
            ("journal", journal..end),
        ] {
            parts.push(Part { node, name, blocks });
        }
    }
    parts
}

/// The block of this turn: of one part after the other, and within a part far from those of the turns before, so that a stretch of
/// it is met about as soon as its share of the part says.
fn next(parts: &[Part], turn: u64) -> Option<(&Part, u64)> {
    /// 2^64 divided by the golden ratio: the multiples of that ratio are spread evenly, however many they are.
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    let count = parts.len() as u64;
    let part = parts.get(usize::try_from(turn.checked_rem(count)?).ok()?)?;
    let share = (turn / count).wrapping_mul(GOLDEN);
    let len = part.blocks.end - part.blocks.start;
    let at = (u128::from(share) * u128::from(len)) >> 64;
    Some((part, part.blocks.start + at as u64))
}

/// What is wrong in one part of an area.
#[derive(Debug)]
pub struct Strange {
    pub node: NodeId,
    /// What the part is.
    pub name: &'static str,
    pub what: &'static str,
    /// The first block that is so, and how many are.
    pub first: u64,
    pub count: u64,
}

/// Looks at every block of every part: for a region that nobody uses, since it reads all of it.
pub fn find_all(handle: &mut Handle, superblock: &Superblock) -> Vec<Strange> {
    let mut all: Vec<Strange> = Vec::new();
    for part in parts(&superblock.geometry) {
        let begin = all.len();
        for first in part.blocks.clone().step_by(BLOCKS_AT_ONCE) {
            let count = BLOCKS_AT_ONCE.min((part.blocks.end - first) as usize);
            let read = handle.read(first, count).ok();
            for (index, number) in (first..part.blocks.end).take(count).enumerate() {
                let found = match &read {
                    Some(buffer) => fault_of(buffer.block(index), superblock, number),
                    None => fault(handle, superblock, number),
                };
                let Some(what) = found else { continue };
                match all[begin..].iter_mut().find(|strange| strange.what == what) {
                    Some(strange) => strange.count += 1,
                    None => all.push(Strange {
                        node: part.node,
                        name: part.name,
                        what,
                        first: number,
                        count: 1,
                    }),
                }
            }
        }
    }
    all
}

/// What shows that somebody else wrote this block, or that it cannot be read.
fn fault(handle: &mut Handle, superblock: &Superblock, number: u64) -> Option<&'static str> {
    match handle.read(number, 1) {
        Ok(buffer) => fault_of(buffer.block(0), superblock, number),
        Err(_) => Some(UNREADABLE),
    }
}

fn fault_of(block: &[u8; BLOCK_BYTES], superblock: &Superblock, number: u64) -> Option<&'static str> {
    match header::unseal(block, &superblock.identity, number) {
        Err(BlockFault::NoMagic) if !is_zero(&block[..SECTOR_BYTES]) => Some("holds what ccd did not write"),
        Err(BlockFault::Foreign) => Some("holds a block of another region"),
        Err(BlockFault::Misplaced(_)) => Some("holds a block of another place"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Blocks;
    use crate::region::{MkfsOptions, create_in_file};
    use ccd_core::ids::{ClusterId, DeviceRole, RegionId, Replica};
    use std::io;
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;

    /// A file whose name leads to another device number.
    #[derive(Debug)]
    struct Renumbered(RawDevice);

    impl Blocks for Renumbered {
        fn len_bytes(&self) -> u64 {
            self.0.len_bytes()
        }
        fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
            self.0.read_at(offset, into)
        }
        fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.write_at(offset, data)
        }
        fn write_unflushed_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.write_unflushed_at(offset, data)
        }
        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
        fn look_at_place(&mut self) -> io::Result<Place> {
            Ok(Place::OtherNumber)
        }
        fn name(&self) -> String {
            self.0.name()
        }
    }

    fn shared(folder: &Path) -> PathBuf {
        let path = folder.join("primary");
        let role = Replica::Device(DeviceRole::Primary);
        let options = MkfsOptions::device(ClusterId([7; 16]), RegionId([9; 16]), role, 2).tiny();
        let len_bytes = options.len_bytes().unwrap();
        create_in_file(&path, len_bytes, &options, &mut |_, _| {}).unwrap();
        path
    }

    #[test]
    fn a_name_that_leads_to_a_copy_of_the_disk_is_told_from_another_way_to_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = shared(folder.path());
        let device = RawDevice::open(&path, Access::ReadOnly).unwrap();
        let mut handle = Handle::new(Box::new(Renumbered(device)));
        let label = Label::read(&mut handle).unwrap();
        let superblock = label.superblock.clone();
        let mut looks = Looks::new(&label);
        let beat = |to: &Path, turn: u8| {
            let file = std::fs::OpenOptions::new().write(true).open(to).unwrap();
            let at = superblock.geometry.control_all() * BLOCK_BYTES as u64;
            file.write_all_at(&[turn; BLOCK_BYTES], at).unwrap();
        };
        // Another way: what is written to the one is there on the other.
        for turn in 1..10 {
            beat(&path, turn);
            looks.look(&mut handle, &superblock).unwrap();
        }
        // The name leads to a copy, and the disk is written to.
        let (disk, copy) = (folder.path().join("disk"), folder.path().join("copy"));
        std::fs::copy(&path, &copy).unwrap();
        std::fs::rename(&path, &disk).unwrap();
        std::fs::rename(&copy, &path).unwrap();
        looks.look(&mut handle, &superblock).unwrap();
        beat(&disk, 99);
        let found: Vec<bool> = (0..3)
            .map(|_| looks.look(&mut handle, &superblock).is_ok())
            .collect();
        assert_eq!(found, [true, true, false]);
    }

    #[test]
    fn every_part_has_its_turn_and_a_stretch_is_met_soon() {
        let geometry = Geometry::new(60_000, NodeId::FIRST, 2, 8192, 2048).unwrap();
        let parts = parts(&geometry);
        assert_eq!(parts.len(), 6);
        assert!(
            parts
                .windows(2)
                .all(|two| two[0].blocks.end == two[1].blocks.start)
        );
        let begin = geometry.control_all() + geometry.control_all_blocks();
        assert_eq!(parts[0].blocks.start, begin);
        // A twentieth of a part, wherever it is, is met within fifty turns of that part: a minute and a half at a look a second and
        // eight blocks a look.
        for part in &parts {
            let len = part.blocks.end - part.blocks.start;
            let of_part = |turn| next(&parts, turn).filter(|(found, _)| *found == part);
            let mut met: Vec<u64> = (0..300).filter_map(of_part).map(|(_, block)| block).collect();
            met.extend([part.blocks.start, part.blocks.end]);
            met.sort_unstable();
            assert_eq!(met.len(), 52);
            let widest = met.windows(2).map(|two| two[1] - two[0]).max();
            assert!(
                widest.is_some_and(|widest| widest <= len / 20),
                "{widest:?} of {len}"
            );
        }
        assert_eq!(next(&[], 7), None);
    }
}
