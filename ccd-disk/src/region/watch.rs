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
    /// When it cannot be opened, or neither superblock is one.
    pub fn open(path: &Path) -> Result<Self, RegionError> {
        let device = RawDevice::open(path, Access::ReadOnly)
            .map_err(|error| RegionError::io("open", path.display().to_string(), error))?;
        let mut handle = Handle::new(Box::new(device));
        let label = Label::read(&mut handle)?;
        Ok(Self {
            looks: Looks::new(&label),
            superblock: label.superblock,
            handle,
        })
    }

    /// Looks at both superblocks and so many blocks more, and returns what is wrong and will not pass.
    ///
    /// # Errors
    /// When it is not the region any more that was opened.
    pub fn look(&mut self, blocks: u32) -> Result<Option<String>, RegionError> {
        for _ in 0..blocks {
            self.looks.look(&mut self.handle, &self.superblock)?;
        }
        let damage = self.looks.damage();
        Ok(damage
            .filter(|damage| damage.is_overwritten || damage.is_lasting)
            .map(|damage| damage.text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::BLOCK_BYTES;
    use crate::region::{MkfsOptions, create_in_file};
    use ccd_core::ids::{ClusterId, NodeId, RegionId};
    use std::os::unix::fs::FileExt;

    #[test]
    fn what_another_program_writes_into_a_region_is_found_while_it_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let node = NodeId::new(0).unwrap();
        let make = |name: &str| {
            let path = folder.path().join(name);
            let options = MkfsOptions::local(ClusterId([7; 16]), RegionId([9; 16]), node).tiny();
            let len_bytes = options.len_bytes().unwrap();
            create_in_file(&path, len_bytes, &options, &mut |_, _| {}).unwrap();
            path
        };
        let all = 4_000;
        let path = make("sound");
        assert_eq!(RegionWatch::open(&path).unwrap().look(100).unwrap(), None);
        let blocks = std::fs::metadata(&path).unwrap().len() / BLOCK_BYTES as u64;
        for (at, expected) in [(0, "its first superblock is gone"), (blocks / 2, "block")] {
            let path = make(&format!("at-{at}"));
            let mut watch = RegionWatch::open(&path).unwrap();
            assert_eq!(watch.look(3).unwrap(), None);
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[0x5A; 4 * BLOCK_BYTES], at * BLOCK_BYTES as u64)
                .unwrap();
            let found = watch
                .look(all)
                .unwrap()
                .unwrap_or_else(|| panic!("nothing at {at}"));
            assert!(found.contains(expected), "{found}");
        }
        let path = make("cleared");
        let mut watch = RegionWatch::open(&path).unwrap();
        let len_bytes = std::fs::metadata(&path).unwrap().len();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(0).and_then(|()| file.set_len(len_bytes)).unwrap();
        assert!(watch.look(4).is_err());
    }
}
