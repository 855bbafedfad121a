//! A lock that one process at a time holds under a name: the daemon's on its state folder and its run folder, and that of
//! `ccdadm edit-init` on the init database.
//!
//! It is an `flock`, and whoever can open a file for reading can take one on it. So the file is its owner's alone: a lock on a
//! folder, or on a file that others may read, could be held by any user for as long as they like.
//!
//! Always holds: when [`LockFile::take`] returns, the name leads to the file that is locked. Root can remove that file later, so a
//! process that runs for long asks again with [`LockFile::is_in_place`].

use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Permissions of a lock file.
const MODE: u32 = 0o600;

/// Times in a row that the file may be removed between opening and locking it.
const TRIES_MAX: u32 = 16;

/// Held until it is dropped; the file stays.
#[derive(Debug)]
pub struct LockFile {
    file: File,
    path: PathBuf,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has the file locked.
    #[error("another process holds the lock {}", path.display())]
    Held { path: PathBuf },
    #[error("cannot lock {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl LockFile {
    /// Makes the file if there is none, and locks it without waiting.
    ///
    /// # Errors
    /// [`LockError::Held`] while another process has it; [`LockError::Io`] if it cannot be made, or is no regular file.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io {
            path: path.to_owned(),
            source,
        };
        for _ in 0..TRIES_MAX {
            let file = open(path).map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(LockError::Held {
                        path: path.to_owned(),
                    });
                }
                Err(TryLockError::Error(source)) => return Err(failed(source)),
            }
            let lock = Self {
                file,
                path: path.to_owned(),
            };
            if lock.is_in_place() {
                return Ok(lock);
            }
            // Its holder has removed it: the file that has the name now is the lock.
        }
        Err(failed(io::Error::other("it is removed again and again")))
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the name still leads to the locked file. Otherwise another process can take the lock under this name.
    pub fn is_in_place(&self) -> bool {
        let (held, named) = (self.file.metadata(), fs::symlink_metadata(&self.path));
        held.is_ok_and(|held| named.is_ok_and(|named| id(&held) == id(&named)))
    }

    /// Removes the file and gives the lock up: nothing is left behind.
    pub fn remove(self) {
        if self.is_in_place() {
            // A lock file that stays is no lock.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(MODE)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file; remove it",
        ));
    }
    if metadata.mode() & 0o777 & !MODE != 0 {
        file.set_permissions(Permissions::from_mode(MODE))?;
    }
    Ok(file)
}

fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn one_process_at_a_time_holds_a_lock_file_that_only_its_owner_can_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        // One that an earlier version made may be open to others.
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let lock = LockFile::take(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert!(matches!(LockFile::take(&path), Err(LockError::Held { .. })));
        drop(lock);
        let lock = LockFile::take(&path).unwrap();
        lock.remove();
        assert!(!path.exists());
        drop(LockFile::take(&path).unwrap());
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn a_lock_whose_file_was_removed_or_replaced_is_known_not_to_hold() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = LockFile::take(&path).unwrap();
        assert!(first.is_in_place());
        fs::remove_file(&path).unwrap();
        assert!(!first.is_in_place());
        let second = LockFile::take(&path).unwrap();
        assert!(second.is_in_place() && !first.is_in_place());
        // It is the second one's now.
        first.remove();
        assert!(second.is_in_place());
    }

    #[test]
    fn a_lock_is_never_taken_through_a_link_or_on_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, "").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        for path in [&link, &folder.path().to_owned()] {
            assert!(matches!(LockFile::take(path), Err(LockError::Io { .. })));
        }
    }
}
