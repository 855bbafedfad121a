//! Which file a name leads to now.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Device and inode: the same for as long as a file is the same one, whatever its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    pub inode: u64,
}

impl FileId {
    /// `None`: the name leads nowhere, or cannot be looked at.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}
