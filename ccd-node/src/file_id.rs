//! Which file a name leads to now, and which one a replica has open.

use ccd_disk::RawDevice;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Device and inode: the same for as long as a file is the same one, whatever its names. While a file is open, its number is given to
/// no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    pub inode: u64,
}

impl FileId {
    /// `None`: the name leads nowhere, or cannot be looked at.
    pub fn of(path: &Path) -> Option<Self> {
        Some(Self::by(&fs::metadata(path).ok()?))
    }

    pub fn by(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// The file that a replica has open. Its opener notes it each time; others ask from their threads.
#[derive(Clone, Debug, Default)]
pub struct OpenFile(Arc<Mutex<Option<Noted>>>);

#[derive(Debug)]
struct Noted {
    id: FileId,
    /// Only counted: another hand on it would keep the file locked after it was closed.
    file: Weak<File>,
}

impl OpenFile {
    /// It has just been opened.
    pub fn note(&self, device: &RawDevice) {
        let file = device.file();
        let noted = file.metadata().ok().map(|metadata| Noted {
            id: FileId::by(&metadata),
            file: Arc::downgrade(file),
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = noted;
    }

    /// `None`: it is not open now.
    pub fn id(&self) -> Option<FileId> {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = noted.as_ref().filter(|noted| noted.file.strong_count() > 0)?;
        Some(noted.id)
    }
}
