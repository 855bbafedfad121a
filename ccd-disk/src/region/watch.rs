//! Looks at a region that somebody else has open, some blocks at a time: what another program wrote there is known before a restart
//! reads it. `look.rs` has what counts as damage.

use super::handle::Handle;
use super::label::Label;
use super::look::Looks;
use crate::device::{Access, RawDevice};
use crate::error::RegionError;
use crate::format::superblock::Superblock;
use std::path::Path;

/// A region that is only looked at.
#[derive(Debug)]
pub struct RegionWatch {
    handle: Handle,
    superblock: Superblock,
    looks: Looks,
}

impl RegionWatch {
    /// # Errors
    /// When it cannot be opened, or neither superblock is one; said of a local copy, which `ccd-disk mkfs` does not make.
    pub fn open(path: &Path) -> Result<Self, RegionError> {
        let device = RawDevice::open(path, Access::ReadOnly)
            .map_err(|error| RegionError::io("open", path.display().to_string(), error))?;
        let mut handle = Handle::new(Box::new(device));
        let label = Label::read(&mut handle).map_err(RegionError::of_local_copy)?;
        Ok(Self {
            looks: Looks::new(&label),
            superblock: label.superblock,
            handle,
        })
    }

    /// Looks where the name leads, at the size, at one superblock and at one block, and returns what is wrong and will not pass.
    ///
    /// # Errors
    /// When it is not the region any more that was opened; said of a local copy.
    pub fn look(&mut self) -> Result<Option<String>, RegionError> {
        let looked = self.looks.look(&mut self.handle, &self.superblock);
        looked.map_err(RegionError::of_local_copy)?;
        let damage = self.looks.damage();
        Ok(damage
            .filter(|damage| damage.is_overwritten || damage.is_lasting)
            .map(|damage| damage.text))
    }

    /// Looks at one block more: one read, or two if a bad block has its turn as well. The next [`look`](Self::look) says what was
    /// found.
    pub fn look_at_block(&mut self) {
        self.looks.look_at_block(&mut self.handle, &self.superblock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{BLOCK_BYTES, Blocks};
    use crate::region::{MkfsOptions, create_in_file};
    use ccd_core::ids::{ClusterId, NodeId, RegionId};
    use std::io;
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn region(folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(name);
        let node = NodeId::new(0).unwrap();
        let options = MkfsOptions::local(ClusterId([7; 16]), RegionId([9; 16]), node).tiny();
        let len_bytes = options.len_bytes().unwrap();
        create_in_file(&path, len_bytes, &options, &mut |_, _| {}).unwrap();
        path
    }

    #[test]
    fn what_another_program_writes_into_a_region_is_found_while_it_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| region(folder.path(), name);
        let look = |watch: &mut RegionWatch, blocks| {
            for _ in 0..blocks {
                watch.look_at_block();
            }
            watch.look()
        };
        let path = make("sound");
        let mut watch = RegionWatch::open(&path).unwrap();
        assert_eq!(look(&mut watch, 100).unwrap(), None);
        let blocks = std::fs::metadata(&path).unwrap().len() / BLOCK_BYTES as u64;
        for (at, expected) in [(0, "its first superblock is gone"), (blocks / 2, "block")] {
            let path = make(&format!("at-{at}"));
            let mut watch = RegionWatch::open(&path).unwrap();
            assert_eq!(look(&mut watch, 3).unwrap(), None);
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[0x5A; 4 * BLOCK_BYTES], at * BLOCK_BYTES as u64)
                .unwrap();
            let found = (0..4).find_map(|_| look(&mut watch, 1_000).unwrap());
            let found = found.unwrap_or_else(|| panic!("nothing at {at}"));
            assert!(found.contains(expected), "{found}");
        }
        let path = make("cleared");
        let mut watch = RegionWatch::open(&path).unwrap();
        let len_bytes = std::fs::metadata(&path).unwrap().len();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(0).and_then(|()| file.set_len(len_bytes)).unwrap();
        let error = (0..4).find_map(|_| look(&mut watch, 4).err());
        let errors = [error, RegionWatch::open(&path).err()];
        for error in errors {
            // A local copy is made by the daemon: mkfs would be no advice.
            let text = error.expect("both superblocks are gone").to_string();
            assert!(!text.contains("mkfs"), "{text}");
        }
    }

    /// Blocks that are read, counted below the handle.
    #[derive(Debug)]
    struct Counted(RawDevice, Arc<AtomicUsize>);

    impl Blocks for Counted {
        fn len_bytes(&self) -> u64 {
            self.0.len_bytes()
        }
        fn read_at(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
            self.1.fetch_add(into.len() / BLOCK_BYTES, Ordering::Relaxed);
            self.0.read_at(offset, into)
        }
        fn write_at(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
            unreachable!("a region that is looked at is not written")
        }
        fn write_unflushed_at(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
            unreachable!("a region that is looked at is not written")
        }
        fn zero_at(&mut self, _: u64, _: u64) -> io::Result<()> {
            unreachable!("a region that is looked at is not written")
        }
        fn flush(&mut self) -> io::Result<()> {
            unreachable!("a region that is looked at is not written")
        }
        fn name(&self) -> String {
            self.0.name()
        }
    }

    #[test]
    fn a_block_that_is_looked_at_costs_one_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = region(folder.path(), "sound");
        let reads = Arc::new(AtomicUsize::new(0));
        let device = RawDevice::open(&path, Access::ReadOnly).unwrap();
        let mut handle = Handle::new(Box::new(Counted(device, reads.clone())));
        let label = Label::read(&mut handle).unwrap();
        let mut watch = RegionWatch {
            looks: Looks::new(&label),
            superblock: label.superblock,
            handle,
        };
        reads.store(0, Ordering::Relaxed);
        watch.look().unwrap();
        assert_eq!(reads.swap(0, Ordering::Relaxed), 2, "a superblock and a block");
        for _ in 0..63 {
            watch.look_at_block();
        }
        assert_eq!(reads.load(Ordering::Relaxed), 63);
    }
}
